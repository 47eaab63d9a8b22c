"""The data keys in the database: made, made known to every node, sealed with, and at last removed.

The counter `sealing_key` grows with every change of them; whoever changes them grows it first, so that changes come
one after the other. A key that this process still seals with is put back if it was removed while we were away.
"""

from dataclasses import dataclass

import structlog
from sqlalchemy import bindparam, delete, or_, select, update

from posthouse.problems import problem
from posthouse.store import events, leases
from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Database, Row, Transaction
from posthouse.store.master_key import Place, read_master_key, wrong_key
from posthouse.store.sealing import Keys, MasterKey, Sealer, Unsealable, new_data_key, new_master_text
from posthouse.store.tables import sealing_key, sealing_wrap

COUNTER = "sealing_key"
LEASE = 60.0
"""Seconds for which a node is the one that seals anew what lies under a key."""

log = structlog.get_logger("keys")

_keys = select(sealing_key).order_by(sealing_key.c.active_at, sealing_key.c.created_at, sealing_key.c.id)
_wraps = select(sealing_wrap).order_by(sealing_wrap.c.key_id, sealing_wrap.c.master_id)
_add_key = insert_if_absent(
    sealing_key, **{name: bindparam(name) for name in ("id", "purpose", "created_at", "active_at")}
)
_add_wrap = insert_if_absent(sealing_wrap, **{name: bindparam(name) for name in ("key_id", "master_id", "wrapped")})
_activate = (
    update(sealing_key)
    .where(sealing_key.c.id == bindparam("key_id"), sealing_key.c.active_at == 0)
    .values(active_at=bindparam("now"))
)
_claim = (
    update(sealing_key)
    .where(
        sealing_key.c.id == bindparam("key_id"),
        or_(sealing_key.c.lease_until < bindparam("now"), sealing_key.c.lease_owner == bindparam("owner")),
    )
    .values(lease_owner=bindparam("owner"), lease_until=bindparam("until"))
)
_remove = delete(sealing_key).where(sealing_key.c.id == bindparam("gone"))
_remove_wraps = delete(sealing_wrap).where(sealing_wrap.c.key_id == bindparam("gone"))
_forget_masters = delete(sealing_wrap).where(sealing_wrap.c.master_id != bindparam("kept"))


@dataclass(frozen=True, slots=True)
class DataKey:
    """`state`: coming (known, but not sealed with yet), current, or old."""

    id: str
    created_at: float
    state: str


@dataclass(frozen=True, slots=True)
class Stored:
    """All keys as they lie in the database; `wraps` by key id and master id."""

    generation: int
    rows: tuple[Row, ...]
    wraps: dict[tuple[str, str], bytes]

    @property
    def masters(self) -> list[str]:
        """Ids of the master keys of which each one opens all."""
        return sorted({master for _, master in self.wraps})

    @property
    def data_keys(self) -> list[DataKey]:
        """The oldest first."""
        found = [row for row in self.rows if row["purpose"] == "data"]
        current = next((row["id"] for row in reversed(found) if row["active_at"]), "")
        return [DataKey(row["id"], row["created_at"], _state(row, current)) for row in found]

    @property
    def root(self) -> str:
        return next(str(row["id"]) for row in self.rows if row["purpose"] == "root")


def _state(row: Row, current: str) -> str:
    if not row["active_at"]:
        return "coming"
    return "current" if row["id"] == current else "old"


async def stored(tx: Transaction) -> Stored:
    generation = await events.value_of(tx, COUNTER)
    rows, wraps = await tx.all(_keys), await tx.all(_wraps)
    return Stored(generation, tuple(rows), {(row["key_id"], row["master_id"]): row["wrapped"] for row in wraps})


@dataclass(slots=True)
class DataKeys:
    """What this process has of them. `generation` is the counter's value of which `sealer` has the keys."""

    database: Database
    place: Place
    sealer: Sealer
    _master: MasterKey
    _held: Keys
    generation: int
    _unfit: int = -1

    @property
    def master_id(self) -> str:
        return self._master.id

    @property
    def changing(self) -> bool:
        """Whether there is more than one data key, as far as this process knows."""
        return len(self._held.sealing) > 1

    async def load(self) -> None:
        """Take what is in the database. Where the key we sealed with until now is gone, it is put back.

        With a master key that does not open it any more we go on with what we have.
        """
        found = await self.database.read(stored)
        if self._master.id not in found.masters:
            if found.generation != self._unfit:
                log.error("the master key was changed elsewhere: give this gateway the new one", key=self._master.id)
            self._unfit = found.generation
            return
        if all(key.id != self._held.current for key in found.data_keys):
            found = await self.database.write(self._put_back)
        self._take(found)

    def _take(self, found: Stored) -> None:
        self._held = _unwrapped(found, self._master)
        self.sealer.take(self._held)
        self.generation = found.generation

    async def _put_back(self, tx: Transaction) -> Stored:
        await events.bump(tx, COUNTER)
        key_id = self._held.current
        await tx.run(_add_key, id=key_id, purpose="data", created_at=1.0, active_at=1.0)
        await self._wrap(tx, key_id, self._held.sealing[key_id])
        return await stored(tx)

    async def _wrap(self, tx: Transaction, key_id: str, key: bytes) -> None:
        master = self._master
        await tx.run(_add_wrap, key_id=key_id, master_id=master.id, wrapped=master.wrap(key, key_id))

    # The data key

    async def add(self) -> None:
        """Make a key and make it known; nothing is sealed with it yet. Nothing happens while a change is under way.

        Raises ProblemError while the master key is being changed.
        """

        async def work(tx: Transaction) -> Stored:
            await events.bump(tx, COUNTER)
            before = await stored(tx)
            if before.masters != [self._master.id]:
                raise problem(
                    "key.master-unfinished",
                    "The master key is being changed, and another one still opens the database.",
                    "Finish that first: posthouse key rotate --finish",
                )
            if len(before.data_keys) == 1:
                key_id, key = new_data_key()
                await tx.run(_add_key, id=key_id, purpose="data", created_at=await tx.now(), active_at=0.0)
                await self._wrap(tx, key_id, key)
            return await stored(tx)

        self._take(await self.database.write(work))

    async def activate(self) -> bool:
        """Seal with the new key from now on, if every node that is running knows it."""

        async def work(tx: Transaction) -> Stored | None:
            before = await stored(tx)
            coming = [key for key in before.data_keys if key.state == "coming"]
            if not coming or not await self._is_known(tx, before.generation):
                return None
            await events.bump(tx, COUNTER)
            await tx.run(_activate, key_id=coming[0].id, now=await tx.now())
            return await stored(tx)

        found = await self.database.write(work)
        if found is not None:
            self._take(found)
        return found is not None

    async def all_know(self) -> bool:
        """Whether every node that is running has the keys as they are now."""

        async def work(tx: Transaction) -> bool:
            return await self._is_known(tx, await events.value_of(tx, COUNTER))

        return await self.database.read(work)

    async def _is_known(self, tx: Transaction, generation: int) -> bool:
        if self.generation < generation:
            return False
        return self.database.embedded or all(row["keys_known"] >= generation for row in await leases.alive(tx))

    async def claim(self, key_id: str, owner: str) -> bool:
        """Be the one that seals anew what lies under this key."""

        async def work(tx: Transaction) -> bool:
            now = await tx.now()
            return bool(await tx.run(_claim, key_id=key_id, owner=owner, now=now, until=now + LEASE))

        return await self.database.write(work)

    async def remove(self, key_id: str) -> None:
        """Forget an old data key, which nothing lies under any more."""

        async def work(tx: Transaction) -> Stored:
            await events.bump(tx, COUNTER)
            if any(key.id == key_id and key.state == "old" for key in (await stored(tx)).data_keys):
                await tx.run(_remove, gone=key_id)
                await tx.run(_remove_wraps, gone=key_id)
            return await stored(tx)

        self._take(await self.database.write(work))

    # The master key

    async def wrap_with(self, new: MasterKey) -> None:
        """From now on either master key opens the database."""

        async def work(tx: Transaction) -> None:
            await events.bump(tx, COUNTER)
            found = await stored(tx)
            for row in found.rows:
                key_id = row["id"]
                key = self._master.unwrap(found.wraps[key_id, self._master.id], key_id)
                await tx.run(_add_wrap, key_id=key_id, master_id=new.id, wrapped=new.wrap(key, key_id))

        await self.database.write(work)

    def use(self, master: MasterKey) -> None:
        """The master key that lies at its place from now on, and that the database knows already."""
        self._master = master

    async def forget_other_masters(self, node_id: str) -> int:
        """Only the master key in use opens the database from now on; how many others were forgotten.

        Raises ProblemError where a running node other than `node_id` still has another one, Unsealable where ours
        does not open all.
        """

        async def work(tx: Transaction) -> int:
            await events.bump(tx, COUNTER)
            found = await stored(tx)
            _unwrapped(found, self._master)
            fits = ("", self._master.id)
            living = await leases.alive(tx)
            behind = [row["id"] for row in living if row["master_id"] not in fits and row["id"] != node_id]
            if behind and not self.database.embedded:
                raise problem(
                    "key.still-used",
                    f"{', '.join(behind[:5])} still runs with another master key.",
                    "Give it the new one, restart it, and say this again.",
                )
            await tx.run(_forget_masters, kept=self._master.id)
            return len(found.masters) - 1

        return await self.database.write(work)


def _unwrapped(found: Stored, master: MasterKey) -> Keys:
    """Raises Unsealable."""
    keys = {}
    for row in found.rows:
        wrapped = found.wraps.get((row["id"], master.id))
        if wrapped is None:
            raise Unsealable("not the master key that wrapped this data key")
        keys[row["id"]] = master.unwrap(wrapped, row["id"])
    root = keys.pop(found.root)
    return Keys(keys, next(key.id for key in found.data_keys if key.state == "current"), root)


async def open_keys(database: Database, place: Place) -> DataKeys:
    """A master key is only made where nothing has been sealed yet. Raises ProblemError."""
    known = await database.read(stored)
    master = read_master_key(place, make=not known.rows, new=new_master_text())
    found = known if known.rows else await database.write(lambda tx: _first_keys(tx, master))
    try:
        keys = _unwrapped(found, master)
    except Unsealable:
        raise wrong_key(place, master, found.masters) from None
    return DataKeys(database, place, Sealer(keys), master, keys, found.generation)


async def _first_keys(tx: Transaction, master: MasterKey) -> Stored:
    """Make the first keys, unless another node, which the counter lets pass first, has just done it."""
    await events.bump(tx, COUNTER)
    if not (await stored(tx)).rows:
        for purpose in ("root", "data"):
            key_id, key = new_data_key()
            now = await tx.now()
            await tx.run(_add_key, id=key_id, purpose=purpose, created_at=now, active_at=now)
            await tx.run(_add_wrap, key_id=key_id, master_id=master.id, wrapped=master.wrap(key, key_id))
    return await stored(tx)
