"""Google service accounts: an assertion signed by the account's key, in the name of one mailbox (RFC 7523)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from posthouse.oauth.answer import text_of
from posthouse.oauth.client import sign
from posthouse.oauth.message import Request, post
from posthouse.problems import problem
from posthouse.providers.urls import MAX_URL, why_unusable
from posthouse.secret import Secret

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LIFE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """`client_id` is the number that domain-wide delegation is given to."""

    email: str
    key: Secret
    key_id: str
    client_id: str
    token_url: str


def read_service_account(text: Secret) -> ServiceAccount:
    """From the JSON key file that Google gives out. Raises `ProblemError`."""
    members = _members(text)
    key = members.get("private_key")
    account = ServiceAccount(
        email=text_of(members, "client_email", 320),
        key=Secret(key if isinstance(key, str) else ""),
        key_id=text_of(members, "private_key_id", 255),
        client_id=text_of(members, "client_id", 255),
        token_url=text_of(members, "token_uri", MAX_URL),
    )
    if not account.email or not account.key or why_unusable(account.token_url):
        raise _unreadable()
    return account


def ask(account: ServiceAccount, mailbox: str, scopes: Iterable[str], now: datetime) -> Request:
    """A token for `mailbox`. The answer is read by `read_token_answer`; there is no refresh token."""
    header = {"alg": "RS256", **({"kid": account.key_id} if account.key_id else {})}
    issued = int(now.timestamp())
    claims = {
        "iss": account.email,
        "sub": mailbox,
        "scope": " ".join(scopes),
        "aud": account.token_url,
        "iat": issued,
        "exp": issued + int(ASSERTION_LIFE.total_seconds()),
    }
    return post(account.token_url, {"grant_type": GRANT_TYPE, "assertion": sign(account.key, header, claims)})


def _members(text: Secret) -> dict[str, Any]:
    try:
        members = msgspec.json.decode(text.reveal()) if len(text.reveal()) <= 64 * 1024 else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise _unreadable()
    return members


def _unreadable() -> Exception:
    hint = "Give the JSON key file as Google made it."
    return problem("service-account.unreadable", "This is not the key file of a service account.", hint)
