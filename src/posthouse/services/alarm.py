"""Hands notices over by the token that is for them alone: past the queue, which may be what is broken.

A mail is claimed by a lease like a call of the webhook. What cannot be handed over so is left to the queue.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog

from posthouse.model.mailbox import Mailbox
from posthouse.services.clock import Clock
from posthouse.services.credentials import Credentials
from posthouse.services.telling import LIFE, MAIL, Mail, Telling
from posthouse.services.token_keeper import NoToken
from posthouse.services.upstream import SmtpSession, UpstreamFailed, open_smtp
from posthouse.store import notices
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

POLL = 1.0
DEADLINE_OF_ONE, LEASE = 60.0, 120.0
"""Seconds for one mail, and for which nobody else hands it over."""
PAUSE = 300.0

log = structlog.get_logger("alarm")


@dataclass(frozen=True, slots=True)
class Alarm:
    store: Store
    telling: Telling
    credentials: Credentials
    clock: Clock
    hostname: str

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()
            await asyncio.sleep(POLL)

    async def look(self) -> int:
        """Hand over what waits; how many mails were taken."""
        taken = 0
        while mailbox := await self.store.database.read(self.telling.alone):
            claimed = await self.store.database.write(lambda tx: notices.claim(tx, MAIL, self.clock(), LEASE))
            if claimed is None:
                break
            taken += await self._hand_over(claimed, mailbox)
        return taken

    async def _hand_over(self, telling: notices.Telling, mailbox: Mailbox) -> bool:
        now = self.clock()
        try:
            async with asyncio.timeout(DEADLINE_OF_ONE):
                why = await self._why_not(telling, mailbox, now)
        except TimeoutError:
            why = "no answer in time"
        except (NoToken, UpstreamFailed, Unsealable, ValueError) as cause:
            why = str(cause)
        over = telling.at < now - LIFE
        state = notices.DONE if not why else notices.FAILED if over else notices.WAITING
        await self.store.database.write(
            lambda tx: notices.settle(tx, telling, state, next_at=now + PAUSE, mailbox_id=mailbox.id, answer=why[:500])
        )
        if why:
            log.warning("notice not handed over", mailbox=mailbox.id, why=why)
        return not why

    async def _why_not(self, telling: notices.Telling, mailbox: Mailbox, now: float) -> str:
        """What the server said against it. Raises NoToken, UpstreamFailed, Unsealable, ValueError."""
        mail = self.telling.mail(telling, mailbox, now)
        way = await self.credentials.way(mailbox, "smtp", purpose="notices")
        session = await open_smtp(
            way.endpoint,
            way.login,
            hostname=self.hostname,
            ca_file=way.ca_file,
            timeout=mailbox.settings.timeout,
        )
        try:
            return await _said_against(session, mail)
        finally:
            session.close()


async def _said_against(session: SmtpSession, mail: Mail) -> str:
    asked = mail.envelope
    session.engine.send_envelope(
        asked.sender, asked.recipients, len(mail.octets), smtputf8=asked.smtputf8, eight_bit=asked.eight_bit
    )
    session.push()
    envelope = await session.answered()
    refused = next((reply for reply in envelope.recipients if not reply.accepted), envelope.data or envelope.mail)
    if not envelope.go_ahead:
        return str(refused)
    verdict = await session.body(_whole(mail.octets)) or await session.verdict()
    return "" if verdict.accepted else str(verdict)


async def _whole(octets: bytes) -> AsyncGenerator[bytes]:
    yield octets
