"""The server's side of SMTP submission as an engine: octets in, events and octets out (RFC 5321, 6409).

The engine knows the grammar, the order of commands and all limits. Who may log in, who may send as whom and where
a message goes is decided by its driver: events marked "decision" wait for `SmtpServer.reply()`, and until then
nothing further is read, so a client that pipelines cannot run ahead. Sockets, TLS and time are the driver's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import ClassVar, TypeVar

from msgspec import Struct

from posthouse.protocol import sasl
from posthouse.protocol import smtp_reply as replies
from posthouse.protocol.reading import Buffer, TooLong, dot_line, has_bare_line_end
from posthouse.protocol.sasl import BadExchange, Credentials, Exchange
from posthouse.protocol.smtp_path import BadPath, Path, parse_path
from posthouse.protocol.smtp_reply import Reply


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """What one listener offers and allows. Limits are in octets where nothing else is said."""

    hostname: str
    greeting: str = "ESMTP Posthouse"
    size_limit: int = 36_700_160
    max_recipients: int = 500
    chunking: bool = False
    """BDAT is taken (RFC 3030), for text whose lines end in CRLF: there is no BINARYMIME."""
    starttls: bool = False
    """STARTTLS is offered until TLS is on."""
    tls: bool = False
    """TLS is on before the first octet."""
    auth_mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    auth_needs_tls: bool = True
    auth_required: bool = True
    command_limit: int = 2048
    """RFC 5321 asks for 512; devices send more."""
    auth_limit: int = sasl.RESPONSE_LIMIT
    max_errors: int = 10
    """Wrong commands and refused logins of one connection."""
    max_commands: int = 200
    """Commands, RCPT not counted, without a message accepted between them."""


class Ending(Enum):
    """Why a conversation ended."""

    QUIT = "the client said goodbye"
    LOST = "the client went away"
    REFUSED = "the driver closed"
    TOO_MANY_ERRORS = "the client made too many errors"
    TOO_MANY_COMMANDS = "the client sent too many commands without a message"
    TOO_MUCH = "the client sent far more than is allowed"
    NOT_SMTP = "the client does not speak SMTP"
    TLS_TOO_EARLY = "the client began TLS on a port that starts without"


# Events


class Greeted(Struct, frozen=True):
    """EHLO (`extended`) or HELO was answered; a mail that was under way is forgotten."""

    name: str
    extended: bool


class StartTls(Struct, frozen=True):
    """Decision. After 220: send, start TLS, call `tls_started()`."""


class Authenticate(Struct, frozen=True):
    """Decision. `reply(AUTHENTICATED)` logs in; with a refusal an OAuth challenge can be given."""

    credentials: Credentials


class MailFrom(Struct, frozen=True):
    """Decision. `address` is empty for `<>`; `size` is 0 when not told; `body` is 7BIT or 8BITMIME."""

    address: str
    size: int
    smtputf8: bool
    body: str
    parameters: Mapping[str, str]


class RcptTo(Struct, frozen=True):
    """Decision."""

    address: str
    parameters: Mapping[str, str]


class DataBegun(Struct, frozen=True):
    """Decision. The message may come (354) or not."""


class BodyChunk(Struct, frozen=True):
    """A part of the message without dot-stuffing. Parts end where lines end, except in very long lines."""

    data: bytes

    def __repr__(self) -> str:
        return f"BodyChunk({len(self.data)} octets)"


class BodyEnd(Struct, frozen=True):
    """Decision. The message is complete: `size` octets in all parts together."""

    size: int


class Reset(Struct, frozen=True):
    """The mail under way is to be forgotten: RSET, or the engine refused the message with `refusal`."""

    refusal: Reply | None = None


class Ended(Struct, frozen=True):
    """The last event. Send what is left, then close."""

    reason: Ending


Event = Greeted | StartTls | Authenticate | MailFrom | RcptTo | DataBegun | BodyChunk | BodyEnd | Reset | Ended

# Replies that only the engine gives

BYE = Reply(221, "2.0.0", "Goodbye")
NOT_OFFERED = Reply(502, "5.5.1", "Not offered here")
IN_CHUNKS = Reply(503, "5.5.1", "The message comes by BDAT already")
BDAT_NOT_OFFERED = Reply(502, "5.5.1", "BDAT is not offered here, goodbye")
"""The octets of a chunk would be read as commands."""
UNKNOWN_COMMAND = Reply(500, "5.5.1", "Unknown command")
NO_PARAMETERS = Reply(501, "5.5.4", "This command has no parameters")
WRONG_PARAMETER = Reply(501, "5.5.4", "A parameter is wrong")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "A parameter is not known here")
BAD_CHARACTERS = Reply(500, "5.5.2", "The command has characters that may not stand there")
LINE_TOO_LONG = Reply(500, "5.5.2", "The line is too long")
RESPONSE_TOO_LONG = Reply(500, "5.5.6", "The authentication line is too long")
HELLO_FIRST = Reply(503, "5.5.1", "Say EHLO first")
TLS_IS_ON = Reply(503, "5.5.1", "TLS is on already")
TLS_FIRST = Reply(538, "5.7.11", "Turn on encryption first: STARTTLS")
TLS_REQUIRED = Reply(530, "5.7.0", "STARTTLS and authentication come first")
LOGIN_FIRST = Reply(530, "5.7.0", "Authentication comes first")
LOGGED_IN = Reply(503, "5.5.1", "Authenticated already")
NOT_DURING_MAIL = Reply(503, "5.5.1", "Not while a mail is under way")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "This way to authenticate is not offered")
CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
MAIL_FIRST = Reply(503, "5.5.1", "MAIL comes first")
RCPT_FIRST = Reply(554, "5.5.1", "No valid recipients")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients for one message")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "The address needs SMTPUTF8")
NO_DOMAIN = Reply(501, "5.1.3", "The recipient's address has no domain")
CANNOT_VERIFY = Reply(252, "2.5.0", "Not verified; send the message and see")
HELP = Reply(214, "2.0.0", "See RFC 5321")
BARE_LINE_END = Reply(550, "5.6.0", "The message has line ends other than CRLF, or a NUL")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
TOO_MANY_COMMANDS = Reply(421, "4.7.0", "Too many commands without a message")
TOO_MUCH = Reply(421, "4.7.0", "Too much was sent")
NOT_SMTP = Reply(421, "4.7.0", "This is a mail server")

PARTIAL_LINE = 8192
LONGEST_RUBBISH = 1_048_576
"""Octets of an endless line that are swallowed before the connection is closed."""

_Response = TypeVar("_Response", bytes, bytes | None)
_MAIL_PARAMETERS = frozenset(("SIZE", "BODY", "SMTPUTF8", "AUTH"))
_OTHER_PROTOCOLS = frozenset(("GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE", "PRI"))


class SmtpServer:
    """One conversation. The greeting is waiting to be sent from the start.

    The driver feeds `receive_data()` (b"" when the client has gone), takes events from `next_event()`, answers
    decisions with `reply()` and sends what `data_to_send()` gives, until `Ended`.
    """

    def __init__(self, policy: ServerPolicy) -> None:
        self.policy = policy
        self.tls = policy.tls
        self.greeted: str | None = None
        self.authenticated: str | None = None
        self._buffer = Buffer()
        self._unread = self._buffer.peek()
        self._gone = False
        self._out: list[bytes] = [Reply(220, "", f"{policy.hostname} {policy.greeting}").encode()]
        self._read: Callable[[SmtpServer], bool] = SmtpServer._read_command
        self._event: Event | None = None
        self._decide: Callable[[SmtpServer, Reply], None] | None = None
        self._exchange: Exchange | None = None
        self._user = ""
        self._held_reply: Reply | None = None
        self._swallowed = 0
        self._errors = 0
        self._commands = 0
        self._refusal: Reply | None = None
        self._half_line_end = self._in_chunks = False
        self._forget_mail()

    # For the driver

    def receive_data(self, data: bytes) -> None:
        """What the client sent; b"" when it will send no more. While TLS is being started, it is dropped."""
        if not data:
            self._gone = self._read is not SmtpServer._read_no_more
        elif self._read is not SmtpServer._read_no_more and self._read is not SmtpServer._read_handshake:
            self._buffer.feed(data)

    def next_event(self) -> Event | None:
        """The next event, or None: more data is needed, or a decision is pending."""
        while self._event is None and self._decide is None:
            if not (self._unread or self._read is SmtpServer._finish_chunk) or not self._read(self):
                if not self._gone:
                    return None
                self._end(Ending.LOST)
        event, self._event = self._event, None
        return event

    def data_to_send(self) -> bytes:
        """What is to be sent; it is handed out once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def reply(self, reply: Reply, challenge: str = "") -> None:
        """The decision. 421 closes, with any event.

        `challenge`, with a refused `Authenticate` only, is the JSON that a client gets and answers before the
        refusal (RFC 7628 section 3.2.2). Raises RuntimeError when no decision is pending.
        """
        if self._decide is None or self._event is not None:
            raise RuntimeError("no decision is pending")
        decide, self._decide = self._decide, None
        if reply.code == 421:
            self._end(Ending.REFUSED, reply)
        elif challenge and not reply.accepted and decide is SmtpServer._after_authenticate:
            self._hold_back(reply, challenge)
        else:
            self._say(reply)
            decide(self, reply)

    def tls_started(self) -> None:
        """TLS is on: what was said before does not count (RFC 3207 section 4.2)."""
        if self._read is not SmtpServer._read_handshake:
            raise RuntimeError("TLS was not agreed on")
        self._buffer.clear()
        self.tls = True
        self.greeted = self.authenticated = None
        self._forget_mail()
        self._read = SmtpServer._read_command

    def close(self, reply: Reply = replies.TIMED_OUT) -> None:
        """The driver has had enough: the reply is said, `Ended` is the next and last event."""
        if self._read is not SmtpServer._read_no_more:
            self._end(Ending.REFUSED, reply)

    # Reading: each takes one thing out of the buffer, and answers whether there was one

    def _read_command(self) -> bool:
        try:
            line = self._buffer.line(self.policy.auth_limit)
        except TooLong:
            return self._swallow_line(LINE_TOO_LONG)
        if line is None:
            return self._is_tls(self._buffer.peek())
        text = _printable(line)
        if text is None:
            return self._is_tls(line) or self._fail(BAD_CHARACTERS)
        return self._obey(text)

    def _read_response(self) -> bool:
        try:
            line = self._buffer.line(self.policy.auth_limit)
        except TooLong:
            return self._swallow_line(RESPONSE_TOO_LONG)
        if line is None or self._exchange is None:
            return False
        self._read = SmtpServer._read_command
        if line == b"*":
            return self._fail(CANCELLED)
        return self._take_response(self._exchange.next, line.strip())

    def _read_last_response(self) -> bool:
        """The answer to the challenge that told why the login is refused; what it says is of no use."""
        try:
            line = self._buffer.line(self.policy.auth_limit)
        except TooLong:
            return self._swallow_line(RESPONSE_TOO_LONG)
        if line is None or self._held_reply is None:
            return False
        reply, self._held_reply = self._held_reply, None
        self._read = SmtpServer._read_command
        return self._fail(reply)

    def _read_rest_of_line(self) -> bool:
        """What is left of a line that was too long."""
        data = self._buffer.peek()
        end = data.find(b"\n")
        self._swallowed += len(self._buffer.up_to(len(data) if end < 0 else end + 1))
        if end < 0:
            return self._swallowed > LONGEST_RUBBISH and self._end(Ending.TOO_MUCH, TOO_MUCH)
        reply, self._held_reply = self._held_reply or LINE_TOO_LONG, None
        self._read = SmtpServer._read_command
        return self._fail(reply)

    def _read_body(self) -> bool:
        """Everything up to the last whole line, or up to CRLF.CRLF; nothing else ends a message."""
        data = self._buffer.peek()
        if self._line_start and data.startswith(b".\r\n"):
            self._buffer.up_to(3)
            return self._end_body()
        dot = dot_line(data)
        end = data.find(b"\r\n.\r\n", max(0, dot - 2)) if dot >= 0 else -1
        dotted = 0 <= dot != end + 2
        if end < 0:
            end = data.rfind(b"\r\n")
        if end >= 0:
            return self._take_body(self._buffer.up_to(end + 2), whole_lines=True, dotted=dotted)
        if len(data) > PARTIAL_LINE:
            count = len(data) - data.endswith(b"\r")
            return self._take_body(self._buffer.up_to(count), whole_lines=False, dotted=False)
        return False

    def _read_chunk(self) -> bool:
        """What has come of a chunk. Its text is held to what DATA is held to; a CRLF may be cut by two chunks."""
        data = self._buffer.up_to(min(self._chunk_left, len(self._buffer.peek())))
        self._chunk_left -= len(data)
        self._size += len(data)
        text = b"\r" + data if self._half_line_end else data
        self._half_line_end = text.endswith(b"\r")
        if has_bare_line_end(text.removesuffix(b"\r")) or b"\0" in data:
            self._refusal = self._refusal or BARE_LINE_END
        if self._size > self.policy.size_limit:
            self._refusal = self._refusal or replies.TOO_LARGE
        if self._refusal is None:
            self._event = BodyChunk(data)
        if not self._chunk_left:
            self._read = SmtpServer._finish_chunk
        return True

    def _finish_chunk(self) -> bool:
        """Every chunk is answered; the last one by the verdict on the message."""
        self._read = SmtpServer._read_command
        if self._last_chunk and self._half_line_end:
            self._refusal = self._refusal or BARE_LINE_END
        if self._refusal is None and not self._last_chunk:
            return self._say(replies.OK)
        return self._end_body()

    def _read_handshake(self) -> bool:
        """TLS is being started, by the driver."""
        return False

    def _read_no_more(self) -> bool:
        """The conversation has ended."""
        return False

    # Commands

    def _obey(self, text: str) -> bool:
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        if len(text) > self.policy.command_limit and verb != "AUTH":
            return self._fail(LINE_TOO_LONG)
        command = self._VERBS.get(verb)
        if command is None:
            return self._unknown(verb)
        self._commands += verb != "RCPT"
        if self._commands > self.policy.max_commands and verb != "QUIT":
            return self._end(Ending.TOO_MANY_COMMANDS, TOO_MANY_COMMANDS)
        return command(self, argument.strip())

    def _unknown(self, verb: str) -> bool:
        if verb in _OTHER_PROTOCOLS:
            return self._end(Ending.NOT_SMTP, NOT_SMTP)
        return self._fail(UNKNOWN_COMMAND)

    def _ehlo(self, name: str) -> bool:
        self._greet(name, extended=True)
        return self._say(_offer(self.policy, self.tls))

    def _helo(self, name: str) -> bool:
        self._greet(name, extended=False)
        return self._say(Reply(250, "", self.policy.hostname))

    def _starttls(self, argument: str) -> bool:
        if self.tls:
            return self._fail(TLS_IS_ON)
        if not self.policy.starttls:
            return self._fail(NOT_OFFERED)
        if argument:
            return self._fail(NO_PARAMETERS)
        return self._ask(StartTls(), SmtpServer._after_starttls)

    def _auth(self, argument: str) -> bool:
        if refusal := self._no_auth():
            return self._fail(refusal)
        mechanism, _, initial = argument.partition(" ")
        mechanism = mechanism.upper()
        if mechanism not in self.policy.auth_mechanisms:
            return self._fail(UNKNOWN_MECHANISM)
        self._exchange = sasl.exchange(mechanism)
        return self._take_response(self._exchange.start, initial.strip().encode() or None)

    def _mail(self, argument: str) -> bool:
        if refusal := self._no_mail():
            return self._fail(refusal)
        try:
            mail = _mail_from(argument)
        except BadPath as wrong:
            return self._fail(Reply(501, "5.1.7", f"Sender: {wrong}"))
        if isinstance(mail, Reply):
            return self._fail(mail)
        if mail.size > self.policy.size_limit:
            return self._say(replies.TOO_LARGE)
        self._smtputf8 = mail.smtputf8
        return self._ask(mail, SmtpServer._after_mail)

    def _rcpt(self, argument: str) -> bool:
        if not self._mail_is_open:
            return self._fail(MAIL_FIRST)
        if self._in_chunks:
            return self._fail(IN_CHUNKS)
        try:
            path = _path_after("TO:", argument)
        except BadPath as wrong:
            return self._fail(Reply(501, "5.1.3", f"Recipient: {wrong}"))
        if refusal := self._no_recipient(path):
            return self._fail(refusal)
        self._recipients_named += 1
        if self._recipients >= self.policy.max_recipients:
            return self._too_many_recipients()
        return self._ask(RcptTo(path.address, path.parameters), SmtpServer._after_rcpt)

    def _data(self, argument: str) -> bool:
        if argument:
            return self._fail(NO_PARAMETERS)
        if not self._mail_is_open:
            return self._fail(MAIL_FIRST)
        if self._in_chunks:
            return self._fail(IN_CHUNKS)
        if not self._recipients:
            return self._fail(RCPT_FIRST)
        return self._ask(DataBegun(), SmtpServer._after_data)

    def _bdat(self, argument: str) -> bool:
        if not self.policy.chunking:
            return self._end(Ending.REFUSED, BDAT_NOT_OFFERED)
        size, _, last = argument.partition(" ")
        if not (size.isascii() and size.isdecimal() and len(size) <= 12) or last.upper() not in ("", "LAST"):
            return self._end(Ending.REFUSED, WRONG_PARAMETER)
        self._chunk_left, self._last_chunk, self._in_chunks = int(size), bool(last), True
        if not self._recipients:
            self._refusal = RCPT_FIRST if self._mail_is_open else MAIL_FIRST
        self._read = SmtpServer._read_chunk if self._chunk_left else SmtpServer._finish_chunk
        return True

    def _rset(self, _: str) -> bool:
        self._forget_mail()
        self._event = Reset()
        return self._say(replies.OK)

    def _noop(self, _: str) -> bool:
        return self._say(replies.OK)

    def _vrfy(self, _: str) -> bool:
        return self._say(CANNOT_VERIFY)

    def _expn(self, _: str) -> bool:
        return self._fail(NOT_OFFERED)

    def _help(self, _: str) -> bool:
        return self._say(HELP)

    def _quit(self, _: str) -> bool:
        return self._end(Ending.QUIT, BYE)

    _VERBS: ClassVar[dict[str, "Callable[[SmtpServer, str], bool]"]] = {
        "EHLO": _ehlo,
        "HELO": _helo,
        "STARTTLS": _starttls,
        "AUTH": _auth,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "BDAT": _bdat,
        "RSET": _rset,
        "NOOP": _noop,
        "VRFY": _vrfy,
        "EXPN": _expn,
        "HELP": _help,
        "QUIT": _quit,
    }

    # Consequences of decisions

    def _after_starttls(self, reply: Reply) -> None:
        if reply.accepted:
            self._buffer.clear()
            self._read = SmtpServer._read_handshake

    def _after_authenticate(self, reply: Reply) -> None:
        if reply.accepted:
            self.authenticated = self._user
        else:
            self._count_error()

    def _after_mail(self, reply: Reply) -> None:
        self._mail_is_open = reply.accepted

    def _after_rcpt(self, reply: Reply) -> None:
        self._recipients += reply.accepted

    def _after_data(self, reply: Reply) -> None:
        if reply.accepted:
            self._read = SmtpServer._read_body

    def _after_body(self, reply: Reply) -> None:
        self._forget_mail()
        if reply.accepted:
            self._commands = 0

    # Steps

    def _forget_mail(self) -> None:
        self._mail_is_open = False
        self._smtputf8 = False
        self._recipients = 0
        self._recipients_named = 0
        self._size = 0
        self._chunk_left = 0
        self._last_chunk = False
        self._in_chunks = False
        self._line_start = True
        self._half_line_end = False
        self._refusal = None

    def _greet(self, name: str, *, extended: bool) -> None:
        self._forget_mail()
        self.greeted = name
        self._event = Greeted(name, extended)

    def _no_auth(self) -> Reply | None:
        if not self.policy.auth_mechanisms:
            return NOT_OFFERED
        if self.greeted is None:
            return HELLO_FIRST
        if self.authenticated is not None:
            return LOGGED_IN
        if self._mail_is_open:
            return NOT_DURING_MAIL
        return TLS_FIRST if self.policy.auth_needs_tls and not self.tls else None

    def _no_mail(self) -> Reply | None:
        if self.greeted is None:
            return HELLO_FIRST
        if self._mail_is_open:
            return NOT_DURING_MAIL
        if self.policy.auth_required and self.authenticated is None:
            return TLS_REQUIRED if self.policy.auth_needs_tls and not self.tls else LOGIN_FIRST
        return None

    def _no_recipient(self, path: Path) -> Reply | None:
        if path.parameters:
            return UNKNOWN_PARAMETER
        if "@" not in path.address:
            return NO_DOMAIN
        return None if self._smtputf8 or path.address.isascii() else NEEDS_SMTPUTF8

    def _too_many_recipients(self) -> bool:
        """A client that stops soon may send the others with its next message (RFC 5321 section 4.5.3.1.10)."""
        patient = self._recipients_named <= 10 * self.policy.max_recipients
        return self._say(TOO_MANY_RECIPIENTS) if patient else self._fail(TOO_MANY_RECIPIENTS)

    def _take_response(self, step: Callable[[_Response], bytes | Credentials], response: _Response) -> bool:
        try:
            outcome = step(response)
        except BadExchange as wrong:
            return self._fail(Reply(501, "5.5.2", f"Authentication: {wrong}"))
        if isinstance(outcome, bytes):
            return self._challenge(outcome, SmtpServer._read_response)
        self._exchange = None
        self._user = outcome.user
        return self._ask(Authenticate(outcome), SmtpServer._after_authenticate)

    def _challenge(self, challenge: bytes, read: "Callable[[SmtpServer], bool]") -> bool:
        self._out.append(b"334 " + challenge + b"\r\n")
        self._read = read
        return True

    def _hold_back(self, reply: Reply, challenge: str) -> None:
        self._held_reply = reply
        self._challenge(sasl.challenge(challenge), SmtpServer._read_last_response)

    def _take_body(self, data: bytes, *, whole_lines: bool, dotted: bool) -> bool:
        """`dotted`: there may be lines after the first that begin with a dot."""
        if has_bare_line_end(data) or b"\0" in data:
            self._refusal = BARE_LINE_END
        if self._line_start and data.startswith(b"."):
            data = data[1:]
        self._line_start = whole_lines
        if dotted:
            data = data.replace(b"\r\n.", b"\r\n")
        self._size += len(data)
        if self._size > self.policy.size_limit:
            self._refusal = self._refusal or replies.TOO_LARGE
            if self._size > 10 * self.policy.size_limit + LONGEST_RUBBISH:
                return self._end(Ending.TOO_MUCH, TOO_MUCH)
        if self._refusal is None:
            self._event = BodyChunk(data)
        return True

    def _end_body(self) -> bool:
        self._read = SmtpServer._read_command
        if self._refusal is None:
            return self._ask(BodyEnd(self._size), SmtpServer._after_body)
        self._event = Reset(self._refusal)
        self._say(self._refusal)
        self._forget_mail()
        return True

    def _swallow_line(self, reply: Reply) -> bool:
        self._held_reply = reply
        self._swallowed = 0
        self._read = SmtpServer._read_rest_of_line
        return True

    def _is_tls(self, octets: bytes | bytearray) -> bool:
        """Whether it is a TLS handshake; that ends the conversation."""
        return octets.startswith(b"\x16") and self._end(Ending.TLS_TOO_EARLY)

    def _ask(self, event: Event, consequence: "Callable[[SmtpServer, Reply], None]") -> bool:
        self._event = event
        self._decide = consequence
        return True

    def _say(self, reply: Reply) -> bool:
        self._out.append(reply.encode())
        return True

    def _fail(self, reply: Reply) -> bool:
        self._say(reply)
        return self._count_error()

    def _count_error(self) -> bool:
        self._errors += 1
        if self._errors >= self.policy.max_errors:
            self._end(Ending.TOO_MANY_ERRORS, TOO_MANY_ERRORS)
        return True

    def _end(self, reason: Ending, reply: Reply | None = None) -> bool:
        if reply is not None:
            self._say(reply)
        self._buffer.clear()
        self._gone = False
        self._decide = None
        self._read = SmtpServer._read_no_more
        self._event = Ended(reason)
        return True


@lru_cache(maxsize=16)
def _offer(policy: ServerPolicy, tls: bool) -> Reply:
    """The answer to EHLO."""
    lines = [policy.hostname, "PIPELINING", f"SIZE {policy.size_limit}"]
    if policy.chunking:
        lines.append("CHUNKING")
    if policy.starttls and not tls:
        lines.append("STARTTLS")
    if policy.auth_mechanisms and (tls or not policy.auth_needs_tls):
        lines.append("AUTH " + " ".join(policy.auth_mechanisms))
    return Reply(250, "", "\n".join((*lines, "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8")))


def _printable(line: bytes) -> str | None:
    """The line as text; None when it is no UTF-8 or has a character that could not be printed."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


@lru_cache(maxsize=256)
def _path_after(word: str, argument: str) -> Path:
    if argument[: len(word)].upper() != word:
        raise BadPath(f"{word}<address> is expected")
    return parse_path(argument[len(word) :])


@lru_cache(maxsize=256)
def _mail_from(argument: str) -> MailFrom | Reply:
    """A device says much the same all the time. Raises BadPath."""
    path = _path_after("FROM:", argument)
    parameters = path.parameters
    size = parameters.get("SIZE", "0")
    body = parameters.get("BODY", "7BIT").upper()
    smtputf8 = "SMTPUTF8" in parameters
    if not _MAIL_PARAMETERS.issuperset(parameters):
        return UNKNOWN_PARAMETER
    if not (size.isascii() and size.isdecimal() and len(size) <= 20) or body not in ("7BIT", "8BITMIME"):
        return WRONG_PARAMETER
    if not smtputf8 and not path.address.isascii():
        return NEEDS_SMTPUTF8
    return MailFrom(path.address, int(size), smtputf8, body, parameters)
