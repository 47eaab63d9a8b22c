"""An empty database gets its tables at once, without loading Alembic. A test holds both ways to the same result."""

import sqlite3
from typing import Any

from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from .tables import metadata

SCHEMA = "0001"
"""The newest migration."""

_VERSION_TABLE = "CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
_LOCK = "LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"
_STAMP = f"INSERT INTO alembic_version VALUES ('{SCHEMA}')"  # noqa: S608 - a constant of ours


def statements(dialect: Dialect) -> list[str]:
    """The definitions of every table and index."""
    tables = metadata.sorted_tables
    made = [str(CreateTable(table).compile(dialect=dialect)) for table in tables]
    return made + [
        str(CreateIndex(index).compile(dialect=dialect)) for table in tables for index in sorted_indexes(table)
    ]


def sorted_indexes(table: Any) -> list[Any]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def create_embedded(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in (_VERSION_TABLE, *statements(SQLiteDialect()), _STAMP):
        connection.execute(statement)
    connection.execute("COMMIT")


async def create_postgres(connection: Any) -> str:
    """Make the tables where there are none, inside the caller's transaction; the schema that is there afterwards.

    Two nodes that start together come one after the other.
    """
    await connection.execute(_VERSION_TABLE)
    await connection.execute(_LOCK)
    found = await connection.fetchval("SELECT version_num FROM alembic_version")
    if found:
        return str(found)
    for statement in (*statements(PGDialect()), _STAMP):  # type: ignore[no-untyped-call]
        await connection.execute(statement)
    return SCHEMA
