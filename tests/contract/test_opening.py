"""Opening the store: which database, which key, and what a person is told when something is wrong."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from posthouse.problems import ProblemError
from posthouse.store import configuration
from posthouse.store.opening import Store, open_store
from tests.contract.making import Site, accept, add_consent, add_mailboxes, consent, grant_of, shown

OTHER_KEY = base64.urlsafe_b64encode(os.urandom(32)).decode()


def id_of(raised: pytest.ExceptionInfo[ProblemError]) -> str:
    (problem,) = raised.value.problems
    assert problem.sentence
    assert problem.hint
    return problem.id


async def reopened(site: Site) -> Store:
    await site.close()
    site._opened.clear()
    return await site.node()


async def test_what_was_written_is_there_when_it_is_opened_again(site: Site) -> None:
    store = await site.node()
    await add_mailboxes(store, "mb_1")
    await accept(store, "m1")
    await add_consent(store, consent())
    secret = store.sealer.derive("device passwords")
    again = await reopened(site)
    assert set((await again.database.read(configuration.load)).mailboxes) == {"mb_1"}
    assert (await shown(again, "m1")).subject == "Scanned pages"
    assert await grant_of(again) == consent()
    assert again.sealer.derive("device passwords") == secret


async def test_a_wrong_key_is_a_plain_problem_and_destroys_nothing(site: Site) -> None:
    await add_consent(await site.node(), consent())
    await site.close()
    for _ in range(2):
        with pytest.raises(ProblemError) as raised:
            await open_store(site.data, site.url, {"POSTHOUSE_KEY": OTHER_KEY})
        assert id_of(raised) == "key.wrong"
    assert await grant_of(await reopened(site)) == consent()


async def test_a_lost_key_is_a_plain_problem_and_the_right_one_mends_it(site: Site) -> None:
    await add_consent(await site.node(), consent())
    await site.close()
    key = site.data / "key"
    kept = key.read_text()
    key.unlink()
    with pytest.raises(ProblemError) as raised:
        await open_store(site.data, site.url, {})
    assert id_of(raised) == "key.missing"
    key.write_text(kept)
    assert await grant_of(await reopened(site)) == consent()


async def test_a_file_that_is_no_database_is_a_plain_problem_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.sqlite"
    path.write_text("These are my notes, and not a database.\n" * 100)
    before = path.read_bytes()
    with pytest.raises(ProblemError) as raised:
        await open_store(tmp_path, "", {})
    assert id_of(raised) == "database.unusable"
    assert path.read_bytes() == before


async def test_tables_of_somebody_else_are_a_plain_problem_and_are_left_alone(
    postgres: str, tmp_path: Path, site_of: Callable[[str], Site]
) -> None:
    connection = await asyncpg.connect(postgres)
    await connection.execute("CREATE TABLE event (what text)")
    with pytest.raises(ProblemError) as raised:
        await open_store(tmp_path, postgres, {})
    assert id_of(raised) == "database.unavailable"
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1
    await connection.close()


async def test_a_database_that_cannot_be_made_is_a_plain_problem(tmp_path: Path) -> None:
    (tmp_path / "posthouse.sqlite").mkdir()
    with pytest.raises(ProblemError) as raised:
        await open_store(tmp_path, "", {})
    assert id_of(raised) == "database.unusable"


async def test_the_embedded_database_is_one_file_in_the_data_directory(tmp_path: Path) -> None:
    store = await open_store(tmp_path, "", {})
    await store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "posthouse.sqlite", "spare", "spool"]
    assert (tmp_path / "posthouse.sqlite").stat().st_mode & 0o077 == 0
