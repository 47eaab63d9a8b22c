"""Who signed in: ID tokens signed by real keys, every trick with them refused, and people compared."""

import hmac
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, RSAKey

from posthouse.model.outcome import Unreachable
from posthouse.oauth.endpoints import endpoints_of
from posthouse.oauth.identity import (
    Identity,
    Mismatch,
    Same,
    Untrusted,
    Unverified,
    identity_from_introspection,
    identity_from_userinfo,
    read_keys,
    same_person,
    verify_id_token,
)
from posthouse.oauth.introspection import Introspection
from posthouse.oauth.message import Answer
from posthouse.providers.provider import built_in
from posthouse.secret import Secret

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
ISSUED = int(NOW.timestamp())
ISSUER = "https://id.example.com"
TENANT = "11111111-2222-3333-4444-555555555555"
OBJECT = "AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE"
RSA = RSAKey.generate_key(2048, {"kid": "r1", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "r1", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "e1", "use": "sig"})
KEYS: dict[str, Any] = {"keys": [RSA.as_dict(private=False), EC.as_dict(private=False)]}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "7",
    "aud": "posthouse",
    "iat": ISSUED,
    "exp": ISSUED + 3600,
    "nonce": "n0nce",
    "preferred_username": "Alice@Example.com",
}


def signed(claims: dict[str, Any], key: Key = RSA, alg: str = "RS256", **header: Any) -> Secret:
    return Secret(jwt.encode({"alg": alg, "kid": "r1", **header}, claims, key, algorithms=[alg]))


def checked(token: Secret, keys: dict[str, Any] | None = None, **changes: Any) -> Identity | Untrusted:
    expected: dict[str, Any] = {"issuer": ISSUER, "client_id": "posthouse", "nonce": Secret("n0nce"), "now": NOW}
    return verify_id_token(token, KEYS if keys is None else keys, **(expected | changes))


def part(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(("key", "alg", "kid"), [(RSA, "RS256", "r1"), (RSA, "PS256", "r1"), (EC, "ES256", "e1")])
def test_a_signed_token_names_a_person(key: Key, alg: str, kid: str) -> None:
    found = checked(signed(CLAIMS, key, alg, kid=kid))
    assert found == Identity(ISSUER, "7", ("alice@example.com",))
    assert found.pin == (ISSUER, "7")


def test_a_token_without_key_id_is_tried_with_every_key() -> None:
    token = Secret(jwt.encode({"alg": "RS256"}, CLAIMS, RSA, algorithms=["RS256"]))
    keys = {"keys": [OTHER.as_dict(private=False), RSA.as_dict(private=False)]}
    assert isinstance(checked(token, keys), Identity)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"iss": [ISSUER]},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"aud": ["posthouse", "another"]},
        {"aud": ["posthouse", "another"], "azp": "another"},
        {"azp": "another"},
        {"exp": ISSUED - 901},
        {"exp": None},
        {"exp": "never"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": float("nan")},
        {"iat": ISSUED + 901},
        {"iat": None},
        {"nbf": ISSUED + 901},
        {"nbf": "now"},
        {"nonce": "other"},
        {"nonce": None},
        {"nonce": 5},
        {"sub": ""},
        {"sub": 7},
    ],
)
def test_claims_that_do_not_fit_prove_nothing(changes: dict[str, Any]) -> None:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    found = checked(signed(claims))
    assert isinstance(found, Untrusted)
    assert not found.key_may_be_old


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["posthouse", "another"], "azp": "posthouse"},
        {"exp": ISSUED - 899},
        {"iat": ISSUED + 899},
        {"nbf": ISSUED - 5},
        {"iat": ISSUED + 0.5},
    ],
)
def test_claims_within_the_leeway_are_good(changes: dict[str, Any]) -> None:
    assert isinstance(checked(signed(CLAIMS | changes)), Identity)


def test_flows_without_nonce() -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != "nonce"}
    assert isinstance(checked(signed(claims), nonce=None), Identity)
    assert isinstance(checked(signed(claims)), Untrusted)


def test_no_signature_is_no_token() -> None:
    for alg in ("none", "None", "NONE"):
        token = Secret(f"{part({'alg': alg})}.{part(CLAIMS)}.")
        assert isinstance(checked(token), Untrusted)


def test_the_public_key_is_not_a_shared_secret() -> None:
    public = RSA.as_pem(private=False)
    signing = f"{part({'alg': 'HS256', 'kid': 'r1'})}.{part(CLAIMS)}"
    forged = Secret(f"{signing}.{_b64(hmac.digest(public, signing.encode(), 'sha256'))}")
    assert isinstance(checked(forged), Untrusted)
    keys = {"keys": [{"kty": "oct", "kid": "r1", "k": _b64(public)}, *KEYS["keys"]]}
    assert isinstance(checked(forged, keys), Untrusted)


def test_a_key_brought_along_in_the_header_is_not_used() -> None:
    thief = RSAKey.generate_key(2048)
    brought: dict[str, Any] = {"jwk": thief.as_dict(private=False)}
    assert isinstance(checked(signed(CLAIMS, thief, **brought)), Untrusted)
    assert isinstance(checked(signed(CLAIMS, thief, jku="https://evil.example/keys")), Untrusted)


def test_an_unknown_header_that_must_be_understood_is_refused() -> None:
    header = part({"alg": "RS256", "kid": "r1", "crit": ["evil"], "evil": 1})
    assert isinstance(checked(Secret(f"{header}.{part(CLAIMS)}.AAAA")), Untrusted)


def test_a_key_of_that_name_but_another_kind_is_not_used() -> None:
    assert isinstance(checked(signed(CLAIMS, EC, "ES256", kid="r1")), Untrusted)


def test_a_wrong_signature_is_refused() -> None:
    found = checked(signed(CLAIMS, OTHER))
    assert isinstance(found, Untrusted)
    assert found.key_may_be_old, "it may have been replaced under its name"
    changed = signed(CLAIMS).reveal().split(".")
    changed[1] = part(CLAIMS | {"sub": "8"})
    assert isinstance(checked(Secret(".".join(changed))), Untrusted)


def test_a_key_that_is_not_published_asks_for_newer_keys() -> None:
    found = checked(signed(CLAIMS, RSA, kid="r2"))
    assert isinstance(found, Untrusted)
    assert found.key_may_be_old


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"keys": None},
        {"keys": [None, 5, "x"]},
        {"keys": [{"kty": "RSA", "kid": "r1"}]},
        {"keys": [{"kty": "RSA", "kid": "r1", "n": 5, "e": []}]},
        {"keys": [{"kty": "RSA", "kid": "r1", "n": "!!", "e": "AQAB"}]},
        {"keys": [{"kty": "RSA", "kid": "r1", "n": "AQ", "e": "AQAB"}]},
        {"keys": [RSA.as_dict(private=False) | {"use": "enc"}]},
        {"keys": [RSA.as_dict(private=False) | {"alg": "RS512"}]},
    ],
    ids=repr,
)
def test_keys_of_no_use(keys: dict[str, Any]) -> None:
    assert isinstance(checked(signed(CLAIMS), keys), Untrusted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "ä.b.c",
        "!.!.!",
        f"{part([])}.{part(CLAIMS)}.AAAA",
        f"{part({'alg': 5})}.{part(CLAIMS)}.AAAA",
        f"{part({'alg': ['RS256']})}.{part(CLAIMS)}.AAAA",
        f"{part({'alg': 'RS256', 'kid': {}})}.{part(CLAIMS)}.AAAA",
        f"{part({'kid': 'r1'})}.{part(CLAIMS)}.AAAA",
        f"{urlsafe_b64encode(b'[' * 9000).decode()}.{part(CLAIMS)}.AAAA",
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_token(text: str) -> None:
    assert isinstance(checked(Secret(text)), Untrusted)


def test_a_signed_token_that_is_no_object() -> None:
    for payload in (b"[]", b"null", b"{", b"[" * 20_000):
        assert isinstance(checked(_signed_bytes(payload)), Untrusted)


def test_a_token_too_large_is_not_looked_at() -> None:
    found = checked(signed(CLAIMS | {"padding": "x" * 40_000}))
    assert isinstance(found, Untrusted)
    assert "too large" in found.why


@pytest.mark.parametrize(
    ("claims", "names"),
    [
        ({"preferred_username": "A@X"}, ("a@x",)),
        ({"upn": "B@x", "preferred_username": "b@X"}, ("b@x",)),
        ({"email": "c@x"}, ()),
        ({"email": "c@x", "email_verified": False}, ()),
        ({"email": "C@x", "email_verified": True}, ("c@x",)),
        ({"email": "c@x", "email_verified": "true"}, ("c@x",)),
        ({"email": "c@x", "xms_edov": True}, ()),
        ({"email": ["c@x"], "email_verified": True, "upn": 5}, ()),
        ({"preferred_username": "STRAẞE@x"}, ("strasse@x",)),
    ],
)
def test_names_a_person_goes_by(claims: dict[str, Any], names: tuple[str, ...]) -> None:
    base = {name: value for name, value in CLAIMS.items() if name != "preferred_username"}
    found = checked(signed(base | claims))
    assert isinstance(found, Identity)
    assert found.names == names


# Microsoft and Google

MICROSOFT = endpoints_of(built_in()["microsoft"]).issuer
AT_MICROSOFT = CLAIMS | {
    "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
    "tid": TENANT,
    "oid": OBJECT,
    "email": "Alice.Other@example.com",
}


def test_microsoft_people_are_known_by_tenant_and_object() -> None:
    found = checked(signed(AT_MICROSOFT), issuer=MICROSOFT)
    assert isinstance(found, Identity)
    assert found.pin == (TENANT, OBJECT.lower())
    assert found.names == ("alice@example.com",)


@pytest.mark.parametrize("truth", [True, 1, "1", "true"])
def test_microsofts_email_counts_only_when_its_domain_is_verified(truth: object) -> None:
    found = checked(signed(AT_MICROSOFT | {"xms_edov": truth}), issuer=MICROSOFT)
    assert isinstance(found, Identity)
    assert found.names == ("alice@example.com", "alice.other@example.com")
    unverified = checked(signed(AT_MICROSOFT | {"email_verified": True}), issuer=MICROSOFT)
    assert isinstance(unverified, Identity)
    assert unverified.names == ("alice@example.com",)


@pytest.mark.parametrize(
    "changes",
    [
        {"tid": "99999999-2222-3333-4444-555555555555"},
        {"tid": None},
        {"tid": "evil"},
        {"tid": 5},
        {"iss": "https://login.microsoftonline.com/evil/v2.0"},
        {"iss": f"https://evil.example/{TENANT}/v2.0"},
        {"iss": "https://login.microsoftonline.com/{tenantid}/v2.0"},
    ],
)
def test_a_tenant_that_does_not_fit_its_issuer(changes: dict[str, Any]) -> None:
    assert isinstance(checked(signed(AT_MICROSOFT | changes), issuer=MICROSOFT), Untrusted)


def test_one_tenants_registration_takes_no_other_tenant() -> None:
    issuer = endpoints_of(built_in()["microsoft"], "99999999-2222-3333-4444-555555555555").issuer
    assert isinstance(checked(signed(AT_MICROSOFT), issuer=issuer), Untrusted)


@pytest.mark.parametrize(
    ("issuer", "good"),
    [
        ("https://login.microsoftonline.com/{tenantid}/v2.0", True),
        (f"https://login.microsoftonline.com/{TENANT}/v2.0", True),
        ("https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0", False),
    ],
)
def test_a_microsoft_key_signs_only_for_its_issuer(issuer: str, good: bool) -> None:
    keys = {"keys": [RSA.as_dict(private=False) | {"issuer": issuer}]}
    found = checked(signed(AT_MICROSOFT), keys, issuer=MICROSOFT)
    assert isinstance(found, Identity) == good


def test_other_providers_cannot_speak_of_microsoft_objects() -> None:
    found = checked(signed(CLAIMS | {"tid": TENANT, "oid": OBJECT}))
    assert isinstance(found, Identity)
    assert found.pin == (ISSUER, "7")


def test_google_spells_its_issuer_in_two_ways() -> None:
    google = "https://accounts.google.com"
    for spelled in (google, "accounts.google.com"):
        found = checked(signed(CLAIMS | {"iss": spelled}), issuer=google)
        assert isinstance(found, Identity)
        assert found.pin == (google, "7")
    assert isinstance(checked(signed(CLAIMS | {"iss": "id.example.com"})), Untrusted)


# Comparing

ALICE = Identity(ISSUER, "7", ("alice@example.com", "a.adams@corp.example"))
BOB = Identity(ISSUER, "8", ("bob@example.com",))
AT_TENANT = Identity(f"https://login.microsoftonline.com/{TENANT}/v2.0", "s", ("alice@example.com",), TENANT, OBJECT)
PINNED = (ISSUER, "7")


@pytest.mark.parametrize(
    ("expected", "identity", "pinned", "verdict"),
    [
        (["alice@example.com"], ALICE, None, Same(PINNED)),
        ([" Alice@Example.COM "], ALICE, None, Same(PINNED)),
        (["x@example.com", "A.Adams@corp.example"], ALICE, None, Same(PINNED)),
        (["alice@example.com"], BOB, None, Mismatch("alice@example.com", "bob@example.com")),
        ([], BOB, None, Mismatch("", "bob@example.com")),
        (["alice@example.com"], None, None, Unverified()),
        (["alice@example.com"], None, PINNED, Unverified()),
        (["alice@example.com"], Identity(ISSUER, "7"), None, Unverified(PINNED)),
        (["alice@example.com"], Identity("", "", ("alice@example.com",)), None, Same(None)),
        (["old-name@example.com"], ALICE, PINNED, Same(PINNED)),
        (["bob@example.com"], BOB, PINNED, Mismatch("bob@example.com", "bob@example.com")),
        (["bob@example.com"], Identity(ISSUER, "8"), PINNED, Mismatch("bob@example.com", "8")),
        (["a@x"], ALICE, ("https://other.example", "7"), Mismatch("a@x", "alice@example.com")),
        (["a@x"], AT_TENANT, (TENANT, OBJECT), Same((TENANT, OBJECT))),
        (["a@x"], AT_TENANT, (TENANT, "other"), Mismatch("a@x", "alice@example.com")),
        (["a@x"], ALICE, (TENANT, OBJECT), Unverified()),
        (["alice@example.com"], Identity(ISSUER, "", ("alice@example.com",)), PINNED, Unverified()),
    ],
)
def test_the_one_who_signed_in_is_compared_with_the_one_expected(
    expected: list[str], identity: Identity | None, pinned: tuple[str, str] | None, verdict: object
) -> None:
    assert same_person(expected, identity, pinned) == verdict


def test_people_from_introspection() -> None:
    active = Introspection(True, "Alice@example.com", "7")
    assert identity_from_introspection(active, ISSUER) == Identity(ISSUER, "7", ("alice@example.com",))
    assert identity_from_introspection(Introspection(False, "alice", "7"), ISSUER) is None
    assert identity_from_introspection(Introspection(True), ISSUER) is None
    nameless = identity_from_introspection(Introspection(True, "alice"), ISSUER)
    assert nameless is not None
    assert nameless.pin is None


def test_people_from_userinfo() -> None:
    claims = {"sub": "7", "email": "alice@example.com", "email_verified": True}
    assert identity_from_userinfo(claims, ISSUER) == Identity(ISSUER, "7", ("alice@example.com",))
    assert identity_from_userinfo(claims, ISSUER, "7") is not None
    assert identity_from_userinfo(claims, ISSUER, "8") is None
    assert identity_from_userinfo({"email": "alice@example.com"}, ISSUER) is None


def test_keys_are_read() -> None:
    assert read_keys(Answer(200, {}, json.dumps(KEYS).encode())) == KEYS
    assert isinstance(read_keys(Answer(200, {}, b"{}")), Unreachable)
    assert isinstance(read_keys(Answer(503)), Unreachable)


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _signed_bytes(payload: bytes) -> Secret:
    return Secret(jws.serialize_compact({"alg": "RS256", "kid": "r1"}, payload, RSA, algorithms=["RS256"]))
