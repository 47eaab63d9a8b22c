"""Notices what does not happen: mail that is due and does not get away, mail that stays parked for days.

Each is an event, once over all nodes for each episode: until the next success, or until nothing is parked any more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

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
    """Since when mail waits, by mailbox: to be sent with no success for too long, and parked. Whether there is room on
    the disk of `place`. And what was told.
    """

    at: float
    stuck: dict[str, float]
    parked: dict[str, float]
    place: str
    has_room: bool
    episodes: dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What can be noticed: its event and what that says of a subject since a time, at a level; when it is over."""

    event: str
    says: Callable[[Transaction, str, float, int], Awaitable[dict[str, Any]]]
    is_over: Callable[[_Seen, str, int], bool]
    event_at_end: str = ""


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
        if not seen.has_room:  # what is left is enough to write that down, unless it was all used up at once
            told.append(await self._reach(seen.place, DISK, now, 1, now))
        for subject, what in _over(seen):
            await self._end(subject, what, now)
        return sum(told)

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
        parked, episodes = await messages.parked_since(tx), await notices.episodes(tx)
        has_room = storage.trouble_of(self.store) is not Trouble.FULL
        return _Seen(now, stuck, parked, self.store.spool.place, has_room, episodes)

    async def _reach(self, subject: str, what: str, since: float, level: int, now: float) -> bool:
        """Whether it is this node that tells it."""
        kind = _KINDS[what]

        async def work(tx: Transaction) -> bool:
            if (await notices.episodes(tx)).get((subject, what), 0) >= level:
                return False
            if not await notices.reach(tx, subject, what, since, level):
                return False
            await events.record(tx, now, kind.event, subject, **await kind.says(tx, subject, since, level))
            return True

        told = await self.store.database.write(work)
        if told:
            log.warning(kind.event, subject=subject, hours=round((now - since) / 3600, 1))
        return told

    async def _end(self, subject: str, what: str, now: float) -> None:
        event = _KINDS[what].event_at_end

        async def work(tx: Transaction) -> None:
            if await notices.end_episode(tx, subject, what) and event:
                await events.record(tx, now, event, subject)

        await self.store.database.write(work)


def _over(seen: _Seen) -> Iterable[tuple[str, str]]:
    """Of what is noticed here; whoever notices something else says when that is over."""
    for (subject, what), level in seen.episodes.items():
        if what in _KINDS and _KINDS[what].is_over(seen, subject, level):
            yield subject, what


def _days(seconds: float) -> int:
    """The last warning that is due; 0 for none."""
    return max((days for days in WARNED_AT if seconds >= days * DAY), default=0)


async def _why(tx: Transaction, mailbox_id: str) -> str:
    """What was last said about a message that waits."""
    found = await messages.page(tx, wanted=Wanted(str(MessageState.QUEUED), mailbox_id))
    return next((one.cause or one.answer for one in found if one.cause or one.answer), "")


async def _of_stuck(tx: Transaction, mailbox_id: str, since: float, level: int) -> dict[str, Any]:
    return {"since": since, "cause": await _why(tx, mailbox_id)}


async def _of_parked(tx: Transaction, mailbox_id: str, since: float, days: int) -> dict[str, Any]:
    return {"since": since, "days": days}


async def _of_disk(tx: Transaction, place: str, since: float, level: int) -> dict[str, Any]:
    return {}


def _gets_away(seen: _Seen, mailbox_id: str, level: int) -> bool:
    return mailbox_id not in seen.stuck


def _waits_less(seen: _Seen, mailbox_id: str, days: int) -> bool:
    """Parked mail that is younger than what was told begins anew."""
    return _days(seen.at - seen.parked.get(mailbox_id, seen.at)) < days


def _has_room(seen: _Seen, place: str, level: int) -> bool:
    return seen.has_room and place == seen.place


_KINDS = {
    STUCK: _Kind("queue.stuck", _of_stuck, _gets_away, "queue.recovered"),
    PARKED: _Kind("message.parked", _of_parked, _waits_less),
    DISK: _Kind("disk.full", _of_disk, _has_room),
}
