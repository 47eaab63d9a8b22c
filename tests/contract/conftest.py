"""The store on both databases. On PostgreSQL the tests share a database, emptied before each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import delete

from posthouse.store.opening import open_store
from posthouse.store.tables import metadata, sealing_key, sealing_wrap
from tests.contract.making import Site
from tests.support.postgres import Server

_forget_keys = delete(sealing_key)
_forget_wraps = delete(sealing_wrap)
_numbers = count(1)


@pytest.fixture(scope="session")
def pattern(postgres_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A running PostgreSQL with a database `pattern` that has the tables."""
    postgres_server.run("CREATE DATABASE pattern")
    with ThreadPoolExecutor(1) as beside_our_loop:
        made = _make_tables(tmp_path_factory.mktemp("pattern"), postgres_server.url("pattern"))
        beside_our_loop.submit(asyncio.run, made).result()
    return postgres_server


async def _make_tables(data: Path, url: str) -> None:
    store = await open_store(data, url, {})
    await store.database.write(lambda tx: tx.run(_forget_keys))
    await store.database.write(lambda tx: tx.run(_forget_wraps))
    await store.close()


@pytest.fixture
def prepared_postgres(pattern: Server) -> str:
    """The address of a fresh database with empty tables."""
    name = f"prepared_{next(_numbers)}"
    pattern.run(f"CREATE DATABASE {name} TEMPLATE pattern STRATEGY file_copy")
    return pattern.url(name)


@pytest.fixture(scope="session")
def shared_postgres(pattern: Server) -> str:
    """The address of a database with tables in which there may be anything."""
    pattern.run("CREATE DATABASE shared TEMPLATE pattern STRATEGY file_copy")
    return pattern.url("shared")


async def _emptied(url: str) -> str:
    connection = await asyncpg.connect(url)
    await connection.execute(";".join(f'DELETE FROM "{table}"' for table in metadata.tables))
    await connection.close()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    url = await _emptied(request.getfixturevalue("shared_postgres")) if request.param == "postgres" else ""
    made = Site(tmp_path, url)
    yield made
    await made.close()


@pytest.fixture
async def site_of(tmp_path: Path) -> AsyncIterator[Callable[[str], Site]]:
    """A site on the database of a given address."""
    made: list[Site] = []

    def make(url: str) -> Site:
        made.append(Site(tmp_path, url))
        return made[-1]

    yield make
    for site in made:
        await site.close()
