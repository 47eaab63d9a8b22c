"""Says before something ends that it will: the event token.expiring, once for each distance over all nodes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from posthouse.services.clock import Clock
from posthouse.services.directory import Directory, Snapshot
from posthouse.services.forecast import NAMED, Forecast, of_app, of_serving, warnings
from posthouse.store import configuration, events, forecasts
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.forecasts import Serving
from posthouse.store.opening import Store

PAUSE = 600.0
"""Seconds between two looks."""

log = structlog.get_logger("forewarning")


@dataclass(frozen=True, slots=True)
class _Found:
    """A warning that is due, and what it was concluded from."""

    forecast: Forecast
    distance: int
    serving: Serving | None = None


@dataclass(frozen=True, slots=True)
class Forewarning:
    store: Store
    directory: Directory
    clock: Clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> int:
        """Give the warnings that are due; how many. After a rest only the nearest distance of each is told."""
        await self.directory.refresh()
        snapshot, now = self.directory.now, self.clock()
        given = await self.store.database.read(forecasts.given)
        due = [found async for found in self._due(snapshot, now) if not _is_given(given, found)]
        told = [found for found in due if await self._give(found, snapshot, now)]
        if given:
            await self.store.database.write(forecasts.forget_gone)
        return len(told)

    async def standing(self) -> set[str]:
        """Ids of the app registrations and tokens of which something ends within 60 days or has ended."""
        return {found.forecast.subject async for found in self._due(self.directory.now, self.clock())}

    async def _due(self, snapshot: Snapshot, now: float) -> AsyncIterator[_Found]:
        for app in snapshot.configuration.apps.values():
            for forecast in warnings(of_app(snapshot, app), now):
                yield _found(forecast, now)
        async for serving in self._serving():
            for forecast in warnings(of_serving(snapshot, serving), now):
                yield _found(forecast, now, serving)

    async def _serving(self) -> AsyncIterator[Serving]:
        """All acquired tokens, read a page at a time."""
        position = ""
        while page := await self.store.database.read(lambda tx, after=position: forecasts.serving(tx, after)):  # type: ignore[misc]
            for serving in page:
                yield serving
            position = page[-1].token_id

    async def _give(self, found: _Found, snapshot: Snapshot, now: float) -> bool:
        async def work(tx: Transaction) -> bool:
            if not await _still_holds(tx, found, snapshot):
                return False
            if not await forecasts.give(tx, found.forecast.subject, found.forecast.ending, found.distance):
                return False
            await events.record(tx, now, "token.expiring", found.forecast.subject, **_document(found.forecast, now))
            return True

        told = await self.store.database.write(work)
        if told:
            _log(found, now)
        return told


async def _still_holds(tx: Transaction, found: _Found, snapshot: Snapshot) -> bool:
    """Whether nothing it was concluded from has changed; otherwise the next look concludes anew."""
    if await configuration.generation(tx) != snapshot.configuration.generation:
        return False
    seen = found.serving
    return seen is None or await forecasts.serving_one(tx, seen.token_id) == seen


def _found(forecast: Forecast, now: float, serving: Serving | None = None) -> _Found:
    return _Found(forecast, forecast.ending.distance(now) or 0, serving)


def _is_given(given: dict[tuple[str, str], tuple[float, int]], found: _Found) -> bool:
    forecast = found.forecast
    last = given.get((forecast.subject, str(forecast.ending.what)))
    return forecasts.is_given(last, forecast.ending, found.distance)


def _document(forecast: Forecast, now: float) -> dict[str, object]:
    ending = forecast.ending
    return {
        "what": str(ending.what),
        "name": forecast.name,
        "ends_at": ending.at,
        "days_left": ending.days_left(now),
        "next_step": ending.next_step,
        "mailboxes": list(forecast.mailboxes[:NAMED]),
        "count": len(forecast.mailboxes),
    }


def _log(found: _Found, now: float) -> None:
    ending = found.forecast.ending
    log.warning(
        "ends soon",
        subject=found.forecast.subject,
        what=str(ending.what),
        days_left=ending.days_left(now),
        mailboxes=len(found.forecast.mailboxes),
    )
