"""All doors of the API at once: none falls down, whatever is sent, and every refusal is a problem document."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import FastAPI

from posthouse.store import people
from posthouse.store.sealing import fingerprint
from posthouse.web.api import later
from posthouse.web.api.problems import install
from tests.support.clients import Client, make_key, over_network, over_socket
from tests.support.house import House, house

OFFICE = """
[[app]]
name = "office"
provider = "generic"
client_id = "c0ffee"

[[provider]]
name = "generic"
token_url = "http://127.0.0.1:9/token"
device_url = "http://127.0.0.1:9/device"
smtp = "127.0.0.1:9 plain"

[[mailbox]]
address = "sales@example.com"
app = "office"
"""
JUNK: tuple[Any, ...] = (
    "", "x", "sales@example.com", "\x00", "ü\u2028", "a" * 5000, "../../etc/passwd", "%00", "';--", "{}",
    -1, 0, 2**70, 1.5, True, None, [], {}, [[[[]]]], {"a": {"b": []}}, ["x@y.z"] * 600, "\ud800",
)  # fmt: skip
BODIES = (b"", b"{", b"[]", b"null", b"\xff\xfe", b'"' + b"a" * 3_000_000, b"[" * 100_000, b'{"method":"\\ud800"}')
IN_ADDRESSES = tuple(junk for junk in JUNK if junk not in ("\x00", "\ud800"))
"""The two others never reach these doors."""


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", OFFICE, background=False) as made:
        yield made


@pytest.fixture
async def api(office: House) -> AsyncIterator[Client]:
    async with over_socket(office) as client:
        yield client


async def operations(api: Client) -> list[tuple[str, str, dict[str, Any]]]:
    document = (await api.get("/openapi.json")).json()
    return [
        (method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def junk_for(path: str, chance: random.Random) -> str:
    from urllib.parse import quote

    piece = str(chance.choice(IN_ADDRESSES))[:300] or "x"
    return path.replace("{id}", quote(piece, safe=""))


def properties(operation: dict[str, Any]) -> list[str]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return list(content.get("schema", {}).get("properties", {})) or ["method", "name", "to"]


async def test_no_door_falls_down_whatever_is_sent(api: Client) -> None:
    chance = random.Random(4711)
    for method, path, operation in await operations(api):
        for _ in range(12):
            query = {
                one["name"]: chance.choice(IN_ADDRESSES[:14])
                for one in operation.get("parameters", [])
                if one["in"] == "query"
            }
            body = json.dumps({name: chance.choice(JUNK) for name in properties(operation)}).encode()
            sent = chance.choice([body, chance.choice(BODIES)])
            answer = await api.http.request(
                method,
                f"/api/v1{junk_for(path, chance)}",
                params={key: str(value) for key, value in query.items()},
                content=sent,
                headers={"content-type": chance.choice(["application/json", "message/rfc822"])},
            )
            assert answer.status_code in (200, 202, 204, 400, 404, 405, 409, 413, 415, 422, 501, 503), answer.text
            if answer.status_code >= 400:
                assert_problem(answer.text, answer.status_code)


def assert_problem(text: str, status: int) -> None:
    document = json.loads(text)
    assert document["status"] == status
    assert document["detail"]
    assert document["type"].startswith("urn:posthouse:problem:")


async def test_every_door_of_the_contract_is_there(api: Client) -> None:
    found = {(method, path) for method, path, _ in await operations(api)}
    read = "/status /journal /events /received /devices /destinations /apps /providers /administrators /webhooks"
    wanted = {("GET", path) for path in read.split()}
    wanted |= {("GET", f"/{kind}{rest}") for kind in ("mailboxes", "tokens", "messages") for rest in ("", "/{id}")}
    wanted |= {("POST", f"/messages/{{id}}/{verb}") for verb in ("retry", "park", "release")}
    wanted |= {("GET", "/mailboxes/{id}/tokens"), ("POST", "/mailboxes/{id}/authorisations"), ("POST", "/doctor")}
    wanted |= {("GET", "/authorisations/{id}"), ("DELETE", "/authorisations/{id}"), ("DELETE", "/tokens/{id}")}
    wanted |= {("POST", "/messages"), ("DELETE", "/messages/{id}"), ("POST", "/received/{id}/ack")}
    wanted |= {("PATCH", "/mailboxes/{id}"), ("POST", "/mailboxes/{id}/test"), ("GET", "/received/{id}/raw")}
    assert wanted <= found
    assert not any("control" in path for _, path in found)


async def test_what_is_not_built_says_so(office: House) -> None:
    key = await make_key(office, "read", "receive", "manage")
    async with over_network(office, key) as client:
        for method, path in (("GET", later.READ[0]), ("GET", later.RECEIVE[0]), ("POST", "/doctor")):
            answer = await client.http.request(method, f"/api/v1{path}")
            assert (answer.status_code, answer.json()["id"]) == (501, "not-yet")


async def test_an_unknown_path_and_a_wrong_verb_are_problems_too(api: Client) -> None:
    for answer in (await api.get("/nothing"), await api.delete("/status")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert_problem(answer.text, answer.status_code)


async def test_a_wrong_value_is_named_by_its_place_and_not_repeated(api: Client) -> None:
    answer = await api.post("/control/administrators", {"name": "maria", "role": "king", "password": 4711, "more": "x"})
    places = [problem["detail"].partition(":")[0] for problem in answer.json()["problems"]]
    assert (answer.status_code, places) == (422, ["body.role", "body.password", "body.more"])
    assert "4711" not in answer.text
    assert "king" not in answer.text


async def test_an_unforeseen_fault_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from httpx2 import ASGITransport, AsyncClient

    structlog.reset_defaults()
    app = FastAPI()
    install(app, 1_000_000)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("refresh-token-1")

    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http:
        answer = await http.get("/broken")
    assert (answer.status_code, answer.json()["id"]) == (500, "fault")
    written = capsys.readouterr()
    assert "refresh-token-1" not in answer.text + written.out + written.err
    assert "test_api_doors.py" in written.out + written.err


async def test_a_body_beyond_the_limit_is_not_read_on(api: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536

    answer = await api.http.post("/api/v1/mailboxes/x/authorisations", content=endless())
    assert_problem(answer.text, 413)


async def test_health_needs_no_key_and_tells_nothing(office: House) -> None:
    async with over_network(office) as stranger:
        live, ready = [await stranger.http.get(path) for path in ("/healthz", "/readyz")]
        figures = await stranger.http.get("/metrics")
    assert (live.text, ready.text, figures.status_code) == ("ok\n", "ready\n", 401)


async def test_not_ready_without_a_database(office: House) -> None:
    await office.parts.store.database.close()
    async with over_network(office) as stranger:
        live, ready = [await stranger.http.get(path) for path in ("/healthz", "/readyz")]
    assert (live.status_code, ready.status_code) == (200, 503)


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        (("127.0.0.1", 1), {}, 200),
        (("::1", 1), {}, 200),
        (("127.0.0.1", 1), {"x-forwarded-for": "192.0.2.1"}, 401),
        (("192.0.2.1", 1), {"authorization": "Bearer ph_wrong"}, 401),
    ],
)
async def test_figures_are_for_this_machine(
    office: House, peer: tuple[str, int], headers: dict[str, str], status: int
) -> None:
    async with over_network(office, peer=peer) as client:
        answer = await client.http.get("/metrics", headers=headers)
    assert answer.status_code == status


async def test_figures_for_a_reader_hold_no_address(office: House) -> None:
    key = await make_key(office, "read")
    async with over_socket(office) as inside:
        await inside.post("/messages", {"to": ["bob@example.org"], "text": "x"})
    async with over_network(office, key) as client:
        text = (await client.http.get("/metrics")).text
    assert 'posthouse_mailboxes{state="not_acquired"} 1.0' in text
    assert 'posthouse_messages{state="queued"} 1.0' in text
    assert "example" not in text


# Administrators, over the socket


async def test_administrators_come_change_and_go(api: Client) -> None:
    weak = await api.post("/control/administrators", {"name": "maria", "password": "short"})
    made = await api.post("/control/administrators", {"name": "maria", "password": "long enough to be one"})
    twice = await api.post("/control/administrators", {"name": "maria"})
    assert (weak.status_code, made.status_code, twice.status_code) == (400, 201, 409)
    changed = await api.http.patch(
        "/api/v1/control/administrators/maria", json={"role": "limited", "permissions": ["queue"]}
    )
    assert (changed.status_code, changed.json()["id"]) == (409, "administrator.last")
    await api.post("/control/administrators", {"name": "jens"})
    changed = await api.http.patch(
        "/api/v1/control/administrators/maria", json={"role": "limited", "permissions": ["queue"]}
    )
    assert changed.status_code == 200
    people = {one["name"]: one for one in await api.items("/administrators")}
    assert (people["maria"]["role"], people["maria"]["permissions"]) == ("limited", ["queue"])
    assert (people["maria"]["has_password"], people["jens"]["has_password"]) == (True, False)
    assert (await api.delete("/control/administrators/jens")).status_code == 409
    assert (await api.delete("/control/administrators/maria")).status_code == 204
    assert (await api.delete("/control/administrators/maria")).status_code == 404


async def test_a_sign_in_link_makes_the_first_administrator(api: Client) -> None:
    answer = await api.post("/control/sign-in-link", {})
    assert answer.json()["url"].startswith("http://localhost:8480/sign-in/link/")
    assert [one["name"] for one in await api.items("/administrators")] == ["admin"]


async def test_a_sign_in_link_is_for_whom_it_names(office: House, api: Client) -> None:
    """Nobody is made by a slip of the pen."""
    await api.post("/control/administrators", {"name": "jens", "role": "auditor"})
    link = await api.post("/control/sign-in-link", {"name": "jens"})
    nobody = await api.post("/control/sign-in-link", {"name": "jebs"})
    code = link.json()["url"].rpartition("/")[2]
    used = await office.parts.store.database.write(lambda tx: people.use_link(tx, fingerprint(code), office.clock()))
    (jens,) = await api.items("/administrators")
    assert (used, jens["name"], nobody.status_code) == (jens["id"], "jens", 404)
