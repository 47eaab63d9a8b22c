"""The client's side of SMTP submission as an engine: octets in, events and octets out (RFC 5321, 2920, 3207, 4954).

The driver says what is to be done (`authenticate`, `send_envelope`, `send_body` ...), takes events and owns sockets,
TLS and time. Replies are matched by a queue of what is awaited, so that a group of commands costs one round trip.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

from msgspec import Struct

from posthouse.protocol import sasl
from posthouse.protocol.reading import Buffer, dot_line, has_bare_line_end
from posthouse.protocol.smtp_path import BadPath, check_address
from posthouse.protocol.smtp_reply import BadReply, Reply, ReplyReader
from posthouse.secret import Secret

COMMAND_LIMIT = 512
"""Octets of a command with its CRLF (RFC 5321 section 4.5.3.1.4); a longer initial response follows a 334."""

CHALLENGES_LIMIT = 4


class Stage(Enum):
    """How far the conversation has come."""

    GREETING = "the server's greeting and EHLO"
    TLS = "starting TLS"
    READY = "between messages"
    AUTHENTICATING = "authenticating"
    ENVELOPE = "sender and recipients"
    BODY = "sending the message"
    BODY_SENT = "the message is sent and not answered: whether it was taken is unknown"
    QUITTING = "saying goodbye"


# Events


class StartTls(Struct, frozen=True):
    """Start TLS, then call `tls_started()`."""


class Ready(Struct, frozen=True):
    """The server has said what it offers; `authenticate` or `send_envelope` may follow."""


class Refused(Struct, frozen=True):
    """The server takes no mail from here, or not safely; `reply` is None when STARTTLS is not offered."""

    text: str
    reply: Reply | None = None


class Authenticated(Struct, frozen=True):
    reply: Reply


class AuthRefused(Struct, frozen=True):
    """`challenge` is what the server told before its refusal, mostly JSON, or empty."""

    reply: Reply
    challenge: str


class EnvelopeAnswered(Struct, frozen=True):
    """With `go_ahead` the body of the message is expected now, for the recipients whose reply is positive.

    A recipient who was never asked about, or only after the sender was refused, has the reply to the sender.
    `data` is the reply to DATA when that refused the message; otherwise None.
    """

    mail: Reply
    recipients: tuple[Reply, ...]
    go_ahead: bool
    data: Reply | None = None


class MessageAnswered(Struct, frozen=True):
    """The verdict about the message whose body was sent."""

    reply: Reply


class Answered(Struct, frozen=True):
    """The answer to `reset`, `noop` or `quit`."""

    command: str
    reply: Reply


class ServerClosing(Struct, frozen=True):
    """421: the last event. A message under way was not taken unless `MessageAnswered` said so before."""

    reply: Reply
    stage: Stage


class Disconnected(Struct, frozen=True):
    """The server has gone: the last event. With `Stage.BODY_SENT` the outcome of that message is unknown."""

    stage: Stage


class ProtocolError(Struct, frozen=True):
    """The server spoke nonsense: the last event. For `stage` see `Disconnected`."""

    text: str
    stage: Stage


Event = (
    StartTls
    | Ready
    | Refused
    | Authenticated
    | AuthRefused
    | EnvelopeAnswered
    | MessageAnswered
    | Answered
    | ServerClosing
    | Disconnected
    | ProtocolError
)


UNANSWERED = Reply(421, "", "not answered")


class _Envelope:
    """The commands of one envelope and what was answered so far."""

    __slots__ = ("mail", "mail_command", "recipient_commands", "recipients")

    def __init__(self, mail_command: bytes, recipient_commands: list[bytes]) -> None:
        self.mail_command = mail_command
        self.recipient_commands = recipient_commands
        self.mail = UNANSWERED
        self.recipients: list[Reply] = []

    @property
    def wanted(self) -> bool:
        """Whether sender and at least one recipient are accepted."""
        return self.mail.accepted and any(reply.accepted for reply in self.recipients)

    def answered(self, data: Reply | None, *, by_chunks: bool = False) -> EnvelopeAnswered:
        """`by_chunks`: there is no DATA that could be answered."""
        recipients = self.recipients if self.mail.accepted else [self.mail] * len(self.recipient_commands)
        go_ahead = self.wanted and (by_chunks or (data is not None and data.accepted))
        refused = data if self.wanted and not go_ahead else None
        return EnvelopeAnswered(self.mail, tuple(recipients), go_ahead, refused)


class SmtpClient:
    """One conversation, from the server's greeting on.

    `hostname` is what EHLO says, `tls` that TLS is on already, `want_starttls` that nothing else happens before
    TLS is on; without the offer the conversation ends in `Refused`. `server` and `port` are told with OAUTHBEARER.
    `want_chunking`: messages go by BDAT where that is offered (RFC 3030), otherwise by DATA.
    """

    def __init__(
        self,
        hostname: str,
        *,
        tls: bool = False,
        want_starttls: bool = False,
        server: str = "",
        port: int = 0,
        want_chunking: bool = True,
    ) -> None:
        self.hostname = hostname
        self.tls = tls
        self.extensions: dict[str, str] = {}
        self._want_starttls = want_starttls and not tls
        self._server, self._port = server, port
        self._want_chunking = want_chunking
        self._buffer = Buffer()
        self._reader = ReplyReader(self._buffer)
        self._out: list[bytes] = []
        self._events: deque[Event] = deque()
        self._awaited: deque[Callable[[SmtpClient, Reply], None]] = deque([SmtpClient._on_greeting])
        self._stage = Stage.GREETING
        self._gone = False
        self._closed = False
        self._mechanism = ""
        self._responses: deque[Secret] = deque()
        self._challenge = ""
        self._challenges = 0
        self._envelope: _Envelope | None = None
        self._must_reset = False
        self._border = b"\r\n"
        self._chunk = b""

    # What the server offers

    @property
    def size_limit(self) -> int:
        """Octets of a message; 0 when the server does not say."""
        told = self.extensions.get("SIZE", "")
        return int(told) if told.isascii() and told.isdecimal() and len(told) <= 20 else 0

    @property
    def auth_mechanisms(self) -> tuple[str, ...]:
        return tuple(self.extensions.get("AUTH", "").upper().split())

    @property
    def pipelining(self) -> bool:
        return "PIPELINING" in self.extensions

    @property
    def chunking(self) -> bool:
        return "CHUNKING" in self.extensions

    @property
    def by_chunks(self) -> bool:
        """Messages go by BDAT; without PIPELINING each chunk would cost a round trip."""
        return self._want_chunking and self.chunking and self.pipelining

    @property
    def smtputf8(self) -> bool:
        return "SMTPUTF8" in self.extensions

    @property
    def eight_bit(self) -> bool:
        return "8BITMIME" in self.extensions

    # For the driver: octets and events

    @property
    def stage(self) -> Stage:
        return Stage.BODY_SENT if SmtpClient._on_message in self._awaited else self._stage

    @property
    def closed(self) -> bool:
        """The last event was given or is waiting to be taken."""
        return self._closed

    @property
    def idle(self) -> bool:
        """No answer is awaited, and anything may be begun."""
        return self._stage is Stage.READY and not self._awaited and not self._closed

    def receive_data(self, data: bytes) -> None:
        """What the server sent; b"" when it will send no more."""
        if not data:
            self._gone = True
        elif not self._closed:
            self._buffer.feed(data)

    def next_event(self) -> Event | None:
        """The next event, or None: more data is needed, or it is the driver's turn."""
        while not self._events and not self._closed:
            try:
                reply = self._reader.next()
            except BadReply as bad:
                self._fail(str(bad))
                break
            if reply is not None:
                self._take(reply)
            elif self._gone:
                self._close(Disconnected(self.stage))
            else:
                return None
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        """What is to be sent; it is handed out once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # For the driver: what is to be done. A call out of turn raises RuntimeError.

    def tls_started(self) -> None:
        """TLS is on: what the server said before does not count (RFC 3207 section 4.2)."""
        self._expect(Stage.TLS)
        self._buffer.clear()
        self.tls = True
        self.extensions = {}
        self._stage = Stage.GREETING
        self._ehlo()

    def authenticate(self, mechanism: str, user: str, secret: Secret) -> None:
        """Then `Authenticated` or `AuthRefused` comes. Raises KeyError for an unknown mechanism."""
        self._expect(Stage.READY)
        self._responses = deque(sasl.responses(mechanism, user, secret, self._server, self._port))
        self._mechanism, self._challenge, self._challenges = mechanism, "", 0
        self._stage = Stage.AUTHENTICATING
        self._await(b"AUTH " + mechanism.encode() + self._initial_response(), SmtpClient._on_auth)

    def send_envelope(
        self,
        sender: str,
        recipients: Sequence[str],
        size: int = 0,
        *,
        smtputf8: bool = False,
        eight_bit: bool = False,
    ) -> None:
        """Asks for one message to be taken; then `EnvelopeAnswered` comes.

        With PIPELINING it may be called right after `end_body()`, before that message is answered (RFC 2920).
        SIZE and BODY are left out where the server does not know them. Raises ValueError for addresses that
        cannot be sent: no recipient, a blank or line end, or not ASCII while the server has no SMTPUTF8.
        """
        self._expect(Stage.READY)
        if self._awaited and not self.pipelining:
            raise RuntimeError("the server has no PIPELINING; wait for the answer to the last message")
        if not recipients:
            raise ValueError("a message needs a recipient")
        utf8 = smtputf8 and self.smtputf8
        mail = b"MAIL FROM:" + self._path(sender, utf8) + self._parameters(size, utf8, eight_bit)
        self._envelope = _Envelope(mail, [b"RCPT TO:" + self._path(one, utf8) for one in recipients])
        self._stage = Stage.ENVELOPE
        self._begin_envelope(self._envelope)

    def send_body(self, chunk: bytes, *, checked: bool = False) -> None:
        """A part of the message: text with CRLF, cut anywhere. Raises ValueError at a bare CR or LF.

        Where that was `checked` when the message was taken, it is not looked for.
        """
        self._expect(Stage.BODY)
        if not checked and has_bare_line_end((self._border + chunk).removesuffix(b"\r")):
            raise ValueError("a line of the message does not end in CRLF")
        end = (self._border + chunk[-2:])[-2:]
        if self.by_chunks:
            self._end_chunk()
            self._chunk = chunk
        else:
            self._out.append(self._with_dots(chunk) if b"." in chunk else chunk)
        self._border = end if end == b"\r\n" else b"\r" if end.endswith(b"\r") else b""

    def _with_dots(self, chunk: bytes) -> bytes:
        text = self._border + chunk
        return text.replace(b"\r\n.", b"\r\n..")[len(self._border) :] if dot_line(text) >= 0 else chunk

    def end_body(self) -> None:
        """The message is complete; then `MessageAnswered` comes. A last line without CRLF is ended.

        Ask `next_event()` before: what has arrived by now is no verdict about this message.
        """
        self._expect(Stage.BODY)
        self._stage = Stage.READY
        missing = b"\r\n"[len(self._border) :]
        if self.by_chunks:
            last, self._chunk = self._chunk + missing, b""
            self._await(b"BDAT %d LAST" % len(last), SmtpClient._on_message)
            self._out.append(last)
        else:
            self._await(missing + b".", SmtpClient._on_message)

    def _end_chunk(self) -> None:
        """One chunk is kept back until it is known whether it is the last one."""
        if self._chunk:
            self._await(b"BDAT %d" % len(self._chunk), SmtpClient._on_chunk)
            self._out.append(self._chunk)

    def reset(self) -> None:
        """RSET; then `Answered` comes."""
        self._expect_idle()
        self._must_reset = False
        self._await(b"RSET", SmtpClient._on_reset)

    def noop(self) -> None:
        """NOOP, to see whether the connection is alive; then `Answered` comes."""
        self._expect_idle()
        self._await(b"NOOP", SmtpClient._on_noop)

    def quit(self) -> None:
        """QUIT; then `Answered` comes, and nothing more can be done."""
        self._expect_idle()
        self._stage = Stage.QUITTING
        self._await(b"QUIT", SmtpClient._on_quit)

    # Replies

    def _take(self, reply: Reply) -> None:
        if reply.code == 421 or (self._stage is Stage.BODY and not reply.accepted):
            self._server_closes(reply)
        elif not self._awaited:
            self._fail(f"a reply that nobody awaits: {reply.code}")
        elif 300 <= reply.code < 400 and self._awaited[0] not in self._ASKING:
            self._fail(f"a reply that has no meaning here: {reply.code}")
        else:
            self._awaited.popleft()(self, reply)

    def _server_closes(self, reply: Reply) -> None:
        """421 at any point; while the body is being sent any refusal, as the rest cannot be taken back."""
        if self._stage is Stage.BODY or (self._awaited and self._awaited[0] is SmtpClient._on_message):
            self._awaited.clear()
            self._events.append(MessageAnswered(reply))
        self._close(ServerClosing(reply, self.stage))

    def _on_greeting(self, reply: Reply) -> None:
        if reply.code == 220:
            self._ehlo()
        else:
            self._refuse("The server does not take this connection", reply)

    def _on_ehlo(self, reply: Reply) -> None:
        if reply.code == 250:
            self.extensions = _extensions(reply.lines[1:])
            self._offered()
        elif reply.permanent:
            self._await(b"HELO " + self.hostname.encode(), SmtpClient._on_helo)
        else:
            self._refuse("The server does not answer EHLO", reply)

    def _on_helo(self, reply: Reply) -> None:
        if reply.code == 250:
            self._offered()
        else:
            self._refuse("The server refuses EHLO and HELO", reply)

    def _on_starttls(self, reply: Reply) -> None:
        if reply.code != 220:
            self._refuse("The server refuses STARTTLS", reply)
        elif self._buffer:
            self._fail("octets in the clear after the answer to STARTTLS")
        else:
            self._stage = Stage.TLS
            self._events.append(StartTls())

    def _on_auth(self, reply: Reply) -> None:
        if reply.code == 334:
            self._answer_challenge(reply)
            return
        self._responses.clear()
        self._stage = Stage.READY
        if reply.code == 235:
            self._events.append(Authenticated(reply))
        elif reply.accepted:
            self._fail(f"an answer to AUTH that has no meaning: {reply.code}")
        else:
            self._events.append(AuthRefused(reply, self._challenge))

    def _on_mail(self, reply: Reply) -> None:
        if self._envelope is not None:
            self._envelope.mail = reply

    def _on_rcpt(self, reply: Reply) -> None:
        if self._envelope is not None:
            self._envelope.recipients.append(reply)
            if self.by_chunks and len(self._envelope.recipients) == len(self._envelope.recipient_commands):
                self._settle(self._envelope, None)

    def _on_data(self, reply: Reply) -> None:
        if self._envelope is None:
            return
        if reply.code == 354 and not self._envelope.wanted:
            self._await(b".", SmtpClient._on_empty_message)
        elif reply.accepted and reply.code != 354:
            self._fail(f"an answer to DATA that has no meaning: {reply.code}")
        else:
            self._settle(self._envelope, reply)

    def _on_empty_message(self, reply: Reply) -> None:
        """DATA was answered by 354 although nobody shall get the message: an empty one was sent (RFC 2920 3.1)."""
        if self._envelope is not None:
            self._settle(self._envelope, None)
            self._must_reset = False

    def _on_chunk(self, reply: Reply) -> None:
        """What is refused of a message that is being sent, or was sent to its end, decides about all of it."""
        if not reply.accepted:
            self._awaited.appendleft(SmtpClient._on_message)
            self._server_closes(reply)

    def _on_message(self, reply: Reply) -> None:
        self._events.append(MessageAnswered(reply))

    def _on_silent_reset(self, reply: Reply) -> None:
        """RSET in front of an envelope; if it is refused, MAIL will be as well."""

    def _on_reset(self, reply: Reply) -> None:
        self._events.append(Answered("RSET", reply))

    def _on_noop(self, reply: Reply) -> None:
        self._events.append(Answered("NOOP", reply))

    def _on_quit(self, reply: Reply) -> None:
        self._events.append(Answered("QUIT", reply))
        self._closed = True

    _ASKING = frozenset((_on_auth, _on_data))

    # Envelopes, in one write or command by command

    def _begin_envelope(self, envelope: _Envelope) -> None:
        if self.pipelining:
            self._send_group(envelope)
        elif self._must_reset:
            self._await(b"RSET", SmtpClient._after_reset)
        else:
            self._await(envelope.mail_command, SmtpClient._after_mail)

    def _send_group(self, envelope: _Envelope) -> None:
        """Also DATA, which is then answered by a refusal when no recipient is left (RFC 2920 section 3.1)."""
        if self._must_reset:
            self._await(b"RSET", SmtpClient._on_silent_reset)
        self._await(envelope.mail_command, SmtpClient._on_mail)
        for command in envelope.recipient_commands:
            self._await(command, SmtpClient._on_rcpt)
        if not self.by_chunks:
            self._await(b"DATA", SmtpClient._on_data)

    def _after_reset(self, reply: Reply) -> None:
        if self._envelope is not None:
            self._await(self._envelope.mail_command, SmtpClient._after_mail)

    def _after_mail(self, reply: Reply) -> None:
        self._on_mail(reply)
        self._go_on()

    def _after_rcpt(self, reply: Reply) -> None:
        self._on_rcpt(reply)
        self._go_on()

    def _go_on(self) -> None:
        """The next command of the envelope, where the last one was answered."""
        envelope = self._envelope
        if envelope is None:
            return
        asked = len(envelope.recipients)
        if envelope.mail.accepted and asked < len(envelope.recipient_commands):
            self._await(envelope.recipient_commands[asked], SmtpClient._after_rcpt)
        elif envelope.wanted:
            self._await(b"DATA", SmtpClient._on_data)
        else:
            self._settle(envelope, None)

    def _settle(self, envelope: _Envelope, data: Reply | None) -> None:
        answered = envelope.answered(data, by_chunks=self.by_chunks)
        self._envelope = None
        self._must_reset = answered.mail.accepted and not answered.go_ahead
        self._stage = Stage.BODY if answered.go_ahead else Stage.READY
        self._border = b"\r\n"
        self._events.append(answered)

    def _path(self, address: str, utf8: bool) -> bytes:
        if not utf8 and not address.isascii():
            raise ValueError("the address needs SMTPUTF8")
        try:
            check_address(address)
        except BadPath as wrong:
            raise ValueError(str(wrong)) from None
        return f"<{address}>".encode()

    def _parameters(self, size: int, utf8: bool, eight_bit: bool) -> bytes:
        said = f" SIZE={size}" if size and "SIZE" in self.extensions else ""
        said += " BODY=8BITMIME" if eight_bit and self.eight_bit else ""
        said += " SMTPUTF8" if utf8 else ""
        return said.encode()

    # Steps

    def _ehlo(self) -> None:
        self._await(b"EHLO " + self.hostname.encode(), SmtpClient._on_ehlo)

    def _offered(self) -> None:
        if self.tls or not self._want_starttls:
            self._stage = Stage.READY
            self._events.append(Ready())
        elif "STARTTLS" in self.extensions:
            self._await(b"STARTTLS", SmtpClient._on_starttls)
        else:
            self._refuse("STARTTLS not offered", None)

    def _initial_response(self) -> bytes:
        """Part of the command where it fits; LOGIN has none, as servers differ about it."""
        first = self._responses[0].reveal().encode()
        fits = len(b"AUTH  \r\n") + len(self._mechanism) + len(first) <= COMMAND_LIMIT
        if self._mechanism == "LOGIN" or not fits:
            return b""
        self._responses.popleft()
        return b" " + first

    def _answer_challenge(self, reply: Reply) -> None:
        self._challenges += 1
        if self._challenges > CHALLENGES_LIMIT:
            self._fail("challenges without end")
        elif self._responses:
            self._await(self._responses.popleft().reveal().encode(), SmtpClient._on_auth)
        else:
            self._challenge = sasl.read_challenge(reply.text.encode())
            self._await(sasl.answer_to_challenge(self._mechanism), SmtpClient._on_auth)

    def _await(self, line: bytes, answer: "Callable[[SmtpClient, Reply], None]") -> None:
        self._out.append(line + b"\r\n")
        self._awaited.append(answer)

    def _expect(self, stage: Stage) -> None:
        if self._closed or self._stage is not stage:
            raise RuntimeError(f"out of turn: {self._stage.value}")

    def _expect_idle(self) -> None:
        self._expect(Stage.READY)
        if self._awaited:
            raise RuntimeError("out of turn: an answer is awaited")

    def _refuse(self, text: str, reply: Reply | None) -> None:
        self._close(Refused(text, reply))

    def _fail(self, text: str) -> None:
        self._close(ProtocolError(text, self.stage))

    def _close(self, event: Event) -> None:
        self._events.append(event)
        self._closed = True
        self._responses.clear()
        self._buffer.clear()


def _extensions(lines: list[str]) -> dict[str, str]:
    """Keyword to parameters. Old servers also write `AUTH=LOGIN`, which is read as `AUTH LOGIN`."""
    extensions: dict[str, str] = {}
    for line in lines:
        keyword, _, parameters = line.replace("AUTH=", "AUTH ", 1).strip().partition(" ")
        before = extensions.get(keyword.upper())
        extensions[keyword.upper()] = f"{before} {parameters}" if before else parameters
    return extensions
