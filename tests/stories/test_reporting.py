"""The sender of a message that failed hears of it: once, by the same mailbox, and never in a circle."""

import asyncio
from pathlib import Path

import pytest

from posthouse.services import reporting
from posthouse.services.reporting import Reporting
from posthouse.store import messages
from posthouse.store.messages import Summary
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box
from tests.support.house import House, house, until

NOBODY = "nobody@sandbox.example"


async def arrived(provider: Box, count: int) -> list[str]:
    async def reached() -> bool:
        return len(provider.subjects(ALICE)) >= count

    await until(reached, "the report arriving")
    return provider.texts(ALICE)


async def queued(gateway: House) -> list[Summary]:
    return await gateway.parts.store.database.read(lambda tx: messages.page(tx))


def other_node(gateway: House) -> Reporting:
    parts = gateway.parts
    return Reporting(parts.store, parts.directory, parts.clock, "other.example.com", lambda _: None)


async def test_the_sender_is_told_who_did_not_get_it_and_why(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        queue_id = await gateway.send(PRINTER, [NOBODY, BOB], "To two")
        [report] = await arrived(provider, 1)
        assert provider.subjects(ALICE) == ["Not delivered: To two"]
        assert f"Final-Recipient: rfc822; {NOBODY}\r\n" in report
        assert "Status: 5.1.1\r\n" in report
        assert "Subject: To two\r\n" in report
        assert queue_id in report
        assert provider.subjects(BOB) == ["To two"]


async def test_two_nodes_that_look_at_once_report_once(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.until_message(await gateway.send(PRINTER, NOBODY, "Lost"), "failed")
        nodes = [other_node(gateway) for _ in range(4)]
        await asyncio.gather(*(node.look() for node in nodes))
        await asyncio.gather(*(node.look() for node in nodes))
        assert [one.subject for one in await queued(gateway)].count("Not delivered: Lost") == 1


async def test_a_report_that_cannot_be_delivered_is_not_reported(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="smtp.rcpt", action="answer", reply="550 5.1.1 Nobody here", times=2)
        await gateway.send(PRINTER, NOBODY, "Lost")

        async def both_failed() -> bool:
            return [one.state for one in await queued(gateway)] == ["failed", "failed"]

        await until(both_failed, "message and report having failed")
        await other_node(gateway).look()
        assert len(await queued(gateway)) == 2


async def test_what_failed_long_ago_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "TOO_OLD", -60.0)
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.until_message(await gateway.send(PRINTER, NOBODY, "Old"), "failed")
        await other_node(gateway).look()
        assert [one.subject for one in await queued(gateway)] == ["Old"]
