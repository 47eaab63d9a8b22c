"""Our registration at a provider, and how it shows itself at the token endpoint (RFC 6749 section 2.3, RFC 7523)."""

import secrets
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote_plus

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from posthouse.oauth.message import Request, post
from posthouse.problems import problem
from posthouse.secret import Secret

Method = Literal["none", "post", "basic", "private_key_jwt"]
Algorithm = Literal["RS256", "PS256", "ES256"]
Form = Mapping[str, str | Secret]

ASSERTION_LIFE = timedelta(minutes=5)
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Client:
    """A public client has the method "none"; `secret` is for "post" and "basic".

    For "private_key_jwt": `key` is the private key in PEM form, `certificate` its certificate in PEM form
    where the provider knows the key by it (Microsoft).
    """

    client_id: str
    method: Method = "none"
    secret: Secret | None = None
    key: Secret | None = None
    certificate: str = ""
    algorithm: Algorithm = "RS256"


def request(client: Client, url: str, form: Form, now: datetime) -> Request:
    """A POST of `form` in the name of `client`. Raises `ProblemError` when its secret or key is of no use."""
    match client.method:
        case "none":
            return post(url, {**form, "client_id": client.client_id})
        case "post":
            return post(url, {**form, "client_id": client.client_id, "client_secret": _secret(client)})
        case "basic":
            return post(url, form, {"Authorization": _basic(client)})
        case "private_key_jwt":
            return post(url, {**form, **_by_key(client, url, now)})


def sign(key: Secret, header: Mapping[str, str], claims: Mapping[str, object]) -> Secret:
    """A JWT signed with a private key in PEM form; `header` names `alg`. Raises `ProblemError` for a bad key."""
    kind = ECKey if header["alg"].startswith("ES") else RSAKey
    try:
        private = kind.import_key(key.reveal())
        return Secret(jwt.encode(dict(header), dict(claims), private, algorithms=[header["alg"]]))
    except (JoseError, ValueError, TypeError):
        sentence = "The private key of the app registration cannot be used."
        raise problem("client.key", sentence, "Give an unencrypted private key in PEM form.") from None


def thumbprint(certificate: str) -> str:
    """The `x5t#S256` of a certificate in PEM form (RFC 7515 section 4.1.8). Raises `ProblemError`."""
    try:
        digest = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(SHA256())
    except ValueError:
        sentence = "The certificate of the app registration cannot be read."
        raise problem("client.certificate", sentence, "Give it in PEM form.") from None
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _secret(client: Client) -> Secret:
    if not client.secret:
        raise problem("client.secret", "The app registration has no client secret.", "Enter its value.")
    return client.secret


def _basic(client: Client) -> Secret:
    """Both halves are form-encoded before they are joined (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(_secret(client).reveal())}"
    return Secret(f"Basic {b64encode(pair.encode()).decode('ascii')}")


def _by_key(client: Client, url: str, now: datetime) -> Form:
    assertion = _assertion(client, url, now)
    return {
        "client_id": client.client_id,
        "client_assertion_type": _ASSERTION,
        "client_assertion": assertion,
    }


def _assertion(client: Client, audience: str, now: datetime) -> Secret:
    """RFC 7523 section 3; the header as Microsoft's page on certificate credentials has it."""
    if not client.key:
        raise problem("client.key", "The app registration has no private key.", "Give the key in PEM form.")
    header: dict[str, str] = {"alg": client.algorithm}
    if client.certificate:
        header["x5t#S256"] = thumbprint(client.certificate)
    issued = int(now.timestamp())
    claims = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": audience,
        "jti": secrets.token_urlsafe(16),
        "nbf": issued,
        "iat": issued,
        "exp": issued + int(ASSERTION_LIFE.total_seconds()),
    }
    return sign(client.key, header, claims)
