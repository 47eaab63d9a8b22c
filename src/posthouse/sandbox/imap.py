"""The IMAP doors: our server engine on the post office's drops, with a provider's literal words.

The engine tells of logins only; at which command a fault switch acts is seen in what the client sends, so such a
switch needs a client that waits for each answer, as they do.
"""

import asyncio
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass

from posthouse.net.channel import Channel
from posthouse.net.drive import flush
from posthouse.protocol.imap_server import Authenticate, Ended, Event, ImapServer, ServerPolicy, StartTls
from posthouse.protocol.sasl import Credentials

from . import answers
from .drop import Drop
from .faults import PLACES, Fault, Faults
from .post import Login, PostOffice

IDLE = 1800
_VERB = re.compile(rb"\S+ (?:UID )?([A-Za-z]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ImapDoor:
    """`serve` is the handler of a listener; `tls_first` where TLS comes before the greeting."""

    post: PostOffice
    faults: Faults
    context: ssl.SSLContext
    tls_first: bool = False

    async def serve(self, channel: Channel) -> None:
        self.post.connected["imap"] += 1
        conversation = _Conversation(self, channel, ImapServer(self._policy(), self.post.now))
        try:
            await conversation.hold()
        finally:
            conversation.leave()

    def _policy(self) -> ServerPolicy:
        return ServerPolicy(
            mechanisms=self.post.settings.mechanisms,
            starttls=not self.tls_first,
            tls=self.tls_first,
            auth_needs_tls=True,
            login_refusal=answers.IMAP_LOGIN_REFUSED,
            message_limit=self.post.limits.message_size,
        )


@dataclass(slots=True)
class _Conversation:
    door: ImapDoor
    channel: Channel
    engine: ImapServer
    login: Login | None = None
    drop: Drop | None = None
    watching: asyncio.Task[None] | None = None
    seen: int = 0

    async def hold(self) -> None:
        """The whole of it, up to the end or a cut."""
        fault = self.door.faults.take("imap.connect")
        if fault is not None and await self._is_over(fault):
            return
        while True:
            event = self.engine.next_event()
            self._share_changes()
            if isinstance(event, Ended):
                break
            if not await (self._listen() if event is None else self._heed(event)):
                self.channel.abort()
                return
        await flush(self.engine, self.channel, IDLE)

    def leave(self) -> None:
        if self.watching is not None:
            self.watching.cancel()
        if self.login is not None:
            self.door.post.open["imap"][self.login.mailbox] -= 1

    def _share_changes(self) -> None:
        """Others who watch the same mailbox hear of what this client has changed."""
        if self.drop is not None and self.drop.store.changes != self.seen:
            self.seen = self.drop.store.changes
            self.drop.changed()

    async def _is_over(self, fault: Fault) -> bool:
        await asyncio.sleep(fault.delay)
        if fault.action == "answer":
            self.channel.write(f"* BYE {fault.literal.partition(' ')[2]}\r\n".encode())
        elif fault.action != "pass":
            self.channel.abort()
        return fault.action != "pass"

    # What the client sends, and what goes wrong with it

    async def _listen(self) -> bool:
        """Feed the engine once; False when the connection is to be cut."""
        await flush(self.engine, self.channel, IDLE)
        data = await self.channel.read(IDLE)
        fault = self._fault_at_command(data) if self.door.faults.active else None
        if fault is None:
            self.engine.receive_data(data)
            return True
        await asyncio.sleep(fault.delay)
        if fault.action == "answer":
            self._force(fault)
        if fault.action != "cut":
            self.engine.receive_data(data)
        if fault.action == "lose":
            self.engine.next_event()
        return fault.action in ("answer", "pass")

    def _fault_at_command(self, data: bytes) -> Fault | None:
        verb = _VERB.match(data)
        name = verb[1].decode().lower() if verb else ""
        place = f"imap.{name}" if f"imap.{name}" in PLACES else "imap.command"
        if not name or name == "authenticate":
            return None
        people = (self.login.person, self.login.mailbox) if self.login else ()
        return self.door.faults.take(place, *people)

    def _force(self, fault: Fault) -> None:
        status, _, text = fault.literal.partition(" ")
        if status == "BYE":
            self.engine.bye(text)
        else:
            self.engine.answer_next(status, text)

    # Logging in

    async def _heed(self, event: Event) -> bool:
        if isinstance(event, StartTls):
            await flush(self.engine, self.channel, IDLE)
            await self.channel.start_tls(self.door.context, server_side=True)
            self.engine.tls_started()
        elif isinstance(event, Authenticate):
            return await self._authenticate(event.credentials)
        return True

    async def _authenticate(self, credentials: Credentials) -> bool:
        people = (credentials.user, self.door.post.address_of(credentials.user))
        fault = self.door.faults.take("imap.authenticate", *people)
        if fault is None:
            self._decide(credentials)
            return True
        await asyncio.sleep(fault.delay)
        if fault.action == "answer":
            self.engine.refuse(fault.literal.partition(" ")[2])
        elif fault.action == "pass":
            self._decide(credentials)
        return fault.action in ("answer", "pass")

    def _decide(self, credentials: Credentials) -> None:
        post = self.door.post
        login = post.admit("imap", credentials)
        if login is None:
            self.engine.refuse(answers.IMAP_REFUSED, challenge=post.challenge(credentials))
        elif post.is_full(login.mailbox):
            challenge = post.challenge(credentials)
            self.engine.refuse(answers.IMAP_TOO_MANY, code="ALERT", challenge=challenge)
        else:
            self._enter(login)

    def _enter(self, login: Login) -> None:
        post = self.door.post
        self.login, self.drop = login, post.drop(login.mailbox)
        post.open["imap"][login.mailbox] += 1
        self.seen = self.drop.store.changes
        self.engine.accept(self.drop.store, connected=not post.is_off("imap", login.mailbox))
        self.watching = asyncio.create_task(self._watch(self.drop))

    async def _watch(self, drop: Drop) -> None:
        """Tell an idling client what is new."""
        news = asyncio.Event()
        drop.watchers.add(news)
        with suppress(ConnectionError):
            try:
                while True:
                    await news.wait()
                    news.clear()
                    self.engine.poll()
                    await flush(self.engine, self.channel, IDLE)
            finally:
                drop.watchers.discard(news)
