"""How the queue is worked off over one connection: what follows what, what ends well, and what is written when."""

import asyncio
import contextlib
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from posthouse.model import pacing
from posthouse.model.message import Stage
from posthouse.sandbox.certificates import server_context
from posthouse.services import ledger, upstream
from posthouse.store import messages
from posthouse.store.database import DatabaseUnavailable
from posthouse.store.sealing import Sealer, Unsealable
from tests.faults.liars import listening
from tests.support.boxes import subject_of
from tests.support.house import House, house, until

ALICE, PRINTER = "alice@example.com", "printer"
OFFER = b"250-careful.example\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n"


@dataclass(slots=True)
class Careful:
    """A provider that waits a little before each verdict whether the next envelope comes ahead of it.

    `ahead` counts how often it did; after `patience` messages the connection is closed without a word.
    """

    port: int = 0
    patience: int = 1000
    waits: float = 0.2
    ahead: int = 0
    connections: int = 0
    taken: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"220 careful.example\r\n")
        served, line = 0, await reader.readline()
        while line and served < self.patience:
            writer.write(_answer(line))
            self.users += [b64decode(line.split()[2]).split(b"\0")[1].decode()] if line.startswith(b"AUTH") else []
            if line.startswith(b"DATA"):
                line = await self._message(reader, writer)
                served += 1
            else:
                line = await reader.readline()

    async def _message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        body = await reader.readuntil(b"\r\n.\r\n")
        self.reached.set()
        await self.opened.wait()
        following = asyncio.ensure_future(reader.readline())
        await asyncio.wait([following], timeout=self.waits)
        self.ahead += following.done()
        self.taken.append(subject_of(body.decode()))
        writer.write(b"250 2.0.0 Taken\r\n")
        return await following


def _answer(line: bytes) -> bytes:
    answers = {b"EHLO": OFFER, b"AUTH": b"235 2.7.0 Welcome\r\n", b"DATA": b"354 Go ahead\r\n"}
    return answers.get(line[:4], b"250 2.0.0 Fine\r\n")


@pytest.fixture
async def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Careful]:
    """With one connection at a time, as far as we know it."""
    made = Careful()
    (tmp_path / "box").mkdir()
    context = server_context(tmp_path / "box")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "box" / "ca.pem"))
    monkeypatch.setattr(upstream, "client_context", lambda _: trusting)
    monkeypatch.setattr(pacing, "CONNECTIONS", 1)
    async with listening(made.converse, context) as made.port:
        yield made


def open_house(
    data: Path, provider: Careful, *, background: bool = True
) -> contextlib.AbstractAsyncContextManager[House]:
    mailbox = f'[[mailbox]]\naddress = "{ALICE}"\npassword = "secret"\nsmtp = "localhost:{provider.port} tls"\n'
    text = f'{mailbox}[[device]]\nname = "{PRINTER}"\nmailboxes = ["{ALICE}"]\n'
    return house(data, text, background=background)


async def queued(gateway: House, provider: Careful, count: int) -> list[str]:
    """So many messages, all but the first one waiting for its verdict."""
    first = await gateway.send(PRINTER, "bob@example.org", "Page 0")
    await asyncio.wait_for(provider.reached.wait(), 10)
    return [first] + [await gateway.send(PRINTER, "bob@example.org", f"Page {number}") for number in range(1, count)]


def pages(count: int) -> list[str]:
    return [f"Page {number}" for number in range(count)]


async def test_the_next_envelope_comes_ahead_of_the_verdict_and_order_is_kept(
    tmp_path: Path, provider: Careful
) -> None:
    async with open_house(tmp_path / "data", provider) as gateway:
        ids = await queued(gateway, provider, 12)
        provider.opened.set()
        await gateway.until_message(ids[-1], "sent")
        assert provider.taken == pages(12)
        assert provider.connections == 1
        assert provider.ahead >= 9
        for queue_id in ids:
            assert await gateway.lines(queue_id) == ["accepted", "sent"]


async def test_a_message_begun_is_not_charged_for_a_connection_that_had_its_day(
    tmp_path: Path, provider: Careful
) -> None:
    provider.patience = 3
    async with open_house(tmp_path / "data", provider) as gateway:
        ids = await queued(gateway, provider, 8)
        provider.opened.set()
        for queue_id in ids:
            assert (await gateway.until_message(queue_id, "sent")).attempts == 1
            assert await gateway.lines(queue_id) == ["accepted", "sent"]
        assert provider.taken == pages(8)
        assert provider.connections == 3


async def test_what_is_being_handed_over_is_written_down_before_its_end_is_sent(
    tmp_path: Path, provider: Careful
) -> None:
    async with open_house(tmp_path / "data", provider) as gateway:
        ids = await queued(gateway, provider, 3)
        stages = [(await gateway.message(queue_id)).stage for queue_id in ids]
        assert stages[0] is Stage.HANDING_OVER
        assert Stage.HANDING_OVER not in stages[1:]
        provider.opened.set()
        await gateway.until_message(ids[-1], "sent")


async def test_a_message_begun_goes_out_where_others_have_to_wait_for_the_next_day(
    tmp_path: Path, provider: Careful
) -> None:
    """It is counted already. Over another connection the day's allowance was used up meanwhile."""
    async with open_house(tmp_path / "data", provider, background=False) as gateway:
        await gateway.gateway.start_listeners()
        ids = [await gateway.send(PRINTER, "bob@example.org", f"Page {number}") for number in range(2)]
        await gateway.gateway.start_background()
        await asyncio.wait_for(provider.reached.wait(), 10)
        [lane] = gateway.parts.dispatcher._lanes.values()
        lane.held_until, lane.waits_for = gateway.clock() + 3600, "the limit of a day"
        provider.opened.set()
        for queue_id in ids:
            await gateway.until_message(queue_id, "sent")
            assert await gateway.lines(queue_id) == ["accepted", "sent"]
        assert provider.connections == 1


async def _answer_when_stopping(gateway: House, provider: Careful) -> None:
    while not gateway.parts.dispatcher.stopping:
        await asyncio.sleep(0.001)
    provider.opened.set()


async def test_a_gentle_stop_finishes_the_message_under_way_and_gives_the_others_back(
    tmp_path: Path, provider: Careful
) -> None:
    async with open_house(tmp_path / "data", provider) as gateway:
        ids = await queued(gateway, provider, 5)
        answering = asyncio.create_task(_answer_when_stopping(gateway, provider))
    await answering
    assert provider.taken == pages(1)
    async with house(tmp_path / "data", background=False) as gateway:
        shown = [await gateway.message(queue_id) for queue_id in ids]
        assert [message.state for message in shown] == ["sent", *["queued"] * 4]
        assert {message.stage for message in shown} == {Stage.WAITING}
    async with house(tmp_path / "data") as gateway:
        for queue_id in ids:
            await gateway.until_message(queue_id, "sent")
            assert await gateway.lines(queue_id) == ["accepted", "sent"]
    assert sorted(provider.taken) == pages(5)


async def test_an_outcome_that_cannot_be_written_is_written_later_and_the_message_is_sent_once(
    tmp_path: Path, provider: Careful, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = messages.finish, iter(range(3))

    async def finish(*arguments: Any, **named: Any) -> None:
        if next(failures, None) is not None:
            raise DatabaseUnavailable("the disk is full")
        await real(*arguments, **named)

    monkeypatch.setattr(messages, "finish", finish)
    monkeypatch.setattr(ledger, "AGAIN_AT_FIRST", 0.01)
    provider.opened.set()
    async with open_house(tmp_path / "data", provider) as gateway:
        queue_id = await gateway.send(PRINTER, "bob@example.org", "Page 0")
        await gateway.until_message(queue_id, "sent")
        assert await gateway.lines(queue_id) == ["accepted", "sent"]
    assert provider.taken == pages(1)


async def test_a_fault_of_ours_while_outcomes_are_written_leaves_them_unknown_and_nothing_stuck(
    tmp_path: Path, provider: Careful, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = messages.finish, iter(range(2))

    async def finish(*arguments: Any, **named: Any) -> None:
        if next(failures, None) is not None:
            raise KeyError("a fault of ours")
        await real(*arguments, **named)

    monkeypatch.setattr(messages, "finish", finish)
    provider.opened.set()
    async with open_house(tmp_path / "data", provider) as gateway:
        queue_id = await gateway.send(PRINTER, "bob@example.org", "Page 0")

        async def told() -> bool:
            return len(await gateway.lines(queue_id)) > 1

        await until(told, "the outcome being written")
        assert await gateway.lines(queue_id) == ["accepted", "outcome unknown"]
        assert (await gateway.message(queue_id)).stage is Stage.WAITING
    assert provider.taken == pages(1)


async def test_the_next_message_goes_out_before_the_outcome_of_the_one_before_is_written(
    tmp_path: Path, provider: Careful, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = messages.finish

    async def finish(*arguments: Any, **named: Any) -> None:
        if len(provider.taken) < 2:
            raise DatabaseUnavailable("the disk is slow")
        await real(*arguments, **named)

    monkeypatch.setattr(messages, "finish", finish)
    monkeypatch.setattr(ledger, "AGAIN_AT_FIRST", 0.01)
    provider.opened.set()
    async with open_house(tmp_path / "data", provider, background=False) as gateway:
        await gateway.gateway.start_listeners()
        ids = [await gateway.send(PRINTER, "bob@example.org", f"Page {number}") for number in range(3)]
        await gateway.gateway.start_background()
        for queue_id in ids:
            await gateway.until_message(queue_id, "sent")
            assert await gateway.lines(queue_id) == ["accepted", "sent"]
    assert provider.taken == pages(3)


async def test_a_stored_message_that_cannot_be_read_is_tried_again_and_keeps_nobody_waiting(
    tmp_path: Path, provider: Careful, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path / "data", provider) as gateway:
        ids = await queued(gateway, provider, 3)
        unseal = gateway.parts.store.sealer.open

        def broken(sealer: Sealer, sealed: bytes, place: str) -> bytes:
            if place == f"message:{ids[1]}":
                raise Unsealable("the disk has forgotten it")
            return unseal(sealed, place)

        monkeypatch.setattr(Sealer, "open", broken)
        provider.opened.set()
        await gateway.until_message(ids[2], "sent")
        assert await gateway.lines(ids[1]) == ["accepted", "delayed"]
        assert (await gateway.message(ids[1])).stage is Stage.WAITING
        assert provider.taken == ["Page 0", "Page 2"]


async def test_an_open_connection_is_not_used_for_another_account(tmp_path: Path, provider: Careful) -> None:
    provider.opened.set()
    provider.waits = 0.0
    async with open_house(tmp_path / "data", provider) as gateway:
        await gateway.until_message(await gateway.send(PRINTER, "bob@example.org", "Page 0"), "sent")
        await gateway.apply(f'[[mailbox]]\naddress = "{ALICE}"\nsmtp_user = "office@example.com"')
        await gateway.until_message(await gateway.send(PRINTER, "bob@example.org", "Page 1"), "sent")
    assert provider.users == [ALICE, "office@example.com"]


async def test_a_full_queue_goes_over_to_another_account_as_well(tmp_path: Path, provider: Careful) -> None:
    async with open_house(tmp_path / "data", provider) as gateway:
        ids = await queued(gateway, provider, 8)
        await gateway.apply(f'[[mailbox]]\naddress = "{ALICE}"\nsmtp_user = "office@example.com"')
        provider.opened.set()
        for queue_id in ids:
            await gateway.until_message(queue_id, "sent")
        assert provider.taken == pages(8)
        assert provider.users == [ALICE, "office@example.com"]
