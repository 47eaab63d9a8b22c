"""A disk that is full, and a database that goes away: 4xx to clients, nothing accepted that is not kept, no restart."""

import asyncio
import contextlib
import resource
import smtplib
from collections.abc import Iterator
from pathlib import Path

from posthouse.cli.connection import SocketApi
from posthouse.secret import Secret
from tests.faults.test_killed import expire_soon, prepared, refreshed, started, until_sent
from tests.support.boxes import BOB, PRINTER, box
from tests.support.house import send, until
from tests.support.serving import Serving, serving

FULL = 64 * 1024
HELD = "token answer not yet written"
PAGE = "A page of many lines.\n" * 2000
LARGE = "One of many lines.\n" * 20_000


@contextlib.contextmanager
def full_disk(gateway: Serving) -> Iterator[None]:
    """No file of the gateway's can grow; its log, which is smaller, still can."""
    assert gateway.log.stat().st_size < FULL / 2
    assert (gateway.data / "posthouse.sqlite-wal").stat().st_size > FULL
    before = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (FULL, before[1]))
    try:
        yield
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, before)


def try_to_send(port: int, password: Secret, subject: str, body: str) -> int:
    """The code of the answer to a message, or to the command that kept it from being sent."""
    try:
        send(port, PRINTER, password, [BOB], subject, body)
    except smtplib.SMTPResponseException as refused:
        return refused.smtp_code
    except AssertionError as refused:
        return 451 if "4." in str(refused) else 500
    return 250


async def test_a_full_disk_refuses_for_now_loses_nothing_and_needs_no_restart(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider:
        password = await prepared(tmp_path / "data", provider)
        await provider.control("faults", place="smtp.end", action="pass", delay=0.3)
        with serving(tmp_path, tmp_path / "data") as gateway:
            port = await started(gateway, page=True)
            kept = [await asyncio.to_thread(send, port, PRINTER, password, [BOB], f"Before {n}", "") for n in range(8)]
            await handing_over(gateway)
            with full_disk(gateway):
                for body in ("Short.\n", LARGE, "Short.\n"):
                    assert await asyncio.to_thread(try_to_send, port, password, "Meanwhile", body) in (451, 452)
                await until(lambda: trying_again(gateway), "an outcome that could not be written")
            await until(lambda: takes_mail(gateway), "mail being taken again")
            kept += [await asyncio.to_thread(send, port, PRINTER, password, [BOB], "After", LARGE)]
            await until_sent(gateway, kept)
            assert sorted(provider.subjects(BOB)) == sorted(["After", *(f"Before {n}" for n in range(8))])
            await until(lambda: empty(tmp_path / "data" / "spool"), "the spool being empty")
            await asyncio.to_thread(gateway.kill)
            await started(gateway)
            assert gateway.states() == dict.fromkeys(kept, "sent")


async def test_a_token_that_was_renewed_on_a_full_disk_is_kept_until_it_can_be_written(tmp_path: Path) -> None:
    """The provider gives it once and takes the old one never again."""
    async with box(tmp_path / "box") as provider:
        password = await prepared(tmp_path / "data", provider)
        await expire_soon(tmp_path / "data")
        await provider.control("faults", place="token", action="pass", delay=4.0)
        with serving(tmp_path, tmp_path / "data") as gateway:
            port = await started(gateway)
            await until(lambda: has_intent(gateway), "the gateway asking for a new token")
            kept = [await asyncio.to_thread(send, port, PRINTER, password, [BOB], f"Page {n}", PAGE) for n in range(3)]
            await until_sent(gateway, kept)
            with full_disk(gateway):
                await until(lambda: refreshed(provider), "the provider answering")
                await until(lambda: holds_answer(gateway), "the answer being held")
                await asyncio.sleep(2.5)  # it is tried to be written each second
                assert gateway.rows("SELECT serial FROM oauth_grant") == [(0,)]
            await until_sent(gateway, kept)
            await until(lambda: is_written(gateway), "the answer being written")
            assert sum((await provider.control_state())["refreshes"].values()) == 1
            assert len([line for line in gateway.logged() if line["event"] == HELD]) == 1
            await asyncio.to_thread(gateway.kill)
            await started(gateway)
            assert gateway.rows("SELECT state FROM token") == [("acquired",)]


async def has_intent(gateway: Serving) -> bool:
    return bool(gateway.rows("SELECT 1 FROM oauth_grant WHERE intent_serial = serial"))


async def is_written(gateway: Serving) -> bool:
    return gateway.rows("SELECT serial FROM oauth_grant") == [(1,)]


async def holds_answer(gateway: Serving) -> bool:
    return any(line["event"] == HELD for line in gateway.logged())


async def trying_again(gateway: Serving) -> bool:
    return any(line["level"] == "error" and "mailbox" in line for line in gateway.logged())


async def takes_mail(gateway: Serving) -> bool:
    status = await asyncio.to_thread(SocketApi(gateway.data / "control.sock").get, "/status")
    return status["trouble"] is None


async def empty(directory: Path) -> bool:
    return not list(directory.iterdir())


async def handing_over(gateway: Serving) -> None:
    async def now() -> bool:
        return bool(gateway.rows("SELECT id FROM message WHERE stage = 'handing over'"))

    await until(now, "a message being handed over")
