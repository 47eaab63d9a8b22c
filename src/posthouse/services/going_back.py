"""Back to what served before: a switch, or a new consent, can be undone for a week where the old one still lives."""

from dataclasses import dataclass
from typing import Literal

import structlog

from posthouse.model.mailbox import Former, Mailbox, Purpose
from posthouse.model.token import Grant, TokenState
from posthouse.problems import problem
from posthouse.services import switching
from posthouse.services.clock import Clock
from posthouse.services.directory import Directory
from posthouse.services.giving_back import RETIRED_LIFE
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.store import configuration, events, tokens
from posthouse.store.database import Transaction
from posthouse.store.opening import Store

Kind = Literal["account", "password", "consent", "shared", "own"]

log = structlog.get_logger("going back")


@dataclass(frozen=True, slots=True)
class Earlier:
    """`kind`: account (another account or app), password, consent (an older one to the same account), or for a setting
    that changed between them shared and own.

    `who` signed in then; one can go back `until` (seconds since 1970).
    """

    kind: Kind
    who: str
    until: float
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class GoingBack:
    store: Store
    directory: Directory
    keeper: TokenKeeper
    clock: Clock

    async def earlier(self, mailbox: Mailbox, purpose: Purpose | None = None) -> Earlier | None:
        """What one can go back to: first the way before the last switch, else the consent before the last.

        With `purpose` it is that of one setting, which may have had another token than the others.
        """
        return await self.store.database.read(lambda tx: self._earlier(tx, mailbox, purpose, self.clock()))

    async def _earlier(self, tx: Transaction, mailbox: Mailbox, purpose: Purpose | None, now: float) -> Earlier | None:
        former, seen = switching.former_of(mailbox, purpose), mailbox.for_setting(purpose)
        kept = former is not None and former.until > now and former.way != seen.settings.switch
        if former is not None and kept and await switching.serves(tx, former.way, mailbox.has_password):
            return Earlier(_kind(mailbox, former, purpose), former.account, former.until)
        return await self._consent(tx, seen, now) if purpose is None or purpose in mailbox.settings.apart else None

    async def _consent(self, tx: Transaction, mailbox: Mailbox, now: float) -> Earlier | None:
        token = await tokens.get(tx, mailbox.token_id) if mailbox.token_id else None
        if token is None or token.state is not TokenState.ACQUIRED:
            return None
        for grant in await tokens.out_of_service(tx, self.store.sealer, token):
            until = grant.refreshed_at + RETIRED_LIFE
            if grant.subject and until > now:
                return Earlier("consent", grant.person or mailbox.account, until, grant)
        return None

    async def go(self, mailbox: Mailbox, purpose: Purpose | None = None) -> Earlier:
        """Raises ProblemError where there is nothing to go back to, or it lives no more."""
        await self.directory.refresh()
        found = await self.earlier(self.directory.now.mailboxes.get(mailbox.id, mailbox), purpose)
        if found is None:
            raise problem("earlier.none", "There is nothing to go back to.", "Re-authorise instead.")
        if found.grant is not None:
            await self._to_consent(found.grant)
        elif not await self.store.database.write(lambda tx: self._to_way(tx, mailbox.id, purpose)):
            raise _lives_no_more("it was changed or ended meanwhile")
        log.info("went back", mailbox=mailbox.address, kind=found.kind)
        return found

    async def _to_way(self, tx: Transaction, mailbox_id: str, purpose: Purpose | None) -> bool:
        await events.bump(tx, "configuration")
        mailbox = (await configuration.load(tx)).mailboxes.get(mailbox_id)
        return mailbox is not None and await switching.go_back(tx, mailbox, self.clock(), purpose)

    async def _to_consent(self, grant: Grant) -> None:
        """It is renewed before it serves: so it is seen to live."""
        try:
            living = await self.keeper.refresh(grant)
        except NoToken as why:
            raise _lives_no_more(why.sentence) from None
        if not await self.store.database.write(lambda tx: self._point(tx, living)):
            raise _lives_no_more("the token was changed meanwhile")

    async def _point(self, tx: Transaction, grant: Grant) -> bool:
        token = await tokens.get_for_change(tx, grant.token_id)
        held = await tokens.get_grant(tx, self.store.sealer, grant.id)
        if token is None or held is None or token.state is not TokenState.ACQUIRED or not held.subject:
            return False
        pinned = (held.issuer, held.subject)
        await tokens.point(tx, token, serving=held.id, pending=token.pending_grant, pinned=pinned)
        return await tokens.set_state(tx, token.id, TokenState.ACQUIRED, self.clock(), again=True)


def _kind(mailbox: Mailbox, former: Former, purpose: Purpose | None) -> Kind:
    if former.app_id is None:
        return "password"
    if purpose is None or former.account != mailbox.for_setting(purpose).account:
        return "account"
    return "shared" if former.way == mailbox.way else "own"


def _lives_no_more(why: str) -> Exception:
    return problem("earlier.ended", f"The earlier sign-in cannot serve any more: {why}.", "Re-authorise instead.")
