"""Rows for a handful of ids out of very many: the number of statements does not grow with the table."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam
from sqlalchemy.sql.expression import ClauseElement

from posthouse.store.database import Row, Transaction

AT_ONCE = 50
"""Ids in one statement; the same number each time, so that it is compiled once."""
_NAMES = tuple(f"among_{number}" for number in range(AT_ONCE))


def among(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a column has one of the values that `all_among` is given, or `few`."""
    return column.in_([bindparam(name) for name in _NAMES])


def few(values: Sequence[str]) -> dict[str, str]:
    """The parameters of `among` for AT_ONCE values at most, none of them empty. Raises ValueError for more."""
    filler = [values[-1] if values else ""] * (AT_ONCE - len(values))
    return dict(zip(_NAMES, [*values, *filler], strict=True))


async def all_among(tx: Transaction, statement: ClauseElement, wanted: Iterable[str], **parameters: Any) -> list[Row]:
    """The rows of a statement with `among`, each value looked for once."""
    ids, found = list(dict.fromkeys(wanted)), []
    for start in range(0, len(ids), AT_ONCE):
        found += await tx.all(statement, **few(ids[start : start + AT_ONCE]), **parameters)
    return found
