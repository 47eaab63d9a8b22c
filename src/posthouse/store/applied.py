"""What apply files have made: remembered by file, so that drift is seen and only their own things are removed."""

from typing import Any

import msgspec
from sqlalchemy import bindparam, insert, literal, select, update

from posthouse.model.message import MessageState
from posthouse.store import journal
from posthouse.store.compiling import one_of
from posthouse.store.database import Transaction
from posthouse.store.tables import mailbox, message, meta

Document = dict[str, dict[str, dict[str, Any]]]
"""By kind and name."""

_recall = select(meta.c.value).where(meta.c.name == bindparam("row_name"))
_update = update(meta).where(meta.c.name == bindparam("row_name")).values(value=bindparam("new_value"))
_insert = insert(meta).values(name=bindparam("row_name"), value=bindparam("new_value"))
_of_mailbox = message.c.mailbox_id == bindparam("mailbox")
_unsent = one_of(message.c.state, tuple(str(state) for state in MessageState if state is not MessageState.SENT))
_keep_out = select(mailbox.c.id).where(mailbox.c.id == bindparam("mailbox")).with_for_update()
"""Mail for the mailbox is accepted before we count, or not before we have finished."""
_waiting = select(message.c.id, message.c.stage).where(
    _of_mailbox, one_of(message.c.state, (str(MessageState.QUEUED), str(MessageState.PARKED)))
)
_move = (
    update(message)
    .where(_of_mailbox, _unsent, message.c.stage == literal(""))
    .values(mailbox_id=bindparam("new_mailbox"))
    .returning(message.c.id, message.c.message_id, message.c.device)
)


async def recall(tx: Transaction, origin: str) -> Document:
    """What the file with this name was found to want when it was last applied."""
    row = await tx.one(_recall, row_name=f"applied:{origin}")
    return msgspec.json.decode(row["value"], type=Document) if row else {}


async def remember(tx: Transaction, origin: str, document: Document) -> None:
    """`document` may hold no secrets."""
    values = {"row_name": f"applied:{origin}", "new_value": msgspec.json.encode(document).decode()}
    if not await tx.run(_update, **values):
        await tx.run(_insert, **values)


async def waiting(tx: Transaction, mailbox_id: str) -> dict[str, bool]:
    """Ids of the messages that wait to be sent, and whether somebody is working on them; no more come meanwhile."""
    await tx.one(_keep_out, mailbox=mailbox_id)
    return {row["id"]: row["stage"] != "" for row in await tx.all(_waiting, mailbox=mailbox_id)}


async def move_mail(tx: Transaction, mailbox_id: str, to: str, now: float) -> int:
    """Let another mailbox send what this one has not sent; how many."""
    moved = await tx.all(_move, mailbox=mailbox_id, new_mailbox=to)
    for row in moved:
        about = {"message_id": row["message_id"], "mailbox_id": to, "device": row["device"]}
        await journal.write(tx, now, "moved", row["id"], **about, cause="its mailbox was removed or no longer sends")
    return len(moved)
