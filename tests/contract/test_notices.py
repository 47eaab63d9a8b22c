"""Notices and their outbox, on both databases: nothing is noted, told or called twice, whichever node comes first."""

import pytest

from posthouse.model.message import MessageState
from posthouse.model.notice import HOUR, SETTLE, About, Notice
from posthouse.services.telling import WEBHOOK
from posthouse.store import events, messages, notices
from posthouse.store.database import Transaction
from posthouse.store.notices import DONE, WAITING
from posthouse.store.opening import Store
from tests.contract.making import NOW, Site, accept, claim_one, finish, held_mailbox, together

TOPIC = "token.invalid ap_1 revoked"


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def happen(store: Store, subject: str = "mb_1", *, at: float = NOW, news: bool = False) -> None:
    about = About(subject, f"{subject}@example.com", at)
    await store.database.write(lambda tx: notices.happened(tx, at, "token.invalid", TOPIC, "revoked", about, news=news))


async def going_on(store: Store) -> list[Notice]:
    return await store.database.read(notices.going_on)


async def mend(store: Store, subject: str, at: float) -> None:
    [found] = await going_on(store)
    await store.database.write(lambda tx: notices.mend(tx, found, subject, at))


async def tell(store: Store, at: float) -> list[Notice]:
    """What this node tells."""

    async def work(tx: Transaction) -> list[Notice]:
        return [one for one in await notices.due(tx, at) if await notices.tell(tx, one, at) and one.is_news]

    return await store.database.write(work)


async def test_what_has_one_topic_is_one_notice_that_names_the_newest_first(store: Store) -> None:
    for number in range(3):
        await happen(store, f"mb_{number}", at=NOW + number)
    await happen(store, "mb_0", at=NOW + 9)
    [notice] = await going_on(store)
    assert (notice.count, notice.since, notice.due_at) == (4, NOW, NOW + SETTLE)
    assert [one.subject for one in notice.about] == ["mb_2", "mb_1", "mb_0"]


async def test_events_that_many_nodes_read_at_once_are_counted_once(site: Site) -> None:
    nodes = await site.nodes(4)

    async def read(node: Store) -> None:
        async def work(tx: Transaction) -> None:
            if await events.move(tx, "notices", 1):
                about = About("mb_1", "a@example.com", NOW)
                await notices.happened(tx, NOW, "token.invalid", TOPIC, "revoked", about)

        await node.database.write(work)

    await together(read(node) for node in nodes)
    assert [one.count for one in await going_on(nodes[0])] == [1]


async def test_it_is_told_once_by_one_node(site: Site) -> None:
    nodes = await site.nodes(4)
    await happen(nodes[0])
    assert await tell(nodes[0], NOW) == []
    told = await together(tell(node, NOW + SETTLE) for node in nodes)
    assert sorted(len(one) for one in told) == [0, 0, 0, 1]
    assert await tell(nodes[0], NOW + 9 * HOUR) == []


async def test_more_of_it_is_told_an_hour_later_and_what_is_mended_at_once(store: Store) -> None:
    await happen(store)
    await tell(store, NOW + SETTLE)
    await happen(store, "mb_2", at=NOW + 60)
    assert await tell(store, NOW + HOUR) == []
    assert [one.count for one in await tell(store, NOW + SETTLE + HOUR)] == [2]

    await mend(store, "mb_1", NOW + 2 * HOUR)
    assert len(await going_on(store)) == 1
    await mend(store, "mb_2", NOW + 2 * HOUR)
    assert await going_on(store) == []
    [over] = await tell(store, NOW + 2 * HOUR + SETTLE)
    assert over.state == "mended"
    assert await store.database.read(notices.mended) != []


async def test_what_was_never_told_is_mended_quietly(store: Store) -> None:
    await happen(store)
    await mend(store, "mb_1", NOW + 1)
    assert await tell(store, NOW + HOUR) == []


async def test_it_opens_again_within_the_hour_and_is_another_one_later(store: Store) -> None:
    await happen(store)
    await mend(store, "mb_1", NOW + 60)
    await happen(store, at=NOW + 120)
    assert [one.count for one in await going_on(store)] == [2]
    await mend(store, "mb_1", NOW + 180)
    await happen(store, at=NOW + 180 + HOUR + 1)
    assert [one.count for one in await going_on(store)] == [1]


async def test_note_taken_ends_the_reminders_until_another_mailbox_has_it(store: Store) -> None:
    await happen(store)
    [notice] = await going_on(store)
    acknowledged = [
        await store.database.write(lambda tx: notices.acknowledge(tx, notice.id, "maria", NOW, end=False))
        for _ in range(2)
    ]
    assert acknowledged == [True, False]
    await happen(store, at=NOW + 10)
    assert await store.database.read(notices.count_open) == 0
    assert await tell(store, NOW + HOUR) == []
    await happen(store, "mb_2", at=NOW + HOUR)
    assert await store.database.read(notices.count_open) == 1
    assert [one.count for one in await tell(store, NOW + HOUR + SETTLE)] == [3]


async def test_a_call_is_claimed_by_one_node_and_by_another_when_its_lease_is_over(site: Site) -> None:
    nodes = await site.nodes(4)
    put = await nodes[0].database.write(lambda tx: notices.put(tx, WEBHOOK, "{}", NOW))

    async def claim(node: Store, lease: float = 60.0) -> notices.Telling | None:
        return await node.database.write(lambda tx: notices.claim(tx, WEBHOOK, NOW, lease))

    taken = [one for one in await together(claim(node) for node in nodes) if one]
    assert [one.id for one in taken] == [put.id]
    assert await nodes[0].database.write(lambda tx: notices.settle(tx, taken[0], WAITING, next_at=NOW)) is True
    first = await claim(nodes[1], lease=-1.0)
    second = await claim(nodes[2])
    assert first is not None
    assert second is not None
    assert await nodes[1].database.write(lambda tx: notices.settle(tx, first, DONE)) is False
    assert await nodes[2].database.write(lambda tx: notices.settle(tx, second, DONE)) is True
    assert await claim(nodes[3]) is None


async def test_a_level_is_reached_once_over_all_nodes(site: Site) -> None:
    nodes = await site.nodes(4)

    async def reach(node: Store, level: int) -> bool:
        return await node.database.write(lambda tx: notices.reach(tx, "mb_1", "parked", NOW, level))

    assert sum(await together(reach(node, 1) for node in nodes)) == 1
    assert sum(await together(reach(node, 3) for node in nodes)) == 1
    assert await reach(nodes[0], 1) is False
    assert await nodes[0].database.read(notices.episodes) == {("mb_1", "parked"): 3}
    assert await nodes[0].database.write(lambda tx: notices.end_episode(tx, "mb_1", "parked")) is True
    assert await nodes[0].database.write(lambda tx: notices.end_episode(tx, "mb_1", "parked")) is False


async def test_what_is_over_is_forgotten_and_what_goes_on_is_not(store: Store) -> None:
    await happen(store)
    assert await store.database.write(lambda tx: notices.prune(tx, NOW + HOUR, 100)) == 0
    await mend(store, "mb_1", NOW + 1)
    await store.database.write(lambda tx: notices.put(tx, WEBHOOK, "{}", NOW))
    assert await store.database.write(lambda tx: notices.prune(tx, NOW + HOUR, 100)) == 2
    assert await store.database.read(notices.mended) == []


async def test_the_queue_knows_since_when_mail_waits_and_when_some_got_away(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "q1", now=NOW)
    await accept(store, "q2", now=NOW + 10)
    assert await store.database.read(messages.waits_since) == {"mb_1": NOW}
    await finish(store, await claim_one(store, epoch), MessageState.SENT, now=NOW + 20)
    assert await store.database.read(messages.waits_since) == {"mb_1": NOW + 10}
    assert await store.database.read(lambda tx: messages.was_sent_after(tx, "mb_1", NOW + 19)) is True
    assert await store.database.read(lambda tx: messages.was_sent_after(tx, "mb_1", NOW + 20)) is False

    await store.database.write(lambda tx: messages.park(tx, "mb_1", NOW + 30, "no token"))
    assert await store.database.read(messages.waits_since) == {}
    assert await store.database.read(messages.parked_since) == {"mb_1": NOW + 30}
    await store.database.write(lambda tx: messages.release(tx, "mb_1", NOW + 500))
    assert await store.database.read(messages.waits_since) == {"mb_1": NOW + 500}
