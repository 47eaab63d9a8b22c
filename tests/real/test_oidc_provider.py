"""The certified provider gives tokens by both flows, rotates them, and punishes re-use."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from tests.support.oidc import CONFIDENTIAL, MAIL_SERVER, PUBLIC, SCOPES, Client, Provider
from tests.support.sign_in import sign_in
from tests.support.tokens import Tokens, by_device, refreshed, token_request

CALLBACK = "http://localhost:8480/oauth/callback"
VERIFIER = "a-verifier-that-is-long-enough-for-the-rule-of-43-letters"


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=10) as client:
        yield client


def authorization_url(oidc: Provider, client: Client, **more: str) -> str:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    asked = {"response_type": "code", "client_id": client.id, "redirect_uri": CALLBACK, "scope": " ".join(SCOPES),
             "state": "s", "prompt": "select_account consent", "code_challenge": challenge,
             "code_challenge_method": "S256"}  # fmt: skip
    return f"{oidc.issuer}/auth?{urlencode(asked | more)}"


async def by_code(oidc: Provider, client: Client, person: str) -> Tokens:
    answer = parse_qs(urlsplit(await sign_in(authorization_url(oidc, client), person)).query)
    assert answer["state"] == ["s"]
    assert answer["iss"] == [oidc.issuer]
    form = {"grant_type": "authorization_code", "code": answer["code"][0], "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER}  # fmt: skip
    return await token_request(oidc, client, form)


@pytest.mark.parametrize("client", [PUBLIC, CONFIDENTIAL], ids=lambda client: client.id)
async def test_code_flow_says_who_signed_in(oidc: Provider, http: httpx2.AsyncClient, client: Client) -> None:
    """Names come from userinfo alone, as OpenID Connect has it where there is an access token."""
    tokens = await by_code(oidc, client, "alice@example.test")
    told = json.loads(base64.urlsafe_b64decode(tokens.id_token.split(".")[1] + "=="))
    assert not {"email", "preferred_username"} & told.keys()
    answer = await http.get(f"{oidc.issuer}/me", headers={"Authorization": f"Bearer {tokens.access_token}"})
    claims = answer.json()
    assert claims["email"] == claims["preferred_username"] == "alice@example.test"
    assert claims["sub"] == told["sub"] != "alice@example.test"


async def test_a_person_who_refuses_gives_no_code(oidc: Provider) -> None:
    answer = await sign_in(authorization_url(oidc, PUBLIC), "alice@example.test", permit=False)
    assert parse_qs(urlsplit(answer).query)["error"] == ["access_denied"]
    assert oidc.grants() == 0


async def test_without_pkce_nothing_begins(oidc: Provider) -> None:
    url = authorization_url(oidc, PUBLIC).partition("&code_challenge")[0]
    assert parse_qs(urlsplit(await sign_in(url, "alice@example.test")).query)["error"] == ["invalid_request"]


async def test_a_used_refresh_token_ends_the_whole_grant(oidc: Provider) -> None:
    first = await by_device(oidc, PUBLIC, "alice@example.test")
    second = await refreshed(oidc, PUBLIC, first)
    assert second.refresh_token != first.refresh_token
    for spent in (first, second):
        with pytest.raises(AssertionError, match="invalid_grant"):
            await refreshed(oidc, PUBLIC, spent)
    assert oidc.requests()["refresh_token"] == 3
    assert oidc.refusals()["invalid_grant"] == 2


async def test_the_door_revokes_one_person(oidc: Provider, http: httpx2.AsyncClient) -> None:
    alice, bob = [await by_device(oidc, PUBLIC, f"{name}@example.test") for name in ("alice", "bob")]
    assert oidc.revoke("alice@example.test") == 1
    assert await is_active(oidc, http, alice) is False
    assert await is_active(oidc, http, bob) is True
    with pytest.raises(AssertionError, match="invalid_grant"):
        await refreshed(oidc, PUBLIC, alice)


async def test_revoking_at_the_provider_ends_the_tokens(oidc: Provider, http: httpx2.AsyncClient) -> None:
    tokens = await by_device(oidc, PUBLIC, "alice@example.test")
    form = {"token": tokens.refresh_token, "client_id": PUBLIC.id}
    assert (await http.post(f"{oidc.issuer}/token/revocation", data=form)).status_code == 200
    assert await is_active(oidc, http, tokens) is False


async def test_faults_at_the_token_endpoint(oidc: Provider) -> None:
    tokens = await by_device(oidc, PUBLIC, "alice@example.test")
    oidc.fail(times=1, status=503)
    with pytest.raises(AssertionError, match="503"):
        await refreshed(oidc, PUBLIC, tokens)
    tokens = await refreshed(oidc, PUBLIC, tokens)
    oidc.lose_answers()
    with pytest.raises(httpx2.RemoteProtocolError):
        await refreshed(oidc, PUBLIC, tokens)
    with pytest.raises(AssertionError, match="invalid_grant"):
        await refreshed(oidc, PUBLIC, tokens)


async def is_active(oidc: Provider, http: httpx2.AsyncClient, tokens: Tokens) -> bool:
    assert MAIL_SERVER.secret
    login = (MAIL_SERVER.id, MAIL_SERVER.secret.reveal())
    answer = await http.post(oidc.introspection, data={"token": tokens.access_token}, auth=login)
    return bool(answer.json()["active"])
