"""Bringing a database up to date. Imported only when there is something to do, since Alembic is slow to load.

A migration that fails leaves the database as it was.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from posthouse.problems import problem

MIGRATIONS = Path(__file__).with_name("migrations")


def migrate_embedded(path: Path) -> None:
    """Raises ProblemError where the database is newer than this program."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"isolation_level": None})
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            upgrade(connection)
    finally:
        engine.dispose()


async def migrate_postgres(url: str) -> None:
    """Two nodes started together migrate one after the other. Raises ProblemError."""
    engine = create_async_engine("postgresql+asyncpg://" + url.partition("://")[2])
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT version_num FROM alembic_version FOR UPDATE"))
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()


def upgrade(connection: Connection) -> None:
    """Inside the transaction that `connection` is in."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as cause:
        raise problem(
            "database.newer",
            f"The database was made by another version of Posthouse: {cause}.",
            "Install the version that made it, or a newer one.",
        ) from cause
