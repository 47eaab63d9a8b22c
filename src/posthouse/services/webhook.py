"""Calls the webhook of `[notices]` until it has taken each notice: at least once, signed as Standard Webhooks says.

A call is claimed by a lease, so that two nodes do not make it at once; its id stays the same when it is made again.
"""

import asyncio
import base64
import contextlib
from dataclasses import dataclass

import structlog
from standardwebhooks.webhooks import Webhook as Signer

from posthouse import __version__
from posthouse.model.outcome import Unreachable
from posthouse.net.http import HttpClient
from posthouse.secret import Secret
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.telling import LIFE, WEBHOOK
from posthouse.store import notices
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.notices import Telling
from posthouse.store.opening import Store
from posthouse.store.sealing import Sealer

POLL = 1.0
DEADLINE, LEASE = 15.0, 60.0
"""Seconds for a call, from connecting to the last octet of the answer; and for which nobody else makes it."""
_PAUSES = (5.0, 30.0, 120.0, 300.0, 900.0, 1800.0, 3600.0)
GONE = 410

log = structlog.get_logger("webhook")


@dataclass(frozen=True, slots=True)
class Webhook:
    """`url` is often a secret in itself; posthouse.toml names it, so it may be anywhere, on loopback too."""

    store: Store
    http: HttpClient
    clock: Clock
    url: str

    async def run(self) -> None:
        """Until cancelled."""
        while self.url:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()
            await asyncio.sleep(POLL)

    async def look(self) -> int:
        """Make the calls that are due; how many were taken."""
        taken = 0
        while claimed := await self.store.database.write(lambda tx: notices.claim(tx, WEBHOOK, self.clock(), LEASE)):
            taken += await self._call(claimed)
        return taken

    async def _call(self, telling: Telling) -> bool:
        why = _why_not(await self._post(telling))
        state, next_at = self._judged(telling, why)
        await self.store.database.write(lambda tx: notices.settle(tx, telling, state, next_at=next_at, answer=why))
        if why:
            log.warning("webhook did not take a notice", telling=telling.id, why=why, given_up=state == notices.FAILED)
        return not why

    async def _post(self, telling: Telling) -> int | Unreachable:
        """The status of the answer; of what it says nothing is kept."""
        headers = signed(secret(self.store.sealer), telling.id, telling.document, self.clock())
        answer = await self.http.post(self.url, headers, telling.document.encode(), deadline=DEADLINE)
        return answer if isinstance(answer, Unreachable) else answer.status

    def _judged(self, telling: Telling, why: str) -> tuple[str, float]:
        if not why:
            return notices.DONE, 0.0
        if why == _status(GONE) or telling.at < self.clock() - LIFE:
            return notices.FAILED, 0.0
        return notices.WAITING, self.clock() + _PAUSES[min(telling.attempts, len(_PAUSES) - 1)]


def _why_not(answer: int | Unreachable) -> str:
    if isinstance(answer, Unreachable):
        return "no answer in time" if "in time" in answer.what else "no answer"
    return "" if 200 <= answer < 300 else _status(answer)


def _status(status: int) -> str:
    return f"the answer was {status}"


def secret(sealer: Sealer) -> Secret:
    """What the receiver checks the signature with; the same on all nodes, for ever."""
    return Secret("whsec_" + base64.b64encode(sealer.derive("webhook of the notices")).decode())


def signed(key: Secret, call_id: str, payload: str, now: float) -> dict[str, str]:
    """The headers of a call."""
    at = as_datetime(int(now))
    return {
        "content-type": "application/json",
        "user-agent": f"Posthouse/{__version__}",
        "webhook-id": call_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": Signer(key.reveal()).sign(call_id, at, payload),
    }
