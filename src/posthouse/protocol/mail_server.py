"""What the sandbox's IMAP and POP3 servers have in common: how they are driven, how people sign in, what they refuse.

A driver sends `data_to_send()`, feeds what comes with `receive_data`, and acts on three events: `StartTls` (then
`tls_started()`), `Authenticate` (then `accept` or `refuse`) and `Ended` (send what is left, close).

The reading methods are generators: they yield None while octets or a decision are missing, and events.
"""

import base64
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

from posthouse.protocol.maildrop import MailStore
from posthouse.protocol.reading import Buffer, TooLong
from posthouse.protocol.sasl import RESPONSE_LIMIT, Credentials, exchange


@dataclass(frozen=True, slots=True)
class Policy:
    """What a server offers and how much it takes; limits are in octets.

    `login_refusal` is said to a password where passwords are retired; None asks the driver.
    """

    greeting: str = "The Posthouse sandbox is ready."
    mechanisms: tuple[str, ...] = ("XOAUTH2", "OAUTHBEARER")
    starttls: bool = False
    tls: bool = False
    auth_needs_tls: bool = False
    login_refusal: str | None = "LOGIN failed."
    line_limit: int = 65536
    bad_commands: int = 20
    refused_logins: int = 10


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client was told to begin; do the handshake, then call `tls_started()`."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Somebody wants to sign in: `accept` or `refuse`. The mechanism is LOGIN for a password sent by a command."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Ended:
    """The conversation is over. Send what is left and close."""

    reason: str


Event: TypeAlias = StartTls | Authenticate | Ended


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a command: OK, NO or BAD (POP3 knows only two), words for people, a code for the brackets."""

    status: str
    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    store: MailStore
    connected: bool


@dataclass(frozen=True, slots=True)
class Refused:
    answer: Answer
    challenge: str = ""


class Over(Exception):
    """The conversation ends; the text says why."""


_T = TypeVar("_T")
Reading: TypeAlias = Generator[Event | None, None, _T]


class MailServer:
    """The frame of an engine. A protocol adds `_conversation`, and `_farewell` for its last words."""

    policy: Policy
    too_much: ClassVar[str] = "Too much at once."

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.tls = policy.tls
        self.user = ""
        self._buffer = Buffer()
        self._out: list[bytes] = []
        self._eof = False
        self._flooded = False
        self._deciding = False
        self._decision: Accepted | Refused | None = None
        self._handshaking = False
        self._forced: Answer | None = None
        self._bad = 0
        self._refusals = 0
        self._parser = self._run()

    # Driving

    def receive_data(self, data: bytes) -> None:
        """Octets from the client, b"" when it has closed."""
        self._eof = self._eof or not data
        waiting = self._deciding or self._handshaking
        if waiting and len(self._buffer) + len(data) > max(self.policy.line_limit, RESPONSE_LIMIT):
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
        """The handshake is done. What the client sent before it is dropped (RFC 3501 section 6.2.1, RFC 2595)."""
        if not self._handshaking:
            raise RuntimeError("the client did not ask for TLS")
        self._buffer.clear()
        self._handshaking = self._flooded = False
        self.tls = True

    def accept(self, store: MailStore, *, connected: bool = True) -> None:
        """The client is signed in.

        Where it is not `connected`, every command but the last one gets the answer of a mailbox that is switched off.
        """
        self._decide(Accepted(store, connected))

    def refuse(self, text: str = "AUTHENTICATE failed.", *, code: str = "", challenge: str = "") -> None:
        """The client is not signed in. `challenge` (JSON, RFC 7628 section 3.2.2) is sent first where it is given."""
        self._decide(Refused(Answer("NO", text, code), challenge))

    def answer_next(self, status: str, text: str, code: str = "") -> None:
        """The next command is not carried out and gets this answer: OK, NO or BAD."""
        self._forced = Answer(status, text, code)

    def bye(self, text: str, code: str = "") -> None:
        """Say so and end; `Ended` is the next event."""
        self._farewell(text, code)
        self._parser = self._closing("ended by the server")

    def _decide(self, decision: Accepted | Refused) -> None:
        if not self._deciding or self._decision is not None:
            raise RuntimeError("nobody is signing in")
        self._decision = decision

    # For a protocol

    def _conversation(self) -> Reading[None]:
        raise NotImplementedError

    def _farewell(self, text: str, code: str = "") -> None:
        raise NotImplementedError

    def _end(self, farewell: str, reason: str, code: str = "") -> Over:
        self._farewell(farewell, code)
        return Over(reason)

    def _auth_possible(self) -> bool:
        return self.tls or not self.policy.auth_needs_tls

    def _unforced(self) -> Answer | None:
        """The answer that `answer_next` asked for, once."""
        answer, self._forced = self._forced, None
        return answer

    def _count_bad(self) -> None:
        self._bad += 1
        if self._bad > self.policy.bad_commands:
            raise self._end("Too many bad commands.", "the client sent too many bad commands")

    def _refused(self, answer: Answer) -> Answer:
        self._refusals += 1
        if self._refusals > self.policy.refused_logins:
            raise self._end("Too many refused logins.", "too many refused logins")
        return answer

    # Reading

    def _run(self) -> Generator[Event | None, None, None]:
        try:
            yield from self._conversation()
            reason = "the client said goodbye"
        except Over as end:
            reason = str(end)
        except TooLong as fault:
            reason = str(self._end(self.too_much, f"the client sent {fault} without an end"))
        yield from self._closing(reason)

    def _closing(self, reason: str) -> Generator[Event | None, None, None]:
        yield Ended(reason)
        while True:
            self._buffer.clear()
            yield None

    def _line(self, limit: int) -> Reading[bytes]:
        while (line := self._buffer.line(limit)) is None:
            self._still_there()
            yield None
        return line

    def _octets(self, count: int) -> Reading[bytes]:
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
            raise Over("the client has closed")

    def _handshake(self) -> Reading[None]:
        self._handshaking = True
        self._buffer.clear()
        yield StartTls()
        while self._handshaking:
            yield None

    def _exchange(self, mechanism: str, initial: bytes | None) -> Reading[Credentials | None]:
        """What the client says of itself, None when it cancels. Raises BadExchange."""
        side = exchange(mechanism)
        step = side.start(initial)
        while isinstance(step, bytes):
            self._out.append(b"+ " + step + b"\r\n")
            line = yield from self._line(RESPONSE_LIMIT)
            if line == b"*":
                return None
            step = side.next(line)
        return step

    def _decided(self, credentials: Credentials) -> Reading[Accepted | Refused]:
        """What the driver says of it. A challenge is said to the client, and its answer to that is dropped."""
        self._deciding = True
        yield Authenticate(credentials)
        while (decision := self._decision) is None:
            yield None
        self._deciding, self._decision = False, None
        if self._flooded:
            raise self._end(self.too_much, "the client did not wait for its answer")
        if isinstance(decision, Refused) and decision.challenge and credentials.mechanism != "LOGIN":
            self._out.append(b"+ " + base64.b64encode(decision.challenge.encode()) + b"\r\n")
            yield from self._line(RESPONSE_LIMIT)
        return decision
