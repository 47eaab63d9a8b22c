"""Opening the store: which database, brought up to date, with the key that fits it."""

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import bindparam, insert, select

from posthouse.problems import problem
from posthouse.store import events, fresh
from posthouse.store.database import Database, Row, Transaction
from posthouse.store.sealing import MasterKey, Sealer, Unsealable, new_data_key, read_master_key, wrong_key
from posthouse.store.spool import FileSpool, Spool, TableSpool
from posthouse.store.sqlite import SqliteDatabase, connect
from posthouse.store.tables import sealing_key

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
    database = await (_open_postgres(url) if url else _open_embedded(data / "posthouse.sqlite"))
    try:
        sealer = await _sealer(database, data, environment)
    except BaseException:
        await database.close()
        raise
    spool: Spool = TableSpool(database, sealer) if url else FileSpool(data / "spool", sealer)
    return Store(database, sealer, spool)


async def _sealer(database: Database, data: Path, environment: Mapping[str, str]) -> Sealer:
    """A master key is only made where nothing has been sealed yet. Raises ProblemError."""
    known = await database.read(lambda tx: tx.all(_keys))
    master = read_master_key(data, environment, make=not known)

    async def keys(tx: Transaction) -> dict[str, bytes]:
        rows = await tx.all(_keys) or await _first_key(tx, master)
        return {row["id"]: master.unwrap(row["wrapped"], row["id"]) for row in rows}

    try:
        return Sealer(await database.write(keys))
    except Unsealable:
        raise wrong_key(data) from None


async def _first_key(tx: Transaction, master: MasterKey) -> list[Row]:
    """Make the first data key, unless another node, which the counter lets pass first, has just done it."""
    await events.bump(tx, "sealing_key")
    if not await tx.all(_keys):
        key_id, key = new_data_key()
        await tx.run(_add_key, id=key_id, wrapped=master.wrap(key, key_id), created_at=await tx.now())
    return await tx.all(_keys)


async def _open_embedded(path: Path) -> Database:
    try:
        if _prepare_embedded(path) != fresh.SCHEMA:
            from posthouse.store.migrating import migrate_embedded

            migrate_embedded(path)
        return SqliteDatabase(path)
    except (sqlite3.Error, OSError) as cause:
        raise problem(
            "database.unusable",
            f"The database {path} cannot be used: {cause}.",
            "Check the disk and who owns the data directory, or restore a backup.",
        ) from cause


def _prepare_embedded(path: Path) -> str:
    """Make the tables where there are none; the schema that is there afterwards."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with contextlib.closing(connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            fresh.create_embedded(connection)
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


async def _open_postgres(url: str) -> Database:
    from posthouse.store.opening_postgres import open_postgres

    return await open_postgres(url)
