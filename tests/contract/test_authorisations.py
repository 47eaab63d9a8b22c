"""Attempts to get a token, on both databases."""

from dataclasses import replace

import pytest
from sqlalchemy import bindparam, select, update

from posthouse.store import authorisations
from posthouse.store.authorisations import Authorisation
from posthouse.store.database import Row
from posthouse.store.opening import Store
from posthouse.store.tables import authorisation
from tests.contract.making import NOW, Site, together

_raw = select(authorisation).where(authorisation.c.id == bindparam("row_id"))
_spoil = update(authorisation).where(authorisation.c.id == bindparam("row_id")).values(sealed=bindparam("new"))
ATTEMPT = Authorisation(
    id="au_1",
    mailbox_id="mb_1",
    token_id="tk_1",
    method="device",
    state="started",
    reason="",
    detail="",
    cookie_hash="",
    user_code="WDJB-MJHT",
    verification_uri="https://id.example.com/device",
    verification_uri_complete="https://id.example.com/device?user_code=WDJB-MJHT",
    created_at=NOW,
    expires_at=NOW + 900,
    poll_at=NOW + 5,
    poll_interval=5.0,
    grant_id=None,
    version=0,
    secrets={"device_code": "GmRhmhcxhwAzkoEqiMEg"},
)


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def add(store: Store, new: Authorisation = ATTEMPT, start_hash: str | None = None) -> Authorisation:
    await store.database.write(lambda tx: authorisations.add(tx, store.sealer, new, start_hash=start_hash))
    return await get(store, new.id)


async def get(store: Store, row_id: str = "au_1") -> Authorisation:
    found = await store.database.read(lambda tx: authorisations.get(tx, store.sealer, row_id))
    assert found is not None
    return found


async def by_state(store: Store, state_hash: str) -> Authorisation | None:
    return await store.database.read(lambda tx: authorisations.by_state(tx, store.sealer, state_hash))


async def by_start(store: Store, start_hash: str) -> Authorisation | None:
    return await store.database.read(lambda tx: authorisations.by_start(tx, store.sealer, start_hash))


async def to_poll(store: Store, now: float) -> list[str]:
    found = await store.database.read(lambda tx: authorisations.to_poll(tx, store.sealer, now))
    return [each.id for each in found]


async def claim_poll(store: Store, seen: Authorisation, next_poll: float = NOW + 10) -> bool:
    return await store.database.write(lambda tx: authorisations.claim_poll(tx, seen, next_poll))


async def advance(store: Store, seen: Authorisation, state: str, **changes: object) -> bool:
    return await store.database.write(lambda tx: authorisations.advance(tx, seen, state, **changes))


async def set_out(store: Store, seen: Authorisation, number: int = 1, start_hash: str | None = None) -> bool:
    changed = replace(seen, cookie_hash=f"cookie-{number}", secrets={"verifier": f"verifier-{number}"})
    return await store.database.write(
        lambda tx: authorisations.set_out(
            tx, store.sealer, seen, changed, state_hash=f"state-{number}", start_hash=start_hash
        )
    )


async def permit(store: Store, seen: Authorisation, grant_id: str = "gr_1") -> bool:
    return await store.database.write(
        lambda tx: authorisations.permit(
            tx, store.sealer, seen, grant_id=grant_id, secrets={"nonce": "n"}, poll_at=NOW + 1
        )
    )


async def test_an_attempt_is_read_as_it_was_begun(store: Store) -> None:
    assert await add(store) == ATTEMPT
    assert await store.database.read(lambda tx: authorisations.get(tx, store.sealer, "au_2")) is None


async def test_its_secrets_neither_lie_open_nor_are_shown(store: Store) -> None:
    begun = await add(store)
    row: Row | None = await store.database.read(lambda tx: tx.one(_raw, row_id="au_1"))
    assert row is not None
    assert not any("GmRhmhcx" in str(value) for value in dict(row).values())
    assert "GmRhmhcx" not in repr(begun)


async def test_the_start_page_is_found_and_works_once(store: Store) -> None:
    begun = await add(store, start_hash="start-1")
    assert await by_start(store, "start-1") == begun
    assert await by_start(store, "start-2") is None
    assert await set_out(store, begun)
    assert not await set_out(store, begun, 2)
    assert await by_start(store, "start-1") is None
    opened = await by_state(store, "state-1")
    assert opened is not None
    assert (opened.id, opened.cookie_hash, opened.secrets) == ("au_1", "cookie-1", {"verifier": "verifier-1"})


async def test_a_start_page_that_stays_leads_to_the_newest_sign_in_only(store: Store) -> None:
    assert await set_out(store, await add(store, start_hash="start-1"), 1, "start-1")
    again = await by_start(store, "start-1")
    assert again is not None
    assert await set_out(store, again, 2, "start-1")
    assert await by_state(store, "state-1") is None
    newest = await by_state(store, "state-2")
    assert newest is not None
    assert (newest.cookie_hash, newest.secrets) == ("cookie-2", {"verifier": "verifier-2"})


async def test_a_start_page_opened_twice_at_once_opens_for_one(site: Site) -> None:
    nodes = await site.nodes(4)
    begun = await add(nodes[0], start_hash="start-1")
    opened = await together(set_out(store, begun, number) for number, store in enumerate(nodes))
    assert opened.count(True) == 1
    assert (await get(nodes[0])).cookie_hash == f"cookie-{opened.index(True)}"


async def test_a_permission_is_taken_once_and_its_state_is_worth_nothing_afterwards(site: Site) -> None:
    nodes = await site.nodes(2)
    begun = await add(nodes[0], start_hash="start-1")
    await set_out(nodes[0], begun)
    seen = await get(nodes[0])
    permitted = await together(permit(store, seen, f"gr_{number}") for number, store in enumerate(nodes))
    assert sorted(permitted) == [False, True]
    found = await get(nodes[0])
    assert (found.state, found.grant_id, found.secrets) == ("permitted", f"gr_{permitted.index(True)}", {"nonce": "n"})
    assert await by_state(nodes[0], "state-1") is None


async def test_what_is_due_is_looked_after_by_one(site: Site) -> None:
    nodes = await site.nodes(4)
    begun = await add(nodes[0])
    assert await to_poll(nodes[0], NOW + 4) == []
    assert await to_poll(nodes[0], NOW + 5) == ["au_1"]
    turns = await together(claim_poll(store, begun) for store in nodes)
    assert turns.count(True) == 1
    assert await to_poll(nodes[0], NOW + 9) == []
    assert await to_poll(nodes[0], NOW + 10) == ["au_1"]


async def test_only_one_of_two_racers_advances(site: Site) -> None:
    nodes = await site.nodes(2)
    begun = await add(nodes[0])
    ends = ("done", "refused")
    moved = await together(advance(store, begun, end) for store, end in zip(nodes, ends, strict=True))
    assert sorted(moved) == [False, True]
    assert (await get(nodes[0])).state == ends[moved.index(True)]


async def test_advancing_keeps_what_it_does_not_name(store: Store) -> None:
    begun = await add(store)
    assert await advance(store, begun, "proving", reason="unreachable", poll_at=NOW + 60, poll_interval=10.0)
    found = await get(store)
    assert found == replace(
        begun, state="proving", reason="unreachable", poll_at=NOW + 60, poll_interval=10.0, version=found.version
    )


@pytest.mark.parametrize("end", ["done", "refused", "expired"])
async def test_what_has_ended_stays_ended(store: Store, end: str) -> None:
    begun = await add(store)
    assert await advance(store, begun, end)
    ended = await get(store)
    assert not await advance(store, ended, "proving")
    assert not await claim_poll(store, ended)
    assert not await permit(store, ended)
    assert await to_poll(store, NOW + 1000) == []
    assert await store.database.read(lambda tx: authorisations.open_ones(tx, store.sealer)) == []
    assert (await get(store)).state == end


async def test_the_attempts_of_a_mailbox_are_listed_newest_first(store: Store) -> None:
    for number in range(25):
        await add(store, replace(ATTEMPT, id=f"au_{number}", created_at=NOW + number))
    await add(store, replace(ATTEMPT, id="au_other", mailbox_id="mb_2"))
    found = await store.database.read(lambda tx: authorisations.of_mailbox(tx, store.sealer, "mb_1"))
    assert [each.id for each in found] == [f"au_{number}" for number in range(24, 4, -1)]


async def waits(store: Store, now: float) -> bool:
    return await store.database.read(lambda tx: authorisations.waits(tx, ATTEMPT.token_id, now))


async def test_a_token_is_waited_for_until_the_sign_in_has_expired_or_what_came_of_it_has_ended(store: Store) -> None:
    assert not await waits(store, NOW)
    begun = await add(store)
    assert await waits(store, ATTEMPT.expires_at - 1)
    assert not await waits(store, ATTEMPT.expires_at)
    assert await permit(store, begun)
    assert await waits(store, ATTEMPT.expires_at + 9000)
    assert await advance(store, await get(store), "refused")
    assert not await waits(store, NOW)


async def test_an_attempt_that_cannot_be_opened_is_told_without_its_secrets(store: Store) -> None:
    await add(store, replace(ATTEMPT, id="au_2"))
    await add(store)
    await store.database.write(lambda tx: tx.run(_spoil, row_id="au_2", new=b"spoilt"))
    found = await store.database.read(lambda tx: authorisations.to_poll(tx, store.sealer, NOW + 5))
    assert {each.id: each.secrets for each in found} == {"au_1": ATTEMPT.secrets, "au_2": {}}
