"""What keeps mail from being kept: the same cause and step on page, API and in the probe, in the reader's language."""

from pathlib import Path

import pytest

from posthouse.locales import LANGUAGES, SOURCE, translations
from posthouse.services import storage
from posthouse.store.trouble import LastWrite, Trouble
from posthouse.web import words
from tests.support.clients import over_socket
from tests.support.house import house
from tests.support.visitors import administrator, visitor

SAID = {
    Trouble.FULL: ("disk.full", "The disk of {data} is full", "Make space on it"),
    Trouble.UNWRITABLE: ("disk.unwritable", "The disk of {data} cannot be written to", "mount it for writing again"),
    Trouble.LOCKED: ("database.locked", "Another program holds the database", "End what has posthouse.sqlite open"),
    Trouble.AWAY: ("database.unavailable", "The database does not answer", "Check that it is running"),
}


@pytest.mark.parametrize("trouble", Trouble)
async def test_page_api_and_probe_say_the_one_cause_and_the_one_step(tmp_path: Path, trouble: Trouble) -> None:
    name, sentence, step = SAID[trouble]
    async with (
        house(tmp_path / "data", background=False) as home,
        administrator(home) as person,
        visitor(home) as stranger,
        over_socket(home) as client,
    ):
        fared = home.parts.store.database.fared
        fared.failed(trouble)
        await person.look("/outbox")
        assert sentence.format(data=tmp_path / "data") in person.text()
        assert step in person.text()
        await stranger.look("/sign-in")
        assert sentence.format(data=tmp_path / "data") not in stranger.text()
        told = (await client.get("/status")).json()["trouble"]
        assert (told["id"], step in told["hint"]) == (name, True)
        assert (await client.http.get("/readyz")).status_code == 503
        fared.succeeded()
        await person.look("/outbox")
        assert step not in person.text()
        assert (await client.get("/status")).json()["trouble"] is None
        assert (await client.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("trouble", Trouble)
@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {SOURCE}))
def test_cause_and_step_are_said_in_the_readers_language(trouble: Trouble, language: str) -> None:
    found = storage.describe(trouble, "/var/lib/posthouse")
    said = words.explained(str(found), translations(language))
    assert found.sentence not in said
    assert found.hint not in said


def test_how_a_write_fared_is_forgotten_where_nobody_writes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fared = LastWrite()
    fared.failed(Trouble.AWAY)
    assert fared.trouble is Trouble.AWAY
    monkeypatch.setattr("posthouse.store.trouble.FORGOTTEN", 0.0)
    assert fared.trouble is None
