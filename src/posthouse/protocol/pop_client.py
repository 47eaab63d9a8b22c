"""The client side of POP3 (RFC 1939, CAPA of RFC 2449, STLS of RFC 2595, AUTH of RFC 5034): bytes in, events and
bytes out.

Each method says a command; what the server tells comes as events, and `Completed` ends it. Messages come in chunks,
never held whole. Where the server offers PIPELINING, commands of an open mailbox may be said before earlier ones have
ended; they end in the same order.
"""

import re
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias, TypeVar

from posthouse.protocol.pop_lines import DotReader
from posthouse.protocol.reading import Buffer, TooLong, readable
from posthouse.protocol.sasl import answer_to_challenge, read_challenge
from posthouse.secret import Secret

LINE = 8192
"""Octets of an answer's line; RFC 2449 allows 512, challenges need more."""

CAPABILITIES = 100
CHALLENGES = 3
OUTSTANDING = 1000
"""Commands that may be said before their answers have come."""

_ANSWER = re.compile(rb"(\+OK|-ERR)(?: +(?:\[([^\]]*)\] ?)?(.*))?\Z", re.IGNORECASE | re.DOTALL)
_TWO_NUMBERS = re.compile(r"\s*([0-9]{1,10}) +([0-9]{1,18})(?:\s.*)?", re.DOTALL)
_NUMBER_AND_NAME = re.compile(r"([0-9]{1,10}) +([\x21-\x7e]{1,70})\s*")


class State(Enum):
    GREETING = auto()  # the server has not spoken yet
    AUTHORIZATION = auto()
    STARTING_TLS = auto()  # the server agreed; the driver's move: `tls_started()`
    TRANSACTION = auto()  # the mailbox is open
    ENDED = auto()  # nothing more is read or said


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's first line. `code` is what stands in brackets (RFC 2449, RFC 3206): AUTH, IN-USE, SYS/TEMP …"""

    ok: bool
    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Greeting:
    reply: Reply


@dataclass(frozen=True, slots=True)
class Completed:
    """A command has ended. `number` is the message it was about.

    `challenge` is what the server said before it refused an AUTH, mostly JSON.
    """

    command: str
    reply: Reply
    number: int = 0
    challenge: str = ""

    @property
    def ok(self) -> bool:
        return self.reply.ok


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Names in capitals with the words that follow them: {"SASL": ("PLAIN", "XOAUTH2"), "TOP": ()}."""

    words: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class MailboxSize:
    """The answer to STAT: messages, and octets together."""

    count: int
    octets: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A message and its octets."""

    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Identified:
    """A message and its unique id, which stays the same from session to session."""

    number: int
    uid: str


@dataclass(frozen=True, slots=True)
class MessageChunk:
    """The next octets of a message that RETR or TOP asked for; its `Completed` says that it is whole."""

    number: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProtocolError:
    """The server said what POP3 does not allow, or more than the limits do; nothing more is read."""

    text: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The server is gone. `command` is the first one it left without an answer."""

    command: str = ""


Event: TypeAlias = (
    Greeting
    | Completed
    | Capabilities
    | MailboxSize
    | Listed
    | Identified
    | MessageChunk
    | ProtocolError
    | Disconnected
)

_T = TypeVar("_T")
_Reading: TypeAlias = Generator[Event | None, None, _T]


@dataclass(slots=True)
class _Command:
    name: str
    number: int = 0
    rest: bytes = field(default=b"", repr=False)
    mechanism: str = ""
    challenges: int = 0
    challenge: str = ""


class _Gone(Exception):
    """The server has closed."""


class _Wrong(Exception):
    """The server breaks the protocol; the text says how."""


class PopClient:
    """Methods that say a command raise RuntimeError when the state or a command that has not ended forbids it."""

    def __init__(self) -> None:
        self.state = State.GREETING
        self.capabilities: Mapping[str, tuple[str, ...]] = {}
        self._buffer = Buffer()
        self._eof = False
        self._out: list[bytes] = []
        self._awaited: deque[_Command] = deque()
        self._parser = self._run()

    # Driving

    def receive_data(self, data: bytes) -> None:
        """Octets from the server, b"" when it has closed."""
        self._eof = self._eof or not data
        if self.state is not State.ENDED:
            self._buffer.feed(data)

    def next_event(self) -> Event | None:
        """The next thing the server said; None when more octets, a command or `tls_started()` is needed."""
        return next(self._parser)

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def tls_started(self) -> None:
        """The TLS handshake is done. What came before it in the clear is forgotten (RFC 2595 section 4)."""
        self._must_be(State.STARTING_TLS)
        self._buffer.clear()
        self.capabilities = {}
        self.state = State.AUTHORIZATION

    @property
    def busy(self) -> bool:
        """Whether a command has not ended yet."""
        return bool(self._awaited)

    # Commands

    def capa(self) -> None:
        """`Capabilities` follows where the server knows the command. They are forgotten at TLS and at login, as they
        may change: ask again for PIPELINING."""
        self._must_be(State.AUTHORIZATION, State.TRANSACTION)
        self._say(_Command("CAPA"), b"CAPA")

    def stls(self) -> None:
        """After a `Completed` that is ok nothing is read until `tls_started()`."""
        self._must_be(State.AUTHORIZATION)
        self._say(_Command("STLS"), b"STLS")

    def authenticate(self, mechanism: str, response: Secret) -> None:
        """`response` is in base64, as `sasl` makes it. Always sent in a line of its own, as commands have at most 255
        octets (RFC 2449 section 4)."""
        self._must_be(State.AUTHORIZATION)
        rest = _one_line(response.reveal())
        self._say(_Command("AUTH", rest=rest, mechanism=mechanism), b"AUTH " + _one_line(mechanism))

    def login(self, user: str, password: Secret) -> None:
        """USER and PASS; they end together as `Completed("PASS")`, or as `Completed("USER")` refused."""
        self._must_be(State.AUTHORIZATION)
        rest = b"PASS " + _one_line(password.reveal())
        self._say(_Command("USER", rest=rest), b"USER " + _one_line(user))

    def stat(self) -> None:
        """`MailboxSize` follows."""
        self._must_be(State.TRANSACTION)
        self._say(_Command("STAT"), b"STAT")

    def list_sizes(self) -> None:
        """A `Listed` follows for each message."""
        self._must_be(State.TRANSACTION)
        self._say(_Command("LIST"), b"LIST")

    def list_uids(self) -> None:
        """An `Identified` follows for each message."""
        self._must_be(State.TRANSACTION)
        self._say(_Command("UIDL"), b"UIDL")

    def retrieve(self, number: int) -> None:
        """`MessageChunk`s follow."""
        self._about("RETR", number)

    def top(self, number: int, lines: int = 0) -> None:
        """The header and so many lines of the body; `MessageChunk`s follow."""
        self._must_be(State.TRANSACTION)
        self._say(_Command("TOP", number), b"TOP %d %d" % (number, lines))

    def delete(self, number: int) -> None:
        """The message goes when `quit()` has ended well, and stays where the connection ends otherwise."""
        self._about("DELE", number)

    def reset(self) -> None:
        """Keep what was to be deleted."""
        self._must_be(State.TRANSACTION)
        self._say(_Command("RSET"), b"RSET")

    def noop(self) -> None:
        self._must_be(State.TRANSACTION)
        self._say(_Command("NOOP"), b"NOOP")

    def quit(self) -> None:
        """Where it does not end ok, messages may not have been deleted (RFC 1939 section 6)."""
        self._must_be(State.AUTHORIZATION, State.TRANSACTION)
        self._say(_Command("QUIT"), b"QUIT")

    # Saying

    def _about(self, name: str, number: int) -> None:
        self._must_be(State.TRANSACTION)
        self._say(_Command(name, number), b"%b %d" % (name.encode(), number))

    def _must_be(self, *states: State) -> None:
        if self.state not in states:
            raise RuntimeError(f"not possible in the state {self.state.name}")

    def _say(self, command: _Command, line: bytes) -> None:
        pipelining = self.state is State.TRANSACTION and "PIPELINING" in self.capabilities
        if self._awaited and (not pipelining or len(self._awaited) >= OUTSTANDING):
            raise RuntimeError(f"{self._awaited[0].name} has not ended yet")
        self._awaited.append(command)
        self._out.append(line + b"\r\n")

    # Reading: generators that yield None while octets are missing, and events

    def _run(self) -> Generator[Event | None, None, None]:
        try:
            yield from self._conversation()
        except _Gone:
            yield self._ended(Disconnected(self._awaited[0].name if self._awaited else ""))
        except TooLong as fault:
            yield self._ended(ProtocolError(f"the server sent {fault} without an end"))
        except _Wrong as fault:
            yield self._ended(ProtocolError(str(fault)))
        while True:
            yield None

    def _ended(self, event: Event) -> Event:
        self.state = State.ENDED
        self._buffer.clear()
        return event

    def _conversation(self) -> _Reading[None]:
        reply = _read_reply((yield from self._line()))
        self.state = State.AUTHORIZATION
        yield Greeting(reply)
        while True:
            while self.state is State.STARTING_TLS:
                yield None
            line = yield from self._line()
            if not self._awaited:
                raise _Wrong("the server answers a command that was not sent")
            if line[:1] == b"+" and line[:3].upper() != b"+OK":
                self._continued(self._awaited[0], line[1:].strip())
            else:
                yield from self._answered(self._awaited[0], _read_reply(line))

    def _line(self) -> _Reading[bytes]:
        while (line := self._buffer.line(LINE)) is None:
            self._still_there()
            yield None
        return line

    def _still_there(self) -> None:
        if self._eof:
            raise _Gone

    def _continued(self, command: _Command, words: bytes) -> None:
        """The server wants the response, or tells why it will refuse (RFC 5034 section 4)."""
        if command.name != "AUTH":
            raise _Wrong("the server asks for more than the command has")
        if command.rest:
            line, command.rest = command.rest, b""
        else:
            line = self._answer_to(command, words)
        self._out.append(line + b"\r\n")

    def _answer_to(self, command: _Command, words: bytes) -> bytes:
        command.challenges += 1
        if command.challenges > CHALLENGES:
            raise _Wrong("the server does not end the exchange")
        command.challenge = read_challenge(words) or command.challenge
        return answer_to_challenge(command.mechanism) if command.challenges == 1 else b"*"

    def _answered(self, command: _Command, reply: Reply) -> _Reading[None]:
        if command.name == "USER" and reply.ok:
            self._out.append(command.rest + b"\r\n")
            command.name, command.rest = "PASS", b""
            return
        if reply.ok and command.name in ("RETR", "TOP"):
            yield from self._message(command.number)
        elif reply.ok and command.name in ("LIST", "UIDL"):
            yield from self._listing(_LISTINGS[command.name])
        elif reply.ok and command.name == "CAPA":
            yield from self._told_capabilities()
        elif reply.ok and command.name == "STAT":
            yield _size(reply)
        self._awaited.popleft()
        self._apply(command, reply)
        yield Completed(command.name, reply, command.number, command.challenge)

    def _apply(self, command: _Command, reply: Reply) -> None:
        if not reply.ok:
            return
        if command.name in ("AUTH", "PASS"):
            self.state = State.TRANSACTION
            self.capabilities = {}
        elif command.name == "STLS":
            self.state = State.STARTING_TLS

    def _message(self, number: int) -> _Reading[None]:
        reader = DotReader()
        while not reader.finished:
            chunk = reader.take(self._buffer)
            if chunk:
                yield MessageChunk(number, chunk)
            elif not reader.finished:
                self._still_there()
                yield None

    def _listing(self, read: Callable[[str], Event]) -> _Reading[None]:
        while (line := (yield from self._line())) != b".":
            yield read(line.decode(errors="replace"))

    def _told_capabilities(self) -> _Reading[None]:
        words: dict[str, tuple[str, ...]] = {}
        while (line := (yield from self._line())) != b".":
            name, *rest = line.decode(errors="replace").upper().split() or [""]
            words[name] = tuple(rest)
            if len(words) > CAPABILITIES:
                raise _Wrong("the server has too many capabilities")
        self.capabilities = words
        yield Capabilities(words)


def _read_reply(line: bytes) -> Reply:
    found = _ANSWER.match(line)
    if found is None:
        raise _Wrong("the server does not answer as a POP3 server does")
    code = (found[2] or b"").decode(errors="replace").upper()
    return Reply(found[1].upper() == b"+OK", readable(found[3] or b""), code)


def _size(reply: Reply) -> MailboxSize:
    found = _TWO_NUMBERS.fullmatch(reply.text)
    if found is None:
        raise _Wrong("the answer to STAT has no numbers")
    return MailboxSize(int(found[1]), int(found[2]))


def _listed(line: str) -> Listed:
    found = _TWO_NUMBERS.fullmatch(line)
    if found is None:
        raise _Wrong("a line of LIST has no numbers")
    return Listed(int(found[1]), int(found[2]))


def _identified(line: str) -> Identified:
    found = _NUMBER_AND_NAME.fullmatch(line)
    if found is None:
        raise _Wrong("a line of UIDL has no number or no id")
    return Identified(int(found[1]), found[2])


_LISTINGS: dict[str, Callable[[str], Event]] = {"LIST": _listed, "UIDL": _identified}


def _one_line(text: str) -> bytes:
    if "\r" in text or "\n" in text:
        raise ValueError("a word has a line break")
    return text.encode()
