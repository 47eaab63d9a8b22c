"""Tells notices: by a mail to the administrator, and by the webhook. What is told, and that it was, are one commit.

Everything that is due is told together. A mail goes through the queue like any other, by a mailbox that can send;
where the mailbox for notices has a token for them alone, `alarm` hands it over first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

import msgspec
import structlog

from posthouse.model.headers import plain_words
from posthouse.model.mailbox import Mailbox, fold
from posthouse.model.message import DEADLINE, Envelope, MessageState, NewMessage, Stage
from posthouse.model.notice import HOUR, MAILS_AN_HOUR, WHAT, Notice, names, sentence
from posthouse.model.token import TokenState
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.directory import Directory
from posthouse.services.watchdog import STUCK
from posthouse.settings import Settings
from posthouse.store import messages, notices, tokens
from posthouse.store.database import Transaction
from posthouse.store.ids import new_message_id
from posthouse.store.opening import Store

DEVICE = "Posthouse notices"
"""In whose name notices lie in the queue."""
MAIL, WEBHOOK = "mail", "webhook"
MOST_LINES = 50
LONGEST_LINE = 900
"""Octets; addresses of pages stay whole, also for who reads the mail as it came."""
MOST_MOVES = 10
PAUSE = 15.0
"""Seconds before it is looked again whether a mailbox can send, where none could."""
LIFE = 3 * 86_400.0
"""Seconds for which a way is tried."""
NOBODY = "no mailbox can send at the moment"

log = structlog.get_logger("notices")


@dataclass(frozen=True, slots=True)
class Telling:
    """`accepted(mailbox_id)` is called when a mail is in the queue."""

    store: Store
    directory: Directory
    clock: Clock
    settings: Settings
    accepted: Callable[[str], None]

    @property
    def ways(self) -> tuple[str, ...]:
        given = ((MAIL, self.settings.administrator), (WEBHOOK, self.settings.notices_webhook))
        return tuple(way for way, target in given if target)

    async def look(self) -> None:
        """Tell what is due, and see that mails get away."""
        await self._tell()
        for telling in await self.store.database.read(lambda tx: notices.unfinished(tx, MAIL)):
            await self._look_after(telling)

    async def _tell(self) -> None:
        now = self.clock()
        if not await self.store.database.read(lambda tx: notices.due(tx, now)):
            return

        async def work(tx: Transaction) -> int:
            for way in self.ways:
                if await notices.told_after(tx, way, now - HOUR) >= MAILS_AN_HOUR:
                    return 0
            found = [one for one in await notices.due(tx, now) if await notices.tell(tx, one, now)]
            news = [one for one in found if one.is_news]
            for way in self.ways if news else ():
                await notices.put(tx, way, document(news, now, self.settings.external_url), now)
            return len(news)

        if count := await self.store.database.write(work, long=True):
            log.warning("notices told", count=count, ways=list(self.ways))

    # Mails

    async def _look_after(self, telling: notices.Telling) -> None:
        """Into the queue, out of it again where its mailbox cannot send, and down in the books when it has gone."""
        now = self.clock()
        if telling.answer == NOBODY and telling.next_at > now:
            return

        async def work(tx: Transaction) -> str | None:
            message = await messages.one(tx, telling.message_id) if telling.state == notices.QUEUED else None
            if message is None and telling.state == notices.QUEUED:
                await notices.settle(tx, telling, notices.FAILED, answer="it was removed from the queue")
            elif message is None:
                left_alone = not telling.attempts and await self.alone(tx) is not None
                return None if left_alone else await self._queue(tx, telling, now, not_by="")
            elif message.state is MessageState.SENT:
                await notices.settle(tx, telling, notices.DONE, mailbox_id=message.mailbox_id, message_id=message.id)
            elif message.state is MessageState.FAILED:
                await notices.settle(tx, telling, notices.FAILED, message_id=message.id, answer=message.answer)
            elif message.stage is Stage.WAITING and telling.attempts < MOST_MOVES:
                return await self._move(tx, telling, message, now)
            return None

        mailbox_id = await self.store.database.write(work)
        if mailbox_id is not None:
            self.accepted(mailbox_id)

    async def _move(
        self, tx: Transaction, telling: notices.Telling, message: messages.Summary, now: float
    ) -> str | None:
        """To another mailbox, where the one it waits for cannot send by now and there is another one."""
        mailbox = self.directory.now.mailboxes.get(message.mailbox_id)
        able = mailbox is not None and await _can_log_in(tx, mailbox.for_setting("sending"))
        if message.held or (able and message.mailbox_id not in await _stuck(tx)):
            return None
        moved = await self._queue(tx, telling, now, not_by=message.mailbox_id)
        if moved is not None:
            await messages.remove(tx, message.id, now)
        return moved

    async def alone(self, tx: Transaction) -> Mailbox | None:
        """The mailbox for notices where it has a usable token for them alone: then the queue is not needed."""
        mailbox = self.directory.now.by_address.get(fold(self.settings.notices_mailbox))
        seen = mailbox.for_setting("notices") if mailbox else None
        if mailbox is None or seen is None or seen.way == mailbox.for_setting("sending").way:
            return None
        token = await tokens.get(tx, seen.token_id or "")
        return mailbox if token is not None and token.state is TokenState.ACQUIRED else None

    async def _queue(self, tx: Transaction, telling: notices.Telling, now: float, *, not_by: str) -> str | None:
        """The id of the mailbox in whose queue it lies now; None where it stays as it was."""
        if telling.claimed_until > await tx.now():
            return None
        mailbox = await self._able(tx, not_by=not_by)
        if mailbox is None:
            over = telling.at < now - LIFE
            if telling.state == notices.WAITING and (over or telling.answer in ("", NOBODY)):
                state = notices.FAILED if over else notices.WAITING
                await notices.settle(tx, telling, state, next_at=now + PAUSE, answer=NOBODY)
            return None
        mail = self.mail(telling, mailbox, now)
        if not await notices.settle(tx, telling, notices.QUEUED, mailbox_id=mailbox.id, message_id=mail.id):
            return None
        sealed = self.store.sealer.seal(mail.octets, f"message:{mail.id}")
        await messages.accept(tx, mail.to_queue(mailbox.id, sealed), now, now + DEADLINE)
        return mailbox.id

    async def _able(self, tx: Transaction, *, not_by: str) -> Mailbox | None:
        """The best mailbox that can send: the one for notices, then the default one."""
        wanted = fold(self.settings.notices_mailbox)
        found = [one for one in self.directory.now.mailboxes.values() if one.settings.send and one.id != not_by]
        stuck = await _stuck(tx)
        for mailbox in sorted(found, key=lambda one: (one.address != wanted, not one.default, one.address)):
            if mailbox.id not in stuck and await _can_log_in(tx, mailbox.for_setting("sending")):
                return mailbox
        return None

    def mail(self, telling: notices.Telling, mailbox: Mailbox, now: float) -> "Mail":
        """A telling as `mailbox` sends it."""
        sender, to = mailbox.settings.sender_address or mailbox.address, self.settings.administrator
        queue_id, told = new_message_id(now), msgspec.json.decode(telling.document)
        mail = EmailMessage(policy=SMTP.clone(utf8=not (sender + to).isascii(), max_line_length=LONGEST_LINE))
        mail["From"], mail["To"], mail["Subject"] = (
            f"Posthouse <{sender}>",
            to,
            plain_words(f"Posthouse: {told['title']}"),
        )
        mail["Date"] = format_datetime(as_datetime(now))
        mail["Message-ID"] = f"<{queue_id}@{mailbox.address.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(told["text"] + self._footer(mailbox))
        return Mail(queue_id, sender, to, mail["Message-ID"], mail["Subject"], mail.as_bytes())

    def _footer(self, mailbox: Mailbox) -> str:
        """Where everything stands, and that this is not the way which was wished for."""
        wanted = self.settings.notices_mailbox
        instead = f"\n{wanted}, which is for notices, cannot send at the moment.\n"
        other = instead if wanted and mailbox.address != fold(wanted) else ""
        return f"\n\nAll notices: {self.settings.external_url}/notices\n{other}"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as it leaves, and what the queue has to know about it."""

    id: str
    sender: str
    to: str
    message_id: str
    subject: str
    octets: bytes = field(repr=False)

    @property
    def envelope(self) -> Envelope:
        return Envelope(self.sender, (self.to,), not (self.sender + self.to).isascii(), not self.octets.isascii())

    def to_queue(self, mailbox_id: str, sealed: bytes) -> NewMessage:
        size, subject = len(self.octets), self.subject[:300]
        return NewMessage(self.id, mailbox_id, DEVICE, self.envelope, self.message_id, subject, size, sealed)


async def _stuck(tx: Transaction) -> set[str]:
    return {subject for subject, what in await notices.episodes(tx) if what == STUCK}


async def _can_log_in(tx: Transaction, mailbox: Mailbox) -> bool:
    if not mailbox.app_id:
        return mailbox.has_password
    token = await tokens.get(tx, mailbox.token_id or "")
    return token is not None and token.state is TokenState.ACQUIRED


def document(told: Sequence[Notice], now: float, external_url: str) -> str:
    """What a telling says, as JSON: the payload of the webhook (Standard Webhooks), which a chat takes as well."""
    lines = [sentence(notice, as_datetime(notice.since), external_url) for notice in told[:MOST_LINES]]
    if len(told) > MOST_LINES:
        lines.append(f"And {len(told) - MOST_LINES} more: {external_url}/notices")
    payload = {
        "type": told[0].kind if len(told) == 1 else "notices",
        "timestamp": as_datetime(now).isoformat(),
        "title": title(told),
        "text": "\n\n".join(lines),
        "data": {"notices": [_in_short(notice, external_url) for notice in told[:MOST_LINES]]},
    }
    return msgspec.json.encode(payload).decode()


def title(told: Sequence[Notice]) -> str:
    if len(told) > 1:
        return f"{len(told)} notices"
    return f"{names(told[0])}: {WHAT[told[0].kind] if told[0].open else 'mended'}"


def _in_short(notice: Notice, external_url: str) -> dict[str, object]:
    return {
        "id": notice.id,
        "kind": notice.kind,
        "state": notice.state,
        "cause": notice.cause,
        "since": as_datetime(notice.since).isoformat(),
        "mailboxes": [one.name for one in notice.concerned[:MOST_LINES]],
        "count": len(notice.concerned),
        "next_step": notice.step,
        "url": f"{external_url}{notice.path}",
    }
