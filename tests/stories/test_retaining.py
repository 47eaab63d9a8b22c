"""What is over is forgotten when the administrator's retention has passed, and nothing else ever is."""

from dataclasses import replace
from pathlib import Path

from posthouse.model.message import MessageState
from posthouse.services.retention import Retaining
from posthouse.settings import DAY, Retention
from posthouse.store import events, journal, messages
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.house import House, house

NOBODY = "nobody@sandbox.example"


async def forget(gateway: House, days: float, **kept: float) -> None:
    parts = gateway.parts
    retention = replace(Retention(), **kept)
    await Retaining(parts.store, lambda: gateway.clock() + days * DAY, retention).look()


async def states(gateway: House) -> set[MessageState]:
    return {one.state for one in await gateway.parts.store.database.read(messages.page)}


async def test_what_was_sent_goes_after_its_time_and_what_failed_stays(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        sent = await gateway.send(PRINTER, BOB, "Sent")
        await gateway.until_message(sent, "sent")
        failed = await gateway.send(PRINTER, NOBODY, "Failed", body="A long page.\n" * 40_000)
        await gateway.until_message(failed, "failed")
        await forget(gateway, 89)
        assert MessageState.SENT in await states(gateway)
        await forget(gateway, 91)
        assert await states(gateway) == {MessageState.FAILED}
        assert await gateway.lines(sent) == ["accepted", "sent"]
        assert [path.name for path in (tmp_path / "data" / "spool").iterdir()] == [failed]
        await forget(gateway, 31, failed=30 * DAY)
        assert await states(gateway) == set()
        assert list((tmp_path / "data" / "spool").iterdir()) == []


async def test_what_waits_is_never_forgotten(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        queue_id = await gateway.send(PRINTER, BOB, "Waits for a token")
        await gateway.until_message(queue_id, "parked")
        await forget(gateway, 10_000, failed=DAY)
        assert await states(gateway) == {MessageState.PARKED}


async def test_history_goes_after_its_time(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Sent"), "sent")
        await forget(gateway, 364)
        read = gateway.parts.store.database.read
        assert await read(journal.latest)
        assert await read(events.latest)
        await forget(gateway, 366)
        assert await read(journal.latest) == []
        assert await read(events.latest) == []
