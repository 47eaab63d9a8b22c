"""How all mailboxes stand: what is kept in memory says what the table says, whatever happened to the events."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from posthouse.model.token import TokenState
from posthouse.services.directory import Directory
from posthouse.services.standing import ANEW, Standing, Standings
from posthouse.store import events, tokens
from posthouse.store.database import DatabaseUnavailable, Transaction
from posthouse.store.tables import counter, token
from tests.support.house import House, house

APP = '[[app]]\nname = "office"\nprovider = "microsoft"\nclient_id = "c0ffee"\n'


def box(address: str, *lines: str) -> str:
    return "\n".join(["[[mailbox]]", f'address = "{address}"', *lines, ""])


MAILBOXES = (
    box("alice@example.com", 'app = "office"', 'receive = "imap"')
    + box("support@example.com", 'app = "office"', 'signs_in_as = "alice@example.com"')
    + box("bob@example.com", 'app = "office"', 'receive = "imap"')
    + box("old@example.net", 'password = "an app password"', 'smtp = "smtp.example.net:465 tls"')
)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", APP + MAILBOXES, background=False) as made:
        yield made


async def set_state(office: House, state: TokenState, address: str = "alice@example.com") -> None:
    found, now = await office.token(address), office.clock()
    await office.parts.store.database.write(lambda tx: tokens.set_state(tx, found.id, state, now, "x"))


async def move_counter(tx: Transaction, by: int) -> None:
    await tx.run(update(counter).where(counter.c.name == "event").values(value=counter.c.value + by))


async def put_back(office: House, state: TokenState, events_lost: int) -> None:
    """The database is an earlier one from now on."""

    async def work(tx: Transaction) -> None:
        await tx.run(update(token).values(state=str(state)))
        await move_counter(tx, -events_lost)

    await office.parts.store.database.write(work)


async def counts(office: House) -> tuple[int, int]:
    """Mailboxes whose token serves, and whose token is invalid."""
    found = (await office.parts.standings.look()).counts
    return found["acquired"], found["invalid"]


@pytest.mark.parametrize("told_again", [False, True])
async def test_a_change_is_seen_although_its_event_is_no_longer_kept(office: House, told_again: bool) -> None:
    await set_state(office, TokenState.ACQUIRED)
    assert await counts(office) == (2, 0)
    await set_state(office, TokenState.INVALID)
    office.clock.forward(86400)
    now = office.clock()
    await office.parts.store.database.write(lambda tx: events.prune(tx, now, 500))
    if told_again:
        await set_state(office, TokenState.ACQUIRED, "bob@example.com")
    assert await counts(office) == (int(told_again), 2)


async def test_a_database_put_back_to_an_earlier_moment_is_read_anew(office: House) -> None:
    await set_state(office, TokenState.INVALID)
    assert await counts(office) == (0, 2)
    await put_back(office, TokenState.ACQUIRED, 1)
    assert await counts(office) == (3, 0)


async def test_what_no_event_tells_is_seen_within_the_hour(office: House) -> None:
    """As where a database was put back, and went on, before anybody looked."""
    await set_state(office, TokenState.INVALID)
    assert await counts(office) == (0, 2)
    await put_back(office, TokenState.ACQUIRED, 0)
    office.clock.forward(ANEW - 60)
    assert await counts(office) == (0, 2)
    office.clock.forward(61)
    assert await counts(office) == (3, 0)


async def test_a_clock_that_was_put_back_does_not_end_that(office: House) -> None:
    await set_state(office, TokenState.INVALID)
    assert await counts(office) == (0, 2)
    await put_back(office, TokenState.ACQUIRED, 0)
    office.clock.forward(-86400)
    assert await counts(office) == (3, 0)


def told(standing: Standing) -> dict[str, Any]:
    return {
        "states": standing.states,
        "by_state": standing.by_state,
        "counts": standing.counts,
        "broken": standing.broken,
        "tokens": +standing.tokens,
        "settings": +standing.settings,
    }


async def test_change_by_change_it_stands_as_if_all_were_read(office: House) -> None:
    await office.parts.sharing.choose(office.parts.directory.now.by_address["bob@example.com"], "receiving", "own")
    await office.parts.directory.refresh()
    snapshot, drawn = office.parts.directory.now, random.Random(7)
    states = {one.id: one.state for one in await office.parts.store.database.read(tokens.everything)}
    standing = first = Standing.of(snapshot, states)
    before = told(first)
    for _ in range(200):
        changes = {drawn.choice(list(states)): drawn.choice(list(TokenState)) for _ in range(drawn.randint(1, 3))}
        states |= changes
        standing = standing.after(changes | {"tk_unused": TokenState.INVALID})
        assert told(standing) == told(Standing.of(snapshot, states))
    assert told(first) == before


class Away(Directory):
    """Its database fails when it is let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = 0, asyncio.Event()

    async def refresh(self) -> bool:
        self.asked += 1
        await self.let_go.wait()
        raise DatabaseUnavailable("away")


async def test_all_who_ask_meanwhile_share_one_failure(office: House) -> None:
    away = Away()
    standings = Standings(office.parts.store, away, office.clock)
    asking = [asyncio.create_task(standings.look()) for _ in range(10)]
    while not away.asked:
        await asyncio.sleep(0)
    asking += [asyncio.create_task(standings.look()) for _ in range(10)]
    asking.pop(0).cancel()
    await asyncio.sleep(0)
    away.let_go.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(answer) for answer in answers} == {DatabaseUnavailable}
    assert away.asked == 1


class Slow(Directory):
    """After it has read it is not back before it is let go."""

    def __init__(self, house: House) -> None:
        super().__init__(house.parts.store)
        self.asked, self.has_read, self.let_go = 0, asyncio.Event(), asyncio.Event()

    async def refresh(self) -> bool:
        self.asked += 1
        found = await super().refresh()
        self.has_read.set()
        await self.let_go.wait()
        return found


async def test_who_asks_sees_what_was_written_before(office: House) -> None:
    """A look that is under way has read before that; those who come meanwhile share the next one."""
    slow = Slow(office)
    standings = Standings(office.parts.store, slow, office.clock)
    under_way = asyncio.create_task(standings.look())
    await slow.has_read.wait()
    await office.apply(box("carol@example.com", 'app = "office"'))
    later = [asyncio.create_task(standings.look()) for _ in range(10)]
    await asyncio.sleep(0)
    slow.let_go.set()
    assert (await under_way).counts["not_acquired"] == 3
    assert [standing.counts["not_acquired"] for standing in await asyncio.gather(*later)] == [4] * 10
    assert slow.asked == 2
