"""Events, on both databases."""

import pytest

from posthouse.store import events
from posthouse.store.database import Transaction
from posthouse.store.events import Event
from posthouse.store.opening import Store
from tests.contract.making import NOW, Site, together


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def record(store: Store, subject: str) -> None:
    await store.database.write(lambda tx: events.record(tx, NOW, "token.invalid", subject, reason="revoked"))


async def after(store: Store, position: int) -> list[Event]:
    return await store.database.read(lambda tx: events.after(tx, position))


async def move(store: Store, to: int) -> None:
    await store.database.write(lambda tx: events.move(tx, "notices", to))


async def position(store: Store) -> int:
    return await store.database.read(lambda tx: events.position_of(tx, "notices"))


async def test_an_event_says_what_happened_to_whom(store: Store) -> None:
    await record(store, "tk_1")
    assert await after(store, 0) == [Event(1, NOW, "token.invalid", "tk_1", {"reason": "revoked"})]
    assert await after(store, 1) == []


async def test_events_of_many_nodes_have_ids_without_gaps(site: Site) -> None:
    nodes = await site.nodes(4)
    await together(record(nodes[number % 4], f"tk_{number}") for number in range(60))
    found = await after(nodes[0], 0)
    assert [event.id for event in found] == list(range(1, 61))
    assert len({event.subject for event in found}) == 60


async def test_a_reader_never_overlooks_an_event_that_was_written_meanwhile(site: Site) -> None:
    nodes = await site.nodes(3)
    seen: list[int] = []

    async def write() -> None:
        await together(record(nodes[number % 2], "tk") for number in range(40))

    async def follow() -> None:
        while len(seen) < 40:
            seen.extend(event.id for event in await after(nodes[2], seen[-1] if seen else 0))

    await together([write(), follow()])
    assert seen == list(range(1, 41))


async def test_an_event_is_undone_with_its_change_and_leaves_no_gap(store: Store) -> None:
    async def change_that_fails(tx: Transaction) -> None:
        await events.record(tx, NOW, "token.invalid", "tk_1")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.database.write(change_that_fails)
    await record(store, "tk_2")
    assert [(event.id, event.subject) for event in await after(store, 0)] == [(1, "tk_2")]


async def test_long_histories_are_read_a_page_at_a_time(store: Store) -> None:
    async def many(tx: Transaction) -> None:
        for number in range(events.PAGE + 5):
            await events.record(tx, NOW, "token.invalid", f"tk_{number}")

    await store.database.write(many)
    assert [event.id for event in await after(store, 0)] == list(range(1, events.PAGE + 1))
    assert len(await after(store, events.PAGE)) == 5
    newest = await store.database.read(events.latest)
    assert [event.id for event in newest] == list(range(events.PAGE + 5, 5, -1))


async def test_a_readers_place_only_goes_forward(store: Store) -> None:
    assert await position(store) == 0
    await move(store, 7)
    await move(store, 3)
    assert await position(store) == 7


async def test_a_readers_place_moved_by_several_nodes_is_the_furthest(site: Site) -> None:
    nodes = await site.nodes(4)
    await together(move(nodes[to % 4], to) for to in (5, 2, 9, 4, 8, 1))
    assert await position(nodes[0]) == 9


async def test_a_counter_started_by_several_nodes_at_once_gives_each_number_once(site: Site) -> None:
    nodes = await site.nodes(4)

    async def bump(store: Store, name: str) -> int:
        return await store.database.write(lambda tx: events.bump(tx, name))

    for name in ("first", "second", "third"):
        assert sorted(await together([bump(store, name) for store in nodes])) == [1, 2, 3, 4]


async def test_where_the_events_that_are_kept_begin(store: Store) -> None:
    async def kept_from() -> int:
        return await store.database.read(lambda tx: events.kept_from(tx, newest=3))

    for subject in ("tk_1", "tk_2", "tk_3"):
        await record(store, subject)
    assert await kept_from() == 1
    await store.database.write(lambda tx: events.prune(tx, NOW + 1, 2))
    assert await kept_from() == 3
    await store.database.write(lambda tx: events.prune(tx, NOW + 1, 2))
    assert await kept_from() == 4
