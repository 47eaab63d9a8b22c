"""What is particular to PostgreSQL: connections that break, conflicts, and commits nobody knows the end of."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from asyncpg.transaction import Transaction as AsyncpgTransaction
from sqlalchemy import bindparam, insert, select, text, update

from posthouse.model.message import MessageState
from posthouse.problems import ProblemError
from posthouse.store import leases, messages
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.opening import Store, open_store
from posthouse.store.postgres import PostgresDatabase
from posthouse.store.tables import counter, meta
from posthouse.store.trouble import Trouble
from tests.contract.making import (
    NOW,
    Site,
    accept,
    claim,
    finish,
    hand_over,
    held_mailbox,
    together,
)
from tests.support.wall import wall

pytestmark = pytest.mark.needs("postgres")
_put = insert(meta).values(name=bindparam("key"), value=bindparam("value"))
_names = select(meta.c.name).order_by(meta.c.name)
_backend = text("SELECT pg_backend_pid() AS pid")
_start = insert(counter).values(name="tries", value=0)
_value = select(counter.c.value).where(counter.c.name == "tries")
_set = update(counter).where(counter.c.name == "tries").values(value=bindparam("new"))
_serializable = text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")


@pytest.fixture
async def database(prepared_postgres: str) -> AsyncIterator[PostgresDatabase]:
    made = await PostgresDatabase.open(prepared_postgres, connections=4)
    yield made
    await made.close()


@pytest.fixture
async def other(prepared_postgres: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Somebody else at the same database."""
    connection = await asyncpg.connect(prepared_postgres)
    yield connection
    await connection.close()


async def put(database: PostgresDatabase, key: str) -> int:
    return await database.write(lambda tx: tx.run(_put, key=key, value=""))


async def names(database: PostgresDatabase) -> list[str]:
    return [row["name"] for row in await database.read(lambda tx: tx.all(_names))]


async def terminate(other: "asyncpg.Connection[Any]", pid: int) -> None:
    """End a connection from the server's side; when this returns it is gone."""
    await other.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)


async def until_somebody_waits_for_a_lock(other: "asyncpg.Connection[Any]") -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while not await other.fetchval(waiting):
            await asyncio.sleep(0.005)


def _losing(step: str, terminated: Callable[[int], Any]) -> Callable[[Transaction], Any]:
    async def work(tx: Transaction) -> None:
        row = await tx.one(_backend)
        assert row is not None
        await tx.run(_put, key=step, value="")
        await terminated(row["pid"])
        await tx.run(_put, key=f"{step} again", value="")

    return work


# Connections that break


async def test_a_connection_lost_while_writing_changes_nothing_and_the_next_call_works(
    database: PostgresDatabase, other: "asyncpg.Connection[Any]"
) -> None:
    with pytest.raises(DatabaseUnavailable):
        await database.write(_losing("lost", lambda pid: terminate(other, pid)))
    assert await put(database, "a") == 1
    assert await names(database) == ["a"]


async def test_what_was_committed_is_done_though_the_connection_is_lost_right_after_it(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a message that is there would lose its body, or a claim would be forgotten."""

    async def fails(*_: Any, **__: Any) -> None:
        raise asyncpg.InterfaceError("the underlying connection is closed")

    with monkeypatch.context() as trouble:
        trouble.setattr(asyncpg.Connection, "reset", fails)
        assert await put(database, "a") == 1
    assert await names(database) == ["a"]


async def test_an_answer_that_the_driver_cannot_place_is_a_commit_of_which_nobody_knows(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it says when the server is killed in the middle of one."""

    async def fails(*_: Any) -> None:
        raise asyncpg.InternalClientError("got result for unknown protocol state 3")

    with monkeypatch.context() as trouble:
        trouble.setattr(AsyncpgTransaction, "commit", fails)
        with pytest.raises(CommitUnknown):
            await put(database, "a")
    with monkeypatch.context() as trouble:
        trouble.setattr(asyncpg.Connection, "execute", fails)
        with pytest.raises(DatabaseUnavailable):
            await put(database, "b")


async def test_a_connection_lost_while_reading_is_replaced(
    database: PostgresDatabase, other: "asyncpg.Connection[Any]"
) -> None:
    async def work(tx: Transaction) -> None:
        row = await tx.one(_backend)
        assert row is not None
        await terminate(other, row["pid"])
        await tx.all(_names)

    with pytest.raises(DatabaseUnavailable):
        await database.read(work)
    assert await names(database) == []


async def test_connections_that_died_while_nobody_used_them_are_replaced(
    database: PostgresDatabase, other: "asyncpg.Connection[Any]"
) -> None:
    await together(put(database, name) for name in "abcd")
    await other.fetch(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    results = await asyncio.gather(*(put(database, name) for name in "efgh"), return_exceptions=True)
    assert {type(each) for each in results} <= {int, DatabaseUnavailable}
    assert await put(database, "i") == 1
    written = [name for name, each in zip("efgh", results, strict=True) if each == 1]
    assert await names(database) == ["a", "b", "c", "d", *written, "i"]


async def test_a_connection_lost_while_committing_is_reported_as_unknown(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = AsyncpgTransaction.commit

    async def commit_without_an_answer(self: Any) -> None:
        await commit(self)
        raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(AsyncpgTransaction, "commit", commit_without_an_answer)
    with pytest.raises(CommitUnknown):
        await put(database, "a")
    monkeypatch.undo()
    assert await names(database) == ["a"]


async def test_a_backend_that_dies_while_committing_is_reported_as_unknown(
    database: PostgresDatabase, other: "asyncpg.Connection[Any]"
) -> None:
    """A deferred trigger waits for a lock in the middle of COMMIT, and the connection is cut there."""
    await other.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON meta DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION hold()"
    )
    await other.execute("SELECT pg_advisory_lock(1)")
    writing = asyncio.create_task(put(database, "a"))
    await until_somebody_waits_for_a_lock(other)
    pid = await other.fetchval("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    await terminate(other, pid)
    with pytest.raises(CommitUnknown):
        await writing
    await other.execute("SELECT pg_advisory_unlock(1)")
    assert await names(database) == []
    assert await put(database, "b") == 1


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_commit_that_gets_no_answer_is_reported_as_unknown_though_the_connection_cannot_be_given_back(
    prepared_postgres: str, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """Else a message that is there would lose its body."""
    monkeypatch.setattr("posthouse.store.postgres.PATIENCE", 0.5)
    async with wall(prepared_postgres) as between:
        walled = await PostgresDatabase.open(between.url, connections=2)

        async def work(tx: Transaction) -> None:
            await tx.run(_put, key="a", value="")
            between.shut(deaf=not arrives)

        with pytest.raises(CommitUnknown):
            await walled.write(work)
        assert walled.fared.trouble is Trouble.AWAY
        with pytest.raises(DatabaseUnavailable):
            await names(walled)
        between.open()
        assert await names(walled) == (["a"] if arrives else [])
        assert await put(walled, "b") == 1
        await walled.close()


async def test_a_transaction_that_is_not_heard_of_any_more_keeps_its_rows_from_nobody(
    prepared_postgres: str, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not notice that the network is cut; a claim that is undone would wait for hours."""
    monkeypatch.setattr("posthouse.store.postgres.IDLE", 0.2)
    silent = await PostgresDatabase.open(prepared_postgres, connections=1)
    begun, never = asyncio.Event(), asyncio.Event()

    async def work(tx: Transaction) -> None:
        await tx.run(_put, key="a", value="")
        begun.set()
        await never.wait()
        await tx.run(_put, key="b", value="")

    writing = asyncio.create_task(silent.write(work))
    await begun.wait()
    assert await put(database, "a") == 1
    never.set()
    with pytest.raises(DatabaseUnavailable):
        await writing
    await silent.close()


async def test_who_goes_away_while_the_server_is_silent_has_gone_away(
    prepared_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is told of the database then: what is being stopped would go on."""
    monkeypatch.setattr("posthouse.store.postgres.PATIENCE", 0.5)
    async with wall(prepared_postgres) as between:
        walled = await PostgresDatabase.open(between.url, connections=1)
        shut = asyncio.Event()

        async def work(tx: Transaction) -> None:
            between.shut()
            shut.set()
            await tx.run(_put, key="a", value="")

        writing = asyncio.create_task(walled.write(work))
        await shut.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await walled.close()


async def test_a_database_that_becomes_read_only_or_full_is_unavailable_for_the_time_being(
    database: PostgresDatabase, other: "asyncpg.Connection[Any]"
) -> None:
    async def read_only(tx: Transaction) -> None:
        await tx.all(text("SET TRANSACTION READ ONLY"))
        await tx.run(_put, key="a", value="")

    async def full(tx: Transaction) -> None:
        await tx.all(text("DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"))

    for work in (read_only, full):
        with pytest.raises(DatabaseUnavailable):
            await database.write(work)
    assert await put(database, "b") == 1


async def test_a_caller_who_goes_away_leaves_the_connection_usable(
    prepared_postgres: str, other: "asyncpg.Connection[Any]"
) -> None:
    database = await PostgresDatabase.open(prepared_postgres, connections=1)
    await other.execute("BEGIN; LOCK TABLE meta")
    writing = asyncio.create_task(put(database, "a"))
    await until_somebody_waits_for_a_lock(other)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await other.execute("ROLLBACK")
    assert await put(database, "b") == 1
    assert await names(database) == ["b"]
    await database.close()


# Conflicts


async def test_work_that_conflicts_is_done_again_until_it_succeeds(database: PostgresDatabase) -> None:
    await database.write(lambda tx: tx.run(_start))

    async def add_one(tx: Transaction) -> None:
        await tx.all(_serializable)
        row = await tx.one(_value)
        assert row is not None
        await tx.run(_set, new=row["value"] + 1)

    await together(database.write(add_one) for _ in range(4))
    row = await database.read(lambda tx: tx.one(_value))
    assert row is not None
    assert row["value"] == 4


async def test_a_conflict_without_end_is_given_up(database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def conflicts(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        raise asyncpg.SerializationError("could not serialize access")

    monkeypatch.setattr("posthouse.store.postgres.TRIES", 3)
    with pytest.raises(DatabaseUnavailable, match="too busy"):
        await database.write(conflicts)
    assert tries == 3


async def test_what_work_raises_comes_out_and_undoes_it(database: PostgresDatabase) -> None:
    async def fails(tx: Transaction) -> None:
        await tx.run(_put, key="undone", value="")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fails)
    assert await names(database) == []


# Races that only two connections can have


async def test_a_claim_that_began_before_the_mailbox_was_taken_leaves_nothing_claimed(
    prepared_postgres: str, site_of: Callable[[str], Site], other: "asyncpg.Connection[Any]"
) -> None:
    """Taking over waits for a claim in progress, and a claim that comes later finds its epoch gone."""
    site = site_of(prepared_postgres)
    first, second = await site.nodes(2)
    epoch = await held_mailbox(first)
    await accept(first, "m1")
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def take_over(tx: Transaction) -> dict[str, int]:
        await leases.beat(tx, "node-1")
        got = await leases.take_free(tx, "node-1", 10, own=True)
        await messages.recover(tx, "mb_1", NOW)
        taken.set()
        await go_on.wait()
        return got

    taking = asyncio.create_task(second.database.write(take_over))
    await taken.wait()
    claiming = asyncio.create_task(claim(first, epoch))
    await until_somebody_waits_for_a_lock(other)
    go_on.set()
    assert await claiming == []
    new = (await taking)["mb_1"]
    assert [each.message.id for each in await claim(second, new)] == ["m1"]


async def test_undoing_a_claim_waits_until_its_commit_is_over(
    prepared_postgres: str, site_of: Callable[[str], Site], other: "asyncpg.Connection[Any]"
) -> None:
    """The server may be about it still when the gateway has given up waiting for the answer."""
    [node] = await site_of(prepared_postgres).nodes(1)
    epoch = await held_mailbox(node)
    await accept(node, "m1")
    claimed, go_on = asyncio.Event(), asyncio.Event()

    async def first(tx: Transaction) -> None:
        await messages.claim(tx, "mb_1", "node-1 1", epoch, NOW, 10)
        claimed.set()
        await go_on.wait()

    async def again(tx: Transaction) -> list[messages.Claim]:
        await messages.unclaim(tx, "mb_1", "node-1 1", epoch, NOW)
        return await messages.claim(tx, "mb_1", "node-1 1", epoch, NOW, 10)

    committing = asyncio.create_task(node.database.write(first))
    await claimed.wait()
    claiming = asyncio.create_task(node.database.write(again))
    await until_somebody_waits_for_a_lock(other)
    go_on.set()
    await committing
    assert [each.message.id for each in await claiming] == ["m1"]


async def test_many_messages_and_a_mailbox_that_keeps_changing_hands(
    prepared_postgres: str, site_of: Callable[[str], Site]
) -> None:
    """Every message is sent by somebody who held it to the end; nobody else's outcome counts."""
    site = site_of(prepared_postgres)
    nodes = await site.nodes(3)
    await held_mailbox(nodes[0])
    ids = [f"m{number:02}" for number in range(40)]
    await accept(nodes[0], *ids)
    turns = iter(range(15))
    handed_over: list[str] = []

    async def take_over(tx: Transaction) -> int:
        got = await leases.take_free(tx, "node-1", 10, own=True)
        if got:
            await messages.recover(tx, "mb_1", NOW)
        return got.get("mb_1", 0)

    async def send_some(store: Store, epoch: int) -> bool:
        claims = await claim(store, epoch, at_most=3)
        for claimed in claims:
            if await hand_over(store, claimed):
                handed_over.append(claimed.message.id)
                await finish(store, claimed, MessageState.SENT)
        return bool(claims)

    async def work(store: Store) -> None:
        for _ in turns:
            epoch = await store.database.write(take_over)
            await send_some(store, epoch)
        while await send_some(store, epoch):
            pass

    await together(work(store) for store in nodes)
    left = await nodes[0].database.write(take_over)
    while await send_some(nodes[0], left):
        pass
    assert (await nodes[0].database.read(messages.totals)) == {"sent": 40}
    assert set(handed_over) == set(ids)


# Opening and closing


async def test_closing_does_not_wait_for_ever(prepared_postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.store.postgres.CLOSING", 0.05)
    database = await PostgresDatabase.open(prepared_postgres)
    begun, never = asyncio.Event(), asyncio.Event()

    async def hangs(tx: Transaction) -> None:
        begun.set()
        await never.wait()

    writing = asyncio.create_task(database.write(hangs))
    await begun.wait()
    await database.close()
    never.set()
    with pytest.raises((DatabaseUnavailable, CommitUnknown)):
        await writing
    with pytest.raises(DatabaseUnavailable):
        await names(database)


async def test_a_database_that_does_not_wait_for_the_disk_is_refused(
    prepared_postgres: str, other: "asyncpg.Connection[Any]"
) -> None:
    name = await other.fetchval("SELECT current_database()")
    await other.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with pytest.raises(DatabaseUnavailable, match="synchronous_commit=off"):
        await PostgresDatabase.open(prepared_postgres)


async def test_a_database_that_cannot_be_reached_is_a_plain_problem(tmp_path: Any, prepared_postgres: str) -> None:
    nowhere = prepared_postgres.rpartition("/")[0] + "/no_such_database"
    with pytest.raises(ProblemError, match="database cannot be used") as raised:
        await open_store(tmp_path, nowhere, {})
    assert (raised.value.problems[0].id, raised.value.status) == ("database.unavailable", 75)


async def test_nodes_that_make_the_tables_at_once_agree_on_them_and_on_the_key(postgres: str, tmp_path: Any) -> None:
    stores = await together(open_store(tmp_path, postgres, {}) for _ in range(4))
    sealed = [store.sealer.seal(b"secret", "place") for store in stores]
    opened = {store.sealer.open(value, "place") for store in stores for value in sealed}
    assert opened == {b"secret"}
    assert len({store.sealer.derive("device passwords") for store in stores}) == 1
    for store in stores:
        await store.close()
