"""What is particular to the embedded database: the group commit and its disk."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, text

from posthouse.store import fresh, sqlite, tokens
from posthouse.store.database import DatabaseUnavailable, Duplicate, Transaction
from posthouse.store.sqlite import SqliteDatabase
from posthouse.store.tables import meta
from tests.contract.making import together

_put = insert(meta).values(name=bindparam("key"), value=bindparam("value"))
_names = select(meta.c.name).order_by(meta.c.name)
_nonsense = text("SELECT * FROM no_such_table")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    made = make(tmp_path)
    yield made
    await made.close()


def make(data: Path) -> SqliteDatabase:
    path = data / "posthouse.sqlite"
    connection = sqlite.connect(path)
    fresh.create_embedded(connection)
    connection.close()
    return SqliteDatabase(path)


async def put(database: SqliteDatabase, key: str, value: str = "") -> int:
    return await database.write(lambda tx: tx.run(_put, key=key, value=value))


async def names(database: SqliteDatabase) -> list[str]:
    return [row["name"] for row in await database.read(lambda tx: tx.all(_names))]


class Gate:
    """Keeps the disk busy until it is opened, so that work gathers behind it."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._open = threading.Event()
        self._reached = threading.Event()
        self.held = asyncio.ensure_future(database.write(self._hold, long=True))

    async def _hold(self, tx: Transaction) -> None:
        self._reached.set()
        assert self._open.wait(10)

    async def reached(self) -> None:
        await asyncio.to_thread(self._reached.wait, 10)

    async def open(self) -> None:
        self._open.set()
        await self.held


async def closed_gate(database: SqliteDatabase) -> Gate:
    gate = Gate(database)
    await gate.reached()
    return gate


def _count_commits(database: SqliteDatabase) -> list[int]:
    """The sizes of the groups that are committed from now on."""
    groups: list[int] = []
    finish = database._finish_group

    def counted(group: Any, answers: Any) -> None:
        groups.append(len(group))
        finish(group, answers)

    database._finish_group = counted  # type: ignore[method-assign]
    return groups


async def _gathered(count: int, put_all: "list[asyncio.Task[Any]]") -> None:
    """Until so many pieces of work have been handed to the database."""
    await asyncio.sleep(0)
    assert len(put_all) == count


# Group commit


async def test_work_that_waits_shares_one_commit(database: SqliteDatabase) -> None:
    gate = await closed_gate(database)
    groups = _count_commits(database)
    waiting = [asyncio.create_task(put(database, f"{number:03}")) for number in range(200)]
    await _gathered(200, waiting)
    await gate.open()
    assert await together(waiting) == [1] * 200
    assert groups == [200]
    assert len(await names(database)) == 200


async def test_no_group_is_larger_than_its_limit(database: SqliteDatabase) -> None:
    gate = await closed_gate(database)
    groups = _count_commits(database)
    waiting = [asyncio.create_task(put(database, f"{number:04}")) for number in range(sqlite.GROUP + 20)]
    await _gathered(sqlite.GROUP + 20, waiting)
    await gate.open()
    await together(waiting)
    assert groups == [sqlite.GROUP, 20]


async def test_work_that_fails_undoes_itself_and_not_its_neighbours(database: SqliteDatabase) -> None:
    async def fails(tx: Transaction) -> None:
        await tx.run(_put, key="undone", value="")
        raise ValueError("no")

    gate = await closed_gate(database)
    groups = _count_commits(database)
    work = [put(database, "a"), database.write(fails), put(database, "b"), put(database, "a"), put(database, "c")]
    results = asyncio.gather(*work, return_exceptions=True)
    await asyncio.sleep(0)
    await gate.open()
    kinds = [type(each) for each in await results]
    assert kinds == [int, ValueError, int, Duplicate, int]
    assert groups == [5]
    assert await names(database) == ["a", "b", "c"]


async def test_a_statement_the_database_cannot_run_fails_alone(database: SqliteDatabase) -> None:
    async def fails(tx: Transaction) -> None:
        await tx.run(_put, key="undone", value="")
        await tx.all(_nonsense)

    gate = await closed_gate(database)
    results = asyncio.gather(put(database, "a"), database.write(fails), put(database, "b"), return_exceptions=True)
    await asyncio.sleep(0)
    await gate.open()
    assert [type(each) for each in await results] == [int, DatabaseUnavailable, int]
    assert await names(database) == ["a", "b"]


async def test_work_may_not_wait_for_anything_else(database: SqliteDatabase) -> None:
    async def waits(tx: Transaction) -> None:
        await tx.run(_put, key="undone", value="")
        await _Foreign()

    with pytest.raises(RuntimeError, match="nothing but its transaction"):
        await database.write(waits)
    assert await put(database, "a") == 1
    assert await names(database) == ["a"]


class _Foreign:
    """Something to wait for that is not the database's."""

    def __await__(self) -> Any:
        yield


async def test_more_work_than_may_wait_is_refused(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WAITING", 3)
    gate = await closed_gate(database)
    waiting = [asyncio.create_task(put(database, name)) for name in "abc"]
    await _gathered(3, waiting)
    with pytest.raises(DatabaseUnavailable, match="too many"):
        await put(database, "d")
    await gate.open()
    await together(waiting)
    assert await names(database) == ["a", "b", "c"]


async def test_a_caller_who_goes_away_harms_nobody(database: SqliteDatabase) -> None:
    gate = await closed_gate(database)
    waiting = [asyncio.create_task(put(database, name)) for name in "abc"]
    await _gathered(3, waiting)
    waiting[1].cancel()
    await gate.open()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in results] == [int, asyncio.CancelledError, int]
    assert set("ac") <= set(await names(database))
    assert await put(database, "d") == 1


async def test_reading_does_not_wait_for_a_writer(database: SqliteDatabase) -> None:
    await put(database, "a")
    gate = await closed_gate(database)
    assert await names(database) == ["a"]
    await gate.open()


# Closing


async def test_closing_finishes_what_waits(tmp_path: Path) -> None:
    database = make(tmp_path)
    gate = await closed_gate(database)
    waiting = [asyncio.create_task(put(database, f"{number:03}")) for number in range(50)]
    await _gathered(50, waiting)
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    with pytest.raises(DatabaseUnavailable):
        await put(database, "late")
    await gate.open()
    await closing
    assert await together(waiting) == [1] * 50
    with sqlite3.connect(tmp_path / "posthouse.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM meta").fetchone() == (50,)
    connection.close()


async def test_a_closed_database_says_so_and_may_be_closed_again(tmp_path: Path) -> None:
    database = make(tmp_path)
    await database.close()
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await put(database, "a")
    with pytest.raises(DatabaseUnavailable):
        await names(database)


# The disk


async def _set_pages(database: SqliteDatabase, pages: int) -> None:
    async def work(tx: Transaction) -> None:
        await tx.one(text(f"PRAGMA max_page_count={pages}"))

    await database.write(work)


async def test_a_full_disk_refuses_and_the_writer_goes_on_afterwards(database: SqliteDatabase) -> None:
    await _set_pages(database, 1)
    with pytest.raises(DatabaseUnavailable, match="full"):
        await put(database, "a", "x" * 1_000_000)
    with pytest.raises(DatabaseUnavailable, match="full"):
        await put(database, "b", "x" * 1_000_000)
    await _set_pages(database, 1_000_000)
    assert await put(database, "c", "x" * 1_000_000) == 1
    assert await names(database) == ["c"]


async def test_what_does_not_fit_on_the_disk_leaves_nothing_of_its_group_half_done(database: SqliteDatabase) -> None:
    """Whoever is told that it was written finds it, and nobody else."""
    await _set_pages(database, 1)
    gate = await closed_gate(database)
    sizes = {"a": 1, "b": 2_000_000, "c": 1}
    results = asyncio.gather(*(put(database, n, "x" * size) for n, size in sizes.items()), return_exceptions=True)
    await asyncio.sleep(0)
    await gate.open()
    written = [name for name, result in zip(sizes, await results, strict=True) if result == 1]
    assert await names(database) == written
    assert "b" not in written


async def test_a_database_that_stays_locked_is_nobodys_success(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program holds the write lock for longer than the writer waits."""
    monkeypatch.setattr(sqlite, "LOCKED", 0.01)
    with somebody_elses(database):
        results = await asyncio.gather(put(database, "a"), put(database, "b"), return_exceptions=True)
    assert [type(each) for each in results] == [DatabaseUnavailable] * 2
    assert await put(database, "c") == 1
    assert await names(database) == ["c"]


async def test_a_database_that_is_locked_for_a_while_is_waited_for_beside_everything_else(
    database: SqliteDatabase,
) -> None:
    with somebody_elses(database):
        waiting = [asyncio.create_task(put(database, name)) for name in "ab"]
        assert not (await asyncio.wait(waiting, timeout=0.05))[0]
    assert await together(waiting) == [1, 1]
    assert await names(database) == ["a", "b"]


@contextlib.contextmanager
def somebody_elses(database: SqliteDatabase) -> Iterator[None]:
    """Another program writes."""
    other = sqlite3.connect(database._path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


async def test_long_work_stands_alone_and_beside_the_loop(database: SqliteDatabase) -> None:
    """Were it done on the loop, nobody could open the gate."""
    gate = await closed_gate(database)
    groups = _count_commits(database)
    waiting = [asyncio.create_task(put(database, name)) for name in "ab"]
    second = Gate(database)
    waiting += [asyncio.create_task(put(database, name)) for name in "cde"]
    await asyncio.sleep(0)
    await gate.open()
    await second.open()
    await together(waiting)
    assert groups == [2, 1, 3]


# The write-ahead log


async def test_the_log_is_moved_into_the_database_beside_the_writer(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOOK_AFTER", 1)
    monkeypatch.setattr(sqlite, "CHECKPOINT_AFTER", 5)
    for number in range(5):
        await put(database, f"{number}", "x" * 100_000)
    await asyncio.to_thread(_until, lambda: database._path.stat().st_size > 400_000)


async def test_a_log_that_has_grown_large_makes_the_writer_pause_until_it_is_empty(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOOK_AFTER", 1)
    monkeypatch.setattr(sqlite, "WAL_LIMIT", 1_000_000)
    monkeypatch.setattr(sqlite, "ALLOCATED", 4096)
    log = database._path.with_name("posthouse.sqlite-wal")
    for number in range(8):
        await put(database, f"{number}", "x" * 300_000)
        assert log.stat().st_size < 1_000_000 + 400_000
    assert len(await names(database)) == 8


def _until(condition: Any) -> None:
    """Wait, for ten seconds at most, until something on another thread has come about."""
    ended = threading.Event()
    for _ in range(1000):
        if condition():
            return
        ended.wait(0.01)
    raise AssertionError("it did not come about")


async def test_what_is_due_is_looked_up_and_not_searched_for(database: SqliteDatabase) -> None:
    """Each second, and with a hundred thousand tokens; nothing counts rows for the planner. Apps are few."""
    statements: list[str] = []
    database._connection.set_trace_callback(statements.append)
    assert await database.write(lambda tx: tokens.due(tx, 1.0, 200, "node")) == []
    database._connection.set_trace_callback(None)
    plan = database._connection.execute(f"EXPLAIN QUERY PLAN {next(one for one in statements if 'SELECT' in one)}")
    steps = [row["detail"].partition(" (")[0] for row in plan]
    assert [step for step in steps if " token" in step or " oauth_grant" in step] == [
        "SEARCH oauth_grant USING INDEX grant_next_refresh",
        "SEARCH token USING INDEX sqlite_autoindex_token_1",
    ]


# The log


def _beginning(path: Path) -> bytes:
    """Of the log; its salts change whenever it begins anew."""
    with path.with_name(path.name + "-wal").open("rb") as log:
        return log.read(24)


async def test_the_log_begins_anew_once_all_of_it_is_in_the_database(database: SqliteDatabase) -> None:
    await put(database, "a")
    before = _beginning(database._path)
    database._checkpoints.want()
    await asyncio.to_thread(database._checkpoints._moved.wait, 10)
    await put(database, "b")
    await put(database, "c")
    assert _beginning(database._path) != before
    assert await names(database) == ["a", "b", "c"]


def _zeros_at_the_end(log: Path) -> int:
    data = log.read_bytes()
    return len(data) - len(data.rstrip(b"\0"))


async def test_the_log_has_its_place_on_the_disk_before_it_is_written(tmp_path: Path) -> None:
    database = make(tmp_path)
    log = tmp_path / "posthouse.sqlite-wal"
    assert _zeros_at_the_end(log) == sqlite.ALLOCATED
    await put(database, "a")
    assert 0 < _zeros_at_the_end(log) < log.stat().st_size == sqlite.ALLOCATED
    for name in ("posthouse.sqlite", "posthouse.sqlite-wal"):  # as a crash leaves them
        (tmp_path / f"crashed-{name}").write_bytes((tmp_path / name).read_bytes())
    await put(database, "c", "x" * sqlite.ALLOCATED)
    assert log.stat().st_size == 2 * sqlite.ALLOCATED
    await database.close()
    (tmp_path / "crashed-posthouse.sqlite-wal").rename(tmp_path / "crashed.sqlite-wal")
    (tmp_path / "crashed-posthouse.sqlite").rename(tmp_path / "crashed.sqlite")
    found = SqliteDatabase(tmp_path / "crashed.sqlite")
    assert await names(found) == ["a"]
    await put(found, "b")
    assert await names(found) == ["a", "b"]
    await found.close()


async def test_a_disk_that_is_nearly_full_is_not_filled_with_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PLENTY", 1 << 60)
    database = make(tmp_path)
    assert (tmp_path / "posthouse.sqlite-wal").stat().st_size < sqlite.ALLOCATED
    await database.close()


async def test_a_group_does_not_wait_longer_once_it_is_large_enough(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BREATH", 3600.0)
    await together([asyncio.create_task(put(database, name)) for name in ("a", "b")])
    groups = _count_commits(database)
    waiting = [asyncio.create_task(put(database, f"{number:02}")) for number in range(sqlite.ENOUGH)]
    assert await together(waiting) == [1] * sqlite.ENOUGH
    assert groups == [sqlite.ENOUGH]
    database._end_breath()
