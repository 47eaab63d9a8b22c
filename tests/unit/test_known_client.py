"""Somebody else's public registration, chosen on purpose: what it is good for, and that it is warned of everywhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from posthouse.model.outcome import Refused
from posthouse.oauth.code import Attempt, Code, parameters_of, path_of, read_callback
from posthouse.oauth.endpoints import endpoints_of
from posthouse.problems import ProblemError
from posthouse.providers.guide import guide
from posthouse.providers.provider import built_in
from posthouse.providers.registration import Way, Wish, client_warnings, known_client, redirect_url_of
from posthouse.secret import Secret
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from tests.support.clients import over_socket
from tests.support.house import House, house
from tests.support.visitors import administrator

PAGE = "https://mail.example.com"
OURS = f"{PAGE}/oauth/callback"
SALES = "sales@example.com"
FILE = f"""
[[app]]
name = "borrowed"
provider = "microsoft"
client_id = "thunderbird"
[[app]]
name = "own"
provider = "microsoft"
client_id = "11111111-2222-3333-4444-555555555555"
[[mailbox]]
address = "{SALES}"
app = "borrowed"
"""


def test_it_is_known_by_its_name_and_by_its_id() -> None:
    microsoft, google = built_in()["microsoft"], built_in()["google"]
    known = known_client(microsoft, "thunderbird")
    assert known is not None
    assert known is known_client(microsoft, known.client_id)
    assert known_client(google, "thunderbird") is None
    assert redirect_url_of(microsoft, "thunderbird", PAGE) == "https://localhost"
    assert redirect_url_of(microsoft, "another", PAGE) == OURS
    assert "Thunderbird" in str(client_warnings(microsoft, known.client_id)[0])
    assert client_warnings(microsoft, "another") == ()


@pytest.mark.parametrize(("way", "offered"), [("device", True), ("paste", True), ("browser", False), ("app", False)])
def test_the_guide_offers_it_where_it_can_be_used(way: Way, offered: bool) -> None:
    found = guide(built_in()["outlook"], Wish(OURS, way))
    assert [one.lines[-1] for one in found.borrowed] == (['client_id = "thunderbird"'] if offered else [])


async def begun(home: House, method: str) -> str:
    mailbox = home.parts.directory.now.by_address[SALES]
    return (await home.parts.authorise.begin(mailbox, method)).url  # type: ignore[arg-type]


async def test_a_pasted_address_comes_back_to_theirs(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home:
        asked = parameters_of(await begun(home, "paste"))
    assert asked["redirect_uri"] == "https://localhost"
    assert asked["client_id"] == "9e5f94bc-e8a4-4e73-b8be-63364c29d753"


def test_what_a_browser_shows_in_the_end_is_their_address() -> None:
    """A browser writes a slash where an address has no path."""
    attempt = Attempt("", Secret("s"), Secret("n"), Secret("v"), "https://localhost")
    pasted = "https://localhost/?code=abc&state=s"
    endpoints = endpoints_of(built_in()["microsoft"])
    came = read_callback(parameters_of(pasted), attempt, endpoints, came_to=path_of(pasted))
    assert isinstance(came, Code)
    ours = replace(attempt, redirect_uri=OURS)
    assert isinstance(read_callback(parameters_of(pasted), ours, endpoints, came_to=path_of(pasted)), Refused)


@pytest.mark.parametrize("method", ["browser", "link"])
async def test_nobody_is_sent_where_nobody_comes_back_from(tmp_path: Path, method: str) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home:
        with pytest.raises(ProblemError, match="lets nobody come back here") as refused:
            await begun(home, method)
    assert refused.value.problems[0].hint == "Use a device code, or paste the address."


async def test_it_is_warned_of_in_the_page_the_api_and_the_report(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home:
        report = await apply(home.parts.store, parse(FILE, "mail.toml", {}), home.clock())
        assert [note for note in report.notes if note.startswith("borrowed: This is the app registration of Thunder")]
        await home.parts.directory.refresh()
        async with over_socket(home) as client:
            borrowed, own = await client.items("/apps")
        if borrowed["name"] != "borrowed":
            borrowed, own = own, borrowed
        assert "Thunderbird" in borrowed["warnings"][0]
        assert borrowed["redirect_url"] == "https://localhost"
        assert (own["warnings"], own["redirect_url"]) == ([], "http://localhost:8480/oauth/callback")
        async with administrator(home) as person:
            await person.look(f"/apps/{borrowed['id']}/check")
            assert "This is the app registration of Thunderbird, not yours." in person.text()
            assert "https://localhost" in person.text()
            await person.look(f"/mailboxes/{home.parts.directory.now.by_address[SALES].id}")
            assert 'value="device"' in person.shown
            assert 'value="browser"' not in person.shown
            await person.look("/register/outlook?way=device")
            assert "client_id=thunderbird" in person.shown
