"""Browser sign-in: authorisation code with PKCE (RFC 6749 section 4.1, RFC 7636, RFC 9207, OIDC Core section 3.1)."""

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode, urlsplit

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.answer import tidy
from posthouse.oauth.client import Client, Form
from posthouse.oauth.client import request as by_client
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import Request
from posthouse.problems import problem
from posthouse.providers.urls import why_unusable
from posthouse.secret import Secret

MAX_CALLBACK = 16 * 1024
_CODE = re.compile(r"[\x21-\x7e]{1,8192}")
_TEMPORARY = {"temporarily_unavailable", "server_error"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sign-in under way. `url` is where the browser goes; keep all of it secret and use it once."""

    url: str = field(repr=False)
    state: Secret
    nonce: Secret
    verifier: Secret
    redirect_uri: str


@dataclass(frozen=True, slots=True)
class Code:
    """The provider's permission, to be exchanged at once: it lives for minutes and works once."""

    value: Secret


@dataclass(frozen=True, slots=True)
class NotOurs:
    """A callback that does not belong to the attempt. It proves nothing, also no failure: the attempt goes on."""

    what: str


Callback = Code | Refused | Unreachable | NotOurs


def begin(
    endpoints: Endpoints,
    client: Client,
    *,
    redirect_uri: str,
    scopes: Iterable[str],
    parameters: Mapping[str, str] | None = None,
    login_hint: str = "",
) -> Attempt:
    """A sign-in to send a person to. `parameters`: the provider's own, such as `prompt` (`Provider.authorize`).

    Raises `ProblemError` where the provider has no such door.
    """
    if not endpoints.authorize_url:
        raise problem("browser.none", "This provider has no browser sign-in.", "Use another way to get a token.")
    if why_unusable(redirect_uri):
        sentence = f"A sign-in would come back to {redirect_uri}, where others could read it."
        raise problem("browser.clear", sentence, "Set external_url to an https:// address, or use a device code.")
    wanted = tuple(scopes)
    state, nonce, verifier = (Secret(secrets.token_urlsafe(32)) for _ in range(3))
    asked = {
        **_prompt(endpoints, wanted),
        **(parameters or {}),
        **({"login_hint": login_hint} if login_hint else {}),
        **({"nonce": nonce.reveal()} if "openid" in wanted else {}),
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(wanted),
        "state": state.reveal(),
        "code_challenge": challenge(verifier),
        "code_challenge_method": "S256",
    }
    return Attempt(_with_query(endpoints.authorize_url, asked), state, nonce, verifier, redirect_uri)


def challenge(verifier: Secret) -> str:
    """RFC 7636 section 4.2, S256."""
    return urlsafe_b64encode(sha256(verifier.reveal().encode()).digest()).rstrip(b"=").decode("ascii")


def parameters_of(url: str) -> dict[str, str]:
    """The parameters of a callback address, also of one a person pasted; {} where it is unreadable.

    A parameter that comes twice makes it unreadable (RFC 6749 section 3.1).
    """
    text = url.strip()
    if len(text) > MAX_CALLBACK:
        return {}
    try:
        parts = urlsplit(text)
        pairs = parse_qsl(parts.query or text.partition("?")[2] or text, max_num_fields=50, errors="strict")
    except ValueError:
        return {}
    return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else {}


def path_of(url: str) -> str:
    """The path of a callback address that a person pasted; "" where only its parameters were, or it is unreadable."""
    try:
        parts = urlsplit(url.strip()) if len(url) <= MAX_CALLBACK else urlsplit("")
    except ValueError:
        return ""
    return parts.path if parts.netloc else ""


def read_callback(
    parameters: Mapping[str, str], attempt: Attempt, endpoints: Endpoints, *, came_to: str = ""
) -> Callback:
    """What the browser brought back: `state` is looked at first, then who answers, then the answer.

    That is told by `iss` (RFC 9207) and by the path it `came_to`, where that is known.
    """
    if not _same(parameters.get("state", ""), attempt.state):
        return NotOurs("state is missing or belongs to another sign-in")
    if came_to and not (urlsplit(attempt.redirect_uri).path or "/").endswith(came_to):
        return Refused("iss", description=f"The answer came to {tidy(came_to, 200)}, where another provider answers.")
    foreign = _wrong_issuer(parameters, endpoints)
    if foreign:
        return Refused("iss", description=foreign)
    if "error" in parameters:
        return read_error(parameters)
    code = parameters.get("code", "")
    if not _CODE.fullmatch(code):
        return Refused("invalid_response", description="The callback brings neither a code nor an error.")
    return Code(Secret(code))


def exchange(endpoints: Endpoints, client: Client, attempt: Attempt, code: Code, now: datetime) -> Request:
    """RFC 6749 section 4.1.3. The answer is read by `read_token_answer`."""
    form: Form = {
        "grant_type": "authorization_code",
        "code": code.value,
        "redirect_uri": attempt.redirect_uri,
        "code_verifier": attempt.verifier,
    }
    return by_client(client, endpoints.token_url, form, now)


def _prompt(endpoints: Endpoints, scopes: tuple[str, ...]) -> dict[str, str]:
    """Nobody consents unseen as whoever happens to be signed in: an account choice where the server knows that word,
    else a new login (OIDC Core section 3.1.2.1). Offline access needs the consent prompt as well (section 11).
    """
    words = ["consent"] if "offline_access" in scopes else []
    if "select_account" in endpoints.prompts_supported:
        words.append("select_account")
    elif "openid" in scopes:
        words.append("login")
    return {"prompt": " ".join(words)} if words else {}


def _with_query(url: str, parameters: Mapping[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(parameters)}"


def _same(text: str, secret: Secret) -> bool:
    return hmac.compare_digest(text.encode("utf-8", "replace"), secret.reveal().encode())


def _wrong_issuer(parameters: Mapping[str, str], endpoints: Endpoints) -> str:
    issuer = parameters.get("iss", "")
    if issuer and not endpoints.issuer and _host(issuer) != _host(endpoints.authorize_url):
        said = tidy(issuer, 200)
        return f'The answer comes from {said}, and the provider here has no issuer: write issuer = "{said}" if it is.'
    if issuer and endpoints.issuer and not endpoints.is_issued_by(issuer):
        return f"The answer comes from {tidy(issuer, 200)}, not from {endpoints.issuer}."
    if not issuer and endpoints.iss_in_callback:
        return f"The answer does not say that it comes from {endpoints.issuer}."
    return ""


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def read_error(parameters: Mapping[str, str]) -> Refused | Unreachable:
    """RFC 6749 section 4.1.2.1; `parameters` have an `error`."""
    error = tidy(parameters["error"], 100) or "invalid_response"
    description = tidy(parameters.get("error_description", ""))
    if error in _TEMPORARY:
        return Unreachable(error)
    codes = tuple(dict.fromkeys(re.findall(r"AADSTS\d{1,9}", description)))[:10]
    return Refused(error, tidy(parameters.get("error_subcode", ""), 100), description, codes)
