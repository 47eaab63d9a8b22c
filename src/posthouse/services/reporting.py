"""Tells the sender of a message that has failed: a delivery report goes into the queue, once over all nodes.

It leaves by the mailbox that could not deliver the message, whose owner the sender is, or stands in for. What cannot
be reported, such as a report, is passed over. The report and the reader's new place are one commit.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from posthouse.model.delivery_report import Undelivered, delivery_report, may_be_reported
from posthouse.model.headers import split
from posthouse.model.mailbox import Mailbox
from posthouse.model.message import DEADLINE, Envelope, NewMessage
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.directory import Directory
from posthouse.store import events, messages
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.events import Event
from posthouse.store.ids import new_message_id
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

READER = "reporting"
DEVICE = "Posthouse"
"""In whose name reports lie in the queue."""
POLL = 1.0
TOO_OLD = DEADLINE
"""Seconds after which a failure is no news any more."""

log = structlog.get_logger("reporting")


@dataclass(slots=True)
class Reporting:
    """`accepted(mailbox_id)` is called when a report is on disk."""

    store: Store
    directory: Directory
    clock: Clock
    hostname: str
    accepted: Callable[[str], None]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()
            await asyncio.sleep(POLL)

    async def look(self) -> int:
        """Report what has failed since the last look; how many reports that were."""
        reported = 0
        position = await self.store.database.read(lambda tx: events.position_of(tx, READER))
        while found := await self.store.database.read(lambda tx, after=position: events.after(tx, after)):  # type: ignore[misc]
            for event in found:
                if event.kind == "message.failed":
                    reported += await self._report(event)
            position = found[-1].id
            await self.store.database.write(lambda tx, to=position: events.move(tx, READER, to))  # type: ignore[misc]
        return reported

    async def _report(self, event: Event) -> bool:
        """Whether there is a report now that there was not before; another node may have made it."""
        now = self.clock()

        async def work(tx: Transaction) -> str | None:
            if not await events.move(tx, READER, event.id) or event.at < now - TOO_OLD:
                return None
            new = await self._made(tx, event, now)
            if new is None:
                return None
            try:
                await messages.accept(tx, new, now, now + DEADLINE)
            except messages.MailboxGone:
                return None
            return new.mailbox_id

        mailbox_id = await self.store.database.write(work)
        if mailbox_id is not None:
            log.info("failure reported", message=event.subject, mailbox=mailbox_id)
            self.accepted(mailbox_id)
        return mailbox_id is not None

    async def _made(self, tx: Transaction, event: Event, now: float) -> NewMessage | None:
        failed = await messages.one(tx, event.subject)
        sealed = await messages.body_of(tx, event.subject)
        mailbox = self.directory.now.mailboxes.get(failed.mailbox_id) if failed else None
        if failed is None or sealed is None or mailbox is None or not mailbox.settings.send:
            return None
        try:
            header = _header_of(self.store.sealer.open(sealed, f"message:{failed.id}"))
        except Unsealable as cause:
            log.error("failed message cannot be read", message=failed.id, cause=str(cause))
            return None
        if not may_be_reported(failed.sender, header):
            return None
        about = Undelivered(
            failed.id, failed.sender, failed.subject, failed.recipients, failed.cause,
            as_datetime(failed.created_at), as_datetime(event.at), header,
        )  # fmt: skip
        return self._queued(about, mailbox, now)

    def _queued(self, about: Undelivered, mailbox: Mailbox, now: float) -> NewMessage:
        queue_id = new_message_id(now)
        sender = mailbox.settings.sender_address or mailbox.address
        message_id = f"<{queue_id}@{mailbox.address.rpartition('@')[2]}>"
        octets = delivery_report(about, reporter=sender, hostname=self.hostname, message_id=message_id)
        return NewMessage(
            id=queue_id,
            mailbox_id=mailbox.id,
            device=DEVICE,
            envelope=Envelope(sender, (about.sender,), not about.sender.isascii(), not octets.isascii()),
            message_id=message_id,
            subject=about.title[:300],
            size=len(octets),
            body=self.store.sealer.seal(octets, f"message:{queue_id}"),
        )


def _header_of(octets: bytes) -> bytes:
    end = split(octets)
    return octets[:end] if end >= 0 else octets
