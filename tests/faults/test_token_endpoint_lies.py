"""A token endpoint that lies, is slow to answer or loses its answer: no token is given up for what may pass."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from posthouse.model.token import Grant
from posthouse.services import sending, token_keeper
from tests.faults.test_killed import serving_grant
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.house import House, house, until

LIES: dict[str, dict[str, Any]] = {
    "a page of HTML": {"status": 503, "body": "html"},
    "a page of HTML that says 200": {"status": 200, "body": "html"},
    "a megabyte of JSON": {"status": 200, "body": "large", "error": ""},
    "a megabyte of refusal": {"status": 400, "body": "large", "error": "invalid_grant"},
    "too many requests": {"status": 429, "retry_after": 120},
    "temporarily unavailable": {"status": 503, "error": "temporarily_unavailable"},
    "a temporary error as a refusal": {"status": 400, "error": "server_error"},
    "a refusal with a server's status": {"status": 500, "error": "invalid_grant"},
    "nothing": {"status": 200, "body": " "},
    "null": {"status": 200, "body": "null"},
    "a list": {"status": 200, "body": "[1, 2]"},
    "no token": {"status": 200, "body": '{"expires_in": 3600}'},
    "an empty token": {"status": 200, "body": '{"access_token": "", "expires_in": 3600}'},
    "a token that is no text": {"status": 200, "body": '{"access_token": ["x"]}'},
    "a token with a line break": {"status": 200, "body": '{"access_token": "a\\r\\nb"}'},
    "a broken refresh token": {"status": 200, "body": '{"access_token": "a", "refresh_token": "b c"}'},
    "a redirect": {"status": 302, "body": " "},
    "not found": {"status": 404, "body": "html"},
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keeper, "POLL", 0.02)
    monkeypatch.setattr(sending, "IDLE", 0.0)


async def until_grant(gateway: House, reached: Callable[[Grant], bool], what: str) -> Grant:
    async def now() -> bool:
        return reached(await serving_grant(gateway))

    await until(now, what)
    return await serving_grant(gateway)


async def sends(gateway: House, subject: str) -> None:
    await gateway.until_message(await gateway.send(PRINTER, BOB, subject), "sent")


async def until_due(gateway: House) -> None:
    """Put the clock to where the token is refreshed in the background."""
    due = (await serving_grant(gateway)).next_refresh_at
    gateway.clock.forward(max(0.0, due - gateway.clock()) + 0.01)


async def test_what_may_pass_destroys_no_token_and_mail_goes_on_while_the_access_token_lives(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        for what, lie in LIES.items():
            serial = (await serving_grant(gateway)).serial + 1
            switch = await provider.control("faults", place="token", action="answer", **lie)
            await until_due(gateway)
            failed = await until_grant(gateway, lambda grant: grant.failures > 0, f"a failure with {what}")
            assert failed.last_error, what
            assert failed.next_refresh_at - gateway.clock() > lie.get("retry_after", 4) - 1, what
            assert (await gateway.token(ALICE)).state == "acquired", what
            await sends(gateway, what)
            provider.sandbox.faults.remove(switch["id"])
            await until_due(gateway)
            await until_grant(gateway, partial(has_serial, serial), f"a refresh after {what}")
        assert sorted(provider.subjects(BOB)) == sorted(LIES)
        assert (await provider.control_state())["reuses"] == 0


@pytest.mark.parametrize("action", ["cut", "pass"])
async def test_no_answer_in_time_and_a_cut_connection_are_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr("posthouse.services.sign_in.SignIn.ask.__kwdefaults__", {"deadline": 0.3})
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        delay = 0.0 if action == "cut" else 30.0
        switch = await provider.control("faults", place="token", action="cut", delay=delay)
        await until_due(gateway)
        await until_grant(gateway, lambda grant: grant.failures > 0, "a failure")
        await sends(gateway, "Meanwhile")
        provider.sandbox.faults.remove(switch["id"])
        await until_due(gateway)
        await until_grant(gateway, lambda grant: grant.serial > 0, "a refresh")
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_lost_rotation_at_a_provider_that_keeps_old_tokens_costs_nothing(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", old_tokens_serve=True, punish_reuse=False) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE)) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="token", action="lose", times=1)
        await until_due(gateway)
        await until_grant(gateway, lambda grant: grant.failures > 0, "an answer being lost")
        await sends(gateway, "Meanwhile")
        await until_due(gateway)
        await until_grant(gateway, lambda grant: grant.serial > 0, "a refresh")
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_lost_rotation_at_a_provider_that_punishes_is_told_as_what_it_is_and_no_mail_is_lost(
    tmp_path: Path,
) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="token", action="lose", times=1)
        await until_due(gateway)
        await until_grant(gateway, lambda grant: grant.failures > 0, "an answer being lost")
        await sends(gateway, "While it lives")
        await until_due(gateway)
        await until(lambda: has_state(gateway, "invalid"), "the token being invalid")
        assert (await gateway.token(ALICE)).reason == "answer_lost"
        queue_id = await gateway.send(PRINTER, BOB, "Afterwards")
        await gateway.until_message(queue_id, "parked")
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.until_message(queue_id, "sent")


def has_serial(serial: int, grant: Grant) -> bool:
    return grant.serial == serial


async def has_state(gateway: House, state: str) -> bool:
    return (await gateway.token(ALICE)).state == state


Change = Callable[[dict[str, Any]], object]
ODD: dict[str, Change] = {
    "no lifetime": lambda answer: answer.pop("expires_in"),
    "a lifetime as text": lambda answer: answer.update(expires_in="3599"),
    "a lifetime of nothing": lambda answer: answer.update(expires_in=0),
    "a negative lifetime": lambda answer: answer.update(expires_in=-5),
    "a lifetime of ages": lambda answer: answer.update(expires_in=10**11),
    "a lifetime in words": lambda answer: answer.update(expires_in="one hour"),
    "no refresh token": lambda answer: answer.pop("refresh_token"),
    "no token type": lambda answer: answer.pop("token_type"),
    "a token type in small letters": lambda answer: answer.update(token_type="bearer"),
    "members nobody knows": lambda answer: answer.update(nonsense={"deep": [1] * 100}),
}


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_answer_with_a_usable_token_is_used(tmp_path: Path, odd: str) -> None:
    async with (
        box(tmp_path / "box", rotate=False) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE)) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        answer = await provider.control("grant", person=ALICE)
        answer |= {"expires_in": 3600, "token_type": "Bearer"}
        ODD[odd](answer)
        await provider.control("faults", place="token", action="answer", status=200, body=json.dumps(answer), times=1)
        await until_due(gateway)
        grant = await until_grant(gateway, lambda grant: grant.serial == 1, "the answer being taken")
        assert grant.access_token.reveal() == answer["access_token"]
        assert grant.access_expires_at > gateway.clock()
        await sends(gateway, "With it")
        await until_due(gateway)
        await until_grant(gateway, lambda grant: grant.serial == 2, "the next refresh")
        assert (await gateway.token(ALICE)).state == "acquired"


@pytest.mark.parametrize("wrong_by", [-600.0, 600.0])
async def test_a_clock_that_is_ten_minutes_wrong_delays_nothing(tmp_path: Path, wrong_by: float) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        gateway.clock.forward(wrong_by)
        await sends(gateway, "At the wrong time")
        await provider.control("expire", person=ALICE)
        await sends(gateway, "With an access token that seems to live")
        assert (await gateway.token(ALICE)).state == "acquired"
