"""An empty database gets its tables at once, without loading Alembic. A test holds both ways to the same result."""

import sqlite3
from typing import Any

from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from posthouse.store.tables import metadata

SCHEMA = "0001"
"""The newest migration."""

VERSION_TABLE = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
    "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)
STAMP = f"INSERT INTO alembic_version VALUES ('{SCHEMA}')"  # noqa: S608 - a constant of ours


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
    for statement in (VERSION_TABLE, *statements(SQLiteDialect()), STAMP):
        connection.execute(statement)
    connection.execute("COMMIT")
