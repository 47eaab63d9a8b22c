"""Forgetting tokens and grants: first here, so that nobody can use them any more, then at the provider.

What is to be given back is a row from the transaction that forgets it until the provider has taken it, so that
neither a crash nor a provider that is away leaves a living token behind.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from posthouse.model.outcome import Unreachable
from posthouse.model.token import Grant, Token, TokenState
from posthouse.oauth.revoke import Revoked
from posthouse.problems import ProblemError
from posthouse.services.clock import Clock
from posthouse.services.sign_in import Registration, SignIn
from posthouse.store import configuration, events, leaving, tokens
from posthouse.store.database import Transaction
from posthouse.store.leaving import Leaving
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

RETIRED_LIFE = 7 * 86_400.0
"""Seconds a grant that was replaced is kept, so that one can go back to it."""
LONGEST_TRY = 30 * 86_400.0
"""Seconds for which it is tried to give a grant back."""

log = structlog.get_logger("giving back")


@dataclass(frozen=True, slots=True)
class GivingBack:
    store: Store
    sign_in: SignIn
    clock: Clock

    async def forget(self, tx: Transaction, app_id: str, grants: Iterable[Grant]) -> list[Leaving]:
        """To be called in the transaction that takes grants out of use, and `revoke` after it."""
        return [await leaving.add(tx, self.store.sealer, app_id, grant, self.clock()) for grant in grants]

    async def revoke(self, forgotten: Iterable[Leaving]) -> bool:
        """Give grants back that are forgotten here already; True when the provider has taken all of them."""
        taken = [await self._give_back(one) for one in forgotten]
        return bool(taken) and all(taken)

    async def _give_back(self, one: Leaving) -> bool:
        """Whether the provider has taken it. What can never be given back is forgotten, the rest is tried again."""
        try:
            given = await self._revoke(one)
        except (ProblemError, Unsealable) as cause:
            log.warning("grant not given back yet", grant=one.id, cause=str(cause))
            return False
        if given is not None:
            await self.store.database.write(lambda tx: leaving.remove(tx, one.id))
        return bool(given)

    async def _revoke(self, one: Leaving) -> bool | None:
        """Whether it was given back; None where it can be tried again.

        Only to the provider that it is from. Not while another consent of the same person to the same app is held:
        at Google, and not there alone, the end of one is the end of all. Raises ProblemError, Unsealable.
        """
        registration = await self.sign_in.registration(one.app_id)
        if isinstance(registration, Unreachable):
            return None
        if not isinstance(registration, Registration) or one.given_to not in ("", registration.name):
            return False
        if await self.store.database.read(lambda tx: leaving.is_held_beside(tx, one)):
            return False
        outcome = await self.sign_in.revoke(registration, one.secret)
        return isinstance(outcome, Revoked) if isinstance(outcome, Revoked | None) else None

    async def delete_token(self, token_id: str) -> bool:
        """Forget what a token holds and give it back where that can be done. True when the provider took it."""
        now = self.clock()

        async def work(tx: Transaction) -> list[Leaving]:
            token = await tokens.get_for_change(tx, token_id)
            if token is None:
                return []
            taken = await tokens.take_grants(tx, self.store.sealer, token_id)
            await tokens.point(tx, token, serving=None, pending=None, pinned=None)
            await tokens.set_state(tx, token_id, TokenState.NOT_ACQUIRED, now)
            return await self.forget(tx, token.app_id, taken)

        return await self.revoke(await self.store.database.write(work))

    async def sweep(self) -> int:
        """Grants that have been out of service for a week, and tokens that no mailbox uses any more; how many.

        What could not be given back before is tried again.
        """
        await self._try_again()
        before = self.clock() - RETIRED_LIFE
        retired = await self.store.database.read(lambda tx: tokens.retired(tx, before))
        for grant_id, token_id in retired:
            await self._give_back_retired(grant_id, token_id)
        return len(retired) + await self.remove_unused()

    async def _try_again(self) -> None:
        if lost := await self.store.database.write(lambda tx: leaving.forget(tx, self.clock() - LONGEST_TRY)):
            log.error("grants were never given back", count=lost)
        await self.revoke(await self.store.database.read(lambda tx: leaving.waiting(tx, self.store.sealer)))

    async def _give_back_retired(self, grant_id: str, token_id: str) -> None:
        async def work(tx: Transaction) -> list[Leaving]:
            token = await tokens.get_for_change(tx, token_id)
            if token is None or grant_id in (token.serving_grant, token.pending_grant):
                return []
            taken = await tokens.take_grant(tx, self.store.sealer, grant_id)
            return await self.forget(tx, token.app_id, [taken] if taken else [])

        await self.revoke(await self.store.database.write(work))

    async def remove_unused(self) -> int:
        """Tokens that mailboxes have left for good, with all that they hold; how many."""
        now = self.clock()
        unused = await self.store.database.read(lambda tx: _unused(tx, now))
        removed = await self.store.database.write(self._remove_unused) if unused else []
        for forgotten in removed:
            await self.revoke(forgotten)
        return len(removed)

    async def _remove_unused(self, tx: Transaction) -> list[list[Leaving]]:
        # Whoever is about to use one of them again comes before us, or sees that the configuration has changed.
        await events.bump(tx, "configuration")
        removed = []
        for token in await _unused(tx, self.clock()):
            taken = await tokens.take_grants(tx, self.store.sealer, token.id)
            await tokens.set_state(tx, token.id, TokenState.NOT_ACQUIRED, self.clock())
            await tokens.remove(tx, token.id)
            removed.append(await self.forget(tx, token.app_id, taken))
        return removed


async def _unused(tx: Transaction, now: float) -> list[Token]:
    """The whole configuration is read only where there may be any."""
    found = await tokens.not_shared(tx)
    if not found:
        return []
    used: set[str] = set()
    for mailbox in (await configuration.load(tx)).mailboxes.values():
        used |= mailbox.tokens_in_use(now)
    return [token for token in found if token.id not in used]
