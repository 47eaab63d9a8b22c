"""The server side of POP3 for the sandbox (RFC 1939, 2449, 2595, 5034), on the INBOX of a `MailStore`.

`mail_server` says how it is driven. What a session sees is fixed when it signs in; deletions happen at QUIT. Every
status but OK becomes -ERR.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

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
from posthouse.protocol.maildrop import Folder, MailStore, Message
from posthouse.protocol.pop_lines import with_dots
from posthouse.protocol.sasl import BadExchange, Credentials
from posthouse.secret import Secret

__all__ = ["Authenticate", "Ended", "Event", "PopServer", "ServerPolicy", "StartTls"]

_COMMAND = re.compile(r"([A-Za-z]{3,4})(?: (.*))?", re.DOTALL)
_NUMBER = re.compile("[0-9]{1,9}")
_NOT_CONNECTED = "User is authenticated but not connected."


@dataclass(frozen=True, slots=True)
class ServerPolicy(Policy):
    """`line_limit` is 255 octets for commands (RFC 2449 section 4); lines of an AUTH exchange may be longer."""

    login_refusal: str | None = "Logon failure: unknown user name or bad password."
    line_limit: int = 255


class _Bad(Exception):
    """The command is wrong; the text says how."""


class _Session:
    """The messages as they were at the beginning, by number, and those to be deleted."""

    def __init__(self, store: MailStore) -> None:
        self.store = store
        self.inbox: Folder = store.folder("INBOX")
        self.messages: list[Message] = list(self.inbox.messages.values())
        self.deleted: set[int] = set()

    def left(self) -> list[tuple[int, Message]]:
        return [(n, one) for n, one in enumerate(self.messages, 1) if n not in self.deleted]

    def message(self, word: str) -> tuple[int, Message]:
        number = int(word) if _NUMBER.fullmatch(word) else 0
        if not 0 < number <= len(self.messages) or number in self.deleted:
            raise _Bad("There is no such message.")
        return number, self.messages[number - 1]

    def uid(self, message: Message) -> str:
        return f"{self.inbox.uidvalidity}-{message.uid}"

    def commit(self) -> None:
        self.store.expunge(self.inbox, [self.messages[number - 1].uid for number in sorted(self.deleted)])


class PopServer(MailServer):
    policy: ServerPolicy
    too_much = "Protocol error. Connection is closed. 10"

    def __init__(self, policy: ServerPolicy) -> None:
        super().__init__(policy)
        self._session: _Session | None = None
        self._connected = True
        self._name = ""

    # Saying

    def _say(self, line: str) -> None:
        self._out.append(re.sub(r"[^\x20-\x7e]", "?", line).encode("ascii") + b"\r\n")

    def _answer(self, answer: Answer) -> None:
        code = f"[{answer.code}] " if answer.code else ""
        self._say(f"{'+OK' if answer.status == 'OK' else '-ERR'} {code}{answer.text}")

    def _farewell(self, text: str, code: str = "") -> None:
        self._answer(Answer("NO", text, code))

    # Reading

    def _conversation(self) -> Reading[None]:
        self._say(f"+OK {self.policy.greeting}")
        while True:
            line = yield from self._line(self.policy.line_limit)
            found = _COMMAND.fullmatch(line.decode(errors="replace"))
            if found is None:
                self._wrong("This is no command.")
                continue
            yield from self._obey(found[1].upper(), found[2] or "")

    def _wrong(self, text: str) -> None:
        self._answer(Answer("BAD", text))
        self._count_bad()

    def _obey(self, verb: str, words: str) -> Reading[None]:
        try:
            answer = yield from self._carried_out(verb, words)
        except _Bad as fault:
            self._wrong(str(fault))
            return
        if answer is not None:
            self._answer(answer)
        if verb == "QUIT":
            raise Over("the client said goodbye")
        if verb == "STLS" and answer is not None and answer.status == "OK":
            yield from self._handshake()

    def _carried_out(self, verb: str, words: str) -> Reading[Answer | None]:
        """None where the answer has been said already."""
        if (forced := self._unforced()) is not None:
            return forced
        if verb in self._ANY:
            return self._ANY[verb](self)
        if not self._connected:
            return Answer("NO", _NOT_CONNECTED)
        if self._session is not None and verb in self._INSIDE:
            return self._INSIDE[verb](self, self._session, words)
        if self._session is None and verb in self._BEFORE:
            return (yield from self._BEFORE[verb](self, words))
        raise _Bad("The command is not known or not possible now.")

    # In any state

    def _capa(self) -> None:
        self._say("+OK Capabilities follow.")
        for line in self._capabilities():
            self._say(line)
        self._say(".")

    def _capabilities(self) -> list[str]:
        lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]
        if self._session is None and self.policy.starttls and not self.tls:
            lines.append("STLS")
        if self._session is None and self._auth_possible():
            lines.append(" ".join(["SASL", *self.policy.mechanisms]))
            lines += ["USER"] if self.policy.login_refusal is None else []
        return lines

    def _quit(self) -> Answer:
        if self._session is not None:
            self._session.commit()
        return Answer("OK", "Goodbye.")

    # Before authentication

    def _stls(self, words: str) -> Reading[Answer]:
        if not self.policy.starttls or self.tls:
            raise _Bad("STLS is not possible.")
        yield from ()
        return Answer("OK", "Begin TLS now.")

    def _auth(self, words: str) -> Reading[Answer | None]:
        mechanism, *initial = words.upper().split(" ")[:1] + words.split(" ")[1:]
        if not mechanism:
            self._mechanisms()
            return None
        if mechanism not in self.policy.mechanisms or not self._auth_possible() or len(initial) > 1:
            return self._refused(Answer("NO", "This mechanism is not possible."))
        try:
            told = yield from self._exchange(mechanism, initial[0].encode() if initial else None)
        except BadExchange as fault:
            return self._refused(Answer("NO", f"AUTH: {fault}."))
        if told is None:
            return Answer("NO", "AUTH cancelled.")
        return self._signed_in(told.user, (yield from self._decided(told)))

    def _mechanisms(self) -> None:
        self._say("+OK Mechanisms follow.")
        for name in self.policy.mechanisms if self._auth_possible() else ():
            self._say(name)
        self._say(".")

    def _user(self, words: str) -> Reading[Answer]:
        if not words:
            raise _Bad("The name is missing.")
        self._name = words
        yield from ()
        return Answer("OK", "Password?")

    def _pass(self, words: str) -> Reading[Answer]:
        user, self._name = self._name, ""
        if not user:
            raise _Bad("USER comes first.")
        if self.policy.login_refusal is not None or not self._auth_possible():
            refusal = self.policy.login_refusal or "Passwords are not taken without TLS."
            return self._refused(Answer("NO", refusal, "AUTH"))
        credentials = Credentials("LOGIN", user, Secret(words))
        return self._signed_in(user, (yield from self._decided(credentials)))

    def _signed_in(self, user: str, decision: Accepted | Refused) -> Answer:
        if isinstance(decision, Refused):
            return self._refused(decision.answer)
        self.user = user
        self._connected = decision.connected
        self._session = _Session(decision.store)
        return Answer("OK", "User successfully logged on.")

    # With the mailbox open

    def _stat(self, session: _Session, words: str) -> Answer:
        left = session.left()
        return Answer("OK", f"{len(left)} {sum(len(one.body) for _, one in left)}")

    def _list(self, session: _Session, words: str) -> Answer | None:
        return self._listing(session, words, lambda message: str(len(message.body)))

    def _uidl(self, session: _Session, words: str) -> Answer | None:
        return self._listing(session, words, session.uid)

    def _listing(self, session: _Session, words: str, tell: Callable[[Message], str]) -> Answer | None:
        if words:
            number, message = session.message(words)
            return Answer("OK", f"{number} {tell(message)}")
        self._say("+OK")
        for number, message in session.left():
            self._say(f"{number} {tell(message)}")
        self._say(".")
        return None

    def _retr(self, session: _Session, words: str) -> None:
        message = session.message(words)[1]
        self._say(f"+OK {len(message.body)} octets")
        self._out.append(with_dots(message.body))

    def _top(self, session: _Session, words: str) -> None:
        number, _, count = words.partition(" ")
        if not _NUMBER.fullmatch(count):
            raise _Bad("The count of lines is missing.")
        body = session.message(number)[1].body
        header, gap, text = body.partition(b"\r\n\r\n")
        self._say("+OK")
        lines = text.split(b"\r\n", int(count))[: int(count)]
        self._out.append(with_dots(header + gap + b"".join(line + b"\r\n" for line in lines)))

    def _dele(self, session: _Session, words: str) -> Answer:
        session.deleted.add(session.message(words)[0])
        return Answer("OK", "Marked to be deleted.")

    def _rset(self, session: _Session, words: str) -> Answer:
        session.deleted.clear()
        return Answer("OK", "Nothing will be deleted.")

    def _noop(self, session: _Session, words: str) -> Answer:
        return Answer("OK", "Still here.")

    # Tables

    _ANY: ClassVar[dict[str, Callable[["PopServer"], Answer | None]]] = {"CAPA": _capa, "QUIT": _quit}
    _BEFORE: ClassVar[dict[str, "_Before"]] = {"AUTH": _auth, "PASS": _pass, "STLS": _stls, "USER": _user}
    _INSIDE: ClassVar[dict[str, "_Inside"]] = {
        "DELE": _dele,
        "LIST": _list,
        "NOOP": _noop,
        "RETR": _retr,
        "RSET": _rset,
        "STAT": _stat,
        "TOP": _top,
        "UIDL": _uidl,
    }


_Before: TypeAlias = Callable[[PopServer, str], Reading[Answer | None]] | Callable[[PopServer, str], Reading[Answer]]
_Inside: TypeAlias = Callable[[PopServer, _Session, str], Answer | None]
