"""Opening the store: which database, brought up to date, with the key that fits it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import bindparam, insert, select

from ..problems import problem
from . import fresh
from .database import Database, DatabaseUnavailable, Transaction
from .postgres import PostgresDatabase
from .sealing import Sealer, Unsealable, new_data_key, read_master_key, wrong_key
from .spool import FileSpool, Spool, TableSpool
from .sqlite import SqliteDatabase, connect
from .tables import sealing_key

_keys = select(sealing_key).order_by(sealing_key.c.created_at, sealing_key.c.id)
_add_key = insert(sealing_key).values(
    id=bindparam("id"), wrapped=bindparam("wrapped"), created_at=bindparam("created_at")
)


@dataclass(frozen=True, slots=True)
class Store:
    database: Database
    sealer: Sealer
    spool: Spool

    async def close(self) -> None:
        await self.database.close()


async def open_store(data: Path, url: str, environment: Mapping[str, str]) -> Store:
    """Open the database at `url`, or the embedded one in `data` where `url` is empty.

    Raises ProblemError where a person has to do something, such as bring back the right key.
    """
    master = read_master_key(data, environment)
    database = await (_open_postgres(url) if url else _open_embedded(data / "posthouse.sqlite"))

    async def keys(tx: Transaction) -> dict[str, bytes]:
        rows = await tx.all(_keys)
        if not rows:
            key_id, key = new_data_key()
            await tx.run(_add_key, id=key_id, wrapped=master.wrap(key, key_id), created_at=await tx.now())
            return {key_id: key}
        return {row["id"]: master.unwrap(row["wrapped"], row["id"]) for row in rows}

    try:
        sealer = Sealer(await database.write(keys))
    except Unsealable:
        await database.close()
        raise wrong_key(data) from None
    spool: Spool = TableSpool(database, sealer) if url else FileSpool(data / "spool", sealer)
    return Store(database, sealer, spool)


async def _open_embedded(path: Path) -> Database:
    connection = connect(path)
    try:
        found = _embedded_schema(connection)
        if not found:
            fresh.create_embedded(connection)
    finally:
        connection.close()
    if found and found != fresh.SCHEMA:
        from .migrating import migrate_embedded

        migrate_embedded(path)
    return SqliteDatabase(path)


def _embedded_schema(connection: Any) -> str:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0] if known else ""


async def _open_postgres(url: str) -> Database:
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
        async with connection.transaction():
            found = await fresh.create_postgres(connection)
    finally:
        await connection.close()
    if found != fresh.SCHEMA:
        from .migrating import migrate_postgres

        await migrate_postgres(url)
