"""Which program asks: by name and secret (RFC 6749 section 2.3.1), or by a signed assertion (RFC 7523)."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from posthouse.sandbox.settings import Client
from posthouse.secret import Secret

ALGORITHMS = ["RS256", "PS256", "ES256"]
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class ClientError(Exception):
    """The client is not known or has not proved itself: `invalid_client`, status 401."""


def authenticate(
    form: Mapping[str, str], header: str, clients: Mapping[str, Client], issuer: str, now: float
) -> Client:
    """The client that asks. Raises ClientError."""
    name, secret = _claimed(form, header)
    client = clients.get(name)
    if client is None:
        raise ClientError("No app is registered under this client_id.")
    if client.public_key:
        return _by_assertion(client, form, issuer, now)
    if client.secret is None and secret:
        raise ClientError("This app is public: it has no secret.")
    if client.secret is not None and client.secret != secret:
        raise ClientError("The client secret is wrong or missing.")
    return client


def _by_assertion(client: Client, form: Mapping[str, str], issuer: str, now: float) -> Client:
    if form.get("client_assertion_type") != ASSERTION:
        raise ClientError("This app has to show itself with a signed assertion.")
    claims = read_assertion(form.get("client_assertion", ""), client.public_key, issuer, now)
    if claims is None or claims.get("iss") != client.id or claims.get("sub") != client.id:
        raise ClientError("The assertion is not signed with the key of this app, or not for here and now.")
    return client


def read_assertion(text: str, public_key: str, issuer: str, now: float) -> dict[str, Any] | None:
    """The claims of an assertion that is signed, for an endpoint of ours and for now; else None."""
    kind = ECKey if "EC" in public_key[:40] else RSAKey
    try:
        claims = jwt.decode(text, kind.import_key(public_key), algorithms=ALGORITHMS).claims
        in_time = float(claims["iat"]) - 300 <= now < float(claims["exp"])
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    return claims if in_time and str(claims.get("aud", "")).startswith(f"{issuer}/") else None


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
