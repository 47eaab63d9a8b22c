"""Refreshing an access token (RFC 6749 section 6). The answer is read by `read_token_answer`."""

from collections.abc import Iterable
from datetime import datetime

from posthouse.oauth.client import Client
from posthouse.oauth.client import request as by_client
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import Request
from posthouse.secret import Secret


def refresh(
    endpoints: Endpoints, client: Client, refresh_token: Secret, now: datetime, *, scopes: Iterable[str] = ()
) -> Request:
    """`scopes` only where the provider wants them named (`Provider.scope_in_refresh`); none means: as granted."""
    scope = " ".join(scopes)
    form: dict[str, str | Secret] = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return by_client(client, endpoints.token_url, {**form, **({"scope": scope} if scope else {})}, now)
