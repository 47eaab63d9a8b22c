"""Statements of SQLAlchemy Core as text for an executor, compiled once for each dialect."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Table, or_
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.expression import ClauseElement


@dataclass(frozen=True, slots=True)
class Compiled:
    """`names` is the order of the parameters where the database counts them; `defaults` are bound values."""

    text: str
    names: tuple[str, ...]
    defaults: dict[str, Any] = field(repr=False)

    def values(self, parameters: dict[str, Any]) -> list[Any]:
        defaults = self.defaults
        return [parameters[name] if name in parameters else defaults[name] for name in self.names]


def one_of(column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """`column IN (…)` for values that are known when the statement is made; IN itself is not compiled ahead."""
    return or_(*(column == value for value in values))


def insert_if_absent(table: Table, **values: Any) -> ClauseElement:
    """An INSERT that does nothing where the row is there; it waits for another one who is about to make it.

    SQLAlchemy has it as a matter of one database, but both write it alike.
    """
    return insert(table).values(values).on_conflict_do_nothing()


class Compiler:
    """Remembers what it compiled, by the identity of the statement, which it keeps alive."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._known: dict[int, tuple[ClauseElement, Compiled]] = {}

    def __call__(self, statement: ClauseElement) -> Compiled:
        known = self._known.get(id(statement))
        if known is None:
            known = self._known[id(statement)] = (statement, self._compile(statement))
        return known[1]

    def _compile(self, statement: ClauseElement) -> Compiled:
        compiled = statement.compile(dialect=self._dialect)
        positions = getattr(compiled, "positiontup", None)
        names = tuple(positions) if positions is not None else tuple(compiled.params)
        return Compiled(str(compiled), names, dict(compiled.params))
