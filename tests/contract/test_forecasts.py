"""Warnings before an end, on both databases: each distance once, whichever node comes first."""

import random
from dataclasses import replace

import pytest

from posthouse.model.forecast import DAY, HOUR, Ending, Ends, Lifetimes, of_grant
from posthouse.model.token import Grant, TokenState
from posthouse.services.directory import Directory
from posthouse.services.forewarning import Forewarning
from posthouse.store import configuration, events, forecasts, tokens
from posthouse.store.database import Transaction
from posthouse.store.events import Event
from posthouse.store.opening import Store
from tests.contract.making import NOW, Site, consent, together

SECRET_ENDS = 1_801_440_000.0
"""2027-02-01, 16 and two thirds of a day after NOW."""


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def office(store: Store, **document: object) -> None:
    """An app registration with two mailboxes that share a token."""

    async def work(tx: Transaction) -> None:
        known = {"secret_expires": "2027-02-01"} | document
        app = {"name": "office", "provider": "google", "client_id": "1", "document": configuration.encode(known)}
        await configuration.save(tx, "app", "ap_1", **app)
        for address in ("alice@example.com", "sales@example.com"):
            columns = {"address": address, "app_id": "ap_1", "token_id": "tk_1", "document": "{}"}
            await configuration.save(tx, "mailbox", f"mb_{address[0]}", **columns)

    await store.database.write(work)


async def acquired(store: Store) -> str:
    """The token of alice, acquired at NOW."""

    async def work(tx: Transaction) -> str:
        token = await tokens.ensure(tx, "ap_1", "alice@example.com", "main", NOW)
        await tokens.add_grant(tx, store.sealer, consent(token_id=token.id))
        await tokens.point(tx, token, serving="gr_1", pending=None, pinned=None)
        await tokens.set_state(tx, token.id, TokenState.ACQUIRED, NOW)
        await configuration.share_token(tx, "mb_a", token.id)
        return token.id

    return await store.database.write(work)


async def told(store: Store) -> list[Event]:
    found = await store.database.read(lambda tx: events.after(tx, 0))
    return [event for event in found if event.kind == "token.expiring"]


def watcher(store: Store, now: float) -> Forewarning:
    return Forewarning(store, Directory(store), lambda: now)


async def give(store: Store, ending: Ending, distance: int) -> bool:
    return await store.database.write(lambda tx: forecasts.give(tx, "ap_1", ending, distance))


async def test_a_warning_names_what_ends_and_whom_it_stops(store: Store) -> None:
    await office(store)
    assert await watcher(store, NOW).look() == 1
    (event,) = await told(store)
    assert (event.at, event.subject) == (NOW, "ap_1")
    assert event.document == {
        "what": "client_secret",
        "name": "office",
        "ends_at": SECRET_ENDS,
        "days_left": 17,
        "next_step": "renew_secret",
        "mailboxes": ["alice@example.com", "sales@example.com"],
        "count": 2,
    }


async def test_each_distance_is_told_once_however_often_one_looks(store: Store) -> None:
    await office(store)
    for days in (80, 61, 60, 59, 30, 29.5, 14, 7, 6, 3, 1, 0.5, 0, -5):
        await watcher(store, SECRET_ENDS - days * DAY).look()
    assert [event.document["days_left"] for event in await told(store)] == [60, 30, 14, 7, 3, 1]


async def test_many_nodes_that_look_at_the_same_moment_tell_it_once(site: Site) -> None:
    nodes = await site.nodes(5)
    await office(nodes[0])
    counts = await together(watcher(node, NOW).look() for node in nodes for _ in range(3))
    assert sum(counts) == 1
    assert len(await told(nodes[0])) == 1


async def test_a_gateway_that_was_off_tells_only_the_nearest_distance(store: Store) -> None:
    await office(store)
    await watcher(store, SECRET_ENDS - 31 * DAY).look()
    await watcher(store, SECRET_ENDS - 6 * DAY).look()
    assert [event.document["days_left"] for event in await told(store)] == [31, 6]


async def test_a_node_with_a_slow_clock_does_not_tell_a_distance_again(site: Site) -> None:
    first, second = await site.nodes(2)
    await office(first)
    await watcher(first, SECRET_ENDS - 14 * DAY).look()
    await watcher(second, SECRET_ENDS - 14 * DAY - 60).look()
    assert len(await told(first)) == 1


async def test_a_new_date_begins_anew(store: Store) -> None:
    await office(store)
    await watcher(store, NOW).look()
    await office(store, secret_expires="2027-12-01")
    assert await watcher(store, NOW + DAY).look() == 0
    assert await watcher(store, NOW + 300 * DAY).look() == 1
    assert [event.document["days_left"] for event in await told(store)] == [17, 20]


async def test_what_was_concluded_from_an_older_configuration_is_not_told(store: Store) -> None:
    await office(store)
    watching = watcher(store, NOW)
    await watching.directory.refresh()
    snapshot = watching.directory.now
    (due,) = [found async for found in watching._due(snapshot, NOW)]
    await office(store, secret_expires="2027-12-01")
    assert not await watching._give(due, snapshot, NOW)
    assert await told(store) == []


async def test_an_end_that_is_named_anew_a_little_later_is_the_same_one(store: Store) -> None:
    assert await give(store, Ending(NOW, Ends.CONSENT), 7)
    assert not await give(store, Ending(NOW + 3600, Ends.CONSENT), 7)
    assert not await give(store, Ending(NOW - 3600, Ends.CONSENT), 14)
    assert await give(store, Ending(NOW + DAY, Ends.CONSENT), 7)
    assert await give(store, Ending(NOW + DAY, Ends.TEST_MODE), 7)


async def test_a_registration_that_nobody_uses_ends_unnoticed(store: Store) -> None:
    await office(store)
    for mailbox in ("mb_a", "mb_s"):
        await store.database.write(lambda tx, of=mailbox: configuration.remove(tx, "mailbox", of))  # type: ignore[misc]
    assert await watcher(store, NOW).look() == 0


async def test_a_token_in_test_mode_is_told_and_only_for_its_own_mailboxes(store: Store) -> None:
    await office(store, secret_expires="", testing=True)
    token_id = await acquired(store)
    for days in (0.0, 1, 5, 6.5):
        await watcher(store, NOW + days * DAY).look()
    found = await told(store)
    assert {event.subject for event in found} == {token_id}
    assert [(event.document["what"], event.document["days_left"]) for event in found] == [
        ("test_mode", 7),
        ("test_mode", 2),
        ("test_mode", 1),
    ]
    assert found[0].document["mailboxes"] == ["alice@example.com"]


async def test_a_token_that_is_not_acquired_ends_no_more(store: Store) -> None:
    await office(store, secret_expires="", testing=True)
    token_id = await acquired(store)
    await store.database.write(lambda tx: tokens.set_state(tx, token_id, TokenState.INVALID, NOW, "revoked"))
    assert await watcher(store, NOW).look() == 0


async def test_tokens_beyond_the_first_page_are_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "_page", forecasts._page.limit(1))
    await office(store, secret_expires="", testing=True)
    await acquired(store)

    async def work(tx: Transaction) -> None:
        token = await tokens.ensure(tx, "ap_1", "sales@example.com", "main", NOW)
        await tokens.add_grant(tx, store.sealer, consent("gr_2", token.id))
        await tokens.point(tx, token, serving="gr_2", pending=None, pinned=None)
        await tokens.set_state(tx, token.id, TokenState.ACQUIRED, NOW)
        await configuration.share_token(tx, "mb_s", token.id)

    await store.database.write(work)
    assert await watcher(store, NOW).look() == 2


async def test_what_is_gone_is_forgotten(store: Store) -> None:
    await office(store)
    await watcher(store, NOW).look()
    assert len(await store.database.read(forecasts.given)) == 1
    await store.database.write(lambda tx: configuration.remove(tx, "app", "ap_1"))
    await watcher(store, NOW).look()
    assert await store.database.read(forecasts.given) == {}


GOOGLE = Lifetimes(idle_days=180, testing_days=7)
UNTIL = NOW + 60 * DAY


def any_grant(number: int, chance: random.Random) -> Grant:
    """As providers and outages leave them: named ends that move or do not, failures, renewals that were given up."""
    obtained = NOW - chance.choice((HOUR, 3 * DAY, 100 * DAY, 250 * DAY))
    refreshed = obtained + chance.random() * (NOW - obtained)
    told = obtained + chance.choice((7 * DAY, 30 * DAY, 110 * DAY, 400 * DAY)) if chance.random() < 0.6 else 0.0
    latest = chance.choice((told, told + refreshed - obtained, refreshed + 2 * DAY)) if told else 0.0
    failures = chance.choice((0, 0, 3))
    return replace(
        consent(f"gr_{number:03}", f"tk_{number:03}"),
        obtained_at=obtained,
        refreshed_at=refreshed,
        told_end=told,
        latest_end=latest,
        failures=failures,
        next_refresh_at=chance.choice((0.0, NOW + HOUR if failures else refreshed + chance.choice((HOUR, 5 * DAY)))),
    )


async def test_what_may_end_is_found_among_all_that_serve(store: Store) -> None:
    chance = random.Random(5)
    grants = [any_grant(number, chance) for number in range(400)]

    async def work(tx: Transaction) -> None:
        for number, grant in enumerate(grants):
            made = await tokens.ensure(tx, "ap_1", f"p{number:03}@example.com", "main", NOW)
            named = replace(grant, token_id=made.id)
            await tokens.add_grant(tx, store.sealer, named)
            for _ in range(grant.failures):
                await tx.run(tokens._postpone, row_id=grant.id, seen_serial=1, seen_epoch=0, error="503",
                             new_next=grant.next_refresh_at)  # fmt: skip
            await tokens.point(tx, made, serving=grant.id, pending=None, pinned=None)
            await tokens.set_state(tx, made.id, TokenState.ACQUIRED, NOW)

    await store.database.write(work)
    every = await store.database.read(forecasts.serving)
    assert len(every) == 400
    ends = {one.account for one in every if any(end.at <= UNTIL for end in of_grant(one.course, GOOGLE))}
    before = UNTIL - 180 * DAY
    found = await store.database.read(lambda tx: forecasts.may_end(tx, UNTIL, before, []))
    assert 50 < len(ends) < 350
    assert ends <= {one.account for one in found}
    assert len(await store.database.read(lambda tx: forecasts.may_end(tx, UNTIL, before, ["ap_1"]))) == 400
    assert len({one.token_id for one in found}) == len(found), "each once"
    assert await store.database.read(tokens.failures) == sum(grant.failures for grant in grants)
