"""Asking the server about a token of its own (RFC 7662)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.answer import read_json, text_of, words_of
from posthouse.oauth.client import Client, Form
from posthouse.oauth.client import request as by_client
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import Answer, Request
from posthouse.secret import Secret


@dataclass(frozen=True, slots=True)
class Introspection:
    """RFC 7662 section 2.2; "" for what the server keeps to itself."""

    active: bool
    username: str = ""
    subject: str = ""
    issuer: str = ""
    client_id: str = ""
    scopes: tuple[str, ...] = ()


def introspect(endpoints: Endpoints, client: Client, token: Secret, now: datetime) -> Request | None:
    """None where the server has no such door."""
    if not endpoints.introspection_url:
        return None
    form: Form = {"token": token, "token_type_hint": "access_token"}
    return by_client(client, endpoints.introspection_url, form, now)


def read_introspection(answer: Answer, *, hide: Iterable[Secret] = ()) -> Introspection | Refused | Unreachable:
    """What the server says; a token that is not `active` tells nothing else."""
    members = read_json(answer, hide=hide)
    if not isinstance(members, dict):
        return members
    if members.get("active") is not True:
        return Introspection(active=False)
    return Introspection(
        active=True,
        username=text_of(members, "username", 320),
        subject=text_of(members, "sub", 255),
        issuer=text_of(members, "iss", 2048),
        client_id=text_of(members, "client_id", 255),
        scopes=words_of(members, "scope"),
    )
