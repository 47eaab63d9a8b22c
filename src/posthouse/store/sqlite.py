"""SQLite: statements and commits on the loop, the wait for the disk on a thread; reads and checkpoints beside.

Group commit: while one group waits for the disk the next pieces of work gather, and share the next sync. Statements
and what a commit writes take microseconds; on a thread of their own they would cost more in handing Python's lock to
and fro. So SQLite does not sync at a commit (synchronous=NORMAL: it does at checkpoints); the thread does, before
anybody is answered, which makes it what synchronous=FULL is. Work that may touch many rows says so and is done on the
thread.
"""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.sql.expression import ClauseElement

from posthouse.store.checkpoints import Checkpoints
from posthouse.store.compiling import Compiler
from posthouse.store.database import DatabaseUnavailable, Duplicate, NotOnDisk, Row, Work
from posthouse.store.trouble import LastWrite, of_disk, of_sqlite

T = TypeVar("T")
GROUP = 200
"""Pieces of work in one commit, at most."""
ENOUGH = 16
"""Pieces of work that are worth a commit at once."""
BREATH = 0.002
"""Seconds after a commit of several pieces of work in which fewer than that gather for the next."""
LOCKED = 10.0
"""Seconds to wait for another program that holds the database, such as somebody's sqlite3 shell."""
LOOK_AGAIN = 0.05
"""Seconds after which a locked database is tried again."""
WAITING = 10_000
"""Pieces of work that may wait for the writer; one more is refused."""
WAL_LIMIT = 64 * 1024 * 1024
"""Octets of write-ahead log at which the writer pauses for a full checkpoint."""
ALLOCATED = 4 * 1024 * 1024
"""Octets by which the write-ahead log grows, as zeros, before anything is written there; while the disk has plenty."""
PLENTY = 32 * ALLOCATED
CACHE = 16 * 1024 * 1024
"""Octets of pages that the writer keeps in memory, so that mail on its way is not read back."""
LOOK_AFTER = 50
"""Pieces of work after which the size of the write-ahead log is looked at."""
CHECKPOINT_AFTER = 20
"""Looks after which a checkpoint is worth it; sooner where the log has a quarter of its limit."""

_wait_for_disk: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
_compiled = Compiler(SQLiteDialect(paramstyle="named"))


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
            return self._connection.execute(compiled.text, compiled.named(parameters))
        except sqlite3.IntegrityError as cause:
            raise Duplicate(str(cause)) from cause


@dataclass(frozen=True, slots=True)
class _Piece:
    """`long`: it is not to be done on the loop."""

    work: Work[Any]
    done: asyncio.Future[Any]
    long: bool


_Answers = list[tuple[Any, BaseException | None]]


class SqliteDatabase:
    """The embedded database. Exactly one process opens it (see `lock.py`)."""

    embedded = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fared = LastWrite()
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Piece] = deque()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopping = False
        self._breath: asyncio.TimerHandle | None = None
        self._log = path.with_name(path.name + "-wal")
        self._looks = self._unlooked = self._changes = 0
        self._connection = connect(path, wait=0)
        self._connection.execute(f"PRAGMA cache_size=-{CACHE // 1024}")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # now there is a log
        self._log_file = os.open(self._log, os.O_RDWR | os.O_APPEND)
        _allocate(self._log_file, path.parent)
        self._unsound = False
        self._to_commit: SimpleQueue[tuple[list[_Piece], _Answers | None] | None] = SimpleQueue()
        self._committer = threading.Thread(target=self._commit_groups, name="posthouse-commit", daemon=True)
        self._committer.start()
        self._checkpoints = Checkpoints(connect(path))
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="posthouse-read")
        self._reading = threading.local()

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

    async def write(self, work: Work[T], *, long: bool = False) -> T:
        if self._stopping or len(self._queue) >= WAITING:
            raise DatabaseUnavailable("too many changes are waiting for the disk")
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue.append(_Piece(work, done, long))
        if self._quiet.is_set():
            self._quiet.clear()
            self._loop.call_soon(self._next_group)
        elif self._breath is not None and len(self._queue) >= ENOUGH:
            self._end_breath()
        return await done

    def _end_breath(self) -> None:
        if self._breath is not None:
            self._breath.cancel()
            self._breath = None
            self._next_group()

    def _next_group(self) -> None:
        """Do what has gathered; the disk is waited for on the thread, and nothing else touches the connection then."""
        group = self._take_group()
        if not group:
            self._quiet.set()
            return
        answers = None if group[0].long or self._unsound else self._do_now(group)
        self._to_commit.put((group, answers))

    def _take_group(self) -> list[_Piece]:
        """A piece that is long makes a group of its own."""
        group: list[_Piece] = []
        while self._queue and len(group) < GROUP and not (group and (self._queue[0].long or group[0].long)):
            group.append(self._queue.popleft())
        return group

    def _do_now(self, group: Sequence[_Piece]) -> _Answers | None:
        """The answers, written and not yet on disk; None where somebody else holds the database, or it fails."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            answers = _answers(self._connection, group)
            self._connection.execute("COMMIT")
            return answers
        except Exception:
            self._roll_back()
            return None

    def _commit_groups(self) -> None:
        """The thread that waits for the disk; a pool would cost a lock and a future for each group."""
        while (begun := self._to_commit.get()) is not None:
            self._finish_group(*begun)

    def _finish_group(self, group: Sequence[_Piece], answers: _Answers | None) -> None:
        try:
            if answers is None:
                answers = self._do_patiently(group)
            if self._has_changed():
                self._sync()
                self.fared.succeeded()
        except Exception as cause:
            self._has_changed()
            self.fared.failed(of_disk(cause) if isinstance(cause, OSError) else of_sqlite(cause))
            self._roll_back()
            failure = NotOnDisk if self._unsound and answers is not None else DatabaseUnavailable
            answers = [(None, failure(f"the database could not be written: {cause}")) for _ in group]
        self._tend_log(len(group))
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answer, group, answers)

    def _do_patiently(self, group: Sequence[_Piece]) -> _Answers:
        """Raises sqlite3.Error, with nothing changed."""
        if self._unsound:
            _bring_home(self._connection)
            self._unsound = False
        _begin_patiently(self._connection)
        answers = _answers(self._connection, group)
        self._connection.execute("COMMIT")
        return answers

    def _sync(self) -> None:
        """What is in the log is on disk. Raises OSError: then nobody knows what is, and later syncs do not tell."""
        try:
            _wait_for_disk(self._log_file)
        except OSError:
            self._unsound = True
            raise

    def _has_changed(self) -> bool:
        """Since the last time. A commit of nothing says nothing about the disk."""
        before, self._changes = self._changes, self._connection.total_changes
        return self._changes != before

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")

    def _answer(self, group: Sequence[_Piece], answers: _Answers) -> None:
        """Those who are answered come first, so that what they write next is in the next group."""
        _resolve(group, answers)
        if len(group) > 1 and len(self._queue) < ENOUGH:
            self._breath = self._loop.call_later(BREATH, self._end_breath)
        elif self._queue:
            self._loop.call_soon(self._next_group)
        else:
            self._quiet.set()

    def _tend_log(self, pieces: int) -> None:
        """Have the log moved beside us, then its end here, so that it begins anew in the same place of the disk.

        A file that grows costs a commit half as much again. Where it has grown too large nothing goes on before.
        """
        _allocate(self._log_file, self._path.parent)
        if self._checkpoints.has_moved():
            self._checkpoint("PASSIVE")
        self._unlooked += pieces
        if self._unlooked < LOOK_AFTER:
            return
        self._looks, self._unlooked = self._looks + 1, 0
        size = _size_of(self._log)
        if size > WAL_LIMIT:
            self._checkpoint("TRUNCATE")
        elif self._looks % CHECKPOINT_AFTER == 0 or size > WAL_LIMIT // 4:
            self._checkpoints.want()

    def _checkpoint(self, kind: str) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()

    async def close(self) -> None:
        """Finish what waits, then close."""
        if self._stopping:
            return
        self._stopping = True
        await self._quiet.wait()
        self._to_commit.put(None)
        await self._loop.run_in_executor(None, self._committer.join)
        self._connection.close()
        os.close(self._log_file)
        await self._loop.run_in_executor(None, self._checkpoints.close)
        await self._loop.run_in_executor(self._readers, self._close_reader)
        self._readers.shutdown()

    def _close_reader(self) -> None:
        if hasattr(self._reading, "connection"):
            self._reading.connection.close()


def connect(path: Path, wait: float = LOCKED) -> sqlite3.Connection:
    """A connection that waits for the disk at every commit, and `wait` seconds for others. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, LOCKED, isolation_level=None, cached_statements=400, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0", f"busy_timeout={wait * 1000:.0f}"):
        connection.execute(f"PRAGMA {pragma}").fetchone()
    return connection


def _answers(connection: sqlite3.Connection, group: Sequence[_Piece]) -> _Answers:
    """What each piece of work gave or raised. Raises sqlite3.Error where the transaction is undone as a whole."""
    transaction = SqliteTransaction(connection)
    try:
        return [(_finish(piece.work(transaction)), None) for piece in group]
    except BaseException:
        _begin_again(connection)
        return [_in_savepoint(connection, transaction, piece.work) for piece in group]


def _bring_home(connection: sqlite3.Connection) -> None:
    """Everything from the log into the database, which is synced, so that the log need not be trusted.

    Raises sqlite3.OperationalError.
    """
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise sqlite3.OperationalError("the disk failed, and the database is being read")


def _allocate(log: int, directory: Path) -> None:
    """Let the log have its place on the disk; SQLite takes zeros behind its last frame, or alone, for the end of it.

    A file that grows can lose its last sync where the file system breaks down in that moment (seen on ext4). Only while
    nothing in the log waits for a sync: an error that this one is told of is not told to the next.
    """
    with contextlib.suppress(OSError):
        size = os.fstat(log).st_size
        more = -size % ALLOCATED if size else ALLOCATED
        if more and shutil.disk_usage(directory).free > PLENTY:
            os.write(log, bytes(more))  # at the end, whoever else makes it larger at this moment
            os.fsync(log)


def _begin_patiently(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.Error where the database stays locked."""
    until = time.monotonic() + LOCKED
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as cause:
            if cause.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(LOOK_AGAIN)


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


def _resolve(group: Sequence[_Piece], answers: _Answers) -> None:
    for piece, (result, failure) in zip(group, answers, strict=True):
        if piece.done.cancelled():
            continue
        if failure is not None:
            piece.done.set_exception(failure)
        else:
            piece.done.set_result(result)


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
