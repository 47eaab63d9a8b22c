"""One connection's work: sends message after message of one mailbox until there is nothing more to send.

Before the end of a message is sent, "handing over" is committed, so that a crash is told apart afterwards. With
PIPELINING the next message's envelope follows the end of the one before at once, and nothing waits for a commit while
mail flows: "handing over" is written a message ahead, or a few where the disk is slower than the server, and outcomes
while the next message is on its way (`posthouse.services.ledger`). A message with more recipients than the provider
takes at once goes in parts, and what became of one is written down before the next.
"""

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from posthouse.model.delivery import Concern, Part, Result, Said, judge, part_of, postponed
from posthouse.model.mailbox import Mailbox, fold
from posthouse.model.message import MessageState, QueuedMessage
from posthouse.model.pacing import Pace, Permit, UsedUp
from posthouse.model.sender import Learnt, refused_address
from posthouse.protocol.smtp_client import EnvelopeAnswered
from posthouse.protocol.smtp_reply import Reply
from posthouse.providers.catalogue import explain_network, explain_smtp
from posthouse.providers.provider import Family
from posthouse.services.credentials import Way
from posthouse.services.lanes import AHEAD_AGAIN, Account, Lane, Standing
from posthouse.services.ledger import Ledger
from posthouse.services.proving import Proof, failure
from posthouse.services.token_keeper import NoToken
from posthouse.services.upstream import SmtpSession, UpstreamFailed, open_smtp
from posthouse.store import messages, senders, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.messages import Claim
from posthouse.store.sealing import Unsealable

if TYPE_CHECKING:
    from posthouse.services.dispatcher import Dispatcher

BATCH_AT_FIRST, BATCH = 2, 16
"""Messages that a worker claims at once: more each time it was quick, so that a slow one keeps none from the others."""
QUICK = 1.0
FAST = 0.05
"""Seconds from one verdict to the next within which it is worth to write "handing over" further ahead."""
IDLE = 20.0
"""Seconds a connection is kept open with nothing to send."""
AGE = 600.0
"""Seconds after which a connection is closed between two messages, and another one opened."""
TURN = 5.0
"""Seconds of sending for one mailbox after which another one of the same account may have the connection."""
LOOK_AGAIN = 1.0
"""Seconds at most between two looks at the clock while the pace is waited for."""
HOLD_AT_FIRST, HOLD_AT_MOST = 5.0, 900.0
FARTHEST = 4
"""Messages at most that are "handing over" before they are begun; a crash makes the outcome of each of them unknown."""
LOGIN_IS_OVER = frozenset((454, 530, 535))
"""Codes by which a server says in mid-connection that it does not know the client any more: the token has expired."""

CUT_SHORT = UpstreamFailed("lost", "the gateway broke off while handing over", unknown=True)

log = structlog.get_logger("dispatcher")
_claims = itertools.count(1)


class _NotOurs(Exception):
    """The mailbox has gone to another node."""


class _Rests(Exception):
    """Not now: somebody else of the account waits for the pace already, or the gateway is being stopped."""


class _Handing(Struct, frozen=True, eq=False):
    """A message on its way: to which of its recipients, and as what that is counted."""

    claim: Claim
    part: Part
    permit: Permit


class Worker:
    """The first of its claims is the message being sent; `_begun` is the second one while its envelope is on the way.

    `_unwritten` are those that are done with, while the outcome is not written, and `_handed` messages whose end the
    server may have, as long. `account` is who is counted. `_start` is the place of the first recipient of the message
    being sent who has not been asked about in this attempt. `_handing` are messages that are "handing over", with their
    entries in the ledger, and up to `_ahead` of them are so before they are begun.
    """

    def __init__(self, dispatcher: "Dispatcher", mailbox_id: str, lane: Lane, account: Account) -> None:
        self._dispatcher = dispatcher
        self._mailbox_id = mailbox_id
        self._lane = lane
        self.account = account
        self._session: SmtpSession | None = None
        self._generation = 0
        self._claims: deque[Claim] = deque()
        self._begun: _Handing | None = None
        self._start = 0
        self._gravest: Said | None = None
        self._unwritten: dict[str, Claim] = {}
        self._handed: set[str] = set()
        self._ledger = Ledger(dispatcher.store.database, mailbox_id)
        self._handing: dict[str, int] = {}
        self._ahead = 0
        self._answered_at = 0.0
        self._is_ours = True
        self._claiming_ahead = False
        self._batch = BATCH_AT_FIRST
        self._claimed_at = 0.0
        self._turn_began = dispatcher.clock()
        self._found_nothing_at = -1

    @property
    def _mailbox(self) -> Mailbox | None:
        return self._dispatcher.sending_view(self._mailbox_id)

    @property
    def _pace(self) -> Pace:
        return self.account.pace

    async def run(self) -> None:
        try:
            if not self._lane.connected or await self._connect_ahead():
                while await self._something_to_send() and await self._send(self._claims[0]):
                    pass
            await self._settle()
        except _NotOurs:
            self._claims.clear()
        except asyncio.CancelledError:
            self._ledger.stop()
            raise
        except (DatabaseUnavailable, CommitUnknown) as cause:
            self._handed.clear()  # before the end of a message at the latest
            log.error("dispatching interrupted", mailbox=self._mailbox_id, cause=str(cause))
        except Exception as cause:
            self._fell_down(cause)
        finally:
            self._drop_session()
        await self._give_back()

    def _fell_down(self, cause: Exception) -> None:
        log.error("sending fell down", mailbox=self._mailbox_id, kind=type(cause).__name__)
        self._hold(self._dispatcher.clock())

    async def _connect_ahead(self) -> bool:
        """Others of the mailbox have a connection: nothing is claimed, and kept from them, before this one has its own.

        Whether it got one.
        """
        try:
            await self._ready_session()
        except (UpstreamFailed, NoToken) as failed:
            now = self._dispatcher.clock()
            self._lane.ahead_at = now + AHEAD_AGAIN
            reply = failed.reply if isinstance(failed, UpstreamFailed) else None
            if reply is not None and self._said(reply).concern is Concern.THROTTLE:
                self._pace.slow_down(now)
            return False
        return True

    # What to send

    async def _something_to_send(self) -> bool:
        """Claims what is due, or waits for something to come; False when it is time to end."""
        while self._is_counted or not (self._resting or self._has_to_yield):
            if self._begun is None:
                self._follow_lane()
            if self._claims:
                return True
            if not self._ledger.settled:
                await self._settle()
            elif self._found_nothing_at != self._lane.news:
                self._take(await self._claim())
            elif not await self._more_comes():
                return False
        return False

    def _follow_lane(self) -> None:
        """Where the mailbox has gone over to another account, server or token."""
        if self._session is not None and self._generation != self._lane.generation:
            self._drop_session()
        account = self._lane.account
        if account is not None and account is not self.account:
            self.account.workers -= 1
            account.workers += 1
            self.account = account

    @property
    def _resting(self) -> bool:
        return self._dispatcher.stopping or self._lane.rests(self._dispatcher.clock())

    @property
    def _is_counted(self) -> bool:
        """A message was begun before the day's allowance was used up: part of that is its own."""
        return self._begun is not None and bool(self._lane.waits_for) and not self._dispatcher.stopping

    @property
    def _has_to_yield(self) -> bool:
        """Another mailbox of the account has mail and no connection."""
        if not self.account.waiting or not self.account.others_wait(self._lane):
            return False
        return self._begun is None and (not self._claims or self._dispatcher.clock() - self._turn_began > TURN)

    async def _claim(self) -> list[Claim]:
        """Raises DatabaseUnavailable, with nothing claimed."""
        claiming = self._claiming()
        try:
            return await self._dispatcher.store.database.write(claiming)
        except CommitUnknown:
            return await self._ledger.write(claiming)

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
            return await messages.claim(tx, self._mailbox_id, owner, lane.epoch, now, self._batch, lane.order)

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
        try:
            await self._settle()
        except _NotOurs:
            self._claims.clear()
        except Exception as fault:
            self._fell_down(fault)
        now, claims, lane = self._dispatcher.clock(), (*self._unwritten.values(), *self._claims), self._lane
        cause = lane.waits_for if lane.held_until > now else ""

        async def work(tx: Transaction) -> None:
            for claim in claims:
                if claim.message.id in self._handed:
                    await self._finish(tx, claim, self._network(claim.message, CUT_SHORT, spent=1, hold=False))
                else:
                    await messages.give_back(tx, claim, now if cause else self._not_before(now))
            if cause:
                await messages.postpone(tx, self._mailbox_id, now, lane.held_until, cause)

        if claims:
            await self._ledger.write(work)

    def _not_before(self, at: float) -> float:
        return max(at, self._lane.held_until, self._pace.rests_until)

    # One message

    async def _send(self, claim: Claim) -> bool:
        """Hand one message over, or a part of it; False where the mailbox cannot send at the moment."""
        if self._begun is None and (standing := self._refused_sender(claim.message)):
            await self._write(claim, self._as_refused(claim.message, standing))
            return True
        try:
            result = await self._attempt(claim)
        except NoToken as problem:
            return await self._without_token(claim, problem)
        except UsedUp as used:
            return await self._until_allowed_again(used)
        except _Rests:
            return False
        if (result.hold or result.goes_on_at is not None) and self._begun is not None:
            self._drop_session()
        result, learnt = self._learn_sender(claim.message, result)
        self._rest(result, self._dispatcher.clock())
        await self._write(claim, result, learnt)
        return not result.hold

    async def _attempt(self, claim: Claim) -> Result:
        """What became of it. A connection that was open before may have had its day: then another is tried at once.

        Raises NoToken, UsedUp, _Rests.
        """
        while True:
            fresh = self._begun is None and (self._session is None or not self._serves(self._session))
            try:
                session, handing = await self._begun_or_ready(claim)
            except UpstreamFailed as failed:
                return self._network(claim.message, failed, spent=0, hold=True)
            try:
                return await self._hand_over(session, handing, fresh=fresh)
            except UpstreamFailed as failed:
                self._drop_session()
                if not failed.unknown:
                    self._handed.discard(claim.message.id)
                    self._pace.settle(handing.permit, 0)
                if not self._is_worth_another(failed, fresh=fresh):
                    return self._lost(claim.message, failed)

    def _is_worth_another(self, failed: UpstreamFailed, *, fresh: bool) -> bool:
        """Another connection, at once."""
        if failed.stage == "chunking":
            self._lane.chunking = False
            return True
        if fresh or failed.unknown:
            return False
        return failed.stage == "login" or not self._is_about_mailbox(failed)

    def _is_about_mailbox(self, failed: UpstreamFailed) -> bool:
        concerns = (Concern.THROTTLE, Concern.MAILBOX)
        return failed.reply is not None and self._said(failed.reply).concern in concerns

    async def _begun_or_ready(self, claim: Claim) -> tuple[SmtpSession, _Handing]:
        """The connection on which the message has been begun, or one on which it can be, once the pace allows.

        Raises UpstreamFailed, NoToken, UsedUp, _Rests.
        """
        if self._begun is not None and self._begun.claim is claim and self._session is not None:
            return self._session, self._begun
        while True:
            await self._keep_pace()
            session = await self._ready_session()
            handing = self._permitted(claim, self._start)
            if handing is not None:
                return session, handing

    def _permitted(self, claim: Claim, start: int) -> _Handing | None:
        """What may go now, None where it is too early. Raises UsedUp."""
        now = self._dispatcher.clock()
        part = part_of(claim.message, start, self._pace.most_recipients(now, self._lane.most_recipients))
        permit = self._pace.take(now, len(part.places))
        return _Handing(claim, part, permit) if permit is not None else None

    async def _hand_over(self, session: SmtpSession, handing: _Handing, *, fresh: bool) -> Result:
        """Raises UpstreamFailed."""
        message = handing.claim.message
        try:
            said = await self._conversation(session, handing, fresh=fresh)
        except ValueError as impossible:
            self._pace.settle(handing.permit, 0)
            return self._unsendable(message, str(impossible))
        except (OSError, Unsealable) as cause:
            log.error("message cannot be read", message=message.id, cause=str(cause))
            self._pace.settle(handing.permit, 0)
            failed = UpstreamFailed("lost", "the stored message cannot be read")
            return self._network(message, failed, spent=1, hold=False)
        now, chance = self._dispatcher.clock(), random.random()  # noqa: S311 - spreads retries
        result = judge(message, handing.part, said, now, chance, self._gravest)
        self._pace.settle(handing.permit, result.taken)
        return result

    async def _conversation(self, session: SmtpSession, handing: _Handing, *, fresh: bool) -> list[Said]:
        """The last word about each recipient. Raises UpstreamFailed, ValueError, OSError, Unsealable."""
        envelope = await self._envelope(session, handing)
        if not fresh:
            _check_login(envelope.mail)
        if not envelope.go_ahead:
            return self._last_words(envelope, None)
        self._handed.add(handing.claim.message.id)
        verdict = await session.body(self._parts(handing.claim.message))
        if verdict is None:
            if not handing.part.rest:
                self._begin_next(session)
            verdict = await session.verdict()
        if not fresh:
            _check_login(verdict)
        return self._last_words(envelope, verdict)

    async def _envelope(self, session: SmtpSession, handing: _Handing) -> EnvelopeAnswered:
        """While the server answers, "handing over" is written, unless both was begun with the message before."""
        begun, self._begun = self._begun is handing, None
        if not begun:
            session.begin(handing.claim.message, handing.part)
            session.push()
        self._hand(handing.claim)
        envelope = await session.answered()
        await self._until_handed(handing.claim)
        return envelope

    def _hand(self, claim: Claim) -> None:
        """It is "handing over" from the next commit on."""
        if claim.message.id not in self._handing:
            handing = self._ledger.add(lambda tx: messages.hand_over(tx, claim), self._is_handed)
            self._handing[claim.message.id] = handing

    def _is_handed(self, ours: bool) -> None:
        self._is_ours = self._is_ours and ours

    async def _until_handed(self, claim: Claim) -> None:
        """Raises _NotOurs."""
        number = self._handing[claim.message.id]
        if not self._ledger.has(number):
            self._ahead = min(self._ahead + 1, FARTHEST)
            await self._ledger.until(number)
        if not self._is_ours:
            raise _NotOurs

    def _hand_ahead(self) -> None:
        """What will be begun before another commit is over; not where a pace could keep it waiting."""
        if not self._lane.order and not self._pace.allowance.counts:
            for claim in itertools.islice(self._claims, 1, 1 + self._ahead):
                self._hand(claim)

    async def _settle(self) -> None:
        """Wait until everything is on disk. Raises _NotOurs."""
        await self._ledger.settle()
        if not self._is_ours:
            raise _NotOurs

    def _begin_next(self, session: SmtpSession) -> None:
        """The next message's envelope, where nothing about this one could still keep it back."""
        if len(self._claims) < 2 or self._resting or not session.pipelining or self._has_had_its_day(session, 1):
            return
        following = self._claims[1]
        if self._refused_sender(following.message):
            return
        if self._comes_after(following, self._claims[0]) or self._generation != self._lane.generation:
            return
        with contextlib.suppress(UsedUp):
            handing = self._permitted(following, 0)
            if handing is not None:
                self._begin(session, handing)

    def _begin(self, session: SmtpSession, handing: _Handing) -> None:
        try:
            session.begin(handing.claim.message, handing.part)
        except ValueError:
            self._pace.settle(handing.permit, 0)
        else:
            self._begun = handing
            self._hand(handing.claim)

    def _comes_after(self, later: Claim, earlier: Claim) -> bool:
        """Whether it has to stay behind the other one."""
        order = self._lane.order
        return order == "mailbox" or (order == "device" and later.message.device == earlier.message.device)

    # The sender

    def _refused_sender(self, message: QueuedMessage) -> Standing | None:
        """How its sender stands, where the provider has refused it and it is too early to ask again."""
        standing = self._lane.senders.get(fold(message.sender))
        if standing is None or standing.until <= self._dispatcher.clock():
            return None
        return standing if message.asked_again_at <= standing.at else None

    def _as_refused(self, message: QueuedMessage, standing: Standing) -> Result:
        """Not tried: others of its sender were refused a moment ago."""
        now, recipients = self._dispatcher.clock(), message.recipients
        result = postponed(message, recipients, standing.answer, standing.cause, now, 0.0, spent=0, kind="waiting")
        return _until(result, standing.until)

    def _learn_sender(self, message: QueuedMessage, result: Result) -> tuple[Result, Learnt | None]:
        """What an attempt says of the sender, where that is news; mail of a refused one waits longer each time."""
        mailbox, address = self._mailbox, fold(message.sender)
        if not result.sender or mailbox is None:
            return result, None
        if result.sender == "allowed":
            return result, self._allowed(mailbox, address)
        address = refused_address(result.answer, address, mailbox)
        learnt = self._refused(address, result)
        return _until(result, self._lane.senders[address].until), learnt if address else None

    def _allowed(self, mailbox: Mailbox, address: str) -> Learnt | None:
        standing = self._lane.senders.get(address)
        if standing is not None and not standing.refusals:
            return None
        self._lane.senders[address] = Standing()
        if standing is None and address in ("", fold(mailbox.account)):
            return None
        return Learnt(address, "allowed", "", self._dispatcher.clock())

    def _refused(self, address: str, result: Result) -> Learnt | None:
        """Refusals over several connections, or of messages begun before it was known, are one refusal."""
        now, before = self._dispatcher.clock(), self._lane.senders.get(address, Standing())
        if before.until > now:
            return None
        pause = _pause_after(before.refusals + 1)
        self._lane.senders[address] = Standing(before.refusals + 1, now, now + pause, result.answer, result.cause)
        log.warning("sender refused", mailbox=self._mailbox_id, sender=address, answer=result.answer)
        return Learnt(address, "refused", result.answer, now)

    # The pace

    async def _keep_pace(self) -> None:
        """Wait until a message may be begun; one worker of the account does. Raises UsedUp, _Rests."""
        pace, account = self._pace, self.account
        pace.check_day(self._dispatcher.clock())
        if pace.begins_at(self._dispatcher.clock()) <= self._dispatcher.clock():
            return
        if account.paced:
            raise _Rests
        account.paced = True
        try:
            await self._until_begins(pace)
        finally:
            account.paced = False

    async def _until_begins(self, pace: Pace) -> None:
        since = now = self._dispatcher.clock()
        while (begins := pace.begins_at(now)) > now:
            if self._resting or self._has_to_yield:
                raise _Rests
            if now - since > IDLE:
                self._drop_session()
            await self._dispatcher.pause(min(begins - now, LOOK_AGAIN))
            now = self._dispatcher.clock()

    async def _until_allowed_again(self, used: UsedUp) -> bool:
        """The day's allowance is used up: everything waits, with that as the cause, and spends nothing."""
        await self._settle()
        now, claims, lane = self._dispatcher.clock(), tuple(self._claims), self._lane
        self._claims.clear()
        lane.held_until, lane.waits_for = used.until, used.cause

        async def work(tx: Transaction) -> None:
            for mine in claims:
                await messages.give_back(tx, mine, now)
            await messages.postpone(tx, self._mailbox_id, now, used.until, used.cause)

        await self._ledger.write(work, long=True)
        log.warning("mail waits", mailbox=self._mailbox_id, why=used.cause)
        return False

    # The connection

    async def _ready_session(self) -> SmtpSession:
        """The open connection, or a new one. Raises NoToken, UpstreamFailed."""
        if self._session is not None and self._serves(self._session):
            return self._session
        self._drop_session()
        self._generation = self._lane.generation
        try:
            session = await self._new_session()
        except UpstreamFailed as failed:
            await self._note(failure("smtp", failed, self._family()))
            raise
        self._session = session
        self._lane.connected += 1
        await self._note(Proof("smtp", "proved"))
        return session

    def _serves(self, session: SmtpSession) -> bool:
        """Whether another message may go over it."""
        if self._begun is not None:
            return not session.engine.closed
        return session.usable and self._generation == self._lane.generation and not self._has_had_its_day(session, 0)

    def _has_had_its_day(self, session: SmtpSession, under_way: int) -> bool:
        most = self._pace.allowance.messages_per_connection
        if most and session.messages + under_way >= most:
            return True
        return self._dispatcher.clock() - session.opened_at > AGE

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
            await self._ledger.write(
                lambda tx: tokens.set_result(tx, mailbox_id, "smtp", proof.verdict, now, answer, cause)
            )

    async def _way(self, refused_serial: int | None = None) -> Way:
        mailbox = self._mailbox
        if mailbox is None:
            raise NoToken("The mailbox is no longer there.", temporary=False)
        return await self._dispatcher.credentials.way(mailbox, "smtp", refused_serial=refused_serial)

    async def _open(self, way: Way) -> SmtpSession:
        mailbox = self._mailbox
        session = await open_smtp(
            way.endpoint,
            way.login,
            hostname=self._dispatcher.hostname,
            ca_file=way.ca_file,
            timeout=mailbox.settings.timeout if mailbox else 30.0,
            chunking=self._lane.chunking,
        )
        session.opened_at = self._dispatcher.clock()
        return session

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        begun, self._begun = self._begun, None
        if begun is not None:
            self._pace.settle(begun.permit, 0)
        if session is not None:
            self._lane.connected -= 1
            session.close()

    # What came of it

    async def _parts(self, message: QueuedMessage) -> AsyncGenerator[bytes]:
        store = self._dispatcher.store
        yield store.sealer.open(message.body, f"message:{message.id}")
        if message.pieces:
            async with contextlib.aclosing(store.spool.read(message.id, message.pieces)) as pieces:
                async for piece in pieces:
                    yield piece

    def _last_words(self, envelope: EnvelopeAnswered, verdict: Reply | None) -> list[Said]:
        """What was said last about each recipient: its own refusal, else DATA's, else the verdict on the message."""
        final = self._said(verdict or envelope.data or envelope.mail)
        sender_taken = envelope.mail.accepted
        return [
            final if reply.accepted else replace(self._said(reply), own=sender_taken) for reply in envelope.recipients
        ]

    def _said(self, reply: Reply) -> Said:
        entry = None if reply.accepted else explain_smtp(self._family(), reply.code, reply.enhanced, reply.text)
        if entry is None:
            return Said(reply.code, str(reply))
        return Said(reply.code, str(reply), entry.class_, entry.meaning, of_sender=entry.about == "sender")

    def _family(self) -> Family:
        mailbox = self._mailbox
        provider = self._dispatcher.directory.now.provider_of(mailbox) if mailbox else None
        return provider.family if provider else "any"

    def _network(self, message: QueuedMessage, failed: UpstreamFailed, *, spent: int, hold: bool) -> Result:
        now = self._dispatcher.clock()
        cause = self._cause(failed)
        kind = "outcome unknown" if failed.unknown else "delayed"
        chance = random.random()  # noqa: S311 - spreads retries
        result = postponed(
            message, message.recipients, failed.text, cause, now, chance, spent=spent, hold=hold, kind=kind
        )
        throttled = failed.reply is not None and self._said(failed.reply).concern is Concern.THROTTLE
        return replace(result, throttled=throttled, taken=len(message.waiting) if failed.unknown else 0)

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
            self._rest(result, self._dispatcher.clock())
            await self._write(claim, result)
            return False
        await self._settle()
        now, claims = self._dispatcher.clock(), tuple(self._claims)
        self._claims.clear()

        async def work(tx: Transaction) -> None:
            for mine in claims:
                await messages.give_back(tx, mine, now)
            await messages.park(tx, self._mailbox_id, now, problem.sentence)

        await self._ledger.write(work, long=True)
        log.warning("mail parked", mailbox=self._mailbox_id, why=problem.sentence)
        return False

    async def _write(self, claim: Claim, result: Result, learnt: Learnt | None = None) -> None:
        """The outcome, with it that messages are handed over next, and a claim on some more. Unless it was sent, wait.

        Raises _NotOurs.
        """
        if result.goes_on_at is not None:
            await self._write_part(claim, result, result.goes_on_at, learnt)
            return
        self._start, self._gravest = 0, None
        self._watch_speed()
        held_back = self._held_back(claim, result)
        for ended in (claim, *held_back):
            self._claims.remove(ended)
            self._handing.pop(ended.message.id, None)
        self._unwritten[claim.message.id] = claim
        outcome = self._outcome(claim, result, learnt, held_back)
        self._ledger.add(outcome, lambda _: self._finished(claim.message, result))
        self._hand_ahead()
        self._claim_ahead()
        if result.state is not MessageState.SENT:
            await self._settle()

    def _outcome(
        self, claim: Claim, result: Result, learnt: Learnt | None, held_back: list[Claim]
    ) -> Callable[[Transaction], Coroutine[Any, Any, None]]:
        async def work(tx: Transaction) -> None:
            await self._finish(tx, claim, result)
            if learnt is not None:
                await senders.learn(tx, self._mailbox_id, learnt)
            for other in held_back:
                await messages.give_back(tx, other, self._dispatcher.clock())

        return work

    def _watch_speed(self) -> None:
        """Nothing is handed over ahead where a commit takes no longer than a message."""
        before, self._answered_at = self._answered_at, self._dispatcher.clock()
        if self._answered_at - before > FAST:
            self._ahead = 0

    def _claim_ahead(self) -> None:
        if len(self._claims) <= FARTHEST and not self._claiming_ahead and not self._resting:
            self._claiming_ahead = True
            self._ledger.add(self._claiming(), self._take_ahead)

    def _take_ahead(self, claims: list[Claim]) -> None:
        self._claiming_ahead = False
        self._take(claims)

    async def _write_part(self, claim: Claim, result: Result, goes_on_at: int, learnt: Learnt | None) -> None:
        """What became of some recipients; the next step asks about others. Raises _NotOurs."""
        now = self._dispatcher.clock()

        async def work(tx: Transaction) -> bool:
            if learnt is not None:
                await senders.learn(tx, self._mailbox_id, learnt)
            return await messages.progress(
                tx, claim, now, result.recipients, answer=result.answer, taken=result.taken, mixed=result.mixed
            )

        await self._settle()
        if not await self._ledger.write(work):
            raise _NotOurs
        self._handing.pop(claim.message.id, None)
        self._handed.discard(claim.message.id)
        if result.fits:
            self._lane.most_recipients = result.fits
        self._claims[0] = Claim(replace(claim.message, recipients=result.recipients), claim.epoch)
        self._start, self._gravest = goes_on_at, result.gravest

    def _held_back(self, claim: Claim, result: Result) -> list[Claim]:
        """What has to wait until this message is done, where an order is kept."""
        if result.state is not MessageState.QUEUED or not self._lane.order:
            return []
        return [other for other in self._claims if other is not claim and self._comes_after(other, claim)]

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
            next_at=self._not_before(result.next_at) if result.next_at else 0.0,
            spent=result.spent,
            taken=result.taken,
            mixed=result.mixed,
        )

    def _finished(self, message: QueuedMessage, result: Result) -> Coroutine[Any, Any, None] | None:
        del self._unwritten[message.id]
        self._handed.discard(message.id)
        sent = result.state is MessageState.SENT
        tell = log.debug if sent else log.info
        tell(result.kind, message=message.id, mailbox=self._mailbox_id, answer=result.answer)
        return self._dispatcher.store.spool.remove(message.id) if sent and message.pieces else None

    def _rest(self, result: Result, now: float) -> None:
        """A refusal that concerns the mailbox lets it rest, longer each time; a success ends that.

        Connections that are refused at the same time are one refusal. Of the pace all mailboxes of the account rest.
        """
        if result.throttled:
            self._pace.slow_down(now)
        elif result.hold and self._lane.held_until <= now:
            self._hold(now)
        elif not result.hold:
            self._lane.holds = 0

    def _hold(self, now: float) -> None:
        self._lane.holds += 1
        self._lane.held_until = now + _pause_after(self._lane.holds)


def _pause_after(times: int) -> float:
    return min(HOLD_AT_FIRST * 2.0 ** min(times - 1, 10), HOLD_AT_MOST)


def _until(result: Result, until: float) -> Result:
    """Not sooner, where it is to be tried again."""
    return replace(result, next_at=until) if result.state is MessageState.QUEUED else result


def _check_login(reply: Reply) -> None:
    """Over a connection that was logged in some time ago. Raises UpstreamFailed."""
    if reply.code in LOGIN_IS_OVER:
        raise UpstreamFailed("login", str(reply), reply=reply)
