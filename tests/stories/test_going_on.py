"""Stories of a gateway that goes on although something in it is wrong."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from posthouse.model.outcome import Unreachable
from posthouse.net.http import HttpClient
from posthouse.oauth.message import get
from posthouse.services.following import Following
from posthouse.store import configuration
from posthouse.store.database import DatabaseUnavailable, Transaction
from posthouse.store.events import Event, record
from posthouse.store.sealing import Sealer, Unsealable
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.clients import over_socket
from tests.support.house import House, house, until

LINE = b"One of many lines.\r\n"


async def tell(gateway: House, *subjects: str) -> None:
    """Let events be written."""

    async def work(tx: Transaction) -> None:
        for subject in subjects:
            await record(tx, gateway.clock(), "token.acquired", subject)

    await gateway.parts.store.database.write(work)


async def test_a_stored_provider_that_makes_no_sense_takes_only_its_own_mailboxes_along(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider:
        async with house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway:
            await gateway.by_device(ALICE, provider.approve_as(ALICE))
            spoilt: dict[str, Any] = {"name": "broken", "document": '{"name": "broken", "smtp": 7}'}
            await gateway.parts.store.database.write(
                lambda tx: configuration.save(tx, "provider", "pr_broken", **spoilt)
            )
        async with house(tmp_path / "data") as gateway:
            assert "broken" not in gateway.parts.directory.now.providers
            assert (await gateway.parts.keeper.access_token((await gateway.token(ALICE)).id)).secret


async def test_a_listener_that_falls_down_keeps_nobody_from_hearing_the_rest(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as gateway:
        following = Following(gateway.parts.store, gateway.parts.directory)
        heard: list[str] = []

        async def fall(event: Event) -> None:
            raise KeyError(event.subject)

        async def hear(event: Event) -> None:
            heard.append(event.subject)

        following.listen(fall)
        following.listen(hear)
        await following.start()
        await tell(gateway, "one", "two")
        await following.look()
        assert heard == ["one", "two"]


async def test_what_could_not_be_told_for_want_of_the_database_is_told_again(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as gateway:
        following = Following(gateway.parts.store, gateway.parts.directory)
        heard: list[str] = []

        async def hear(event: Event) -> None:
            heard.append(event.subject)
            if len(heard) == 1:
                raise DatabaseUnavailable("it is away")

        following.listen(hear)
        await following.start()
        await tell(gateway, "one", "two")
        with pytest.raises(DatabaseUnavailable):
            await following.look()
        await following.look()
        assert heard == ["one", "one", "two"]


@pytest.mark.parametrize("left", ["", "\n"])
async def test_a_node_whose_name_was_lost_in_a_crash_gets_another_one(tmp_path: Path, left: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "node").write_text(left)
    async with house(data, background=False) as gateway:
        name = gateway.parts.dispatcher.node_id
        assert name.startswith("node_")
    async with house(data, background=False) as gateway:
        assert gateway.parts.dispatcher.node_id == name


async def test_mail_for_which_there_is_no_server_waits_quietly(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        stored = gateway.parts.directory.now.configuration.providers["sandbox"]
        without = {key: value for key, value in stored.document.items() if key != "smtp"}
        await gateway.parts.store.database.write(
            lambda tx: configuration.save(tx, "provider", stored.id, document=configuration.encode(without))
        )
        await gateway.parts.directory.refresh()
        queue_id = await gateway.send(PRINTER, BOB, "Where to?")

        async def delayed() -> bool:
            return "delayed" in await gateway.lines(queue_id)

        await until(delayed, "the message being delayed")
        assert (await gateway.message(queue_id)).state == "queued"
        assert "parked" not in await gateway.lines(queue_id)


async def test_one_token_that_cannot_be_opened_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB), background=False) as gateway,
        over_socket(gateway) as api,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.by_device(BOB, provider.approve_as(BOB))
        spoilt, opened = (await gateway.token(ALICE)).serving_grant, Sealer.open

        def refuse_one(sealer: Sealer, sealed: bytes, place: str) -> bytes:
            if place.startswith(f"grant:{spoilt}:"):
                raise Unsealable(place)
            return opened(sealer, sealed, place)

        monkeypatch.setattr(Sealer, "open", refuse_one)
        listed = {token["account"]: token["person"] for token in await api.items("/tokens")}
        assert listed[BOB] == BOB
        assert ALICE in listed


async def test_a_certificate_file_that_has_gone_is_no_answer_of_the_sign_in(tmp_path: Path) -> None:
    http = HttpClient()
    answer = await http.ask(get("https://localhost:1/"), deadline=5.0, ca_file=str(tmp_path / "gone.pem"))
    assert isinstance(answer, Unreachable)
    assert not answer.outcome_unknown
    await http.close()


async def test_a_large_message_that_comes_in_while_the_gateway_starts_arrives_whole(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await gateway.gateway.start_listeners()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.smtp_ports[0])

        async def say(line: str, code: str) -> str:
            writer.write(f"{line}\r\n".encode())
            while (answer := (await reader.readline()).decode())[3:4] == "-":
                pass
            assert answer.startswith(code), answer
            return answer

        assert (await reader.readline()).startswith(b"220")
        await say("EHLO printer", "250")
        login = base64.b64encode(f"\0{PRINTER}\0{gateway.passwords[PRINTER].reveal()}".encode()).decode()
        await say(f"AUTH PLAIN {login}", "235")
        await say("MAIL FROM:<scanner@printer.example>", "250")
        await say(f"RCPT TO:<{BOB}>", "250")
        await say("DATA", "354")
        writer.write(b"Subject: Whole\r\n\r\n" + LINE * 20_000)
        spool = tmp_path / "data" / "spool"

        async def spooled() -> bool:
            return any(spool.iterdir())

        await until(spooled, "the body lying in the spool")
        await gateway.gateway.start_background()
        writer.write(LINE)
        queue_id = (await say(".", "250")).split()[-1]
        writer.close()
        await gateway.until_message(queue_id, "sent")
        [text] = provider.texts(BOB)
        assert text.count(LINE.decode()) == 20_001
