"""Everything that lies sealed in the database: where, bound to what, and how it gets from an old key to a new one.

A value is exchanged only where it is still the very value that was read, so that nothing newer, such as a refresh
token that was rotated meanwhile, is ever written over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Column, Select, Table, and_, bindparam, case, func, or_, select, update

from posthouse.store import events
from posthouse.store.database import Row, Transaction
from posthouse.store.sealing import PREFIX, Sealer, Unsealable, key_id_of
from posthouse.store.tables import app, authorisation, body, grant, leaving_grant, mailbox, piece

BATCH = 100
"""Rows that are looked at, and at most exchanged, in one transaction."""
Position = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A column whose values are sealed. `place` is what a value is bound to; `cached`: gateways keep it in memory."""

    what: str
    column: Column[bytes]
    place: Callable[[Row], str]
    cached: bool = False

    @property
    def table(self) -> Table:
        return self.column.table

    @property
    def primary(self) -> Sequence[Column[Any]]:
        return list(self.table.primary_key.columns)


SEALED = (
    Sealed("app secrets", app.c.secret, lambda row: f"app:{row['id']}:secret", cached=True),
    Sealed("mailbox passwords", mailbox.c.password, lambda row: f"mailbox:{row['id']}:password"),
    Sealed("tokens", grant.c.sealed, lambda row: f"grant:{row['id']}:{row['serial']}"),
    Sealed("former refresh tokens", grant.c.previous, lambda row: f"grant:{row['id']}:previous"),
    Sealed("sign-ins", authorisation.c.sealed, lambda row: f"authorisation:{row['id']}"),
    Sealed("consents to give back", leaving_grant.c.sealed, lambda row: f"leaving_grant:{row['id']}"),
    Sealed("messages", body.c.data, lambda row: f"message:{row['message_id']}"),
    Sealed("parts of messages", piece.c.data, lambda row: f"piece:{row['message_id']}:{row['number']}"),
)
"""All of them; a test compares with the tables."""


def _names(of: Sealed) -> list[Column[Any]]:
    """The columns that a place is made of."""
    return [*of.primary, *([grant.c.serial] if of.table is grant else [])]


def _after(columns: Sequence[Column[Any]]) -> Any:
    """Rows that follow a position in the order of the primary key."""
    marks: list[BindParameter[Any]] = [bindparam(f"after_{column.name}", type_=column.type) for column in columns]
    first, rest = columns[0] > marks[0], columns[1:]
    return or_(first, and_(columns[0] == marks[0], rest[0] > marks[1])) if rest else first


def _page(of: Sealed, *columns: Any) -> tuple[Select[Any], Select[Any]]:
    """The first page of a table, and one that follows."""
    first = select(*columns).order_by(*of.primary).limit(BATCH)
    return first, first.where(_after(of.primary))


def _prefix(of: Sealed) -> Any:
    return func.substr(of.column, 1, PREFIX)


_prefixes = {of.what: _page(of, *of.primary, _prefix(of).label("prefix")) for of in SEALED}
_values = {
    of.what: _page(of, *_names(of), case((_prefix(of) == bindparam("prefix"), of.column), else_=None).label("value"))
    for of in SEALED
}
_exchange = {
    of.what: update(of.table)
    .where(*(column == bindparam(f"at_{column.name}") for column in of.primary), of.column == bindparam("seen"))
    .values({of.column.name: bindparam("fresh")})
    for of in SEALED
}


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a table as far as `next`; None where it has ended."""

    rows: Sequence[Row]
    next: Position | None


async def _read(
    tx: Transaction, of: Sealed, pages: tuple[Select[Any], Select[Any]], after: Position | None, **more: Any
) -> Page:
    marks = {f"after_{column.name}": value for column, value in zip(of.primary, after or (), strict=False)}
    rows = await tx.all(pages[1] if after else pages[0], **marks, **more)
    last = tuple(rows[-1][column.name] for column in of.primary) if len(rows) == BATCH else None
    return Page(rows, last)


async def count(tx: Transaction, of: Sealed, after: Position | None) -> tuple[dict[str, int], Position | None]:
    """How many values of a page lie under which key, and where the next page begins."""
    page = await _read(tx, of, _prefixes[of.what], after)
    found: dict[str, int] = {}
    for row in page.rows:
        if row["prefix"] is not None:
            key_id = key_id_of(bytes(row["prefix"]))
            found[key_id] = found.get(key_id, 0) + 1
    return found, page.next


async def under(tx: Transaction, of: Sealed, key_id: str, after: Position | None) -> Page:
    """A page, with `value` in the rows that lie under this key and None in the others."""
    return await _read(tx, of, _values[of.what], after, prefix=b"\x01" + bytes.fromhex(key_id))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One value under the old key, and the same under the new one."""

    row: Row
    seen: bytes
    fresh: bytes


def seal_anew(of: Sealed, rows: Sequence[Row], sealer: Sealer) -> tuple[list[Exchange], int]:
    """What to exchange, and how many values cannot be opened. Takes time; keep it off the loop."""
    exchanges, unreadable = [], 0
    for row in rows:
        if row["value"] is None:
            continue
        seen, place = bytes(row["value"]), of.place(row)
        try:
            exchanges.append(Exchange(row, seen, sealer.seal(sealer.open(seen, place), place)))
        except Unsealable:
            unreadable += 1
    return exchanges, unreadable


async def exchange(tx: Transaction, of: Sealed, exchanges: Sequence[Exchange]) -> int:
    """How many were still as they were seen, and are exchanged. What gateways keep in memory they read again."""
    done = 0
    for one in exchanges:
        at: Mapping[str, Any] = {f"at_{column.name}": one.row[column.name] for column in of.primary}
        done += await tx.run(_exchange[of.what], **at, seen=one.seen, fresh=one.fresh)
    if done and of.cached:
        await events.bump(tx, "configuration")
    return done
