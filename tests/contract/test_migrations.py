"""A database that was migrated is the same as one that was made new."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from posthouse.problems import ProblemError
from posthouse.store import fresh, migrating
from posthouse.store.opening import open_store
from posthouse.store.tables import metadata

BROKEN = """
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("CREATE TABLE half_way (id INTEGER)")
    op.execute("INSERT INTO half_way VALUES (1)")
    op.execute("SELECT no_such_column FROM half_way")
"""


def shape(connection: Connection) -> dict[str, Any]:
    """Everything that can be asked about the tables, in an order that does not depend on chance."""
    look = inspect(connection)
    return {
        table: {
            "columns": [{key: str(value) for key, value in each.items()} for each in look.get_columns(table)],
            "key": look.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted(each["column_names"] for each in look.get_unique_constraints(table)),
            "indexes": sorted((str(each["name"]), each["column_names"]) for each in look.get_indexes(table)),
        }
        for table in sorted(look.get_table_names())
    }


def differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


@contextlib.contextmanager
def embedded(path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{path}", connect_args={"isolation_level": None})
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    yield engine
    engine.dispose()


async def with_postgres(url: str, work: Any) -> Any:
    engine = create_async_engine("postgresql+asyncpg://" + url.partition("://")[2])
    async with engine.begin() as connection:
        result = await connection.run_sync(work)
    await engine.dispose()
    return result


def schema_of(data: Path) -> tuple[set[str], set[str]]:
    """The schema an embedded database says it has, and the names of its tables."""
    with contextlib.closing(sqlite3.connect(data / "posthouse.sqlite")) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}, tables


async def test_a_migrated_embedded_database_equals_a_new_one(tmp_path: Path) -> None:
    await (await open_store(tmp_path, "", {})).close()
    with embedded(tmp_path / "migrated.sqlite") as engine, engine.begin() as connection:
        migrating.upgrade(connection)
        migrated = shape(connection)
        assert differences(connection) == []
    with embedded(tmp_path / "posthouse.sqlite") as engine, engine.begin() as connection:
        assert shape(connection) == migrated
        assert differences(connection) == []
    assert len(migrated) == len(metadata.tables) + 1


async def test_a_migrated_postgres_equals_a_new_one(postgres: str, prepared_postgres: str) -> None:
    await with_postgres(postgres, migrating.upgrade)
    migrated = await with_postgres(postgres, shape)
    assert await with_postgres(prepared_postgres, shape) == migrated
    assert await with_postgres(postgres, differences) == []
    assert await with_postgres(prepared_postgres, differences) == []
    assert len(migrated) == len(metadata.tables) + 1


def test_a_new_database_is_stamped_with_the_newest_migration() -> None:
    versions = sorted(path.name for path in (migrating.MIGRATIONS / "versions").glob("v*.py"))
    assert versions[-1].startswith(f"v{fresh.SCHEMA}_")


@pytest.fixture
def newer_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program with one more migration, whose file is given."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrating.MIGRATIONS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrating, "MIGRATIONS", copy)
    monkeypatch.setattr(fresh, "SCHEMA", "0002")
    return copy / "versions" / "v0002_next.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


async def test_an_older_embedded_database_is_migrated_when_it_is_opened(
    data: Path, newer_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _made_by_the_older_program(data, monkeypatch)
    newer_program.write_text(BROKEN.replace("no_such_column", "id"))
    await (await open_store(data, "", {})).close()
    versions, tables = schema_of(data)
    assert versions == {"0002"}
    assert "half_way" in tables


async def test_a_migration_that_fails_leaves_the_embedded_database_as_it_was(
    data: Path, newer_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _made_by_the_older_program(data, monkeypatch)
    newer_program.write_text(BROKEN)
    with pytest.raises(Exception, match="no_such_column"):
        await open_store(data, "", {})
    versions, tables = schema_of(data)
    assert versions == {"0001"}
    assert "half_way" not in tables


async def _made_by_the_older_program(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "SCHEMA", "0001")
    await (await open_store(data, "", {})).close()
    monkeypatch.setattr(fresh, "SCHEMA", "0002")


async def test_an_older_postgres_is_migrated_by_one_of_the_nodes_that_open_it(
    data: Path, newer_program: Path, prepared_postgres: str
) -> None:
    newer_program.write_text(BROKEN.replace("no_such_column", "id"))
    for _ in range(2):
        await (await open_store(data, prepared_postgres, {})).close()
    assert "half_way" in await with_postgres(prepared_postgres, shape)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
async def test_a_database_of_a_newer_program_is_a_plain_problem(
    kind: str, request: pytest.FixtureRequest, data: Path
) -> None:
    url = request.getfixturevalue("prepared_postgres") if kind == "postgres" else ""
    if url:
        await with_postgres(url, _claim_to_be_newer)
    else:
        await (await open_store(data, "", {})).close()
        with embedded(data / "posthouse.sqlite") as engine, engine.begin() as connection:
            _claim_to_be_newer(connection)
    with pytest.raises(ProblemError) as raised:
        await open_store(data, url, {})
    assert raised.value.problems[0].id == "database.newer"


def _claim_to_be_newer(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
