"""What mailboxes may send as, on both databases."""

import asyncio

from posthouse.model.sender import Learnt
from posthouse.store import configuration, events, senders
from posthouse.store.opening import Store
from tests.contract.making import NOW, Site, add_mailboxes

SALES = "sales@example.com"
ALLOWED = Learnt(SALES, "allowed", "", NOW)


def refused(since: float) -> Learnt:
    return Learnt(SALES, "refused", "554 5.2.252 SendAsDenied", since)


async def learn(store: Store, learnt: Learnt) -> None:
    await store.database.write(lambda tx: senders.learn(tx, "mb_1", learnt))


async def known(store: Store) -> dict[str, tuple[Learnt, ...]]:
    return await store.database.read(senders.everything)


async def kinds(store: Store) -> list[str]:
    return [event.kind for event in await store.database.read(lambda tx: events.after(tx, 0))]


async def test_the_last_word_of_the_provider_is_kept_and_every_node_hears_of_it(site: Site) -> None:
    first, second = await site.nodes(2)
    await learn(first, ALLOWED)
    await learn(second, refused(NOW + 1))
    assert await known(first) == {"mb_1": (refused(NOW + 1),)}
    of_some = await first.database.read(lambda tx: senders.of_mailboxes(tx, ["mb_1", "mb_2"]))
    assert of_some == {"mb_1": (refused(NOW + 1),)}
    assert [kind for kind in await kinds(first) if kind.startswith("sender.")] == ["sender.allowed", "sender.refused"]


async def test_what_is_allowed_keeps_the_time_it_was_learnt(site: Site) -> None:
    store = await site.node()
    await learn(store, ALLOWED)
    await learn(store, Learnt(SALES, "allowed", "", NOW + 60))
    assert await known(store) == {"mb_1": (ALLOWED,)}
    assert (await kinds(store)).count("sender.allowed") == 1


async def test_a_refusal_said_again_is_as_young_as_its_last_word(site: Site) -> None:
    store = await site.node()
    await learn(store, refused(NOW))
    await learn(store, refused(NOW + 60))
    await learn(store, refused(NOW + 30))
    assert await known(store) == {"mb_1": (refused(NOW + 60),)}


async def test_two_nodes_learn_the_same_at_once(site: Site) -> None:
    nodes = await site.nodes(2)
    await asyncio.gather(*(learn(store, ALLOWED) for store in nodes))
    assert await known(nodes[0]) == {"mb_1": (ALLOWED,)}


async def test_what_was_learnt_goes_with_the_mailbox(site: Site) -> None:
    store = await site.node()
    await add_mailboxes(store, "mb_1", "mb_2")
    await learn(store, ALLOWED)
    await store.database.write(lambda tx: configuration.remove(tx, "mailbox", "mb_2"))
    assert await known(store) == {"mb_1": (ALLOWED,)}
    await store.database.write(lambda tx: configuration.remove(tx, "mailbox", "mb_1"))
    assert await known(store) == {}
