"""Opening the store: which database, brought up to date, with the key that fits it."""

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from posthouse.problems import problem
from posthouse.store import fresh
from posthouse.store.data_keys import DataKeys, open_keys
from posthouse.store.database import Database
from posthouse.store.master_key import find_place
from posthouse.store.sealing import Sealer
from posthouse.store.spool import FileSpool, Spool, TableSpool
from posthouse.store.sqlite import SqliteDatabase, connect
from posthouse.store.trouble import at_start


@dataclass(frozen=True, slots=True)
class Store:
    database: Database
    keys: DataKeys
    spool: Spool

    @property
    def sealer(self) -> Sealer:
        return self.keys.sealer

    async def close(self) -> None:
        await self.database.close()


async def open_store(data: Path, url: str, environment: Mapping[str, str], *, keyring: bool = False) -> Store:
    """Open the database at `url`, or the embedded one in `data` where `url` is empty.

    `keyring`: the master key lies in the operating system's. Raises ProblemError where a person has to do something,
    such as bring back the right key.
    """
    place = find_place(data, environment, keyring=keyring)
    database = await (_open_postgres(url) if url else _open_embedded(data / "posthouse.sqlite"))
    try:
        keys = await open_keys(database, place)
    except BaseException:
        await database.close()
        raise
    spool: Spool = TableSpool(database, keys.sealer) if url else FileSpool(data / "spool", keys.sealer)
    return Store(database, keys, spool)


async def _open_embedded(path: Path) -> Database:
    try:
        if _prepare_embedded(path) != fresh.SCHEMA:
            from posthouse.store.migrating import migrate_embedded

            migrate_embedded(path)
        return SqliteDatabase(path)
    except (sqlite3.Error, OSError) as cause:
        raise at_start(path.parent, cause) or problem(
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
