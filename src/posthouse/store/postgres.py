"""PostgreSQL through asyncpg. Uses nothing that the databases speaking its protocol lack."""

import asyncio
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
"""Answers of a server that has gone away, is being restarted, is full, or is a replica at the moment."""


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
            pool = await asyncpg.create_pool(url, min_size=1, max_size=connections, command_timeout=PATIENCE)
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
        except (*_UNAVAILABLE, TimeoutError) as cause:
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
        """What is committed is done, also where the connection cannot be given back to the pool afterwards."""
        committed: list[T] = []
        try:
            async with self._pool.acquire(timeout=PATIENCE) as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    result = await work(PostgresTransaction(connection))
                except BaseException:
                    await transaction.rollback()
                    raise
                await _commit(transaction)
                committed.append(result)
        except asyncpg.UniqueViolationError as cause:
            raise Duplicate(str(cause)) from cause
        except (*_UNAVAILABLE, TimeoutError) as cause:
            if not committed:
                self.fared.failed(_trouble_of(cause))
                raise DatabaseUnavailable(str(cause)) from cause
        except CommitUnknown:
            self.fared.failed(Trouble.AWAY)
            raise
        self.fared.succeeded()
        return committed[0]

    async def close(self) -> None:
        """Wait for running work, though not for ever, then close."""
        try:
            async with asyncio.timeout(CLOSING):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


def _trouble_of(cause: BaseException) -> Trouble:
    return Trouble.FULL if isinstance(cause, asyncpg.DiskFullError) else Trouble.AWAY


async def _commit(transaction: Any) -> None:
    try:
        await transaction.commit()
    except (*_UNAVAILABLE, TimeoutError) as cause:
        raise CommitUnknown(str(cause)) from cause
