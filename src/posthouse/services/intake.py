"""Taking in mail that does not come over SMTP: handed in over the API or with `posthouse send`.

The same rules as at the SMTP door: the sender rule of the mailbox, limits, and on disk before anybody is told.
"""

import contextlib
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.parser import HeaderParser
from email.utils import format_datetime, getaddresses

import structlog

from posthouse.model.headers import HEADER_LIMIT, BadHeader, Head, SenderChange, complete, split
from posthouse.model.mailbox import Mailbox, fold, is_address
from posthouse.model.message import DEADLINE, Envelope, NewMessage
from posthouse.model.sender import Refuses, check_given, permitted_senders
from posthouse.problems import TEMPORARY, ProblemError, problem
from posthouse.protocol.reading import has_bare_line_end
from posthouse.services import storage
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.directory import Snapshot
from posthouse.settings import MESSAGE_SIZE
from posthouse.store import events, journal, messages
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.ids import new_message_id
from posthouse.store.opening import Store
from posthouse.store.sealing import fingerprint
from posthouse.store.spool import INLINE, cut_piece
from posthouse.store.trouble import of_disk

MOST_RECIPIENTS = 10_000
"""More than over SMTP, where a program can send the next 500 in another transaction."""
KEY_LINE = "idempotency key"
"""Kind of the journal line by which the second request with the same key is known."""

_LONE_LF = re.compile(rb"(?<!\r)\n")
_LONE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_FIELD_START = re.compile(rb"[!-9;-~]+[ \t]*:")
_BLIND = (b"bcc", b"resent-bcc")

log = structlog.get_logger("intake")


@dataclass(frozen=True, slots=True)
class Posting:
    """`by` is the name of the key that hands it in; no `recipients`: those in To, Cc and Bcc.

    `key` makes a repeated request harmless: the second one with the same key is answered as the first was.
    `size_limit`: octets that the mailbox's provider takes, 0 where that is not known.
    """

    mailbox: Mailbox
    sender: str
    recipients: tuple[str, ...]
    by: str
    key: str = ""
    size_limit: int = 0

    def most(self, octets: int) -> int:
        return min(octets, self.size_limit) if self.size_limit else octets


@dataclass(frozen=True, slots=True)
class Taken:
    """`again`: this request had been made before, and nothing new was done."""

    id: str
    again: bool = False


def choose(snapshot: Snapshot, named: str, sender: str, allowed: Callable[[str], bool]) -> Mailbox:
    """The mailbox that sends: the named one, else the one whose sender this is, else the default one.

    `allowed` tells whether the caller may use an address. Raises ProblemError.
    """
    if named:
        found = snapshot.mailbox(named)
        if found is None or not allowed(found.address):
            raise problem("mailbox.unknown", f"There is no mailbox {named[:254]}.", status=64)
        return _sending(found)
    mailboxes = [mailbox for mailbox in snapshot.mailboxes.values() if allowed(mailbox.address)]
    by_sender = [mailbox for mailbox in mailboxes if sender and fold(sender) in permitted_senders(mailbox)]
    default = snapshot.default_mailbox
    usual = [default] if default is not None and allowed(default.address) else mailboxes[:1] * (len(mailboxes) == 1)
    for mailbox in (*by_sender, *usual):
        return _sending(mailbox)
    raise problem("mailbox.none", "No mailbox is named, and there is no default one.", "Name one.", status=64)


def _sending(mailbox: Mailbox) -> Mailbox:
    if not mailbox.settings.send:
        raise problem("mailbox.does-not-send", f"{mailbox.address} does not send.", status=64)
    return mailbox


@dataclass(slots=True)
class Intake:
    """`accepted(mailbox_id)` is called when a message is on disk. `size_limit`: octets of a message."""

    store: Store
    clock: Clock
    hostname: str
    accepted: Callable[[str], None]
    refuses: Refuses
    size_limit: int = MESSAGE_SIZE

    async def take(self, posting: Posting, octets: AsyncIterator[bytes]) -> Taken:
        """Read the whole message and keep it. Raises ProblemError, DatabaseUnavailable, CommitUnknown."""
        if storage.problem_of(self.store):
            raise storage.refused(self.store)
        self.check_given("Sender", posting, posting.sender)
        coming = _Coming(self, posting)
        try:
            async for chunk in octets:
                await coming.add(chunk)
            new = await coming.end()
        except BaseException:
            await coming.drop()
            raise
        try:
            earlier = await self._keep(new, posting, coming.digest.hexdigest())
        except (DatabaseUnavailable, ProblemError):
            await coming.drop()
            raise
        if earlier is not None:
            await coming.drop()
            return Taken(earlier, again=True)
        self.accepted(posting.mailbox.id)
        return Taken(new.id)

    def check_given(self, place: str, posting: Posting, address: str) -> None:
        """The rule that devices are held to. Raises ProblemError."""
        wrong = check_given(place, posting.mailbox, address, self.refuses)
        if wrong is not None:
            log.info("sender refused", key=posting.by, sender=_shown(address), why=wrong.sentence)
            hint = "Use another sender, or permit the address in the mailbox's `senders` and at the provider."
            raise problem("message.sender", f"{wrong.sentence}.", hint, status=65)

    async def _keep(self, new: NewMessage, posting: Posting, digest: str) -> str | None:
        """Write it down; the id of the message that an earlier request with the same key has made.

        Raises DatabaseUnavailable and ProblemError with nothing written, CommitUnknown where it may be.
        """
        mark = "idempotency-key:" + fingerprint(f"{posting.by}\n{posting.key}")
        now = self.clock()

        async def work(tx: Transaction) -> str | None:
            if not posting.key:
                await messages.accept(tx, new, now, now + DEADLINE)
                return None
            await events.bump(tx, "idempotency")
            earlier = await _made_before(tx, mark, digest)
            if earlier is None:
                await messages.accept(tx, new, now, now + DEADLINE)
                about = {"message_id": mark, "mailbox_id": new.mailbox_id, "device": new.device}
                await journal.write(tx, now, KEY_LINE, new.id, **about, request=digest)
            return earlier

        try:
            return await self.store.database.write(work)
        except messages.MailboxGone:
            raise problem("mailbox.unknown", "The mailbox was removed meanwhile.", status=64) from None
        except CommitUnknown as unheard:
            if not await storage.was_accepted(self.store, new.id, unheard):
                raise
            return None


async def _made_before(tx: Transaction, mark: str, digest: str) -> str | None:
    for line in await journal.of_message(tx, mark):
        if line.kind != KEY_LINE:
            continue
        if line.detail.get("request") != digest:
            sentence = "This Idempotency-Key was used for another request."
            raise problem("message.key-reused", sentence, "Use a new one for a new message.", status=65)
        return line.message
    return None


@dataclass(slots=True)
class _Coming:
    """A message that is coming in. What is past the header is kept here up to PIECE, then spooled in pieces."""

    intake: Intake
    posting: Posting
    id: str = field(default_factory=new_message_id)
    head: Head | None = None
    recipients: tuple[str, ...] = ()
    data: bytearray = field(default_factory=bytearray)
    half_line_end: bytes = b""
    pieces: int = 0
    size: int = 0
    eight_bit: bool = False
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def add(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        clean = self._with_whole_line_ends(chunk)
        if b"\0" in clean:
            hint = "Send it encoded, as an attachment in base64."
            raise problem("message.nul", "There is a NUL character in the message.", hint, status=65)
        self.size += len(clean)
        if self.size > self.posting.most(self.intake.size_limit):
            most = self.posting.most(self.intake.size_limit)
            raise problem("message.too-large", f"The message is larger than {most} octets.", status=65)
        self.eight_bit = self.eight_bit or not clean.isascii()
        self.data += clean
        if self.head is None:
            self._take_header()
        if self.head is not None:
            await self._spool()

    def _with_whole_line_ends(self, chunk: bytes) -> bytes:
        """Every line ends with CRLF: a CR at the end of a chunk waits for the next one."""
        joined = self.half_line_end + chunk
        self.half_line_end = b"\r" if joined.endswith(b"\r") else b""
        lone = _LONE_LF if self.head is None else _LONE
        return lone.sub(b"\r\n", joined[: len(joined) - len(self.half_line_end)])

    def _take_header(self, *, last: bool = False) -> None:
        end = split(self.data)
        if (end if end >= 0 else len(self.data)) > HEADER_LIMIT:
            raise problem("message.header-too-large", "The header of the message is too large.", status=65)
        if end < 0 and not last:
            return
        if self.data.startswith(b"From "):
            del self.data[: self.data.find(b"\r\n") + 2]
            end = split(self.data)
        if not _FIELD_START.match(self.data):
            self.data[0:0] = b"" if self.data.startswith(b"\r\n") else b"\r\n"
            end = 2
        if end < 0:
            self.data += b"\r\n" if self.data.endswith(b"\r\n") else b"\r\n\r\n"
            end = len(self.data)
        given, body = bytes(self.data[:end]), bytes(self.data[end:])
        if has_bare_line_end(given):
            sentence = "The header has a CR that ends no line: it could begin a field of its own."
            raise problem("message.header", sentence, "End lines with CRLF or LF.", status=65)
        self.data[:] = _LONE.sub(b"\r\n", body)
        self.size += len(self.data) - len(body)
        self.recipients = self.posting.recipients or recipients_in(given)
        _check_recipients(self.recipients)
        self.head = self._complete(without_blind_copies(given))

    def _complete(self, given: bytes) -> Head:
        mailbox, now = self.posting.mailbox, as_datetime(self.intake.clock())
        sender = mailbox.settings.sender_address or mailbox.address
        named = any(line[:5].lower() == b"from:" for line in given.split(b"\r\n"))
        automatic = mailbox.settings.sender == "automatic"
        change = SenderChange(sender, mailbox.settings.sender_name) if automatic or not named else None
        domain = mailbox.address.rpartition("@")[2]
        try:
            head = complete(
                given,
                received=f"by {self.intake.hostname} (Posthouse) with HTTP id {self.id}; {format_datetime(now)}",
                new_message_id=f"<{self.id}.{secrets.token_hex(4)}@{domain}>",
                now=now,
                change=change,
            )
        except BadHeader as bad:
            raise problem("message.header", f"{bad}.", status=65) from None
        if change is None:
            self.intake.check_given("From", self.posting, head.sender)
        return head

    async def _spool(self, *, rest: bool = False) -> None:
        """Write full pieces, and with `rest` the last one. Raises ProblemError where the disk refuses."""
        try:
            while (piece := cut_piece(self.data, rest=rest)) is not None:
                self.pieces += 1
                await self.intake.store.spool.write(self.id, self.pieces - 1, piece, last=not self.data)
        except OSError as cause:
            log.error("message not spooled", message=self.id, cause=str(cause))
            found = storage.describe(of_disk(cause), self.intake.store.spool.place)
            raise ProblemError(found, status=TEMPORARY) from None

    async def end(self) -> NewMessage:
        """The message as it is to be kept, its large parts being on disk already."""
        if self.half_line_end:
            await self.add(b"\n")
        if self.head is None:
            self._take_header(last=True)
        if self.head is None:
            raise problem("message.empty", "There is no message.", status=65)
        if self.pieces or len(self.data) > INLINE:
            await self._spool(rest=True)
        return self._new(self.head)

    def _new(self, head: Head) -> NewMessage:
        first = head.octets + (b"" if self.pieces else bytes(self.data))
        utf8 = not all(address.isascii() for address in (*self.recipients, self._envelope_sender()))
        return NewMessage(
            id=self.id,
            mailbox_id=self.posting.mailbox.id,
            device=self.posting.by,
            envelope=Envelope(self._envelope_sender(), self.recipients, utf8, self.eight_bit),
            message_id=head.message_id,
            subject=head.subject,
            size=self.size,
            body=self.intake.store.sealer.seal(first, f"message:{self.id}"),
            pieces=self.pieces,
        )

    def _envelope_sender(self) -> str:
        settings, given = self.posting.mailbox.settings, self.posting.sender
        if settings.sender == "automatic" or not given:
            return settings.sender_address or self.posting.mailbox.address
        return given

    async def drop(self) -> None:
        """What cannot be removed now is swept at the next start."""
        if self.pieces:
            with contextlib.suppress(OSError, DatabaseUnavailable, CommitUnknown):
                await self.intake.store.spool.remove(self.id)


def recipients_in(head: bytes) -> tuple[str, ...]:
    """The addresses in To, Cc and Bcc, each once. Raises ProblemError for one that makes no sense."""
    parsed = HeaderParser().parsestr(head.decode("utf-8", "replace"))
    texts = [str(value) for name in ("to", "cc", "bcc") for value in parsed.get_all(name, [])]
    found = [address for _, address in getaddresses(texts) if address]
    return tuple(dict.fromkeys(found))


def without_blind_copies(head: bytes) -> bytes:
    """The header without Bcc: nobody is to read who else got the message (RFC 5322 section 3.6.3)."""
    kept, dropping = [], False
    for line in head.splitlines(keepends=True):
        if line[:1] not in (b" ", b"\t"):
            dropping = line.partition(b":")[0].strip().lower() in _BLIND
        if not dropping:
            kept.append(line)
    return b"".join(kept)


def _check_recipients(recipients: tuple[str, ...]) -> None:
    if not recipients:
        raise problem("message.no-recipient", "The message has no recipient.", "Name one.", status=65)
    if len(recipients) > MOST_RECIPIENTS:
        raise problem("message.recipients", f"The message has more than {MOST_RECIPIENTS} recipients.", status=65)
    wrong = next((address for address in recipients if not is_address(address)), None)
    if wrong is not None:
        raise problem("message.recipient", f"{_shown(wrong)} is not an e-mail address.", status=65)


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:254])
