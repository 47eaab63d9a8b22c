"""Connections to a provider: opened before they are needed, used again, given up in time, and in an order if wished."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from posthouse.services import dispatcher, sending
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box
from tests.support.house import House, house, until

SCANNER = f'[[device]]\nname = "scanner"\nmailboxes = ["{ALICE}"]'


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL", 0.02)


@contextlib.asynccontextmanager
async def ready(tmp_path: Path, limits: str = "", more: str = "") -> AsyncIterator[tuple[Box, House]]:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", file(provider, limits, more)) as gateway:
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        await until(partial(are_open, provider, 0), "the connection of the proof being closed")
        provider.sandbox.post.logins.clear()
        yield provider, gateway


def file(provider: Box, limits: str = "", more: str = "") -> str:
    known = f"[provider.limits]\n{limits}\n" if limits else ""
    return provider.apply_file(ALICE, more=more).replace("[[app]]", f"{known}[[app]]", 1)


async def are_open(provider: Box, count: int) -> bool:
    return provider.sandbox.post.open["smtp"][ALICE] == count


async def more_are_open(provider: Box) -> bool:
    return provider.sandbox.post.open["smtp"][ALICE] > 1


async def send(gateway: House, *subjects: str, device: str = PRINTER) -> list[str]:
    return [await gateway.send(device, BOB, subject) for subject in subjects]


async def sent(gateway: House, *subjects: str) -> None:
    for queue_id in await send(gateway, *subjects):
        message = await gateway.until_message(queue_id, "sent")
        assert message.attempts == 1
        assert await gateway.lines(queue_id) == ["accepted", "sent"]


async def test_while_mail_flows_one_connection_more_is_ready_and_all_close_when_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ready(tmp_path) as (provider, gateway):
        await sent(gateway, "First")
        assert provider.sandbox.post.logins["smtp"] == 1
        await sent(gateway, "Second", "Third")
        await until(partial(more_are_open, provider), "a connection that is opened ahead")
        monkeypatch.setattr(sending, "IDLE", 0.05)
        await sent(gateway, "Fourth", "Fifth", "Sixth")
        await until(partial(are_open, provider, 0), "idle connections being closed")


async def test_a_single_connection_where_no_more_are_allowed(tmp_path: Path) -> None:
    async with ready(tmp_path, "connections = 1") as (provider, gateway):
        await sent(gateway, "First", "Second", "Third")
        assert provider.sandbox.post.logins["smtp"] == 1


@pytest.mark.parametrize("place", ["smtp.mail", "smtp.end"])
@pytest.mark.parametrize(
    "reply",
    ["454 4.7.0 Temporary authentication failure", "530 5.7.57 Client not authenticated to send mail.", "smtp-refused"],
)
async def test_a_token_that_expires_in_mid_connection_is_renewed_and_costs_nothing(
    tmp_path: Path, place: str, reply: str
) -> None:
    async with ready(tmp_path, "connections = 1") as (provider, gateway):
        await sent(gateway, "First")
        serial = (await gateway.parts.keeper.access_token((await gateway.token(ALICE)).id)).serial
        await provider.control("expire")
        await provider.control("faults", place=place, times=1, action="answer", reply=reply)
        await sent(gateway, "Second")
        assert provider.subjects(BOB) == ["First", "Second"]
        assert (await gateway.parts.keeper.access_token((await gateway.token(ALICE)).id)).serial > serial
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_connection_to_the_former_server_goes_at_once(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway):
        await sent(gateway, "First")
        own = f'app = "demo"\nsmtp = "localhost:{provider.sandbox.ports.smtps} tls"'
        await gateway.apply(file(provider).replace('app = "demo"', own))
        await until(partial(are_open, provider, 0), "the former connection being closed")
        await sent(gateway, "Second")


async def test_a_deleted_token_leaves_no_connection_behind(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway):
        await sent(gateway, "First")
        await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        await until(partial(are_open, provider, 0), "the connection being closed")


async def test_a_connection_carries_no_more_messages_than_the_provider_wants(tmp_path: Path) -> None:
    async with ready(tmp_path, "connections = 1\nmessages_per_connection = 2") as (provider, gateway):
        await sent(gateway, *(f"Number {number}" for number in range(5)))
        assert provider.sandbox.post.logins["smtp"] == 3


@pytest.mark.parametrize("whose", ["device", "mailbox"])
async def test_where_order_is_asked_for_a_delayed_message_holds_back_the_later_ones(tmp_path: Path, whose: str) -> None:
    async with ready(tmp_path, more=SCANNER) as (provider, gateway):
        text = file(provider, more=SCANNER)
        marked = f'name = "{PRINTER}"' if whose == "device" else f'address = "{ALICE}"'
        await gateway.apply(text.replace(marked, f"{marked}\nordered = true"))
        await provider.control("faults", place="smtp.end", times=1, action="answer", reply="451 4.3.0 Later")
        first = await send(gateway, "First")
        await until(partial(delayed, gateway, first[0]), "the first message being delayed")
        ids = await send(gateway, "Second", "Third")
        [other] = await send(gateway, "Other", device="scanner")
        if whose == "device":
            await gateway.until_message(other, "sent")
            assert provider.subjects(BOB) == ["Other"]
        gateway.clock.forward(20)
        for queue_id in (*first, *ids, other):
            await gateway.until_message(queue_id, "sent")
        arrived = [subject for subject in provider.subjects(BOB) if subject != "Other" or whose == "mailbox"]
        assert arrived == ["First", "Second", "Third", *(["Other"] if whose == "mailbox" else [])]


async def delayed(gateway: House, queue_id: str) -> bool:
    return "delayed" in await gateway.lines(queue_id)


async def test_without_an_order_nothing_is_held_back(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway):
        await provider.control("faults", place="smtp.end", times=1, action="answer", reply="451 4.3.0 Later")
        first = await send(gateway, "First")
        await until(partial(delayed, gateway, first[0]), "the first message being delayed")
        await sent(gateway, "Second")
        assert provider.subjects(BOB) == ["Second"]
