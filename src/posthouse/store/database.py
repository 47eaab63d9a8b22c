"""What both databases offer to the rest of the store: reads, and writes that are durable when they return.

A piece of work is written once, as a coroutine over a `Transaction`. On PostgreSQL it runs as it stands; on
SQLite its awaits never suspend, so the writer thread can run many of them inside one commit.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from sqlalchemy.sql.expression import ClauseElement

from posthouse.store.trouble import LastWrite

Row = Mapping[str, Any]
T = TypeVar("T")


class DatabaseUnavailable(Exception):
    """The database cannot be reached or written at the moment; nothing was changed."""


class CommitUnknown(Exception):
    """The connection was lost while committing: the change may exist or not. Look before doing it again."""


class NotOnDisk(CommitUnknown):
    """The change can be read, and the disk may have lost it: looking does not help."""


class Duplicate(Exception):
    """A value that must be unique is there already: a name, an address, a queue id."""


class Transaction(Protocol):
    """Statements are SQLAlchemy Core, compiled once: make them at module level, with bindparam()."""

    async def all(self, statement: ClauseElement, **parameters: Any) -> list[Row]: ...
    async def one(self, statement: ClauseElement, **parameters: Any) -> Row | None: ...
    async def run(self, statement: ClauseElement, **parameters: Any) -> int:
        """Number of rows that were changed."""
        ...

    async def now(self) -> float:
        """The database's clock, in seconds since 1970: the only one that leases go by."""
        ...


Work = Callable[[Transaction], Coroutine[Any, Any, T]]


class Database(Protocol):
    """SQLite in the data directory, or PostgreSQL."""

    embedded: bool
    fared: LastWrite

    async def read(self, work: Work[T]) -> T:
        """Do `work`, which sees everything as it was at one moment and can change nothing.

        Raises DatabaseUnavailable.
        """
        ...

    async def write(self, work: Work[T], *, long: bool = False) -> T:
        """Do `work` in a transaction; when this returns it is on disk. `long`: it may touch many rows.

        Whatever `work` raises undoes it and comes out here. It may be run more than once.
        After a statement has failed, `work` cannot go on. Raises DatabaseUnavailable, CommitUnknown, Duplicate.
        """
        ...

    async def close(self) -> None: ...
