"""`kill -9` at any moment: what was accepted arrives, twice only where the journal says that nobody can know."""

import asyncio
import contextlib
import random
import smtplib
import sqlite3
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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

ROUNDS, SENDERS, MOST = 8, 20, 5
SMALL, LARGE = "A page.\n", "One of many lines.\n" * 10_000
BODIES = tuple(f"\r\n\r\n{body}".replace("\n", "\r\n").replace("\r\r", "\r") for body in (SMALL, LARGE))
LONG = 5.0
"""Seconds the provider takes in the last round, so that the gateway is killed with a message at its end for certain."""
SLOW = ("smtp.connect", "smtp.auth", "smtp.mail", "smtp.rcpt", "smtp.data", "smtp.end", "smtp.end", "smtp.end")


@dataclass(slots=True)
class Crowd:
    """Programs that hand over message after message until the gateway goes away; `told` is what got its 250."""

    password: Secret
    told: dict[str, str] = field(default_factory=dict)
    number: int = 0

    def send_until_cut(self, port: int, sender: str, body: str) -> None:
        try:
            for _ in range(MOST):
                self.number += 1
                subject = f"{sender} {self.number}"
                self.told[send(port, PRINTER, self.password, [BOB], subject, body)] = subject
        except (OSError, smtplib.SMTPException):
            return  # cut off: nothing was promised


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
    chance = random.Random(9)
    async with box(tmp_path / "box") as provider:
        crowd = Crowd(await prepared(tmp_path / "data", provider))
        with serving(tmp_path, tmp_path / "data") as gateway, ThreadPoolExecutor(SENDERS) as programs:
            for round_ in range(ROUNDS):
                await slow_down(provider, SLOW[round_], LONG if round_ == ROUNDS - 1 else 0.1)
                port = await started(gateway)
                told = len(crowd.told)
                sending = [
                    programs.submit(crowd.send_until_cut, port, f"round {round_}, sender {n}:", SMALL if n else LARGE)
                    for n in range(SENDERS)
                ]
                await until_more(crowd, told)
                await (handing_over(gateway) if round_ == ROUNDS - 1 else asyncio.sleep(chance.uniform(0.0, 0.25)))
                await asyncio.to_thread(gateway.kill)
                await asyncio.gather(*(asyncio.wrap_future(one) for one in sending))
            provider.sandbox.faults.remove()
            await started(gateway)
            await until_sent(gateway, crowd.told)
            arrived = Counter(provider.subjects(BOB))
            doubled = {queue_id for queue_id, subject in crowd.told.items() if arrived[subject] > 1}
            cut_short = [text for text in provider.texts(BOB) if not text.endswith(BODIES)]
            unknown = {queue_id for queue_id in crowd.told if "outcome unknown" in gateway.journal(queue_id)}
    assert len(crowd.told) >= ROUNDS * SENDERS / 2
    assert [subject for subject in crowd.told.values() if not arrived[subject]] == []
    assert cut_short == []
    assert doubled <= unknown
    assert unknown


async def until_sent(gateway: Serving, queue_ids: Iterable[str]) -> None:
    async def sent() -> bool:
        states = gateway.states()
        return all(states[queue_id] == "sent" for queue_id in queue_ids)

    await until(sent, "everything that was accepted being sent")


async def handing_over(gateway: Serving) -> None:
    """The moment at which the provider may or may not have a message already."""

    async def now() -> bool:
        return bool(gateway.rows("SELECT id FROM message WHERE stage = 'handing over'"))

    await until(now, "a message being handed over")


async def until_more(crowd: Crowd, than: int) -> None:
    async def more() -> bool:
        return len(crowd.told) > than

    await until(more, "a first message being accepted")


async def slow_down(provider: Box, place: str, seconds: float = 0.1) -> None:
    """The only switch from now on: the provider takes its time at `place`, and then does what it was asked."""
    provider.sandbox.faults.remove()
    await provider.control("faults", place=place, action="pass", delay=seconds)


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
