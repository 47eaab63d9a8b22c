"""The store on both databases. On PostgreSQL every test has a fresh database, copied from one with empty tables."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import delete

from posthouse.store.opening import open_store
from posthouse.store.tables import sealing_key
from tests.contract.making import Site
from tests.support import postgres as programs

_forget_keys = delete(sealing_key)
_numbers = count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Server]:
    """A running PostgreSQL with a database `pattern` that has the tables."""
    with programs.server() as running:
        running.run("CREATE DATABASE pattern")
        with ThreadPoolExecutor(1) as beside_our_loop:
            made = _make_tables(tmp_path_factory.mktemp("pattern"), running.url("pattern"))
            beside_our_loop.submit(asyncio.run, made).result()
        yield running


async def _make_tables(data: Path, url: str) -> None:
    store = await open_store(data, url, {})
    await store.database.write(lambda tx: tx.run(_forget_keys))
    await store.close()


@pytest.fixture
def empty_postgres(server: programs.Server) -> str:
    """The address of a database without tables."""
    name = f"empty{next(_numbers)}"
    server.run(f"CREATE DATABASE {name} STRATEGY file_copy")
    return server.url(name)


@pytest.fixture
def postgres_url(server: programs.Server) -> str:
    """The address of a database with empty tables."""
    name = f"test{next(_numbers)}"
    server.run(f"CREATE DATABASE {name} TEMPLATE pattern STRATEGY file_copy")
    return server.url(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    made = Site(tmp_path, url)
    yield made
    await made.close()
