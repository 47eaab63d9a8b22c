"""Events: every change of state is written down with the change, and read by each reader from its own place."""

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update

from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Row, Transaction
from posthouse.store.tables import counter, cursor, event

PAGE = 200


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is contract.md's word, such as token.invalid; `subject` the id of what changed."""

    id: int
    at: float
    kind: str
    subject: str
    document: dict[str, Any]


_bump = (
    update(counter)
    .where(counter.c.name == bindparam("counter_name"))
    .values(value=counter.c.value + 1)
    .returning(counter.c.value)
)
_start = insert_if_absent(counter, name=bindparam("counter_name"), value=0)
_counter = select(counter.c.value).where(counter.c.name == bindparam("counter_name"))
_insert = insert(event).values(
    id=bindparam("id"),
    at=bindparam("at"),
    kind=bindparam("kind"),
    subject=bindparam("subject"),
    document=bindparam("document"),
)
_after = select(event).where(event.c.id > bindparam("position")).order_by(event.c.id).limit(PAGE)
_aged = select(event.c.id).where(event.c.at < bindparam("before")).order_by(event.c.id).limit(bindparam("at_most"))
_prune = delete(event).where(event.c.id.in_(_aged))
_first = select(event.c.id).order_by(event.c.id).limit(1)
_last = select(event).order_by(event.c.id.desc()).limit(PAGE)
_cursor = select(cursor.c.position).where(cursor.c.name == bindparam("cursor_name"))
_move = (
    update(cursor)
    .where(cursor.c.name == bindparam("cursor_name"), cursor.c.position < bindparam("to"))
    .values(position=bindparam("to"))
)
_start_cursor = insert_if_absent(cursor, name=bindparam("cursor_name"), position=0)


async def bump(tx: Transaction, name: str) -> int:
    """The next value of a counter. Whoever comes second waits until the first has committed."""
    row = await tx.one(_bump, counter_name=name)
    if row is None:
        await tx.run(_start, counter_name=name)
        row = await tx.one(_bump, counter_name=name)
    assert row is not None  # noqa: S101
    return int(row["value"])


async def value_of(tx: Transaction, name: str) -> int:
    row = await tx.one(_counter, counter_name=name)
    return int(row["value"]) if row else 0


async def record(tx: Transaction, at: float, kind: str, subject: str, **document: Any) -> None:
    """Write an event in the transaction that makes the change."""
    await tx.run(
        _insert,
        id=await bump(tx, "event"),
        at=at,
        kind=kind,
        subject=subject,
        document=msgspec.json.encode(document).decode(),
    )


async def after(tx: Transaction, position: int) -> list[Event]:
    """At most PAGE events that follow `position`."""
    return [_event(row) for row in await tx.all(_after, position=position)]


async def kept_from(tx: Transaction, newest: int) -> int:
    """The first event that is not forgotten yet, or the one that will follow the newest."""
    row = await tx.one(_first)
    return int(row["id"]) if row else newest + 1


async def latest(tx: Transaction) -> list[Event]:
    """The newest events, newest first."""
    return [_event(row) for row in await tx.all(_last)]


async def prune(tx: Transaction, before: float, at_most: int) -> int:
    """Forget the oldest events of before a time; how many."""
    return await tx.run(_prune, before=before, at_most=at_most)


async def position_of(tx: Transaction, reader: str) -> int:
    row = await tx.one(_cursor, cursor_name=reader)
    return int(row["position"]) if row else 0


async def move(tx: Transaction, reader: str, to: int) -> bool:
    """The reader has done its work for every event up to `to`. False where it had been there before."""
    await tx.run(_start_cursor, cursor_name=reader)
    return bool(await tx.run(_move, cursor_name=reader, to=to))


def _event(row: Row) -> Event:
    return Event(row["id"], row["at"], row["kind"], row["subject"], msgspec.json.decode(row["document"]))
