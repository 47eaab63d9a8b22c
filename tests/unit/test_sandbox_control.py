"""The control door over real HTTP, and what its switches do to the sign-in."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from posthouse.sandbox import Sandbox, SandboxSettings
from posthouse.sandbox.answers import NAMED
from posthouse.sandbox.faults import Fault, Faults
from posthouse.sandbox.grants import challenge_of

ALICE, BOB = "alice@sandbox.example", "bob@sandbox.example"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("box")


@pytest.fixture
async def box(directory: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(directory)) as box:
        yield box


@pytest.fixture
async def http(box: Sandbox) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=box.issuer, trust_env=False, verify=False) as http:
        yield http


class Door:
    """The control door as a program uses it."""

    def __init__(self, box: Sandbox, key: str) -> None:
        self.http = httpx2.AsyncClient(
            base_url=box.control_url,
            trust_env=False,
            verify=False,
            headers={"Authorization": f"Bearer {key}"},
        )

    async def __call__(self, path: str, **values: Any) -> dict[str, Any]:
        answer = await self.http.post(f"/{path}", json=values)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def look(self, path: str, **query: str) -> dict[str, Any]:
        answer = await self.http.get(f"/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def problem(self, path: str, **values: Any) -> str:
        answer = await self.http.post(f"/{path}", json=values)
        assert answer.status_code == 400
        return str(answer.json()["problem"])


@pytest.fixture
async def door(box: Sandbox) -> AsyncIterator[Door]:
    door = Door(box, (box.settings.directory / "control.key").read_text())
    yield door
    await door.http.aclose()


async def refresh(http: httpx2.AsyncClient, token: str) -> httpx2.Response:
    return await http.post(
        "/token", data={"grant_type": "refresh_token", "client_id": "posthouse", "refresh_token": token}
    )


async def test_only_who_has_the_key_comes_in(box: Sandbox) -> None:
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {box.control_key.reveal()}"}):
        async with httpx2.AsyncClient(base_url=box.control_url, trust_env=False, verify=False) as stranger:
            assert (await stranger.get("/state", headers=header)).status_code == 401
            assert (await stranger.post("/revoke", headers=header)).status_code == 401


async def test_a_device_is_approved_without_a_page(http: httpx2.AsyncClient, door: Door) -> None:
    begun = (
        await http.post("/device_authorization", data={"client_id": "posthouse", "scope": "openid email mail"})
    ).json()
    await door("approve", user_code=begun["user_code"], person=BOB)
    grant_type = "urn:ietf:params:oauth:grant-type:device_code"
    poll = {"grant_type": grant_type, "client_id": "posthouse", "device_code": begun["device_code"]}
    given = (await http.post("/token", data=poll)).json()
    who = await http.get("/userinfo", headers={"Authorization": f"Bearer {given['access_token']}"})
    assert who.json()["email"] == BOB
    assert "No device waits" in await door.problem("approve", user_code=begun["user_code"], person=BOB)


async def test_a_browser_consent_is_given_without_a_page(box: Sandbox, door: Door) -> None:
    query = httpx2.QueryParams(
        response_type="code",
        client_id="posthouse",
        redirect_uri="http://localhost:1234/oauth/callback",
        scope="mail",
        state="s",
        code_challenge=challenge_of("v" * 43),
        code_challenge_method="S256",
    )
    url = f"{box.issuer}/authorize?{query}"
    back = parse_qs(urlsplit((await door("approve", url=url, person=ALICE))["url"]).query)
    assert back["state"] == ["s"]
    assert back["code"][0]
    denied = parse_qs(urlsplit((await door("approve", url=url, person=""))["url"]).query)
    assert denied["error"] == ["access_denied"]
    assert "no eve@" in await door.problem("approve", url=url, person="eve@sandbox.example")
    assert "client_id" in await door.problem("approve", url=f"{box.issuer}/authorize", person=ALICE)


async def test_revoking_one_person_leaves_the_others(http: httpx2.AsyncClient, door: Door) -> None:
    alice, bob = await door("grant", person=ALICE), await door("grant", person=BOB)
    assert await door("revoke", person=ALICE) == {"grants": 1}
    assert (await refresh(http, alice["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await refresh(http, bob["refresh_token"])).status_code == 200


async def test_expired_access_tokens_leave_the_grant(http: httpx2.AsyncClient, door: Door) -> None:
    alice = await door("grant", person=ALICE)
    assert await door("expire") == {"access_tokens": 1}
    bearer = {"Authorization": f"Bearer {alice['access_token']}"}
    assert (await http.get("/userinfo", headers=bearer)).status_code == 401
    assert (await refresh(http, alice["refresh_token"])).status_code == 200


async def test_rules_change_at_run_time(http: httpx2.AsyncClient, door: Door) -> None:
    await door("rules", rotate=False, access_token_lifetime=60, connections=3)
    token = (await door("grant", person=ALICE))["refresh_token"]
    answer = (await refresh(http, token)).json()
    assert (answer["refresh_token"], answer["expires_in"]) == (token, 60)
    state = await door.look("state")
    assert (state["rules"]["rotate"], state["rules"]["connections"]) == (False, 3)


@pytest.mark.parametrize(
    ("path", "values", "expected"),
    [
        ("faults", {"place": "nowhere", "action": "cut"}, "There is no place 'nowhere'"),
        ("faults", {"place": "token", "action": "explode"}, "There is no action 'explode'"),
        ("faults", {"place": "token"}, "action is missing"),
        ("faults", {"place": "token", "action": "cut", "often": 3}, "no member named often"),
        ("faults", {"place": "token", "action": "cut", "times": "3"}, "times has to be"),
        ("faults", {"place": "token", "action": "cut", "times": -1}, "not negative"),
        ("faults", {"place": "token", "action": "pass", "delay": 1e9}, "an hour at most"),
        ("faults", {"place": "token", "action": "answer", "status": 99}, "HTTP status"),
        ("faults", {"place": "smtp.end", "action": "answer", "reply": "maybe"}, "no answer of smtp"),
        ("faults", {"place": "smtp.end", "action": "answer", "reply": "451 x\r\n250 y"}, "no answer of smtp"),
        ("rules", {"rotation": False}, "no rule named rotation"),
        ("rules", {"rotate": 0}, "rotate has to be"),
        ("protocols", {"protocol": "gopher"}, "no protocol 'gopher'"),
        ("deliver", {"address": "nobody@sandbox.example"}, "no mailbox nobody@"),
        ("revoke", {"person": "eve@sandbox.example"}, "no eve@"),
        ("grant", {"person": ALICE, "client": "nobody"}, "no client nobody"),
    ],
)
async def test_wrong_use_is_told_in_a_sentence(door: Door, path: str, values: dict[str, Any], expected: str) -> None:
    assert expected in await door.problem(path, **values)


async def test_what_is_no_json_object_is_refused(door: Door) -> None:
    for content in (b"[]", b"{", b"\xff"):
        assert (await door.http.post("/faults", content=content)).status_code == 400


async def test_delivered_mail_lies_in_the_mailbox(door: Door) -> None:
    await door("deliver", address=ALICE, message="Subject: hi\r\n\r\nhello\r\n")
    (message,) = (await door.look("messages", address=ALICE))["messages"]
    assert message["text"].endswith("Subject: hi\r\n\r\nhello\r\n")
    assert (await door.look("messages", address="nobody@elsewhere.example")) == {"messages": []}


async def test_statistics_count_and_reset(http: httpx2.AsyncClient, door: Door) -> None:
    token = (await door("grant", person=ALICE))["refresh_token"]
    await refresh(http, token)
    await refresh(http, token)
    await door("protocols", protocol="smtp", person=BOB, on=False)
    state = await door.look("state")
    assert state["token_requests"] == {"refresh_token": 2}
    assert (state["refreshes"], state["token_refusals"]) == ({ALICE: 1}, {"invalid_grant": 1})
    assert state["reuses"] == 1
    assert state["off"]["smtp"] == [BOB]
    assert state["grants"] == [{"person": ALICE, "client": "posthouse", "ended": "a refresh token was used twice"}]
    await door("reset")
    state = await door.look("state")
    assert (state["token_requests"], state["reuses"], state["off"]["smtp"]) == ({}, 0, [])


# Faults at the sign-in


async def test_the_token_endpoint_answers_as_told(http: httpx2.AsyncClient, door: Door) -> None:
    token = (await door("grant", person=ALICE))["refresh_token"]
    await door(
        "faults", place="token", action="answer", status=429, error="temporarily_unavailable", retry_after=7, times=1
    )
    await door("faults", place="token", action="answer", status=502, body="html", times=1)
    await door("faults", place="token", action="answer", status=400, error="invalid_grant", body="large", times=1)
    await door("faults", place="token", action="answer", status=200, body="{", times=1)
    throttled, html, large, broken = [await refresh(http, token) for _ in range(4)]
    assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "7")
    assert throttled.json()["error"] == "temporarily_unavailable"
    assert (html.status_code, html.headers["content-type"].partition(";")[0]) == (502, "text/html")
    assert (large.json()["error"], len(large.content) > 1_000_000) == ("invalid_grant", True)
    assert (broken.status_code, broken.text) == (200, "{")
    assert (await refresh(http, token)).status_code == 200


async def test_a_fault_at_the_token_is_for_its_person(http: httpx2.AsyncClient, door: Door) -> None:
    alice, bob = await door("grant", person=ALICE), await door("grant", person=BOB)
    await door("faults", place="token", action="answer", person=ALICE)
    assert (await refresh(http, bob["refresh_token"])).status_code == 200
    assert (await refresh(http, alice["refresh_token"])).status_code == 503


async def test_a_cut_before_the_answer_has_not_rotated_and_a_lost_answer_has(
    http: httpx2.AsyncClient, door: Door
) -> None:
    token = (await door("grant", person=ALICE))["refresh_token"]
    await door("faults", place="token", action="cut", times=1)
    with pytest.raises(httpx2.TransportError):
        await refresh(http, token)
    token = (await refresh(http, token)).json()["refresh_token"]
    await door("faults", place="token", action="lose", times=1)
    with pytest.raises(httpx2.TransportError):
        await refresh(http, token)
    assert (await refresh(http, token)).json()["error"] == "invalid_grant"
    assert (await door.look("state"))["reuses"] == 1


async def test_a_late_answer_is_still_an_answer(http: httpx2.AsyncClient, door: Door) -> None:
    token = (await door("grant", person=ALICE))["refresh_token"]
    await door("faults", place="token", action="pass", delay=0.05)
    assert (await refresh(http, token)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "place"),
    [
        ("GET", "/.well-known/openid-configuration", "discovery"),
        ("GET", "/jwks", "jwks"),
        ("GET", "/authorize", "authorize"),
        ("GET", "/device", "device"),
        ("POST", "/device_authorization", "device_authorization"),
        ("POST", "/revoke", "revoke"),
        ("POST", "/introspect", "introspect"),
        ("GET", "/userinfo", "userinfo"),
    ],
)
async def test_every_endpoint_has_its_switch(
    http: httpx2.AsyncClient, door: Door, method: str, path: str, place: str
) -> None:
    fault = (await door("faults", place=place, action="answer", status=503))["id"]
    assert (await http.request(method, path)).status_code == 503
    await door.http.request("DELETE", "/faults", json={"id": fault})
    assert (await http.request(method, path)).status_code != 503


async def test_closing_does_not_wait_for_a_slow_answer(directory: Path) -> None:
    async with Sandbox(SandboxSettings(directory)) as box:
        box.faults.add(Fault("token", "pass", delay=3600))
        http = httpx2.AsyncClient(base_url=box.issuer, trust_env=False, verify=False)
        waiting = asyncio.create_task(http.post("/token"))
        while not box.faults.hits:
            await asyncio.sleep(0)
    with pytest.raises(httpx2.TransportError):
        await waiting
    await http.aclose()


def test_all_named_answers_may_be_asked_for() -> None:
    for name in NAMED:
        place = name.partition("-")[0]
        assert Fault(place, "answer", reply=name).literal == NAMED[name]


def test_a_fault_without_words_says_try_again() -> None:
    assert Fault("smtp.end", "answer").literal.startswith("451 4.7.0 ")
    assert Fault("imap.select", "answer").literal.startswith("BAD ")
    assert Fault("pop3.auth", "answer").literal.startswith("-ERR [SYS/TEMP]")


def test_switches_skip_count_and_end() -> None:
    faults = Faults()
    faults.add(Fault("smtp", "cut", person=ALICE, skip=1, times=2))
    acted = [faults.take("smtp.end", ALICE.upper()) is not None for _ in range(4)]
    assert acted == [False, True, True, False]
    assert faults.active == ()


def test_the_number_of_switches_is_limited() -> None:
    faults = Faults(tuple(Fault("token", "cut") for _ in range(1000)))
    with pytest.raises(ValueError, match="1000 faults"):
        faults.add(Fault("token", "cut"))
