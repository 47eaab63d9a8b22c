"""Giving a token back (RFC 7009), where the provider has a door for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.answer import read_json
from posthouse.oauth.client import Client, Form
from posthouse.oauth.client import request as by_client
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import Answer, Request
from posthouse.secret import Secret


@dataclass(frozen=True, slots=True)
class Revoked:
    """The token is dead at the provider, or was not known there."""


def revoke(
    endpoints: Endpoints,
    client: Client,
    token: Secret,
    now: datetime,
    *,
    kind: Literal["refresh_token", "access_token"] = "refresh_token",
) -> Request | None:
    """None where the provider has no such door. The refresh token ends the whole grant (section 2.1)."""
    if not endpoints.revoke_url:
        return None
    form: Form = {"token": token, "token_type_hint": kind}
    return by_client(client, endpoints.revoke_url, form, now)


def read_revoke(answer: Answer, *, hide: Iterable[Secret] = ()) -> Revoked | Refused | Unreachable:
    """Any success will do: the body carries nothing (section 2.2). An unknown token is as good as a dead one."""
    if 200 <= answer.status < 300:
        return Revoked()
    outcome = read_json(answer, hide=hide)
    match outcome:
        case Refused(error="invalid_token" | "invalid_grant"):
            return Revoked()
        case Refused() | Unreachable():
            return outcome
    return Unreachable(f"HTTP {answer.status}", status=answer.status)
