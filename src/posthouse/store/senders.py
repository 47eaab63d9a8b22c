"""What mailboxes may send as, as far as their providers have said."""

from sqlalchemy import bindparam, or_, select, update

from posthouse.model.sender import Learnt
from posthouse.store import events
from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Transaction
from posthouse.store.tables import sender

_all = select(sender).order_by(sender.c.address)
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
    found: dict[str, tuple[Learnt, ...]] = {}
    for row in await tx.all(_all):
        learnt = Learnt(row["address"], row["state"], row["answer"], row["since"])
        found[row["mailbox_id"]] = (*found.get(row["mailbox_id"], ()), learnt)
    return found
