"""A provider's limits are kept to: nothing it has to complain of, whatever comes at once and whatever is restarted."""

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import literal, select

from posthouse.sandbox.settings import EXCHANGE
from posthouse.services import dispatcher, sending
from posthouse.services.intake import Intake, Posting
from posthouse.store.messages import Summary
from posthouse.store.tables import message
from tests.support.boxes import ALICE, BOB, PRINTER, SUPPORT, Box, box
from tests.support.house import Hands, House, house, until

LIMITS = """[provider.limits]
connections = 3
messages_per_minute = 30
recipients_per_day = 10000
recipients_per_message = 500
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL", 0.01)
    monkeypatch.setattr(sending, "LOOK_AGAIN", 0.005)


def limited(provider: Box, *mailboxes: str, limits: str = LIMITS, more: str = "") -> str:
    return provider.apply_file(*mailboxes, more=more).replace("[[app]]", f"{limits}[[app]]", 1)


@contextlib.asynccontextmanager
async def exchange(tmp_path: Path, limits: str = LIMITS, **changes: Any) -> AsyncIterator[tuple[Box, House]]:
    """A provider as strict as Exchange Online, and a gateway by the same clock that sends for Alice there."""
    clock = Hands()
    strict = {**EXCHANGE, **changes}
    async with (
        box(tmp_path / "box", clock=clock, **strict) as provider,
        house(tmp_path / "data", limited(provider, ALICE, limits=limits), clock=clock) as gateway,
    ):
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        be_microsoft(gateway)
        yield provider, gateway


def be_microsoft(gateway: House) -> None:
    """Its answers are read as Exchange Online's."""
    known = gateway.parts.directory.now.providers
    known["sandbox"] = replace(known["sandbox"], family="microsoft")


async def post(gateway: House, count: int, *, address: str = ALICE, to: tuple[str, ...] = (BOB,)) -> list[str]:
    """So many messages at once, as the API takes them; their queue ids."""
    parts = gateway.parts
    intake = Intake(parts.store, gateway.clock, "gw.example", parts.dispatcher.accepted, parts.refused_senders)
    mailbox = parts.directory.now.by_address[address]

    async def one(number: int) -> str:
        async def octets() -> AsyncIterator[bytes]:
            yield f"Subject: Number {number}\r\n\r\nA page.\r\n".encode()

        return (await intake.take(Posting(mailbox, "", to, "burst"), octets())).id

    return [await one(number) for number in range(count)]


async def pass_time(gateway: House, done: Callable[[], bool], most: float) -> float:
    """Time goes by whenever nothing is under way, until `done`; how much that was."""
    began = gateway.clock.ahead
    while not done():
        assert gateway.clock.ahead - began < most, "it takes too long"
        if not await under_way(gateway):
            gateway.clock.forward(1.0)
        await asyncio.sleep(0.002)
    return gateway.clock.ahead - began


async def under_way(gateway: House) -> bool:
    found = await gateway.parts.store.database.read(lambda tx: tx.one(_under_way))
    return found is not None


_under_way = select(message.c.id).where(message.c.stage == literal("handing over")).limit(1)


async def test_a_burst_of_500_draws_no_complaint_from_a_provider_like_exchange(tmp_path: Path) -> None:
    async with exchange(tmp_path) as (provider, gateway):
        ids = [await gateway.send(PRINTER, BOB, f"By SMTP {number}") for number in range(20)]
        ids += await post(gateway, 480)
        seconds = await pass_time(gateway, lambda: provider.sandbox.post.sent[ALICE] == 500, 1500)
        assert provider.sandbox.post.complaints == Counter()
        assert 900 < seconds < 1200
        for queue_id in ids:
            assert (await gateway.until_message(queue_id, "sent")).attempts == 1
            assert await gateway.lines(queue_id) == ["accepted", "sent"]


async def test_where_the_limits_are_not_known_complaints_slow_the_mailbox_down_and_cost_nothing(tmp_path: Path) -> None:
    async with exchange(tmp_path, limits="") as (provider, gateway):
        ids = await post(gateway, 90)
        await pass_time(gateway, lambda: provider.sandbox.post.sent[ALICE] == 90, 3000)
        complaints = sum(provider.sandbox.post.complaints.values())
        assert 0 < complaints < 60
        for queue_id in ids:
            assert (await gateway.until_message(queue_id, "sent")).attempts == 1
        assert (await gateway.token(ALICE)).state == "acquired"


def day(recipients: int) -> str:
    return f"[provider.limits]\nconnections = 3\nrecipients_per_day = {recipients}\n"


async def until_wait(gateway: House, queue_ids: list[str], count: int) -> list[Summary]:
    """Those that wait for a cause, once they are so many and all others are sent."""
    waiting: list[Summary] = []

    async def settled() -> bool:
        found = [await gateway.message(queue_id) for queue_id in queue_ids]
        waiting[:] = [one for one in found if one.state == "queued" and one.cause and not one.stage]
        return len(waiting) == count and sum(one.state == "sent" for one in found) == len(found) - count

    await until(settled, f"{count} messages waiting and the others being sent")
    return waiting


async def test_what_is_over_the_limit_of_a_day_waits_with_the_cause_and_the_hour_and_goes_on(tmp_path: Path) -> None:
    limits = day(10) + "messages_per_minute = 1000\n"
    async with exchange(tmp_path, limits, messages_per_minute=0, recipients_per_day=10) as (provider, gateway):
        ids = await post(gateway, 12)
        await until_wait(gateway, ids, 2)
        ids += await post(gateway, 1)
        for found in await until_wait(gateway, ids, 3):
            goes_on = datetime.fromtimestamp(found.next_at, UTC)
            expected = f"the provider's limit of 10 recipients a day is reached; goes on at {goes_on:%H:%M} UTC"
            assert (found.cause, found.attempts) == (expected, 0)
            assert 86_400 <= found.next_at - gateway.clock() < 86_400 + 700
            assert await gateway.lines(found.id) == ["accepted", "waiting"]
        gateway.clock.forward(86_400 + 700)
        for queue_id in ids:
            await gateway.until_message(queue_id, "sent")
        assert provider.sandbox.post.complaints == Counter()


async def test_more_allowed_means_going_on_at_once(tmp_path: Path) -> None:
    async with exchange(tmp_path, day(3), messages_per_minute=0, recipients_per_day=10) as (provider, gateway):
        ids = await post(gateway, 5)
        await until_wait(gateway, ids, 2)
        await gateway.apply(limited(provider, ALICE, limits=day(10)))
        for queue_id in ids:
            await gateway.until_message(queue_id, "sent")


@pytest.mark.parametrize("crash", [False, True], ids=["a restart", "a crash"])
async def test_neither_a_restart_nor_a_crash_begins_a_day_anew(tmp_path: Path, crash: bool) -> None:
    clock = Hands()
    strict = {**EXCHANGE, "messages_per_minute": 0, "recipients_per_day": 10}
    async with box(tmp_path / "box", clock=clock, **strict) as provider:
        async with house(tmp_path / "data", limited(provider, ALICE, limits=day(10)), clock=clock) as gateway:
            assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
            for queue_id in await post(gateway, 3) + await post(gateway, 1, to=(BOB, ALICE, "carol@example.org")):
                await gateway.until_message(queue_id, "sent")
            shutil.copytree(tmp_path / "data", tmp_path / "crashed", ignore=shutil.ignore_patterns("*.sock"))
        clock.forward(60)
        async with house(tmp_path / ("crashed" if crash else "data"), clock=clock) as gateway:
            be_microsoft(gateway)
            await until_wait(gateway, await post(gateway, 6), 2)
            assert provider.sandbox.post.complaints == Counter()


async def test_two_mailboxes_that_send_as_one_account_are_counted_together(tmp_path: Path) -> None:
    clock, shared = Hands(), f'[[mailbox]]\naddress = "{SUPPORT}"\napp = "demo"\nsigns_in_as = "{ALICE}"'
    async with (
        box(tmp_path / "box", clock=clock, **EXCHANGE) as provider,
        house(tmp_path / "data", limited(provider, ALICE, more=shared), clock=clock) as gateway,
    ):
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        be_microsoft(gateway)
        await post(gateway, 40)
        await post(gateway, 40, address=SUPPORT)
        await pass_time(gateway, lambda: provider.sandbox.post.sent[ALICE] == 80, 300)
        assert provider.sandbox.post.complaints == Counter()
        assert sum("From: support" in text for text in provider.texts(BOB)) == 40


async def test_two_nodes_count_two_mailboxes_of_one_account_together_also_when_one_node_goes(
    tmp_path: Path, postgres: str
) -> None:
    clock, shared = Hands(), f'[[mailbox]]\naddress = "{SUPPORT}"\napp = "demo"\nsigns_in_as = "{ALICE}"'
    key = {"POSTHOUSE_KEY": "A" * 43}
    open_house = partial(house, database=postgres, clock=clock, environment=key)
    async with box(tmp_path / "box", clock=clock, **EXCHANGE) as provider, contextlib.AsyncExitStack() as first:
        one = await first.enter_async_context(open_house(tmp_path / "one", limited(provider, ALICE, more=shared)))
        async with open_house(tmp_path / "two") as two:
            assert (await one.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
            for node in (one, two):
                await node.parts.directory.refresh()
                be_microsoft(node)
            for node in (one, two):
                await post(node, 20)
                await post(node, 20, address=SUPPORT)
            await pass_time(one, lambda: provider.sandbox.post.sent[ALICE] >= 40, 300)
            await first.aclose()
            await pass_time(two, lambda: provider.sandbox.post.sent[ALICE] == 80, 300)
            assert provider.sandbox.post.complaints == Counter()
            assert sum("From: support" in text for text in provider.texts(BOB)) == 40


async def test_a_message_to_more_recipients_than_fit_goes_in_parts(tmp_path: Path) -> None:
    async with exchange(tmp_path, LIMITS.replace("500", "4"), recipients_per_message=4) as (provider, gateway):
        to = tuple(f"person{number}@example.org" for number in range(10))
        [queue_id] = await post(gateway, 1, to=to)
        found = await gateway.until_message(queue_id, "sent")
        assert [provider.subjects(address) for address in to] == [["Number 0"]] * 10
        assert found.attempts == 1
        assert await gateway.lines(queue_id) == ["accepted", "sent in part", "sent in part", "sent"]
        assert provider.sandbox.post.sent[ALICE] == 3
        assert provider.sandbox.post.complaints == Counter()


async def test_how_many_recipients_fit_is_learnt_where_it_is_not_known(tmp_path: Path) -> None:
    async with exchange(tmp_path, "", recipients_per_message=4, messages_per_minute=0) as (provider, gateway):
        to = tuple(f"person{number}@example.org" for number in range(10))
        for _ in range(2):
            [queue_id] = await post(gateway, 1, to=to)
            assert (await gateway.until_message(queue_id, "sent")).attempts == 1
        assert [provider.subjects(address) for address in to] == [["Number 0", "Number 0"]] * 10
        assert sum(provider.sandbox.post.complaints.values()) == 6


async def test_a_day_shorter_than_one_message_takes_several(tmp_path: Path) -> None:
    async with exchange(tmp_path, day(4), recipients_per_day=4, messages_per_minute=0) as (provider, gateway):
        to = tuple(f"person{number}@example.org" for number in range(10))
        [queue_id] = await post(gateway, 1, to=to)
        for days in range(3):
            await until(partial(received, provider, min(10, 4 * (days + 1))), "a day's recipients")
            gateway.clock.forward(86_400 + 700)
        assert (await gateway.until_message(queue_id, "sent")).attempts == 1
        assert [provider.subjects(address) for address in to] == [["Number 0"]] * 10
        assert provider.sandbox.post.complaints == Counter()


async def received(provider: Box, count: int) -> bool:
    return sum(provider.sandbox.post.received.values()) == count
