"""The server side of IMAP for the sandbox (RFC 3501 and the extensions it names in CAPABILITY).

The engine reads commands, signs people in by the driver's decision, and leaves what follows to `imap_session`. A
driver sends `data_to_send()`, feeds what comes, and acts on three events: `StartTls` (then `tls_started()`),
`Authenticate` (then `accept` or `refuse`) and `Ended` (send the rest, close). Where a connection idles, `poll()` tells
the client what changed in its store.

For trying out faults: `answer_next` forces the answer of the next command, `accept(…, connected=False)` makes Exchange
Online's "User is authenticated but not connected.", `bye` ends the conversation at once.
"""

import base64
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, TypeAlias, TypeVar

from posthouse.protocol.imap_session import Answer, Session
from posthouse.protocol.imap_syntax import LITERAL_HEAD, Malformed, Value, read_values, text_of
from posthouse.protocol.maildrop import MailStore
from posthouse.protocol.reading import Buffer, TooLong
from posthouse.protocol.sasl import RESPONSE_LIMIT, BadExchange, Credentials, exchange
from posthouse.secret import Secret

NOT_CONNECTED = "User is authenticated but not connected."


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """What the server offers and how much it takes; limits are in octets.

    `login_refusal` is said to LOGIN where passwords are retired; None lets LOGIN ask the driver.
    """

    greeting: str = "The Posthouse sandbox is ready."
    mechanisms: tuple[str, ...] = ("XOAUTH2", "OAUTHBEARER")
    starttls: bool = False
    tls: bool = False
    auth_needs_tls: bool = False
    login_disabled: bool = False
    login_refusal: str | None = "LOGIN failed."
    line_limit: int = 65536
    literal_limit: int = 65536
    message_limit: int = 50 << 20
    bad_commands: int = 20
    refused_logins: int = 10


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client was told to begin; do the handshake, then call `tls_started()`."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Somebody wants to sign in: `accept` or `refuse`. The mechanism is LOGIN for the command of that name."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Ended:
    """The conversation is over. Send what is left and close."""

    reason: str


Event: TypeAlias = StartTls | Authenticate | Ended


@dataclass(frozen=True, slots=True)
class _Accepted:
    store: MailStore
    connected: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    answer: Answer
    challenge: str = field(default="")


class _Over(Exception):
    """The conversation ends; the text says why."""


_T = TypeVar("_T")
_Reading: TypeAlias = Generator[Event | None, None, _T]
_Values: TypeAlias = tuple[Value, ...]

_COMMAND = re.compile(
    rb'([^\x00-\x20\x7f()"{%*\\+]{1,100}) (UID [A-Za-z]{1,20}|[A-Za-z0-9]{1,20})(?: |\Z)', re.IGNORECASE
)
_APPEND = re.compile(rb"\S+ APPEND ", re.IGNORECASE)


class ImapServer:
    """`now` tells the date of messages that are appended without one."""

    def __init__(self, policy: ServerPolicy, now: Callable[[], datetime]) -> None:
        self.policy = policy
        self.tls = policy.tls
        self.user = ""
        self.session: Session | None = None
        self._now = now
        self._buffer = Buffer()
        self._eof = False
        self._flooded = False
        self._out: list[bytes] = []
        self._deciding = False
        self._decision: _Accepted | _Refused | None = None
        self._handshaking = False
        self._idling = False
        self._connected = True
        self._forced: Answer | None = None
        self._bad = 0
        self._refusals = 0
        self._parser = self._run()

    # Driving

    def receive_data(self, data: bytes) -> None:
        """Octets from the client, b"" when it has closed."""
        self._eof = self._eof or not data
        waiting = self._deciding or self._handshaking
        if waiting and len(self._buffer) + len(data) > self.policy.line_limit:
            self._flooded = True
        else:
            self._buffer.feed(data)

    def next_event(self) -> Event | None:
        """None: more octets or the driver's decision is needed."""
        return next(self._parser)

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def tls_started(self) -> None:
        """The handshake is done. What the client sent before it is dropped (RFC 3501 section 6.2.1)."""
        if not self._handshaking:
            raise RuntimeError("the client did not ask for TLS")
        self._buffer.clear()
        self._handshaking = False
        self.tls = True

    def accept(self, store: MailStore, *, connected: bool = True) -> None:
        """The client is signed in.

        Where it is not `connected`, every command but LOGOUT gets the answer of a mailbox that is switched off.
        """
        self._decide(_Accepted(store, connected))

    def refuse(self, text: str = "AUTHENTICATE failed.", *, code: str = "", challenge: str = "") -> None:
        """The client is not signed in. `challenge` (JSON, RFC 7628 section 3.2.2) is sent first where it is given."""
        self._decide(_Refused(Answer("NO", text, code), challenge))

    def answer_next(self, status: str, text: str, code: str = "") -> None:
        """The next command is not carried out and gets this answer: OK, NO or BAD."""
        self._forced = Answer(status, text, code)

    def poll(self) -> None:
        """Tell a client that idles what changed; others hear it after their next command."""
        if self._idling and self.session is not None:
            self.session.report()

    def bye(self, text: str, code: str = "") -> None:
        """Say Bye and end; `Ended` is the next event."""
        self._say_bye(text, code)
        self._parser = self._closing("ended by the server")

    def _decide(self, decision: _Accepted | _Refused) -> None:
        if not self._deciding or self._decision is not None:
            raise RuntimeError("nobody is signing in")
        self._decision = decision

    # Saying

    def _say(self, line: bytes) -> None:
        self._out.append(b"* " + line + b"\r\n")

    def _answer(self, tag: bytes, answer: Answer) -> None:
        self._out.append(tag + b" " + _words(answer.status, answer.text, answer.code) + b"\r\n")

    def _say_bye(self, text: str, code: str = "") -> None:
        self._say(_words("BYE", text, code))

    # Reading

    def _run(self) -> Generator[Event | None, None, None]:
        try:
            yield from self._conversation()
        except _Over as end:
            reason = str(end)
        except TooLong as fault:
            reason = f"the client sent {fault} without an end"
            self._say_bye("Too much at once.")
        yield from self._closing(reason)

    def _closing(self, reason: str) -> Generator[Event | None, None, None]:
        self._buffer.clear()
        self._idling = False
        yield Ended(reason)
        while True:
            self._buffer.clear()
            yield None

    def _conversation(self) -> _Reading[None]:
        self._say(_words("OK", self.policy.greeting, f"CAPABILITY {self._capabilities()}"))
        while True:
            command = yield from self._command()
            if command is None:
                self._count_bad()
            else:
                yield from self._obey(*command)

    def _command(self) -> _Reading[tuple[bytes, str, list[bytes]] | None]:
        """Tag, verb, and the pieces of the arguments; None for what is refused already."""
        line = yield from self._line(self.policy.line_limit)
        found = _COMMAND.match(line)
        if found is None:
            self._say(b"BAD This is no command.")
            return None
        pieces = [line]
        limit = self._literal_limit(line)
        while (head := LITERAL_HEAD.search(pieces[-1])) is not None:
            pieces[-1] = pieces[-1][: head.start()]
            limit -= int(head[1])
            if limit < 0 or len(pieces) > 20:
                self._refuse_literal(found[1], bool(head[2]))
                return None
            if not head[2]:
                self._out.append(b"+ Ready.\r\n")
            pieces.append((yield from self._octets(int(head[1]))))
            pieces.append((yield from self._line(self.policy.line_limit)))
        pieces[0] = pieces[0][found.end() :]
        return found[1], found[2].decode().upper(), pieces

    def _literal_limit(self, line: bytes) -> int:
        big = self.session is not None and _APPEND.match(line) is not None
        return self.policy.message_limit if big else self.policy.literal_limit

    def _refuse_literal(self, tag: bytes, on_its_way: bool) -> None:
        """RFC 7888 section 4: octets that are on their way can only be stopped by closing."""
        if on_its_way:
            self._say_bye("The literal is too large.", "TOOBIG")
            raise _Over("the client sent too large a literal")
        self._answer(tag, Answer("NO", "The literal is too large.", "TOOBIG"))

    def _line(self, limit: int) -> _Reading[bytes]:
        while (line := self._buffer.line(limit)) is None:
            self._still_there()
            yield None
        return line

    def _octets(self, count: int) -> _Reading[bytes]:
        taken: list[bytes] = []
        while count:
            chunk = self._buffer.up_to(count)
            if not chunk:
                self._still_there()
                yield None
                continue
            taken.append(chunk)
            count -= len(chunk)
        return b"".join(taken)

    def _still_there(self) -> None:
        if self._eof:
            raise _Over("the client has closed")

    def _count_bad(self) -> None:
        self._bad += 1
        if self._bad > self.policy.bad_commands:
            self._say_bye("Too many bad commands.")
            raise _Over("the client sent too many bad commands")

    # Obeying

    def _obey(self, tag: bytes, verb: str, pieces: list[bytes]) -> _Reading[None]:
        try:
            answer = yield from self._carried_out(tag, verb, pieces)
        except Malformed as fault:
            answer = Answer("BAD", f"{verb}: {fault}.")
        self._answer(tag, answer)
        if answer.status == "BAD":
            self._count_bad()
        if verb == "LOGOUT" and answer.status == "OK":
            raise _Over("the client logged out")
        if verb == "STARTTLS" and answer.status == "OK":
            yield from self._handshake()

    def _carried_out(self, tag: bytes, verb: str, pieces: list[bytes]) -> _Reading[Answer]:
        if self._forced is not None:
            answer, self._forced = self._forced, None
            return answer
        if not self._connected and verb != "LOGOUT":
            return Answer("BAD", NOT_CONNECTED)
        if verb in self._ALWAYS:
            return self._ALWAYS[verb](self, read_values(pieces))
        if self.session is not None:
            return (yield from self._inside(self.session, verb, pieces))
        if verb in self._BEFORE:
            return (yield from self._BEFORE[verb](self, read_values(pieces)))
        return Answer("BAD", f"{verb} is not possible before authentication or not known.")

    def _inside(self, session: Session, verb: str, pieces: list[bytes]) -> _Reading[Answer]:
        if verb == "IDLE":
            return (yield from self._idle(session))
        if session.knows(verb):
            return session.run(verb, read_values(pieces))
        return Answer("BAD", f"{verb} is not known or not possible now.")

    # In any state

    def _capability(self, values: _Values) -> Answer:
        self._say(f"CAPABILITY {self._capabilities()}".encode())
        return Answer("OK", "CAPABILITY completed.")

    def _noop(self, values: _Values) -> Answer:
        if self.session is not None:
            self.session.report()
        return Answer("OK", "NOOP completed.")

    def _id(self, values: _Values) -> Answer:
        self._say(b'ID ("name" "Posthouse sandbox")')
        return Answer("OK", "ID completed.")

    def _logout(self, values: _Values) -> Answer:
        self._say(b"BYE See you.")
        return Answer("OK", "LOGOUT completed.")

    def _capabilities(self) -> str:
        if self.session is not None:
            return "IMAP4rev1 LITERAL+ ID ENABLE NAMESPACE IDLE UIDPLUS MOVE UNSELECT"
        words = ["IMAP4rev1", "SASL-IR", "LITERAL+", "ID"]
        if self.policy.starttls and not self.tls:
            words.append("STARTTLS")
        if self._auth_possible():
            words += [f"AUTH={name}" for name in self.policy.mechanisms]
        if self.policy.login_disabled or not self._auth_possible():
            words.append("LOGINDISABLED")
        return " ".join(words)

    def _auth_possible(self) -> bool:
        return self.tls or not self.policy.auth_needs_tls

    # Before authentication

    def _starttls(self, values: _Values) -> _Reading[Answer]:
        if not self.policy.starttls or self.tls:
            return Answer("BAD", "STARTTLS is not possible.")
        yield from ()
        return Answer("OK", "Begin TLS now.")

    def _handshake(self) -> _Reading[None]:
        self._handshaking = True
        self._buffer.clear()
        yield StartTls()
        while self._handshaking:
            yield None

    def _login(self, values: _Values) -> _Reading[Answer]:
        if len(values) != 2:
            raise Malformed("the arguments are wrong")
        user, password = (text_of(value) for value in values)
        if self.policy.login_refusal is not None:
            return self._refused(Answer("NO", self.policy.login_refusal))
        if self.policy.login_disabled or not self._auth_possible():
            return self._refused(Answer("NO", "LOGIN is not possible here.", "PRIVACYREQUIRED"))
        decision = yield from self._decided(Credentials("LOGIN", user, Secret(password)))
        return self._signed_in(user, decision)

    def _authenticate(self, values: _Values) -> _Reading[Answer]:
        if len(values) not in (1, 2):
            raise Malformed("the arguments are wrong")
        mechanism, *initial = (text_of(value) for value in values)
        if mechanism.upper() not in self.policy.mechanisms or not self._auth_possible():
            return self._refused(Answer("NO", "This mechanism is not possible.", "CANNOT"))
        try:
            told = yield from self._exchange(mechanism.upper(), initial[0].encode() if initial else None)
        except BadExchange as fault:
            return self._refused(Answer("BAD", f"AUTHENTICATE: {fault}."))
        if told is None:
            return Answer("BAD", "AUTHENTICATE cancelled.")
        decision = yield from self._decided(told)
        if isinstance(decision, _Refused) and decision.challenge:
            challenge = base64.b64encode(decision.challenge.encode())
            self._out.append(b"+ " + challenge + b"\r\n")
            yield from self._line(RESPONSE_LIMIT)
        return self._signed_in(told.user, decision)

    def _exchange(self, mechanism: str, initial: bytes | None) -> _Reading[Credentials | None]:
        side = exchange(mechanism)
        step = side.start(initial)
        while isinstance(step, bytes):
            self._out.append(b"+ " + step + b"\r\n")
            line = yield from self._line(RESPONSE_LIMIT)
            if line == b"*":
                return None
            step = side.next(line)
        return step

    def _decided(self, credentials: Credentials) -> _Reading[_Accepted | _Refused]:
        self._deciding = True
        yield Authenticate(credentials)
        while (decision := self._decision) is None:
            yield None
        self._deciding, self._decision = False, None
        if self._flooded:
            self._say_bye("Too much at once.")
            raise _Over("the client did not wait for its answer")
        return decision

    def _signed_in(self, user: str, decision: _Accepted | _Refused) -> Answer:
        if isinstance(decision, _Refused):
            return self._refused(decision.answer)
        self.user = user
        self._connected = decision.connected
        self.session = Session(decision.store, self._say, self._now)
        return Answer("OK", "AUTHENTICATE completed.", f"CAPABILITY {self._capabilities()}")

    def _refused(self, answer: Answer) -> Answer:
        self._refusals += 1
        if self._refusals > self.policy.refused_logins:
            self._say_bye("Too many refused logins.")
            raise _Over("too many refused logins")
        return answer

    # While signed in

    def _idle(self, session: Session) -> _Reading[Answer]:
        self._out.append(b"+ idling\r\n")
        session.report()
        self._idling = True
        line = yield from self._line(self.policy.line_limit)
        self._idling = False
        if line.strip().upper() != b"DONE":
            return Answer("BAD", "IDLE ends with DONE.")
        session.report()
        return Answer("OK", "IDLE completed.")

    # Tables

    _ALWAYS: ClassVar[dict[str, Callable[["ImapServer", _Values], Answer]]] = {
        "CAPABILITY": _capability,
        "ID": _id,
        "LOGOUT": _logout,
        "NOOP": _noop,
    }
    _BEFORE: ClassVar[dict[str, Callable[["ImapServer", _Values], _Reading[Answer]]]] = {
        "AUTHENTICATE": _authenticate,
        "LOGIN": _login,
        "STARTTLS": _starttls,
    }


def _words(status: str, text: str, code: str = "") -> bytes:
    """A status with its words on one line, in ASCII (RFC 3501 section 9: text)."""
    line = f"{status} [{code}] {text}" if code else f"{status} {text}"
    return re.sub(r"[^\x20-\x7e]", "?", line).encode("ascii")
