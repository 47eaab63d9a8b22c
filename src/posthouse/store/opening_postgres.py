"""Opening PostgreSQL. Loaded only where it is used, since the embedded database has to start fast."""

from typing import Any

import asyncpg
from sqlalchemy.dialects.postgresql.base import PGDialect

from posthouse.problems import problem
from posthouse.store import fresh
from posthouse.store.database import Database, DatabaseUnavailable
from posthouse.store.postgres import PostgresDatabase

TRIES = 5
_ANOTHER_WAS_FASTER = (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError)


async def open_postgres(url: str) -> Database:
    try:
        await _prepare_postgres(url)
        return await PostgresDatabase.open(url)
    except (OSError, asyncpg.PostgresError, TimeoutError, DatabaseUnavailable) as cause:
        raise problem(
            "database.unavailable",
            f"The database cannot be used: {cause}.",
            "Check `database` in posthouse.toml and that it is running.",
            status=75,
        ) from cause


async def _prepare_postgres(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=15)
    try:
        found = await _create(connection)
    finally:
        await connection.close()
    if found != fresh.SCHEMA:
        from posthouse.store.migrating import migrate_postgres

        await migrate_postgres(url)


async def _create(connection: "asyncpg.Connection[Any]") -> str:
    """Make the tables where there are none; the schema that is there afterwards.

    Of nodes that start together one makes them; the others wait for it, fail, and look again.
    Raises asyncpg.PostgresError, also where tables of somebody else have our names.
    """
    for attempt in range(TRIES):
        if await connection.fetchval("SELECT to_regclass('alembic_version')::text"):
            break
        try:
            await _make_tables(connection)
        except _ANOTHER_WAS_FASTER:
            if attempt == TRIES - 1:
                raise
    return str(await connection.fetchval("SELECT version_num FROM alembic_version") or "")


async def _make_tables(connection: "asyncpg.Connection[Any]") -> None:
    async with connection.transaction():
        for statement in (fresh.VERSION_TABLE, *fresh.statements(PGDialect()), fresh.STAMP):  # type: ignore[no-untyped-call]
            await connection.execute(statement)
