"""The flows over real HTTP, against the sandbox's sign-in."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from posthouse.model.outcome import Granted, Pending, Refused
from posthouse.oauth import code, device
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.client import Client
from posthouse.oauth.endpoints import Endpoints, discovery_requests, read_discovery
from posthouse.oauth.identity import (
    Identity,
    Same,
    identity_from_introspection,
    read_keys,
    same_person,
    verify_id_token,
)
from posthouse.oauth.introspection import Introspection, introspect, read_introspection
from posthouse.oauth.message import Answer, Request, get
from posthouse.oauth.refresh import refresh
from posthouse.oauth.revoke import Revoked, read_revoke, revoke
from posthouse.sandbox import Person, Sandbox, SandboxSettings
from posthouse.secret import Secret

CALLBACK = "http://localhost:8480/oauth/callback"
SCOPES = ("mail", "offline_access", "openid", "email", "profile")
ALICE = "alice@sandbox.example"
CLIENT = Client("posthouse")
NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(tmp_path, people=(Person(ALICE, "Alice"),)), NOW.timestamp) as box:
        yield box


@pytest.fixture
async def http(box: Sandbox) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
        yield http


async def ask(http: httpx2.AsyncClient, request: Request | None) -> Answer:
    assert request is not None
    content = request.body() or None
    answer = await http.request(request.method, request.url, headers=request.header_texts(), content=content)
    return Answer(answer.status_code, dict(answer.headers), answer.content)


async def discover(http: httpx2.AsyncClient, box: Sandbox) -> Endpoints:
    found = read_discovery(await ask(http, discovery_requests(box.issuer)[0]), box.issuer)
    assert isinstance(found, Endpoints)
    return found


async def test_browser_sign_in_identity_rotation_and_end(box: Sandbox, http: httpx2.AsyncClient) -> None:
    server = await discover(http, box)
    attempt = code.begin(server, CLIENT, redirect_uri=CALLBACK, scopes=SCOPES, login_hint=ALICE)
    pressed = await http.post(attempt.url, data={"person": ALICE})
    found = code.read_callback(code.parameters_of(pressed.headers["location"]), attempt, server)
    assert isinstance(found, code.Code)
    granted = read_token_answer(await ask(http, code.exchange(server, CLIENT, attempt, found, NOW)))
    assert isinstance(granted, Granted)
    assert granted.id_token is not None
    assert granted.refresh_token is not None

    keys = read_keys(await ask(http, get(server.jwks_url)))
    assert isinstance(keys, dict)
    person = verify_id_token(
        granted.id_token, keys, issuer=server.issuer, client_id=CLIENT.client_id, nonce=attempt.nonce, now=NOW
    )
    assert isinstance(person, Identity)
    assert same_person([ALICE], person, None) == Same(person.pin)
    told = read_introspection(await ask(http, introspect(server, CLIENT, granted.access_token, NOW)))
    assert isinstance(told, Introspection)
    assert same_person([ALICE], identity_from_introspection(told, server.issuer), person.pin) == Same(person.pin)

    renewed = read_token_answer(await ask(http, refresh(server, CLIENT, granted.refresh_token, NOW)))
    assert isinstance(renewed, Granted)
    assert renewed.refresh_token not in (None, granted.refresh_token)
    assert renewed.refresh_token is not None
    given_back = read_revoke(await ask(http, revoke(server, CLIENT, renewed.refresh_token, NOW)))
    assert given_back == Revoked()
    over = read_token_answer(await ask(http, refresh(server, CLIENT, renewed.refresh_token, NOW)))
    assert isinstance(over, Refused)
    assert over.kills_grant


async def test_device_sign_in(box: Sandbox, http: httpx2.AsyncClient) -> None:
    server = await discover(http, box)
    begun = device.read_start(await ask(http, device.start(server, CLIENT, SCOPES, NOW)))
    assert isinstance(begun, device.DeviceCode)
    asking = device.poll(server, CLIENT, begun.device_code, NOW)
    assert device.read_poll(await ask(http, asking)) == Pending()
    await http.post(begun.verification_uri, data={"user_code": begun.user_code, "person": ALICE})
    assert isinstance(device.read_poll(await ask(http, asking)), Granted)


async def test_a_wrong_client_is_refused_as_such(box: Sandbox, http: httpx2.AsyncClient) -> None:
    server = await discover(http, box)
    outcome = read_token_answer(await ask(http, refresh(server, Client("nobody"), Secret("RT"), NOW)))
    assert isinstance(outcome, Refused)
    assert outcome.client_refused
