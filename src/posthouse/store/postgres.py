"""PostgreSQL through asyncpg. Uses nothing that the databases speaking its protocol lack."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.expression import ClauseElement

from posthouse.store.compiling import Compiler
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Duplicate, Row, Work
from posthouse.store.trouble import LastWrite, Trouble

T = TypeVar("T")
TRIES = 8
"""How often a transaction is run again after a conflict with another one (40001, 40P01)."""
PATIENCE = 30.0
"""Seconds to wait for a connection, and for the answer to a statement."""
IDLE = 60.0
"""Seconds after which the server ends a transaction, and frees its rows, where the network keeps ours from doing so."""
CLOSING = 10.0
"""Seconds that work has to come to its end when the database is closed."""

_compiled = Compiler(PGDialect_asyncpg())  # type: ignore[no-untyped-call]
_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_UNAVAILABLE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
)
"""No answer in time, or those of a server that has gone away, is being restarted, is full, or is a replica."""


class PostgresTransaction:
    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection

    async def all(self, statement: ClauseElement, **parameters: Any) -> list[Row]:
        compiled = _compiled(statement)
        return cast("list[Row]", await self._connection.fetch(compiled.text, *compiled.values(parameters)))

    async def one(self, statement: ClauseElement, **parameters: Any) -> Row | None:
        compiled = _compiled(statement)
        return cast("Row | None", await self._connection.fetchrow(compiled.text, *compiled.values(parameters)))

    async def run(self, statement: ClauseElement, **parameters: Any) -> int:
        compiled = _compiled(statement)
        status: str = await self._connection.execute(compiled.text, *compiled.values(parameters))
        return int(status.rpartition(" ")[2])

    async def now(self) -> float:
        return cast(float, await self._connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))


class PostgresDatabase:
    """A pool of connections; every piece of work is a transaction of its own."""

    embedded = False

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool
        self.fared = LastWrite()

    @classmethod
    async def open(cls, url: str, *, connections: int = 12) -> "PostgresDatabase":
        """Raises DatabaseUnavailable where it cannot be reached or does not wait for the disk."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections,
                command_timeout=PATIENCE,
                server_settings={"idle_in_transaction_session_timeout": f"{IDLE * 1000:.0f}"},
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as cause:
            raise DatabaseUnavailable(f"the database cannot be reached: {cause}") from cause
        database = cls(pool)
        await database._refuse_lazy_commits()
        return database

    async def _refuse_lazy_commits(self) -> None:
        setting = await self._pool.fetchval("SHOW synchronous_commit")
        if setting == "off":
            await self.close()
            raise DatabaseUnavailable("the database is set to synchronous_commit=off, so it could lose mail")

    async def read(self, work: Work[T]) -> T:
        try:
            async with (
                self._pool.acquire(timeout=PATIENCE) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await work(PostgresTransaction(connection))
        except _UNAVAILABLE as cause:
            raise DatabaseUnavailable(str(cause)) from cause

    async def write(self, work: Work[T], *, long: bool = False) -> T:
        for attempt in range(TRIES):
            try:
                return await self._write_once(work)
            except _CONFLICTS as conflict:
                last = conflict
                await asyncio.sleep(0.002 * 2**attempt)
        raise DatabaseUnavailable(f"the database is too busy: {last}")

    async def _write_once(self, work: Work[T]) -> T:
        try:
            async with self._connection() as connection:
                result = await _transact(connection, work)
        except asyncpg.UniqueViolationError as cause:
            raise Duplicate(str(cause)) from cause
        except _UNAVAILABLE as cause:
            self.fared.failed(_trouble_of(cause))
            raise DatabaseUnavailable(str(cause)) from cause
        except CommitUnknown:
            self.fared.failed(Trouble.AWAY)
            raise
        self.fared.succeeded()
        return result

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """That it cannot be given back, and is ended instead, changes nothing about what became of the work."""
        connection = await self._pool.acquire(timeout=PATIENCE)
        try:
            yield connection
        finally:
            with contextlib.suppress(*_UNAVAILABLE):
                await self._pool.release(connection)

    async def close(self) -> None:
        """Wait for running work, though not for ever, then close."""
        try:
            async with asyncio.timeout(CLOSING):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


def _trouble_of(cause: BaseException) -> Trouble:
    return Trouble.FULL if isinstance(cause, asyncpg.DiskFullError) else Trouble.AWAY


async def _transact(connection: "asyncpg.Connection[Any]", work: Work[T]) -> T:
    transaction = connection.transaction()
    await transaction.start()
    try:
        result = await work(PostgresTransaction(connection))
    except BaseException:
        with contextlib.suppress(*_UNAVAILABLE):
            await transaction.rollback()
        raise
    try:
        await transaction.commit()
    except (*_UNAVAILABLE, asyncpg.StatementCompletionUnknownError) as cause:
        raise CommitUnknown(str(cause)) from cause
    return result
