"""Which node sends for which mailbox, on both databases."""

from collections import Counter
from itertools import pairwise

import pytest
from sqlalchemy import bindparam, update

from posthouse.store import configuration, leases
from posthouse.store.database import Transaction
from posthouse.store.opening import Store
from posthouse.store.tables import node
from tests.contract.making import Site, add_mailboxes, take, together

_expire = update(node).where(node.c.id == bindparam("node_id")).values(expires_at=1.0)
MAILBOXES = [f"mb_{number:03}" for number in range(200)]


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def beat(store: Store, node_id: str) -> None:
    await store.database.write(lambda tx: leases.beat(tx, node_id))


async def dies(store: Store, node_id: str) -> None:
    """Its last heartbeat is longer ago than ALIVE seconds."""
    await store.database.write(lambda tx: tx.run(_expire, node_id=node_id))


async def held(store: Store, node_id: str) -> dict[str, int]:
    return await store.database.read(lambda tx: leases.held(tx, node_id))


@pytest.mark.parametrize("count", [2, 4])
async def test_nodes_that_claim_at_once_never_get_the_same_mailbox(site: Site, count: int) -> None:
    nodes = await site.nodes(count)
    await add_mailboxes(nodes[0], *MAILBOXES)
    names = [f"node-{number}" for number in range(count)]
    taken = await together(take(store, name) for store, name in zip(nodes, names, strict=True))
    assert Counter(mailbox for each in taken for mailbox in each) == Counter(MAILBOXES)
    assert [await held(nodes[0], name) for name in names] == taken


async def test_nodes_that_claim_in_small_portions_share_everything_once(site: Site) -> None:
    nodes = await site.nodes(4)
    await add_mailboxes(nodes[0], *MAILBOXES[:60])

    async def take_all(store: Store, name: str) -> list[str]:
        mine: list[str] = []
        while portion := await take(store, name, at_most=5):
            assert len(portion) <= 5
            mine += portion
        return mine

    taken = await together(take_all(store, f"node-{number}") for number, store in enumerate(nodes))
    assert Counter(mailbox for each in taken for mailbox in each) == Counter(MAILBOXES[:60])


async def test_a_restarted_node_takes_its_own_back_at_once(store: Store) -> None:
    await add_mailboxes(store, "mb_1", "mb_2")
    before = await take(store, "node-1")
    assert await take(store, "node-1") == {}
    after = await take(store, "node-1", own=True)
    assert after == {mailbox: epoch + 1 for mailbox, epoch in before.items()}


async def test_a_living_node_keeps_its_mailboxes(site: Site) -> None:
    first, second = await site.nodes(2)
    await add_mailboxes(first, "mb_1")
    mine = await take(first, "node-1")
    assert await take(second, "node-2") == await take(second, "node-2", own=True) == {}
    assert await held(second, "node-1") == mine


async def test_a_dead_nodes_mailboxes_are_taken_when_its_heartbeat_ran_out(site: Site) -> None:
    nodes = await site.nodes(3)
    await add_mailboxes(nodes[0], *MAILBOXES[:40])
    old = await take(nodes[0], "node-0")
    await dies(nodes[0], "node-0")
    taken = await together(take(store, f"node-{number}") for number, store in enumerate(nodes) if number)
    assert Counter(mailbox for each in taken for mailbox in each) == Counter(MAILBOXES[:40])
    assert all(epoch == old[mailbox] + 1 for each in taken for mailbox, epoch in each.items())
    assert await held(nodes[0], "node-0") == {}


async def test_a_node_that_wakes_up_too_late_gets_nothing_back(site: Site) -> None:
    first, second = await site.nodes(2)
    await add_mailboxes(first, "mb_1")
    await take(first, "node-1")
    await dies(first, "node-1")
    assert await take(second, "node-2") == {"mb_1": 2}
    assert await take(first, "node-1", own=True) == {}


async def test_a_node_that_leaves_gives_everything_back(site: Site) -> None:
    first, second = await site.nodes(2)
    await add_mailboxes(first, "mb_1", "mb_2")
    await take(first, "node-1")
    await first.database.write(lambda tx: leases.leave(tx, "node-1"))
    assert await held(first, "node-1") == {}
    assert set(await take(second, "node-2")) == {"mb_1", "mb_2"}


async def test_every_change_of_hands_has_a_higher_epoch(store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    seen = [0]
    for number in range(6):
        seen.append((await take(store, f"node-{number}"))["mb_1"])
        await dies(store, f"node-{number}")
    assert all(earlier < later for earlier, later in pairwise(seen))


async def test_the_first_heartbeats_of_a_node_may_come_at_once(site: Site) -> None:
    nodes = await site.nodes(4)
    await together(beat(store, "node-1") for store in nodes)
    await add_mailboxes(nodes[0], "mb_1")
    assert await take(nodes[1], "node-1") == {"mb_1": 1}


async def test_changing_a_mailbox_keeps_its_lease(store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    mine = await take(store)

    async def work(tx: Transaction) -> None:
        await configuration.save(tx, "mailbox", "mb_1", document='{"sender_name":"Support"}')

    await store.database.write(work)
    assert await held(store, "node-1") == mine


# Mailboxes that are counted as one account


@pytest.mark.parametrize("count", [2, 4])
async def test_mailboxes_of_one_account_are_taken_by_one_node(site: Site, count: int) -> None:
    nodes = await site.nodes(count)
    await add_mailboxes(nodes[0], *MAILBOXES[:60])
    leaders = {mailbox: MAILBOXES[number % 10] for number, mailbox in enumerate(MAILBOXES[:60]) if number >= 10}
    for _ in range(2):
        await together(take(store, f"node-{n}", at_most=25, leaders=leaders) for n, store in enumerate(nodes))
    holders = {mailbox: n for n in range(count) for mailbox in await held(nodes[0], f"node-{n}")}
    assert all(holders[mailbox] == holders[leader] for mailbox, leader in leaders.items() if mailbox in holders)
    assert len(holders) >= 50


async def test_a_mailbox_follows_the_one_it_is_counted_with(site: Site) -> None:
    first, second = await site.nodes(2)
    await add_mailboxes(first, "mb_1", "mb_2")
    both = {"mb_2": "mb_1"}
    await take(first, "node-1", at_most=1)
    assert await take(second, "node-2", leaders=both) == {}
    assert set(await take(first, "node-1", leaders=both)) == {"mb_2"}
    await first.database.write(lambda tx: leases.give_up(tx, "node-1", "mb_2"))
    assert set(await held(first, "node-1")) == {"mb_1"}
    await dies(first, "node-1")
    assert set(await take(second, "node-2", leaders=both)) == {"mb_1", "mb_2"}


async def test_what_a_dead_node_may_not_have_written_down_is_known(site: Site) -> None:
    first, second = await site.nodes(2)

    async def missing(store: Store, node_id: str) -> float | None:
        return await store.database.read(lambda tx: leases.paced_until(tx, node_id))

    await first.database.write(lambda tx: leases.beat(tx, "node-1", paced_at=1000.0))
    await second.database.write(lambda tx: leases.beat(tx, "node-2", paced_at=2000.0))
    assert (await missing(first, "node-1"), await missing(second, "node-2")) == (1000.0, 2000.0)
    await dies(first, "node-1")
    assert await missing(second, "node-2") == 1000.0
    await first.database.write(lambda tx: leases.leave(tx, "node-1"))
    await second.database.write(lambda tx: leases.leave(tx, "node-2"))
    assert await missing(second, "node-2") is None
