"""Every statement of the store can be said to both databases."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from sqlalchemy import Executable, bindparam, select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.expression import ClauseElement

import posthouse.store
from posthouse.store.compiling import Compiler
from posthouse.store.tables import meta


def modules() -> list[str]:
    found = pkgutil.iter_modules(posthouse.store.__path__)
    return [f"posthouse.store.{module.name}" for module in found if not module.ispkg]


def statements() -> Iterator[tuple[str, ClauseElement]]:
    for name in modules():
        for variable, value in vars(importlib.import_module(name)).items():
            candidates = value.items() if isinstance(value, dict) else [("", value)]
            for key, candidate in candidates:
                if isinstance(candidate, Executable) and isinstance(candidate, ClauseElement):
                    yield f"{name.rpartition('.')[2]}.{variable}{key}", candidate


STATEMENTS = dict(statements())
DIALECTS = [
    pytest.param(SQLiteDialect(paramstyle="qmark"), id="sqlite"),
    pytest.param(PGDialect_asyncpg(), id="postgres"),  # type: ignore[no-untyped-call]
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_statement_can_be_compiled(dialect: Dialect) -> None:
    assert len(STATEMENTS) > 80
    for name, statement in STATEMENTS.items():
        compiled = Compiler(dialect)(statement)
        assert compiled.text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")), name
        assert "POSTCOMPILE" not in compiled.text, name


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_value_that_is_missing_or_unknown_is_an_error(dialect: Dialect) -> None:
    compiled = Compiler(dialect)(select(meta.c.value).where(meta.c.name == bindparam("wanted")))
    assert compiled.values({"wanted": "x"}) == ["x"]
    with pytest.raises(TypeError, match="wanted"):
        compiled.values({})
    with pytest.raises(TypeError, match="watned"):
        compiled.values({"wanted": "x", "watned": "y"})
