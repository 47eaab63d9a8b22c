"""Stories of mail that is sent through the gateway, with the sandbox as the provider."""

import asyncio
import smtplib
from pathlib import Path

import pytest

from posthouse.store import configuration
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.house import house, until


async def test_a_password_only_client_sends_through_a_mailbox_authorised_by_device_code(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        queue_id = await gateway.send(PRINTER, BOB, "A scan")
        await gateway.until_message(queue_id, "sent")
        assert provider.subjects(BOB) == ["A scan"]
        assert await gateway.lines(queue_id) == ["accepted", "sent"]


async def test_mail_waits_while_the_token_is_revoked_and_goes_on_after_reauthorising(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("revoke", person=ALICE)
        await provider.control("expire", person=ALICE)
        subjects = [f"Scan {number}" for number in range(20)]
        queue_ids = [await gateway.send(PRINTER, BOB, subject) for subject in subjects]

        async def parked() -> bool:
            return all([(await gateway.message(queue_id)).state == "parked" for queue_id in queue_ids])

        await until(parked, "all mail being parked")
        token = await gateway.token(ALICE)
        assert (token.state, token.reason) == ("invalid", "revoked")
        assert provider.subjects(BOB) == []

        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        for queue_id in queue_ids:
            message = await gateway.until_message(queue_id, "sent")
            assert message.attempts == 1
        assert sorted(provider.subjects(BOB)) == sorted(subjects)


async def test_mail_sent_before_the_first_sign_in_waits_for_it(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        queue_id = await gateway.send(PRINTER, BOB, "Early")
        await gateway.until_message(queue_id, "parked")
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.until_message(queue_id, "sent")
        assert provider.subjects(BOB) == ["Early"]


async def test_an_access_token_that_the_server_refuses_is_renewed_once_and_the_mail_goes(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("expire", person=ALICE)
        queue_id = await gateway.send(PRINTER, BOB, "Anyway")
        await gateway.until_message(queue_id, "sent")
        assert provider.subjects(BOB) == ["Anyway"]


async def test_a_connection_cut_after_the_end_of_the_message_is_an_unknown_outcome_and_is_sent_again(
    tmp_path: Path,
) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="smtp.end", action="lose", times=1)
        queue_id = await gateway.send(PRINTER, BOB, "Twice or once")

        async def unknown() -> bool:
            return "outcome unknown" in await gateway.lines(queue_id)

        await until(unknown, "the journal saying that the outcome is unknown")
        gateway.clock.forward(60)
        await gateway.until_message(queue_id, "sent")
        assert set(provider.subjects(BOB)) == {"Twice or once"}
        assert await gateway.lines(queue_id) == ["accepted", "outcome unknown", "sent"]


async def test_a_message_the_provider_refuses_for_good_is_kept_and_can_be_sent_again(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        queue_id = await gateway.send(PRINTER, ["nobody@sandbox.example", BOB], "To two")
        message = await gateway.until_message(queue_id, "failed")
        assert [(one.address, one.state) for one in message.recipients] == [
            ("nobody@sandbox.example", "failed"),
            (BOB, "sent"),
        ]
        assert "5.1.1" in message.recipients[0].answer
        assert provider.subjects(BOB) == ["To two"]


@pytest.mark.parametrize("size", [100_000, 3_000_000])
async def test_a_large_message_arrives_octet_by_octet_as_it_was(tmp_path: Path, size: int) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        line = ".leading dots and other text, " * 2 + "\n"
        body = line * (size // len(line))
        queue_id = await gateway.send(PRINTER, BOB, "Large", body=body)
        await gateway.until_message(queue_id, "sent")
        [stored] = provider.texts(BOB)
        assert stored.partition("\r\n\r\n")[2] == body.replace("\n", "\r\n")

        async def removed() -> bool:
            return list((tmp_path / "data" / "spool").iterdir()) == []

        await until(removed, "the body being removed")


async def test_a_login_that_is_refused_shows_at_the_mailbox_until_one_is_taken_again(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))

        async def shown(state: str) -> bool:
            [server] = (await gateway.view(ALICE)).servers
            return server.state == state and (state == "proved" or "5.7.139" in server.answer)

        await until(lambda: shown("proved"), "the proof of the token being shown")
        await provider.control("protocols", protocol="smtp", on=False)
        queue_id = await gateway.send(PRINTER, BOB, "Refused for now")
        await until(lambda: shown("refused"), "the refusal being shown at its server")
        await provider.control("protocols", protocol="smtp", on=True)
        gateway.clock.forward(60)
        await gateway.until_message(queue_id, "sent")
        assert await shown("proved")


async def test_a_device_that_is_removed_while_it_is_logged_in_sends_nothing_more(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        port, password = gateway.gateway.smtp_ports[0], gateway.passwords[PRINTER]
        client = await asyncio.to_thread(smtplib.SMTP, "127.0.0.1", port)
        await asyncio.to_thread(client.login, PRINTER, password.reveal())
        assert (await asyncio.to_thread(client.mail, "scanner@printer.example"))[0] == 250
        [device] = gateway.parts.directory.now.configuration.devices
        await gateway.parts.store.database.write(lambda tx: configuration.remove(tx, "device", device))
        await gateway.parts.directory.refresh()
        await asyncio.to_thread(client.rset)
        assert (await asyncio.to_thread(client.mail, "scanner@printer.example"))[0] == 530
        client.close()
