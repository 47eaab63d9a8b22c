"""What a worker has to write down: in order, one piece of work at a time, each with all that has come up meanwhile.

The worker goes on before it is on disk, except where it has to be sure: then it waits for an entry.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from posthouse.store.database import CommitUnknown, Database, DatabaseUnavailable, Transaction

AGAIN_AT_FIRST, AGAIN_AT_MOST = 0.2, 5.0
"""Seconds before what the database did not take is written again."""
SAY_AGAIN = 60.0
"""Seconds after which it is said again that something cannot be written."""

T = TypeVar("T")
Step = Callable[[Transaction], Coroutine[Any, Any, T]]
Then = Callable[[T], Coroutine[Any, Any, None] | None]
Entry = tuple[Step[Any], Then[Any] | None]

log = structlog.get_logger("dispatcher")


class Ledger:
    """Entries are steps of one transaction; they may be run more than once, until they are on disk."""

    def __init__(self, database: Database, mailbox_id: str) -> None:
        self._database = database
        self._mailbox_id = mailbox_id
        self._entries: list[Entry] = []
        self._writing: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._added = self._written = 0

    @property
    def settled(self) -> bool:
        """Everything is on disk."""
        return self._written == self._added

    def has(self, number: int) -> bool:
        """Whether that entry is on disk."""
        return self._failure is None and self._written >= number

    def add(self, step: Step[T], then: Then[T] | None = None) -> int:
        """The number of the entry. `then` is given what the step gave, once it is on disk, and awaited if need be."""
        self._entries.append((step, then))
        self._added += 1
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return self._added

    async def until(self, number: int) -> None:
        """Wait until that entry is on disk, however long the database is away. Raises what a step raised."""
        while self._written < number and self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def settle(self) -> None:
        """Wait until everything is on disk. Raises what a step raised."""
        await self.until(self._added)

    async def write(self, step: Step[T], *, long: bool = False) -> T:
        """What has happened has to be written down, however long the database is away."""
        pause, clock, silent_until = AGAIN_AT_FIRST, asyncio.get_running_loop().time, 0.0
        while True:
            try:
                return await self._database.write(step, long=long)
            except (DatabaseUnavailable, CommitUnknown) as cause:
                if clock() >= silent_until:
                    silent_until = clock() + SAY_AGAIN
                    log.error("an outcome cannot be written, trying again", mailbox=self._mailbox_id, cause=str(cause))
            await asyncio.sleep(pause)
            pause = min(pause * 2, AGAIN_AT_MOST)

    def stop(self) -> None:
        """Nothing more is written."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self) -> None:
        entries: list[Entry] = []
        try:
            while self._entries:
                entries, self._entries = self._entries, []
                await self._write_down(entries)
                self._written += len(entries)
                self._wake()
        except Exception as cause:
            self._failure = cause
            self._written += len(entries) + len(self._entries)
            self._entries.clear()
        finally:
            self._writing = None
            self._wake()

    async def _write_down(self, entries: list[Entry]) -> None:
        async def work(tx: Transaction) -> list[Any]:
            return [await step(tx) for step, _ in entries]

        for (_, then), result in zip(entries, await self.write(work), strict=True):
            if then is not None and (more := then(result)) is not None:
                await more

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
