"""Every provider file is whole, and apply files say all that is wrong with them at once."""

from typing import Any

import pytest

from posthouse.model.endpoint import Endpoint, parse_endpoint
from posthouse.model.sizes import parse_size
from posthouse.oauth.endpoints import endpoints_of
from posthouse.problems import ProblemError
from posthouse.providers.applied import from_apply
from posthouse.providers.provider import PROTOCOLS, Provider, built_in, keeps_token, scopes_for, user_name
from posthouse.providers.urls import why_unusable

ALL = sorted(built_in().values(), key=lambda provider: provider.name)
WITH_OAUTH = [provider for provider in ALL if provider.has_oauth]


def named(provider: Provider) -> str:
    return provider.name


def test_the_known_providers_are_there() -> None:
    microsoft = {"microsoft", "microsoft-gcc-high", "microsoft-dod", "microsoft-21vianet", "outlook"}
    others = {"google", "yahoo", "aol", "fastmail", "mailru", "yandex", "icloud"}
    assert set(built_in()) == microsoft | others


@pytest.mark.parametrize("provider", ALL, ids=named)
def test_every_provider_sends_and_receives(provider: Provider) -> None:
    assert provider.title
    assert provider.smtp is not None
    assert provider.imap is not None
    assert all(server.tls != "plain" for name in PROTOCOLS if (server := provider.endpoint(name)))


@pytest.mark.parametrize("provider", WITH_OAUTH, ids=named)
def test_every_sign_in_is_encrypted_and_whole(provider: Provider) -> None:
    endpoints = endpoints_of(provider)
    urls = [value for name in endpoints.__slots__ if name.endswith("_url") and (value := getattr(endpoints, name))]
    assert endpoints.authorize_url in urls
    assert all(url.startswith("https://") and not why_unusable(url) and "{" not in url for url in urls)


@pytest.mark.parametrize("provider", WITH_OAUTH, ids=named)
def test_every_protocol_with_a_server_has_scopes(provider: Provider) -> None:
    for name in PROTOCOLS:
        if provider.endpoint(name):
            assert getattr(provider.delegated, name), name


def test_what_a_microsoft_sign_in_asks_for() -> None:
    assert scopes_for(built_in()["microsoft"], ["smtp", "imap"]) == (
        "https://outlook.office.com/SMTP.Send",
        "https://outlook.office.com/IMAP.AccessAsUser.All",
        "offline_access",
        "openid",
        "profile",
        "email",
    )
    assert scopes_for(built_in()["microsoft"], ["smtp", "imap"], app_only=True) == (
        "https://outlook.office365.com/.default",
    )


def test_a_scope_is_asked_for_once() -> None:
    assert scopes_for(built_in()["google"], PROTOCOLS).count("https://mail.google.com/") == 1


def test_identity_is_asked_for_where_it_is_offered() -> None:
    fastmail = built_in()["fastmail"]
    assert "openid" not in scopes_for(fastmail, ["smtp"])
    assert scopes_for(fastmail, ["smtp"], offered=["email", "openid", "phone"])[-2:] == ("openid", "email")


@pytest.mark.parametrize(
    ("provider", "protocol", "app_only", "expected"),
    [
        ("microsoft", "imap", False, "support@example.com"),
        ("microsoft", "smtp", False, "alice@example.com"),
        ("microsoft", "smtp", True, "support@example.com"),
        ("google", "imap", False, "alice@example.com"),
        ("google", "smtp", True, "support@example.com"),
    ],
)
def test_who_logs_in_at_a_shared_mailbox(provider: str, protocol: Any, app_only: bool, expected: str) -> None:
    names = {"account": "alice@example.com", "mailbox": "support@example.com"}
    assert user_name(built_in()[provider], protocol, app_only=app_only, **names) == expected


def test_the_limits_that_pacing_depends_on() -> None:
    microsoft, google = built_in()["microsoft"].limits, built_in()["google"].limits
    assert (microsoft.connections, microsoft.messages_per_minute, microsoft.recipients_per_day) == (3, 30, 10000)
    assert (google.imap_connections, google.recipients_per_message) == (15, 100)
    assert built_in()["microsoft"].lifetimes.idle_refresh_token_days == 90


FACTS: dict[str, dict[str, Any]] = {
    "microsoft": {
        "sign_in": "login.microsoftonline.com",
        "servers": (
            "smtp.office365.com:587 starttls",
            "outlook.office365.com:993 tls",
            "outlook.office365.com:995 tls",
        ),
        "scopes": "https://outlook.office.com/",
        "app_only": "https://outlook.office365.com/.default",
    },
    "microsoft-gcc-high": {
        "sign_in": "login.microsoftonline.us",
        "servers": (
            "outlook.office365.us:587 starttls",
            "outlook.office365.us:993 tls",
            "outlook.office365.us:995 tls",
        ),
        "scopes": "https://outlook.office365.us/",
        "app_only": "https://outlook.office365.us/.default",
    },
    "microsoft-dod": {
        "sign_in": "login.microsoftonline.us",
        "servers": (
            "outlook-dod.office365.us:587 starttls",
            "outlook-dod.office365.us:993 tls",
            "outlook-dod.office365.us:995 tls",
        ),
        "scopes": "https://outlook.office365.us/",
        "app_only": "https://outlook.office365.us/.default",
    },
    "microsoft-21vianet": {
        "sign_in": "login.partner.microsoftonline.cn",
        "servers": ("smtp.partner.outlook.cn:587 starttls", "partner.outlook.cn:993 tls", "partner.outlook.cn:995 tls"),
        "scopes": "https://partner.outlook.cn/",
        "app_only": "https://partner.outlook.cn/.default",
    },
    "outlook": {
        "sign_in": "login.microsoftonline.com",
        "servers": (
            "smtp-mail.outlook.com:587 starttls",
            "outlook.office365.com:993 tls",
            "outlook.office365.com:995 tls",
        ),
        "scopes": "https://outlook.office.com/",
        "app_only": "",
    },
}
"""Of Microsoft's clouds: authority, servers, resource of a person's scopes, scope of the app itself."""
OTHERS = {
    "google": ("smtp.gmail.com:587 starttls", "imap.gmail.com:993 tls", "pop.gmail.com:995 tls"),
    "yahoo": ("smtp.mail.yahoo.com:465 tls", "imap.mail.yahoo.com:993 tls", "pop.mail.yahoo.com:995 tls"),
    "aol": ("smtp.aol.com:465 tls", "imap.aol.com:993 tls", "pop.aol.com:995 tls"),
    "fastmail": ("smtp.fastmail.com:465 tls", "imap.fastmail.com:993 tls", "pop.fastmail.com:995 tls"),
    "icloud": ("smtp.mail.me.com:587 starttls", "imap.mail.me.com:993 tls", "None"),
    "mailru": ("smtp.mail.ru:465 tls", "imap.mail.ru:993 tls", "None"),
    "yandex": ("smtp.yandex.com:465 tls", "imap.yandex.com:993 tls", "None"),
}


def servers(name: str) -> tuple[str, ...]:
    return tuple(str(built_in()[name].endpoint(protocol)) for protocol in PROTOCOLS)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_every_cloud_of_microsoft(name: str) -> None:
    provider, facts = built_in()[name], FACTS[name]
    endpoints = endpoints_of(provider, "example.com")
    begin = f"https://{facts['sign_in']}/example.com"
    assert endpoints.authorize_url == f"{begin}/oauth2/v2.0/authorize"
    assert endpoints.token_url == f"{begin}/oauth2/v2.0/token"
    assert endpoints.device_url == f"{begin}/oauth2/v2.0/devicecode"
    assert endpoints.jwks_url == f"{begin}/discovery/v2.0/keys"
    assert endpoints.revoke_url == ""
    assert servers(name) == facts["servers"]
    named = ("SMTP.Send", "IMAP.AccessAsUser.All", "POP.AccessAsUser.All")
    assert scopes_for(provider, PROTOCOLS)[:3] == tuple(f"{facts['scopes']}{scope}" for scope in named)
    assert " ".join(scopes_for(provider, PROTOCOLS, app_only=True)) == facts["app_only"]
    assert scopes_for(provider, ["smtp"])[1:] == ("offline_access", "openid", "profile", "email")
    assert provider.scope_in_refresh
    assert (provider.rotation, provider.mechanisms) == ("rotates", ("XOAUTH2",))
    assert provider.lifetimes.idle_refresh_token_days == 90
    assert provider.client_methods == ("none", "post", "private_key_jwt")


@pytest.mark.parametrize("name", sorted(set(FACTS) - {"outlook"}))
def test_exchange_online_limits_and_user_names_in_every_cloud(name: str) -> None:
    provider = built_in()[name]
    limits = provider.limits
    assert (limits.connections, limits.messages_per_minute, limits.recipients_per_day) == (3, 30, 10000)
    assert (limits.recipients_per_message, limits.size) == (500, 150 * 1024 * 1024)
    assert (provider.user_names.smtp, provider.user_names.imap, provider.user_names.pop3) == (
        "account",
        "mailbox",
        "mailbox",
    )
    assert provider.tenant == "organizations"


def test_outlook_com_is_for_personal_accounts_and_logs_in_as_the_account() -> None:
    outlook = built_in()["outlook"]
    assert outlook.tenant == "consumers"
    assert {outlook.user_names.smtp, outlook.user_names.imap, outlook.user_names.pop3} == {"account"}
    assert outlook.limits.recipients_per_day == 300


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_servers_of_the_others(name: str) -> None:
    assert servers(name) == OTHERS[name]


@pytest.mark.parametrize(
    ("name", "smtp", "imap", "pop3"),
    [
        ("google", "https://mail.google.com/", "https://mail.google.com/", "https://mail.google.com/"),
        ("yahoo", "mail-w", "mail-w", "mail-w"),
        ("aol", "mail-w", "mail-w", "mail-w"),
        (
            "fastmail",
            "https://www.fastmail.com/dev/protocol-smtp",
            "https://www.fastmail.com/dev/protocol-imap",
            "https://www.fastmail.com/dev/protocol-pop",
        ),
        ("mailru", "mail.imap", "mail.imap", ""),
        ("yandex", "mail:smtp", "mail:imap_full", ""),
    ],
)
def test_scopes_of_the_others(name: str, smtp: str, imap: str, pop3: str) -> None:
    delegated = built_in()[name].delegated
    assert (" ".join(delegated.smtp), " ".join(delegated.imap), " ".join(delegated.pop3)) == (smtp, imap, pop3)


@pytest.mark.parametrize(
    ("name", "authorize", "token"),
    [
        ("google", "https://accounts.google.com/o/oauth2/v2/auth", "https://oauth2.googleapis.com/token"),
        (
            "yahoo",
            "https://api.login.yahoo.com/oauth2/request_auth",
            "https://api.login.yahoo.com/oauth2/get_token",
        ),
        ("aol", "https://api.login.aol.com/oauth2/request_auth", "https://api.login.aol.com/oauth2/get_token"),
        ("fastmail", "https://api.fastmail.com/oauth/authorize", "https://api.fastmail.com/oauth/refresh"),
        ("mailru", "https://o2.mail.ru/login", "https://o2.mail.ru/token"),
        ("yandex", "https://oauth.yandex.com/authorize", "https://oauth.yandex.com/token"),
    ],
)
def test_sign_ins_of_the_others(name: str, authorize: str, token: str) -> None:
    provider = built_in()[name]
    assert (provider.authorize_url, provider.token_url, provider.device_url) == (authorize, token, "")


def test_google_names_itself_in_the_callback_and_gives_refresh_tokens_only_when_asked() -> None:
    google = built_in()["google"]
    assert google.iss_in_callback
    assert endpoints_of(google).iss_in_callback
    assert google.authorize["access_type"] == "offline"
    assert "consent" in google.authorize["prompt"].split()
    assert google.rotation == "never"
    assert (google.lifetimes.idle_refresh_token_days, google.lifetimes.testing_refresh_token_days) == (180, 7)
    limits = google.limits
    assert (limits.messages_per_day, limits.recipients_per_day, limits.size) == (500, 10000, 35882577)


@pytest.mark.parametrize("name", ["yahoo", "aol"])
def test_yahoo_and_aol_want_oauthbearer_first_and_a_secret(name: str) -> None:
    provider = built_in()[name]
    assert provider.mechanisms[0] == "OAUTHBEARER"
    assert "none" not in provider.client_methods
    limits = provider.limits
    assert (limits.imap_connections, limits.messages_per_day, limits.recipients_per_message) == (3, 500, 100)
    assert provider.lifetimes.access_token_minutes == 60


GIVEN: dict[str, Any] = {
    "name": "example",
    "issuer": "https://id.example.com",
    "ca_file": "ca.pem",
    "scopes": ["mail", "offline_access"],
    "smtp": "mail.example.com:587 starttls",
    "imap": "mail.example.com:993 tls",
    "pop3": "mail.example.com:995 tls",
    "limits": {"connections": 3, "messages_per_minute": 30, "recipients_per_day": 10000, "size": "35 MB"},
}


def test_the_table_of_the_contract_is_a_provider() -> None:
    provider = from_apply(GIVEN)
    assert provider.smtp == Endpoint("mail.example.com", 587, "starttls")
    assert provider.limits.size == 35 * 1024 * 1024
    assert provider.limits.connections == 3
    assert (provider.issuer, provider.ca_file) == ("https://id.example.com", "ca.pem")
    assert scopes_for(provider, ["smtp", "imap"], offered=["openid", "email"]) == (
        "mail",
        "offline_access",
        "openid",
        "email",
    )


def test_a_built_in_name_changes_only_what_is_given() -> None:
    provider = from_apply({"name": "google", "limits": {"messages_per_day": 2000}})
    assert provider.limits.messages_per_day == 2000
    assert provider.token_url == built_in()["google"].token_url


def test_explicit_addresses_do_instead_of_an_issuer() -> None:
    table = {
        "name": "x",
        "device_url": "http://127.0.0.1:9/device",
        "token_url": "http://127.0.0.1:9/token",
        "smtp": "[::1]:587 plain",
    }
    provider = from_apply(table)
    assert provider.has_oauth
    assert provider.smtp == Endpoint("::1", 587, "plain")


@pytest.mark.parametrize(
    ("changes", "id", "place"),
    [
        ({"name": ""}, "provider.name", "provider.name"),
        ({"name": 5}, "provider.text", "provider.name"),
        ({"issuer": "http://id.example.com"}, "provider.url", "provider.issuer"),
        ({"jwks_url": "ftp://id.example.com"}, "provider.url", "provider.jwks_url"),
        ({"smtp": "mail.example.com"}, "endpoint.unreadable", "provider.smtp"),
        ({"imap": 993}, "endpoint.unreadable", "provider.imap"),
        ({"scopes": "mail"}, "provider.scopes", "provider.scopes"),
        ({"scopes": ["two words"]}, "provider.scopes", "provider.scopes"),
        ({"limits": 5}, "provider.limits", "provider.limits"),
        ({"limits": {"connections": 0}}, "provider.count", "provider.limits.connections"),
        ({"limits": {"connections": True}}, "provider.count", "provider.limits.connections"),
        ({"limits": {"size": "35 elephants"}}, "size.unreadable", "provider.limits.size"),
        ({"limits": {"conections": 3}}, "provider.unknown-key", "provider.limits.conections"),
        ({"imap4": "x"}, "provider.unknown-key", "provider.imap4"),
        ({"issuer": "", "token_url": "https://id.example.com/t"}, "provider.sign-in", "provider.issuer"),
    ],
)
def test_each_mistake_has_its_problem_and_place(changes: dict[str, Any], id: str, place: str) -> None:
    with pytest.raises(ProblemError) as caught:
        from_apply(GIVEN | changes)
    assert [(problem.id, problem.where) for problem in caught.value.problems] == [(id, place)]


def test_a_provider_without_servers_is_of_no_use() -> None:
    with pytest.raises(ProblemError, match="No mail server"):
        from_apply({"name": "x", "issuer": "https://id.example.com"})


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {"name": "", "issuer": "id.example.com", "smtp": "?", "scopes": 1, "limits": {"size": -1}, "hots": 1}
    with pytest.raises(ProblemError) as caught:
        from_apply(wrong, "provider 2")
    assert len(caught.value.problems) == 6
    assert all(problem.where.startswith("provider 2.") for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail.example.com:587 starttls", Endpoint("mail.example.com", 587, "starttls")),
        ("  Mail.Example.COM.:993   tls ", Endpoint("mail.example.com", 993, "tls")),
        ("mail.example.com:465", Endpoint("mail.example.com", 465, "tls")),
        ("mail.example.com:143", Endpoint("mail.example.com", 143, "starttls")),
        ("127.0.0.1:2525 plain", Endpoint("127.0.0.1", 2525, "plain")),
        ("[2001:DB8::1]:25 plain", Endpoint("2001:db8::1", 25, "plain")),
        ("bücher.example:587 tls", Endpoint("xn--bcher-kva.example", 587, "tls")),
        ("mail_1.internal:587 tls", Endpoint("mail_1.internal", 587, "tls")),
    ],
)
def test_servers_as_people_write_them(text: str, expected: Endpoint) -> None:
    assert parse_endpoint(text) == expected
    assert parse_endpoint(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mail.example.com",
        ":587 tls",
        "mail.example.com:0 tls",
        "mail.example.com:65536 tls",
        "mail.example.com:٥٨٧ tls",
        "mail.example.com:2525",
        "mail.example.com:587 ssl",
        "mail.example.com:587 tls now",
        "mail..example.com:587 tls",
        "-mail.example.com:587 tls",
        "mail.exa\x00mple.com:587 tls",
        "mail/../x:587 tls",
        "user@mail:587 tls",
        "[::1:587 tls",
        "[nonsense]:587 tls",
        "2001:db8::1:587 tls",
        f"{'a' * 300}:587 tls",
    ],
)
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_endpoint(text, "smtp")
    assert caught.value.problems[0].where == "smtp"


@pytest.mark.parametrize(
    ("value", "octets"), [(500, 500), ("500", 500), ("35 MB", 36700160), ("1gb", 1024**3), ("10 KB", 10240)]
)
def test_sizes(value: object, octets: int) -> None:
    assert parse_size(value) == octets


@pytest.mark.parametrize("value", [0, -1, True, None, 3.5, "", "MB", "0", "1 TB", "1" * 40])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ProblemError):
        parse_size(value)


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("https://id.example.com/token", True),
        ("https://id.example.com:8443/token?x=1", True),
        ("http://localhost:8480/x", True),
        ("http://127.0.0.1/x", True),
        ("http://[::1]:1/x", True),
        ("http://id.example.com/token", False),
        ("http://localhost.example.com/", False),
        ("http://127.0.0.1.example.com/", False),
        ("https://user@id.example.com/", False),
        ("https://id.example.com/#x", False),
        ("https://id.example.com\\@evil.example/", False),
        ("https://id.example.com/\r\nHost: x", False),
        ("https:///token", False),
        ("https://id.example.com:99999/", False),
        ("https://[::1/", False),
        ("javascript:alert(1)", False),
        ("", False),
        ("https://id.example.com/" + "x" * 3000, False),
    ],
)
def test_which_sign_in_addresses_are_used(url: str, usable: bool) -> None:
    assert (why_unusable(url) == "") == usable


@pytest.mark.parametrize(
    ("server", "shown"),
    [
        ("smtp.gmail.com:587 starttls", True),
        ("imap.gmail.com:465 tls", True),
        ("smtp.gmail.com:587 plain", False),
        ("smtp.gmail.com.example.net:587 tls", False),
        ("mail.example.com:587 tls", False),
        ("localhost:587 plain", False),
    ],
)
def test_a_token_is_for_the_providers_servers_alone_and_never_in_the_clear(server: str, shown: bool) -> None:
    assert keeps_token(built_in()["google"], parse_endpoint(server)) is shown


@pytest.mark.parametrize("name", built_in())
def test_every_server_that_gets_tokens_is_reached_over_tls(name: str) -> None:
    provider = built_in()[name]
    servers = [server for protocol in PROTOCOLS if (server := provider.endpoint(protocol))]
    assert all(keeps_token(provider, server) for server in servers)
