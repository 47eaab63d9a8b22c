"""Sign-in on another device: a code to type, a page to open, questions until it is done (RFC 8628)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from posthouse.model.outcome import Granted, Pending, Refused, SlowDown, Unreachable
from posthouse.oauth.answer import read_json, read_token_answer, seconds_of, text_of, token_of
from posthouse.oauth.client import Client, Form
from posthouse.oauth.client import request as by_client
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import Answer, Request
from posthouse.problems import problem
from posthouse.providers.urls import MAX_URL, why_unusable
from posthouse.secret import Secret

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
USUAL_INTERVAL = 5.0
LONGEST_INTERVAL = 120.0
LONGEST_LIFE = timedelta(hours=24)
_USER_CODE = re.compile(r"[\x20-\x7e]{1,64}")

Poll = Granted | Pending | SlowDown | Refused | Unreachable


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """`user_code` and `verification_uri` are shown to the person, `interval` is seconds between questions."""

    user_code: str = field(repr=False)
    verification_uri: str
    verification_uri_complete: str = field(repr=False)
    expires_in: timedelta
    interval: float
    device_code: Secret


def start(endpoints: Endpoints, client: Client, scopes: Iterable[str], now: datetime) -> Request:
    """RFC 8628 section 3.1. Raises `ProblemError` where the provider has no such door."""
    if not endpoints.device_url:
        raise problem("device.none", "This provider has no device sign-in.", "Use the browser sign-in.")
    return by_client(client, endpoints.device_url, {"scope": " ".join(scopes)}, now)


def read_start(answer: Answer, *, hide: Iterable[Secret] = ()) -> DeviceCode | Refused | Unreachable:
    """RFC 8628 section 3.2. An answer that no person could act on counts as none."""
    members = read_json(answer, hide=hide)
    if not isinstance(members, dict):
        return members
    device_code, user_code = token_of(members, "device_code"), text_of(members, "user_code", 65)
    page = text_of(members, "verification_uri", MAX_URL + 1) or text_of(members, "verification_url", MAX_URL + 1)
    if device_code is None or not _USER_CODE.fullmatch(user_code) or why_unusable(page):
        return Unreachable("an answer without a usable device code", status=answer.status)
    complete = text_of(members, "verification_uri_complete", MAX_URL + 1)
    life = timedelta(seconds=min(seconds_of(members, "expires_in") or 900.0, LONGEST_LIFE.total_seconds()))
    interval = min(max(seconds_of(members, "interval") or USUAL_INTERVAL, 1.0), LONGEST_INTERVAL)
    return DeviceCode(user_code, page, "" if why_unusable(complete) else complete, life, interval, device_code)


def poll(endpoints: Endpoints, client: Client, device_code: Secret, now: datetime) -> Request:
    """RFC 8628 section 3.4."""
    form: Form = {"grant_type": GRANT_TYPE, "device_code": device_code}
    return by_client(client, endpoints.token_url, form, now)


def read_poll(answer: Answer, *, hide: Iterable[Secret] = ()) -> Poll:
    """RFC 8628 section 3.5."""
    outcome = read_token_answer(answer, hide=hide)
    match outcome:
        case Refused(error="authorization_pending"):
            return Pending()
        case Refused(error="slow_down"):
            return SlowDown()
    return outcome


def interval_after(interval: float, outcome: Poll) -> float:
    """Seconds until the next question: five more for good after `SlowDown`, twice as many after no answer."""
    match outcome:
        case SlowDown():
            return min(interval + 5.0, LONGEST_INTERVAL)
        case Unreachable(retry_after=pause):
            return min(max(interval * 2, pause or 0.0), LONGEST_INTERVAL)
    return interval
