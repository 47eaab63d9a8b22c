"""Statements of SQLAlchemy Core as text for an executor, compiled once for each dialect."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import ColumnElement, Executable, Table, insert, or_
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement


@dataclass(frozen=True, slots=True)
class Compiled:
    """`names` is the order of the parameters where the database counts them; `defaults` are bound values."""

    text: str
    names: tuple[str, ...]
    required: frozenset[str]
    known: frozenset[str]
    defaults: dict[str, Any] = field(repr=False)

    def values(self, parameters: dict[str, Any]) -> list[Any]:
        """The parameters in their order. Raises TypeError where one is missing or unknown."""
        all_of_them = self.named(parameters)
        return [all_of_them[name] for name in self.names]

    def named(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters with the bound values beside them. Raises TypeError where one is missing or unknown."""
        if parameters.keys() == self.known:
            return parameters
        if not self.required <= parameters.keys() <= self.known:
            raise TypeError(f"missing or unknown parameters: {sorted(self.required ^ parameters.keys())}: {self.text}")
        return self.defaults | parameters


def one_of(column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """`column IN (…)` for values that are known when the statement is made; IN itself is not compiled ahead."""
    return or_(*(column == value for value in values))


def insert_if_absent(table: Table, **values: Any) -> ClauseElement:
    """An INSERT that does nothing where the row is there; it waits for another one who is about to make it.

    SQLAlchemy has it as a matter of each database; both write it alike.
    """
    return insert(table).values(values).execution_options(if_absent=True)


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
        compiled = cast(SQLCompiler, statement.compile(dialect=self._dialect))
        names = tuple(compiled.positiontup or compiled.params)
        required = frozenset(name for name in names if name in compiled.binds and compiled.binds[name].required)
        return Compiled(str(compiled) + _ending(statement), names, required, frozenset(names), dict(compiled.params))


def _ending(statement: ClauseElement) -> str:
    options = statement.get_execution_options() if isinstance(statement, Executable) else {}
    return " ON CONFLICT DO NOTHING" if options.get("if_absent") else ""
