"""Who signed in: reading ID tokens (OIDC Core section 3.1.3.7) and comparing the person with the one expected.

Algorithms and keys are always explicit; the header of a token never brings a key of its own.
"""

import hmac
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry, extract_compact

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.answer import read_json, text_of
from posthouse.oauth.endpoints import TENANT_ID, is_microsoft
from posthouse.oauth.introspection import Introspection
from posthouse.oauth.message import Answer
from posthouse.secret import Secret

MAX_ID_TOKEN = 32 * 1024
MAX_KEYS = 100
LEEWAY = timedelta(minutes=15)
"""A clock that is ten minutes wrong does not keep anybody out: the token comes straight from the provider, over TLS."""

_KINDS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}
_PUBLIC = ("kty", "n", "e", "crv", "x", "y")
_ALIASES = {"https://accounts.google.com": "accounts.google.com"}
"""Google's issuer in either of its spellings (developers.google.com/identity/openid-connect)."""
_TEMPLATE = "{tenantid}"

Pin = tuple[str, str]
Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """A person as the provider knows them. `names` are case-folded; `tenant` and `object_id` only at Microsoft."""

    issuer: str
    subject: str
    names: tuple[str, ...] = ()
    tenant: str = ""
    object_id: str = ""

    @property
    def pin(self) -> Pin | None:
        """What is remembered at the first consent and alone decides later: (tid, oid) at Microsoft, else (iss, sub)."""
        if self.tenant and self.object_id:
            return self.tenant, self.object_id
        return (self.issuer, self.subject) if self.issuer and self.subject else None


@dataclass(frozen=True, slots=True)
class Untrusted:
    """An ID token that proves nothing. With `key_may_be_old` fetch the key set again, once: a key may be new, or may
    have been replaced under its name."""

    why: str
    key_may_be_old: bool = False


@dataclass(frozen=True, slots=True)
class Same:
    """The expected person. `pin` is what to remember; None where the provider gives nothing lasting."""

    pin: Pin | None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Another person. Both are said to whoever started the sign-in."""

    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Unverified:
    """The provider does not tell who signed in: an administrator has to confirm it. `pin` as in `Same`."""

    pin: Pin | None = None


Person = Same | Mismatch | Unverified


def read_keys(answer: Answer) -> Claims | Refused | Unreachable:
    """A key set (RFC 7517) for `verify_id_token`."""
    members = read_json(answer)
    if isinstance(members, dict) and not isinstance(members.get("keys"), list):
        return Unreachable("an answer without keys", status=answer.status)
    return members


def verify_id_token(
    token: Secret,
    keys: Claims,
    *,
    issuer: str,
    client_id: str,
    nonce: Secret | None,
    now: datetime,
    leeway: timedelta = LEEWAY,
) -> Identity | Untrusted:
    """The person in an ID token, signature and claims checked.

    `keys` is a key set with the member "keys". `issuer` may hold Microsoft's `{tenantid}`. `nonce` is None where
    the flow sends none (device code, refresh).
    """
    claims = _signed_claims(token, keys)
    if isinstance(claims, Untrusted):
        return claims
    wrong = (
        _wrong_issuer(claims, issuer)
        or _wrong_audience(claims, client_id)
        or _wrong_time(claims, now.timestamp(), leeway.total_seconds())
        or _wrong_nonce(claims, nonce)
    )
    return Untrusted(wrong) if wrong else _identity(claims, _issuer_in_full(claims, issuer))


def identity_from_introspection(found: Introspection, issuer: str, expected_subject: str = "") -> Identity | None:
    """Somebody, where the token is active and the server names them; None also where that is not the expected one."""
    if not found.active or not (found.username or found.subject):
        return None
    if expected_subject and found.subject != expected_subject:
        return None
    return Identity(found.issuer or issuer, found.subject, _folded([found.username]))


def identity_from_userinfo(claims: Claims, issuer: str, expected_subject: str = "") -> Identity | None:
    """Somebody, where the claims name them; None also where `sub` is not that of the ID token (section 5.3.2)."""
    subject = text_of(claims, "sub", 255)
    if not subject or (expected_subject and subject != expected_subject):
        return None
    return Identity(issuer, subject, _names(claims, at_microsoft=False))


def same_person(expected_names: Iterable[str], identity: Identity | None, pinned: Pin | None) -> Person:
    """Whether the one who signed in is the one expected. Once somebody is pinned, names no longer count."""
    expected = tuple(name.strip().casefold() for name in expected_names)
    if identity is None:
        return Unverified()
    if pinned is not None:
        return _against_pin(expected, identity, pinned)
    if not identity.names:
        return Unverified(identity.pin)
    if set(expected).isdisjoint(identity.names):
        return Mismatch(expected[0] if expected else "", identity.names[0])
    return Same(identity.pin)


def _against_pin(expected: tuple[str, ...], identity: Identity, pinned: Pin) -> Person:
    pins = {pin for pin in (identity.pin, (identity.issuer, identity.subject)) if pin and pin[1]}
    if pinned in pins:
        return Same(pinned)
    comparable = {bool(TENANT_ID.fullmatch(authority)) for authority, _ in pins}
    if bool(TENANT_ID.fullmatch(pinned[0])) not in comparable:
        return Unverified()
    got = identity.names[0] if identity.names else identity.subject
    return Mismatch(expected[0] if expected else pinned[1], got)


def _signed_claims(token: Secret, keys: Claims) -> Claims | Untrusted:
    text = token.reveal()
    if len(text) > MAX_ID_TOKEN or not text.isascii():
        return Untrusted("the ID token is too large or unreadable")
    try:
        header = extract_compact(text.encode("ascii")).headers()
    except (JoseError, ValueError, TypeError, RecursionError):
        return Untrusted("the ID token is unreadable")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in _KINDS:
        return Untrusted("the ID token is not signed in a way that is accepted")
    candidates = _candidates(keys, algorithm, header.get("kid"))
    if not candidates:
        return Untrusted("the ID token is signed with a key that the provider does not publish", key_may_be_old=True)
    return _first_verified(text, algorithm, candidates)


def _candidates(keys: Claims, algorithm: str, kid: object) -> list[dict[str, Any]]:
    """Published keys that may have signed: right kind, for signatures, of the named id when one is named."""
    listed = keys.get("keys")
    found = [key for key in listed[:MAX_KEYS] if isinstance(key, dict)] if isinstance(listed, list) else []
    return [
        key
        for key in found
        if key.get("kty") == _KINDS[algorithm]
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (kid is None or key.get("kid") == kid)
    ][:10]


def _first_verified(text: str, algorithm: str, candidates: list[dict[str, Any]]) -> Claims | Untrusted:
    for key in candidates:
        claims = _verified(text, algorithm, key)
        if claims is not None and _issuer_of_key_fits(key, claims):
            return claims
    return Untrusted("the signature of the ID token is wrong", key_may_be_old=True)


def _verified(text: str, algorithm: str, key: dict[str, Any]) -> Claims | None:
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    public: dict[str, str | list[str]] = {name: key[name] for name in _PUBLIC if name in key}
    try:
        imported = (RSAKey if public["kty"] == "RSA" else ECKey).import_key(public)
        return jwt.decode(text, imported, algorithms=[algorithm], registry=registry).claims
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _issuer_of_key_fits(key: Claims, claims: Claims) -> bool:
    """Microsoft says for each key whose tokens it may sign."""
    issuer, tenant = key.get("issuer"), claims.get("tid")
    if not isinstance(issuer, str):
        return True
    return issuer.replace(_TEMPLATE, tenant if isinstance(tenant, str) else _TEMPLATE) == claims.get("iss")


def _wrong_issuer(claims: Claims, issuer: str) -> str:
    found, expected = claims.get("iss"), _issuer_in_full(claims, issuer)
    if expected and isinstance(found, str) and found in (expected, _ALIASES.get(expected, expected)):
        return ""
    return "the ID token was issued by somebody else"


def _issuer_in_full(claims: Claims, issuer: str) -> str:
    """ "" where the issuer depends on the tenant and the token names none."""
    tenant = claims.get("tid")
    if _TEMPLATE not in issuer:
        return issuer
    return issuer.replace(_TEMPLATE, tenant) if isinstance(tenant, str) and TENANT_ID.fullmatch(tenant) else ""


def _wrong_audience(claims: Claims, client_id: str) -> str:
    audience, party = claims.get("aud"), claims.get("azp")
    listed = audience if isinstance(audience, list) else [audience]
    if client_id not in listed or (party is not None and party != client_id) or (len(listed) > 1 and party is None):
        return "the ID token is meant for another application"
    return ""


def _wrong_time(claims: Claims, now: float, leeway: float) -> str:
    ends, issued, begins = (_number(claims, name) for name in ("exp", "iat", "nbf"))
    if ends is None or issued is None or ("nbf" in claims and begins is None):
        return "the ID token does not say how long it is good for"
    if ends + leeway <= now:
        return "the ID token has expired: compare this machine's clock"
    if max(issued, begins or issued) - leeway > now:
        return "the ID token comes from the future: set this machine's clock"
    return ""


def _wrong_nonce(claims: Claims, nonce: Secret | None) -> str:
    if nonce is None:
        return ""
    found = claims.get("nonce")
    if isinstance(found, str) and hmac.compare_digest(found.encode("utf-8", "replace"), nonce.reveal().encode()):
        return ""
    return "the ID token belongs to another sign-in"


def _number(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        return None
    return float(value) if math.isfinite(value) else None


def _identity(claims: Claims, issuer: str) -> Identity | Untrusted:
    subject = text_of(claims, "sub", 255)
    if not subject:
        return Untrusted("the ID token names nobody")
    at_microsoft = is_microsoft(issuer)
    tenant, object_id = _tenant_and_object(claims) if at_microsoft else ("", "")
    return Identity(issuer, subject, _names(claims, at_microsoft=at_microsoft), tenant, object_id)


def _tenant_and_object(claims: Claims) -> Pin:
    tenant, object_id = claims.get("tid"), claims.get("oid")
    if not isinstance(tenant, str) or not isinstance(object_id, str) or not TENANT_ID.fullmatch(tenant):
        return "", ""
    return (tenant.lower(), object_id.lower()) if TENANT_ID.fullmatch(object_id) else ("", "")


def _names(claims: Claims, *, at_microsoft: bool) -> tuple[str, ...]:
    verified = _is_true(claims.get("xms_edov" if at_microsoft else "email_verified"))
    members = ("preferred_username", "upn", *(("email",) if verified else ()))
    return _folded(text_of(claims, member, 320) for member in members)


def _is_true(value: object) -> bool:
    """Some servers write a truth as text, Microsoft `xms_edov` also as a number."""
    return value is True or value in ("true", "1") or (type(value) is int and value == 1)


def _folded(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.casefold() for name in names if name))
