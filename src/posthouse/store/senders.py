"""What mailboxes may send as, as far as their providers have said."""

from collections.abc import Iterable

from sqlalchemy import bindparam, or_, select, update

from posthouse.model.sender import Learnt
from posthouse.store import events
from posthouse.store.among import all_among, among
from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Row, Transaction
from posthouse.store.tables import sender

_all = select(sender).order_by(sender.c.address)
_among = _all.where(among(sender.c.mailbox_id))
_add = insert_if_absent(sender, mailbox_id=bindparam("mailbox"), address=bindparam("wanted"))
_change = (
    update(sender)
    .where(
        sender.c.mailbox_id == bindparam("mailbox"),
        sender.c.address == bindparam("wanted"),
        or_(sender.c.state != bindparam("new_state"), sender.c.since < bindparam("older")),
    )
    .values(state=bindparam("new_state"), answer=bindparam("new_answer"), since=bindparam("new_since"))
)


async def learn(tx: Transaction, mailbox_id: str, learnt: Learnt) -> None:
    """Write it down with an event for every node, where it is news: what is allowed keeps the time it was learnt.

    A refusal that is said again is news: how old it is decides whether devices are told of it.
    """
    await tx.run(_add, mailbox=mailbox_id, wanted=learnt.address)
    changed = await tx.run(
        _change,
        mailbox=mailbox_id,
        wanted=learnt.address,
        new_state=learnt.state,
        older=learnt.since if learnt.state == "refused" else 0.0,
        new_answer=learnt.answer,
        new_since=learnt.since,
    )
    if changed:
        await events.record(tx, learnt.since, f"sender.{learnt.state}", mailbox_id, address=learnt.address)


async def everything(tx: Transaction) -> dict[str, tuple[Learnt, ...]]:
    """By mailbox id, sorted by address."""
    return _by_mailbox(await tx.all(_all))


async def of_mailboxes(tx: Transaction, wanted: Iterable[str]) -> dict[str, tuple[Learnt, ...]]:
    """The same for some mailboxes, by their ids."""
    return _by_mailbox(await all_among(tx, _among, wanted))


def _by_mailbox(rows: Iterable[Row]) -> dict[str, tuple[Learnt, ...]]:
    found: dict[str, tuple[Learnt, ...]] = {}
    for row in rows:
        learnt = Learnt(row["address"], row["state"], row["answer"], row["since"])
        found[row["mailbox_id"]] = (*found.get(row["mailbox_id"], ()), learnt)
    return found
