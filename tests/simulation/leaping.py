"""A loop whose sleeps take no time: when nothing is left to do, the clock leaps to when there is something again."""

import asyncio
import selectors
import sqlite3
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from posthouse.store.database import Work
from posthouse.store.sqlite import SqliteDatabase, SqliteTransaction, _finish

T = TypeVar("T")
PATIENCE = 30.0
"""Real seconds to wait for something outside, such as a database server, before it counts as stuck."""


class _Selector(selectors.DefaultSelector):
    """`outside` counts what the world outside has been asked for: while it is awaited, time stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.outside = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.outside or timeout is None:
            found = super().select(0 if timeout is not None and timeout <= 0 else PATIENCE)
            if not found and (timeout is None or timeout > 0):
                raise RuntimeError("everything waits for something that never comes")
            return found
        self.now += max(timeout, 0.0)
        return []


class LeapingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leaping = _Selector()
        super().__init__(self._leaping)
        # After 2**24 seconds a nanosecond more is the same number, and what is due would never be found due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._leaping.now

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """From this very thread nobody has to be woken."""
        if threading.get_ident() == self._thread_id:  # type: ignore[attr-defined]
            return self.call_soon(callback, *args, context=context)
        return super().call_soon_threadsafe(callback, *args, context=context)

    async def outside(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what really takes time."""
        self._leaping.outside += 1
        try:
            return await work
        finally:
            self._leaping.outside -= 1


class AtOnce:
    """In the place of the queue to the thread that waits for the disk."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._finish, self._thread = database._finish_group, database._to_commit

    def put(self, begun: Any) -> None:
        """None ends the thread."""
        if begun is None:
            self._thread.put(None)
        else:
            self._finish(*begun)


class SteadyDatabase(SqliteDatabase):
    """The embedded database in memory and without threads: no power fails in a simulation, and the same seed gives
    the same order of things."""

    def steady(self) -> "SteadyDatabase":
        memory = sqlite3.connect(":memory:", isolation_level=None, cached_statements=400, check_same_thread=False)
        memory.row_factory = sqlite3.Row
        self._connection.backup(memory)
        self._connection.close()
        self._connection = memory
        self._to_commit = AtOnce(self)  # type: ignore[assignment]
        return self

    async def read(self, work: Work[T]) -> T:
        """Nothing can come between its statements."""
        before = self._connection.total_changes
        found = _finish(work(SqliteTransaction(self._connection)))
        assert self._connection.total_changes == before, "work that was to read has changed something"
        return found

    def _sync(self) -> None:
        """There is no disk."""

    def _tend_log(self, pieces: int) -> None:
        """There is none."""
