"""Follows the events of all nodes: rung at once for our own, looked for every second for the others'."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from posthouse.services.directory import Directory
from posthouse.store import events
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.events import Event
from posthouse.store.opening import Store

POLL = 1.0
Listener = Callable[[Event], Awaitable[None]]

log = structlog.get_logger("following")


class Following:
    """Calls listeners for each event once, in order, from the moment of `start`. Keeps the directory up to date."""

    def __init__(self, store: Store, directory: Directory) -> None:
        self._store = store
        self._directory = directory
        self._listeners: list[Listener] = []
        self._rung = asyncio.Event()
        self.position = 0

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def ring(self) -> None:
        """Something has just been written: look now."""
        self._rung.set()

    async def start(self) -> None:
        self.position = await self._store.database.read(lambda tx: events.value_of(tx, "event"))
        await self._directory.refresh()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._rung.wait()
            self._rung.clear()
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()

    async def look(self) -> None:
        """Tell about everything new. What could not be told for want of the database is told again."""
        await self._directory.refresh()
        while found := await self._store.database.read(lambda tx: events.after(tx, self.position)):
            for event in found:
                for listener in self._listeners:
                    await _tell(listener, event)
                self.position = event.id


async def _tell(listener: Listener, event: Event) -> None:
    """A listener that falls down keeps neither the others nor later events waiting."""
    try:
        await listener(event)
    except (DatabaseUnavailable, CommitUnknown):
        raise
    except Exception as cause:
        log.error("listener fell down", about=event.kind, kind=type(cause).__name__)
