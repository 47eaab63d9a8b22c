"""Bodies too large for a row, on both databases."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import bindparam, select, update

from posthouse.model.message import MessageState
from posthouse.store import messages
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable
from posthouse.store.spool import ORPHAN_AGE, PIECE, SPARES, TableSpool, cut_piece
from posthouse.store.tables import piece
from tests.contract.making import DEADLINE, NOW, Site, accept, add_mailboxes, claim_one, finish, held_mailbox, mail

BODY = os.urandom(2 * PIECE + 1000)
_pieces = select(piece.c.data).order_by(piece.c.message_id, piece.c.number)
_age = update(piece).values(created_at=piece.c.created_at - bindparam("seconds"))


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def write(store: Store, message_id: str, body: bytes = BODY) -> int:
    pieces = [body[start : start + PIECE] for start in range(0, len(body), PIECE)]
    for number, data in enumerate(pieces):
        await store.spool.write(message_id, number, data, last=number == len(pieces) - 1)
    return len(pieces)


async def read(store: Store, message_id: str, pieces: int = 3) -> bytes:
    return b"".join([data async for data in store.spool.read(message_id, pieces)])


async def on_disk(site: Site, store: Store) -> bytes:
    if site.url:
        return b"".join(row["data"] for row in await store.database.read(lambda tx: tx.all(_pieces)))
    return b"".join(path.read_bytes() for path in (site.data / "spool").iterdir())


async def grow_older(site: Site, store: Store) -> None:
    if site.url:
        await store.database.write(lambda tx: tx.run(_age, seconds=ORPHAN_AGE + 1))


@pytest.mark.parametrize("size", [1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1])
def test_pieces_are_full_and_the_last_one_is_never_empty(size: int) -> None:
    data, pieces = bytearray(BODY[:size]), []
    while (piece := cut_piece(data, rest=False)) is not None:
        pieces.append(piece)
    assert all(len(piece) == PIECE for piece in pieces)
    assert (last := cut_piece(data, rest=True))
    assert b"".join(pieces) + last == BODY[:size]
    assert cut_piece(data, rest=True) is None


async def test_a_large_body_is_read_as_it_was_written(store: Store) -> None:
    assert await write(store, "m1") == 3
    assert await read(store, "m1") == BODY


async def test_another_node_reads_it_too(site: Site) -> None:
    first, second = await site.nodes(2)
    await write(first, "m1")
    assert await read(second, "m1") == BODY


async def test_nothing_of_it_lies_open(site: Site, store: Store) -> None:
    await write(store, "m1", b"a line that can be recognised\r\n" * 20_000)
    assert b"recognised" not in await on_disk(site, store)


async def test_what_was_removed_cannot_be_read_and_may_be_removed_again(store: Store) -> None:
    await write(store, "m1")
    await store.spool.remove("m1")
    with pytest.raises(OSError, match="m1"):
        await read(store, "m1")
    await store.spool.remove("m1")


async def test_a_missing_end_is_noticed(store: Store) -> None:
    pieces = await write(store, "m1")
    with pytest.raises((OSError, Unsealable)):
        await read(store, "m1", pieces + 1)


async def test_sweeping_removes_what_belongs_to_no_message(site: Site, store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    await accept(store, "m1", now=NOW)
    await write(store, "m1")
    await write(store, "orphan")
    await grow_older(site, store)
    assert await store.spool.sweep({"m1"}) > 0
    assert await read(store, "m1") == BODY
    with pytest.raises(OSError, match="orphan"):
        await read(store, "orphan")
    assert await store.spool.sweep({"m1"}) == 0


async def test_sweeping_removes_what_a_crash_has_left_of_a_message_that_was_sent(site: Site, store: Store) -> None:
    """It fell between the commit of the outcome and the removal of the pieces."""
    epoch = await held_mailbox(store)
    for queue_id, state in (("m1", MessageState.SENT), ("m2", MessageState.FAILED)):
        new = replace(mail(queue_id), pieces=await write(store, queue_id))
        await store.database.write(lambda tx, new=new: messages.accept(tx, new, NOW, DEADLINE))  # type: ignore[misc]
        await finish(store, await claim_one(store, epoch), state)
    await grow_older(site, store)
    assert await store.spool.sweep(await store.database.read(messages.needing_pieces)) > 0
    assert await read(store, "m2") == BODY
    with pytest.raises(OSError, match="m1"):
        await read(store, "m1")


async def test_the_file_of_a_message_that_is_gone_serves_the_next_and_nothing_stays_in_it(tmp_path: Path) -> None:
    site = Site(tmp_path, "")
    store = await site.node()
    await write(store, "m1")
    was = (tmp_path / "spool" / "m1").stat().st_ino
    await store.spool.remove("m1")
    assert [path.stat().st_size for path in (tmp_path / "spare").iterdir()] == [0]
    await write(store, "m2", BODY[:1000])
    assert (tmp_path / "spool" / "m2").stat().st_ino == was
    assert await read(store, "m2", 1) == BODY[:1000]
    assert list((tmp_path / "spare").iterdir()) == []
    await site.close()


async def test_only_so_many_empty_files_are_kept_and_none_for_the_next_start(tmp_path: Path) -> None:
    site = Site(tmp_path, "")
    store = await site.node()
    for number in range(SPARES + 1):
        await write(store, f"m{number}", b"short")
    for number in range(SPARES + 1):
        await store.spool.remove(f"m{number}")
    assert len(list((tmp_path / "spare").iterdir())) == SPARES
    await site.close()
    again = Site(tmp_path, "")
    await again.node()
    assert list((tmp_path / "spare").iterdir()) == []
    await again.close()


async def test_there_is_space(store: Store) -> None:
    assert store.spool.free() > PIECE


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    site = Site(tmp_path, "")
    await write(await site.node(), "m1")
    spool = tmp_path / "spool"
    assert (spool.stat().st_mode & 0o777, (spool / "m1").stat().st_mode & 0o777) == (0o700, 0o600)
    await site.close()


async def test_a_file_whose_pieces_changed_places_cannot_be_read(tmp_path: Path) -> None:
    site = Site(tmp_path, "")
    store = await site.node()
    await write(store, "m1", os.urandom(2 * PIECE))
    path = tmp_path / "spool" / "m1"
    octets = path.read_bytes()
    half = len(octets) // 2
    path.write_bytes(octets[half:] + octets[:half])
    with pytest.raises(Unsealable):
        await read(store, "m1", 2)
    await site.close()


@pytest.mark.needs("postgres")
async def test_a_message_that_is_just_coming_in_at_another_node_is_not_swept(
    prepared_postgres: str, tmp_path: Path
) -> None:
    site = Site(tmp_path, prepared_postgres)
    store = await site.node()
    assert isinstance(store.spool, TableSpool)
    await write(store, "m1")
    assert await store.spool.sweep(set()) == 0
    assert await read(store, "m1") == BODY
    await site.close()
