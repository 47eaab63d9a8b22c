"""What a mail provider is: where it signs in, what to ask for, where its servers are, what it allows.

A provider is data. The built-in ones are the TOML files beside this module, with the fields of `Provider`;
others come from apply files. Facts and their sources stand in the files.
"""

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from posthouse.model.endpoint import Endpoint, parse_endpoint
from posthouse.model.sizes import parse_size
from posthouse.providers.urls import is_loopback

Protocol = Literal["smtp", "imap", "pop3"]
PROTOCOLS: tuple[Protocol, ...] = ("smtp", "imap", "pop3")
CALLBACK = "/oauth/callback"
Family = Literal["microsoft", "google", "yahoo", "any"]
"""Whose entries of the error catalogue apply."""


class Scopes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to ask for, for each protocol."""

    smtp: tuple[str, ...] = ()
    imap: tuple[str, ...] = ()
    pop3: tuple[str, ...] = ()


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one account may do; None where nothing is known. `size` in octets, as sent over SMTP."""

    connections: int | None = None
    imap_connections: int | None = None
    messages_per_connection: int | None = None
    messages_per_minute: int | None = None
    messages_per_day: int | None = None
    recipients_per_day: int | None = None
    recipients_per_message: int | None = None
    size: int | None = None


class Lifetimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None where nothing is known. `idle_refresh_token_days`: a refresh token not used for so long is dead."""

    access_token_minutes: int | None = None
    idle_refresh_token_days: int | None = None
    testing_refresh_token_days: int | None = None


class UserNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose name goes into `user=` when a person's token opens a mailbox that is not the person's own."""

    smtp: Literal["account", "mailbox"] = "account"
    imap: Literal["account", "mailbox"] = "account"
    pop3: Literal["account", "mailbox"] = "account"


class KnownClient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public registration of somebody else that works here. `redirect_url` is theirs: nobody comes back to us."""

    title: str
    client_id: str
    redirect_url: str


class Registering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an app is registered. `guide` names the steps, `portal` the page where they are done.

    `redirect_urls` that may be registered: any; https; https or http://localhost; https with a public name or loopback.
    `audience`, `cloud`, `graph`, `exchange`: what Microsoft's tools call the accounts and the cloud; `app_permissions`
    are the roles that the scope of the app itself stands for.
    """

    guide: str = "generic"
    portal: str = ""
    redirect_urls: Literal["any", "https", "localhost", "loopback"] = "any"
    audience: str = ""
    cloud: str = ""
    graph: str = ""
    exchange: str = ""
    app_permissions: Scopes = Scopes()


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider. Empty text means: there is none, or discovery tells. URLs may hold `{tenant}`."""

    name: str
    title: str = ""
    family: Family = "any"
    issuer: str = ""
    authorize_url: str = ""
    token_url: str = ""
    device_url: str = ""
    revoke_url: str = ""
    introspection_url: str = ""
    userinfo_url: str = ""
    jwks_url: str = ""
    account_url: str = ""
    """Where the person who signed in can take a permission back."""
    iss_in_callback: bool = False
    tenant: str = ""
    """What `{tenant}` stands for when a registration names none."""
    ca_file: str = ""
    """Further certificate authorities for sign-in and mail servers, a file in PEM form."""

    authorize: dict[str, str] = {}
    """Parameters of the authorize address, such as `prompt`."""
    delegated: Scopes = Scopes()
    app_only: Scopes = Scopes()
    extra_scopes: tuple[str, ...] = ()
    """Asked for in every sign-in of a person."""
    offered_scopes: tuple[str, ...] = ()
    """Asked for as well where discovery lists them."""
    scope_in_refresh: bool = False
    """A refresh has to name its scopes, because one refresh token serves several resources."""
    own_redirect: bool = False
    """Its sign-ins come back to a path of their own."""
    client_methods: tuple[str, ...] = ("none", "post", "basic", "private_key_jwt")
    assertion_algorithm: Literal["RS256", "PS256", "ES256"] = "RS256"

    smtp: Endpoint | None = None
    imap: Endpoint | None = None
    pop3: Endpoint | None = None
    mechanisms: tuple[str, ...] = ("XOAUTH2", "OAUTHBEARER")
    """The best first; what the server offers decides."""
    user_names: UserNames = UserNames()
    passwords: Literal["app", "account", "none"] = "app"
    """What still works as a password for programs: app passwords, the account's own, nothing."""

    limits: Limits = Limits()
    lifetimes: Lifetimes = Lifetimes()
    rotation: Literal["rotates", "never", "unknown"] = "unknown"
    """Whether a refresh answers with a new refresh token. Whatever comes is stored."""
    quirks: tuple[str, ...] = ()
    registering: Registering = Registering()
    known_clients: dict[str, KnownClient] = {}
    """By the name that may stand in the place of a client id."""

    @property
    def has_oauth(self) -> bool:
        return bool(self.issuer or self.token_url)

    def endpoint(self, protocol: Protocol) -> Endpoint | None:
        return {"smtp": self.smtp, "imap": self.imap, "pop3": self.pop3}[protocol]


@cache
def built_in() -> Mapping[str, Provider]:
    """The providers that come with Posthouse, by name; the files are read once."""
    found = (read(file.read_text("utf-8")) for file in _data_files())
    return MappingProxyType({provider.name: provider for provider in found})


def read(text: str) -> Provider:
    """A provider from the text of a data file. Raises `ValueError` or `ProblemError` for a faulty one."""
    table = tomllib.loads(text)
    servers = {name: parse_endpoint(table.pop(name), name) for name in PROTOCOLS if name in table}
    limits: dict[str, Any] = table.get("limits", {})
    if "size" in limits:
        limits["size"] = parse_size(limits["size"], "limits.size")
    return replace(msgspec.convert(table, Provider), **servers)


def scopes_for(
    provider: Provider,
    protocols: Iterable[Protocol],
    *,
    app_only: bool = False,
    offered: Iterable[str] = (),
) -> tuple[str, ...]:
    """What to ask for so that these protocols work. `offered`: the `scopes_supported` of discovery."""
    wanted = _of_protocols(provider.app_only if app_only else provider.delegated, protocols)
    if not app_only:
        listed = set(offered)
        wanted += [*provider.extra_scopes, *(scope for scope in provider.offered_scopes if scope in listed)]
    return tuple(dict.fromkeys(wanted))


def callback_path(provider: Provider) -> str:
    """Where a sign-in comes back to: one place for all, or one of its own for a provider that wants it.

    Then the code of another provider cannot be passed off as its answer, to be sent there, also where providers do
    not say who answers (RFC 9700 section 4.4.2.2).
    """
    return f"{CALLBACK}/{quote(provider.name, safe='')}" if provider.own_redirect else CALLBACK


def keeps_token(provider: Provider, server: Endpoint) -> bool:
    """Whether an access token may be shown to a mail server: one of the provider's own, and never in the clear.

    What any other server is shown it could use at the provider itself (RFC 9700 section 4.9.1).
    """
    own = {known.host for protocol in PROTOCOLS if (known := provider.endpoint(protocol))}
    return server.host in own and (server.tls != "plain" or is_loopback(server.host))


def user_name(provider: Provider, protocol: Protocol, *, account: str, mailbox: str, app_only: bool = False) -> str:
    """Who logs in at the mail server: an app always names the mailbox, a person as the provider's rule says."""
    rule = "mailbox" if app_only else getattr(provider.user_names, protocol)
    return mailbox if rule == "mailbox" else account


def _of_protocols(scopes: Scopes, protocols: Iterable[Protocol]) -> list[str]:
    return [scope for protocol in protocols for scope in getattr(scopes, protocol)]


def _data_files() -> list[Any]:
    folder = files("posthouse.providers")
    return sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
