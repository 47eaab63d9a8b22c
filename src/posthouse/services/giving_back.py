"""Forgetting tokens and grants: first here, so that nobody can use them any more, then at the provider.

What is to be given back is a row from the transaction that forgets it until the provider has taken it, so that
neither a crash nor a provider that is away leaves a living token behind.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import structlog

from posthouse.model.outcome import Refused
from posthouse.model.token import Grant, Token, TokenState
from posthouse.oauth.revoke import Revoked
from posthouse.problems import ProblemError
from posthouse.services.clock import Clock
from posthouse.services.refusals import problem_of
from posthouse.services.sign_in import Registration, SignIn
from posthouse.store import configuration, events, leaving, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.ids import new_id
from posthouse.store.leaving import Leaving
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

RETIRED_LIFE = 7 * 86_400.0
"""Seconds a grant that was replaced is kept, so that one can go back to it."""
LONGEST_TRY = 30 * 86_400.0
"""Seconds for which it is tried to give a grant back, where it does not end sooner by itself."""
PATIENCE = 10.0
"""Seconds for one attempt: a person may be waiting for what comes of it."""
TURN = 60.0
"""Seconds for which whoever gives a grant back has it to itself."""
LONGEST_PAUSE = 6 * 3600.0
AT_ONCE = 20
"""Attempts that are made beside each other."""
LOOK_AFTER = 15.0

UNREADABLE = "What was stored of it cannot be opened: it was sealed with a key that is not here."
APP_GONE = "The app registration that it was given to is no longer there."

log = structlog.get_logger("giving back")

How = Literal["nothing", "revoked", "kept", "impossible", "waiting"]
_ORDER: tuple[How, ...] = ("nothing", "revoked", "kept", "impossible", "waiting")


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What became of consents at the provider.

    `kept`: another one of the same person is held here, and would end with it. `impossible`: the provider has no door
    for it; `page` is where the person can end it. `waiting`: it is tried again. `why`: what the provider answered, and
    what that means. `retry_after`: seconds that the provider asks for.
    """

    how: How = "nothing"
    why: str = ""
    page: str = ""
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class GivingBack:
    store: Store
    sign_in: SignIn
    clock: Clock

    async def forget(
        self, tx: Transaction, app_id: str, grants: Iterable[Grant], *, later: bool = False
    ) -> list[Leaving]:
        """To be called in the transaction that takes grants out of use, and `revoke` after it; `later`: it is left to
        `run`, as nobody should wait for it."""
        now = self.clock()
        forgotten = [_leaving(app_id, grant, now, now if later else now + TURN) for grant in grants]
        for one in forgotten:
            await leaving.add(tx, self.store.sealer, one)
        return forgotten

    async def revoke(self, forgotten: Iterable[Leaving]) -> GivenBack:
        """Give grants back that are forgotten here already; the outcome that needs attention most."""
        outcomes = await asyncio.gather(*(self._give_back(one) for one in forgotten))
        return max(outcomes, key=lambda outcome: _ORDER.index(outcome.how), default=GivenBack())

    async def _give_back(self, one: Leaving) -> GivenBack:
        """What can never be given back is forgotten, the rest is tried again."""
        try:
            outcome = await self._revoke(one)
        except (ProblemError, Unsealable) as cause:
            outcome = GivenBack("waiting", str(cause))
        if outcome.how != "waiting":
            await self.store.database.write(lambda tx: leaving.remove(tx, one.id))
            return outcome
        pause = max(min(TURN * 2**one.attempts, LONGEST_PAUSE), outcome.retry_after)
        until = self.clock() + pause
        if await self.store.database.write(lambda tx: leaving.postpone(tx, one, outcome.why, until)):
            log.warning("grant not given back yet", grant=one.id, cause=outcome.why, seconds=round(pause))
        return outcome

    async def _revoke(self, one: Leaving) -> GivenBack:
        """Only to the provider that it is from. Not while another consent of the same person to the same app is held:
        at Google, and not there alone, the end of one is the end of all. Raises ProblemError, Unsealable.
        """
        if None in self.sign_in.described(one.app_id):
            return GivenBack("impossible", APP_GONE)
        registration = await self.sign_in.registration(one.app_id)
        if not isinstance(registration, Registration):
            return GivenBack("waiting", str(problem_of(registration, "any", "revoke").problems[0]))
        if one.given_to not in ("", registration.name):
            return GivenBack("impossible", APP_GONE)
        provider = registration.provider
        if await self.store.database.read(lambda tx: leaving.is_held_beside(tx, one)):
            return GivenBack("kept", page=provider.account_url)
        outcome = await self.sign_in.revoke(registration, one.secret, deadline=PATIENCE)
        if outcome is None:
            return GivenBack("impossible", page=provider.account_url)
        if isinstance(outcome, Revoked):
            return GivenBack("revoked")
        why = str(problem_of(outcome, provider.family, "revoke").problems[0])[:900]
        if isinstance(outcome, Refused):
            final = outcome.error == "unsupported_token_type"
            return GivenBack("impossible" if final else "waiting", why, provider.account_url)
        return GivenBack("waiting", why, provider.account_url, outcome.retry_after or 0.0)

    async def delete_token(self, token_id: str) -> GivenBack:
        """Forget what a token holds and give it back where that can be done."""
        now, held = self.clock(), False

        async def work(tx: Transaction) -> list[Leaving]:
            nonlocal held
            token = await tokens.get_for_change(tx, token_id)
            held = token is not None and (token.serving_grant or token.pending_grant) is not None
            if token is None:
                return []
            taken = await tokens.take_grants(tx, self.store.sealer, token_id)
            await tokens.point(tx, token, serving=None, pending=None, pinned=None)
            await tokens.set_state(tx, token_id, TokenState.NOT_ACQUIRED, now)
            return await self.forget(tx, token.app_id, taken)

        given = await self.revoke(await self.store.database.write(work))
        return GivenBack("impossible", UNREADABLE) if held and given.how == "nothing" else given

    async def sweep(self) -> int:
        """Grants that have been out of service for a week, and tokens that no mailbox uses any more; how many."""
        before = self.clock() - RETIRED_LIFE
        retired = await self.store.database.read(lambda tx: tokens.retired(tx, before))
        for grant_id, token_id in retired:
            await self._forget_retired(grant_id, token_id)
        removed = await self.remove_unused()
        await self.try_again()
        return len(retired) + removed

    async def run(self) -> None:
        """Try again what could not be given back, until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.try_again()
            await asyncio.sleep(LOOK_AFTER)

    async def try_again(self) -> int:
        """Give back what is due; how many attempts that were."""
        now = self.clock()
        if lost := await self.store.database.write(lambda tx: leaving.forget(tx, now)):
            log.error("grants were never given back", count=lost)
        due = await self.store.database.write(
            lambda tx: leaving.take_due(tx, self.store.sealer, now, now + TURN, AT_ONCE)
        )
        await self.revoke(due)
        return len(due)

    async def _forget_retired(self, grant_id: str, token_id: str) -> None:
        async def work(tx: Transaction) -> None:
            token = await tokens.get_for_change(tx, token_id)
            if token is None or grant_id in (token.serving_grant, token.pending_grant):
                return
            taken = await tokens.take_grant(tx, self.store.sealer, grant_id)
            await self.forget(tx, token.app_id, [taken] if taken else [], later=True)

        await self.store.database.write(work)

    async def remove_unused(self) -> int:
        """Forget tokens that mailboxes have left for good, with all that they hold; how many."""
        now = self.clock()
        unused = await self.store.database.read(lambda tx: _unused(tx, now))
        return await self.store.database.write(self._remove_unused) if unused else 0

    async def _remove_unused(self, tx: Transaction) -> int:
        # Whoever is about to use one of them again comes before us, or sees that the configuration has changed.
        await events.bump(tx, "configuration")
        unused = await _unused(tx, self.clock())
        for token in unused:
            taken = await tokens.take_grants(tx, self.store.sealer, token.id)
            await tokens.set_state(tx, token.id, TokenState.NOT_ACQUIRED, self.clock())
            await tokens.remove(tx, token.id)
            await self.forget(tx, token.app_id, taken, later=True)
        return len(unused)


def _leaving(app_id: str, grant: Grant, now: float, next_at: float) -> Leaving:
    ends_at = now + LONGEST_TRY
    if grant.refresh_token is None:
        ends_at = min(ends_at, grant.access_expires_at)
    elif grant.latest_end:
        ends_at = min(ends_at, grant.latest_end)
    return Leaving(
        id=new_id("lg"),
        app_id=app_id,
        token_id=grant.token_id,
        issuer=grant.issuer,
        subject=grant.subject,
        since=now,
        secret=grant.refresh_token or grant.access_token,
        given_to=grant.given_to,
        ends_at=ends_at,
        next_at=next_at,
    )


async def _unused(tx: Transaction, now: float) -> list[Token]:
    """The whole configuration is read only where there may be any."""
    found = await tokens.not_shared(tx)
    if not found:
        return []
    used: set[str] = set()
    for mailbox in (await configuration.load(tx)).mailboxes.values():
        used |= mailbox.tokens_in_use(now)
    return [token for token in found if token.id not in used]
