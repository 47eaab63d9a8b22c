"""A key that is lost, wrong or not to be had: one sentence at every door, and nothing is written over."""

import asyncio
import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from sqlalchemy import select

from posthouse.cli import main
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from posthouse.store.opening import open_store
from posthouse.store.tables import metadata
from tests.contract.making import NOW, add_consent, consent

MAIL = """
[[mailbox]]
address = "alice@example.com"
password = "secret"
smtp = "127.0.0.1:9 tls"
"""
DOORS = (
    ("serve",), ("status",), ("apply", "mail.toml"), ("mailbox", "list"), ("token", "list"),
    ("token", "print", "alice@example.com"), ("authorise", "alice@example.com"), ("test", "alice@example.com"),
    ("queue", "list"), ("journal",), ("admin", "link"), ("app", "list"), ("device", "list"), ("provider", "list"),
    ("key", "status"), ("key", "rotate"), ("key", "rotate", "--master", "--yes"), ("key", "rotate", "--finish"),
)  # fmt: skip
_statements = {name: select(table) for name, table in metadata.tables.items()}


@dataclass(frozen=True, slots=True)
class Locked:
    """A data directory with something sealed in it, to which the key is about to go."""

    data: Path
    url: str

    @property
    def key(self) -> Path:
        return self.data / "key"

    async def rows(self, key: str) -> dict[str, list[Any]]:
        """All that is in the database, opened with this key."""
        store = await open_store(self.data, self.url, {"POSTHOUSE_KEY": key})
        found = {
            name: [tuple(row.values()) for row in map(dict, await store.database.read(lambda tx, s=s: tx.all(s)))]  # type: ignore[misc]
            for name, s in _statements.items()
        }
        await store.close()
        return found


async def prepared(data: Path, url: str) -> None:
    data.mkdir()
    store = await open_store(data, url, {})
    await apply(store, parse(MAIL, "mail.toml", {}), NOW)
    await add_consent(store, consent())
    await store.close()


@pytest.fixture(params=["embedded", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def locked(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Locked]:
    """Afterwards everything is as it was."""
    monkeypatch.chdir(tmp_path)
    url = request.getfixturevalue("postgres") if request.param == "postgres" else ""
    made = Locked(tmp_path / "data", url)
    database = f'database = "{url}"\n' if url else ""
    Path("posthouse.toml").write_text(f'data = "{made.data}"\n{database}[listen]\nweb = "127.0.0.1:0"\nsmtp = []\n')
    Path("mail.toml").write_text(MAIL)
    asyncio.run(prepared(made.data, url))
    key = made.key.read_text()
    before = asyncio.run(made.rows(key))
    assert before["oauth_grant"]
    yield made
    assert asyncio.run(made.rows(key)) == before


@pytest.fixture
def at_every_door(locked: Locked, capsys: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """The sentences that are to be at every door; they are looked for at the end of the test."""
    expected: list[str] = []
    yield expected
    assert expected
    for words in DOORS:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (1, ""), words
        (line,) = said.err.splitlines()
        assert all(words in line for words in expected), line


def test_a_lost_key(locked: Locked, at_every_door: list[str]) -> None:
    locked.key.unlink()
    at_every_door += [
        f"The database was made with a key that is not here: there is none in {locked.key}.",
        "Put it back from your backup, or give it in POSTHOUSE_KEY. Nothing was changed.",
    ]


def test_a_wrong_key(locked: Locked, at_every_door: list[str]) -> None:
    locked.key.write_text(base64.b64encode(os.urandom(32)).decode())
    at_every_door += [
        f"The key in {locked.key} (",
        "does not fit the database, which needs ",
        "Put back the key this database was made with, from your backup of it. Nothing was changed.",
    ]


def test_a_key_that_is_none(locked: Locked, at_every_door: list[str]) -> None:
    locked.key.write_text("my notes\n")
    at_every_door.append(f"{locked.key} does not hold a Posthouse key. It is 43 letters of base64, 32 octets.")


def test_a_wrong_key_in_the_environment(
    locked: Locked, at_every_door: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTHOUSE_KEY", base64.b64encode(os.urandom(32)).decode())
    at_every_door += ["The key in POSTHOUSE_KEY (", "does not fit the database"]


@pytest.fixture
def no_keyring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)


@pytest.mark.usefixtures("no_keyring")
def test_no_keyring(locked: Locked, at_every_door: list[str]) -> None:
    config = Path("posthouse.toml")
    config.write_text(f'key = "keyring"\n{config.read_text()}')
    at_every_door.append("The operating system's keyring cannot be used: there is none on this machine")
