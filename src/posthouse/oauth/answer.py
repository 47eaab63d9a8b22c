"""Reading answers of an authorisation server. Whatever it sends, an outcome comes back and never an exception."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from posthouse.model.outcome import Granted, Refused, TokenOutcome, Unreachable
from posthouse.oauth.message import MAX_ANSWER, Answer
from posthouse.secret import Secret

ASSUMED_LIFETIME = timedelta(hours=1)
LONGEST_LIFETIME = timedelta(days=366)
LONGEST_REFRESH_LIFETIME = 3660 * 86_400.0
LONGEST_PAUSE = 3600.0
MAX_TOKEN = 64 * 1024
MAX_TEXT = 1000

_TEMPORARY_ERRORS = {
    "temporarily_unavailable",
    "server_error",
    "internal_failure",
    "internal_error",
    "backend_error",
    "rate_limit_exceeded",
    "ratelimitexceeded",
    "service_unavailable",
}
_TOKEN = re.compile(r"[\x21-\x7e]+")  # RFC 6749 appendix A.12, less the space
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NUMBER = re.compile(r"AADSTS\d{1,9}")

Hidden = Iterable[Secret]


def read_token_answer(answer: Answer, *, hide: Hidden = ()) -> TokenOutcome:
    """What a token endpoint said (RFC 6749 sections 5.1 and 5.2). `hide`: secrets of the request."""
    members = read_json(answer, hide=hide)
    if not isinstance(members, dict):
        return members
    return _granted(members, answer)


def read_json(answer: Answer, *, hide: Hidden = ()) -> dict[str, Any] | Refused | Unreachable:
    """The JSON object of a successful answer, else what its failure means."""
    if _is_temporary(answer.status):
        return _unreachable(f"HTTP {answer.status}", answer, busy=True)
    if len(answer.body) > MAX_ANSWER:
        return _unreachable(f"an answer of more than {MAX_ANSWER} octets", answer)
    members = _members(answer.body)
    if members is None:
        return _unreachable(f"HTTP {answer.status} without the expected JSON", answer)
    return _judged(members, answer, hide)


def text_of(members: Mapping[str, Any], name: str, limit: int = MAX_TEXT) -> str:
    """A text member made safe to show: one line, `limit` characters at most, "" where it is something else."""
    value = members.get(name)
    return tidy(value, limit) if isinstance(value, str) else ""


def tidy(text: str, limit: int = MAX_TEXT) -> str:
    return " ".join(_CONTROLS.sub(" ", text[: 4 * limit]).split())[:limit]


def token_of(members: Mapping[str, Any], name: str) -> Secret | None:
    """A token member that may be put on a wire; None where it is missing or could smuggle something in."""
    value = members.get(name)
    if isinstance(value, str) and len(value) <= MAX_TOKEN and _TOKEN.fullmatch(value):
        return Secret(value)
    return None


def seconds_of(members: Mapping[str, Any], name: str) -> float | None:
    """A positive number of seconds, also where it is written as text; None where there is none."""
    value = members.get(name)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        return None
    return float(value)


def words_of(members: Mapping[str, Any], name: str, limit: int = 200) -> tuple[str, ...]:
    """Words of a text with blanks between, or of a list of texts; `limit` of them at most."""
    value = members.get(name)
    items = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(tidy(item, 300) for item in items[:limit] if isinstance(item, str))


def retry_after(answer: Answer) -> float | None:
    """Seconds from Retry-After (RFC 9110 section 10.2.3), an hour at most. A date counts from the answer's own."""
    value = answer.header("retry-after").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), LONGEST_PAUSE)
    until, since = _date(value), _date(answer.header("date"))
    if until is None or since is None:
        return None
    return min(max((until - since).total_seconds(), 0.0), LONGEST_PAUSE)


def _is_temporary(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def _unreachable(what: str, answer: Answer, *, busy: bool = False) -> Unreachable:
    acted = 200 <= answer.status < 300 or (answer.status >= 500 and answer.status != 503)
    return Unreachable(what, retry_after(answer), outcome_unknown=acted, status=answer.status, busy=busy)


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _judged(members: dict[str, Any], answer: Answer, hide: Hidden) -> dict[str, Any] | Refused | Unreachable:
    error = _error_of(members)
    if error.lower() in _TEMPORARY_ERRORS:
        return _unreachable(error, answer, busy=True)
    if error:
        return _refused(error, members, answer.status, tuple(hide))
    if not 200 <= answer.status < 300:
        return _unreachable(f"HTTP {answer.status} without an OAuth error", answer)
    return members


def _error_of(members: Mapping[str, Any]) -> str:
    """Some servers put an object where RFC 6749 has a word."""
    error = members.get("error")
    if isinstance(error, dict):
        return text_of(error, "status", 100) or text_of(error, "code", 100)
    return text_of(members, "error", 100)


def _refused(error: str, members: Mapping[str, Any], status: int, hide: tuple[Secret, ...]) -> Refused:
    description = _without(hide, text_of(members, "error_description", 4 * MAX_TEXT))
    return Refused(
        error=_without(hide, error),
        suberror=_without(hide, text_of(members, "suberror", 100) or text_of(members, "error_subtype", 100)),
        description=description[:MAX_TEXT],
        codes=_codes(members, description),
        trace=_without(hide, _trace(members)),
        status=status,
    )


def _without(hide: tuple[Secret, ...], text: str) -> str:
    for secret in hide:
        if secret:
            text = text.replace(secret.reveal(), "…")
    return text


def _codes(members: Mapping[str, Any], description: str) -> tuple[str, ...]:
    listed = members.get("error_codes")
    numbers = [f"AADSTS{n}" for n in listed[:10] if type(n) is int and n >= 0] if isinstance(listed, list) else []
    return tuple(dict.fromkeys([*numbers, *_NUMBER.findall(description)]))[:10]


def _trace(members: Mapping[str, Any]) -> str:
    names = ("trace_id", "correlation_id", "timestamp")
    return ", ".join(f"{name} {value}" for name in names if (value := text_of(members, name, 100)))


def _granted(members: Mapping[str, Any], answer: Answer) -> TokenOutcome:
    access_token = token_of(members, "access_token")
    if access_token is None:
        return _unreachable("an answer without a usable access token", answer)
    kind = text_of(members, "token_type", 50)
    if kind and kind.lower() != "bearer":
        return Refused("unsupported_token_type", description=f"token_type {kind}", status=answer.status)
    if members.get("refresh_token") and token_of(members, "refresh_token") is None:
        return _unreachable("an answer with an unusable refresh token", answer)
    seconds = seconds_of(members, "expires_in")
    return Granted(
        access_token=access_token,
        lifetime=_lifetime(seconds),
        refresh_token=token_of(members, "refresh_token"),
        scopes=words_of(members, "scope"),
        id_token=token_of(members, "id_token"),
        assumed_lifetime=seconds is None,
        refresh_lifetime=_refresh_lifetime(members),
    )


def _lifetime(seconds: float | None) -> timedelta:
    if seconds is None:
        return ASSUMED_LIFETIME
    return min(timedelta(seconds=seconds), LONGEST_LIFETIME)


def _refresh_lifetime(members: Mapping[str, Any]) -> timedelta | None:
    """Google, GitHub and Microsoft write it one way, Keycloak the other; more than ten years are no end."""
    told = seconds_of(members, "refresh_token_expires_in") or seconds_of(members, "refresh_expires_in")
    return timedelta(seconds=told) if told is not None and told <= LONGEST_REFRESH_LIFETIME else None


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else None
