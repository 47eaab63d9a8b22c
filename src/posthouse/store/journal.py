"""The journal: one line for each thing that happened to a message, kept for successes too."""

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import bindparam, insert, or_, select

from posthouse.store.database import Row, Transaction
from posthouse.store.tables import journal

PAGE = 200


@dataclass(frozen=True, slots=True)
class Line:
    """`kind`: accepted, attempt, sent, refused, delayed, parked, released, unknown, failed …"""

    id: int
    at: float
    kind: str
    message: str
    message_id: str
    mailbox_id: str
    device: str
    detail: dict[str, Any]


_insert = insert(journal).values(
    at=bindparam("at"),
    kind=bindparam("kind"),
    message=bindparam("message"),
    message_id=bindparam("message_id"),
    mailbox_id=bindparam("mailbox_id"),
    device=bindparam("device"),
    detail=bindparam("detail"),
)
_of_message = (
    select(journal)
    .where(or_(journal.c.message == bindparam("about"), journal.c.message_id == bindparam("about")))
    .order_by(journal.c.id)
    .limit(PAGE)
)
_latest = select(journal).where(journal.c.id < bindparam("before")).order_by(journal.c.id.desc()).limit(PAGE)
_NEWEST = 2**62


async def write(
    tx: Transaction,
    at: float,
    kind: str,
    message: str,
    *,
    message_id: str = "",
    mailbox_id: str = "",
    device: str = "",
    **detail: Any,
) -> None:
    await tx.run(
        _insert,
        at=at,
        kind=kind,
        message=message,
        message_id=message_id,
        mailbox_id=mailbox_id,
        device=device,
        detail=msgspec.json.encode(detail).decode() if detail else "{}",
    )


async def of_message(tx: Transaction, about: str) -> list[Line]:
    """By queue id or Message-ID, oldest first."""
    return [_line(row) for row in await tx.all(_of_message, about=about)]


async def latest(tx: Transaction, before: int = _NEWEST) -> list[Line]:
    """Newest first, a page at a time; `before` is the id of the last line of the page before."""
    return [_line(row) for row in await tx.all(_latest, before=before)]


def _line(row: Row) -> Line:
    return Line(
        id=row["id"],
        at=row["at"],
        kind=row["kind"],
        message=row["message"],
        message_id=row["message_id"],
        mailbox_id=row["mailbox_id"],
        device=row["device"],
        detail=msgspec.json.decode(row["detail"]),
    )
