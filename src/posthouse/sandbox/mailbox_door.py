"""The doors to mailboxes, IMAP and POP3: our server engines on the drops, with a provider's literal words.

The engines tell of logins only; at which command a fault switch acts is seen in what the client sends, so such a
switch needs a client that waits for each answer, as they do.
"""

import asyncio
import ssl
from dataclasses import dataclass

from posthouse.net.channel import Channel
from posthouse.net.drive import flush
from posthouse.protocol.imap_server import ImapServer
from posthouse.protocol.mail_server import Authenticate, Ended, Event, MailServer, StartTls
from posthouse.protocol.sasl import Credentials
from posthouse.sandbox import answers
from posthouse.sandbox.drop import Drop
from posthouse.sandbox.faults import Fault, Faults
from posthouse.sandbox.mailbox_kinds import Kind
from posthouse.sandbox.post import Login, PostOffice

IDLE = 1800


@dataclass(frozen=True, slots=True)
class MailboxDoor:
    """`serve` is the handler of a listener; `tls_first` where TLS comes before the greeting."""

    kind: Kind
    post: PostOffice
    faults: Faults
    context: ssl.SSLContext
    tls_first: bool = False

    async def serve(self, channel: Channel) -> None:
        self.post.connected[self.kind.door] += 1
        conversation = _Conversation(self, channel, self.kind.engine(self.post, self.tls_first))
        try:
            await conversation.hold()
        finally:
            conversation.leave()


@dataclass(slots=True)
class _Conversation:
    door: MailboxDoor
    channel: Channel
    engine: MailServer
    login: Login | None = None
    drop: Drop | None = None
    watching: asyncio.Task[None] | None = None
    seen: int = 0

    async def hold(self) -> None:
        """The whole of it, up to the end or a cut."""
        fault = self._fault("connect")
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
            self._open[self.login.mailbox] -= 1

    @property
    def _open(self) -> dict[str, int]:
        return self.door.post.open[self.door.kind.door]

    def _share_changes(self) -> None:
        """Others who watch the same mailbox hear of what this client has changed."""
        if self.drop is not None and self.drop.store.changes != self.seen:
            self.seen = self.drop.store.changes
            self.drop.changed()

    def _fault(self, stage: str, *people: str) -> Fault | None:
        return self.door.faults.take(f"{self.door.kind.door}.{stage}", *people)

    async def _is_over(self, fault: Fault) -> bool:
        await asyncio.sleep(fault.delay)
        if fault.action == "answer":
            self.channel.write(f"{self.door.kind.goodbye(fault.literal)}\r\n".encode())
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
        place = self.door.kind.place(data)
        people = (self.login.person, self.login.mailbox) if self.login else ()
        return self.door.faults.take(place, *people) if place else None

    def _force(self, fault: Fault) -> None:
        status, text = self.door.kind.forced(fault.literal)
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
        fault = self._fault("auth", *people)
        if fault is None:
            self._decide(credentials)
            return True
        await asyncio.sleep(fault.delay)
        if fault.action == "answer":
            self.engine.refuse(self.door.kind.forced(fault.literal)[1])
        elif fault.action == "pass":
            self._decide(credentials)
        return fault.action in ("answer", "pass")

    def _decide(self, credentials: Credentials) -> None:
        post, kind = self.door.post, self.door.kind
        login = post.admit(kind.door, credentials)
        if login is None:
            self.engine.refuse(kind.refused, challenge=post.challenge(credentials))
        elif kind.door == "imap" and post.is_full(login.mailbox):
            challenge = post.challenge(credentials)
            self.engine.refuse(answers.IMAP_TOO_MANY, code="ALERT", challenge=challenge)
        else:
            self._enter(login)

    def _enter(self, login: Login) -> None:
        post = self.door.post
        self.login, self.drop = login, post.drop(login.mailbox)
        self._open[login.mailbox] += 1
        self.seen = self.drop.store.changes
        self.engine.accept(self.drop.store, connected=not post.is_off(self.door.kind.door, login.mailbox))
        if isinstance(self.engine, ImapServer):
            self.watching = asyncio.create_task(self._watch(self.engine, self.drop))

    async def _watch(self, engine: ImapServer, drop: Drop) -> None:
        """Tell an idling client what is new."""
        news = asyncio.Event()
        drop.watchers.add(news)
        try:
            while True:
                await news.wait()
                news.clear()
                engine.poll()
                self.channel.write(engine.data_to_send())
        finally:
            drop.watchers.discard(news)
