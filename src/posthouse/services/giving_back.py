"""Forgetting tokens and grants: first here, so that nobody can use them any more, then at the provider."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from posthouse.model.token import Grant, Token, TokenState
from posthouse.problems import ProblemError
from posthouse.services.clock import Clock
from posthouse.services.sign_in import Registration, SignIn
from posthouse.store import configuration, events, tokens
from posthouse.store.database import Transaction
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

RETIRED_LIFE = 7 * 86_400.0
"""Seconds a grant that was replaced is kept, so that one can go back to it."""

log = structlog.get_logger("giving back")


@dataclass(frozen=True, slots=True)
class GivingBack:
    store: Store
    sign_in: SignIn
    clock: Clock

    async def revoke(self, app_id: str, grants: Iterable[Grant]) -> bool:
        """Give grants back that are forgotten here already; True when the provider has taken all of them."""
        taken = [await self._revoke(app_id, grant) for grant in grants]
        return bool(taken) and all(taken)

    async def _revoke(self, app_id: str, grant: Grant) -> bool:
        """Only to the provider that it is from."""
        try:
            registration = await self.sign_in.registration(app_id)
            if isinstance(registration, Registration) and grant.given_to in ("", registration.name):
                return await self.sign_in.revoke(registration, grant.refresh_token or grant.access_token)
        except (ProblemError, Unsealable) as cause:
            log.warning("grant not given back", grant=grant.id, cause=str(cause))
        return False

    async def delete_token(self, token_id: str) -> bool:
        """Forget what a token holds and give it back where that can be done. True when the provider took it."""
        now = self.clock()

        async def work(tx: Transaction) -> tuple[str, list[Grant]]:
            token = await tokens.get_for_change(tx, token_id)
            if token is None:
                return "", []
            taken = await tokens.take_grants(tx, self.store.sealer, token_id)
            await tokens.point(tx, token, serving=None, pending=None, pinned=None)
            await tokens.set_state(tx, token_id, TokenState.NOT_ACQUIRED, now)
            return token.app_id, taken

        return await self.revoke(*await self.store.database.write(work))

    async def sweep(self) -> int:
        """Grants that have been out of service for a week, and tokens that no mailbox uses any more; how many."""
        before = self.clock() - RETIRED_LIFE
        retired = await self.store.database.read(lambda tx: tokens.retired(tx, before))
        for grant_id, token_id in retired:
            await self._give_back_retired(grant_id, token_id)
        return len(retired) + await self.remove_unused()

    async def _give_back_retired(self, grant_id: str, token_id: str) -> None:
        async def work(tx: Transaction) -> tuple[str, list[Grant]]:
            token = await tokens.get_for_change(tx, token_id)
            if token is None or grant_id in (token.serving_grant, token.pending_grant):
                return "", []
            taken = await tokens.take_grant(tx, self.store.sealer, grant_id)
            return token.app_id, [taken] if taken else []

        await self.revoke(*await self.store.database.write(work))

    async def remove_unused(self) -> int:
        """Tokens that mailboxes have left for good, with all that they hold; how many."""
        now = self.clock()
        unused = await self.store.database.read(lambda tx: _unused(tx, now))
        removed = await self.store.database.write(self._remove_unused) if unused else []
        for token, taken in removed:
            await self.revoke(token.app_id, taken)
        return len(removed)

    async def _remove_unused(self, tx: Transaction) -> list[tuple[Token, list[Grant]]]:
        # Whoever is about to use one of them again comes before us, or sees that the configuration has changed.
        await events.bump(tx, "configuration")
        removed = []
        for token in await _unused(tx, self.clock()):
            taken = await tokens.take_grants(tx, self.store.sealer, token.id)
            await tokens.set_state(tx, token.id, TokenState.NOT_ACQUIRED, self.clock())
            await tokens.remove(tx, token.id)
            removed.append((token, taken))
        return removed


async def _unused(tx: Transaction, now: float) -> list[Token]:
    used: set[str] = set()
    for mailbox in (await configuration.load(tx)).mailboxes.values():
        used |= mailbox.tokens_in_use(now)
    return [token for token in await tokens.everything(tx) if token.id not in used]
