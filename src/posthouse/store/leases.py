"""Which node may send for which mailbox.

One heartbeat row a node, and an owner with an epoch on each mailbox. The claim is an ordered compare-and-set on
the mailbox's own epoch: a join with the expired node in the WHERE clause was measured to give double claims.
"""

from typing import Any

from sqlalchemy import bindparam, delete, select, update

from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Row, Transaction
from posthouse.store.tables import mailbox, node

ALIVE = 20.0
"""Seconds a node is believed to live after a heartbeat."""
HEARTBEAT = 5.0

_told: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("expires_at", "keys_known", "master_id")}
_beat = update(node).where(node.c.id == bindparam("node_id")).values(_told)
_join = insert_if_absent(node, id=bindparam("node_id"), started_at=bindparam("started_at"), **_told)
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
_release = (
    update(mailbox)
    .where(mailbox.c.dispatch_owner == bindparam("node_id"))
    .values(dispatch_owner="", dispatch_epoch=mailbox.c.dispatch_epoch + 1)
)


async def beat(tx: Transaction, node_id: str, keys_known: int = 0, master_id: str = "") -> None:
    """This node lives for another ALIVE seconds, and has these data keys from this master key."""
    now = await tx.now()
    told = {"new_expires_at": now + ALIVE, "new_keys_known": keys_known, "new_master_id": master_id}
    if not await tx.run(_beat, node_id=node_id, **told):
        await tx.run(_join, node_id=node_id, started_at=now, **told)


async def alive(tx: Transaction) -> list[Row]:
    """The rows of the nodes that are believed to live."""
    return await tx.all(_alive, at=await tx.now())


async def leave(tx: Transaction, node_id: str) -> None:
    """Give everything back before stopping, so that others take over at once."""
    await tx.run(_release, node_id=node_id)
    await tx.run(_leave, node_id=node_id)


async def take_free(tx: Transaction, node_id: str, at_most: int, *, own: bool = False) -> dict[str, int]:
    """Claim mailboxes that nobody alive holds, at most so many; the new epochs by mailbox id.

    `own`: also those this node itself holds, as a process does that was started again and knows nothing of them.
    """
    holders = await tx.all(_holders)
    # Only then who lives: the other way round a node that joins in between would hold mailboxes and seem dead.
    living = {row["id"] for row in await alive(tx)} | {node_id}
    free = [row for row in holders if _is_free(row["dispatch_owner"], living, node_id, own)]
    taken: dict[str, int] = {}
    for row in free[:at_most]:
        got = await tx.one(_take, mailbox_id=row["id"], epoch=row["dispatch_epoch"], node_id=node_id)
        if got is not None:
            taken[row["id"]] = got["dispatch_epoch"]
    return taken


def _is_free(owner: str, alive: set[str], node_id: str, own: bool) -> bool:
    return owner not in alive or (own and owner == node_id)


async def held(tx: Transaction, node_id: str) -> dict[str, int]:
    """The epochs of the mailboxes that this node holds, by mailbox id."""
    return {row["id"]: row["dispatch_epoch"] for row in await tx.all(_held, node_id=node_id)}
