"""Keeps tokens fresh: one refresh at a time for each grant, over all processes and nodes, and never loses an answer.

Before a request leaves, lease and intent are committed; the answer is written over the serial it was made with,
before anything uses the new access token. What cannot be written stays here and is written again until it can be.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from posthouse.model.outcome import Granted, Reason, Refused, Unreachable, Verdict
from posthouse.model.token import Grant, Token, TokenState, pause_after_failures, refresh_at
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.refresh import refresh
from posthouse.providers.provider import scopes_for
from posthouse.secret import Secret
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.sign_in import DEADLINE, Registration, SignIn
from posthouse.store import tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.opening import Store

LEASE = 3 * DEADLINE
"""Seconds a refresh lease is held: a request may take a third of it."""
LEEWAY = 60.0
"""An access token with less life than this is refreshed before it is handed out."""
AT_ONCE = 20
POLL = 1.0
PATIENCE = 45.0
"""Seconds to wait for a refresh that another process is doing."""

log = structlog.get_logger("token_keeper")


@dataclass(frozen=True, slots=True)
class AccessToken:
    secret: Secret
    expires_at: float
    grant_id: str
    serial: int


class NoToken(Exception):
    """There is no access token. `temporary`: waiting may help; otherwise a person has to do something."""

    def __init__(self, sentence: str, *, temporary: bool, state: TokenState = TokenState.ACQUIRED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.temporary = temporary
        self.state = state


@dataclass(slots=True)
class _Unsaved:
    """An answer that could not be written yet."""

    grant: Grant
    granted: Granted
    got_at: float


@dataclass(slots=True)
class TokenKeeper:
    """`node_id` stays the same when this process is started again, so it takes over its own leases at once."""

    store: Store
    sign_in: SignIn
    clock: Clock
    node_id: str
    _cache: dict[str, AccessToken] = field(default_factory=dict)
    _busy: dict[str, asyncio.Lock] = field(default_factory=dict)
    _unsaved: dict[str, _Unsaved] = field(default_factory=dict)

    async def access_token(self, token_id: str, *, newer_than: int | None = None) -> AccessToken:
        """A token that lives for another minute at least. `newer_than`: the serial of one that was refused.

        Raises NoToken, DatabaseUnavailable.
        """
        kept = self._cache.get(token_id)
        if kept is not None and self._is_good(kept.expires_at) and kept.serial != newer_than:
            return kept
        grant = await self._serving_grant(token_id)
        if self._is_good(grant.access_expires_at) and grant.serial != newer_than:
            return self._remember(token_id, grant)
        try:
            return self._remember(token_id, await self.refresh(grant))
        except NoToken as problem:
            alive = grant.access_expires_at > self.clock() and newer_than is None
            if problem.temporary and alive:
                return _access(grant)
            raise

    def forget(self, token_id: str) -> None:
        """The token has changed; what was known of it is void."""
        self._cache.pop(token_id, None)

    async def refresh(self, grant: Grant) -> Grant:
        """The grant with a serial above the given one, refreshed by us or by somebody else. Raises NoToken."""
        lock = self._busy.setdefault(grant.id, asyncio.Lock())
        try:
            async with lock:
                return await self._refresh_or_wait(grant)
        finally:
            if not lock.locked():
                self._busy.pop(grant.id, None)

    async def _refresh_or_wait(self, seen: Grant) -> Grant:
        give_up = self.clock() + PATIENCE
        pause = 0.02
        while True:
            current = await self._load(seen.id)
            if current is None:
                raise NoToken("The token was deleted.", temporary=False, state=TokenState.NOT_ACQUIRED)
            if current.serial != seen.serial:
                return current
            lease = await self._lease(current)
            if lease is not None:
                return await self._send(lease, answer_was_lost=current.answer_was_lost)
            if self.clock() > give_up:
                raise NoToken("Another process is refreshing the token and has not finished.", temporary=True)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _load(self, grant_id: str) -> Grant | None:
        return await self.store.database.read(lambda tx: tokens.get_grant(tx, self.store.sealer, grant_id))

    async def _lease(self, grant: Grant) -> tokens.Lease | None:
        owner = self.node_id
        return await self.store.database.write(
            lambda tx: tokens.lease(tx, self.store.sealer, grant.id, grant.serial, owner, LEASE, owner)
        )

    async def _send(self, lease: tokens.Lease, *, answer_was_lost: bool) -> Grant:
        grant = lease.grant
        outcome = await self._ask(grant)
        match outcome:
            case Granted():
                return await self._keep(grant, outcome)
            case Refused():
                raise await self._refused(grant, outcome, answer_was_lost=answer_was_lost)
            case Unreachable():
                raise await self._postponed(grant, outcome)

    async def _ask(self, grant: Grant) -> Granted | Refused | Unreachable:
        token = await self.store.database.read(lambda tx: tokens.get(tx, grant.token_id))
        if token is None or grant.refresh_token is None:
            return Refused("invalid_grant", description="There is no refresh token.")
        registration = await self.sign_in.registration(token.app_id)
        if not isinstance(registration, Registration):
            return registration
        now = as_datetime(self.clock())
        scopes = _scopes(registration, grant)
        request = refresh(registration.endpoints, registration.client, grant.refresh_token, now, scopes=scopes)
        answer = await self.sign_in.ask(request, registration.provider)
        if isinstance(answer, Unreachable):
            return answer
        return read_token_answer(answer, hide=request.secrets())

    async def _keep(self, grant: Grant, granted: Granted) -> Grant:
        """Write the answer down before anyone uses it; when the disk refuses, hold it here and go on trying."""
        unsaved = _Unsaved(grant, granted, self.clock())
        try:
            written = await self._write(unsaved)
        except (DatabaseUnavailable, CommitUnknown) as cause:
            self._unsaved[grant.id] = unsaved
            log.error("token answer not yet written", grant=grant.id, cause=str(cause))
            raise NoToken("The new token could not be written to the database yet.", temporary=True) from None
        if not written:
            await self._give_back(grant, granted)
            raise NoToken("The token was deleted while it was being refreshed.", temporary=True)
        fresh = await self._load(grant.id)
        if fresh is None:
            raise NoToken("The token was deleted.", temporary=False, state=TokenState.NOT_ACQUIRED)
        log.info(
            "token refreshed", token=grant.token_id, serial=fresh.serial, rotated=granted.refresh_token is not None
        )
        return fresh

    async def _write(self, unsaved: _Unsaved) -> bool:
        grant, granted = unsaved.grant, unsaved.granted
        expires_at = unsaved.got_at + granted.lifetime.total_seconds()

        async def work(tx: Transaction) -> bool:
            written = await tokens.rotate(
                tx,
                self.store.sealer,
                grant,
                access_token=granted.access_token,
                refresh_token=granted.refresh_token,
                scopes=granted.scopes,
                now=unsaved.got_at,
                expires_at=expires_at,
                next_refresh_at=refresh_at(unsaved.got_at, expires_at),
            )
            token = await tokens.get(tx, grant.token_id)
            if written and token is not None and token.serving_grant == grant.id:
                await tokens.set_state(tx, token.id, TokenState.ACQUIRED, self.clock())
            return written

        return await self.store.database.write(work)

    async def _give_back(self, grant: Grant, granted: Granted) -> None:
        """Nobody holds this grant any more: the new token must not live on at the provider."""
        current = await self._load(grant.id)
        if current is not None:
            return
        token = await self.store.database.read(lambda tx: tokens.get(tx, grant.token_id))
        registration = await self.sign_in.registration(token.app_id) if token else None
        if isinstance(registration, Registration):
            await self.sign_in.revoke(
                registration, granted.refresh_token or grant.refresh_token or granted.access_token
            )

    async def _refused(self, grant: Grant, refused: Refused, *, answer_was_lost: bool) -> NoToken:
        """A clear no: the token is invalid, for a reason. The grant itself is kept until a person decides."""
        dead = refused.verdict is Verdict.GRANT_DEAD
        reason = Reason.ANSWER_LOST if dead and answer_was_lost else refused.reason
        detail = _detail(refused)

        async def work(tx: Transaction) -> None:
            token = await tokens.get(tx, grant.token_id)
            current = await tokens.get_grant(tx, self.store.sealer, grant.id)
            if token is None or current is None or current.serial != grant.serial:
                return
            await tokens.postpone(tx, grant, detail, 0.0, answered=True)
            if token.serving_grant == grant.id:
                await tokens.set_state(tx, token.id, TokenState.INVALID, self.clock(), str(reason), detail)

        await self.store.database.write(work)
        self.forget(grant.token_id)
        log.warning("token refused", token=grant.token_id, error=refused.error, reason=str(reason))
        return NoToken(detail, temporary=False, state=TokenState.INVALID)

    async def _postponed(self, grant: Grant, outcome: Unreachable) -> NoToken:
        pause = max(pause_after_failures(grant.failures + 1), outcome.retry_after or 0.0)
        answered = not outcome.outcome_unknown
        next_at = self.clock() + min(pause, 3600.0)
        await self.store.database.write(lambda tx: tokens.postpone(tx, grant, outcome.what, next_at, answered=answered))
        log.warning("token refresh postponed", token=grant.token_id, what=outcome.what, seconds=round(pause))
        return NoToken(f"The sign-in server gave no answer: {outcome.what}.", temporary=True)

    async def _serving_grant(self, token_id: str) -> Grant:
        async def work(tx: Transaction) -> tuple[Token | None, Grant | None]:
            token = await tokens.get(tx, token_id)
            if token is None or token.serving_grant is None:
                return token, None
            return token, await tokens.get_grant(tx, self.store.sealer, token.serving_grant)

        token, grant = await self.store.database.read(work)
        if token is None or grant is None:
            state = token.state if token else TokenState.NOT_ACQUIRED
            raise NoToken("There is no token yet.", temporary=False, state=state)
        if token.state is TokenState.INVALID:
            raise NoToken(token.detail or "The token is invalid.", temporary=False, state=token.state)
        return grant

    def _is_good(self, expires_at: float) -> bool:
        return expires_at - self.clock() > LEEWAY

    def _remember(self, token_id: str, grant: Grant) -> AccessToken:
        self._cache[token_id] = _access(grant)
        return self._cache[token_id]

    async def run(self) -> None:
        """Refresh in the background what will be needed, until cancelled."""
        working: dict[str, asyncio.Task[None]] = {}
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self._write_unsaved()
                self._start(await self._due(), working)
            await asyncio.sleep(POLL)

    async def _due(self) -> list[str]:
        now = self.clock()
        return await self.store.database.read(lambda tx: tokens.due(tx, now, AT_ONCE))

    def _start(self, due: Iterable[str], working: dict[str, "asyncio.Task[None]"]) -> None:
        for grant_id in due:
            if grant_id not in working and len(working) < AT_ONCE:
                task = working[grant_id] = asyncio.create_task(self._refresh_in_background(grant_id))
                task.add_done_callback(lambda _, known=grant_id: working.pop(known, None))  # type: ignore[misc]

    async def _refresh_in_background(self, grant_id: str) -> None:
        with contextlib.suppress(NoToken, DatabaseUnavailable, CommitUnknown):
            grant = await self._load(grant_id)
            if grant is not None and grant.next_refresh_at <= self.clock():
                await self.refresh(grant)

    async def retry_refused_clients(self) -> None:
        """After app registrations have changed: tokens that were refused for their sake get another chance."""
        for token in await self.store.database.read(tokens.everything):
            if token.state is TokenState.INVALID and token.reason == Reason.CLIENT_CHANGED and token.serving_grant:
                with contextlib.suppress(NoToken, DatabaseUnavailable, CommitUnknown):
                    grant = await self._load(token.serving_grant)
                    if grant is not None:
                        await self.refresh(grant)

    async def _write_unsaved(self) -> None:
        for grant_id, unsaved in list(self._unsaved.items()):
            await self._write(unsaved)
            del self._unsaved[grant_id]

    async def finish(self, patience: float = 30.0) -> bool:
        """Before stopping: write what is not written. False when that did not succeed in `patience` seconds."""
        give_up = self.clock() + patience
        while self._unsaved and self.clock() < give_up:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self._write_unsaved()
            if self._unsaved:
                await asyncio.sleep(0.2)
        return not self._unsaved


def _access(grant: Grant) -> AccessToken:
    return AccessToken(grant.access_token, grant.access_expires_at, grant.id, grant.serial)


def _scopes(registration: Registration, grant: Grant) -> tuple[str, ...]:
    if not registration.provider.scope_in_refresh:
        return ()
    resources = [scope for scope in grant.scopes if "://" in scope]
    return tuple(resources) or scopes_for(registration.provider, ("smtp", "imap"))


def _detail(refused: Refused) -> str:
    words = " ".join(word for word in (refused.error, refused.description) if word)
    return words[:500]
