"""SQLite: one writer thread that commits in groups, a reading thread, checkpoints beside them.

Group commit: while one commit waits for the disk the next pieces of work gather, and share the next fsync.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.sql.expression import ClauseElement

from posthouse.store.checkpoints import Checkpoints
from posthouse.store.compiling import Compiler
from posthouse.store.database import DatabaseUnavailable, Duplicate, Row, Work

T = TypeVar("T")
GROUP = 500
"""Pieces of work in one commit, at most."""
GATHER = 0.003
"""Seconds from the beginning of one commit to that of the next, while CROWD or more pieces of work share one."""
CROWD = 4
WAITING = 10_000
"""Pieces of work that may wait for the writer; one more is refused."""
WAL_LIMIT = 64 * 1024 * 1024
"""Octets of write-ahead log at which the writer pauses for a full checkpoint."""
CACHE = 16 * 1024 * 1024
"""Octets of pages that the writer keeps in memory, so that mail on its way is not read back."""
CHECKPOINT_AFTER = 200
"""Commits after which a checkpoint is worth it; sooner where the log has a quarter of its limit."""

_compiled = Compiler(SQLiteDialect(paramstyle="qmark"))


class SqliteTransaction:
    """Runs statements at once: its coroutines never suspend."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def all(self, statement: ClauseElement, **parameters: Any) -> list[Row]:
        return cast("list[Row]", self._execute(statement, parameters).fetchall())

    async def one(self, statement: ClauseElement, **parameters: Any) -> Row | None:
        return cast("Row | None", self._execute(statement, parameters).fetchone())

    async def run(self, statement: ClauseElement, **parameters: Any) -> int:
        return self._execute(statement, parameters).rowcount

    async def now(self) -> float:
        return time.time()

    def _execute(self, statement: ClauseElement, parameters: dict[str, Any]) -> sqlite3.Cursor:
        compiled = _compiled(statement)
        try:
            return self._connection.execute(compiled.text, compiled.values(parameters))
        except sqlite3.IntegrityError as cause:
            raise Duplicate(str(cause)) from cause


class SqliteDatabase:
    """The embedded database. Exactly one process opens it (see `lock.py`)."""

    embedded = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Work[Any], asyncio.Future[Any]]] = deque()
        self._work_waits = threading.Event()
        self._stopping = False
        self._commits = 0
        self._began, self._crowd = 0.0, 0
        self._checkpoints = Checkpoints(connect(path))
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="posthouse-read")
        self._reading = threading.local()
        self._writer = threading.Thread(
            target=self._write_until_closed, args=[connect(path)], name="posthouse-write", daemon=True
        )
        self._writer.start()

    async def read(self, work: Work[T]) -> T:
        if self._stopping:
            raise DatabaseUnavailable("the database is being closed")
        return await self._loop.run_in_executor(self._readers, self._read, work)

    def _read(self, work: Work[T]) -> T:
        if not hasattr(self._reading, "connection"):
            self._reading.connection = connect(self._path)
            self._reading.connection.execute("PRAGMA query_only=ON")
        connection: sqlite3.Connection = self._reading.connection
        try:
            connection.execute("BEGIN")
            return _finish(work(SqliteTransaction(connection)))
        except sqlite3.OperationalError as cause:
            raise DatabaseUnavailable(str(cause)) from cause
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    async def write(self, work: Work[T]) -> T:
        if self._stopping or len(self._queue) >= WAITING:
            raise DatabaseUnavailable("too many changes are waiting for the disk")
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue.append((work, done))
        self._work_waits.set()
        return await done

    def _write_until_closed(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA cache_size=-{CACHE // 1024}")
        while True:
            self._work_waits.wait()
            self._work_waits.clear()
            while self._queue:
                self._gather()
                group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP))]
                self._began, self._crowd = time.monotonic(), len(group)
                answers = self._commit(connection, group)
                self._answer(group, answers)
                self._tend_log(connection)
            if self._stopping:
                break
        connection.close()

    def _gather(self) -> None:
        """Under load wait a little for others who come: a commit costs as much CPU as twenty pieces of work."""
        rest = self._began + GATHER - time.monotonic()
        if self._crowd >= CROWD and rest > 0:
            time.sleep(rest)

    def _commit(
        self, connection: sqlite3.Connection, group: Sequence[tuple[Work[Any], Any]]
    ) -> list[tuple[Any, BaseException | None]]:
        transaction = SqliteTransaction(connection)
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = _all_well(transaction, group)
            if answers is None:
                _begin_again(connection)
                answers = [_in_savepoint(connection, transaction, work) for work, _ in group]
            connection.execute("COMMIT")
        except sqlite3.Error as cause:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            failure = DatabaseUnavailable(f"the database could not be written: {cause}")
            return [(None, failure) for _ in group]
        return answers

    def _tend_log(self, connection: sqlite3.Connection) -> None:
        """Have the log emptied beside us, or empty it before going on where it has grown too large."""
        self._commits += 1
        size = _size_of(self._path.with_name(self._path.name + "-wal"))
        if size > WAL_LIMIT:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        elif self._commits % CHECKPOINT_AFTER == 0 or size > WAL_LIMIT // 4:
            self._checkpoints.want()

    def _answer(
        self,
        group: Sequence[tuple[Any, asyncio.Future[Any]]],
        answers: Sequence[tuple[Any, BaseException | None]],
    ) -> None:
        waiting = [done for _, done in group]
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_resolve, waiting, answers)

    async def close(self) -> None:
        """Finish what waits, then close."""
        if self._stopping:
            return
        self._stopping = True
        self._work_waits.set()
        await self._loop.run_in_executor(None, self._writer.join)
        await self._loop.run_in_executor(None, self._checkpoints.close)
        await self._loop.run_in_executor(self._readers, self._close_reader)
        self._readers.shutdown()

    def _close_reader(self) -> None:
        if hasattr(self._reading, "connection"):
            self._reading.connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for the disk at every commit. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=400, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}").fetchone()
    return connection


def _all_well(
    transaction: SqliteTransaction, group: Sequence[tuple[Work[Any], Any]]
) -> list[tuple[Any, BaseException | None]] | None:
    """What each piece of work gave; None where one has failed, so that all have to be done again, each by itself."""
    try:
        return [(_finish(work(transaction)), None) for work, _ in group]
    except BaseException:
        return None


def _begin_again(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")


def _in_savepoint(
    connection: sqlite3.Connection, transaction: SqliteTransaction, work: Work[Any]
) -> tuple[Any, BaseException | None]:
    """Run one piece of work so that its failure is its own.

    Raises sqlite3.Error where the disk's refusal has undone the whole transaction.
    """
    connection.execute("SAVEPOINT work")
    try:
        result = _finish(work(transaction))
    except BaseException as cause:
        if not connection.in_transaction:
            raise sqlite3.OperationalError(str(cause)) from cause
        connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        return None, _meaning(cause)
    connection.execute("RELEASE work")
    return result, None


def _meaning(cause: BaseException) -> BaseException:
    if isinstance(cause, sqlite3.OperationalError):
        return DatabaseUnavailable(f"the database could not be written: {cause}")
    return cause


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    work.close()
    raise RuntimeError("work on the database may await nothing but its transaction")


def _resolve(waiting: Sequence[asyncio.Future[Any]], answers: Sequence[tuple[Any, BaseException | None]]) -> None:
    for done, (result, failure) in zip(waiting, answers, strict=True):
        if done.cancelled():
            continue
        if failure is not None:
            done.set_exception(failure)
        else:
            done.set_result(result)


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
