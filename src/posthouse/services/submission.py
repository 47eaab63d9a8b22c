"""Accepting mail from devices: who is this, which mailbox, may it send as this, is it on disk, then 250."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import structlog

from posthouse.model.device import Device
from posthouse.model.headers import HEADER_LIMIT, BadHeader, Head, SenderChange, complete, date_text, split
from posthouse.model.mailbox import Mailbox
from posthouse.model.message import Envelope, NewMessage
from posthouse.model.sender import NotAllowed, Refuses, check_given, check_sender, choose_mailbox
from posthouse.net.channel import Channel
from posthouse.net.drive import converse, flush
from posthouse.protocol import smtp_reply as replies
from posthouse.protocol.smtp_reply import Reply
from posthouse.protocol.smtp_server import (
    Authenticate,
    BodyChunk,
    BodyEnd,
    DataBegun,
    Ended,
    Event,
    Greeted,
    MailFrom,
    RcptTo,
    Reset,
    ServerPolicy,
    SmtpServer,
    StartTls,
)
from posthouse.services import storage
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.device_login import DeviceLogins, LoginsBusy
from posthouse.services.directory import Directory
from posthouse.services.rates import Rates
from posthouse.store import messages
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.ids import new_message_id
from posthouse.store.opening import Store
from posthouse.store.spool import INLINE, PIECE, cut_piece
from posthouse.store.trouble import Trouble, of_disk

IDLE = 300.0
"""Seconds a client may be silent (RFC 5321 section 4.5.3.2.7)."""
PATIENCE = 2 * IDLE
"""Seconds in which a client that sends octets has to come to something: a command that counts, a line of a message."""
MESSAGE = 3600.0
"""Seconds a message may take from DATA to its end."""
LOOK_AT_DISK = 0.1
"""Seconds after which the disk is looked at again."""

_REFUSALS = {
    Trouble.FULL: replies.STORAGE_FULL,
    Trouble.UNWRITABLE: replies.CANNOT_KEEP,
    Trouble.LOCKED: replies.CANNOT_KEEP,
    Trouble.AWAY: replies.CANNOT_KEEP,
}

log = structlog.get_logger("submission")


@dataclass(frozen=True, slots=True)
class Door:
    """How one listener takes mail: the engine's policy, and the context for STARTTLS."""

    policy: ServerPolicy
    start_tls: Callable[[Channel], Awaitable[None]] | None = None


@dataclass(slots=True)
class Submission:
    """`accepted(mailbox_id)` is called when a message is on disk."""

    store: Store
    directory: Directory
    logins: DeviceLogins
    rates: Rates
    clock: Clock
    hostname: str
    accepted: Callable[[str], None]
    refuses: Refuses
    _looked_at: float = -LOOK_AT_DISK
    _refusal: Reply | None = None

    async def serve(self, channel: Channel, door: Door) -> None:
        """Talk with one client until it goes."""
        await _Conversation(self, channel, door).run()

    def refusal(self) -> Reply | None:
        """Why nothing can be taken at the moment, from anybody."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_AT_DISK:
            trouble = storage.trouble_of(self.store)
            self._looked_at, self._refusal = now, _REFUSALS[trouble] if trouble else None
        return self._refusal

    async def accept(self, new: NewMessage, deadline: float) -> bool:
        """Whether the message is on disk now. It fails when it is not delivered in `deadline` seconds.

        Raises MailboxGone and DatabaseUnavailable with nothing written, CommitUnknown where nobody can tell.
        """
        now = self.clock()
        try:
            await self.store.database.write(lambda tx: messages.accept(tx, new, now, now + deadline))
        except CommitUnknown as unheard:
            return await storage.was_accepted(self.store, new.id, unheard)
        return True


@dataclass(slots=True)
class _Mail:
    """One message that is coming in, of `most` octets where that is known.

    What is past the header is kept here up to PIECE, then spooled in pieces.
    """

    mailbox: Mailbox
    sender: str
    smtputf8: bool
    eight_bit: bool
    most: int
    id: str = field(default_factory=new_message_id)
    recipients: list[str] = field(default_factory=list)
    head: Head | None = None
    data: bytearray = field(default_factory=bytearray)
    pieces: int = 0
    size: int = 0
    refusal: Reply | None = None


class _Conversation:
    def __init__(self, service: Submission, channel: Channel, door: Door) -> None:
        self._service = service
        self._channel = channel
        self._door = door
        self._engine = SmtpServer(door.policy)
        self._device: Device | None = None
        self._named = ""
        self._mail: _Mail | None = None
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._message_ends = math.inf

    async def run(self) -> None:
        try:
            while not isinstance(event := await self._next_event(), Ended):
                await self._IN_TIME[type(event)](self, event)
        except TimeoutError:
            self._channel.write(replies.TIMED_OUT.encode())
        finally:
            await self._drop_mail()
        await flush(self._engine, self._channel, IDLE)

    async def _next_event(self) -> Event:
        """The next one that has to wait for something."""
        self._since = self._loop.time()
        return await converse(self._engine, self._channel, IDLE, self._deal_with, self._too_late)

    def _deal_with(self, event: Event) -> bool:
        """Whether it could be done without waiting for anything."""
        self._since = self._loop.time()
        quickly = self._AT_ONCE.get(type(event))
        return quickly is not None and quickly(self, event)

    def _too_late(self) -> bool:
        """A client that is busy and comes to nothing."""
        return self._loop.time() > min(self._since + PATIENCE, self._message_ends)

    async def _start_tls(self, _: StartTls) -> None:
        if self._door.start_tls is None:
            self._engine.reply(replies.TLS_UNAVAILABLE)
            return
        self._engine.reply(replies.READY_FOR_TLS)
        self._channel.write(self._engine.data_to_send())
        await self._door.start_tls(self._channel)
        self._engine.tls_started()

    def _authenticate_quickly(self, event: Authenticate) -> bool:
        credentials = event.credentials
        found = self._service.logins.check_quickly(credentials.user, credentials.secret, self._channel.peer, "smtp")
        if found is not None:
            self._logged_in(found)
        return found is not None

    async def _authenticate(self, event: Authenticate) -> None:
        credentials = event.credentials
        try:
            found = await self._service.logins.check(credentials.user, credentials.secret, self._channel.peer, "smtp")
        except LoginsBusy:
            self._engine.reply(replies.CANNOT_CHECK_PASSWORD)
            return
        if found is None:
            log.info("login refused", user=credentials.user[:100], peer=self._channel.peer)
            self._engine.reply(replies.WRONG_PASSWORD)
        else:
            self._logged_in(found)

    def _logged_in(self, found: tuple[Device, str]) -> None:
        self._device, self._named = found
        self._engine.reply(replies.AUTHENTICATED)

    def _mail_from(self, event: MailFrom) -> bool:
        device = self._device
        if device is not None and not self._service.rates.is_known(device):
            return False
        self._engine.reply(self._answer_to(event))
        return True

    async def _mail_from_after_a_look(self, event: MailFrom) -> None:
        """How much has been accepted from the device stands in the journal."""
        try:
            if device := self._as_it_is_now():
                await self._service.rates.look(device)
        except DatabaseUnavailable as cause:
            log.error("rate not known", cause=str(cause))
            self._engine.reply(replies.LOCAL_ERROR)
            return
        self._engine.reply(self._answer_to(event))

    def _answer_to(self, event: MailFrom) -> Reply:
        device = self._device = self._as_it_is_now()
        if device is None:
            return Reply(530, "5.7.0", "Authentication comes first")
        mailbox = choose_mailbox(device, self._named, event.address, self._service.directory.now.by_address)
        if isinstance(mailbox, NotAllowed):
            return _not_allowed(mailbox, device, event.address)
        if wrong := check_sender(device, mailbox, event.address, self._service.refuses):
            return _not_allowed(wrong, device, event.address)
        if too_fast := self._service.rates.refusal(device):
            log.info("rate refused", device=device.name, why=too_fast)
            return Reply(452, "4.7.1", too_fast)
        eight_bit, most = event.body == "8BITMIME", self._service.directory.now.size_limit(mailbox)
        if 0 < most < event.size:
            return _too_large(mailbox, most)
        self._mail = _Mail(mailbox, _envelope_sender(mailbox, event.address), event.smtputf8, eight_bit, most)
        return replies.SENDER_OK

    def _as_it_is_now(self) -> Device | None:
        """The device that logged in, with its present settings; None once it is removed or has another password."""
        then = self._device
        now = self._service.directory.now.configuration.devices.get(then.id) if then else None
        return now if now is not None and then is not None and now.password_hash == then.password_hash else None

    def _rcpt_to(self, event: RcptTo) -> bool:
        if refusal := self._service.refusal():
            self._engine.reply(refusal)
        elif self._mail is not None:
            self._mail.recipients.append(event.address)
            self._engine.reply(replies.RECIPIENT_OK)
        return True

    def _data_begun(self, _: DataBegun) -> bool:
        self._message_ends = self._loop.time() + MESSAGE
        self._engine.reply(self._service.refusal() or replies.GO_AHEAD)
        return True

    def _body_chunk(self, event: BodyChunk) -> bool:
        """Taken; but full pieces have still to be written."""
        mail = self._mail
        if mail is None or mail.refusal is not None:
            return True
        mail.data += event.data
        if mail.head is None:
            self._take_header(mail)
        return mail.head is None or len(mail.data) <= PIECE

    async def _spool_full_pieces(self, _: BodyChunk) -> None:
        if self._mail is not None:
            await self._spool(self._mail)

    def _take_header(self, mail: _Mail, *, last: bool = False) -> None:
        """Cut the header off once it is complete, and make of it what will be sent."""
        end = split(mail.data)
        if end < 0 and last:
            mail.data += b"\r\n"
            end = len(mail.data)
        if (end if end >= 0 else len(mail.data)) > HEADER_LIMIT:
            mail.refusal = Reply(552, "5.3.4", "The header of the message is too large")
        if end < 0 or mail.refusal is not None:
            return
        given = bytes(mail.data[:end])
        del mail.data[:end]
        try:
            mail.head = self._complete(mail, given)
        except BadHeader as bad:
            mail.refusal = Reply(554, "5.6.0", str(bad))
            return
        if wrong := check_given("From", mail.mailbox, mail.head.sender, self._service.refuses):
            mail.refusal = _not_allowed(wrong, self._device, mail.head.sender)

    def _complete(self, mail: _Mail, given: bytes) -> Head:
        service, settings = self._service, mail.mailbox.settings
        now = as_datetime(service.clock())
        domain = mail.mailbox.address.rpartition("@")[2]
        change = None
        if settings.sender == "automatic":
            change = SenderChange(settings.sender_address or mail.mailbox.address, settings.sender_name)
        secured = "ESMTPSA" if self._engine.tls else "ESMTPA"
        return complete(
            given,
            received=f"by {service.hostname} (Posthouse) with {secured} id {mail.id}; {date_text(now)}",
            new_message_id=f"<{mail.id}@{domain}>",
            now=now,
            change=change,
        )

    async def _spool(self, mail: _Mail, *, rest: bool = False) -> None:
        """Write full pieces, and with `rest` the last one. The disk's refusal becomes the message's."""
        try:
            while (piece := cut_piece(mail.data, rest=rest)) is not None:
                mail.pieces += 1
                await self._service.store.spool.write(mail.id, mail.pieces - 1, piece, last=not mail.data)
        except (OSError, DatabaseUnavailable, CommitUnknown) as cause:
            log.error("message not spooled", message=mail.id, cause=str(cause))
            trouble = of_disk(cause) if isinstance(cause, OSError) else Trouble.AWAY
            mail.refusal = self._service.refusal() or _REFUSALS[trouble]

    async def _body_end(self, event: BodyEnd) -> None:
        self._message_ends = math.inf
        mail, device = self._mail, self._device
        if mail is None or device is None:
            self._engine.reply(replies.LOCAL_ERROR)
            return
        mail.size = event.size
        if 0 < mail.most < event.size:
            mail.refusal = mail.refusal or _too_large(mail.mailbox, mail.most)
        refusal = await self._make_whole(mail)
        if refusal is None:
            self._mail = None  # from here on it may exist, and what may exist keeps its pieces
            refusal = await self._keep(mail, device)
        await self._drop_mail()
        self._engine.reply(refusal)

    async def _make_whole(self, mail: _Mail) -> Reply | None:
        """Everything but the row that makes it exist; the refusal if that could not be done."""
        if mail.head is None and mail.refusal is None:
            self._take_header(mail, last=True)
        if mail.refusal is None and (mail.pieces or len(mail.data) > INLINE):
            await self._spool(mail, rest=True)
        return mail.refusal or (None if mail.head else replies.LOCAL_ERROR)

    async def _keep(self, mail: _Mail, device: Device) -> Reply:
        """Put the message on disk."""
        if mail.head is None:
            return replies.LOCAL_ERROR
        if too_fast := self._service.rates.refusal(device):
            await self._forget(mail)
            return Reply(452, "4.7.1", too_fast)
        self._service.rates.accepted(device)
        try:
            new = _new_message(mail, mail.head, device, self._service.store)
            stored = await self._service.accept(new, device.settings.deadline)
        except messages.MailboxGone:
            await self._forget(mail)
            return Reply(550, "5.7.1", "The mailbox of this device was removed")
        except CommitUnknown as cause:
            log.error("message stored or not", message=mail.id, cause=str(cause))
            return replies.LOCAL_ERROR
        except DatabaseUnavailable as cause:
            log.error("message not stored", message=mail.id, cause=str(cause))
            await self._forget(mail)
            return self._service.refusal() or replies.LOCAL_ERROR
        if not stored:
            return replies.LOCAL_ERROR
        self._service.accepted(mail.mailbox.id)
        return Reply(250, "2.0.0", f"Queued as {mail.id}")

    async def _reset(self, event: Reset) -> None:
        self._message_ends = math.inf
        if event.refusal is not None:
            log.info("message refused", peer=self._channel.peer, answer=str(event.refusal))
        await self._drop_mail()

    async def _drop_mail(self) -> None:
        """Forget what was not accepted, with what of it lies in the spool."""
        mail, self._mail = self._mail, None
        if mail is not None:
            await self._forget(mail)

    async def _forget(self, mail: _Mail) -> None:
        """What cannot be removed now is swept at the next start."""
        if mail.pieces:
            with contextlib.suppress(OSError, DatabaseUnavailable, CommitUnknown):
                await self._service.store.spool.remove(mail.id)

    _AT_ONCE: ClassVar[dict[type[Any], "Callable[[_Conversation, Any], bool]"]] = {
        Authenticate: _authenticate_quickly,
        MailFrom: _mail_from,
        RcptTo: _rcpt_to,
        DataBegun: _data_begun,
        BodyChunk: _body_chunk,
        Greeted: lambda *_: True,
    }
    _IN_TIME: ClassVar[dict[type[Any], "Callable[[_Conversation, Any], Awaitable[None]]"]] = {
        StartTls: _start_tls,
        Authenticate: _authenticate,
        MailFrom: _mail_from_after_a_look,
        BodyChunk: _spool_full_pieces,
        BodyEnd: _body_end,
        Reset: _reset,
    }


def _not_allowed(wrong: NotAllowed, device: Device | None, sender: str) -> Reply:
    log.info("sender refused", device=device.name if device else "", sender=sender[:254], why=wrong.sentence)
    return Reply(550, "5.7.1", wrong.sentence)


def _too_large(mailbox: Mailbox, most: int) -> Reply:
    return Reply(552, "5.3.4", f"Too large: {mailbox.address} may send {most / 1024**2:.0f} MB")


def _envelope_sender(mailbox: Mailbox, given: str) -> str:
    if mailbox.settings.sender == "automatic" and given:
        return mailbox.settings.sender_address or mailbox.address
    return given


def _new_message(mail: _Mail, head: Head, device: Device, store: Store) -> NewMessage:
    """A small message is sealed in one; of a large one the header, its pieces being sealed already."""
    whole = not mail.pieces
    first = head.octets + bytes(mail.data) if whole else head.octets
    return NewMessage(
        id=mail.id,
        mailbox_id=mail.mailbox.id,
        device=device.name,
        envelope=Envelope(mail.sender, tuple(mail.recipients), mail.smtputf8, mail.eight_bit),
        message_id=head.message_id,
        subject=head.subject,
        size=mail.size,
        body=store.sealer.seal(first, f"message:{mail.id}"),
        pieces=mail.pieces,
    )
