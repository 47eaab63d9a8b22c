"""Tokens from the tests' provider, got without any code of ours, for tests that only need one."""

from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.support.oidc import PUBLIC, SCOPES, Client, Provider
from tests.support.sign_in import approve_device

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the token endpoint gave; "" for what it did not."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    id_token: str = field(repr=False)


async def by_device(oidc: Provider, client: Client, person: str) -> Tokens:
    """Tokens by the device flow, with `person` approving at once."""
    started = await post(f"{oidc.issuer}/device/auth", client, {"scope": " ".join(SCOPES)})
    await approve_device(started["verification_uri_complete"], person)
    form = {"grant_type": DEVICE_GRANT, "device_code": started["device_code"]}
    return await token_request(oidc, client, form)


async def refreshed(oidc: Provider, client: Client, tokens: Tokens) -> Tokens:
    return await token_request(oidc, client, {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token})


async def token_request(oidc: Provider, client: Client, form: dict[str, str]) -> Tokens:
    """Ask the token endpoint. Raises AssertionError with its answer when it refuses."""
    given = await post(f"{oidc.issuer}/token", client, form)
    return Tokens(*(given.get(name, "") for name in ("access_token", "refresh_token", "id_token")))


async def access_token(oidc: Provider, person: str) -> str:
    return (await by_device(oidc, PUBLIC, person)).access_token


async def post(url: str, client: Client, form: dict[str, str]) -> dict[str, Any]:
    secret = client.secret.reveal() if client.secret else ""
    auth = httpx2.BasicAuth(client.id, secret) if client.method == "client_secret_basic" else httpx2.Auth()
    named = {} if client.method == "client_secret_basic" else {"client_id": client.id}
    if client.method == "client_secret_post":
        named["client_secret"] = secret
    async with httpx2.AsyncClient(timeout=10) as http:
        answer = await http.post(url, data=form | named, auth=auth)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}"
    return dict(answer.json())
