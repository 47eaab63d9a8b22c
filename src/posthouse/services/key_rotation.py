"""A new data key, while everything goes on: made known to all nodes, then sealed with; what lies under the old one
is sealed anew in small steps, and the old one removed when nothing lies under it any more.

Every step is a transaction that can be done again, so a kill at any moment costs nothing but the step.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from posthouse.services.clock import Clock
from posthouse.store import data_keys, messages, sealed
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.opening import Store
from posthouse.store.sealed import SEALED, Position, Sealed

QUIET = 600.0
"""Seconds after all nodes seal with the new key before the old one may go: what was on its way is written by then."""
POLL = 2.0
LEFT_AGAIN = 300.0
"""Seconds until what could not be exchanged is tried again."""

log = structlog.get_logger("key_rotation")


@dataclass(slots=True)
class _Walk:
    """One way through everything that lies sealed. `left` could not be exchanged, of that `unreadable` not opened."""

    key_id: str
    begun_at: float
    tables: Iterator[Sealed] = field(default_factory=lambda: iter(SEALED))
    table: Sealed | None = None
    after: Position | None = None
    exchanged: int = 0
    left: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class KeyRotation:
    """`unreadable`: how many values the last way through could not open."""

    store: Store
    node_id: str
    clock: Clock
    quiet: float = QUIET
    unreadable: int = 0
    _walk: _Walk | None = None
    _known: tuple[int, float] | None = None
    _rest_until: float = 0.0

    async def begin(self) -> None:
        """Make a new data key, or go on with a change that is under way. Raises ProblemError."""
        await self.store.keys.add()
        self._rest_until = 0.0

    async def run(self) -> None:
        """Do what there is to do, until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                while self.clock() >= self._rest_until and await self.turn():
                    await asyncio.sleep(0)
            await asyncio.sleep(POLL)

    async def turn(self, *, alone: bool = False) -> bool:
        """One bounded step; whether another may follow at once.

        `alone`: nobody else works on this database, so nothing can be on its way.
        """
        keys = self.store.keys
        if not keys.changing:
            return False
        found = (await self.store.database.read(data_keys.stored)).data_keys
        if any(key.state == "coming" for key in found):
            return await keys.activate()
        old = next((key.id for key in found if key.state == "old"), None)
        if old is None or not (alone or await keys.claim(old, self.node_id)):
            return False
        if self._walk is None or self._walk.key_id != old:
            await self._note_known()
            self._walk = _Walk(old, self.clock())
        return await self._step(self._walk, alone=alone)

    async def _note_known(self) -> None:
        """From when on all running nodes have sealed with the new key."""
        generation = self.store.keys.generation
        if not await self.store.keys.all_know():
            self._known = None
        elif self._known is None or self._known[0] != generation:
            self._known = (generation, self.clock())

    async def _step(self, walk: _Walk, *, alone: bool) -> bool:
        if walk.after is None:
            walk.table = next(walk.tables, None)
        if walk.table is not None:
            walk.after = await self._page(walk, walk.table)
            return True
        await self._files(walk, alone=alone)
        self._walk = None
        return await self._end(walk, alone=alone)

    async def _page(self, walk: _Walk, of: Sealed) -> Position | None:
        database, sealer = self.store.database, self.store.sealer
        page = await database.read(lambda tx: sealed.under(tx, of, walk.key_id, walk.after))
        exchanges, unreadable = await asyncio.to_thread(sealed.seal_anew, of, page.rows, sealer)
        if exchanges:
            await database.write(lambda tx: sealed.exchange(tx, of, exchanges), long=True)
        walk.exchanged += len(exchanges)
        walk.left += unreadable
        walk.unreadable += unreadable
        return page.next

    async def _files(self, walk: _Walk, *, alone: bool) -> None:
        """The file of a message that is still coming in has no row yet, and is left alone until it has."""
        names = (await self.store.spool.under()).get(walk.key_id, [])
        known = await self.store.database.read(messages.with_pieces) if names else set()
        for name in names:
            if name not in known:
                walk.left += not alone
            elif await self.store.spool.seal_anew(name):
                walk.exchanged += 1
            else:
                walk.left += 1
                walk.unreadable += 1

    async def _end(self, walk: _Walk, *, alone: bool) -> bool:
        self.unreadable = walk.unreadable
        if walk.exchanged:
            return True
        settled = alone or (self._known is not None and walk.begun_at >= self._known[1] + self.quiet)
        if settled and not walk.left:
            await self.store.keys.remove(walk.key_id)
            log.info("data key removed", key=walk.key_id)
            return True
        self._rest_until = self._next_walk(walk)
        return False

    def _next_walk(self, walk: _Walk) -> float:
        if walk.left:
            return self.clock() + LEFT_AGAIN
        return self._known[1] + self.quiet if self._known else self.clock() + POLL

    async def survey(self) -> dict[str, dict[str, int]]:
        """How many values lie under which key: by what they are, then by the id of the key."""
        found: dict[str, dict[str, int]] = {}
        for of in SEALED:
            counts, after = found.setdefault(of.what, {}), None
            for _ in itertools.count():
                page, after = await self.store.database.read(lambda tx, at=after, of=of: sealed.count(tx, of, at))  # type: ignore[misc]
                for key_id, number in page.items():
                    counts[key_id] = counts.get(key_id, 0) + number
                if after is None:
                    break
        files = await self.store.spool.under()
        if files:
            found["parts of messages"] = {key_id: len(names) for key_id, names in files.items()}
        return found
