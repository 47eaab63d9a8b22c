"""`kill -9` at any moment: what was accepted arrives, twice only where the journal says that nobody can know."""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from posthouse.model.token import Grant
from posthouse.secret import Secret
from posthouse.services.entrance import sign_in_link
from posthouse.store import tokens
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box
from tests.support.house import House, house, send, until
from tests.support.serving import Serving, serving
from tests.torture.world import Plan, report, torture

SMALL = "A page.\n"
KILLS, PROMISED = 10, 60


async def prepared(data: Path, provider: Box) -> Secret:
    """A data directory with an administrator and a mailbox that may send, and the password of its printer."""
    async with house(data, provider.apply_file(ALICE), background=False) as gateway:
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        await sign_in_link(gateway.parts.store, gateway.clock, "http://localhost")
        return gateway.passwords[PRINTER]


async def started(gateway: Serving, *, page: bool = False) -> int:
    await asyncio.to_thread(gateway.start, page=page)
    return gateway.smtp_ports[0]


async def test_accepted_mail_survives_kill_9_and_is_doubled_only_where_the_journal_says_so(tmp_path: Path) -> None:
    """A few rounds of `./dev torture`."""
    world = await torture(Plan(KILLS, seed=9, trouble=0.01), tmp_path)
    assert world.judge.complaints == [], report(world)
    assert len(world.judge.promised) >= PROMISED
    assert {"smtp", "send"} <= world.judge.by_way.keys()
    assert any(len(arrivals) > 1 for arrivals in world.sink.arrived.values())


@pytest.mark.needs("postgres")
async def test_the_same_over_postgresql(tmp_path: Path, postgres: str) -> None:
    world = await torture(Plan(KILLS // 2, seed=9, database=postgres), tmp_path)
    assert world.judge.complaints == [], report(world)
    assert len(world.judge.promised) >= PROMISED / 2


TOO_SOON = """
import asyncio
from posthouse.cli import main
from posthouse.services.submission import Submission

accept, later = Submission.accept, set()

async def promise(self, new, deadline):
    async def keep():
        await asyncio.sleep(0.3)
        await accept(self, new, deadline)

    later.add(asyncio.create_task(keep()))
    return True

Submission.accept = promise
main()
"""


async def test_a_gateway_that_promises_before_it_has_written_would_be_found_out(tmp_path: Path) -> None:
    world = await torture(Plan(kills=4, seed=2, program=(sys.executable, "-c", TOO_SOON)), tmp_path)
    assert any("is lost" in complaint for complaint in world.judge.complaints), report(world)


async def until_sent(gateway: Serving, queue_ids: Iterable[str]) -> None:
    async def sent() -> bool:
        states = gateway.states()
        return all(states[queue_id] == "sent" for queue_id in queue_ids)

    await until(sent, "everything that was accepted being sent")


@dataclass(frozen=True, slots=True)
class Habit:
    """What a provider does about refresh tokens, and what a rotation of which nobody heard comes to."""

    rules: dict[str, Any]
    state: str
    reason: str
    message: str


KEEPS_OLD = Habit({"old_tokens_serve": True, "punish_reuse": False}, "acquired", "", "sent")
NEVER_ROTATES = Habit({"rotate": False}, "acquired", "", "sent")
PUNISHES = Habit({}, "invalid", "answer_lost", "parked")


@pytest.mark.parametrize("habit", [KEEPS_OLD, NEVER_ROTATES, PUNISHES], ids=["keeps old", "never rotates", "punishes"])
async def test_a_gateway_killed_between_a_rotation_and_its_commit(tmp_path: Path, habit: Habit) -> None:
    async with box(tmp_path / "box", **habit.rules) as provider:
        password = await prepared(tmp_path / "data", provider)
        await expire_soon(tmp_path / "data")
        await provider.control("expire", person=ALICE)
        await provider.control("faults", place="token", action="pass", delay=0.5)
        with serving(tmp_path, tmp_path / "data") as gateway:
            await started(gateway)
            await until(lambda: asked(provider), "the gateway asking for a new token")
            await asyncio.to_thread(gateway.kill)
            await until(lambda: refreshed(provider), "the provider answering nobody")
            provider.sandbox.faults.remove()
            half_a_minute_later(tmp_path / "data")
            port = await started(gateway)
            queue_id = await asyncio.to_thread(send, port, PRINTER, password, [BOB], "Afterwards", SMALL)

            async def settled() -> bool:
                return gateway.states()[queue_id] == habit.message

            await until(settled, f"the message being {habit.message}")
            assert gateway.rows("SELECT state, reason FROM token") == [(habit.state, habit.reason)]
            assert provider.subjects(BOB) == (["Afterwards"] if habit.message == "sent" else [])


async def expire_soon(data: Path) -> None:
    """Make the token of the only mailbox due for a refresh."""
    async with house(data, background=False) as gateway:
        store = gateway.parts.store
        grant = await serving_grant(gateway)
        await store.database.write(lambda tx: tokens.postpone(tx, grant, "", 1.0, answered=True))


def half_a_minute_later(data: Path) -> None:
    """The request of the process that was killed is over by then, so that another one may be made."""
    with contextlib.closing(sqlite3.connect(data / "posthouse.sqlite")) as database, database:
        database.execute("UPDATE oauth_grant SET intent_at = intent_at - 30")


async def serving_grant(gateway: House) -> Grant:
    token = await gateway.token(ALICE)
    store = gateway.parts.store
    found = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, token.serving_grant or ""))
    assert found is not None
    return found


async def asked(provider: Box) -> bool:
    return bool((await provider.control_state())["hits"])


async def refreshed(provider: Box) -> bool:
    return bool((await provider.control_state())["refreshes"])
