"""The submission doors: our SMTP engine with a provider's decisions and its literal words."""

import asyncio
import functools
import re
import ssl
from dataclasses import dataclass, field
from email.utils import getaddresses

from posthouse.net.channel import Channel
from posthouse.net.drive import flush, next_event
from posthouse.protocol import smtp_reply as replies
from posthouse.protocol.sasl import Credentials
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
from posthouse.sandbox import answers
from posthouse.sandbox.faults import Fault, Faults
from posthouse.sandbox.post import Login, PostOffice

IDLE = 300
LONGEST_FROM = 4096
MOST_RECIPIENTS = 10_000
PASSWORDS = ("LOGIN", "PLAIN")
PLACES: dict[type[Event], str] = {
    Greeted: "smtp.hello",
    StartTls: "smtp.starttls",
    Authenticate: "smtp.auth",
    MailFrom: "smtp.mail",
    RcptTo: "smtp.rcpt",
    DataBegun: "smtp.data",
    BodyChunk: "smtp.body",
    BodyEnd: "smtp.end",
}
INFORMATION = (Greeted, BodyChunk, Reset)
_FROM = re.compile(rb"^from[ \t]*:(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)


def reply(literal: str) -> Reply:
    """A literal answer such as `535 5.7.3 Authentication unsuccessful` as the engine takes it."""
    code, _, rest = literal.partition(" ")
    enhanced, _, text = rest.partition(" ")
    parted = enhanced.count(".") == 2 and enhanced.replace(".", "").isdigit()
    return Reply(int(code), enhanced, text) if parted else Reply(int(code), "", rest)


NO_PASSWORDS, REFUSED = reply(answers.SMTP_NO_PASSWORDS), reply(answers.SMTP_REFUSED)
DISABLED = {
    "tenant": reply(answers.SMTP_DISABLED_TENANT),
    "mailbox": reply(answers.SMTP_DISABLED_MAILBOX),
}
TLS_NEEDED, NOT_AUTHENTICATED = reply(answers.SMTP_TLS_NEEDED), reply(answers.SMTP_NOT_AUTHENTICATED)
CONCURRENT, TOO_FAST = reply(answers.SMTP_CONCURRENT), reply(answers.SMTP_TOO_FAST)
MAY_NOT_SEND_AS = reply(answers.SMTP_MAY_NOT_SEND_AS)
USED_UP, TOO_MANY_RECIPIENTS = reply(answers.SMTP_QUOTA), reply(answers.SMTP_TOO_MANY_RECIPIENTS)
UNKNOWN_RECIPIENT = reply(answers.SMTP_UNKNOWN_RECIPIENT)


@dataclass(frozen=True, slots=True)
class SmtpDoor:
    """`serve` is the handler of a listener; `tls_first` where TLS comes before the greeting."""

    post: PostOffice
    faults: Faults
    context: ssl.SSLContext
    tls_first: bool = False

    async def serve(self, channel: Channel) -> None:
        self.post.connected["smtp"] += 1
        conversation = _Conversation(self, channel, SmtpServer(self._policy()))
        try:
            await conversation.hold()
        finally:
            conversation.leave()

    def _policy(self) -> ServerPolicy:
        return ServerPolicy(
            "localhost",
            greeting="Posthouse sandbox",
            size_limit=self.post.limits.message_size,
            max_recipients=MOST_RECIPIENTS,
            chunking=self.post.settings.chunking,
            starttls=not self.tls_first,
            tls=self.tls_first,
            auth_mechanisms=(*PASSWORDS, *self.post.settings.mechanisms),
            auth_required=False,
            max_commands=1000,
        )


@dataclass(slots=True)
class _Conversation:
    door: SmtpDoor
    channel: Channel
    engine: SmtpServer
    login: Login | None = None
    sender: str = ""
    recipients: list[str] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)

    async def hold(self) -> None:
        """The whole of it, up to the end or a cut."""
        fault = self.door.faults.take("smtp.connect")
        if fault is not None and await self._is_over(fault):
            return
        while True:
            event: Event = await next_event(self.engine, self.channel, IDLE)
            if isinstance(event, Ended):
                break
            if not await self._heed(event):
                self.channel.abort()
                return
        await flush(self.engine, self.channel, IDLE)

    def leave(self) -> None:
        if self.login is not None:
            self.door.post.open["smtp"][self.login.mailbox] -= 1

    async def _is_over(self, fault: Fault) -> bool:
        await asyncio.sleep(fault.delay)
        if fault.action == "answer":
            self.channel.write(reply(fault.literal).encode())
        elif fault.action != "pass":
            self.channel.abort()
        return fault.action != "pass"

    async def _heed(self, event: Event) -> bool:
        """Act on an event, or as a fault switch says; False when the connection is to be cut."""
        fault = self._fault(event) if self.door.faults.active else None
        if fault is None:
            await self._serve(event)
            return True
        if fault.delay:
            await flush(self.engine, self.channel, IDLE)
            await asyncio.sleep(fault.delay)
        if fault.action == "cut":
            return False
        if fault.action == "answer":
            self._answer(event, reply(fault.literal))
        else:
            await self._serve(event)
        return fault.action != "lose"

    def _fault(self, event: Event) -> Fault | None:
        people = (self.login.person, self.login.mailbox) if self.login else ()
        if isinstance(event, Authenticate):
            people = (event.credentials.user, self.door.post.address_of(event.credentials.user))
        return self.door.faults.take(PLACES.get(type(event), "smtp"), *people)

    def _answer(self, event: Event, answer: Reply) -> None:
        """In the middle of a message it is the last word: the rest of the text cannot be told from commands."""
        if not isinstance(event, INFORMATION):
            self.engine.reply(answer)
            return
        self.engine.data_to_send()
        if answer.code == 421 or isinstance(event, BodyChunk):
            self.engine.close(answer)
        else:
            self.channel.write(answer.encode())

    # What happens when all goes well

    async def _serve(self, event: Event) -> None:
        match event:
            case MailFrom(address):
                self._forget()
                self.sender = address
                self.engine.reply(self._may_send(address))
            case RcptTo(address):
                self.engine.reply(self._recipient(address))
            case DataBegun():
                self.engine.reply(replies.GO_AHEAD)
            case BodyChunk(data):
                self.body.append(data)
            case BodyEnd():
                self.engine.reply(self._deliver(b"".join(self.body)))
            case StartTls():
                await self._start_tls()
            case Authenticate(credentials):
                answer = self._verdict(credentials)
                challenge = self.door.post.challenge(credentials) if answer == REFUSED else ""
                self.engine.reply(answer, challenge)
            case _:
                self._forget()

    async def _start_tls(self) -> None:
        self.engine.reply(replies.READY_FOR_TLS)
        await flush(self.engine, self.channel, IDLE)
        await self.channel.start_tls(self.door.context, server_side=True)
        self.engine.tls_started()

    def _verdict(self, credentials: Credentials) -> Reply:
        post = self.door.post
        if credentials.mechanism in PASSWORDS and not post.has_password(credentials.user):
            post.refused["smtp"] += 1
            return NO_PASSWORDS
        login = post.admit("smtp", credentials)
        if login is None:
            return REFUSED
        if off := post.is_off("smtp", login.mailbox):
            return DISABLED[off]
        self.login = login
        post.open["smtp"][login.mailbox] += 1
        return replies.AUTHENTICATED

    def _may_send(self, sender: str) -> Reply:
        post, login = self.door.post, self.login
        if login is None:
            return NOT_AUTHENTICATED if self.engine.tls else TLS_NEEDED
        if post.too_many(login.mailbox):
            return self._complain(CONCURRENT)
        if sender and not post.may_send_as(login, sender):
            return MAY_NOT_SEND_AS
        return self._complain(TOO_FAST) if post.too_fast(login.mailbox) else replies.SENDER_OK

    def _complain(self, answer: Reply) -> Reply:
        self.door.post.complaints[str(answer)] += 1
        return answer

    def _recipient(self, address: str) -> Reply:
        if 0 < self.door.post.limits.recipients_per_message <= len(self.recipients):
            return self._complain(TOO_MANY_RECIPIENTS)
        if not self.door.post.takes(address):
            return UNKNOWN_RECIPIENT
        self.recipients.append(address)
        return replies.RECIPIENT_OK

    def _deliver(self, message: bytes) -> Reply:
        post, login = self.door.post, self.login
        if login is None:
            return NOT_AUTHENTICATED
        for sender in senders_in(message):
            if not post.may_send_as(login, sender):
                denied = {"person": login.mailbox, "sender": sender}
                return reply(answers.SMTP_SEND_AS_DENIED.format_map(denied))
        if post.used_up(login.mailbox, len(self.recipients)):
            return self._complain(USED_UP)
        for recipient in dict.fromkeys(self.recipients):
            post.put(recipient, self.sender, message)
        post.sent[login.mailbox] += 1
        self._forget()
        return replies.OK

    def _forget(self) -> None:
        self.sender = ""
        self.recipients, self.body = [], []


def senders_in(message: bytes) -> tuple[str, ...]:
    """The addresses in the From field of a message; none where there is no such field."""
    end = 0 if message.startswith(b"\r\n") else message.find(b"\r\n\r\n")
    found = _FROM.search(message, 0, len(message) if end < 0 else end)
    return _addresses(found[1][:LONGEST_FROM]) if found else ()


@functools.lru_cache(1000)
def _addresses(value: bytes) -> tuple[str, ...]:
    return tuple(address for _, address in getaddresses([value.decode(errors="replace")]) if address)
