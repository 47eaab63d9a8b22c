"""A commit of which nobody hears: 451 for the client, and a message that may exist after all keeps its body."""

import asyncio
import contextlib
import smtplib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from posthouse.services.intake import Intake, Posting
from posthouse.store import messages
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.sqlite import SqliteDatabase
from posthouse.store.trouble import LastWrite, Trouble
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box
from tests.support.house import House, house, until
from tests.support.wall import Wall, wall

LARGE = "One of many lines.\n" * 20_000


async def send_large(gateway: House) -> int:
    """The code of the answer to a message that is too large for its row; 0 where there was none."""
    try:
        await gateway.send(PRINTER, BOB, "Large", body=LARGE)
    except smtplib.SMTPServerDisconnected:
        return 0
    except AssertionError as refused:
        return 451 if "4.3." in str(refused) else 500
    return 250


async def post_large(gateway: House) -> int:
    """The same over the API: 250 where it was taken, 451 where it was not."""
    parts = gateway.parts
    intake = Intake(parts.store, gateway.clock, "gateway.example", parts.dispatcher.accepted, parts.refused_senders)

    async def octets() -> AsyncIterator[bytes]:
        yield b"Subject: Large\r\n\r\n"
        yield LARGE.encode()

    try:
        await intake.take(Posting(parts.directory.now.by_address[ALICE], "", (BOB,), "a key"), octets())
    except CommitUnknown:
        return 451
    return 250


async def arrives_whole(gateway: House, provider: Box) -> None:
    """The only message in the queue."""
    [known] = await gateway.parts.store.database.read(messages.page)
    await gateway.gateway.start_background()
    await gateway.until_message(known.id, "sent")
    [text] = provider.texts(BOB)
    assert text.endswith(f"\r\n\r\n{LARGE}".replace("\r\n", "\n").replace("\n", "\r\n"))


@pytest.mark.parametrize("hand_over", [send_large, post_large])
@pytest.mark.parametrize("looking_helps", [True, False])
async def test_a_message_whose_commit_was_not_heard_of_keeps_its_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looking_helps: bool, hand_over: Callable[[House], Awaitable[int]]
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.gateway.start_listeners()
        database = gateway.parts.store.database
        write = database.write

        async def not_heard(work: Any, **words: Any) -> Any:
            await write(work, **words)
            raise CommitUnknown("the connection was lost")

        async def not_found(work: Any) -> Any:
            raise DatabaseUnavailable("it is away")

        with monkeypatch.context() as trouble:
            trouble.setattr(database, "write", not_heard)
            if not looking_helps:
                trouble.setattr(database, "read", not_found)
            assert await hand_over(gateway) == (250 if looking_helps else 451)
        await arrives_whole(gateway, provider)


async def test_a_message_that_is_committed_while_the_gateway_stops_keeps_its_body(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider:
        async with house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway:
            await gateway.by_device(ALICE, provider.approve_as(ALICE))
            await gateway.gateway.start_listeners()
            goes_on = threading.Event()

            async def slow(tx: Transaction) -> None:
                goes_on.wait(10)

            holding_up = asyncio.create_task(gateway.parts.store.database.write(slow, long=True))
            sending = asyncio.create_task(send_large(gateway))
            await until(lambda: waits(gateway), "the message waiting for its commit")
            await asyncio.gather(*(listener.close() for listener in gateway.gateway._listeners))
            goes_on.set()
            await holding_up
            assert await sending == 0
        async with house(tmp_path / "data", background=False) as gateway:
            await arrives_whole(gateway, provider)


async def house_behind(
    between: Wall, tmp_path: Path, provider: Box, inside: contextlib.AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> House:
    """A gateway that waits a second for its database, with nothing going on in the background."""
    monkeypatch.setattr("posthouse.store.postgres.PATIENCE", 1.0)
    text, key = provider.apply_file(ALICE), {"POSTHOUSE_KEY": "A" * 43}
    opened = house(tmp_path / "data", text, database=between.url, environment=key, background=False)
    gateway = await inside.enter_async_context(opened)
    await gateway.by_device(ALICE, provider.approve_as(ALICE))
    await gateway.gateway.start_listeners()
    return gateway


@pytest.mark.parametrize("hand_over", [send_large, post_large])
@pytest.mark.parametrize("back_at_once", [True, False])
async def test_a_message_whose_commit_gets_no_answer_keeps_its_body(
    tmp_path: Path,
    postgres: str,
    monkeypatch: pytest.MonkeyPatch,
    hand_over: Callable[[House], Awaitable[int]],
    back_at_once: bool,
) -> None:
    """Looked for at once where the database is back when the gateway gives up waiting, else refused for now."""
    accept, failed = messages.accept, LastWrite.failed
    async with box(tmp_path / "box") as provider, wall(postgres) as between, contextlib.AsyncExitStack() as inside:
        gateway = await house_behind(between, tmp_path, provider, inside, monkeypatch)

        async def not_answered(*words: Any) -> None:
            await accept(*words)
            between.shut()

        def noticed(self: LastWrite, trouble: Trouble) -> None:
            failed(self, trouble)
            between.open()

        monkeypatch.setattr(messages, "accept", not_answered)
        if back_at_once:
            monkeypatch.setattr(LastWrite, "failed", noticed)
        assert await hand_over(gateway) == (250 if back_at_once else 451)
        between.open()
        await arrives_whole(gateway, provider)


async def test_a_claim_whose_commit_gets_no_answer_is_claimed_again(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, begun = messages.claim, asyncio.Event()
    async with box(tmp_path / "box") as provider, wall(postgres) as between, contextlib.AsyncExitStack() as inside:
        gateway = await house_behind(between, tmp_path, provider, inside, monkeypatch)
        sent = [await gateway.send(PRINTER, BOB, f"Number {number}") for number in range(4)]

        async def not_answered(*words: Any) -> Any:
            found = await claim(*words)
            if found and not begun.is_set():
                between.shut()
                begun.set()
            return found

        monkeypatch.setattr(messages, "claim", not_answered)
        await gateway.gateway.start_background()
        async with asyncio.timeout(10):
            await begun.wait()
        await until(lambda: is_away(gateway), "the silence being noticed")
        between.open()
        await until(lambda: are_sent(gateway), "everything being sent")
        assert {(await gateway.message(queue_id)).state for queue_id in sent} == {"sent"}
        assert sorted(provider.subjects(BOB)) == [f"Number {number}" for number in range(4)]


async def is_away(gateway: House) -> bool:
    return gateway.parts.store.database.fared.trouble is Trouble.AWAY


async def are_sent(gateway: House) -> bool:
    try:
        return set(await gateway.parts.store.database.read(messages.totals)) == {"sent"}
    except DatabaseUnavailable:
        return False


async def waits(gateway: House) -> bool:
    database = gateway.parts.store.database
    assert isinstance(database, SqliteDatabase)
    return bool(database._queue)


@pytest.mark.parametrize("which", [1, 2, 3])
async def test_a_claim_that_was_not_heard_of_leaves_no_message_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """The first claim of a worker, or one that shares its commit with an outcome."""
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.gateway.start_listeners()
        sent = [await gateway.send(PRINTER, BOB, f"Number {number}") for number in range(8)]
        claim, write, claims = messages.claim, gateway.parts.store.database.write, []

        async def noted(*words: Any) -> Any:
            claims.append(found := await claim(*words))
            return found

        async def not_heard(work: Any, **words: Any) -> Any:
            before = len(claims)
            result = await write(work, **words)
            if before < which <= len(claims) and claims[which - 1]:
                raise CommitUnknown("the connection was lost")
            return result

        monkeypatch.setattr(messages, "claim", noted)
        monkeypatch.setattr(gateway.parts.store.database, "write", not_heard)
        await gateway.gateway.start_background()
        for queue_id in sent:
            await gateway.until_message(queue_id, "sent")
        assert sorted(provider.subjects(BOB)) == [f"Number {number}" for number in range(8)]


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("fault", [CommitUnknown, DatabaseUnavailable])
async def test_a_consent_is_not_lost_to_a_database_that_is_away_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool, fault: type[Exception]
) -> None:
    """The provider gives it once; a person would have to sign in again."""
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        write = SqliteDatabase.write
        failed: list[Any] = []

        async def fails_once(self: SqliteDatabase, work: Any, **named: Any) -> Any:
            is_consent = "_store_pending" in getattr(work, "__qualname__", "")
            if not is_consent or failed:
                return await write(self, work, **named)
            failed.append(work)
            if committed and fault is CommitUnknown:
                await write(self, work, **named)
            raise fault("gone")

        monkeypatch.setattr(SqliteDatabase, "write", fails_once)
        monkeypatch.setattr("posthouse.services.authorise.WRITE_AGAIN", (0.0,))
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        assert failed
        assert (await gateway.token(ALICE)).state == "acquired"
        assert [known["ended"] for known in (await provider.control_state())["grants"]] == [""]
