"""Forgets what is over once the administrator's retention has passed; nothing that waits is ever touched."""

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from posthouse.model.message import MessageState
from posthouse.services.clock import Clock
from posthouse.settings import Retention
from posthouse.store import events, journal, messages, notices
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.opening import Store

PAUSE = 3600.0
BATCH = 500
"""Rows that one commit forgets, so that nobody waits long."""

log = structlog.get_logger("retention")


@dataclass(frozen=True, slots=True)
class Retaining:
    store: Store
    clock: Clock
    retention: Retention

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> None:
        """Forget what has been kept long enough."""
        now = self.clock()
        for state, kept in ((MessageState.SENT, self.retention.sent), (MessageState.FAILED, self.retention.failed)):
            if kept:
                await self._forget_messages(state, now - kept)
        if self.retention.journal:
            await self._forget_history(now - self.retention.journal)

    async def _forget_messages(self, state: MessageState, before: float) -> None:
        forgotten = 0
        while gone := await self.store.database.write(lambda tx: messages.prune(tx, state, before, BATCH), long=True):
            for message_id, pieces in gone:
                if pieces:
                    await self.store.spool.remove(message_id)
            forgotten += len(gone)
        if forgotten:
            log.info("messages forgotten", state=str(state), count=forgotten)

    async def _forget_history(self, before: float) -> None:
        async def work(tx: Transaction) -> int:
            return sum([await of.prune(tx, before, BATCH) for of in (journal, events, notices)])

        forgotten = 0
        while gone := await self.store.database.write(work, long=True):
            forgotten += gone
        if forgotten:
            log.info("history forgotten", lines=forgotten)
