"""What accounts and devices have used, on both databases."""

import pytest

from posthouse.model.message import MessageState, Recipient
from posthouse.store import journal, messages, paces
from posthouse.store.opening import Store
from tests.contract.making import NOW, Site, accept, claim, claim_one, finish, held_mailbox, shown


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def save(store: Store, now: float, **documents: paces.Document) -> None:
    await store.database.write(lambda tx: paces.save(tx, documents, now))


async def test_what_is_written_down_is_read_by_whoever_comes_next(site: Site) -> None:
    first, second = await site.nodes(2)
    await save(first, NOW, alice={"minute": {"1": 3}}, bob={})
    await save(second, NOW + 1, alice={"minute": {"1": 4}})
    found = await first.database.read(lambda tx: paces.load(tx, ("alice", "bob", "carol")))
    assert found == {"alice": ({"minute": {"1": 4}}, NOW + 1), "bob": ({}, NOW)}


async def test_what_was_handed_over_stands_in_the_journal(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", "m2", "m3")
    one, two, three = await claim(store, epoch)
    await finish(store, one, MessageState.SENT, now=NOW + 1)
    await finish(store, two, MessageState.QUEUED, Recipient("bob@example.org"), kind="delayed", now=NOW + 2)
    await store.database.write(
        lambda tx: messages.progress(tx, three, NOW + 3, three.message.recipients, answer="250 OK", taken=500)
    )
    found = await store.database.read(lambda tx: journal.handed_over(tx, NOW))
    assert [(line.at, line.mailbox_id, line.recipients) for line in found] == [
        (NOW + 1, "mb_1", 1),
        (NOW + 3, "mb_1", 500),
    ]
    assert await store.database.read(lambda tx: journal.handed_over(tx, NOW + 3)) == []


async def test_what_was_accepted_from_a_device_is_counted_from_where_it_was_left_off(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "STRETCH", 2)
    await held_mailbox(store)

    async def accepted(since: float, known: int = 0, device: str = "printer") -> tuple[list[float], int]:
        return await store.database.read(lambda tx: journal.accepted_from(tx, device, since, known))

    assert await accepted(0.0) == ([], 0)
    for number in range(7):
        await accept(store, f"m{number}", now=NOW + number)
    found, upto = await accepted(NOW + 2)
    assert found == [NOW + 3, NOW + 4, NOW + 5, NOW + 6]
    assert await accepted(NOW, known=upto) == ([], upto)
    await accept(store, "m8", now=NOW + 8)
    assert (await accepted(NOW, known=upto))[0] == [NOW + 8]
    assert (await accepted(0.0, device="scanner"))[0] == []


# What waits for its day, and what waits for another message


async def test_mail_waits_with_the_cause_and_may_go_on_earlier(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", "m2")

    async def postpone() -> int:
        return await store.database.write(lambda tx: messages.postpone(tx, "mb_1", NOW, NOW + 500, "used up"))

    assert await postpone() == 2
    assert await postpone() == 0
    assert await claim(store, epoch, now=NOW + 499) == []
    waiting = await shown(store, "m1")
    assert (waiting.cause, waiting.next_at, waiting.attempts) == ("used up", NOW + 500, 0)
    await store.database.write(lambda tx: messages.resume(tx, "mb_1", NOW + 10, NOW + 500))
    assert (await shown(store, "m1")).cause == ""
    assert len(await claim(store, epoch, now=NOW + 10)) == 2


async def in_order(store: Store, epoch: int, order: str, now: float) -> list[str]:
    claims = await store.database.write(lambda tx: messages.claim(tx, "mb_1", "node-1", epoch, now, 10, order))
    return [claim.message.id for claim in claims]


@pytest.mark.parametrize("order", ["mailbox", "device"])
async def test_nothing_overtakes_what_has_still_to_wait(store: Store, order: str) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", "m2", "m3")
    first = await claim_one(store, epoch)
    assert first.message.id == "m1"
    await finish(store, first, MessageState.QUEUED, Recipient("bob@example.org"), kind="delayed")
    assert await in_order(store, epoch, order, NOW + 60) == []
    assert await in_order(store, epoch, order, NOW + 70) == ["m1", "m2", "m3"]


async def test_a_part_that_was_taken_is_remembered_and_the_claim_goes_on(store: Store) -> None:
    epoch = await held_mailbox(store)
    await accept(store, "m1", to=("a@example.org", "b@example.org"))
    claimed = await claim_one(store, epoch)
    half = (Recipient("a@example.org", "sent", "250 OK"), Recipient("b@example.org"))
    assert await store.database.write(lambda tx: messages.progress(tx, claimed, NOW, half, answer="250 OK", taken=1))
    assert await claim(store, epoch) == []
    await store.database.write(lambda tx: messages.recover(tx, "mb_1", NOW))
    assert (await claim_one(store, epoch)).message.waiting == ("b@example.org",)
