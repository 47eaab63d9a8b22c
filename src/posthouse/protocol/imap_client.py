"""The client side of IMAP (RFC 3501 and the extensions named below): bytes in, events and bytes out.

One command at a time: each method below says it, what the server tells meanwhile comes as events, and `Completed`
ends it. Message data is given out whole, one message an event, and never more than `Limits.literals` octets; a larger
message is fetched in parts with `BODY.PEEK[]<0.262144>` and so on. UIDs are used throughout.

Extensions, where the server has them: SASL-IR, LITERAL+, IDLE, MOVE, UIDPLUS, STARTTLS, PREAUTH greetings.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from typing import TypeAlias, TypeVar

from posthouse.protocol.imap_responses import (
    Capabilities,
    Completed,
    Condition,
    Disconnected,
    Event,
    Exists,
    Expunged,
    Greeting,
    Idling,
    Notice,
    ProtocolError,
    Status,
    Untagged,
    is_status,
    read_capabilities,
    read_condition,
    read_untagged,
)
from posthouse.protocol.imap_syntax import (
    LITERAL_HEAD,
    Literal,
    Malformed,
    encode_name,
    number_of,
    string,
    write_date_time,
)
from posthouse.protocol.reading import Buffer, TooLong
from posthouse.protocol.sasl import answer_to_challenge, read_challenge
from posthouse.secret import Secret

INITIAL_RESPONSE_LIMIT = 8000
"""A longer AUTHENTICATE line is sent in two steps (RFC 7162 section 4 speaks of 8192 octets for a line)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept of one response: octets of a line (a SEARCH of 100,000 messages fits), octets of its literals."""

    line: int = 1 << 20
    literals: int = 64 << 20
    challenges: int = 3


class State(Enum):
    GREETING = auto()  # the server has not spoken yet
    NOT_AUTHENTICATED = auto()
    STARTING_TLS = auto()  # the server agreed; the driver's move: `tls_started()`
    AUTHENTICATED = auto()
    SELECTED = auto()  # a folder is open
    ENDED = auto()  # nothing more is read or said


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """The folder that is open, kept up to date. Numbers are None where the server did not tell."""

    name: str
    read_only: bool = False
    exists: int = 0
    uidvalidity: int | None = None
    uidnext: int | None = None


_T = TypeVar("_T")
_Reading: TypeAlias = Generator[Event | None, None, _T]


@dataclass(slots=True)
class _Command:
    tag: bytes
    name: str
    parts: deque[bytes] = field(repr=False)
    folder: OpenFolder | None = None
    mechanism: str = ""
    challenges: int = 0
    challenge: str = ""
    ready: bool = False
    leaving: bool = False
    told_capabilities: bool = False


class _Gone(Exception):
    """The server has closed."""


class ImapClient:
    """Methods that say a command raise RuntimeError when another one has not ended or the state does not allow it.

    They raise ValueError for words that cannot be sent, such as a name with a line break.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.state = State.GREETING
        self.capabilities: frozenset[str] = frozenset()
        self.folder: OpenFolder | None = None
        self._buffer = Buffer()
        self._eof = False
        self._out: list[bytes] = []
        self._said = 0
        self._command: _Command | None = None
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
        """The TLS handshake is done. What came before it in the clear is forgotten (RFC 3501 section 6.2.1)."""
        self._must_be(State.STARTING_TLS)
        self._buffer.clear()
        self.capabilities = frozenset()
        self.state = State.NOT_AUTHENTICATED

    def can(self, capability: str) -> bool:
        """Whether the server has said so; ask with `capability()` while `capabilities` is empty."""
        return capability in self.capabilities

    @property
    def busy(self) -> bool:
        """Whether a command has not ended yet."""
        return self._command is not None

    # Commands in any state

    def capability(self) -> None:
        self._say("CAPABILITY")

    def noop(self) -> None:
        self._say("NOOP")

    def logout(self) -> None:
        """The server says Bye, completes and closes."""
        self._say("LOGOUT")

    # Commands before authentication

    def starttls(self) -> None:
        """After a `Completed` that is ok nothing is read until `tls_started()`."""
        self._must_be(State.NOT_AUTHENTICATED)
        self._say("STARTTLS")

    def authenticate(self, mechanism: str, response: Secret) -> None:
        """`response` is in base64, as `sasl` makes it; sent at once where that is allowed and short enough."""
        self._must_be(State.NOT_AUTHENTICATED)
        words = b"AUTHENTICATE " + _one_line(mechanism.encode("ascii"))
        initial = _one_line(response.reveal().encode("ascii"))
        at_once = self.can("SASL-IR") and len(words) + len(initial) < INITIAL_RESPONSE_LIMIT
        parts = [words + b" " + initial + b"\r\n"] if at_once else [words + b"\r\n", initial + b"\r\n"]
        self._begin("AUTHENTICATE", parts).mechanism = mechanism

    def login(self, user: str, password: Secret) -> None:
        self._must_be(State.NOT_AUTHENTICATED)
        self._say("LOGIN", string(user), string(password.reveal()))

    # Commands after authentication

    def select(self, name: str, *, read_only: bool = False) -> None:
        """Open a folder; when completed, `folder` tells what it holds."""
        self._must_be(State.AUTHENTICATED, State.SELECTED)
        command = self._say("EXAMINE" if read_only else "SELECT", _name(name))
        command.folder = OpenFolder(name, read_only)

    def list_folders(self, pattern: str = "*", reference: str = "") -> None:
        self._must_be(State.AUTHENTICATED, State.SELECTED)
        self._say("LIST", _name(reference), _name(pattern))

    def folder_status(self, name: str, items: Iterable[str] = ("MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN")) -> None:
        self._must_be(State.AUTHENTICATED, State.SELECTED)
        self._say("STATUS", _name(name), f"({' '.join(items)})".encode())

    def create(self, name: str) -> None:
        self._must_be(State.AUTHENTICATED, State.SELECTED)
        self._say("CREATE", _name(name))

    def append(self, name: str, message: bytes, *, flags: Iterable[str] = (), date: datetime | None = None) -> None:
        self._must_be(State.AUTHENTICATED, State.SELECTED)
        when = [f'"{write_date_time(date)}"'.encode()] if date else []
        self._say("APPEND", _name(name), f"({' '.join(flags)})".encode(), *when, Literal(message))

    def idle(self) -> None:
        """Wait for news (RFC 2177); `Idling` follows when the server agrees. Renew it every 29 minutes at least."""
        self._must_be(State.AUTHENTICATED, State.SELECTED)
        self._begin("IDLE", [b"IDLE\r\n", b"DONE\r\n"])

    def done(self) -> None:
        """End `idle()`; its `Completed` follows. Nothing happens where the server has ended it itself."""
        if self._command is not None and self._command.name == "IDLE":
            self._command.leaving = True
            self._leave(self._command)

    # Commands on the open folder

    def uid_search(self, criteria: str = "ALL") -> None:
        """`criteria` as in RFC 3501 section 6.4.4, in ASCII. `Found` follows."""
        self._must_be(State.SELECTED)
        self._say("UID SEARCH", criteria.encode("ascii"))

    def uid_fetch(self, uids: str, items: str = "(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])") -> None:
        """`uids` as `imap_syntax.write_sets` writes them. A `Fetched` follows for each message."""
        self._must_be(State.SELECTED)
        self._say("UID FETCH", uids.encode("ascii"), items.encode("ascii"))

    def uid_store(self, uids: str, change: str, flags: Iterable[str]) -> None:
        """`change` is FLAGS, +FLAGS or -FLAGS, with or without .SILENT."""
        self._must_be(State.SELECTED)
        self._say("UID STORE", uids.encode("ascii"), change.encode("ascii"), f"({' '.join(flags)})".encode())

    def uid_copy(self, uids: str, name: str) -> None:
        self._must_be(State.SELECTED)
        self._say("UID COPY", uids.encode("ascii"), _name(name))

    def uid_move(self, uids: str, name: str) -> None:
        """RFC 6851. Where `can("MOVE")` is false: `uid_copy`, `uid_store` of \\Deleted, then expunge."""
        self._must_be(State.SELECTED)
        self._say("UID MOVE", uids.encode("ascii"), _name(name))

    def expunge(self) -> None:
        """Remove every message flagged \\Deleted, whoever flagged it; `uid_expunge` is the safer one."""
        self._must_be(State.SELECTED)
        self._say("EXPUNGE")

    def uid_expunge(self, uids: str) -> None:
        """RFC 4315: remove these messages where they are flagged \\Deleted. Needs `can("UIDPLUS")`."""
        self._must_be(State.SELECTED)
        self._say("UID EXPUNGE", uids.encode("ascii"))

    def close_folder(self) -> None:
        """Close the folder and remove what is flagged \\Deleted; `unselect` removes nothing."""
        self._must_be(State.SELECTED)
        self._say("CLOSE")

    def unselect(self) -> None:
        """RFC 3691. Needs `can("UNSELECT")`."""
        self._must_be(State.SELECTED)
        self._say("UNSELECT")

    # Saying

    def _must_be(self, *states: State) -> None:
        if self.state not in states:
            raise RuntimeError(f"not possible in the state {self.state.name}")

    def _say(self, name: str, *words: bytes) -> _Command:
        parts = [name.encode()]
        for word in words:
            if not isinstance(word, Literal):
                parts[-1] += b" " + _one_line(word)
                continue
            head = b" {%d+}\r\n" if self.can("LITERAL+") else b" {%d}\r\n"
            parts[-1] += head % len(word)
            parts.append(bytes(word))
        parts[-1] += b"\r\n"
        if self.can("LITERAL+"):
            parts = [b"".join(parts)]
        return self._begin(name, parts)

    def _begin(self, name: str, parts: Sequence[bytes]) -> _Command:
        if self._command is not None:
            raise RuntimeError(f"{self._command.name} has not ended yet")
        if self.state in (State.GREETING, State.STARTING_TLS, State.ENDED):
            raise RuntimeError(f"not possible in the state {self.state.name}")
        self._said += 1
        tag = b"P%d" % self._said
        self._out.append(tag + b" " + parts[0])
        self._command = _Command(tag, name, deque(parts[1:]))
        return self._command

    # Reading: generators that yield None while octets are missing, and events

    def _run(self) -> Generator[Event | None, None, None]:
        try:
            yield from self._conversation()
        except _Gone:
            yield self._ended(Disconnected(self._command.name if self._command else ""))
        except TooLong as fault:
            yield self._ended(ProtocolError(f"the server sent {fault} without an end"))
        except Malformed as fault:
            yield self._ended(ProtocolError(str(fault)))
        while True:
            yield None

    def _ended(self, event: Event) -> Event:
        self.state = State.ENDED
        self._buffer.clear()
        return event

    def _conversation(self) -> _Reading[None]:
        yield self._greeted(*(yield from self._response()))
        while True:
            while self.state is State.STARTING_TLS:
                yield None
            event = self._understood(*(yield from self._response()))
            if event is not None:
                yield event

    def _response(self) -> _Reading[tuple[bytes, list[bytes]]]:
        """What stands before the first blank ("*", "+" or a tag), and the pieces after it."""
        first, _, rest = (yield from self._line()).partition(b" ")
        pieces = [rest]
        if first != b"*" or is_status(rest):
            return first, pieces
        room = self.limits.literals
        text = self.limits.line - len(rest)
        while head := LITERAL_HEAD.search(pieces[-1]):
            pieces[-1] = pieces[-1][: head.start()]
            room -= int(head[1])
            if room < 0:
                raise TooLong(self.limits.literals)
            pieces.append((yield from self._octets(int(head[1]))))
            pieces.append((yield from self._line()))
            text -= len(pieces[-1]) + 32
            if text < 0:
                raise TooLong(self.limits.line)
        return first, pieces

    def _line(self) -> _Reading[bytes]:
        while (line := self._buffer.line(self.limits.line)) is None:
            if self._eof:
                raise _Gone
            yield None
        return line

    def _octets(self, count: int) -> _Reading[bytes]:
        taken: list[bytes] = []
        while count:
            chunk = self._buffer.up_to(count)
            if not chunk:
                if self._eof:
                    raise _Gone
                yield None
                continue
            taken.append(chunk)
            count -= len(chunk)
        return b"".join(taken)

    # Understanding

    def _greeted(self, first: bytes, pieces: list[bytes]) -> Event:
        if first != b"*":
            raise Malformed("the server does not greet as an IMAP server does")
        condition = read_condition(pieces[0])
        if condition.status in (Status.NO, Status.BAD):
            raise Malformed("the server does not greet as an IMAP server does")
        preauth = condition.status is Status.PREAUTH
        self.state = State.AUTHENTICATED if preauth else State.NOT_AUTHENTICATED
        self._learn(condition)
        return Greeting(condition)

    def _understood(self, first: bytes, pieces: list[bytes]) -> Event | None:
        if first == b"*":
            event = read_untagged(pieces)
            self._note(event)
            return event
        if first == b"+":
            return self._continued(pieces[0])
        if self._command is None or first != self._command.tag:
            raise Malformed("the server answers a command that was not sent")
        return self._completed(self._command, read_condition(pieces[0]))

    def _note(self, event: Untagged) -> None:
        folder = self._folder_meant
        match event:
            case Capabilities(names):
                self._know(names)
            case Notice(condition):
                self._learn(condition)
            case Exists(count) if folder is not None:
                self._keep(replace(folder, exists=count))
            case Expunged() if folder is not None:
                self._keep(replace(folder, exists=max(0, folder.exists - 1)))

    @property
    def _folder_meant(self) -> OpenFolder | None:
        """While a folder is being opened, news are about that one."""
        opening = self._command.folder if self._command is not None else None
        return opening or self.folder

    def _keep(self, folder: OpenFolder) -> None:
        if self._command is not None and self._command.folder is not None:
            self._command.folder = folder
        else:
            self.folder = folder

    def _know(self, capabilities: frozenset[str]) -> None:
        self.capabilities = capabilities
        if self._command is not None:
            self._command.told_capabilities = True

    def _learn(self, condition: Condition) -> None:
        """What a code between brackets tells (RFC 3501 section 7.1)."""
        folder = self._folder_meant
        match condition.code:
            case "CAPABILITY":
                self._know(read_capabilities(condition.argument))
            case "UIDVALIDITY" if folder is not None:
                self._keep(replace(folder, uidvalidity=number_of(condition.argument)))
            case "UIDNEXT" if folder is not None:
                self._keep(replace(folder, uidnext=number_of(condition.argument)))

    def _continued(self, words: bytes) -> Event | None:
        command = self._command
        if command is None:
            raise Malformed("the server asks for more and nothing was begun")
        if command.name == "IDLE":
            return self._idling(command)
        if command.parts:
            self._out.append(command.parts.popleft())
            return None
        if command.name != "AUTHENTICATE":
            raise Malformed("the server asks for more than the command has")
        self._challenged(command, words)
        return None

    def _idling(self, command: _Command) -> Event:
        command.ready = True
        self._leave(command)
        return Idling()

    def _leave(self, command: _Command) -> None:
        if command.ready and command.leaving and command.parts:
            self._out.append(command.parts.popleft())

    def _challenged(self, command: _Command, words: bytes) -> None:
        command.challenges += 1
        if command.challenges > self.limits.challenges:
            raise Malformed("the server does not end the exchange")
        command.challenge = read_challenge(words) or command.challenge
        answer = answer_to_challenge(command.mechanism) if command.challenges == 1 else b"*"
        self._out.append(answer + b"\r\n")

    def _completed(self, command: _Command, condition: Condition) -> Event:
        if condition.status not in (Status.OK, Status.NO, Status.BAD):
            raise Malformed("an answer is neither OK, NO nor BAD")
        self._learn(condition)
        if condition.status is Status.OK:
            self._apply(command, condition)
        elif command.folder is not None:
            self.folder, self.state = None, State.AUTHENTICATED
        self._command = None
        return Completed(command.name, condition, command.challenge)

    def _apply(self, command: _Command, condition: Condition) -> None:
        match command.name:
            case "STARTTLS":
                self.state = State.STARTING_TLS
            case "AUTHENTICATE" | "LOGIN":
                self.state = State.AUTHENTICATED
                if not command.told_capabilities:
                    self.capabilities = frozenset()
            case "SELECT" | "EXAMINE" if command.folder is not None:
                read_only = command.folder.read_only or condition.code == "READ-ONLY"
                self.folder, self.state = replace(command.folder, read_only=read_only), State.SELECTED
            case "CLOSE" | "UNSELECT":
                self.folder, self.state = None, State.AUTHENTICATED


def _name(name: str) -> bytes:
    return string(encode_name(name))


def _one_line(word: bytes) -> bytes:
    if b"\r" in word or b"\n" in word:
        raise ValueError("a word has a line break")
    return word
