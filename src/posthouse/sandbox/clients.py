"""Which program asks: the client's name and secret, in the header or in the form (RFC 6749 section 2.3.1)."""

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import unquote_plus

from posthouse.sandbox.settings import Client
from posthouse.secret import Secret


class ClientError(Exception):
    """The client is not known or has not proved itself: `invalid_client`, status 401."""


def authenticate(form: Mapping[str, str], header: str, clients: Mapping[str, Client]) -> Client:
    """The client that asks. Raises ClientError."""
    name, secret = _claimed(form, header)
    client = clients.get(name)
    if client is None:
        raise ClientError("No app is registered under this client_id.")
    if client.secret is None and secret:
        raise ClientError("This app is public: it has no secret.")
    if client.secret is not None and client.secret != secret:
        raise ClientError("The client secret is wrong or missing.")
    return client


def _claimed(form: Mapping[str, str], header: str) -> tuple[str, Secret]:
    if not header:
        return form.get("client_id", ""), Secret(form.get("client_secret", ""))
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or "client_secret" in form:
        raise ClientError("A client proves itself in one way only.")
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise ClientError("The Authorization header cannot be read.") from None
    return unquote_plus(name), Secret(unquote_plus(secret))
