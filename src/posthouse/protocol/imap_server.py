"""The server side of IMAP for the sandbox (RFC 3501 and the extensions it names in CAPABILITY).

The engine reads commands, signs people in by the driver's decision (`mail_server` says how it is driven), and leaves
what follows to `imap_session`. Where a connection idles, `poll()` tells the client what changed in its store.

For trying out faults: `answer_next` forces the answer of the next command, `accept(…, connected=False)` makes Exchange
Online's "User is authenticated but not connected.", `bye` ends the conversation at once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, TypeAlias

from posthouse.protocol.imap_session import Session
from posthouse.protocol.imap_syntax import LITERAL_HEAD, Malformed, Value, read_values, text_of
from posthouse.protocol.mail_server import (
    Accepted,
    Answer,
    Authenticate,
    Ended,
    Event,
    MailServer,
    Over,
    Policy,
    Reading,
    Refused,
    StartTls,
)
from posthouse.protocol.sasl import BadExchange, Credentials
from posthouse.secret import Secret

__all__ = ["Authenticate", "Ended", "Event", "ImapServer", "ServerPolicy", "StartTls"]

NOT_CONNECTED = "User is authenticated but not connected."


@dataclass(frozen=True, slots=True)
class ServerPolicy(Policy):
    """`literal_limit` is for all commands but APPEND, which has `message_limit`."""

    login_disabled: bool = False
    literal_limit: int = 65536
    message_limit: int = 50 << 20


_Values: TypeAlias = tuple[Value, ...]

_COMMAND = re.compile(
    rb'([^\x00-\x20\x7f()"{%*\\+]{1,100}) (UID [A-Za-z]{1,20}|[A-Za-z0-9]{1,20})(?: |\Z)', re.IGNORECASE
)
_APPEND = re.compile(rb"\S+ APPEND ", re.IGNORECASE)


class ImapServer(MailServer):
    """`now` tells the date of messages that are appended without one."""

    policy: ServerPolicy

    def __init__(self, policy: ServerPolicy, now: Callable[[], datetime]) -> None:
        super().__init__(policy)
        self.session: Session | None = None
        self._now = now
        self._idling = False
        self._connected = True

    def poll(self) -> None:
        """Tell a client that idles what changed; others hear it after their next command."""
        if self._idling and self.session is not None:
            self.session.report()

    # Saying

    def _say(self, line: bytes) -> None:
        self._out.append(b"* " + line + b"\r\n")

    def _answer(self, tag: bytes, answer: Answer) -> None:
        self._out.append(tag + b" " + _words(answer.status, answer.text, answer.code) + b"\r\n")

    def _farewell(self, text: str, code: str = "") -> None:
        self._idling = False
        self._say(_words("BYE", text, code))

    # Reading

    def _conversation(self) -> Reading[None]:
        self._say(_words("OK", self.policy.greeting, f"CAPABILITY {self._capabilities()}"))
        while True:
            command = yield from self._command()
            if command is None:
                self._count_bad()
            else:
                yield from self._obey(*command)

    def _command(self) -> Reading[tuple[bytes, str, list[bytes]] | None]:
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
            raise self._end("The literal is too large.", "the client sent too large a literal", "TOOBIG")
        self._answer(tag, Answer("NO", "The literal is too large.", "TOOBIG"))

    # Obeying

    def _obey(self, tag: bytes, verb: str, pieces: list[bytes]) -> Reading[None]:
        try:
            answer = yield from self._carried_out(tag, verb, pieces)
        except Malformed as fault:
            answer = Answer("BAD", f"{verb}: {fault}.")
        self._answer(tag, answer)
        if answer.status == "BAD":
            self._count_bad()
        if verb == "LOGOUT" and answer.status == "OK":
            raise Over("the client logged out")
        if verb == "STARTTLS" and answer.status == "OK":
            yield from self._handshake()

    def _carried_out(self, tag: bytes, verb: str, pieces: list[bytes]) -> Reading[Answer]:
        if (forced := self._unforced()) is not None:
            return forced
        if not self._connected and verb != "LOGOUT":
            return Answer("BAD", NOT_CONNECTED)
        if verb in self._ALWAYS:
            return self._ALWAYS[verb](self, read_values(pieces))
        if self.session is not None:
            return (yield from self._inside(self.session, verb, pieces))
        if verb in self._BEFORE:
            return (yield from self._BEFORE[verb](self, read_values(pieces)))
        return Answer("BAD", f"{verb} is not possible before authentication or not known.")

    def _inside(self, session: Session, verb: str, pieces: list[bytes]) -> Reading[Answer]:
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

    # Before authentication

    def _starttls(self, values: _Values) -> Reading[Answer]:
        if not self.policy.starttls or self.tls:
            return Answer("BAD", "STARTTLS is not possible.")
        yield from ()
        return Answer("OK", "Begin TLS now.")

    def _login(self, values: _Values) -> Reading[Answer]:
        if len(values) != 2:
            raise Malformed("the arguments are wrong")
        user, password = (text_of(value) for value in values)
        if self.policy.login_refusal is not None:
            return self._refused(Answer("NO", self.policy.login_refusal))
        if self.policy.login_disabled or not self._auth_possible():
            return self._refused(Answer("NO", "LOGIN is not possible here.", "PRIVACYREQUIRED"))
        decision = yield from self._decided(Credentials("LOGIN", user, Secret(password)))
        return self._signed_in(user, decision)

    def _authenticate(self, values: _Values) -> Reading[Answer]:
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
        return self._signed_in(told.user, decision)

    def _signed_in(self, user: str, decision: Accepted | Refused) -> Answer:
        if isinstance(decision, Refused):
            return self._refused(decision.answer)
        self.user = user
        self._connected = decision.connected
        self.session = Session(decision.store, self._say, self._now)
        return Answer("OK", "AUTHENTICATE completed.", f"CAPABILITY {self._capabilities()}")

    # While signed in

    def _idle(self, session: Session) -> Reading[Answer]:
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
    _BEFORE: ClassVar[dict[str, Callable[["ImapServer", _Values], Reading[Answer]]]] = {
        "AUTHENTICATE": _authenticate,
        "LOGIN": _login,
        "STARTTLS": _starttls,
    }


def _words(status: str, text: str, code: str = "") -> bytes:
    """A status with its words on one line, in ASCII (RFC 3501 section 9: text)."""
    line = f"{status} [{code}] {text}" if code else f"{status} {text}"
    return re.sub(r"[^\x20-\x7e]", "?", line).encode("ascii")
