"""Keeps tokens fresh: one refresh at a time for each grant, over all processes and nodes, and never loses an answer.

Before a request leaves, lease and intent are committed; the answer is written over the serial it was made with,
before anything uses the new access token. What cannot be written stays here and is written again until it can be.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from posthouse.model.outcome import Granted, Reason, Refused, Unreachable, Verdict
from posthouse.model.token import Grant, TokenState, pause_after_failures, refresh_at, spread_of
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.message import Request
from posthouse.oauth.refresh import refresh
from posthouse.problems import ProblemError, place_of
from posthouse.providers.provider import Provider, scopes_for
from posthouse.secret import Secret
from posthouse.services import app_only
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.giving_back import GivingBack
from posthouse.services.sign_in import DEADLINE, Registration, SignIn
from posthouse.services.turns import Turns
from posthouse.store import tokens
from posthouse.store.among import AT_ONCE
from posthouse.store.configuration import StoredApp
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

LEASE = 3 * DEADLINE
"""Seconds a refresh lease is held: a request may take a third of it."""
PROMPT = 5.0
"""Seconds from asking for a lease to the last moment at which anything is sent with it. After PROMPT + DEADLINE its
request is over, whatever became of the process that held it."""
LEEWAY = 60.0
"""An access token with less life than this, or than half of its whole life, is refreshed before it is handed out."""
SELDOM = 30.0
"""Seconds between refreshes in the background, at least, however short the provider makes its tokens."""
LONGEST_PAUSE = 3600.0
LOOK = 200
"""Grants that one look for what is due finds at most; after so many new ones the next look comes at once."""
POLL = 1.0
KEPT = 2000
"""Access tokens that are kept at hand; for any other one the database is asked."""
PATIENCE = 45.0
"""Seconds to wait for a refresh that another process is doing."""
NOT_WRITTEN = "The new token could not be written to the database yet."
SEALED = "The stored token cannot be opened: it was sealed with a key that is not here."

log = structlog.get_logger("token_keeper")


@dataclass(frozen=True, slots=True)
class AccessToken:
    secret: Secret
    expires_at: float
    grant_id: str
    serial: int
    app_only: bool


class NoToken(Exception):
    """There is no access token. `temporary`: waiting may help; otherwise a person has to do something.

    `outcome` is what the provider answered, where it was asked.
    """

    def __init__(
        self,
        sentence: str,
        *,
        temporary: bool,
        state: TokenState = TokenState.ACQUIRED,
        outcome: Refused | Unreachable | None = None,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.temporary = temporary
        self.state = state
        self.outcome = outcome


@dataclass(slots=True)
class _Unsaved:
    """An answer that is not written yet, and whom to give it back to when nobody wants it any more."""

    grant: Grant
    granted: Granted
    registration: Registration
    got_at: float
    told: bool = False


Prepared = Registration | Refused | Unreachable


@dataclass(slots=True)
class TokenKeeper:
    """`node_id` stays the same when this process is started again, so it takes over its own leases at once."""

    store: Store
    sign_in: SignIn
    clock: Clock
    node_id: str
    _cache: dict[str, Grant] = field(default_factory=dict)
    _refreshing: dict[str, asyncio.Task[Grant]] = field(default_factory=dict)
    _unsaved: dict[str, _Unsaved] = field(default_factory=dict)
    _unreadable: set[str] = field(default_factory=set)
    _tried: dict[str, tuple[StoredApp | None, Provider | None]] = field(default_factory=dict)
    _changes: int = 1
    _changes_seen: int = 0
    _stopping: bool = False

    async def access_token(self, token_id: str, *, newer_than: int | None = None) -> AccessToken:
        """A token that lives for another minute, where the provider lets tokens live that long.

        `newer_than`: the serial of one that was refused. Raises NoToken, DatabaseUnavailable.
        """
        kept = self._cache.get(token_id)
        if kept is not None and self._is_good(kept) and kept.serial != newer_than:
            return _access(kept)
        grant = await self._serving_grant(token_id)
        if self._is_good(grant) and grant.serial != newer_than:
            self._keep_at_hand(token_id, grant)
            return _access(grant)
        return await self._newer(grant, refused=grant.serial == newer_than)

    def _keep_at_hand(self, token_id: str, grant: Grant) -> None:
        self._cache[token_id] = grant
        if len(self._cache) > KEPT:
            del self._cache[next(iter(self._cache))]

    async def _newer(self, grant: Grant, *, refused: bool) -> AccessToken:
        alive = grant.access_expires_at > self.clock()
        if alive and not grant.renewable:
            return _access(grant)
        try:
            self._keep_pause(grant)
            return _access(await self.refresh(grant))
        except NoToken as problem:
            if problem.temporary and alive and not refused:
                return _access(grant)
            raise

    def _keep_pause(self, grant: Grant) -> None:
        """After a failure the next question is asked in the background, when its time has come. Raises NoToken."""
        if grant.failures and grant.next_refresh_at > self.clock():
            raise NoToken(f"The sign-in server gave no answer: {grant.last_error}.", temporary=True)

    def _is_good(self, grant: Grant) -> bool:
        """Not where it comes from the future either: then the clock was put back, and its end says nothing."""
        now = self.clock()
        leeway = min(LEEWAY, (grant.access_expires_at - grant.refreshed_at) / 2)
        return grant.access_expires_at - now > leeway and grant.refreshed_at <= now + LEEWAY

    def forget(self, token_id: str) -> None:
        """The token has changed; what was known of it is void."""
        self._cache.pop(token_id, None)

    async def fresh(self, grant: Grant) -> Grant:
        """A grant, which need not serve, with an access token that is good for a while. Raises NoToken."""
        alive = grant.access_expires_at > self.clock()
        if self._is_good(grant) or (alive and not grant.renewable):
            return grant
        self._keep_pause(grant)
        return await self.refresh(grant)

    async def refresh(self, grant: Grant) -> Grant:
        """The grant with a serial above the given one, refreshed by us or by somebody else. Raises NoToken.

        Whoever stops waiting does not stop the refresh: its answer is written all the same.
        """
        while True:
            fresh = await asyncio.shield(self._refreshing.get(grant.id) or self._begin(grant))
            if fresh.serial > grant.serial:
                return fresh

    def _begin(self, grant: Grant) -> "asyncio.Task[Grant]":
        task = self._refreshing[grant.id] = asyncio.create_task(self._refresh_or_wait(grant))
        task.add_done_callback(partial(self._ended, grant.id))
        return task

    def _ended(self, grant_id: str, task: "asyncio.Task[Grant]") -> None:
        """Called before whoever waits: nobody is handed what was before the refresh, which may have ended with it."""
        self._refreshing.pop(grant_id, None)
        if not task.cancelled() and task.exception() is None:
            self.forget(task.result().token_id)

    async def _refresh_or_wait(self, seen: Grant) -> Grant:
        give_up = self.clock() + PATIENCE
        pause = 0.02
        await self._write_unsaved_of(seen)
        prepared = await self._prepare(seen)
        while True:
            asked_at = asyncio.get_running_loop().time()
            lease = await self._lease(seen)
            if lease is not None:
                return await self._send(lease.grant, prepared, asked_at)
            current = await self._load(seen.id)
            if current.serial != seen.serial:
                return current
            if current.failures > seen.failures:
                raise NoToken(f"The sign-in server gave no answer: {current.last_error}.", temporary=True)
            if self.clock() > give_up:
                raise NoToken("Another process is refreshing the token and has not finished.", temporary=True)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)
            await self._write_unsaved_of(seen)

    async def _write_unsaved_of(self, grant: Grant) -> None:
        """What was sent before must not be sent again: its answer is here. Raises NoToken where it has to stay here."""
        if self._stopping:
            raise NoToken("The gateway is being stopped.", temporary=True)
        if (unsaved := self._unsaved.get(grant.id)) is not None:
            await self._save(unsaved)

    async def _load(self, grant_id: str) -> Grant:
        """Raises NoToken."""
        try:
            found = await self.store.database.read(lambda tx: tokens.get_grant(tx, self.store.sealer, grant_id))
        except Unsealable:
            self._cannot_read(grant_id)
            raise NoToken(SEALED, temporary=True) from None
        if found is None:
            raise NoToken("The token was deleted.", temporary=False, state=TokenState.NOT_ACQUIRED)
        return found

    def _cannot_read(self, grant_id: str) -> None:
        if grant_id not in self._unreadable:
            self._unreadable.add(grant_id)
            log.error("token cannot be opened", grant=grant_id)

    async def _lease(self, grant: Grant) -> tokens.Lease | None:
        owner = self.node_id
        return await self.store.database.write(
            lambda tx: tokens.lease(tx, self.store.sealer, grant, owner, LEASE, PROMPT + DEADLINE)
        )

    async def _send(self, grant: Grant, prepared: Prepared, asked_at: float) -> Grant:
        outcome = await self._ask_safely(grant, prepared, asked_at)
        match outcome:
            case _Unsaved():
                return await self._keep(outcome)
            case Refused():
                raise await self._refused(grant, outcome)
            case Unreachable():
                sentence = f"The sign-in server gave no answer: {outcome.what}."
                raise await self._postponed(grant, outcome, sentence)

    async def _ask_safely(self, grant: Grant, prepared: Prepared, asked_at: float) -> _Unsaved | Refused | Unreachable:
        """A fault of ours is a failure like others, after which nobody knows what the provider has done."""
        try:
            return await self._ask(grant, prepared, asked_at)
        except Exception as cause:
            return _fallen_down(grant, cause, outcome_unknown=True)

    async def _prepare(self, grant: Grant) -> Prepared:
        """Who asks, and where. That may take a discovery, so it comes before the lease."""
        if not grant.renewable:
            return Refused("expired_token", description="The provider gave nothing to renew it with.")
        try:
            return await self._registration_of(grant)
        except (ProblemError, Unsealable) as cause:
            return Unreachable(str(cause), ours=True)
        except (DatabaseUnavailable, CommitUnknown):
            raise
        except Exception as cause:
            return _fallen_down(grant, cause, outcome_unknown=False)

    async def _ask(self, grant: Grant, prepared: Prepared, asked_at: float) -> _Unsaved | Refused | Unreachable:
        """Nothing is awaited between the look at the clock and the sending."""
        if not isinstance(prepared, Registration):
            return prepared
        try:
            request = self._request(prepared, grant)
        except (ProblemError, Unsealable) as cause:
            return Unreachable(str(cause), ours=True)
        if asyncio.get_running_loop().time() - asked_at > PROMPT:
            return Unreachable("the database took too long", ours=True)
        answer = await self.sign_in.ask(request, prepared.provider)
        outcome = answer if isinstance(answer, Unreachable) else read_token_answer(answer, hide=request.secrets())
        return _Unsaved(grant, outcome, prepared, self.clock()) if isinstance(outcome, Granted) else outcome

    def _request(self, registration: Registration, grant: Grant) -> Request:
        """Raises ProblemError."""
        now = as_datetime(self.clock())
        if grant.refresh_token is None:
            return app_only.request(registration, grant.app_only, now)
        scopes = _scopes(registration, grant)
        return refresh(registration.endpoints, registration.client, grant.refresh_token, now, scopes=scopes)

    async def _registration_of(self, grant: Grant) -> Prepared:
        """Raises ProblemError, Unsealable."""
        token = await self.store.database.read(lambda tx: tokens.get(tx, grant.token_id))
        app_id = token.app_id if token else ""
        self._tried[grant.token_id] = self.sign_in.described(app_id)
        found = await self.sign_in.registration(app_id)
        if isinstance(found, Registration) and grant.given_to not in ("", found.name):
            return Refused("unauthorized_client", description="The consent was given to another app registration.")
        return found

    async def _keep(self, unsaved: _Unsaved) -> Grant:
        """Write the answer down before anyone uses it; when the disk refuses, hold it here and go on trying."""
        grant = unsaved.grant
        self._unsaved[grant.id] = unsaved
        fresh = await self._save(unsaved) or await self._load(grant.id)
        self._tried.pop(grant.token_id, None)
        rotated = unsaved.granted.refresh_token is not None
        log.info("token refreshed", token=grant.token_id, serial=fresh.serial, rotated=rotated)
        return fresh

    async def _save(self, unsaved: _Unsaved) -> Grant | None:
        """The grant as it is written; None where it is gone or has moved on.

        Raises NoToken where it could not be written; then it stays here.
        """
        grant = unsaved.grant
        try:
            written = await self._write(unsaved)
            if written is None:
                await self._give_back(unsaved)
        except (DatabaseUnavailable, CommitUnknown) as cause:
            if not unsaved.told:
                unsaved.told = True
                log.error("token answer not yet written", grant=grant.id, cause=str(cause))
            raise NoToken(NOT_WRITTEN, temporary=True) from None
        except Exception as cause:
            log.error("token answer not yet written", grant=grant.id, kind=type(cause).__name__, where=place_of(cause))
            raise NoToken(NOT_WRITTEN, temporary=True) from None
        if self._unsaved.get(grant.id) is unsaved:
            del self._unsaved[grant.id]
        return written

    async def _write(self, unsaved: _Unsaved) -> Grant | None:
        grant, granted = unsaved.grant, unsaved.granted
        expires_at = unsaved.got_at + granted.lifetime.total_seconds()
        spread = spread_of(grant.id, grant.serial)

        async def work(tx: Transaction) -> Grant | None:
            written = await tokens.rotate(
                tx,
                self.store.sealer,
                grant,
                access_token=granted.access_token,
                refresh_token=granted.refresh_token,
                scopes=granted.scopes,
                now=unsaved.got_at,
                expires_at=expires_at,
                next_refresh_at=max(refresh_at(unsaved.got_at, expires_at, spread), unsaved.got_at + SELDOM),
                refresh_ends_at=granted.refresh_ends_at(unsaved.got_at),
            )
            token = await tokens.get(tx, grant.token_id)
            if token is None or not written or token.serving_grant != grant.id:
                return written
            if token.state is not TokenState.ACQUIRED:
                await tokens.set_state(tx, token.id, TokenState.ACQUIRED, self.clock())
            return written

        return await self.store.database.write(work)

    async def _give_back(self, unsaved: _Unsaved) -> None:
        """Where nobody holds this grant any more the new token must not live on at the provider."""
        grant, granted = unsaved.grant, unsaved.granted
        try:
            await self._load(grant.id)
        except NoToken as problem:
            if problem.temporary:
                return
            fresh = replace(
                grant,
                access_token=granted.access_token,
                refresh_token=granted.refresh_token or grant.refresh_token,
                access_expires_at=unsaved.got_at + granted.lifetime.total_seconds(),
            )
            app_id, giving_back = unsaved.registration.app.id, GivingBack(self.store, self.sign_in, self.clock)
            forgotten = await self.store.database.write(lambda tx: giving_back.forget(tx, app_id, [fresh]))
            await giving_back.revoke(forgotten)

    async def _refused(self, grant: Grant, refused: Refused) -> NoToken:
        """A clear no: the token is invalid, for a reason. The grant itself is kept until a person decides.

        Where only the request was refused the token serves to its end, and the request is made again.
        """
        detail, again = _detail(refused), refused.verdict is Verdict.REQUEST_REFUSED
        if again and grant.access_expires_at > self.clock():
            answer = Unreachable(detail, status=refused.status)
            return await self._postponed(grant, answer, f"The sign-in server refused: {detail}.")
        dead = refused.verdict is Verdict.GRANT_DEAD
        reason = Reason.ANSWER_LOST if dead and grant.answer_was_lost else refused.reason
        await self._invalidate(grant, reason, detail, self.clock() + LONGEST_PAUSE if again else 0.0)
        self.forget(grant.token_id)
        log.warning("token refused", token=grant.token_id, error=refused.error, reason=str(reason))
        return NoToken(detail, temporary=False, state=TokenState.INVALID, outcome=refused)

    async def _invalidate(self, grant: Grant, reason: Reason, detail: str, next_at: float) -> None:
        async def work(tx: Transaction) -> None:
            token = await tokens.get(tx, grant.token_id)
            current = await tokens.get_grant(tx, self.store.sealer, grant.id)
            if token is None or current is None or current.serial != grant.serial:
                return
            await tokens.postpone(tx, grant, detail, next_at, answered=True)
            if token.serving_grant == grant.id:
                await tokens.set_state(tx, token.id, TokenState.INVALID, self.clock(), str(reason), detail)

        await self.store.database.write(work)

    async def _postponed(self, grant: Grant, outcome: Unreachable, sentence: str) -> NoToken:
        pause = max(pause_after_failures(grant.failures + 1), outcome.retry_after or 0.0)
        answered = not outcome.outcome_unknown
        next_at = self.clock() + min(pause, LONGEST_PAUSE)
        await self.store.database.write(lambda tx: tokens.postpone(tx, grant, outcome.what, next_at, answered=answered))
        log.warning("token refresh postponed", token=grant.token_id, what=outcome.what, seconds=round(pause))
        return NoToken(sentence, temporary=True, outcome=outcome)

    async def _serving_grant(self, token_id: str) -> Grant:
        token = await self.store.database.read(lambda tx: tokens.get(tx, token_id))
        if token is None or token.serving_grant is None:
            state = token.state if token else TokenState.NOT_ACQUIRED
            raise NoToken("There is no token yet.", temporary=False, state=state)
        if token.state is TokenState.INVALID:
            raise NoToken(token.detail or "The token is invalid.", temporary=False, state=token.state)
        return await self._load(token.serving_grant)

    # In the background

    async def run(self) -> None:
        """Refresh in the background what will be needed, until cancelled."""
        turns = Turns(self._refresh_in_background)
        try:
            while True:
                begun = 0
                with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                    await self._write_unsaved()
                    await self._look_at_registrations()
                    begun = self._start(await self._due(turns), turns)
                if begun < LOOK:
                    await turns.room(POLL)
        finally:
            turns.cancel()

    def registrations_changed(self) -> None:
        """App registrations, providers or keys may have changed: what did not work for their sake is tried again."""
        self._changes += 1
        self._unreadable.clear()

    async def _look_at_registrations(self) -> None:
        changes = self._changes
        if changes != self._changes_seen:
            await self.retry_refused_clients()
            self._changes_seen = changes

    async def retry_refused_clients(self) -> None:
        """Tokens that were refused for the sake of their registration are due again where that has changed since."""
        now = self.clock()
        for token in await self.store.database.read(lambda tx: tokens.invalid_for(tx, Reason.CLIENT_CHANGED)):
            serving, described = token.serving_grant, self.sign_in.described(token.app_id)
            if serving and self._tried.get(token.id) != described:
                await self.store.database.write(lambda tx, of=serving: tokens.wake(tx, of, now))  # type: ignore[misc]
                self._tried[token.id] = described

    async def _due(self, turns: Turns) -> list[tuple[str, str]]:
        """Grants with their app registrations; nothing of providers of which enough is at hand."""
        now, apart = self.clock(), turns.full()[:AT_ONCE]
        at_most = LOOK + turns.at_hand(without=apart) + len(self._unreadable)
        return await self.store.database.read(lambda tx: tokens.due(tx, now, at_most, self.node_id, apart=apart))

    def _start(self, due: Iterable[tuple[str, str]], turns: Turns) -> int:
        """Let these be refreshed, each when it has its turn; how many are new."""
        others = self._unreadable | self._unsaved.keys()
        begun = sum(
            turns.add(self._provider_of(app_id), grant_id) for grant_id, app_id in due if grant_id not in others
        )
        turns.begin()
        return begun

    def _provider_of(self, app_id: str) -> str:
        app = self.sign_in.described(app_id)[0]
        return app.provider if app else ""

    async def _refresh_in_background(self, grant_id: str) -> bool | None:
        """Whether the provider answered; None where it was not asked."""
        try:
            grant = await self._load(grant_id)
            if grant.next_refresh_at <= self.clock():
                await self.refresh(grant)
                return True
        except NoToken as problem:
            return _has_answered(problem.outcome)
        except (DatabaseUnavailable, CommitUnknown):
            await asyncio.sleep(POLL)
        return None

    async def _write_unsaved(self) -> None:
        for unsaved in list(self._unsaved.values()):
            with contextlib.suppress(NoToken):
                await self._save(unsaved)

    async def finish(self, patience: float = 30.0) -> bool:
        """Before stopping: wait for answers that are under way, and write what is not written.

        False when that did not succeed in `patience` seconds.
        """
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                if self._refreshing:
                    await asyncio.wait(list(self._refreshing.values()))
                while self._unsaved:
                    await self._write_unsaved()
                    await asyncio.sleep(0.2 if self._unsaved else 0)
        return not self._unsaved and not self._refreshing


def _fallen_down(grant: Grant, cause: Exception, *, outcome_unknown: bool) -> Unreachable:
    log.error("token refresh fell down", grant=grant.id, kind=type(cause).__name__, where=place_of(cause))
    return Unreachable("a fault of the gateway's own, see its log", outcome_unknown=outcome_unknown, ours=True)


def _has_answered(outcome: Refused | Unreachable | None) -> bool | None:
    if outcome is None or (isinstance(outcome, Unreachable) and outcome.ours):
        return None
    return not outcome.is_silence


def _access(grant: Grant) -> AccessToken:
    return AccessToken(grant.access_token, grant.access_expires_at, grant.id, grant.serial, bool(grant.app_only))


def _scopes(registration: Registration, grant: Grant) -> tuple[str, ...]:
    """Microsoft does not name offline_access among what it has granted, and gives no new refresh token without it."""
    provider = registration.provider
    if not provider.scope_in_refresh:
        return ()
    resources = [scope for scope in grant.scopes if "://" in scope]
    again = [scope for scope in provider.extra_scopes if scope == "offline_access"]
    return tuple((*resources, *again) if resources else scopes_for(provider, ("smtp", "imap")))


def _detail(refused: Refused) -> str:
    words = " ".join(word for word in (refused.error, refused.description) if word)
    return words[:500]
