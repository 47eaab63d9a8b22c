"""Sends what is in the queue: mailbox by mailbox, within the provider's limits, without losing or inventing anything.

A mailbox is ours while we hold its lease. Each of its workers keeps one connection and takes message after message;
before the end of a message is sent, "handing over" is committed, so that a crash is told apart afterwards.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import structlog

from posthouse.model.delivery import Concern, Result, Said, judge, postponed
from posthouse.model.mailbox import Mailbox
from posthouse.model.message import MessageState, QueuedMessage
from posthouse.model.pacing import Bucket
from posthouse.model.token import TokenState
from posthouse.net.channel import ChannelClosed
from posthouse.protocol.smtp_client import EnvelopeAnswered
from posthouse.protocol.smtp_reply import Reply
from posthouse.providers.catalogue import explain_network, explain_smtp
from posthouse.services.clock import Clock
from posthouse.services.credentials import Credentials, Way
from posthouse.services.directory import Directory
from posthouse.services.token_keeper import NoToken
from posthouse.services.upstream import SmtpSession, UpstreamFailed, open_smtp
from posthouse.store import leases, messages, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.events import Event
from posthouse.store.messages import Claim
from posthouse.store.opening import Store

POLL = 1.0
BATCH = 10
"""Messages that a worker claims at once."""
CONNECTIONS = 5
"""Connections to a provider whose limit is not known."""
IDLE = 20.0
"""Seconds a connection is kept open with nothing to send."""
TAKE_AT_ONCE = 1000
HOLD_AT_FIRST, HOLD_AT_MOST = 5.0, 900.0

log = structlog.get_logger("dispatcher")


@dataclass(slots=True)
class _Lane:
    """One mailbox that is ours to send for. `held_until`: the mailbox rests after a refusal that concerns it."""

    epoch: int
    bucket: Bucket
    workers: set["asyncio.Task[None]"] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    held_until: float = 0.0
    holds: int = 0


@dataclass(slots=True)
class Dispatcher:
    store: Store
    directory: Directory
    credentials: Credentials
    clock: Clock
    node_id: str
    hostname: str
    _lanes: dict[str, _Lane] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _due: set[str] = field(default_factory=set)

    def accepted(self, mailbox_id: str) -> None:
        """A message for this mailbox is on disk."""
        lane = self._lanes.get(mailbox_id)
        if lane is not None and lane.workers:
            lane.wake.set()
            if len(lane.workers) >= self._limit(mailbox_id):
                return
        self._due.add(mailbox_id)
        self._wake.set()

    async def on_event(self, event: Event) -> None:
        """A token that has been acquired lets parked mail go on."""
        if event.kind == f"token.{TokenState.ACQUIRED}":
            for mailbox in self.directory.now.mailboxes_of_token(event.subject):
                await self.release(mailbox.id)

    async def release(self, mailbox_id: str) -> None:
        lane = self._lanes.get(mailbox_id)
        if lane is not None:
            lane.held_until, lane.holds = 0.0, 0
        now = self.clock()
        await self.store.database.write(lambda tx: messages.release(tx, mailbox_id, now))
        self.accepted(mailbox_id)

    async def run(self) -> None:
        """Until cancelled."""
        heart = asyncio.create_task(self._beat())
        try:
            await self._take(own=True)
            while True:
                await self._wait()
                with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                    await self._look()
        finally:
            heart.cancel()
            await self._stop_workers()

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._wake.wait()
        self._wake.clear()

    async def _look(self) -> None:
        """Start workers where mail is due: at once where we were told of it, every second for the rest."""
        told, self._due = self._due, set()
        if not told:
            now = self.clock()
            waiting = await self.store.database.read(messages.waiting_mailboxes)
            told = {mailbox_id for mailbox_id, first in waiting.items() if first <= now}
        if told - self._lanes.keys():
            await self._take(own=False)
        for mailbox_id in told & self._lanes.keys():
            self._start_worker(mailbox_id)

    def _start_worker(self, mailbox_id: str) -> None:
        lane = self._lanes[mailbox_id]
        lane.wake.set()
        if len(lane.workers) < self._limit(mailbox_id) and lane.held_until <= self.clock():
            task = asyncio.create_task(_Worker(self, mailbox_id, lane).run())
            lane.workers.add(task)
            task.add_done_callback(lane.workers.discard)

    def _limit(self, mailbox_id: str) -> int:
        mailbox = self.directory.now.mailboxes.get(mailbox_id)
        provider = self.directory.now.provider_of(mailbox) if mailbox else None
        return (provider.limits.connections if provider else None) or CONNECTIONS

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.store.database.write(lambda tx: leases.beat(tx, self.node_id))
                await self._take(own=False)
                await self._drop_lost()
                await self._release_ready()
            await asyncio.sleep(leases.HEARTBEAT)

    async def _take(self, *, own: bool) -> None:
        now = self.clock()

        async def work(tx: Transaction) -> dict[str, int]:
            await leases.beat(tx, self.node_id)
            taken = await leases.take_free(tx, self.node_id, TAKE_AT_ONCE, own=own)
            for mailbox_id in taken:
                await messages.recover(tx, mailbox_id, now)
            return taken

        for mailbox_id, epoch in (await self.store.database.write(work)).items():
            self._lanes[mailbox_id] = _Lane(epoch, Bucket(self._pace(mailbox_id)))

    def _pace(self, mailbox_id: str) -> int:
        mailbox = self.directory.now.mailboxes.get(mailbox_id)
        provider = self.directory.now.provider_of(mailbox) if mailbox else None
        return (provider.limits.messages_per_minute if provider else None) or 0

    async def _drop_lost(self) -> None:
        """Mailboxes that another node took over while we seemed dead are not ours any more."""
        held = await self.store.database.read(lambda tx: leases.held(tx, self.node_id))
        for mailbox_id, lane in list(self._lanes.items()):
            if held.get(mailbox_id) != lane.epoch:
                del self._lanes[mailbox_id]
                for worker in lane.workers:
                    worker.cancel()

    async def _release_ready(self) -> None:
        """Mail that was parked in the very moment its token was acquired."""
        counts = await self.store.database.read(messages.counts)
        parked = [mailbox_id for mailbox_id, states in counts.items() if states.get("parked")]
        for mailbox_id in parked:
            mailbox = self.directory.now.mailboxes.get(mailbox_id)
            if mailbox is not None and mailbox.token_id and await self._acquired(mailbox.token_id):
                await self.release(mailbox_id)

    async def _acquired(self, token_id: str) -> bool:
        token = await self.store.database.read(lambda tx: tokens.get(tx, token_id))
        return token is not None and token.state is TokenState.ACQUIRED

    async def _stop_workers(self) -> None:
        tasks = [worker for lane in self._lanes.values() for worker in lane.workers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Worker:
    """Sends for one mailbox over one connection until there is nothing more to send."""

    def __init__(self, dispatcher: Dispatcher, mailbox_id: str, lane: _Lane) -> None:
        self._dispatcher = dispatcher
        self._mailbox_id = mailbox_id
        self._lane = lane
        self._session: SmtpSession | None = None

    @property
    def _mailbox(self) -> Mailbox | None:
        return self._dispatcher.directory.now.mailboxes.get(self._mailbox_id)

    async def run(self) -> None:
        try:
            while await self._send_some() or await self._more_comes():
                pass
        except (DatabaseUnavailable, CommitUnknown) as cause:
            log.error("dispatching interrupted", mailbox=self._mailbox_id, cause=str(cause))
        finally:
            if self._session is not None:
                self._session.close()

    async def _more_comes(self) -> bool:
        self._lane.wake.clear()
        try:
            async with asyncio.timeout(IDLE):
                await self._lane.wake.wait()
        except TimeoutError:
            return False
        return self._lane.held_until <= self._dispatcher.clock()

    async def _send_some(self) -> bool:
        """Claim what is due and send it; False where nothing was."""
        dispatcher = self._dispatcher
        now = dispatcher.clock()
        if self._lane.held_until > now:
            return False
        claims = await dispatcher.store.database.write(
            lambda tx: messages.claim(tx, self._mailbox_id, dispatcher.node_id, self._lane.epoch, now, BATCH)
        )
        for position, claim in enumerate(claims):
            if not await self._send(claim):
                await self._give_back(claims[position + 1 :])
                return False
        return bool(claims)

    async def _give_back(self, claims: list[Claim]) -> None:
        async def work(tx: Transaction) -> None:
            for claim in claims:
                await messages.give_back(tx, claim, max(self._lane.held_until, self._dispatcher.clock()))

        if claims:
            await self._dispatcher.store.database.write(work)

    async def _send(self, claim: Claim) -> bool:
        """Hand one message over; False where the mailbox cannot send at the moment."""
        try:
            await self._keep_pace()
            session = await self._ready_session()
        except NoToken as problem:
            return await self._without_token(claim, problem)
        except UpstreamFailed as failed:
            await self._write(claim, self._network(claim.message, failed, spent=0, hold=True))
            return False
        try:
            result = await self._hand_over(session, claim)
        except ValueError as impossible:
            result = self._unsendable(claim.message, str(impossible))
        except UpstreamFailed as failed:
            result = self._lost(claim.message, failed)
        except (ChannelClosed, TimeoutError):
            result = self._lost(claim.message, UpstreamFailed("lost", "the connection was lost"))
        await self._write(claim, result)
        return not result.hold

    async def _keep_pace(self) -> None:
        while (seconds := self._lane.bucket.wait(self._dispatcher.clock())) > 0:
            await asyncio.sleep(seconds)

    async def _ready_session(self) -> SmtpSession:
        """The open connection, or a new one. A refused access token is renewed once. Raises NoToken, UpstreamFailed."""
        if self._session is not None and self._session.usable:
            return self._session
        way = await self._way()
        try:
            self._session = await self._open(way)
        except UpstreamFailed as failed:
            if failed.stage != "login" or way.serial is None or (failed.reply and failed.reply.temporary):
                raise
            way = await self._way(refused_serial=way.serial)
            self._session = await self._open(way)
        return self._session

    async def _way(self, refused_serial: int | None = None) -> Way:
        mailbox = self._mailbox
        if mailbox is None:
            raise NoToken("The mailbox is no longer there.", temporary=False)
        return await self._dispatcher.credentials.way(mailbox, "smtp", refused_serial=refused_serial)

    async def _open(self, way: Way) -> SmtpSession:
        mailbox = self._mailbox
        return await open_smtp(
            way.endpoint,
            way.login,
            hostname=self._dispatcher.hostname,
            ca_file=way.ca_file,
            timeout=mailbox.settings.timeout if mailbox else 30.0,
        )

    async def _hand_over(self, session: SmtpSession, claim: Claim) -> Result:
        dispatcher, message = self._dispatcher, claim.message

        async def before_end() -> bool:
            return await dispatcher.store.database.write(lambda tx: messages.hand_over(tx, claim))

        envelope, verdict = await session.send(message, self._parts(message), before_end)
        said = [self._said(reply) for reply in _last_words(envelope, verdict)]
        return judge(message, said, dispatcher.clock(), random.random())  # noqa: S311 - spreads retries

    async def _parts(self, message: QueuedMessage) -> AsyncIterator[bytes]:
        store = self._dispatcher.store
        yield store.sealer.open(message.body, f"message:{message.id}")
        if message.pieces:
            async for piece in store.spool.read(message.id, message.pieces):
                yield piece

    def _said(self, reply: Reply) -> Said:
        entry = None if reply.accepted else explain_smtp(self._family(), reply.code, reply.enhanced, reply.text)
        return Said(reply.code, str(reply), entry.class_ if entry else "", entry.meaning if entry else "")

    def _family(self) -> str:
        mailbox = self._mailbox
        provider = self._dispatcher.directory.now.provider_of(mailbox) if mailbox else None
        return provider.family if provider else "any"

    def _network(self, message: QueuedMessage, failed: UpstreamFailed, *, spent: int, hold: bool) -> Result:
        now = self._dispatcher.clock()
        cause = self._cause(failed)
        kind = "outcome unknown" if failed.unknown else "delayed"
        chance = random.random()  # noqa: S311 - spreads retries
        return postponed(
            message, message.recipients, failed.text, cause, now, chance, spent=spent, hold=hold, kind=kind
        )

    def _cause(self, failed: UpstreamFailed) -> str:
        if failed.unknown:
            return "the connection was lost after the end of the message"
        if failed.reply is not None:
            return self._said(failed.reply).meaning
        where = {"name": "dns", "tls": "tls"}.get(failed.stage, "tcp")
        entry = explain_network(where, self._family(), failed.text)  # type: ignore[arg-type]
        return entry.meaning if entry else ""

    def _unsendable(self, message: QueuedMessage, why: str) -> Result:
        """The server's extensions do not allow this message, such as an address with letters beyond ASCII."""
        failed = tuple(
            replace(r, state="failed", answer=why) if r.state == "waiting" else r for r in message.recipients
        )
        return Result(MessageState.FAILED, failed, "failed", why, "the provider cannot take this message", 0.0, 1)

    def _lost(self, message: QueuedMessage, failed: UpstreamFailed) -> Result:
        if self._session is not None:
            self._session.channel.abort()
        self._session = None
        pace = failed.reply is not None and self._said(failed.reply).concern in (Concern.THROTTLE, Concern.MAILBOX)
        return self._network(message, failed, spent=0 if pace else 1, hold=pace)

    async def _without_token(self, claim: Claim, problem: NoToken) -> bool:
        """Park everything of the mailbox, or let it rest where waiting may help."""
        if problem.temporary:
            result = self._network(claim.message, UpstreamFailed("token", problem.sentence), spent=0, hold=True)
            await self._write(claim, result)
            return False
        now = self._dispatcher.clock()

        async def work(tx: Transaction) -> None:
            await messages.give_back(tx, claim, now)
            await messages.park(tx, self._mailbox_id, now, problem.sentence)

        await self._dispatcher.store.database.write(work)
        log.warning("mail parked", mailbox=self._mailbox_id, why=problem.sentence)
        return False

    async def _write(self, claim: Claim, result: Result) -> None:
        dispatcher = self._dispatcher
        now = dispatcher.clock()
        self._rest(result, now)
        await dispatcher.store.database.write(
            lambda tx: messages.finish(
                tx,
                claim,
                now,
                result.state,
                result.recipients,
                kind=result.kind,
                answer=result.answer,
                cause=result.cause,
                next_at=max(result.next_at, self._lane.held_until) if result.next_at else 0.0,
                spent=result.spent,
            )
        )
        log.info(result.kind, message=claim.message.id, mailbox=self._mailbox_id, answer=result.answer)
        if claim.message.pieces and result.state is MessageState.SENT:
            await dispatcher.store.spool.remove(claim.message.id)

    def _rest(self, result: Result, now: float) -> None:
        """A refusal that concerns the mailbox lets it rest, longer each time; a success ends that.

        Connections that are refused at the same time are one refusal.
        """
        if result.hold and self._lane.held_until <= now:
            self._lane.holds += 1
            pause = min(HOLD_AT_FIRST * 2 ** min(self._lane.holds - 1, 10), HOLD_AT_MOST)
            self._lane.held_until = now + pause
        elif not result.hold:
            self._lane.holds = 0


def _last_words(envelope: EnvelopeAnswered, verdict: Reply | None) -> list[Reply]:
    """What was said last about each recipient: its own refusal, else DATA's, else the verdict on the message."""
    final = verdict or envelope.data or envelope.mail
    return [final if reply.accepted else reply for reply in envelope.recipients]
