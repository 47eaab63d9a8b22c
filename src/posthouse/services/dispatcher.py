"""Sends what is in the queue: mailbox by mailbox, within the provider's limits, without losing or inventing anything.

A mailbox is ours while we hold its lease. Each of its workers keeps one connection and takes message after message;
before the end of a message is sent, "handing over" is committed, so that a crash is told apart afterwards. With
PIPELINING the next message's envelope follows the end of the one before at once, and the outcome of the one shares a
commit with "handing over" of the other: one round trip and one commit a message.
"""

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog

from posthouse.model.delivery import Concern, Result, Said, judge, postponed
from posthouse.model.mailbox import Mailbox
from posthouse.model.message import MessageState, QueuedMessage
from posthouse.model.pacing import Bucket
from posthouse.model.token import TokenState
from posthouse.protocol.smtp_client import EnvelopeAnswered
from posthouse.protocol.smtp_reply import Reply
from posthouse.providers.catalogue import explain_network, explain_smtp
from posthouse.providers.provider import Family
from posthouse.services.clock import Clock
from posthouse.services.credentials import Credentials, Way
from posthouse.services.directory import Directory
from posthouse.services.proving import Proof, failure
from posthouse.services.token_keeper import NoToken
from posthouse.services.upstream import SmtpSession, UpstreamFailed, open_smtp
from posthouse.store import leases, messages, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.events import Event
from posthouse.store.messages import Claim
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

POLL = 1.0
BATCH_AT_FIRST, BATCH = 2, 16
"""Messages that a worker claims at once: more each time it was quick, so that a slow one keeps none from the others."""
QUICK = 1.0
CONNECTIONS = 5
"""Connections to a provider whose limit is not known."""
IDLE = 20.0
"""Seconds a connection is kept open with nothing to send."""
ENDED = (f"token.{TokenState.INVALID}", f"token.{TokenState.NOT_ACQUIRED}")
TAKE_AT_ONCE = 1000
DRAIN = 5.0
"""Seconds that workers get to finish their messages when the gateway is stopped."""
HOLD_AT_FIRST, HOLD_AT_MOST = 5.0, 900.0
WRITE_AGAIN_AT_FIRST, WRITE_AGAIN_AT_MOST = 0.2, 5.0
"""Seconds before what the database did not take is written again."""

log = structlog.get_logger("dispatcher")
_claims = itertools.count(1)
T = TypeVar("T")


@dataclass(slots=True)
class _Lane:
    """One mailbox that is ours to send for. `held_until`: the mailbox rests after a refusal that concerns it.

    `fared`: what was last written down about logging in for it.
    """

    epoch: int
    bucket: Bucket
    workers: set["asyncio.Task[None]"] = field(default_factory=set)
    idle: deque["asyncio.Future[None]"] = field(default_factory=deque)
    news: int = 0
    """Grows with every message, so that a worker who found nothing sees whether one came meanwhile."""
    held_until: float = 0.0
    holds: int = 0
    fared: tuple[str, str] | None = None
    ended_tokens: int = 0
    """Grows when its token was deleted or refused: what was logged in with that is not used any more."""

    def ring(self) -> bool:
        """There is something to send; whether an idle worker has been told."""
        self.news += 1
        while self.idle:
            worker = self.idle.popleft()
            if not worker.done():
                worker.set_result(None)
                return True
        return False


@dataclass(slots=True)
class Dispatcher:
    store: Store
    directory: Directory
    credentials: Credentials
    clock: Clock
    node_id: str
    hostname: str
    stopping: bool = False
    _lanes: dict[str, _Lane] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _due: set[str] = field(default_factory=set)

    def accepted(self, mailbox_id: str) -> None:
        """A message for this mailbox is on disk."""
        lane = self._lanes.get(mailbox_id)
        if lane is None:
            self._due.add(mailbox_id)
            self._wake.set()
        elif not lane.ring():
            self._start_worker(mailbox_id, lane)

    async def on_event(self, event: Event) -> None:
        """A token that has been acquired lets parked mail go on; one that has ended is not gone on with."""
        senders = [user.mailbox.id for user in self.directory.now.uses_now(event.subject) if "sending" in user.purposes]
        if event.kind == f"token.{TokenState.ACQUIRED}":
            for mailbox_id in senders:
                await self.release(mailbox_id)
        elif event.kind in ENDED:
            for mailbox_id in senders:
                if mailbox_id in self._lanes:
                    self._lanes[mailbox_id].ended_tokens += 1

    async def release(self, mailbox_id: str) -> None:
        lane = self._lanes.get(mailbox_id)
        if lane is not None:
            lane.held_until, lane.holds, lane.fared = 0.0, 0, None
        now = self.clock()
        await self.store.database.write(lambda tx: messages.release(tx, mailbox_id, now), long=True)
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
            self.accepted(mailbox_id)

    def _start_worker(self, mailbox_id: str, lane: _Lane) -> None:
        if len(lane.workers) < self._limit(mailbox_id) and lane.held_until <= self.clock():
            task = asyncio.create_task(_Worker(self, mailbox_id, lane).run())
            lane.workers.add(task)
            task.add_done_callback(lane.workers.discard)

    def sending_view(self, mailbox_id: str) -> Mailbox | None:
        """The mailbox as its sending settings see it."""
        mailbox = self.directory.now.mailboxes.get(mailbox_id)
        return mailbox.for_setting("sending") if mailbox is not None else None

    def _limit(self, mailbox_id: str) -> int:
        mailbox = self.sending_view(mailbox_id)
        provider = self.directory.now.provider_of(mailbox) if mailbox else None
        return (provider.limits.connections if provider else None) or CONNECTIONS

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.store.database.write(self._say_alive)
                await self._take(own=False)
                await self._drop_lost()
                await self._release_ready()
            await asyncio.sleep(leases.HEARTBEAT)

    async def _say_alive(self, tx: Transaction) -> None:
        keys = self.store.keys
        await leases.beat(tx, self.node_id, keys.generation, keys.master_id)

    async def _take(self, *, own: bool) -> None:
        now = self.clock()

        async def work(tx: Transaction) -> dict[str, int]:
            await self._say_alive(tx)
            taken = await leases.take_free(tx, self.node_id, TAKE_AT_ONCE, own=own)
            for mailbox_id in taken:
                await messages.recover(tx, mailbox_id, now)
            return taken

        for mailbox_id, epoch in (await self.store.database.write(work, long=True)).items():
            self._lanes[mailbox_id] = _Lane(epoch, Bucket(self._pace(mailbox_id)))

    def _pace(self, mailbox_id: str) -> int:
        mailbox = self.sending_view(mailbox_id)
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
        for mailbox_id in await self.store.database.read(messages.parked_mailboxes):
            mailbox = self.sending_view(mailbox_id)
            if mailbox is not None and await self._can_log_in(mailbox):
                await self.release(mailbox_id)

    async def _can_log_in(self, mailbox: Mailbox) -> bool:
        if mailbox.app_id is None:
            return mailbox.has_password
        token = await self.store.database.read(lambda tx: tokens.get(tx, mailbox.token_id or ""))
        return token is not None and token.state is TokenState.ACQUIRED

    async def _stop_workers(self) -> None:
        """Let each finish its message and give the others back; what takes longer is cut off."""
        self.stopping = True
        tasks = [worker for lane in self._lanes.values() for worker in lane.workers]
        for lane in self._lanes.values():
            while lane.ring():
                pass
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _NotOurs(Exception):
    """The mailbox has gone to another node."""


class _Worker:
    """Sends for one mailbox over one connection until there is nothing more to send.

    The first of its claims is the message being sent; `_begun` is the second one while its envelope is on the way.
    """

    def __init__(self, dispatcher: Dispatcher, mailbox_id: str, lane: _Lane) -> None:
        self._dispatcher = dispatcher
        self._mailbox_id = mailbox_id
        self._lane = lane
        self._session: SmtpSession | None = None
        self._opened_as: tuple[object, ...] = ()
        self._claims: deque[Claim] = deque()
        self._begun: Claim | None = None
        self._batch = BATCH_AT_FIRST
        self._claimed_at = 0.0
        self._found_nothing_at = -1

    @property
    def _mailbox(self) -> Mailbox | None:
        return self._dispatcher.sending_view(self._mailbox_id)

    async def run(self) -> None:
        try:
            while await self._something_to_send() and await self._send(self._claims[0]):
                pass
        except _NotOurs:
            self._claims.clear()
        except (DatabaseUnavailable, CommitUnknown) as cause:
            log.error("dispatching interrupted", mailbox=self._mailbox_id, cause=str(cause))
        except Exception as cause:
            log.error("sending fell down", mailbox=self._mailbox_id, kind=type(cause).__name__)
            self._hold(self._dispatcher.clock())
        finally:
            self._drop_session()
        await self._give_back()

    # What to send

    async def _something_to_send(self) -> bool:
        """Claims what is due, or waits for something to come; False when it is time to end."""
        while not self._resting:
            if self._claims:
                return True
            if self._found_nothing_at != self._lane.news:
                self._take(await self._claim())
            elif not await self._more_comes():
                return False
        return False

    @property
    def _resting(self) -> bool:
        return self._dispatcher.stopping or self._lane.held_until > self._dispatcher.clock()

    async def _claim(self) -> list[Claim]:
        """Raises DatabaseUnavailable, with nothing claimed."""
        claiming = self._claiming()
        try:
            return await self._dispatcher.store.database.write(claiming)
        except CommitUnknown:
            return await self._keep_writing(claiming)

    def _claiming(self) -> Callable[[Transaction], Coroutine[Any, Any, list[Claim]]]:
        """The work that claims the next messages; what it claimed is given to `_take`.

        Done again, because its commit was not heard of, it undoes first what it may have claimed before.
        """
        dispatcher, lane, now = self._dispatcher, self._lane, self._dispatcher.clock()
        self._batch = min(self._batch * 2, BATCH) if now - self._claimed_at < QUICK else BATCH_AT_FIRST
        self._claimed_at = now
        self._found_nothing_at = lane.news
        owner, tries = f"{dispatcher.node_id} {next(_claims)}", itertools.count()

        async def work(tx: Transaction) -> list[Claim]:
            if next(tries):
                await messages.unclaim(tx, self._mailbox_id, owner, lane.epoch, now)
            return await messages.claim(tx, self._mailbox_id, owner, lane.epoch, now, self._batch)

        return work

    def _take(self, claims: list[Claim]) -> None:
        self._claims += claims
        if len(claims) == self._batch:
            self._found_nothing_at = -1
            self._dispatcher.accepted(self._mailbox_id)

    async def _more_comes(self) -> bool:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane.idle.append(told)
        try:
            async with asyncio.timeout(IDLE):
                await told
        except TimeoutError:
            return told.done() and not told.cancelled()
        return True

    async def _give_back(self) -> None:
        claims, until = tuple(self._claims), max(self._lane.held_until, self._dispatcher.clock())

        async def work(tx: Transaction) -> None:
            for claim in claims:
                await messages.give_back(tx, claim, until)

        if claims:
            await self._keep_writing(work)

    # One message

    async def _send(self, claim: Claim) -> bool:
        """Hand one message over; False where the mailbox cannot send at the moment."""
        try:
            result = await self._attempt(claim)
        except NoToken as problem:
            return await self._without_token(claim, problem)
        if result.hold and self._begun is not None:
            self._drop_session()
        await self._write(claim, result)
        return not result.hold

    async def _attempt(self, claim: Claim) -> Result:
        """What became of it. A connection that was used before may have had its day: then another is tried at once.

        Raises NoToken.
        """
        while True:
            try:
                session = await self._session_for(claim)
            except UpstreamFailed as failed:
                return self._network(claim.message, failed, spent=0, hold=True)
            used = session.messages > 0
            try:
                return await self._hand_over(session, claim)
            except UpstreamFailed as failed:
                self._drop_session()
                if not used or failed.unknown or self._is_about_mailbox(failed):
                    return self._lost(claim.message, failed)

    def _is_about_mailbox(self, failed: UpstreamFailed) -> bool:
        concerns = (Concern.THROTTLE, Concern.MAILBOX)
        return failed.reply is not None and self._said(failed.reply).concern in concerns

    async def _session_for(self, claim: Claim) -> SmtpSession:
        """The connection on which the message has been begun, or one on which it can be."""
        if self._begun is claim and self._session is not None:
            return self._session
        await self._keep_pace()
        return await self._ready_session()

    async def _hand_over(self, session: SmtpSession, claim: Claim) -> Result:
        """Raises UpstreamFailed."""
        try:
            said = [self._said(reply) for reply in await self._conversation(session, claim)]
        except ValueError as impossible:
            return self._unsendable(claim.message, str(impossible))
        except (OSError, Unsealable) as cause:
            log.error("message cannot be read", message=claim.message.id, cause=str(cause))
            failed = UpstreamFailed("lost", "the stored message cannot be read")
            return self._network(claim.message, failed, spent=1, hold=False)
        return judge(claim.message, said, self._dispatcher.clock(), random.random())  # noqa: S311 - spreads retries

    async def _conversation(self, session: SmtpSession, claim: Claim) -> list[Reply]:
        """The last word about each recipient. Raises UpstreamFailed, ValueError, OSError, Unsealable."""
        envelope = await self._envelope(session, claim)
        if not envelope.go_ahead:
            return _last_words(envelope, None)
        refusal = await session.body(self._parts(claim.message))
        if refusal is not None:
            return _last_words(envelope, refusal)
        self._begin_next(session)
        return _last_words(envelope, await session.verdict())

    async def _envelope(self, session: SmtpSession, claim: Claim) -> EnvelopeAnswered:
        """While the server answers, "handing over" is written, unless both was begun with the message before."""
        begun, self._begun = self._begun is claim, None
        if begun:
            return await session.answered()
        session.begin(claim.message)
        session.push()
        writing = self._keep_writing(lambda tx: messages.hand_over(tx, claim))
        envelope, ours = await asyncio.gather(session.answered(), writing, return_exceptions=True)
        if isinstance(ours, BaseException):
            raise ours
        if not ours:
            raise _NotOurs
        if isinstance(envelope, BaseException):
            raise envelope
        return envelope

    def _begin_next(self, session: SmtpSession) -> None:
        if len(self._claims) < 2 or self._resting or not session.pipelining or self._opened_as != self._identity():
            return
        if self._lane.bucket.wait(self._dispatcher.clock()) > 0:
            return
        with contextlib.suppress(ValueError):
            session.begin(self._claims[1].message)
            self._begun = self._claims[1]

    # The connection

    async def _keep_pace(self) -> None:
        while (seconds := self._lane.bucket.wait(self._dispatcher.clock())) > 0:
            await asyncio.sleep(seconds)

    async def _ready_session(self) -> SmtpSession:
        """The open connection, or a new one. Raises NoToken, UpstreamFailed."""
        if self._session is not None and self._session.usable and self._opened_as == self._identity():
            return self._session
        self._drop_session()
        self._opened_as = self._identity()
        try:
            self._session = await self._new_session()
        except UpstreamFailed as failed:
            await self._note(failure("smtp", failed, self._family()))
            raise
        await self._note(Proof("smtp", "proved"))
        return self._session

    def _identity(self) -> tuple[object, ...]:
        """Where and as whom the mailbox logs in by now: after a switch an open connection is the former account's."""
        mailbox, snapshot = self._mailbox, self._dispatcher.directory.now
        if mailbox is None:
            return ()
        where, user = snapshot.endpoint(mailbox, "smtp"), snapshot.user(mailbox, "smtp")
        return mailbox.way, self._lane.ended_tokens, where, user

    async def _new_session(self) -> SmtpSession:
        """A refused access token is renewed once."""
        way = await self._way()
        try:
            return await self._open(way)
        except UpstreamFailed as failed:
            if failed.stage != "login" or way.serial is None or (failed.reply and failed.reply.temporary):
                raise
        return await self._open(await self._way(refused_serial=way.serial))

    async def _note(self, proof: Proof) -> None:
        """A refused protocol shows on its own setting; only what is new is written."""
        fared, now = (proof.verdict, proof.cause), self._dispatcher.clock()
        if self._lane.fared != fared:
            self._lane.fared = fared
            cause = " ".join(part for part in (proof.cause, proof.fix) if part)
            mailbox_id, answer = self._mailbox_id, proof.answer
            await self._keep_writing(
                lambda tx: tokens.set_result(tx, mailbox_id, "smtp", proof.verdict, now, answer, cause)
            )

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

    def _drop_session(self) -> None:
        session, self._session, self._begun = self._session, None, None
        if session is not None:
            session.close()

    # What came of it

    async def _parts(self, message: QueuedMessage) -> AsyncIterator[bytes]:
        store = self._dispatcher.store
        yield store.sealer.open(message.body, f"message:{message.id}")
        if message.pieces:
            async for piece in store.spool.read(message.id, message.pieces):
                yield piece

    def _said(self, reply: Reply) -> Said:
        entry = None if reply.accepted else explain_smtp(self._family(), reply.code, reply.enhanced, reply.text)
        return Said(reply.code, str(reply), entry.class_ if entry else "", entry.meaning if entry else "")

    def _family(self) -> Family:
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
        hold = self._is_about_mailbox(failed)
        return self._network(message, failed, spent=0 if hold else 1, hold=hold)

    async def _without_token(self, claim: Claim, problem: NoToken) -> bool:
        """Park everything of the mailbox, or let it rest where waiting may help."""
        if problem.temporary:
            result = self._network(claim.message, UpstreamFailed("token", problem.sentence), spent=0, hold=True)
            await self._write(claim, result)
            return False
        now, claims = self._dispatcher.clock(), tuple(self._claims)
        self._claims.clear()

        async def work(tx: Transaction) -> None:
            for mine in claims:
                await messages.give_back(tx, mine, now)
            await messages.park(tx, self._mailbox_id, now, problem.sentence)

        await self._keep_writing(work, long=True)
        log.warning("mail parked", mailbox=self._mailbox_id, why=problem.sentence)
        return False

    async def _write(self, claim: Claim, result: Result) -> None:
        """The outcome, and in the same commit that the next message is being handed over, and a claim on some more.

        Raises _NotOurs.
        """
        self._rest(result, self._dispatcher.clock())
        begun = self._begun
        claiming = self._claiming() if len(self._claims) <= 2 and not self._resting else None

        async def work(tx: Transaction) -> tuple[bool, list[Claim]]:
            await self._finish(tx, claim, result)
            ours = begun is None or await messages.hand_over(tx, begun)
            return ours, await claiming(tx) if claiming else []

        ours, claims = await self._keep_writing(work)
        self._claims.popleft()
        if claiming:
            self._take(claims)
        await self._finished(claim.message, result)
        if not ours:
            raise _NotOurs

    async def _finish(self, tx: Transaction, claim: Claim, result: Result) -> None:
        await messages.finish(
            tx,
            claim,
            self._dispatcher.clock(),
            result.state,
            result.recipients,
            kind=result.kind,
            answer=result.answer,
            cause=result.cause,
            next_at=max(result.next_at, self._lane.held_until) if result.next_at else 0.0,
            spent=result.spent,
        )

    async def _finished(self, message: QueuedMessage, result: Result) -> None:
        sent = result.state is MessageState.SENT
        tell = log.debug if sent else log.info
        tell(result.kind, message=message.id, mailbox=self._mailbox_id, answer=result.answer)
        if sent and message.pieces:
            await self._dispatcher.store.spool.remove(message.id)

    async def _keep_writing(self, work: Callable[[Transaction], Coroutine[Any, Any, T]], *, long: bool = False) -> T:
        """What has happened has to be written down, however long the database is away."""
        pause = WRITE_AGAIN_AT_FIRST
        while True:
            try:
                return await self._dispatcher.store.database.write(work, long=long)
            except (DatabaseUnavailable, CommitUnknown) as cause:
                log.error("an outcome could not be written, trying again", mailbox=self._mailbox_id, cause=str(cause))
            await asyncio.sleep(pause)
            pause = min(pause * 2, WRITE_AGAIN_AT_MOST)

    def _rest(self, result: Result, now: float) -> None:
        """A refusal that concerns the mailbox lets it rest, longer each time; a success ends that.

        Connections that are refused at the same time are one refusal.
        """
        if result.hold and self._lane.held_until <= now:
            self._hold(now)
        elif not result.hold:
            self._lane.holds = 0

    def _hold(self, now: float) -> None:
        self._lane.holds += 1
        pause = min(HOLD_AT_FIRST * 2 ** min(self._lane.holds - 1, 10), HOLD_AT_MOST)
        self._lane.held_until = now + pause


def _last_words(envelope: EnvelopeAnswered, verdict: Reply | None) -> list[Reply]:
    """What was said last about each recipient: its own refusal, else DATA's, else the verdict on the message."""
    final = verdict or envelope.data or envelope.mail
    return [final if reply.accepted else reply for reply in envelope.recipients]
