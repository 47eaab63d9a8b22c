"""The journal: one line for each thing that happened to a message, kept for successes too."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Select, bindparam, delete, insert, literal, or_, select

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
HANDED_OVER = frozenset(("sent", "partly failed", "failed", "delayed", "sent in part", "outcome unknown"))
"""Kinds of lines that say what an attempt came to."""
STRETCH = 10_000
_line_before = (
    select(journal.c.id, journal.c.at)
    .where(journal.c.id < bindparam("before"))
    .order_by(journal.c.id.desc())
    .limit(literal(1))
)
_accepted = select(journal.c.at).where(
    journal.c.id > bindparam("low"),
    journal.c.id <= bindparam("upto"),
    journal.c.device == bindparam("by"),
    journal.c.kind == literal("accepted"),
)
_backwards = (
    select(journal.c.id, journal.c.at, journal.c.kind, journal.c.mailbox_id, journal.c.detail)
    .where(journal.c.id < bindparam("before"))
    .order_by(journal.c.id.desc())
    .limit(1000)
)
_EQUAL = {"mailbox_id": journal.c.mailbox_id, "device": journal.c.device}
_aged = (
    select(journal.c.id).where(journal.c.at < bindparam("before")).order_by(journal.c.id).limit(bindparam("at_most"))
)
_prune = delete(journal).where(journal.c.id.in_(_aged))


@cache
def _latest(given: frozenset[str]) -> Select[Any]:
    conditions = [column == bindparam(f"only_{name}") for name, column in _EQUAL.items() if name in given]
    newest_first = select(journal).where(journal.c.id < bindparam("before"), *conditions)
    return newest_first.order_by(journal.c.id.desc()).limit(PAGE)


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


async def latest(tx: Transaction, before: int = _NEWEST, *, mailbox_id: str = "", device: str = "") -> list[Line]:
    """Newest first, a page at a time; `before` is the id of the last line of the page before."""
    given = {name: value for name, value in (("mailbox_id", mailbox_id), ("device", device)) if value}
    parameters = {f"only_{name}": value for name, value in given.items()}
    return [_line(row) for row in await tx.all(_latest(frozenset(given)), before=before, **parameters)]


async def prune(tx: Transaction, before: float, at_most: int) -> int:
    """Forget the oldest lines that were written before a time; how many."""
    return await tx.run(_prune, before=before, at_most=at_most)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """When a mailbox handed a message over, and how many recipients were taken."""

    at: float
    mailbox_id: str
    recipients: int


async def handed_over(tx: Transaction, since: float) -> list[HandedOver]:
    """What counts as sent after `since`, oldest first."""
    found: list[HandedOver] = []
    before, at = _NEWEST, math.inf
    while at > since and (rows := await tx.all(_backwards, before=before)):
        before, at = rows[-1]["id"], rows[-1]["at"]
        found += [line for row in rows if row["at"] > since and (line := _handed_over(row))]
    return found[::-1]


async def accepted_from(tx: Transaction, device: str, since: float, known: int) -> tuple[list[float], int]:
    """When mail was accepted from a device, oldest first, and the last line that was looked at.

    From the line after `known` on; with 0 from about `since` on, a stretch of lines at a time.
    """
    newest = await tx.one(_line_before, before=_NEWEST)
    top = newest["id"] if newest else 0
    found: list[float] = []
    upto = top
    while upto > known:
        low = max(known, upto - STRETCH)
        found += [row["at"] for row in await tx.all(_accepted, low=low, upto=upto, by=device)]
        boundary = await tx.one(_line_before, before=low + 1)
        upto = low
        if boundary is None or (not known and boundary["at"] <= since):
            break
    return sorted(at for at in found if at > since), top


def _handed_over(row: Row) -> HandedOver | None:
    if row["kind"] not in HANDED_OVER:
        return None
    usual = int(row["kind"] in ("sent", "outcome unknown"))
    recipients = msgspec.json.decode(row["detail"]).get("taken", usual)
    return HandedOver(row["at"], row["mailbox_id"], recipients) if recipients else None


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
