"""What a sandbox is made of: people who sign in, programs that may ask, ports, lifetimes and habits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posthouse.secret import Secret

MAIL_SCOPE = "mail"
REDIRECT_URIS = tuple(
    f"http://{host}/oauth/callback{path}" for host in ("localhost", "127.0.0.1") for path in ("", "/sandbox")
)
SCOPES = ("openid", "email", "profile", "offline_access", MAIL_SCOPE)


@dataclass(frozen=True, slots=True)
class Person:
    """Someone with a mailbox. `signs_in_as` is the name at the provider (left out: the address);
    `send_as` are further addresses allowed as sender, `full_access` shared mailboxes that may be read.
    With an `app_password` they may send by password as well."""

    address: str
    name: str = ""
    signs_in_as: str = ""
    send_as: tuple[str, ...] = ()
    full_access: tuple[str, ...] = ()
    app_password: Secret | None = None

    @property
    def username(self) -> str:
        return self.signs_in_as or self.address


@dataclass(frozen=True, slots=True)
class Client:
    """An app registration. Without a secret or key it is public. A redirect URL on loopback matches at any port.

    `public_key` in PEM form: it shows itself with assertions signed by the private key of it (RFC 7523).
    `device_codes`: whether it may sign people in with them; else it is told so only when it asks about a code, as at
    Microsoft.
    """

    id: str
    secret: Secret | None = None
    redirect_uris: tuple[str, ...] = REDIRECT_URIS
    public_key: str = ""
    device_codes: bool = True


SHARED = "support@sandbox.example"
PEOPLE = (
    Person("alice@sandbox.example", "Alice Adams", send_as=(SHARED,), full_access=(SHARED,)),
    Person("bob@sandbox.example", "Bob Brown"),
)
CLIENTS = (
    Client("posthouse"),
    Client("posthouse-office", Secret("a secret for trying out")),
)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """May ask for tokens in the name of everybody here, as with domain-wide delegation at Google."""

    email: str
    public_key: str


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Port 0 lets the system choose. Lifetimes are in seconds, sizes in octets; a limit of 0 means none.

    `rotate`: each refresh gives a new refresh token and ends the old one; `punish_reuse`: an ended one that
    comes back revokes the whole grant; `old_tokens_serve`: ended ones go on working, as at Microsoft.
    `revoke_all`: a token given back ends every grant of its person to that client, as at Google.
    `consent_lifetime`: refresh tokens end so long after the consent, and answers say so; 0: they never end.
    `connections` is for sending, `reading_connections` for IMAP, both for each mailbox; days are the last 24 hours.
    `chunking`: messages may come by BDAT (RFC 3030).
    `openid`: identity tokens are issued. `names_in_id_token`: they hold the person's names, otherwise only userinfo
    does (OpenID Connect Core section 5.4). `challenge`: a refused OAuth login gets the JSON challenge first,
    as at Google (RFC 7628 section 3.2.2), otherwise the refusal at once, as at Microsoft.
    """

    directory: Path
    host: str = "127.0.0.1"
    http_port: int = 0
    control_port: int = 0
    smtp_port: int = 0
    smtps_port: int = 0
    imap_port: int = 0
    imaps_port: int = 0
    pop3_port: int = 0
    pop3s_port: int = 0
    people: tuple[Person, ...] = PEOPLE
    shared: tuple[str, ...] = (SHARED,)
    clients: tuple[Client, ...] = CLIENTS
    service_accounts: tuple[ServiceAccount, ...] = ()
    access_token_lifetime: float = 3600.0
    consent_lifetime: float = 0.0
    code_lifetime: float = 600.0
    device_lifetime: float = 900.0
    device_interval: int = 1
    rotate: bool = True
    punish_reuse: bool = True
    old_tokens_serve: bool = False
    revoke_all: bool = False
    openid: bool = True
    names_in_id_token: bool = True
    challenge: bool = True
    mechanisms: tuple[str, ...] = ("XOAUTH2", "OAUTHBEARER")
    message_size: int = 36_700_160
    connections: int = 0
    reading_connections: int = 0
    messages_per_minute: int = 0
    recipients_per_day: int = 0
    recipients_per_message: int = 0
    chunking: bool = False
    kept_messages: int = 10_000
    kept_octets: int = 256 * 1024 * 1024


EXCHANGE: Mapping[str, Any] = {
    "connections": 3,
    "messages_per_minute": 30,
    "recipients_per_day": 10_000,
    "recipients_per_message": 500,
    "chunking": True,
    "mechanisms": ("XOAUTH2",),
    "challenge": False,
    "old_tokens_serve": True,
    "punish_reuse": False,
}
"""Changes that make a sandbox as strict as Exchange Online; it counts messages too fast where that one only delays."""
STRICT: Mapping[str, Mapping[str, Any]] = {"exchange": EXCHANGE}
"""By the word for `--limits`."""
