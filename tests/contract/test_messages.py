"""The queue, on both databases."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from posthouse.model.message import MessageState, Recipient, Stage
from posthouse.store import applied, configuration, events, journal, messages
from posthouse.store.database import Duplicate, Transaction
from posthouse.store.ids import new_message_id
from posthouse.store.messages import Wanted
from posthouse.store.opening import Store
from tests.contract.making import (
    DEADLINE,
    NOW,
    Site,
    accept,
    add_mailboxes,
    claim,
    claim_one,
    finish,
    hand_over,
    held_mailbox,
    mail,
    shown,
    take,
    together,
)

DAY = 86_400.0


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def kinds(store: Store, queue_id: str) -> list[str]:
    lines = await store.database.read(lambda tx: journal.of_message(tx, queue_id))
    return [line.kind for line in lines]


async def counts(store: Store) -> dict[str, int]:
    return (await store.database.read(lambda tx: messages.counts_of(tx, ["mb_1"]))).get("mb_1", {})


async def event_kinds(store: Store) -> list[str]:
    return [event.kind for event in await store.database.read(lambda tx: events.after(tx, 0))]


async def recover(store: Store, now: float = NOW + 5) -> int:
    return await store.database.write(lambda tx: messages.recover(tx, "mb_1", now))


async def park(store: Store, now: float) -> int:
    return await store.database.write(lambda tx: messages.park(tx, "mb_1", now, "the token is invalid"))


async def release(store: Store, now: float) -> int:
    return await store.database.write(lambda tx: messages.release(tx, "mb_1", now))


async def retry(store: Store, queue_id: str, now: float = NOW + 100) -> bool:
    return await store.database.write(lambda tx: messages.retry(tx, queue_id, now, now + DAY))


# Accepting


async def test_what_was_accepted_is_claimed_as_it_was_given(store: Store) -> None:
    epoch = await held_mailbox(store)
    new = mail("m1", to=("bob@example.org", "jürgen@example.org"), body=bytes(range(256)))
    await store.database.write(lambda tx: messages.accept(tx, new, NOW, DEADLINE))
    message = (await claim_one(store, epoch)).message
    assert (message.id, message.mailbox_id, message.device) == ("m1", "mb_1", "printer")
    assert (message.sender, message.waiting) == ("scan@example.com", ("bob@example.org", "jürgen@example.org"))
    assert (message.smtputf8, message.eight_bit, message.size, message.pieces) == (True, False, 2_000, 0)
    assert (message.body, message.attempts) == (bytes(range(256)), 0)
    assert (message.created_at, message.deadline_at) == (NOW, DEADLINE)


async def test_an_accepted_message_is_shown_counted_and_in_the_journal(store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    await accept(store, "m1")
    summary = await shown(store, "m1")
    assert (summary.state, summary.stage, summary.subject) == (MessageState.QUEUED, Stage.WAITING, "Scanned pages")
    assert await counts(store) == {"queued": 1}
    assert await kinds(store, "m1") == await kinds(store, "<m1@example.com>") == ["accepted"]
    assert await store.database.read(lambda tx: messages.exists(tx, "m1"))
    assert not await store.database.read(lambda tx: messages.exists(tx, "m2"))


async def test_the_same_queue_id_is_not_accepted_twice(store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    await accept(store, "m1")
    with pytest.raises(Duplicate):
        await accept(store, "m1")
    assert await kinds(store, "m1") == ["accepted"]


# Claiming


@pytest.mark.parametrize("order", ["", "device", "mailbox"])
async def test_no_more_is_claimed_than_was_asked_for_however_the_database_goes_about_it(
    site: Site, store: Store, order: str
) -> None:
    epoch = await held_mailbox(store)
    await accept(store, *(f"m{number:02}" for number in range(40)))

    async def work(tx: Transaction) -> list[messages.Claim]:
        for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material") if site.url else ():
            await tx.all(text(f"SET LOCAL enable_{way} = off"))
        return await messages.claim(tx, "mb_1", "node-1", epoch, NOW, 7, order)

    assert len(await store.database.write(work)) == 7


async def test_many_claimers_get_every_message_exactly_once(site: Site) -> None:
    nodes = await site.nodes(4)
    epoch = await held_mailbox(nodes[0])
    wanted = [f"m{number:03}" for number in range(90)]
    await accept(nodes[0], *wanted)

    async def claim_all(store: Store) -> list[str]:
        mine: list[str] = []
        while claims := await claim(store, epoch, at_most=7):
            assert len(claims) <= 7
            mine += [each.message.id for each in claims]
        return mine

    taken = await together(claim_all(store) for store in nodes * 2)
    assert sorted(queue_id for mine in taken for queue_id in mine) == wanted


async def test_the_oldest_due_messages_come_first(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m3", now=NOW + 3)
    await accept(store, "m1", now=NOW + 1)
    await accept(store, "m2", now=NOW + 2)
    assert await claim(store, epoch, now=NOW) == []
    assert [each.message.id for each in await claim(store, epoch, at_most=2, now=NOW + 9)] == ["m1", "m2"]
    assert [each.message.id for each in await claim(store, epoch, now=NOW + 9)] == ["m3"]


async def test_a_node_that_lost_the_mailbox_claims_nothing(site: Site) -> None:
    first, second = await site.nodes(2)
    old = await held_mailbox(first)
    new = (await take(second, "node-1", own=True))["mb_1"]
    await accept(first, "m1")
    assert await claim(first, old) == []
    assert [each.message.id for each in await claim(second, new)] == ["m1"]


async def test_mailboxes_with_waiting_mail_are_told_with_their_first_time(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", now=NOW + 1)
    await accept(store, "m2", now=NOW + 2)
    assert await store.database.read(messages.waiting_mailboxes) == {"mb_1": NOW + 1}
    await claim(store, epoch, now=NOW + 5)
    assert await store.database.read(messages.waiting_mailboxes) == {}


# Outcomes


async def test_a_sent_message_is_kept_without_its_content(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1")
    claimed = await claim_one(store, epoch)
    assert await hand_over(store, claimed)
    assert (await shown(store, "m1")).stage is Stage.HANDING_OVER
    await finish(store, claimed, MessageState.SENT)
    summary = await shown(store, "m1")
    assert (summary.state, summary.stage, summary.attempts) == (MessageState.SENT, Stage.WAITING, 1)
    assert (summary.finished_at, summary.answer) == (NOW + 10, "the server's answer")
    assert summary.recipients == (Recipient("bob@example.org", "sent", "250 OK"),)
    assert await kinds(store, "m1") == ["accepted", "sent"]
    assert not await retry(store, "m1")


async def test_a_delayed_message_comes_again_with_its_content_when_it_is_due(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", to=("a@example.org", "b@example.org"))
    claimed = await claim_one(store, epoch)
    after = (Recipient("a@example.org", "sent", "250 OK"), Recipient("b@example.org", "waiting", "451 later"))
    await finish(store, claimed, MessageState.QUEUED, *after, kind="delayed")
    assert await claim(store, epoch, now=NOW + 69) == []
    (again,) = await claim(store, epoch, now=NOW + 70)
    assert (again.message.waiting, again.message.attempts) == (("b@example.org",), 1)
    assert again.message.body == b"sealed"


async def test_a_failed_message_is_kept_and_tells_of_itself(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1")
    await finish(store, await claim_one(store, epoch), MessageState.FAILED, kind="failed")
    assert await counts(store) == {"failed": 1}
    assert await event_kinds(store) == ["message.failed"]


@pytest.mark.parametrize("state", [MessageState.SENT, MessageState.FAILED, MessageState.QUEUED])
async def test_an_outcome_with_a_stale_epoch_is_only_written_to_the_journal(store: Store, state: MessageState) -> None:
    stale_epoch = await held_mailbox(store)
    await accept(store, "m1")
    stale = await claim_one(store, stale_epoch)
    epoch = (await take(store, own=True))["mb_1"]
    await recover(store)
    (fresh,) = await claim(store, epoch, now=NOW + 5)
    before = await shown(store, "m1")
    await finish(store, stale, state, kind="late")
    assert await shown(store, "m1") == before
    assert await kinds(store, "m1") == ["accepted", "late"]
    assert await event_kinds(store) == []
    assert await hand_over(store, fresh)


async def test_a_stale_claim_can_neither_hand_over_nor_give_back(store: Store) -> None:
    stale_epoch = await held_mailbox(store)
    await accept(store, "m1")
    stale = await claim_one(store, stale_epoch)
    await take(store, own=True)
    await recover(store)
    before = await shown(store, "m1")
    assert not await hand_over(store, stale)
    await store.database.write(lambda tx: messages.give_back(tx, stale, NOW + 500))
    assert await shown(store, "m1") == before


async def test_giving_back_spends_nothing(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1")
    claimed = await claim_one(store, epoch)
    await store.database.write(lambda tx: messages.give_back(tx, claimed, NOW + 30))
    assert await claim(store, epoch, now=NOW + 29) == []
    assert [each.message.attempts for each in await claim(store, epoch, now=NOW + 30)] == [0]


# After a crash


async def test_what_was_only_claimed_is_tried_again_as_if_nothing_had_been(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1")
    await claim_one(store, epoch)
    epoch = (await take(store, own=True))["mb_1"]
    assert await recover(store) == 0
    (again,) = await claim(store, epoch, now=NOW + 5)
    assert again.message.attempts == 0
    assert await kinds(store, "m1") == ["accepted"]


async def test_what_was_being_handed_over_has_an_unknown_outcome_and_is_tried_again(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", "m2")
    claims = await claim(store, epoch)
    assert await hand_over(store, claims[0])
    epoch = (await take(store, own=True))["mb_1"]
    assert await recover(store) == 1
    assert await kinds(store, "m1") == ["accepted", "outcome unknown"]
    assert [each.message.attempts for each in await claim(store, epoch, now=NOW + 5)] == [1, 0]


# Parking


async def test_parked_mail_waits_without_losing_time_or_attempts(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", "m2")
    assert await park(store, NOW + 10) == 2
    assert await counts(store) == {"parked": 2}
    assert await claim(store, epoch, now=NOW + 3 * DAY) == []
    assert await release(store, NOW + 10 + 3 * DAY) == 2
    claims = await claim(store, epoch, now=NOW + 10 + 3 * DAY)
    assert [(each.message.attempts, each.message.deadline_at) for each in claims] == [(0, DEADLINE + 3 * DAY)] * 2
    assert await kinds(store, "m1") == ["accepted", "parked", "released"]
    assert (await shown(store, "m1")).parked_at == 0


async def test_parking_tells_once_and_leaves_what_is_being_sent_alone(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1")
    claimed = await claim_one(store, epoch)
    assert await park(store, NOW) == 0
    assert await event_kinds(store) == []
    await accept(store, "m2")
    assert await park(store, NOW) == 1
    assert await park(store, NOW + 1) == 0
    assert await event_kinds(store) == ["message.parked"]
    await finish(store, claimed, MessageState.SENT)
    assert await counts(store) == {"sent": 1, "parked": 1}


async def test_two_nodes_that_release_at_once_write_one_line_a_message(site: Site) -> None:
    nodes = await site.nodes(2)
    await add_mailboxes(nodes[0], "mb_1")
    await accept(nodes[0], "m1", "m2", "m3")
    await park(nodes[0], NOW)
    assert sorted(await together(release(store, NOW + 60) for store in nodes)) == [0, 3]
    assert await kinds(nodes[0], "m2") == ["accepted", "parked", "released"]


# By hand


async def test_sending_again_asks_refused_recipients_once_more_and_nobody_who_has_it(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", to=("a@example.org", "b@example.org"))
    after = (Recipient("a@example.org", "sent", "250 OK"), Recipient("b@example.org", "failed", "550 no"))
    await finish(store, await claim_one(store, epoch), MessageState.FAILED, *after, kind="failed")
    assert await retry(store, "m1")
    (again,) = await claim(store, epoch, now=NOW + 100)
    assert (again.message.waiting, again.message.body) == (("b@example.org",), b"sealed")
    assert again.message.deadline_at == NOW + 100 + DAY
    assert (await shown(store, "m1")).finished_at == 0


async def test_a_parked_message_that_is_tried_again_is_no_longer_parked(store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    await accept(store, "m1")
    await park(store, NOW)
    assert await retry(store, "m1")
    summary = await shown(store, "m1")
    assert (summary.state, summary.parked_at, summary.cause) == (MessageState.QUEUED, 0, "")


async def test_what_is_being_sent_can_neither_be_retried_nor_removed(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1")
    claimed = await claim_one(store, epoch)
    assert not await retry(store, "m1")
    assert not await store.database.write(lambda tx: messages.remove(tx, "m1", NOW))
    await store.database.write(lambda tx: messages.give_back(tx, claimed, NOW))
    assert await store.database.write(lambda tx: messages.remove(tx, "m1", NOW))
    assert await kinds(store, "m1") == ["accepted", "removed"]
    assert await counts(store) == {}
    assert not await retry(store, "m1")
    assert not await retry(store, "no such message")


async def test_a_claim_and_a_removal_at_once_never_both_succeed(site: Site) -> None:
    nodes = await site.nodes(2)
    epoch = await held_mailbox(nodes[0])
    ids = [f"m{number:02}" for number in range(20)]
    await accept(nodes[0], *ids)

    async def remove(queue_id: str) -> list[str]:
        done = await nodes[1].database.write(lambda tx: messages.remove(tx, queue_id, NOW))
        return [queue_id] if done else []

    async def claim_some() -> list[str]:
        return [each.message.id for each in await claim(nodes[0], epoch, at_most=2)]

    results = await together([remove(queue_id) if turn else claim_some() for queue_id in ids for turn in (0, 1)])
    assert sorted(queue_id for each in results for queue_id in each) == ids


# Lists


async def test_lists_are_paged_newest_first(store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    ids = [f"m{number:03}" for number in range(230)]
    await accept(store, *ids)
    first = await store.database.read(messages.page)
    second = await store.database.read(lambda tx: messages.page(tx, before=first[-1].id))
    assert [each.id for each in first + second] == ids[::-1]
    assert len(first) == 200


async def test_lists_can_be_narrowed_to_a_state(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", "m2")
    await finish(store, await claim_one(store, epoch), MessageState.SENT)

    async def ids(state: str) -> list[str]:
        async def work(tx: Transaction) -> list[str]:
            return [each.id for each in await messages.page(tx, wanted=Wanted(state=state))]

        return await store.database.read(work)

    assert (await ids("sent"), await ids("queued"), await ids("failed")) == (["m1"], ["m2"], [])


async def test_mailboxes_with_parked_mail_are_found_once_each(site: Site) -> None:
    store = await site.node()
    await add_mailboxes(store, "mb_1", "mb_2")
    await accept(store, "m1", "m2")
    assert await store.database.read(messages.parked_mailboxes) == []
    await store.database.write(lambda tx: messages.park(tx, "mb_1", NOW, "no token"))
    assert await store.database.read(messages.parked_mailboxes) == ["mb_1"]


async def test_mail_for_a_mailbox_that_is_gone_is_not_accepted(site: Site) -> None:
    store = await site.node()
    with pytest.raises(messages.MailboxGone):
        await accept(store, "m1")
    assert await store.database.read(messages.page) == []


async def test_mail_accepted_while_its_mailbox_is_removed_is_counted_or_refused(site: Site) -> None:
    """Whichever comes first: what was accepted is seen by whoever removes, and what comes later is refused."""
    one, other = await site.nodes(2)
    for number in range(30):
        await add_mailboxes(one, "mb_1")

        async def remove(tx: Transaction) -> int:
            waits = await applied.waiting(tx, "mb_1")
            await configuration.remove(tx, "mailbox", "mb_1")
            return len(waits)

        accepting = accept(other, f"m{number}")
        told, counted = await asyncio.gather(accepting, one.database.write(remove), return_exceptions=True)
        accepted = not isinstance(told, messages.MailboxGone)
        assert told is None or not accepted
        assert counted == (1 if accepted else 0)
        await one.database.write(lambda tx, known=f"m{number}": messages.remove(tx, known, NOW))  # type: ignore[misc]


async def found(store: Store, **wanted: str) -> list[str]:
    page = await store.database.read(lambda tx: messages.page(tx, wanted=Wanted(**wanted)))
    return [each.id for each in page]


async def test_lists_can_be_searched_by_what_a_person_remembers(store: Store) -> None:
    await add_mailboxes(store, "mb_1", "mb_2")
    await accept(store, "m1", "m2")
    await accept(store, "m3", mailbox="mb_2")
    [first] = [each for each in await store.database.read(messages.page) if each.id == "m1"]
    assert await found(store, text=first.message_id) == ["m1"]
    assert await found(store, text="m2") == ["m2"]
    assert await found(store, text=first.recipients[0].address.upper()[:6]) == ["m3", "m2", "m1"]
    assert await found(store, text=first.subject[:4], mailbox_id="mb_2") == ["m3"]
    assert await found(store, device=first.device, mailbox_id="mb_1") == ["m2", "m1"]
    assert await found(store, text="%") == await found(store, text="_") == await found(store, text="!") == []


async def hold(store: Store, queue_id: str, now: float = NOW) -> bool:
    return await store.database.write(lambda tx: messages.hold(tx, queue_id, now))


async def test_what_a_person_parked_is_let_go_by_a_person_only(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", "m2")
    assert await hold(store, "m1")
    assert not await hold(store, "m1")
    assert [each.message.id for each in await claim(store, epoch)] == ["m2"]
    assert await store.database.read(messages.parked_mailboxes) == []
    assert await release(store, NOW + 10) == 0
    assert (await shown(store, "m1")).held
    assert await store.database.write(lambda tx: messages.retry(tx, "m1", NOW + 20, DEADLINE))
    assert not (await shown(store, "m1")).held
    assert await kinds(store, "m1") == ["accepted", "parked", "retry asked for"]


async def test_what_waits_for_a_token_can_be_parked_as_well(store: Store) -> None:
    await held_mailbox(store)
    await accept(store, "m1")
    await park(store, NOW)
    assert await hold(store, "m1", NOW + 60)
    assert await release(store, NOW + 100) == 0
    assert (await shown(store, "m1")).parked_at == NOW


async def test_what_is_being_handed_over_or_is_over_cannot_be_parked(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1")
    claimed = await claim_one(store, epoch)
    assert not await hold(store, "m1")
    await finish(store, claimed, MessageState.SENT)
    assert not await hold(store, "m1")


async def test_only_what_ended_long_ago_is_forgotten(store: Store) -> None:
    epoch = await held_mailbox(store)
    old, young, waiting = (new_message_id(NOW + number) for number in (0, 1, 2))
    await accept(store, old, young, waiting)
    for queue_id, ended in ((old, NOW + 5), (young, NOW + 500)):
        claimed = await claim_one(store, epoch)
        assert claimed.message.id == queue_id
        await finish(store, claimed, MessageState.SENT, now=ended)

    async def pruned(state: MessageState) -> list[str]:
        gone = await store.database.write(lambda tx: messages.prune(tx, state, NOW + 100, 10))
        return [queue_id for queue_id, _ in gone]

    assert await pruned(MessageState.FAILED) == []
    assert await pruned(MessageState.SENT) == [old]
    assert await pruned(MessageState.SENT) == []
    assert {each.id for each in await store.database.read(messages.page)} == {young, waiting}


async def test_the_journal_is_narrowed_and_its_oldest_lines_are_forgotten(store: Store) -> None:
    await add_mailboxes(store, "mb_1", "mb_2")
    await accept(store, "m1")
    await accept(store, "m2", mailbox="mb_2")

    async def of(**only: Any) -> list[str]:
        return [line.message for line in await store.database.read(lambda tx: journal.latest(tx, **only))]

    assert await of() == ["m2", "m1"]
    assert await of(mailbox_id="mb_1") == ["m1"]
    assert await of(mailbox_id="mb_1", device="nobody") == []
    assert await store.database.write(lambda tx: journal.prune(tx, NOW + 1, 1)) == 1
    assert await of() == ["m2"]
    assert await store.database.write(lambda tx: journal.prune(tx, NOW - 1, 10)) == 0


async def test_a_text_is_kept_as_long_as_it_may_be_sent_and_no_longer(store: Store) -> None:
    epoch = await held_mailbox(store)
    ids = sent, failed, removed, pruned = [new_message_id(NOW + number) for number in range(4)]
    await accept(store, *ids)
    for queue_id, state in ((sent, MessageState.SENT), (failed, MessageState.FAILED)):
        claimed = await claim_one(store, epoch)
        assert claimed.message.id == queue_id
        await finish(store, claimed, state)
    await store.database.write(lambda tx: messages.remove(tx, removed, NOW))
    await finish(store, await claim_one(store, epoch), MessageState.FAILED, now=NOW - 500)

    async def kept() -> list[str]:
        async def work(tx: Transaction) -> list[str]:
            return [queue_id for queue_id in ids if await messages.body_of(tx, queue_id) is not None]

        return await store.database.read(work)

    assert await kept() == [failed, pruned]
    await store.database.write(lambda tx: messages.prune(tx, MessageState.FAILED, NOW + 5, 10))
    assert await kept() == [failed]


async def test_some_mailboxes_are_counted_and_know_their_last_success(store: Store) -> None:
    epoch = await held_mailbox(store)
    await add_mailboxes(store, "mb_2", "mb_3")
    await accept(store, "a", "b", "c")
    await accept(store, "d", mailbox="mb_2")
    for number, claimed in enumerate(await claim(store, epoch, at_most=2)):
        await finish(store, claimed, MessageState.SENT, now=NOW + number)
    ids = ["mb_1", "mb_2", "mb_3"]
    assert await store.database.read(lambda tx: messages.counts_of(tx, ids)) == {
        "mb_1": {"sent": 2, "queued": 1},
        "mb_2": {"queued": 1},
    }
    assert await store.database.read(lambda tx: messages.last_sent(tx, ids)) == {"mb_1": NOW + 1}
    assert await store.database.read(messages.totals) == {"sent": 2, "queued": 2}
