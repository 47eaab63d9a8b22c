"""Whoever put a file into a directory is answered after an fsync that began later, and shares it with others."""

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posthouse.store import directory_sync
from posthouse.store.directory_sync import DirectorySync


@dataclass(slots=True)
class Disk:
    """Lets an fsync end when it is told to, or fail."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    goes_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    syncs: int = 0
    fails: bool = False

    def sync(self, _: Path) -> None:
        self.syncs += 1
        self.begun.release()
        assert self.goes_on.acquire(timeout=10)
        if self.fails:
            raise OSError("Input/output error")

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(directory_sync, "sync_directory", made.sync)
    return made


async def test_those_who_come_while_it_is_under_way_share_the_next_one(disk: Disk, tmp_path: Path) -> None:
    sync = DirectorySync(tmp_path)
    first = asyncio.create_task(sync())
    await disk.has_begun()
    later = [asyncio.create_task(sync()) for _ in range(5)]
    disk.goes_on.release()
    await first
    await disk.has_begun()
    assert not any(one.done() for one in later)
    disk.goes_on.release()
    await asyncio.gather(*later)
    assert disk.syncs == 2


async def test_a_failure_is_told_to_all_who_share_it_and_to_nobody_else(disk: Disk, tmp_path: Path) -> None:
    sync = DirectorySync(tmp_path)
    first = asyncio.create_task(sync())
    await disk.has_begun()
    later = [asyncio.create_task(sync()) for _ in range(2)]
    disk.fails = True
    disk.goes_on.release()
    with pytest.raises(OSError, match="Input/output error"):
        await first
    await disk.has_begun()
    disk.fails = False
    disk.goes_on.release()
    await asyncio.gather(*later)


async def test_one_who_goes_away_takes_it_from_nobody(disk: Disk, tmp_path: Path) -> None:
    sync = DirectorySync(tmp_path)
    first, second = asyncio.create_task(sync()), asyncio.create_task(sync())
    await disk.has_begun()
    first.cancel()
    disk.goes_on.release()
    await second
    assert first.cancelled()
    assert disk.syncs == 1
