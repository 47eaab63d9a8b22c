"""Who a person is to the programs that ask: claims, and ID tokens signed with a key kept in the directory."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

from posthouse.sandbox.certificates import write_private
from posthouse.sandbox.grants import Consent
from posthouse.sandbox.settings import Person

KEY = "signing.key"
ALGORITHM = "RS256"
CLAIMS = ("sub", "preferred_username", "email", "email_verified", "name")
LIFETIME = 3600


def signing_key(directory: Path) -> RSAKey:
    """The key of the ID tokens, made when the directory has none yet."""
    path = directory / KEY
    if not path.is_file():
        write_private(path, RSAKey.generate_key(2048, private=True).as_pem(private=True))
    key = RSAKey.import_key(path.read_bytes(), {"alg": ALGORITHM, "use": "sig"})
    key.ensure_kid()
    return key


def public_keys(key: RSAKey) -> dict[str, Any]:
    """The JSON Web Key Set (RFC 7517)."""
    return {"keys": [key.as_dict(private=False)]}


def claims(person: Person) -> dict[str, Any]:
    """What userinfo and ID tokens say of a person (OpenID Connect Core section 5.1)."""
    return {
        "sub": hashlib.sha256(person.address.lower().encode()).hexdigest()[:32],
        "preferred_username": person.username,
        "email": person.address,
        "email_verified": True,
        "name": person.name or person.address,
    }


def id_token(key: RSAKey, issuer: str, person: Mapping[str, Any], consent: Consent, now: float) -> str:
    """An ID token (OpenID Connect Core section 2) with what it says of the person, RS256."""
    nonce: Mapping[str, Any] = {"nonce": consent.nonce} if consent.nonce else {}
    about = {"iss": issuer, "aud": consent.client, "iat": int(now), "exp": int(now) + LIFETIME}
    return jwt.encode(
        {"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"},
        {**person, **about, **nonce, "auth_time": int(consent.at)},
        key,
        algorithms=[ALGORITHM],
    )
