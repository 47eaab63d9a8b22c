"""The requests each flow makes, and what is made of the answers, hostile ones included."""

import contextlib
import json
import re
from base64 import b64decode, urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote_plus, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import extract_compact

from posthouse.model.outcome import Granted, Pending, Refused, SlowDown, Unreachable
from posthouse.oauth import client_credentials, code, device, jwt_bearer
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.client import Client, thumbprint
from posthouse.oauth.client import request as by_client
from posthouse.oauth.code import Attempt, Code, NotOurs
from posthouse.oauth.device import DeviceCode
from posthouse.oauth.endpoints import (
    PERSONAL_TENANT,
    Endpoints,
    completed,
    discovery_requests,
    endpoints_of,
    read_discovery,
)
from posthouse.oauth.identity import identity_from_userinfo, read_keys, verify_id_token
from posthouse.oauth.introspection import Introspection, introspect, read_introspection
from posthouse.oauth.message import Answer, Request
from posthouse.oauth.refresh import refresh
from posthouse.oauth.revoke import Revoked, read_revoke, revoke
from posthouse.oauth.userinfo import read_userinfo, userinfo
from posthouse.problems import ProblemError
from posthouse.providers.applied import from_apply
from posthouse.providers.provider import built_in, callback_path
from posthouse.secret import Secret

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
ISSUER = "https://id.example.com"
TENANT = "11111111-2222-3333-4444-555555555555"
SERVER = Endpoints(
    token_url=f"{ISSUER}/token",
    issuer=ISSUER,
    authorize_url=f"{ISSUER}/authorize",
    device_url=f"{ISSUER}/device",
    revoke_url=f"{ISSUER}/revoke",
    introspection_url=f"{ISSUER}/introspect",
    userinfo_url=f"{ISSUER}/userinfo",
)
PUBLIC = Client("posthouse")
REDIRECT = "http://localhost:8480/oauth/callback"
DISCOVERED = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks",
}


def said(members: object, status: int = 200) -> Answer:
    return Answer(status, {}, json.dumps(members).encode())


def form_of(request: Request | None) -> dict[str, str]:
    assert request is not None
    return dict(parse_qsl(request.body().decode(), keep_blank_values=True))


def query_of(attempt: Attempt) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(attempt.url).query).items()}


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def certificate(private: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "posthouse")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return builder.sign(private, SHA256())


# Discovery


def test_a_server_is_asked_in_both_usual_places() -> None:
    urls = [request.url for request in discovery_requests("https://id.example.com/realms/mail/")]
    assert urls == [
        "https://id.example.com/realms/mail/.well-known/openid-configuration",
        "https://id.example.com/.well-known/oauth-authorization-server/realms/mail",
    ]


def test_a_description_is_read() -> None:
    extra = {
        "authorization_response_iss_parameter_supported": True,
        "scopes_supported": ["openid", "mail"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "tls_client_auth"],
    }
    found = read_discovery(said(DISCOVERED | extra), ISSUER)
    assert isinstance(found, Endpoints)
    assert (found.token_url, found.jwks_url) == (f"{ISSUER}/token", f"{ISSUER}/jwks")
    assert found.iss_in_callback
    assert found.scopes_supported == ("openid", "mail")
    assert found.client_methods == ("none", "basic")
    assert found.device_url == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"},
        {"issuer": f"{ISSUER}/"},
        {"issuer": None},
        {"issuer": [ISSUER]},
        {"issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"},
        {"token_endpoint": None},
        {"token_endpoint": "http://id.example.com/token"},
        {"token_endpoint": "https://id.example.com/token\r\nX: y"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": "file:///etc/passwd"},
        {"revocation_endpoint": "https://u:p@id.example.com/"},
    ],
)
def test_a_description_of_another_server_or_an_open_one_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProblemError):
        read_discovery(said(DISCOVERED | changes), ISSUER)


@pytest.mark.parametrize(
    ("issuer", "url", "taken"),
    [
        (ISSUER, "http://localhost:8080/admin", False),
        (ISSUER, "https://127.0.0.1/token", False),
        (ISSUER, "https://[::1]/token", False),
        (ISSUER, "https://169.254.169.254/latest", False),
        (ISSUER, "https://0.0.0.0/token", False),
        (ISSUER, "https://token.example.net/token", True),
        ("http://localhost:9000", "http://localhost:9000/token", True),
    ],
)
def test_a_server_elsewhere_cannot_make_us_ask_our_own_machine(issuer: str, url: str, taken: bool) -> None:
    own = {"issuer": issuer, "token_endpoint": f"{issuer}/token"}
    for member in ("token_endpoint", "jwks_uri", "revocation_endpoint", "userinfo_endpoint"):
        if taken:
            assert isinstance(read_discovery(said(own | {member: url}), issuer), Endpoints)
        else:
            with pytest.raises(ProblemError, match="this very machine"):
                read_discovery(said(own | {member: url}), issuer)


@pytest.mark.parametrize("answer", [said({}, 503), Answer(200, {}, b"<html>"), said([]), Answer(404)])
def test_no_description_for_now(answer: Answer) -> None:
    assert isinstance(read_discovery(answer, ISSUER), Unreachable)


@pytest.mark.parametrize(
    ("asked", "issuer", "accepted"),
    [
        ("organizations", "{tenantid}", True),
        ("common", "{tenantid}", True),
        ("consumers", PERSONAL_TENANT, True),
        ("contoso.com", TENANT, True),
        (TENANT, TENANT, True),
        (TENANT, "{tenantid}", False),
        (TENANT, PERSONAL_TENANT, False),
        ("organizations", "evil", False),
        ("organizations", "{tenantid}/evil", False),
    ],
)
def test_microsofts_issuer_has_a_known_form(asked: str, issuer: str, accepted: bool) -> None:
    base = "https://login.microsoftonline.com"
    answer = said(DISCOVERED | {"issuer": f"{base}/{issuer}/v2.0"})
    if accepted:
        assert isinstance(read_discovery(answer, f"{base}/{asked}/v2.0"), Endpoints)
    else:
        with pytest.raises(ProblemError):
            read_discovery(answer, f"{base}/{asked}/v2.0")


def test_no_other_host_may_use_microsofts_form() -> None:
    with pytest.raises(ProblemError):
        read_discovery(said(DISCOVERED | {"issuer": f"{ISSUER}/{TENANT}/v2.0"}), f"{ISSUER}/organizations/v2.0")


@pytest.mark.parametrize(
    ("tenant", "issuer"),
    [
        ("", "https://login.microsoftonline.com/{tenantid}/v2.0"),
        ("contoso.com", "https://login.microsoftonline.com/{tenantid}/v2.0"),
        ("consumers", f"https://login.microsoftonline.com/{PERSONAL_TENANT}/v2.0"),
        (TENANT, f"https://login.microsoftonline.com/{TENANT}/v2.0"),
    ],
)
def test_the_tenant_takes_its_place(tenant: str, issuer: str) -> None:
    found = endpoints_of(built_in()["microsoft"], tenant)
    assert found.issuer == issuer
    expected = f"https://login.microsoftonline.com/{tenant or 'organizations'}/oauth2/v2.0/token"
    assert found.token_url == expected


@pytest.mark.parametrize("tenant", ["../x", "a/b", "a b", "x?y", "x" * 300])
def test_a_tenant_cannot_change_the_address(tenant: str) -> None:
    with pytest.raises(ProblemError, match="is not a tenant"):
        endpoints_of(built_in()["microsoft"], tenant)


def test_what_is_stated_goes_before_what_was_discovered() -> None:
    stated = endpoints_of(built_in()["google"])
    found = completed(stated, Endpoints(token_url="https://x.example/t", userinfo_url="https://x.example/u"))
    assert found.token_url == "https://oauth2.googleapis.com/token"
    assert found.userinfo_url == "https://x.example/u"


# Client authentication


def test_a_public_client_gives_its_name_only() -> None:
    request = by_client(PUBLIC, SERVER.token_url, {"a": "b"}, NOW)
    assert form_of(request) == {"a": "b", "client_id": "posthouse"}
    assert "Authorization" not in request.headers


def test_a_secret_in_the_form() -> None:
    request = by_client(Client("posthouse", "post", Secret("s€cret&")), SERVER.token_url, {}, NOW)
    assert form_of(request) == {"client_id": "posthouse", "client_secret": "s€cret&"}
    assert "s€cret" not in repr(request)


def test_a_secret_in_the_header_is_encoded_twice() -> None:
    request = by_client(Client("post:house", "basic", Secret("s€cret&")), SERVER.token_url, {}, NOW)
    kind, _, value = request.header_texts()["Authorization"].partition(" ")
    assert (kind, b64decode(value).decode()) == ("Basic", f"post%3Ahouse:{quote_plus('s€cret&')}")
    assert "client_id" not in request.form
    assert value not in repr(request)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_a_certificate_signs_an_assertion(
    algorithm: Any, private: rsa.RSAPrivateKey, certificate: x509.Certificate
) -> None:
    text = certificate.public_bytes(Encoding.PEM).decode()
    client = Client("posthouse", "private_key_jwt", key=pem(private), certificate=text, algorithm=algorithm)
    form = form_of(by_client(client, SERVER.token_url, {}, NOW))
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    key = RSAKey.import_key(private.public_key())
    token = jwt.decode(form["client_assertion"], key, algorithms=[algorithm])
    digest = urlsafe_b64decode(token.header["x5t#S256"] + "=")
    assert digest == certificate.fingerprint(SHA256())
    assert token.claims["iss"] == token.claims["sub"] == "posthouse"
    assert token.claims["aud"] == SERVER.token_url
    assert token.claims["iat"] == NOW.timestamp() < token.claims["exp"] <= NOW.timestamp() + 600
    again = form_of(by_client(client, SERVER.token_url, {}, NOW))
    assert again["client_assertion"] != form["client_assertion"]


def test_an_elliptic_key_signs_too() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    client = Client("posthouse", "private_key_jwt", key=pem(private), algorithm="ES256")
    form = form_of(by_client(client, SERVER.token_url, {}, NOW))
    jwt.decode(form["client_assertion"], ECKey.import_key(private.public_key()), algorithms=["ES256"])


@pytest.mark.parametrize(
    ("client", "id"),
    [
        (Client("x", "post"), "client.secret"),
        (Client("x", "basic", Secret("")), "client.secret"),
        (Client("x", "private_key_jwt"), "client.key"),
        (Client("x", "private_key_jwt", key=Secret("no key")), "client.key"),
        (Client("x", "private_key_jwt", key=Secret("k"), certificate="no certificate"), "client.certificate"),
    ],
)
def test_a_client_without_its_means_is_a_problem_with_a_step(client: Client, id: str) -> None:
    with pytest.raises(ProblemError) as caught:
        by_client(client, SERVER.token_url, {}, NOW)
    assert caught.value.problems[0].id == id
    assert caught.value.problems[0].hint


def test_a_bad_key_is_not_shown() -> None:
    with pytest.raises(ProblemError) as caught:
        by_client(Client("x", "private_key_jwt", key=Secret("my-pr1vate")), SERVER.token_url, {}, NOW)
    assert "pr1vate" not in str(caught.value)
    with pytest.raises(ProblemError):
        thumbprint("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


# Browser


def begun(**changes: Any) -> Attempt:
    settings: dict[str, Any] = {"redirect_uri": REDIRECT, "scopes": ["mail", "openid"]}
    return code.begin(SERVER, PUBLIC, **(settings | changes))


def test_a_browser_sign_in_is_bound_to_this_attempt() -> None:
    attempt = begun(login_hint="alice@example.com")
    query = query_of(attempt)
    assert attempt.url.startswith(f"{ISSUER}/authorize?")
    assert (query["response_type"], query["client_id"]) == ("code", "posthouse")
    assert (query["redirect_uri"], query["scope"]) == (REDIRECT, "mail openid")
    assert query["login_hint"] == "alice@example.com"
    assert Secret(query["state"]) == attempt.state
    assert Secret(query["nonce"]) == attempt.nonce
    digest = sha256(attempt.verifier.reveal().encode()).digest()
    assert urlsafe_b64decode(query["code_challenge"] + "=") == digest
    assert query["code_challenge_method"] == "S256"
    assert 43 <= len(attempt.verifier.reveal()) <= 128
    shown = repr(attempt)
    assert query["state"] not in shown
    assert query["nonce"] not in shown


@pytest.mark.parametrize("home", ["http://mail.example.com", "http://192.0.2.7:8480", "ftp://mail.example.com"])
def test_no_answer_comes_back_where_others_could_read_it(home: str) -> None:
    with pytest.raises(ProblemError, match="others could read it"):
        code.begin(SERVER, PUBLIC, redirect_uri=f"{home}/oauth/callback", scopes=["mail"])


def test_no_two_attempts_are_alike() -> None:
    first, second = begun(), begun()
    assert len({s.reveal() for a in (first, second) for s in (a.state, a.nonce, a.verifier)}) == 6


@pytest.mark.parametrize(
    ("provider", "scopes", "prompt"),
    [
        ("microsoft", ["mail", "offline_access"], "select_account"),
        ("google", ["mail"], "consent select_account"),
        ("fastmail", ["mail"], None),
        ("fastmail", ["mail", "offline_access"], "consent"),
    ],
)
def test_the_choice_of_an_account_is_forced_as_each_provider_knows_it(
    provider: str, scopes: list[str], prompt: str | None
) -> None:
    query = query_of(begun(scopes=scopes, parameters=built_in()[provider].authorize))
    assert query.get("prompt") == prompt
    assert (query.get("access_type") == "offline") == (provider == "google")


def test_an_openid_server_that_does_not_offer_the_choice_is_asked_for_a_new_login() -> None:
    server = Endpoints(SERVER.token_url, authorize_url=SERVER.authorize_url)
    attempt = code.begin(server, PUBLIC, redirect_uri=REDIRECT, scopes=["mail", "offline_access", "openid"])
    assert query_of(attempt)["prompt"] == "consent login"


def test_a_server_that_offers_the_choice_is_asked_for_it() -> None:
    server = Endpoints(SERVER.token_url, authorize_url=SERVER.authorize_url, prompts_supported=("select_account",))
    attempt = code.begin(server, PUBLIC, redirect_uri=REDIRECT, scopes=["mail", "offline_access"])
    assert query_of(attempt)["prompt"] == "consent select_account"


def test_parameters_of_a_provider_cannot_undo_the_protection() -> None:
    query = query_of(begun(parameters={"state": "x", "code_challenge_method": "plain"}))
    assert query["state"] != "x"
    assert query["code_challenge_method"] == "S256"


def test_an_address_with_a_query_keeps_it() -> None:
    server = Endpoints(SERVER.token_url, authorize_url=f"{ISSUER}/authorize?p=mail")
    assert query_of(code.begin(server, PUBLIC, redirect_uri=REDIRECT, scopes=["mail"]))["p"] == "mail"


def returned(attempt: Attempt, server: Endpoints = SERVER, **parameters: str) -> code.Callback:
    return code.read_callback({"state": attempt.state.reveal(), **parameters}, attempt, server)


def test_a_code_comes_back_and_is_exchanged() -> None:
    attempt = begun()
    found = returned(attempt, code="c0de", iss=ISSUER)
    assert found == Code(Secret("c0de"))
    assert isinstance(found, Code)
    form = form_of(code.exchange(SERVER, PUBLIC, attempt, found, NOW))
    assert form == {
        "grant_type": "authorization_code",
        "code": "c0de",
        "redirect_uri": REDIRECT,
        "code_verifier": attempt.verifier.reveal(),
        "client_id": "posthouse",
    }


@pytest.mark.parametrize("state", [None, "", "other", "ö", "\ud800", "x" * 10_000])
def test_a_callback_of_somebody_else_changes_nothing(state: str | None) -> None:
    parameters = {"error": "access_denied", "code": "c0de"} | ({"state": state} if state is not None else {})
    assert isinstance(code.read_callback(parameters, begun(), SERVER), NotOurs)


REQUIRED = Endpoints(SERVER.token_url, issuer=ISSUER, iss_in_callback=True)
MICROSOFT = endpoints_of(built_in()["microsoft"])
NAMELESS = Endpoints(SERVER.token_url, authorize_url=f"{ISSUER}/authorize")


@pytest.mark.parametrize(
    ("server", "iss", "accepted"),
    [
        (SERVER, None, True),
        (SERVER, ISSUER, True),
        (SERVER, "https://evil.example", False),
        (SERVER, f"{ISSUER}/", False),
        (REQUIRED, ISSUER, True),
        (REQUIRED, None, False),
        (REQUIRED, "", False),
        (MICROSOFT, f"https://login.microsoftonline.com/{TENANT}/v2.0", True),
        (MICROSOFT, "https://login.microsoftonline.com/evil/v2.0", False),
        (MICROSOFT, f"https://evil.example/{TENANT}/v2.0", False),
        (NAMELESS, None, True),
        (NAMELESS, ISSUER, True),
        (NAMELESS, "https://evil.example", False),
        (NAMELESS, "https://[", False),
    ],
)
def test_an_answer_of_another_server_ends_the_sign_in(server: Endpoints, iss: str | None, accepted: bool) -> None:
    found = returned(begun(), server, code="c0de", **({} if iss is None else {"iss": iss}))
    if accepted:
        assert isinstance(found, Code)
    else:
        assert isinstance(found, Refused)
        assert found.error == "iss"


@pytest.mark.parametrize(
    ("came_to", "accepted"),
    [
        ("", True),
        ("/oauth/callback", True),
        ("/oauth/callback/evil", False),
        ("/elsewhere", False),
    ],
)
def test_an_answer_on_another_providers_path_ends_the_sign_in(came_to: str, accepted: bool) -> None:
    attempt = begun()
    parameters = {"state": attempt.state.reveal(), "code": "c0de"}
    found = code.read_callback(parameters, attempt, SERVER, came_to=came_to)
    assert isinstance(found, Code) is accepted
    assert accepted or isinstance(found, Refused)


def test_a_provider_that_wants_it_has_a_path_of_its_own() -> None:
    table = {"name": "example", "issuer": ISSUER, "smtp": "mail.example.com:587 starttls"}
    assert callback_path(from_apply(table)) == callback_path(built_in()["google"]) == "/oauth/callback"
    own = table | {"own_redirect": True}
    assert callback_path(from_apply(own)) == "/oauth/callback/example"
    assert callback_path(from_apply(own | {"name": "im Büro/2"})) == "/oauth/callback/im%20B%C3%BCro%2F2"


def test_a_refusal_comes_back_in_words() -> None:
    text = "AADSTS65004: User declined to consent.\r\nTrace ID: 1"
    found = returned(begun(), error="access_denied", error_description=text)
    assert isinstance(found, Refused)
    assert (found.error, found.codes) == ("access_denied", ("AADSTS65004",))
    assert "\n" not in found.description


def test_a_busy_server_is_no_refusal() -> None:
    assert isinstance(returned(begun(), error="temporarily_unavailable"), Unreachable)


@pytest.mark.parametrize("value", ["", "a b", "a\r\nb", "x" * 9000, "cödé"])
def test_a_code_nobody_can_use_is_refused(value: str) -> None:
    found = returned(begun(), code=value)
    assert isinstance(found, Refused)
    assert found.error == "invalid_response"


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        ("http://localhost:8480/oauth/callback?code=a%2Bb&state=c", {"code": "a+b", "state": "c"}),
        ("  http://localhost/?code=a&state=c#frag \n", {"code": "a", "state": "c"}),
        ("code=a&state=c", {"code": "a", "state": "c"}),
        ("?code=a&state=c", {"code": "a", "state": "c"}),
        ("http://localhost/?code=a&code=b", {}),
        ("http://localhost/", {}),
        ("", {}),
        ("http://[::1/?code=a", {}),
        ("http://localhost/?code=" + "x" * 20_000, {}),
        ("http://localhost/?" + "&".join(f"a{n}=b" for n in range(60)), {}),
        ("http://localhost/?code=%ff", {}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_pasted_address(pasted: str, expected: dict[str, str]) -> None:
    assert code.parameters_of(pasted) == expected


def test_a_way_the_provider_does_not_have_is_a_problem() -> None:
    bare = Endpoints(SERVER.token_url)
    with pytest.raises(ProblemError, match="no browser sign-in"):
        code.begin(bare, PUBLIC, redirect_uri=REDIRECT, scopes=[])
    with pytest.raises(ProblemError, match="no device sign-in"):
        device.start(bare, PUBLIC, [], NOW)
    assert revoke(bare, PUBLIC, Secret("RT"), NOW) is None
    assert introspect(bare, PUBLIC, Secret("AT"), NOW) is None
    assert userinfo(bare, Secret("AT")) is None


# Device

STARTED = {
    "device_code": "DC",
    "user_code": "ABCD-EFGH",
    "verification_uri": f"{ISSUER}/device",
    "verification_uri_complete": f"{ISSUER}/device?user_code=ABCD-EFGH",
    "expires_in": 900,
    "interval": 3,
}


def started(**changes: Any) -> DeviceCode:
    found = device.read_start(said(STARTED | changes))
    assert isinstance(found, DeviceCode)
    return found


def test_a_device_sign_in_begins() -> None:
    assert form_of(device.start(SERVER, PUBLIC, ["mail", "openid"], NOW))["scope"] == "mail openid"
    found = started()
    assert (found.user_code, found.verification_uri) == ("ABCD-EFGH", f"{ISSUER}/device")
    assert (found.expires_in, found.interval) == (timedelta(minutes=15), 3.0)
    assert "ABCD" not in repr(found)
    form = form_of(device.poll(SERVER, PUBLIC, found.device_code, NOW))
    assert (form["device_code"], form["grant_type"]) == ("DC", "urn:ietf:params:oauth:grant-type:device_code")


def test_what_a_server_leaves_out_or_overdoes() -> None:
    assert started(interval=None).interval == 5.0
    assert started(interval=0).interval == 5.0
    assert started(interval=0.01).interval == 1.0
    assert started(interval=10**9).interval == 120.0
    assert started(expires_in="300").expires_in == timedelta(minutes=5)
    assert started(expires_in=10**11).expires_in == timedelta(days=1)
    assert started(verification_uri=None, verification_url=f"{ISSUER}/d").verification_uri == f"{ISSUER}/d"
    assert started(verification_uri_complete="javascript:alert(1)").verification_uri_complete == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"device_code": None},
        {"device_code": "a b"},
        {"user_code": ""},
        {"user_code": 12345},
        {"user_code": "x" * 65},
        {"user_code": "ÄÖ"},
        {"verification_uri": None},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "http://evil.example/"},
    ],
)
def test_a_device_code_nobody_could_use_is_none(changes: dict[str, Any]) -> None:
    assert isinstance(device.read_start(said(STARTED | changes)), Unreachable)


def test_a_server_may_refuse_to_begin() -> None:
    found = device.read_start(said({"error": "unauthorized_client"}, 400))
    assert isinstance(found, Refused)
    assert found.client_refused
    assert isinstance(device.read_start(Answer(500)), Unreachable)


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"error": "authorization_pending"}, Pending),
        ({"error": "slow_down"}, SlowDown),
        ({"error": "expired_token"}, Refused),
        ({"error": "access_denied"}, Refused),
        ({"error": "authorization_declined"}, Refused),
        ({"error": "temporarily_unavailable"}, Unreachable),
        ({"message": "?"}, Unreachable),
    ],
)
def test_answers_while_a_person_signs_in(members: dict[str, Any], kind: type) -> None:
    assert isinstance(device.read_poll(said(members, 400)), kind)


def test_the_person_is_done() -> None:
    assert isinstance(device.read_poll(said({"access_token": "AT", "token_type": "Bearer"})), Granted)


def test_the_interval_grows_for_good_and_has_an_end() -> None:
    assert device.interval_after(5, Pending()) == 5
    assert device.interval_after(device.interval_after(5, SlowDown()), SlowDown()) == 15
    assert device.interval_after(5, Unreachable("timed out")) == 10
    assert device.interval_after(5, Unreachable("HTTP 429", retry_after=60)) == 60
    assert device.interval_after(115, SlowDown()) == 120
    assert device.interval_after(100, Unreachable("HTTP 429", retry_after=3600)) == 120


# The rest


def test_a_refresh_names_scopes_only_where_wanted() -> None:
    assert form_of(refresh(SERVER, PUBLIC, Secret("RT"), NOW)) == {
        "grant_type": "refresh_token",
        "refresh_token": "RT",
        "client_id": "posthouse",
    }
    assert form_of(refresh(SERVER, PUBLIC, Secret("RT"), NOW, scopes=["a", "b"]))["scope"] == "a b"


def test_a_token_is_given_back() -> None:
    request = revoke(SERVER, PUBLIC, Secret("RT"), NOW)
    assert request is not None
    assert request.url == SERVER.revoke_url
    assert form_of(request)["token"] == "RT"
    assert form_of(request)["token_type_hint"] == "refresh_token"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(200), Revoked),
        (Answer(204), Revoked),
        (Answer(200, {}, b"<html>"), Revoked),
        (said({"error": "invalid_token"}, 400), Revoked),
        (said({"error": "unsupported_token_type"}, 400), Refused),
        (said({"error": "invalid_client"}, 401), Refused),
        (Answer(503), Unreachable),
        (Answer(404, {}, b"?"), Unreachable),
    ],
)
def test_answers_to_giving_back(answer: Answer, kind: type) -> None:
    assert isinstance(read_revoke(answer), kind)


def test_introspection_tells_who_a_token_belongs_to() -> None:
    assert form_of(introspect(SERVER, PUBLIC, Secret("AT"), NOW))["token"] == "AT"
    members = {"active": True, "username": "alice", "sub": "7", "scope": "mail openid", "client_id": "posthouse"}
    found = read_introspection(said(members))
    expected = Introspection(True, "alice", "7", client_id="posthouse", scopes=("mail", "openid"))
    assert found == expected


@pytest.mark.parametrize("active", [False, None, "true", 1])
def test_a_token_that_is_not_active_tells_nothing(active: object) -> None:
    assert read_introspection(said({"active": active, "username": "alice"})) == Introspection(active=False)


def test_userinfo_is_asked_with_the_token() -> None:
    request = userinfo(SERVER, Secret("AT"))
    assert request is not None
    assert (request.method, request.header_texts()["Authorization"]) == ("GET", "Bearer AT")
    assert read_userinfo(said({"sub": "7"})) == {"sub": "7"}
    assert isinstance(read_userinfo(Answer(200, {}, b"ey.J.x")), Unreachable)


def test_an_app_signs_in_as_itself() -> None:
    client = Client("posthouse", "post", Secret("s3cret"))
    form = form_of(client_credentials.ask(SERVER, client, ["https://outlook.office365.com/.default"], NOW))
    assert form["grant_type"] == "client_credentials"
    assert form["scope"] == "https://outlook.office365.com/.default"
    assert form["client_secret"] == "s3cret"


def test_a_service_account_asks_in_the_name_of_a_mailbox(private: rsa.RSAPrivateKey) -> None:
    file = {
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "client_id": "1234567890",
        "private_key_id": "k1",
        "private_key": pem(private).reveal(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    account = jwt_bearer.read_service_account(Secret(json.dumps(file)))
    assert account.client_id == "1234567890"
    assert "PRIVATE KEY" not in repr(account)
    request = jwt_bearer.ask(account, "alice@example.com", ["https://mail.google.com/"], NOW)
    form = form_of(request)
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert extract_compact(form["assertion"].encode()).headers()["kid"] == "k1"
    claims = jwt.decode(form["assertion"], RSAKey.import_key(private.public_key()), algorithms=["RS256"]).claims
    assert (claims["iss"], claims["sub"]) == (account.email, "alice@example.com")
    assert claims["aud"] == request.url == "https://oauth2.googleapis.com/token"
    assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 60_000,
        '{"client_email": "x"}',
        '{"client_email": "x", "private_key": "k", "token_uri": "http://evil.example"}',
        '{"client_email": "x", "private_key": 5, "token_uri": "https://oauth2.googleapis.com/token"}',
        "x" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_key_file(text: str) -> None:
    with pytest.raises(ProblemError, match="not the key file"):
        jwt_bearer.read_service_account(Secret(text))


# Anything at all

MEMBERS = [
    *("access_token", "token_type", "expires_in", "refresh_token", "scope", "id_token", "error", "error_description"),
    *("error_codes", "suberror", "trace_id", "device_code", "user_code", "verification_uri", "interval", "active"),
    *("username", "sub", "issuer", "token_endpoint", "authorization_endpoint", "scopes_supported", "keys", "email"),
]
ODD = ["AT", "3600", ISSUER, "invalid_grant", "slow_down", "Bearer", "\x00", "ö" * 50]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=3),
    max_leaves=5,
)
BODIES = st.binary(max_size=60) | st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=8).map(
    lambda members: json.dumps(members).encode()
)
STATUSES = st.sampled_from([0, 200, 204, 302, 400, 401, 403, 404, 429, 500, 503, 999])
HEADERS = st.dictionaries(st.sampled_from(["Retry-After", "Date", "Content-Type"]), st.text(max_size=30))


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(STATUSES, HEADERS, BODIES)
def test_no_answer_whatever_raises(status: int, headers: dict[str, str], body: bytes) -> None:
    answer = Answer(status, headers, body)
    outcomes = [
        read_token_answer(answer, hide=[Secret("AT")]),
        device.read_start(answer),
        device.read_poll(answer),
        read_revoke(answer),
        read_introspection(answer),
    ]
    assert all(repr(outcome) for outcome in outcomes)
    claims, keys = read_userinfo(answer), read_keys(answer)
    if isinstance(claims, dict):
        identity_from_userinfo(claims, ISSUER)
    if isinstance(keys, dict):
        verify_id_token(Secret("e30.e30.e30"), keys, issuer=ISSUER, client_id="x", nonce=None, now=NOW)
    with contextlib.suppress(ProblemError):
        read_discovery(answer, ISSUER)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=80), st.dictionaries(st.sampled_from(["state", "iss", "error", "code"]), st.text(max_size=20)))
def test_no_callback_whatever_raises(pasted: str, parameters: dict[str, str]) -> None:
    attempt = begun()
    found = code.read_callback(parameters | code.parameters_of(pasted), attempt, SERVER)
    assert isinstance(found, NotOurs)
    mine = parameters | {"state": attempt.state.reveal()}
    assert isinstance(code.read_callback(mine, attempt, SERVER), Code | Refused | Unreachable)


def test_no_grant_is_asked_for_that_takes_a_password_and_no_token_comes_by_the_browser() -> None:
    """Every grant type and response type that stands anywhere in the flows (RFC 9700 sections 2.1.2 and 2.4)."""
    sources = "\n".join(path.read_text() for path in sorted(Path(code.__file__).parent.glob("*.py")))
    grants = set(re.findall(r'"grant_type": ("[^"]+"|\w+)', sources))
    assert grants == {'"authorization_code"', '"refresh_token"', '"client_credentials"', "GRANT_TYPE"}
    assert set(re.findall(r'^GRANT_TYPE = "(.+)"', sources, re.MULTILINE)) == {
        "urn:ietf:params:oauth:grant-type:device_code",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
    }
    assert set(re.findall(r'"response_type": (\S+),', sources)) == {'"code"'}
