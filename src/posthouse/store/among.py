"""Rows for a handful of ids out of very many: the number of statements does not grow with the table."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, bindparam
from sqlalchemy.sql.expression import ClauseElement

from posthouse.store.database import Row, Transaction

AT_ONCE = 50
"""Ids in one statement; the same number each time, so that it is compiled once."""
_NAMES = tuple(f"among_{number}" for number in range(AT_ONCE))


def among(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a column has one of the values that `all_among` is given."""
    return column.in_([bindparam(name) for name in _NAMES])


async def all_among(tx: Transaction, statement: ClauseElement, wanted: Iterable[str], **parameters: Any) -> list[Row]:
    """The rows of a statement with `among`, each value looked for once."""
    ids, found = list(dict.fromkeys(wanted)), []
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        values = dict(zip(_NAMES, some + some[-1:] * (AT_ONCE - len(some)), strict=True))
        found += await tx.all(statement, **values, **parameters)
    return found
