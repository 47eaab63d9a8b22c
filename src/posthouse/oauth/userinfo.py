"""Asking the server who the person is (OIDC Core section 5.3)."""

from collections.abc import Iterable, Mapping
from typing import Any

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.answer import read_json
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import Answer, Request, get
from posthouse.secret import Secret


def userinfo(endpoints: Endpoints, access_token: Secret) -> Request | None:
    """None where the server has no such door."""
    if not endpoints.userinfo_url:
        return None
    return get(endpoints.userinfo_url, bearer=access_token)


def read_userinfo(answer: Answer, *, hide: Iterable[Secret] = ()) -> Mapping[str, Any] | Refused | Unreachable:
    """The claims. `identity.identity_from_userinfo` reads them; signed answers are not taken."""
    return read_json(answer, hide=hide)
