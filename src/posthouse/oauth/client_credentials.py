"""A token for the app itself, nobody signing in (RFC 6749 section 4.4). `read_token_answer` reads the answer."""

from collections.abc import Iterable
from datetime import datetime

from posthouse.oauth.client import Client
from posthouse.oauth.client import request as by_client
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import Request


def ask(endpoints: Endpoints, client: Client, scopes: Iterable[str], now: datetime) -> Request:
    """At Microsoft a success here does not prove that the app was granted any mail role."""
    form = {"grant_type": "client_credentials", "scope": " ".join(scopes)}
    return by_client(client, endpoints.token_url, form, now)
