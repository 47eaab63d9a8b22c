"""Which node may send for which mailbox.

One heartbeat row a node, and an owner with an epoch on each mailbox. The claim is an ordered compare-and-set on
the mailbox's own epoch: a join with the expired node in the WHERE clause was measured to give double claims.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, delete, func, literal, or_, select, update

from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Row, Transaction
from posthouse.store.tables import mailbox, node

ALIVE = 20.0
"""Seconds a node is believed to live after a heartbeat."""
HEARTBEAT = 5.0
NOBODY: Mapping[str, str] = {}

_told: dict[str, Any] = {
    name: bindparam(f"new_{name}") for name in ("expires_at", "keys_known", "master_id", "paced_at")
}
_beat = update(node).where(node.c.id == bindparam("node_id")).values(_told)
_join = insert_if_absent(node, id=bindparam("node_id"), started_at=bindparam("started_at"), **_told)
_left_over = select(func.min(node.c.paced_at).label("earliest")).where(
    or_(node.c.id == bindparam("node_id"), node.c.expires_at <= bindparam("at")), node.c.paced_at > literal(0.0)
)
_leave = delete(node).where(node.c.id == bindparam("node_id"))
_alive = select(node).where(node.c.expires_at > bindparam("at")).order_by(node.c.id)
_holders = select(mailbox.c.id, mailbox.c.dispatch_owner, mailbox.c.dispatch_epoch).order_by(mailbox.c.id)
_take = (
    update(mailbox)
    .where(mailbox.c.id == bindparam("mailbox_id"), mailbox.c.dispatch_epoch == bindparam("epoch"))
    .values(dispatch_owner=bindparam("node_id"), dispatch_epoch=mailbox.c.dispatch_epoch + 1)
    .returning(mailbox.c.dispatch_epoch)
)
_held = select(mailbox.c.id, mailbox.c.dispatch_epoch).where(mailbox.c.dispatch_owner == bindparam("node_id"))
_give_up = (
    update(mailbox)
    .where(mailbox.c.id == bindparam("mailbox_id"), mailbox.c.dispatch_owner == bindparam("node_id"))
    .values(dispatch_owner="", dispatch_epoch=mailbox.c.dispatch_epoch + 1)
)
_release = (
    update(mailbox)
    .where(mailbox.c.dispatch_owner == bindparam("node_id"))
    .values(dispatch_owner="", dispatch_epoch=mailbox.c.dispatch_epoch + 1)
)


async def beat(tx: Transaction, node_id: str, keys_known: int = 0, master_id: str = "", paced_at: float = 0.0) -> None:
    """This node lives for another ALIVE seconds, and has these data keys from this master key.

    `paced_at`: up to then its paces are written down.
    """
    now = await tx.now()
    told = {"expires_at": now + ALIVE, "keys_known": keys_known, "master_id": master_id, "paced_at": paced_at}
    values = {f"new_{name}": value for name, value in told.items()}
    if not await tx.run(_beat, node_id=node_id, **values):
        await tx.run(_join, node_id=node_id, started_at=now, **values)


async def alive(tx: Transaction) -> list[Row]:
    """The rows of the nodes that are believed to live."""
    return await tx.all(_alive, at=await tx.now())


async def paced_until(tx: Transaction, node_id: str) -> float | None:
    """From when on paces may not be written down: by nodes that died, and by an earlier life of this one.

    None where nothing is missing, as all of them left in order.
    """
    row = await tx.one(_left_over, node_id=node_id, at=await tx.now())
    return row["earliest"] if row else None


async def leave(tx: Transaction, node_id: str) -> None:
    """Give everything back before stopping, so that others take over at once."""
    await tx.run(_release, node_id=node_id)
    await tx.run(_leave, node_id=node_id)


async def take_free(
    tx: Transaction, node_id: str, at_most: int, *, own: bool = False, leaders: Mapping[str, str] = NOBODY
) -> dict[str, int]:
    """Claim mailboxes that nobody alive holds, at most so many; the new epochs by mailbox id.

    `own`: also those this node itself holds, as a process does that was started again and knows nothing of them.
    `leaders`: who goes only where another mailbox is, since both send as one account and are counted together.
    """
    holders = await tx.all(_holders)
    # Only then who lives: the other way round a node that joins in between would hold mailboxes and seem dead.
    living = {row["id"] for row in await alive(tx)} | {node_id}
    free = [row for row in holders if _is_free(row["dispatch_owner"], living, node_id, own)]
    ours = {row["id"] for row in holders if row["dispatch_owner"] == node_id}
    taken: dict[str, int] = {}
    for row in sorted(free, key=lambda row: row["id"] in leaders)[:at_most]:
        if row["id"] in leaders and leaders[row["id"]] not in ours | taken.keys():
            continue
        got = await tx.one(_take, mailbox_id=row["id"], epoch=row["dispatch_epoch"], node_id=node_id)
        if got is not None:
            taken[row["id"]] = got["dispatch_epoch"]
    return taken


def _is_free(owner: str, alive: set[str], node_id: str, own: bool) -> bool:
    return owner not in alive or (own and owner == node_id)


async def give_up(tx: Transaction, node_id: str, mailbox_id: str) -> None:
    """Somebody else is to send for this mailbox."""
    await tx.run(_give_up, node_id=node_id, mailbox_id=mailbox_id)


async def held(tx: Transaction, node_id: str) -> dict[str, int]:
    """The epochs of the mailboxes that this node holds, by mailbox id."""
    return {row["id"]: row["dispatch_epoch"] for row in await tx.all(_held, node_id=node_id)}
