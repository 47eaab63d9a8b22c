"""Bodies too large for the message row: sealed pieces, on disk before the row that makes the message exist."""

import asyncio
import contextlib
import itertools
import os
import shutil
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO, Protocol

from sqlalchemy import bindparam, delete, insert, literal, select

from posthouse.model.message import MessageState
from posthouse.store.database import Database, Transaction
from posthouse.store.joint import Joint
from posthouse.store.sealing import OVERHEAD, PREFIX, Sealer, Unsealable, key_id_of, sync_directory
from posthouse.store.tables import message, piece

INLINE = 64 * 1024
"""Octets of body that are kept in the message row."""
PIECE = 256 * 1024
SPARES = 64
"""Empty files that are kept for the next messages, in a directory of their own."""
AGAIN = ".again"
"""How the name of a file ends that is being sealed anew; what a crash leaves of it is swept."""


class Spool(Protocol):
    """A local directory beside the embedded database, or rows in PostgreSQL. `place`: what it is called for people."""

    place: str

    async def write(self, message_id: str, number: int, data: bytes, *, last: bool) -> None:
        """Keep a piece of at most PIECE octets. After the last one all are on disk.

        Raises OSError, DatabaseUnavailable.
        """
        ...

    def read(self, message_id: str, pieces: int) -> AsyncGenerator[bytes]: ...
    async def remove(self, message_id: str) -> None: ...
    async def sweep(self, known: set[str]) -> int:
        """Remove what belongs to none of these messages, which are to be sent, as a crash leaves it behind; how many.

        Only at start.
        """
        ...

    async def under(self) -> dict[str, list[str]]:
        """Ids of messages with pieces in files, by the ids of the keys these are sealed with."""
        ...

    async def seal_anew(self, message_id: str) -> bool:
        """Seal the pieces of a message that is all there with the current key. False where they cannot be opened."""
        ...

    def free(self) -> int:
        """Octets that can still be written, as far as is known."""
        ...


def cut_piece(data: bytearray, *, rest: bool) -> bytes | None:
    """Take the next piece off a body that is coming in; None while too little is there.

    Something stays for the last piece, which comes with `rest`, and then leaves nothing.
    """
    if len(data) <= PIECE and not (rest and data):
        return None
    with memoryview(data) as view:
        piece = bytes(view[:PIECE])
    del data[:PIECE]
    return piece


def _place(message_id: str, number: int) -> str:
    return f"piece:{message_id}:{number}"


class FileSpool:
    """One file a message under DATA/spool: sealed pieces of PIECE octets one after the other.

    The file of a message that is gone is emptied and serves another one: to make a file, where many were removed a
    moment ago, costs half a millisecond of CPU, and its fsync takes twice as long (ext4).
    """

    def __init__(self, directory: Path, sealer: Sealer) -> None:
        self.place = str(directory.parent)
        self._directory = directory
        self._sealer = sealer
        self._spare = directory.with_name("spare")
        for place in (directory, self._spare):
            place.mkdir(mode=0o700, exist_ok=True)
        for left in self._spare.iterdir():
            left.unlink(missing_ok=True)
        self._spares: deque[Path] = deque()
        self._sync_names = Joint(lambda: asyncio.to_thread(sync_directory, directory))

    def _path(self, message_id: str) -> Path:
        return self._directory / message_id

    async def write(self, message_id: str, number: int, data: bytes, *, last: bool) -> None:
        instead = self._spares.popleft() if self._spares and not number else None
        await asyncio.to_thread(self._append, message_id, number, data, last, instead)
        if last:
            await self._sync_names()

    def _append(self, message_id: str, number: int, data: bytes, last: bool, instead: Path | None) -> None:
        sealed = self._sealer.seal(data, _place(message_id, number))
        _append(self._path(message_id), sealed, last=last, instead=instead)

    async def read(self, message_id: str, pieces: int) -> AsyncGenerator[bytes]:
        with self._path(message_id).open("rb") as file:
            for number in range(pieces):
                yield await asyncio.to_thread(self._next, file, _place(message_id, number))

    def _next(self, file: BinaryIO, place: str) -> bytes:
        return self._sealer.open(file.read(PIECE + OVERHEAD), place)

    async def remove(self, message_id: str) -> None:
        spare = self._spare / message_id if len(self._spares) < SPARES else None
        if await asyncio.to_thread(_remove, self._path(message_id), spare) and spare is not None:
            self._spares.append(spare)

    async def sweep(self, known: set[str]) -> int:
        orphans = [path for path in self._directory.iterdir() if path.name not in known]
        for path in orphans:
            path.unlink(missing_ok=True)
        return len(orphans)

    async def under(self) -> dict[str, list[str]]:
        return await asyncio.to_thread(_by_key, self._directory)

    async def seal_anew(self, message_id: str) -> bool:
        """The file that is read at this moment stays as it is for its reader; another one takes its name."""
        return await asyncio.to_thread(_seal_anew, self._path(message_id), self._sealer)

    def free(self) -> int:
        """Nothing on a disk that does not even tell."""
        try:
            return shutil.disk_usage(self._directory).free
        except OSError:
            return 0


_insert = insert(piece).values({name: bindparam(name) for name in ("message_id", "number", "data", "created_at")})
_piece = select(piece.c.data).where(piece.c.message_id == bindparam("wanted"), piece.c.number == bindparam("position"))
_forget = delete(piece).where(piece.c.message_id == bindparam("wanted"))
_orphans = delete(piece).where(
    piece.c.created_at < bindparam("before"),
    piece.c.message_id.not_in(select(message.c.id).where(message.c.state != literal(str(MessageState.SENT)))),
)
ORPHAN_AGE = 86_400.0


class TableSpool:
    """Rows of the table `piece`, so that every node can read them."""

    place = "the database"

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def write(self, message_id: str, number: int, data: bytes, *, last: bool) -> None:
        sealed = self._sealer.seal(data, _place(message_id, number))

        async def work(tx: Transaction) -> None:
            await tx.run(_insert, message_id=message_id, number=number, data=sealed, created_at=await tx.now())

        await self._database.write(work)

    async def read(self, message_id: str, pieces: int) -> AsyncGenerator[bytes]:
        for number in range(pieces):
            row = await self._database.read(lambda tx, at=number: tx.one(_piece, wanted=message_id, position=at))  # type: ignore[misc]
            if row is None:
                raise OSError(f"piece {number} of {message_id} is missing")
            yield self._sealer.open(row["data"], _place(message_id, number))

    async def remove(self, message_id: str) -> None:
        await self._database.write(lambda tx: tx.run(_forget, wanted=message_id))

    async def sweep(self, known: set[str]) -> int:
        async def work(tx: Transaction) -> int:
            return await tx.run(_orphans, before=await tx.now() - ORPHAN_AGE)

        return await self._database.write(work)

    async def under(self) -> dict[str, list[str]]:
        """There are no files; the rows are exchanged as those of other tables."""
        return {}

    async def seal_anew(self, message_id: str) -> bool:
        return True

    def free(self) -> int:
        return 2**62


def _by_key(directory: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(path for path in directory.iterdir() if path.suffix != AGAIN):
        with contextlib.suppress(FileNotFoundError):
            for key_id in _keys_of(path):
                found.setdefault(key_id, []).append(path.name)
    return found


def _keys_of(path: Path) -> set[str]:
    with path.open("rb") as file:
        places = range(0, os.fstat(file.fileno()).st_size, PIECE + OVERHEAD)
        return {key_id_of(os.pread(file.fileno(), PREFIX, place)) for place in places} - {""}


def _seal_anew(path: Path, sealer: Sealer) -> bool:
    anew = path.with_name(path.name + AGAIN)
    anew.unlink(missing_ok=True)
    try:
        with (
            path.open("rb") as file,
            os.fdopen(os.open(anew, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy,
        ):
            for number in itertools.count():
                if not (sealed := file.read(PIECE + OVERHEAD)):
                    break
                place = _place(path.name, number)
                copy.write(sealer.seal(sealer.open(sealed, place), place))
            copy.flush()
            os.fsync(copy.fileno())
        if path.exists():
            anew.replace(path)
            sync_directory(path.parent)
        return True
    except FileNotFoundError:
        return True  # it was sent meanwhile
    except Unsealable:
        return not path.exists()  # or while it was read
    finally:
        anew.unlink(missing_ok=True)


def _remove(path: Path, spare: Path | None) -> bool:
    """Nothing stays of what was in it; the file itself becomes the `spare` one. Whether it was there."""
    try:
        if spare is None:
            path.unlink()
        else:
            path.rename(spare)
            os.truncate(spare, 0)
    except FileNotFoundError:
        return False
    return True


def _append(path: Path, data: bytes, *, last: bool, instead: Path | None) -> None:
    """Nothing of what the disk does not take whole is left behind. `instead` of a new file an empty one is used."""
    if instead is not None:
        with contextlib.suppress(FileNotFoundError):
            instead.rename(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    before = os.fstat(handle).st_size
    try:
        with os.fdopen(handle, "ab") as file:
            file.write(data)
            if last:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        os.truncate(path, before) if before else path.unlink()
        raise
