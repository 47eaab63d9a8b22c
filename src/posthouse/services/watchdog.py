"""Notices what does not happen: mail that is due and does not get away, mail that stays parked for days.

Each is an event, once over all nodes for each episode: until the next success, or until nothing is parked any more.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from posthouse.model.message import MessageState
from posthouse.services import storage
from posthouse.services.clock import Clock
from posthouse.store import events, messages, notices
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.messages import Wanted
from posthouse.store.opening import Store
from posthouse.store.trouble import Trouble

PAUSE = 30.0
GRACE = 300.0
"""Seconds after its start that a gateway gets to send what has waited while it was off."""
STUCK, PARKED, SILENT, DISK = "stuck", "parked", "silent", "disk"
DAY = 86_400.0
WARNED_AT = (1, 3, 7)
"""Days that the oldest parked message of a mailbox waits before each warning."""

log = structlog.get_logger("watchdog")


@dataclass(frozen=True, slots=True)
class _Seen:
    """Since when mail waits, by mailbox: to be sent with no success for too long, and parked. And what was told."""

    stuck: dict[str, float]
    parked: dict[str, float]
    episodes: dict[tuple[str, str], int]


@dataclass(slots=True)
class Watchdog:
    store: Store
    clock: Clock
    silence: float
    started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> int:
        """Tell what is new; how much that was. What is over ends its episode."""
        now = self.clock()
        seen = await self.store.database.read(lambda tx: self._see(tx, now))
        told = [await self._reach(one, STUCK, since, 1, now) for one, since in seen.stuck.items() if self._is_settled]
        for mailbox_id, since in seen.parked.items():
            if days := _days(now - since):
                told.append(await self._reach(mailbox_id, PARKED, since, days, now))
        told.append(await self._look_at_disk(seen, now))
        for mailbox_id, what in _over(seen, now):
            await self._end(mailbox_id, what, now)
        return sum(told)

    async def _look_at_disk(self, seen: _Seen, now: float) -> bool:
        """What is left free is enough to write that down, unless it was all used up at once."""
        place = self.store.spool.place
        if storage.trouble_of(self.store) is Trouble.FULL:
            return await self._reach(place, DISK, now, 1, now)
        if (place, DISK) in seen.episodes:
            await self._end(place, DISK, now)
        return False

    @property
    def _is_settled(self) -> bool:
        return self.clock() - self.started_at >= min(self.silence, GRACE)

    async def _see(self, tx: Transaction, now: float) -> _Seen:
        before = now - self.silence
        waits = await messages.waits_since(tx)
        stuck = {
            mailbox_id: since
            for mailbox_id, since in waits.items()
            if since <= before and not await messages.was_sent_after(tx, mailbox_id, before)
        }
        return _Seen(stuck, await messages.parked_since(tx), await notices.episodes(tx))

    async def _reach(self, mailbox_id: str, what: str, since: float, level: int, now: float) -> bool:
        """Whether it is this node that tells it."""

        async def work(tx: Transaction) -> bool:
            if (await notices.episodes(tx)).get((mailbox_id, what), 0) >= level:
                return False
            if not await notices.reach(tx, mailbox_id, what, since, level):
                return False
            if what == STUCK:
                await events.record(tx, now, "queue.stuck", mailbox_id, since=since, cause=await _why(tx, mailbox_id))
            elif what == DISK:
                await events.record(tx, now, "disk.full", mailbox_id)
            else:
                await events.record(tx, now, "message.parked", mailbox_id, since=since, days=level)
            return True

        told = await self.store.database.write(work)
        if told and what == DISK:
            log.warning("the disk is full", place=mailbox_id)
        elif told:
            log.warning("mail waits", what=what, mailbox=mailbox_id, hours=round((now - since) / 3600, 1))
        return told

    async def _end(self, mailbox_id: str, what: str, now: float) -> None:
        async def work(tx: Transaction) -> None:
            if await notices.end_episode(tx, mailbox_id, what) and what == STUCK:
                await events.record(tx, now, "queue.recovered", mailbox_id)

        await self.store.database.write(work)


def _over(seen: _Seen, now: float) -> Iterable[tuple[str, str]]:
    """Parked mail that is younger than what was told begins anew."""
    for (mailbox_id, what), level in seen.episodes.items():
        if what == DISK:
            continue
        days = _days(now - seen.parked.get(mailbox_id, now))
        if mailbox_id not in seen.stuck if what == STUCK else days < level:
            yield mailbox_id, what


def _days(seconds: float) -> int:
    """The last warning that is due; 0 for none."""
    return max((days for days in WARNED_AT if seconds >= days * DAY), default=0)


async def _why(tx: Transaction, mailbox_id: str) -> str:
    """What was last said about a message that waits."""
    found = await messages.page(tx, wanted=Wanted(str(MessageState.QUEUED), mailbox_id))
    return next((one.cause or one.answer for one in found if one.cause or one.answer), "")
