"""What an app registration is for, and what its provider allows: ways, credentials, redirect URLs."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from posthouse.problems import Problem, ProblemError
from posthouse.providers.provider import KnownClient, Protocol, Provider, callback_path
from posthouse.providers.urls import is_loopback

Way = Literal["browser", "device", "paste", "link", "app"]
Credential = Literal["none", "secret", "certificate", "service_account"]
WAYS: tuple[Way, ...] = get_args(Way)
CREDENTIALS: tuple[Credential, ...] = get_args(Credential)
WITH_REDIRECT: tuple[Way, ...] = ("browser", "paste", "link")
BORROWED_WAYS: tuple[Way, ...] = ("device", "paste")
"""What somebody else's registration can be used for."""
MOST_MAILBOXES = 200

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
_TENANT = re.compile(r"[A-Za-z0-9.-]{0,253}")
_CLIENT_ID = re.compile(r"[A-Za-z0-9._~=:/-]{0,255}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{0,100}")
_METHODS: Mapping[str, Credential] = {
    "none": "none",
    "post": "secret",
    "basic": "secret",
    "private_key_jwt": "certificate",
}


def N_(sentence: str) -> str:  # noqa: N802 - gettext's own name for "to be translated later"
    return sentence


NO_OAUTH = N_("%(title)s offers no OAuth for mail. Use an app password; no app registration is needed.")
NO_BROWSER = N_("%(title)s has no sign-in in the browser.")
NO_DEVICE = N_("%(title)s gives no device codes for mail.")
NO_APP = N_("%(title)s gives no tokens to an app by itself.")
NEEDS_HTTPS = N_(
    "%(title)s takes only an https redirect URL that is not on localhost. Set external_url in posthouse.toml to the"
    " https address of this page."
)
NEEDS_HTTPS_OR_LOCALHOST = N_(
    "%(title)s takes an http redirect URL for localhost only. Set external_url in posthouse.toml to the https address"
    " of this page, or use a device code."
)
NEEDS_NAME = N_(
    "%(title)s takes only an https redirect URL with a public host name, or an http one on this machine. Set"
    " external_url in posthouse.toml to the https address of this page."
)
ELSEWHERE = N_(
    "The redirect URL leads to localhost: in the browser only somebody at the gateway's own machine can finish the"
    " sign-in. Elsewhere paste the address, or use a device code."
)


KNOWN_CLIENT = N_(
    "This is the app registration of %(client)s, not yours. Its makers ask others not to use it; they or the provider"
    " can end it any day, and then every sign-in ends with it. The consent names %(client)s instead of Posthouse."
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence to be translated, and what is put into its holes."""

    text: str
    values: Mapping[str, str] = field(default_factory=dict)

    def said(self, translate: Callable[[str], str]) -> str:
        return translate(self.text) % self.values

    def __str__(self) -> str:
        return self.said(str)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the registration is for. `redirect_url` is where this gateway lets sign-ins come back to.

    `credential` "" leaves the choice to us; `client_id` names a registration that exists already, `name` ours for it.
    Raises ProblemError for values that no provider has: they are put into scripts.
    """

    redirect_url: str
    way: Way = "browser"
    protocols: tuple[Protocol, ...] = ("smtp",)
    credential: Credential | Literal[""] = ""
    mailboxes: tuple[str, ...] = ()
    tenant: str = ""
    client_id: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        wrong = tuple(_wrong_in(self))
        if wrong:
            raise ProblemError(*wrong, status=64)


def ways_of(provider: Provider) -> tuple[Way, ...]:
    """The ways that are open as far as the provider's data say; what only discovery tells counts as open."""
    return tuple(way for way in WAYS if closed(provider, way) is None)


def closed(provider: Provider, way: Way) -> Sentence | None:
    """Why this way is not open; None where it is."""
    reason = _why_closed(provider, way)
    return Sentence(reason, {"title": provider.title}) if reason else None


def credentials_of(provider: Provider, way: Way) -> tuple[Credential, ...]:
    """What a registration for this way can show itself with, the usual one first."""
    if way == "app" and provider.family == "google":
        return ("service_account",)
    found = dict.fromkeys(_METHODS[method] for method in provider.client_methods)
    return tuple(one for one in found if way != "app" or one != "none")


def known_client(provider: Provider, client_id: str) -> KnownClient | None:
    """Somebody else's registration, by the name that a person chose for it or by its client id."""
    known = provider.known_clients
    return known.get(client_id) or next((one for one in known.values() if one.client_id == client_id), None)


def client_warnings(provider: Provider, client_id: str) -> tuple[Sentence, ...]:
    """What is against a registration, whatever the provider says of it."""
    known = known_client(provider, client_id)
    return (Sentence(KNOWN_CLIENT, {"client": known.title}),) if known else ()


def redirect_url_of(provider: Provider, client_id: str, external_url: str) -> str:
    """What has to be registered, exactly so: a place below `external_url`; for somebody else's registration theirs."""
    known = known_client(provider, client_id)
    return known.redirect_url if known else f"{external_url}{callback_path(provider)}"


def redirect_problem(provider: Provider, redirect_url: str) -> Sentence | None:
    """Why the provider would not let this redirect URL be registered; None where it would."""
    parts = urlsplit(redirect_url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    named = secure and not _is_number(host) and "." in host
    fits, sentence = {
        "any": (True, ""),
        "https": (secure and not is_loopback(host), NEEDS_HTTPS),
        "localhost": (secure or host == "localhost", NEEDS_HTTPS_OR_LOCALHOST),
        "loopback": (named or is_loopback(host), NEEDS_NAME),
    }[provider.registering.redirect_urls]
    return None if fits else Sentence(sentence, {"title": provider.title})


def redirect_warnings(provider: Provider, way: Way, redirect_url: str) -> tuple[Sentence, ...]:
    """What will be in the way of a sign-in that comes back to this URL."""
    if way not in WITH_REDIRECT:
        return ()
    refused = redirect_problem(provider, redirect_url)
    if refused is not None:
        return (refused,)
    local = is_loopback(urlsplit(redirect_url).hostname or "") and way != "paste"
    return (Sentence(ELSEWHERE),) if local else ()


def _why_closed(provider: Provider, way: Way) -> str:
    discovered = bool(provider.issuer) and not provider.token_url
    if not provider.has_oauth:
        return NO_OAUTH
    if way == "device":
        return "" if provider.device_url or discovered else NO_DEVICE
    if way == "app":
        return "" if any(_of(provider.app_only)) else NO_APP
    return "" if provider.authorize_url or discovered else NO_BROWSER


def _of(scopes: Any) -> Iterator[tuple[str, ...]]:
    return (getattr(scopes, name) for name in ("smtp", "imap", "pop3"))


def _wrong_in(wish: Wish) -> Iterator[Problem]:
    if len(wish.mailboxes) > MOST_MAILBOXES:
        yield Problem("guide.many", f"At most {MOST_MAILBOXES} mailboxes fit into a script.")
    for address in wish.mailboxes:
        if not _ADDRESS.fullmatch(address):
            yield Problem("guide.address", f"{address[:100]!r} cannot be put into a script.", "Name it by hand there.")
    if not _TENANT.fullmatch(wish.tenant):
        yield Problem("guide.tenant", "This is not a tenant.", "Give the directory's id or a domain of it.")
    if not _CLIENT_ID.fullmatch(wish.client_id):
        yield Problem("guide.client", "This is not a client id.")
    if not _NAME.fullmatch(wish.name):
        yield Problem("guide.name", "This is not a name for an app registration.")


def _is_number(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False
