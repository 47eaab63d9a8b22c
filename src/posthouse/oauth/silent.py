"""Asking the browser's door whether it knows us, without a browser and without anybody signing in.

With `prompt=none` (OpenID Connect Core section 3.1.2.1) a provider that knows the app and its redirect URL sends an
error such as `login_required` back to that URL. One that does not shows a page of its own, since nothing may be sent
to an address that is not registered (RFC 6749 section 4.1.2.1); what such pages say is read here.
"""

import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import unescape
from urllib.parse import urljoin, urlsplit

import msgspec

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.answer import read_json, tidy
from posthouse.oauth.client import Client
from posthouse.oauth.code import MAX_CALLBACK, Attempt, begin, parameters_of, read_error
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import MAX_ANSWER, Answer, Request

NOBODY_THERE = {
    "login_required",
    "interaction_required",
    "account_selection_required",
    "consent_required",
    "immediate_failed",
}
"""Nobody is signed in, which is what was to be found out."""
_WORDS = re.compile(
    r"\b(?:invalid_redirect_uri|redirect_uri_mismatch|INVALID_REDIRECT_URI|INVALID_CALLBACK|invalid_client|INVALID_CLIENT"
    r"|deleted_client|disabled_client|unauthorized_client|org_internal|invalid_scope|invalid_tenant|invalid_request"
    r"|unsupported_response_type|admin_policy_enforced|access_not_configured|access_denied)\b"
)
"""Errors that pages of providers name; of several the first of this kind on the page counts."""
_EXCEPTION = re.compile(r'"strServiceExceptionMessage":("(?:[^"\\]|\\.){1,4000}")')
_NUMBER = re.compile(r"AADSTS\d{5,9}(?=:)")
_UNREAD = ("script", "style", "title")
"""Elements of a page whose text nobody reads."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The door is open. `known`: app and redirect URL are registered; else no objection was raised, which is less."""

    known: bool
    what: str


def ask(
    endpoints: Endpoints, client: Client, *, redirect_uri: str, scopes: Iterable[str], parameters: Mapping[str, str]
) -> tuple[Attempt, Request]:
    """The attempt is for reading the answer, and nothing else. Raises ProblemError where there is no such door."""
    wanted = {**parameters, "prompt": "none"}
    attempt = begin(endpoints, client, redirect_uri=redirect_uri, scopes=scopes, parameters=wanted)
    return attempt, Request("GET", attempt.url, {"Accept": "text/html, application/json;q=0.5"})


def read(answer: Answer, attempt: Attempt) -> Opened | Refused | Unreachable:
    if answer.status in (408, 425, 429) or answer.status >= 500:
        return Unreachable(f"HTTP {answer.status}", status=answer.status)
    if len(answer.body) > MAX_ANSWER:
        return Unreachable(f"an answer of more than {MAX_ANSWER} octets", status=answer.status)
    if 300 <= answer.status < 400:
        return _sent_on(answer.header("location")[:MAX_CALLBACK], attempt)
    return _shown(answer)


def _sent_on(location: str, attempt: Attempt) -> Opened | Refused | Unreachable:
    try:
        location = urljoin(attempt.url, location)
        parts = urlsplit(location)
    except ValueError:
        return Unreachable("a redirect that leads nowhere")
    parameters = parameters_of(parts.query or parts.fragment)
    back = location.startswith((f"{attempt.redirect_uri}?", f"{attempt.redirect_uri}#"))
    error = parameters.get("error", "")
    if back and (error in NOBODY_THERE or "code" in parameters):
        return Opened(True, f"{error or 'code'} at {attempt.redirect_uri}")
    if error:
        return read_error(parameters)
    if parameters.get("authError"):
        return _of_text(_decoded(parameters["authError"]), 400)
    return Opened(False, f"a redirect to {tidy(f'{parts.scheme}://{parts.netloc}{parts.path}', 200)}")


def _shown(answer: Answer) -> Opened | Refused | Unreachable:
    text = answer.body.decode("utf-8", "replace")
    if "json" in answer.header("content-type"):
        found = read_json(answer)
        return Opened(False, f"HTTP {answer.status}") if isinstance(found, dict) else found
    exception = _EXCEPTION.search(text)
    if exception is not None:
        return _of_text(_unquoted(exception[1]), answer.status)
    readable = _readable(text)
    if answer.status >= 400 or _NUMBER.search(readable):
        return _of_text(readable, answer.status)
    return Opened(False, f"HTTP {answer.status}")


def _readable(page: str) -> str:
    """The text of a page without its tags; time grows with its length only, whatever it is made of."""
    first, *pieces = page.split("<")
    found, within = [first], ""
    for piece in pieces:
        tag, _, text = piece.partition(">")
        name = tag.lower()
        if within:
            within = "" if name.startswith(f"/{within}") else within
            continue
        within = next((unread for unread in _UNREAD if name.startswith(unread)), "")
        found.append("" if within else text)
    return unescape(" ".join(found))


def _of_text(text: str, status: int) -> Refused:
    """A refusal in words for people: its error where one is named, and Microsoft's number."""
    word = _WORDS.search(text)
    codes = tuple(dict.fromkeys(_NUMBER.findall(text)))[:10]
    return Refused(word[0] if word else "", description=tidy(text, 600), codes=codes, status=status)


def _decoded(written: str) -> str:
    """Google's error page takes what it says from its address: base64 of a protocol buffer with texts in it."""
    padded = written[:8192].rstrip("=")
    try:
        octets = urlsafe_b64decode(padded + "=" * (-len(padded) % 4))
    except ValueError:
        return ""
    return " ".join(re.findall(r"[ -~]{4,}", octets.decode("utf-8", "replace")))


def _unquoted(literal: str) -> str:
    try:
        return str(msgspec.json.decode(literal))
    except (msgspec.DecodeError, ValueError):
        return literal
