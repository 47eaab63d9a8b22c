"""Many mailboxes: what a door reads does not grow with them, and what needs somebody is found among them."""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, insert
from sqlalchemy.sql.expression import ClauseElement

from posthouse.model.token import TokenState
from posthouse.store import configuration, messages, tokens
from posthouse.store.database import Row, Transaction
from posthouse.store.sqlite import SqliteTransaction
from posthouse.store.tables import mailbox, token
from tests.contract.making import consent, mail
from tests.support.clients import Client, make_key, over_network, over_socket
from tests.support.house import House, house
from tests.support.visitors import Visitor, administrator

APP = '[[app]]\nname = "office"\nprovider = "microsoft"\nclient_id = "c0ffee"\n'
MANY = 20_000
_add_token = insert(token).values(
    {name: bindparam(name) for name in ("id", "app_id", "account", "name", "state", "reason", "serving_grant")}
)
_add_mailbox = insert(mailbox).values(
    {name: bindparam(name) for name in ("id", "address", "account", "app_id", "token_id")} | {"document": "{}"}
)


def address(number: int) -> str:
    return f"m{number:05}@example.com"


@contextlib.asynccontextmanager
async def full_house(tmp_path: Path, many: int, *, invalid: int = 0, new: int = 0) -> AsyncIterator[House]:
    """The last ones have an invalid token, those before them none yet, all others one that serves."""
    async with house(tmp_path / "data", APP, background=False) as made:
        (app_id,) = made.parts.directory.now.configuration.apps
        states = [TokenState.ACQUIRED] * (many - invalid - new)
        states += [TokenState.NOT_ACQUIRED] * new + [TokenState.INVALID] * invalid
        sealer = made.parts.store.sealer

        async def work(tx: Transaction) -> None:
            for number, state in enumerate(states):
                ids = {"mailbox": f"mb_{number:05}", "token": f"tk_{number:05}", "grant": f"gr_{number:05}"}
                person = address(number)
                await tx.run(
                    _add_token,
                    id=ids["token"],
                    app_id=app_id,
                    account=person,
                    name="main",
                    state=str(state),
                    reason="revoked" if state is TokenState.INVALID else "",
                    serving_grant=ids["grant"] if state is TokenState.ACQUIRED else None,
                )
                await tx.run(
                    _add_mailbox,
                    id=ids["mailbox"],
                    address=person,
                    account=person,
                    app_id=app_id,
                    token_id=ids["token"],
                )
                if state is TokenState.ACQUIRED:
                    await tokens.add_grant(tx, sealer, consent(ids["grant"], ids["token"]))
                if number < 20:
                    await messages.accept(tx, mail(f"q{number}", mailbox=ids["mailbox"]), 1.0, 2.0)
            await configuration.save(tx, "app", app_id, client_id="c0ffee")

        await made.parts.store.database.write(work, long=True)
        await made.parts.directory.refresh()
        yield made


@dataclass
class Reading:
    """What is asked of the database."""

    statements: int = 0
    rows: int = 0

    def take(self) -> tuple[int, int]:
        """Since the last time."""
        taken = (self.statements, self.rows)
        self.statements = self.rows = 0
        return taken


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    counted, all_rows, one_row = Reading(), SqliteTransaction.all, SqliteTransaction.one

    async def every(self: SqliteTransaction, statement: ClauseElement, **parameters: Any) -> list[Row]:
        found = await all_rows(self, statement, **parameters)
        counted.statements, counted.rows = counted.statements + 1, counted.rows + len(found)
        return found

    async def one(self: SqliteTransaction, statement: ClauseElement, **parameters: Any) -> Row | None:
        counted.statements, counted.rows = counted.statements + 1, counted.rows + 1
        return await one_row(self, statement, **parameters)

    monkeypatch.setattr(SqliteTransaction, "all", every)
    monkeypatch.setattr(SqliteTransaction, "one", one)
    return counted


PAGES = (
    "/", "/?search=m1", "/?state=acquired&after=m09999@example.com", "/?state=invalid", "/mailboxes/mb_00007",
    "/mailboxes/mb_00007/edit", "/mailboxes/mb_00007/remove", "/mailboxes/find?mailbox=m0", "/outbox",
    "/outbox?mailbox=m00007@example.com", "/apps", "/devices", "/providers", "/notices",
)  # fmt: skip
LISTS = (
    "/status", "/mailboxes", "/mailboxes?limit=200&cursor=m09999@example.com", "/mailboxes/m00007@example.com",
    "/mailboxes/mb_00007/tokens", "/tokens", "/tokens?limit=200&cursor=tk_09999", "/tokens/tk_00007", "/messages",
    "/devices", "/apps",
)  # fmt: skip


async def test_no_door_reads_more_of_the_database_the_more_mailboxes_there_are(
    tmp_path: Path, reading: Reading
) -> None:
    async with full_house(tmp_path, MANY, invalid=500, new=300) as home, administrator(home) as person:
        key = await make_key(home, "read", mailboxes=[address(7), address(19_999)])
        async with over_socket(home) as api, over_network(home, key) as limited:
            await person.look("/")
            reading.take()
            for path in PAGES:
                assert (await person.look(path)).status_code == 200, path
                assert bounded(reading), path
            for client in (api, limited):
                for path in LISTS:
                    await client.get(path)
                    assert bounded(reading), path
            figures = (await api.http.get("/metrics")).text
            assert bounded(reading)
    assert 'posthouse_mailboxes{state="invalid"} 500.0' in figures
    assert 'posthouse_tokens{state="acquired"} 19200.0' in figures
    assert 'posthouse_settings{for="sending",state="not_acquired"} 300.0' in figures
    assert 'posthouse_messages{state="queued"} 20.0' in figures
    assert "@" not in figures
    assert len(figures.splitlines()) < 100, "however many mailboxes there are"


def bounded(reading: Reading) -> bool:
    statements, rows = reading.take()
    return 0 < statements < 60 and rows < 1500


async def test_what_needs_somebody_comes_first_then_a_page_of_all(tmp_path: Path) -> None:
    async with full_house(tmp_path, 120, invalid=2, new=12) as home, administrator(home) as person:
        await person.look("/")
        first = named(person)
        assert first[:4] == [address(118), address(119), address(106), address(107)], "invalid, then not acquired"
        assert first[10:] == [address(number) for number in range(25)]
        assert "and 4 more: invalid (2) not acquired (12)" in person.text()
        assert "all (120)" in person.text()
        seen = first[10:]
        while following := link(person, "next"):
            await person.look(following)
            seen += named(person)
        assert seen == [address(number) for number in range(120)]
        await person.look(link(person, "prev"))
        assert named(person) == [address(number) for number in range(75, 100)]
        await person.look(link(person, "prev"))
        assert named(person) == [address(number) for number in range(50, 75)]
        await person.look("/?before=m00010@example.com")
        assert (named(person), link(person, "prev")) == ([address(number) for number in range(10)], "")


async def test_mailboxes_are_found_by_search_and_by_state(tmp_path: Path) -> None:
    async with full_house(tmp_path, 120, invalid=2, new=60) as home, administrator(home) as person:
        await person.look("/?search=M0011")
        assert named(person) == [address(number) for number in range(110, 120)]
        assert "10 mailboxes found." in person.text()
        await person.look("/?state=invalid&search=119")
        assert named(person) == [address(119)]
        await person.look("/?state=not_acquired")
        assert (len(named(person)), link(person, "next")) == (25, "/?state=not_acquired&after=m00082%40example.com")
        await person.look("/?search=<nobody>")
        assert "There is no mailbox here." in person.text()
        await person.look("/mailboxes/find?mailbox=m0001")
        assert person.shown.count("<option") == 10
        await person.look("/mailboxes/find?move_to=m0")
        assert person.shown.count("<option") == 20, "and no more, whatever fits"


async def test_the_banner_names_a_few_and_leads_to_the_others(tmp_path: Path) -> None:
    async with full_house(tmp_path, 30, invalid=9) as home, administrator(home) as person:
        await person.look("/devices")
        banner = person.shown.partition('class="banner"')[2].partition("</div>")[0]
        assert re.findall(r"m\d+@example.com(?=</b>)", banner) == [address(21), address(22), address(23)]
        assert '<a href="/?state=invalid">and 6 more</a>' in banner
        await person.look("/?state=invalid")
        assert named(person) == [address(number) for number in range(21, 30)]


async def test_a_token_that_many_share_names_a_few_of_them(tmp_path: Path) -> None:
    shared = "".join(
        f'[[mailbox]]\naddress = "{address(number)}"\napp = "office"\nsigns_in_as = "alice@example.com"\n'
        for number in range(30)
    )
    async with house(tmp_path / "data", APP + shared, background=False) as home, administrator(home) as person:
        token_id = (await home.token(address(0))).id
        work = home.parts.store.database.write
        await work(lambda tx: tokens.set_state(tx, token_id, TokenState.INVALID, home.clock(), "revoked"))
        page = f"/mailboxes/{home.parts.directory.now.by_address[address(0)].id}"
        await person.look(page)
        assert f"{address(4)} and 25 more" in person.text(), "the banner"
        assert f"{address(20)} and 9 more" in person.text(), "with whom it is shared"
        await person.look(f"{page}/token/delete")
        assert "and 10 more" in person.text()


async def test_a_token_that_breaks_or_is_mended_shows_at_once(tmp_path: Path) -> None:
    async with full_house(tmp_path, 30) as home, administrator(home) as person:
        await person.look("/")
        assert "re-authorise" not in person.text()
        for state, shown in ((TokenState.INVALID, True), (TokenState.ACQUIRED, False)):
            work = home.parts.store.database.write
            await work(lambda tx, to=state: tokens.set_state(tx, "tk_00003", to, home.clock(), "revoked"))  # type: ignore[misc]
            await person.look("/")
            assert ("Please re-authorise your e-mail settings" in person.text()) is shown
            assert ("Needs attention" in person.text()) is shown


async def test_every_list_of_the_api_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async with full_house(tmp_path, 30, invalid=3, new=3) as home, over_socket(home) as api:
        await home.apply("".join(f'[[device]]\nname = "d{n}"\nmailboxes = ["{address(n)}"]\n' for n in range(5)))
        for path, key, total in (("/mailboxes", "address", 30), ("/tokens", "id", 30), ("/devices", "name", 5)):
            assert [one[key] for one in await paged(api, path, 4)] == sorted(
                one[key] for one in await api.items(path)
            ), path
            assert len(await api.items(path)) == total
        status = (await api.get("/status")).json()
        assert (status["attention_count"], len(status["attention"])) == (3, 3)
        key = await make_key(home, "read", mailboxes=[address(1), address(29)])
        async with over_network(home, key) as limited:
            assert [one["account"] for one in await paged(limited, "/tokens", 1)] == [address(1), address(29)]
            assert [one["name"] for one in await paged(limited, "/devices", 1)] == ["d1"]


async def test_tokens_that_are_not_shown_do_not_make_one_answer_read_them_all(tmp_path: Path, reading: Reading) -> None:
    """Every setting has a token of its own, and the one that they would share was never got."""
    async with full_house(tmp_path, 5) as home, over_socket(home) as api:
        (app_id,) = home.parts.directory.now.configuration.apps

        async def work(tx: Transaction) -> None:
            for number in range(3000):
                unused = {"id": f"tj_{number:05}", "account": f"unused{number}", "name": "main", "reason": ""}
                state = str(TokenState.NOT_ACQUIRED)
                await tx.run(_add_token, app_id=app_id, state=state, serving_grant=None, **unused)

        await home.parts.store.database.write(work, long=True)
        reading.take()
        first = (await api.get("/tokens", limit=2)).json()
        assert bounded(reading)
        assert (first["items"], bool(first["next"])) == ([], True)
        assert [one["account"] for one in await paged(api, "/tokens", 2)] == [address(number) for number in range(5)]


async def paged(api: Client, path: str, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    for _ in count():
        answer = (await api.get(path, limit=limit, cursor=cursor)).json()
        assert len(answer["items"]) <= limit
        found += answer["items"]
        cursor = answer["next"]
        if not cursor:
            break
    return found


def named(person: Visitor) -> list[str]:
    return re.findall(r'<th scope="row" class="address"><a href="/mailboxes/\w+">([^<]+)</a>', person.shown)


def link(person: Visitor, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', person.shown)
    return found[1].replace("&amp;", "&") if found else ""
