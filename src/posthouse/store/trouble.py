"""What keeps the store from writing, as far as its last attempt tells."""

import errno
import os
import sqlite3
import time
from enum import StrEnum
from pathlib import Path

from posthouse.problems import TEMPORARY, ProblemError, problem

FORGOTTEN = 90.0
"""Seconds after which an attempt says nothing any more."""


ALMOST_NOTHING = 1024 * 1024
"""Octets of disk with less of which no database can be opened."""


class Trouble(StrEnum):
    """The disk is full; it cannot be written to; another program holds the database; the database is away."""

    FULL = "full"
    UNWRITABLE = "unwritable"
    LOCKED = "locked"
    AWAY = "away"


_SQLITE = {
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
}


class LastWrite:
    """How it fared."""

    __slots__ = ("_at", "_trouble")

    def __init__(self) -> None:
        self._trouble: Trouble | None = None
        self._at = 0.0

    def succeeded(self) -> None:
        self._trouble = None

    def failed(self, trouble: Trouble) -> None:
        self._trouble, self._at = trouble, time.monotonic()

    @property
    def trouble(self) -> Trouble | None:
        return self._trouble if time.monotonic() - self._at < FORGOTTEN else None


def of_disk(cause: OSError) -> Trouble:
    return Trouble.FULL if cause.errno in (errno.ENOSPC, errno.EDQUOT) else Trouble.UNWRITABLE


def of_sqlite(cause: BaseException | None) -> Trouble:
    """Whatever is not said otherwise is a disk that refuses, as a read-only one does: SQLite calls it an I/O error."""
    while cause is not None:
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None:
            return _SQLITE.get(code & 0xFF, Trouble.UNWRITABLE)
        cause = cause.__cause__
    return Trouble.UNWRITABLE


def at_start(data: Path, cause: Exception) -> ProblemError | None:
    """What is wrong with the disk that the data directory lies on, or is to; None where it is something else."""
    disk = next(place for place in (data, *data.absolute().parents) if place.exists())
    found = os.statvfs(disk)
    trouble = of_disk(cause) if isinstance(cause, OSError) else of_sqlite(cause)
    if trouble is Trouble.FULL or found.f_bavail * found.f_frsize < ALMOST_NOTHING:
        return problem(
            "disk.full", f"The disk of {data} is full.", "Make space on it, then start again.", status=TEMPORARY
        )
    if found.f_flag & os.ST_RDONLY or getattr(cause, "errno", 0) == errno.EROFS:
        hint = "Mount it for writing, or name another directory: data = in posthouse.toml."
        return problem("disk.read-only", f"The disk of {data} is read-only.", hint)
    return None
