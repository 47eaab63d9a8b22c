"""Reading an authorisation request (RFC 6749 section 4.1.1, RFC 7636, OpenID Connect Core section 3.1.2.1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit

from posthouse.sandbox.settings import SCOPES, Client

CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
PROMPTS = ("login", "consent", "select_account")


class UnsafeRequestError(Exception):
    """Nothing may be sent back to where the request claims to come from; only a page can say so."""


class AuthorizeError(Exception):
    """An error for the program that asks (RFC 6749 section 4.1.2.1)."""

    def __init__(self, error: str, sentence: str) -> None:
        super().__init__(f"{error}: {sentence}")
        self.error = error
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class ReturnAddress:
    """Where the answer to an authorisation request goes; checked against the registration."""

    client: Client
    redirect_uri: str
    state: str

    def url(self, issuer: str, **answer: str) -> str:
        """The answer as a URL with `state` and `iss` (RFC 9207)."""
        state = {"state": self.state} if self.state else {}
        joint = "&" if urlsplit(self.redirect_uri).query else "?"
        return f"{self.redirect_uri}{joint}{urlencode({**answer, **state, 'iss': issuer})}"


@dataclass(frozen=True, slots=True)
class AuthorizeRequest:
    """A checked request."""

    back: ReturnAddress
    scopes: tuple[str, ...]
    challenge: str
    nonce: str
    prompts: tuple[str, ...]
    login_hint: str


def return_address(form: Mapping[str, str], clients: Mapping[str, Client]) -> ReturnAddress:
    """Where to answer. Raises UnsafeRequestError for an unknown client or redirect URL."""
    client = clients.get(form.get("client_id", ""))
    if client is None:
        raise UnsafeRequestError("No app is registered under this client_id.")
    redirect_uri = form.get("redirect_uri", "")
    if not any(matches(redirect_uri, registered) for registered in client.redirect_uris):
        raise UnsafeRequestError(
            "The redirect_uri of the request is not registered for this app. It has to be one of: "
            + ", ".join(client.redirect_uris)
        )
    return ReturnAddress(client, redirect_uri, form.get("state", ""))


def read_request(form: Mapping[str, str], back: ReturnAddress) -> AuthorizeRequest:
    """The rest of the request. Raises AuthorizeError."""
    if form.get("response_type") != "code":
        raise AuthorizeError("unsupported_response_type", "Only response_type=code is offered.")
    if form.get("response_mode", "query") != "query":
        raise AuthorizeError("invalid_request", "Only response_mode=query is offered.")
    challenge = form.get("code_challenge", "")
    if form.get("code_challenge_method") != "S256" or not CHALLENGE.fullmatch(challenge):
        raise AuthorizeError("invalid_request", "A code_challenge with the method S256 is needed.")
    prompts = tuple(form.get("prompt", "").split())
    if prompts != ("none",) and not set(prompts) <= set(PROMPTS):
        raise AuthorizeError("invalid_request", f"prompt is none alone, or of {', '.join(PROMPTS)}.")
    nonce, hint = form.get("nonce", ""), form.get("login_hint", "")
    return AuthorizeRequest(back, read_scopes(form), challenge, nonce, prompts, hint)


def read_scopes(form: Mapping[str, str]) -> tuple[str, ...]:
    """The scopes asked for, each once. Raises AuthorizeError for none or an unknown one."""
    scopes = tuple(dict.fromkeys(form.get("scope", "").split()))
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise AuthorizeError("invalid_scope", f"The scopes are {', '.join(SCOPES)}.")
    return scopes


def matches(redirect_uri: str, registered: str) -> bool:
    """Exactly alike, or alike but for the port where both are on loopback (RFC 8252 section 7.3)."""
    if redirect_uri == registered:
        return True
    asked, known = _without_port(redirect_uri), _without_port(registered)
    return asked is not None and asked == known


def _without_port(url: str) -> tuple[str, str, str] | None:
    """Host, path and query of a plain loopback URL, None for any other."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return None
    plain = parts.scheme == "http" and parts.username is None and "#" not in url
    return (host, parts.path, parts.query) if plain and _is_loopback(host) else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
