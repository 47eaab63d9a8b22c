"""250 is said after the message is on disk, and not before."""

import asyncio
import base64
import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from posthouse.store import messages, spool, sqlite
from tests.support.house import House, house

MAIL = """
[[mailbox]]
address = "alice@example.com"
password = "secret"
smtp = "127.0.0.1:9 tls"

[[device]]
name = "printer"
mailboxes = ["alice@example.com"]
"""
MESSAGE = b"Subject: A page\r\n\r\nText.\r\n.\r\n"


@dataclass(slots=True)
class Disk:
    """Stands between the writer and the disk: holds back what is to be synced, or refuses that, or a commit."""

    path: Path
    held: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)
    refuses_commits: bool = False
    refuses_syncs: bool = False

    def commit(self, real: sqlite3.Connection) -> Any:
        if self.refuses_commits:
            raise sqlite3.OperationalError("disk I/O error")
        return real.execute("COMMIT")

    def sync(self, file: int) -> None:
        assert os.path.samestat(os.fstat(file), self.path.with_name(self.path.name + "-wal").stat())
        self.held.set()
        assert self.goes_on.wait(10)
        if self.refuses_syncs:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(file)

    def messages(self) -> int:
        with sqlite3.connect(self.path) as other:
            return int(other.execute("SELECT count(*) FROM message").fetchone()[0])

    def messages_without_log(self) -> int:
        """What of them lies in the database itself, where nothing depends on the log."""
        alone = self.path.with_name("alone.sqlite")
        shutil.copy(self.path, alone)
        with sqlite3.connect(alone) as other:
            return int(other.execute("SELECT count(*) FROM message").fetchone()[0])


class Held:
    """A connection whose COMMIT goes by way of `Disk`."""

    def __init__(self, real: sqlite3.Connection, disk: Disk) -> None:
        self._real = real
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, text: str, *values: Any) -> Any:
        return self._disk.commit(self._real) if text == "COMMIT" else self._real.execute(text, *values)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", MAIL, background=False) as made:
        await made.gateway.start_listeners()
        yield made


@pytest.fixture
async def device(gateway: House) -> AsyncIterator["Device"]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.smtp_ports[0])
    login = base64.b64encode(b"\0printer\0" + gateway.passwords["printer"].reveal().encode())
    made = Device(reader, writer)
    await made.reply()
    for line in (b"EHLO printer", b"AUTH PLAIN " + login):
        await made.say(line + b"\r\n")
    await made.begin()
    yield made
    writer.close()
    await writer.wait_closed()


@dataclass(slots=True)
class Device:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> int:
        self.writer.write(data)
        return await self.reply()

    async def begin(self) -> None:
        """A message, up to its first octet."""
        for line in (b"MAIL FROM:<a@b.c>\r\n", b"RCPT TO:<bob@b.c>\r\n", b"DATA\r\n"):
            code = await self.say(line)
        assert code == 354

    async def reply(self) -> int:
        while (line := await self.reader.readline())[3:4] == b"-":
            pass
        return int(line[:3])


def hold_disk(gateway: House, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(gateway.gateway.settings.data / "posthouse.sqlite")
    database: Any = gateway.parts.store.database
    monkeypatch.setattr(database, "_connection", Held(database._connection, disk))
    monkeypatch.setattr(sqlite, "_wait_for_disk", disk.sync)
    return disk


async def test_250_waits_for_the_disk(gateway: House, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = hold_disk(gateway, monkeypatch)
    answer = asyncio.create_task(device.say(MESSAGE))
    await asyncio.to_thread(disk.held.wait, 10)
    await asyncio.wait([answer], timeout=0.1)
    assert not answer.done()
    disk.goes_on.set()
    assert await answer == 250
    assert disk.messages() == 1


async def test_a_commit_that_fails_is_answered_451_and_leaves_nothing(
    gateway: House, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = hold_disk(gateway, monkeypatch)
    disk.refuses_commits = True
    disk.goes_on.set()
    assert await device.say(MESSAGE) == 451
    assert disk.messages() == 0
    disk.refuses_commits = False
    await device.begin()
    assert await device.say(MESSAGE) == 250
    assert disk.messages() == 1


async def test_what_the_disk_may_have_lost_is_answered_451_until_nothing_depends_on_the_log(
    gateway: House, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sync has failed the next one tells nothing of what was lost before."""
    disk = hold_disk(gateway, monkeypatch)
    disk.refuses_syncs = True
    disk.goes_on.set()
    assert await device.say(MESSAGE) == 451
    disk.refuses_syncs = False
    await device.begin()
    assert disk.messages_without_log() == 0
    assert await device.say(MESSAGE) == 250
    assert disk.messages_without_log() >= 1
    assert disk.messages() == 2


async def test_a_large_message_is_answered_after_its_file_and_the_name_of_that_are_on_disk(
    gateway: House, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, goes_on, place = threading.Event(), threading.Event(), gateway.parts.store.spool.place
    names: list[str] = []

    def sync(directory: Path) -> None:
        names.extend(path.name for path in directory.iterdir())
        reached.set()
        assert goes_on.wait(10)

    monkeypatch.setattr(spool, "sync_directory", sync)
    answer = asyncio.create_task(device.say(b"Subject: Pages\r\n\r\n" + b"A line.\r\n" * 20_000 + b".\r\n"))
    assert await asyncio.to_thread(reached.wait, 10)
    assert [path.name for path in Path(place, "spool").iterdir()] == names
    assert len(names) == 1
    assert await gateway.parts.store.database.read(messages.with_pieces) == set()
    goes_on.set()
    assert await answer == 250
    assert await gateway.parts.store.database.read(messages.with_pieces) == set(names)


def test_every_commit_is_synced_to_the_disk(tmp_path: Path) -> None:
    connection = sqlite.connect(tmp_path / "posthouse.sqlite")
    try:
        full = 2
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == full
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    finally:
        connection.close()
