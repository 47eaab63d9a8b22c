"""What a mailbox may send as is learnt from the provider; one sender's refusal concerns that sender's mail alone."""

import asyncio
import contextlib
import smtplib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from posthouse.cli import mailboxes
from posthouse.model.sender import REFUSED_FOR
from posthouse.services import dispatcher
from posthouse.services.intake import Intake, Posting
from posthouse.services.overview import MailboxView
from posthouse.store import events, messages
from posthouse.web.api import shapes
from tests.stories.test_pacing import be_microsoft
from tests.support.boxes import ALICE, BOB, PRINTER, SUPPORT, Box, box
from tests.support.clients import over_socket
from tests.support.house import SECONDS, House, house, until

SALES = "sales@sandbox.example"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL", 0.01)


def file_with(provider: Box, settings: str) -> str:
    return provider.apply_file(ALICE).replace('app = "demo"\n', f'app = "demo"\n{settings}\n', 1)


AS_GIVEN = f'sender = "as-given"\nsenders = ["{SUPPORT}", "{SALES}"]'


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, settings: str) -> AsyncIterator[tuple[Box, House]]:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", file_with(provider, settings)) as gateway,
    ):
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        await until_followed(gateway)
        be_microsoft(gateway)
        yield provider, gateway


async def until_followed(gateway: House) -> None:
    """A new token lets refused senders be asked about again: not in the middle of a test."""
    parts = gateway.parts
    newest = await parts.store.database.read(lambda tx: events.value_of(tx, "event"))
    parts.following.ring()

    async def reached() -> bool:
        return parts.following.position >= newest

    await until(reached, "every event being told")


async def send_as(gateway: House, sender: str, subject: str, *, header: str = "") -> str:
    """Its queue id. Raises smtplib.SMTPException."""
    port, password = gateway.gateway.smtp_ports[0], gateway.passwords[PRINTER]
    octets = f"From: {header or sender}\r\nTo: {BOB}\r\nSubject: {subject}\r\n\r\nA page.\r\n".encode()

    def converse() -> str:
        with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as client:
            client.login(PRINTER, password.reveal())
            for step in (partial(client.mail, sender), partial(client.rcpt, BOB), partial(client.data, octets)):
                code, answer = step()
                if code >= 400:
                    raise smtplib.SMTPResponseException(code, answer)
        return answer.decode().rpartition(" ")[2]

    return await asyncio.to_thread(converse)


async def seen(gateway: House) -> MailboxView:
    found = await gateway.view(ALICE)
    be_microsoft(gateway)
    return found


async def states(gateway: House) -> dict[str, str]:
    return {one.address: one.state for one in (await seen(gateway)).senders}


async def until_delayed(gateway: House, queue_id: str) -> None:
    async def reached() -> bool:
        return bool((await gateway.message(queue_id)).answer)

    await until(reached, f"{queue_id} being refused")


async def until_told(gateway: House, sender: str, *, refused: bool = True) -> None:
    mailbox = gateway.parts.directory.now.by_address[ALICE]

    async def reached() -> bool:
        return gateway.parts.refused_senders(mailbox.id, sender) == refused

    await until(reached, f"{sender} being known as refused: {refused}")


async def test_a_sender_that_the_provider_takes_is_learnt_and_the_account_itself_is_not_listed(tmp_path: Path) -> None:
    async with opened(tmp_path, AS_GIVEN) as (_, gateway):
        for sender in (ALICE, SUPPORT, SUPPORT):
            await gateway.until_message(await send_as(gateway, sender, "Hello"), "sent")
        assert await states(gateway) == {SUPPORT: "allowed"}


@pytest.mark.parametrize("envelope", [SALES, ALICE])
async def test_a_refused_sender_waits_alone(tmp_path: Path, envelope: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it is refused at MAIL FROM, or by what stands in From."""
    async with opened(tmp_path, AS_GIVEN) as (provider, gateway):
        refused = await send_as(gateway, envelope, "From sales", header=SALES)
        await until_delayed(gateway, refused)
        for sender in (ALICE, SUPPORT):
            await gateway.until_message(await send_as(gateway, sender, f"From {sender}"), "sent")
        found = await gateway.message(refused)
        assert (found.state, found.attempts) == ("queued", 0)
        assert "send as" in found.cause.lower()
        assert provider.subjects(BOB) == [f"From {ALICE}", f"From {SUPPORT}"]
        assert await states(gateway) == {SALES: "refused", SUPPORT: "allowed"}
        [learnt] = [one for one in (await seen(gateway)).senders if one.address == SALES]
        assert learnt.answer == found.answer
        capsys.readouterr()
        mailboxes._show(shapes.mailbox(await seen(gateway)).model_dump(mode="json", by_alias=True))
        printed = capsys.readouterr().out
        assert f"sender {SALES}: refused, " in printed
        assert f"{found.answer}\nsender {SUPPORT}: allowed, since " in printed


async def test_a_device_is_told_of_a_known_refusal_until_something_is_changed(tmp_path: Path) -> None:
    async with opened(tmp_path, AS_GIVEN) as (provider, gateway):
        first = await send_as(gateway, SALES, "One")
        await until_told(gateway, SALES)
        for envelope in (SALES, ALICE):
            with pytest.raises(smtplib.SMTPResponseException) as told:
                await send_as(gateway, envelope, "Two", header=SALES)
            assert told.value.smtp_code == 550
            assert told.value.smtp_error == f"5.7.1 Provider refuses sender {SALES}".encode()
        await gateway.until_message(await send_as(gateway, ALICE, "Mine"), "sent")

        allow(provider, SALES)
        await gateway.apply(file_with(provider, f'{AS_GIVEN}\ntimeout = "20s"'))
        be_microsoft(gateway)
        await gateway.until_message(first, "sent")
        await until_told(gateway, SALES, refused=False)
        await gateway.until_message(await send_as(gateway, SALES, "Two"), "sent")
        assert await states(gateway) == {SALES: "allowed"}


@pytest.mark.parametrize("field", [{"from": SALES}, {}], ids=["envelope", "From"])
async def test_a_program_is_told_of_a_known_refusal_as_a_device_is(tmp_path: Path, field: dict[str, str]) -> None:
    async with opened(tmp_path, AS_GIVEN) as (_, gateway), over_socket(gateway) as api:
        queued = await send_as(gateway, SALES, "One")
        await until_told(gateway, SALES)
        text = f"From: {SALES}\nTo: {BOB}\n\nx\n".encode()
        answer = await api.hand_in(text, mailbox=ALICE, **field)
        assert (answer.status_code, answer.json()["detail"]) == (422, f"Provider refuses sender {SALES}.")
        letter = {"mailbox": ALICE, "from": SALES, "to": [BOB], "text": "x"}
        assert (await api.post("/messages", letter)).json()["id"] == "message.sender"
        assert [one["id"] for one in await api.items("/messages")] == [queued]


async def test_a_refusal_is_remembered_over_a_restart_for_an_hour(tmp_path: Path) -> None:
    async with opened(tmp_path, AS_GIVEN) as (_, gateway):
        await send_as(gateway, SALES, "One")
        await until_told(gateway, SALES)
    async with house(tmp_path / "data", clock=gateway.clock) as restarted:
        await until_told(restarted, SALES)
        restarted.clock.forward(REFUSED_FOR)
        await until_told(restarted, SALES, refused=False)


async def test_a_refused_sender_is_tried_with_growing_pauses_and_when_a_person_asks(tmp_path: Path) -> None:
    async with opened(tmp_path, f'sender_address = "{SALES}"') as (provider, gateway):
        first = await gateway.send(PRINTER, BOB, "One")
        await until_delayed(gateway, first)
        pauses = []
        for _ in range(3):
            before = await gateway.message(first)
            pauses.append(before.next_at - gateway.clock())
            gateway.clock.forward(before.next_at - gateway.clock() + 0.01)

            async def tried(last: float = before.next_at) -> bool:
                return (await gateway.message(first)).next_at > last

            await until(tried, "the next try")
        assert pauses[0] < pauses[1] < pauses[2]
        second = await gateway.send(PRINTER, BOB, "Two")
        await until_delayed(gateway, second)
        assert await gateway.lines(second) == ["accepted", "waiting"]
        assert (await seen(gateway)).sender_doubt == "refused"

        allow(provider, SALES)
        now = gateway.clock()
        assert await gateway.parts.store.database.write(lambda tx: messages.retry(tx, second, now, now + 1000))
        await gateway.until_message(second, "sent")
        assert (await seen(gateway)).sender_doubt == ""


async def test_a_heap_of_a_refused_sender_is_asked_about_once_and_the_others_pass_it_by(tmp_path: Path) -> None:
    async with opened(tmp_path, AS_GIVEN) as (_, gateway):
        first = await posted(gateway, SALES)
        await until_delayed(gateway, first)
        heap = [await posted(gateway, SALES if number % 2 else SUPPORT) for number in range(20)]
        for queue_id in heap[::2]:
            await gateway.until_message(queue_id, "sent")
        for queue_id in heap[1::2]:
            await until_delayed(gateway, queue_id)
            assert await gateway.lines(queue_id) == ["accepted", "waiting"]
            assert (await gateway.message(queue_id)).attempts == 0


async def posted(gateway: House, sender: str) -> str:
    """As the API takes it before the refusal is known there."""
    parts = gateway.parts

    async def octets() -> AsyncIterator[bytes]:
        yield f"From: {sender}\r\nSubject: Hello\r\n\r\nA page.\r\n".encode()

    intake = Intake(parts.store, gateway.clock, "gw.example", parts.dispatcher.accepted, lambda *_: False)
    return (await intake.take(Posting(parts.directory.now.by_address[ALICE], sender, (BOB,), "key"), octets())).id


async def test_a_sender_address_that_nobody_has_proved_is_warned_of(tmp_path: Path) -> None:
    async with opened(tmp_path, f'sender_address = "{SUPPORT}"') as (_, gateway):
        assert (await seen(gateway)).sender_doubt == "unproved"
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Hello"), "sent")
        assert (await seen(gateway)).sender_doubt == ""


def allow(provider: Box, sender: str) -> None:
    """As an administrator does at the provider."""
    allowed = provider.sandbox.post._senders
    allowed[ALICE] = allowed[ALICE] | {sender}
