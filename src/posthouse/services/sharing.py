"""Giving a setting a token of its own, letting it share again, and signing a mailbox in as somebody else.

Whatever is wanted, what serves goes on until the other token has proved itself. A token that serves others already
is tried at once, and every few minutes until it works.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec.structs
import structlog

from posthouse.model.mailbox import Mailbox, MailboxSettings, Purpose, User, Way, fold
from posthouse.model.token import Grant, TokenState
from posthouse.problems import ProblemError, problem
from posthouse.services import switching
from posthouse.services.clock import Clock
from posthouse.services.directory import Directory
from posthouse.services.sign_in import Registration, SignIn
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.services.trial import Outcome, Trial
from posthouse.store import configuration, events, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

AGAIN = 300.0
"""Seconds until a token that serves is tried again for a setting that waits for it."""
LOOK = 5.0

log = structlog.get_logger("sharing")


Wanted = Callable[[Mailbox], tuple[Way, MailboxSettings]]
"""The way and the settings that a mailbox is to have, from what it has."""


@dataclass(slots=True)
class Sharing:
    store: Store
    directory: Directory
    sign_in: SignIn
    keeper: TokenKeeper
    trial: Trial
    clock: Clock
    _tried: dict[tuple[str, str], float] = field(default_factory=dict)

    async def choose(
        self, mailbox: Mailbox, purpose: Purpose, share: Literal["shared", "own"], *, seen: int | None = None
    ) -> Mailbox:
        """Give a setting a token of its own, or let it share the mailbox's again; the mailbox afterwards.

        `seen`: the version that the person had in front of them. Raises ProblemError.
        """
        _refuse_password(mailbox)
        self._refuse_unused(mailbox, purpose)

        def wanted(present: Mailbox) -> tuple[Way, MailboxSettings]:
            settings = msgspec.structs.replace(present.settings, **{f"{purpose}_token": share})
            return present.settings.switch or present.way, settings

        own = share == "own"
        return await self._change(mailbox, seen, wanted, lambda present: present.settings.owns(purpose) is own)

    def _refuse_unused(self, mailbox: Mailbox, purpose: Purpose) -> None:
        """Raises ProblemError."""
        if purpose in self.directory.now.purposes(mailbox) and mailbox.settings.protocol(purpose):
            return
        hint = "" if purpose != "notices" else 'Name it in posthouse.toml: [notices] mailbox = "…".'
        sentence = f"{mailbox.address} is not used for {purpose}."
        raise problem("token.unused", sentence, hint)

    async def switch_account(self, mailbox: Mailbox, account: str, *, seen: int | None = None) -> Mailbox:
        """Let the mailbox sign in as `account`, once that has proved itself. Raises ProblemError."""
        _refuse_password(mailbox)

        def wanted(present: Mailbox) -> tuple[Way, MailboxSettings]:
            way = present.settings.switch or present.way
            return msgspec.structs.replace(way, account=fold(account)), present.settings

        return await self._change(mailbox, seen, wanted, lambda present: present.switched.account == fold(account))

    async def _change(
        self, mailbox: Mailbox, seen: int | None, wanted: Wanted, is_so: Callable[[Mailbox], bool]
    ) -> Mailbox:
        async def work(tx: Transaction) -> None:
            await events.bump(tx, "configuration")
            present = (await configuration.load(tx)).mailboxes.get(mailbox.id)
            if present is None:
                raise problem("mailbox.gone", f"{mailbox.address} is no longer there.")
            if is_so(present):
                return
            if seen is not None and present.version != seen:
                raise _changed(present.address)
            way, settings = wanted(present)
            choice = await switching.choose(
                tx, present, present.address, way, settings, has_password=present.has_password, now=self.clock()
            )
            await configuration.save(tx, "mailbox", present.id, **choice.fitted(settings, present))

        await self.store.database.write(work)
        await self.directory.refresh()
        await self.settle(mailbox.id)
        log.info("token of a setting chosen", mailbox=mailbox.address)
        return self.directory.now.mailboxes.get(mailbox.id, mailbox)

    # Tokens that serve already are tried for those who wait for them

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.settle()
            await asyncio.sleep(LOOK)

    async def settle(self, mailbox_id: str = "") -> None:
        """For one mailbox now, else for those that were not tried in the last minutes."""
        waiting = {(token_id, user.mailbox.id): user for token_id, user in self.directory.now.waiting}
        self._tried = {key: at for key, at in self._tried.items() if key in waiting}
        for key, user in waiting.items():
            token_id, now = key[0], self.clock()
            if mailbox_id in ("", user.mailbox.id) and (mailbox_id or self._tried.get(key, 0.0) + AGAIN <= now):
                self._tried[key] = now
                with contextlib.suppress(NoToken, ProblemError, Unsealable):
                    await self._try(token_id, user)
        await self.directory.refresh()

    async def _try(self, token_id: str, user: User) -> None:
        """Raises NoToken, ProblemError, Unsealable."""
        grant = await self._serving(token_id)
        registration = await self.sign_in.registration(user.mailbox.app_id or "")
        if grant is None or not isinstance(registration, Registration):
            return
        grant = await self.keeper.fresh(grant)
        outcome = await self.trial.of([user], token_id, registration.provider, grant)
        await self.store.database.write(lambda tx: self._finish(tx, token_id, grant.id, outcome))

    async def _serving(self, token_id: str) -> Grant | None:
        async def work(tx: Transaction) -> Grant | None:
            token = await tokens.get(tx, token_id)
            if token is None or token.state is not TokenState.ACQUIRED or token.serving_grant is None:
                return None
            return await tokens.get_grant(tx, self.store.sealer, token.serving_grant)

        return await self.store.database.read(work)

    async def _finish(self, tx: Transaction, token_id: str, grant_id: str, outcome: Outcome) -> None:
        """Unless another grant has come to serve meanwhile, of which nothing is proved."""
        token = await tokens.get_for_change(tx, token_id)
        if token is None or token.state is not TokenState.ACQUIRED or token.serving_grant != grant_id:
            return
        await switching.finish_all(tx, token, outcome.works, outcome.kept, self.clock())
        if any(outcome.works.values()):
            await tokens.set_state(tx, token.id, token.state, self.clock(), again=True)


def _refuse_password(mailbox: Mailbox) -> None:
    """Raises ProblemError."""
    if mailbox.switched.app_id is None:
        sentence = f"{mailbox.address} signs in with a password and has no token."
        raise problem("token.password", sentence, "Give the mailbox an app registration first.")


def _changed(address: str) -> ProblemError:
    sentence = f"{address} was changed by somebody else meanwhile."
    return problem("mailbox.changed", sentence, "Look at it again, then choose.")
