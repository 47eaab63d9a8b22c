"""The connection test: first the token is renewed, then each protocol is tried by itself.

It says what each step has proved and never more: a login that was taken is not yet a message that was sent.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from posthouse.model.mailbox import Mailbox, Protocol, Purpose, purpose_of
from posthouse.model.token import TokenState
from posthouse.providers.provider import Family
from posthouse.services.clock import Clock
from posthouse.services.credentials import Credentials
from posthouse.services.directory import Directory
from posthouse.services.proving import Proof, prove
from posthouse.services.refusals import explained, remembered
from posthouse.services.steps import Run, Runs, Step, timed
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.store import tokens
from posthouse.store.database import CommitUnknown
from posthouse.store.opening import Store

STEP_TIME = 45.0
"""Seconds for each step."""
StepName = Literal["token", "smtp", "imap", "pop3"]
STEPS: tuple[StepName, ...] = get_args(StepName)
PROVES = {
    "token": "The provider has renewed the token: the sign-in, its account and the app registration are in order.",
    "smtp": "The server takes the login, and a command after it. That a message may be sent is proved by sending one.",
    "imap": "The server takes the login, and the folder can be opened.",
    "pop3": "The server takes the login, and the messages can be counted.",
}
NOT_RENEWED = "There is a token. The provider gave nothing to renew it with, so this proves nothing about tomorrow."
SIGNS_IN_OTHERWISE = "This mailbox signs in with a password."
NOT_USED = "This mailbox does not use it."
NOTHING_TO_TRY_WITH = "Without a token it cannot be tried."
BLAMED = {
    "name": "Look at the server: the name {host} is not known.",
    "connect": "Look at the port number, then at the server: nothing answers at {host}, port {port}.",
    "time": "Look at the port number and at SSL/TLS: {host}, port {port}, does not answer in time.",
    "tls": "Look at SSL/TLS and at the port number: the encryption with {host}, port {port}, fails.",
    "greeting": "Look at the port number and at SSL/TLS: {host}, port {port}, does not greet as this protocol does.",
    "password": "Look at the user name and the password: {host} does not take {user} with this password.",
    "token": "Look at the user name: {host} does not let {user} in with this token, or not by this protocol.",
    "switch": "Server, port and user name are right: a switch at the provider is off for {user}.",
}
"""Which of server, port, user name or password it was, by where it failed."""
SWITCHES = ("fix_policy", "fix_mailbox_setting", "fix_licence")
"""Classes of the catalogue for what somebody has to turn on."""
NOBODYS_FAULT = ("retry_later", "throttled")


@dataclass(slots=True)
class ConnectionTest:
    store: Store
    directory: Directory
    keeper: TokenKeeper
    credentials: Credentials
    clock: Clock
    hostname: str
    runs: Runs = field(init=False)

    def __post_init__(self) -> None:
        self.runs = Runs(self._of_id)

    def begin(self, mailbox: Mailbox, only: Collection[StepName] = STEPS) -> Run:
        """Test in the background, with the settings as they are."""
        names = tuple(name for name in STEPS if name in only)
        return self.runs.begin(mailbox.id, names, mailbox.version)

    async def _of_id(self, mailbox_id: str, names: tuple[str, ...]) -> AsyncIterator[Step]:
        mailbox = self.directory.now.mailboxes.get(mailbox_id)
        if mailbox is not None:
            async for step in self.steps(mailbox, names if names != STEPS else ()):
                yield step

    async def steps(self, mailbox: Mailbox, only: Collection[str] = ()) -> AsyncIterator[Step]:
        """The steps as they end. `only`: just these; a protocol that is named is tried also where it is not used.

        Raises DatabaseUnavailable, CommitUnknown, Unsealable.
        """
        without: set[str] = set()
        for name in STEPS:
            if only and name not in only:
                continue
            began = asyncio.get_running_loop().time()
            step = await self._step(name, mailbox, without, wanted=name in only)
            yield timed(step, began)

    async def _step(self, name: StepName, mailbox: Mailbox, without: set[str], *, wanted: bool) -> Step:
        """`without` are the tokens that could not be renewed."""
        if name == "token":
            return await self._renew(mailbox, without)
        if name not in mailbox.settings.enabled() and not wanted:
            return Step(name, "unused", NOT_USED)
        if mailbox.for_setting(purpose_of(name)).token_id in without:
            return Step(name, "skipped", NOTHING_TO_TRY_WITH)
        return await self._try(name, mailbox)

    # The token

    async def _renew(self, mailbox: Mailbox, without: set[str]) -> Step:
        """Every token that a setting of the mailbox uses; of several that fail the first is told."""
        steps = []
        for token_id, purpose in self._tokens(mailbox).items():
            step = await self._renew_one(mailbox.for_setting(purpose), token_id)
            if step.state == "failed":
                without.add(token_id)
                step = replace(step, answer=f"{purpose}: {step.answer}") if mailbox.settings.apart else step
            steps.append(step)
        failed = [step for step in steps if step.state == "failed"]
        return next(iter(failed or steps), Step("token", "unused", SIGNS_IN_OTHERWISE))

    def _tokens(self, mailbox: Mailbox) -> dict[str, Purpose]:
        """Each with the first setting that uses it."""
        found: dict[str, Purpose] = {}
        for purpose in self.directory.now.purposes(mailbox):
            seen = mailbox.for_setting(purpose)
            if seen.app_id is not None and seen.token_id is not None:
                found.setdefault(seen.token_id, purpose)
        return found

    async def _renew_one(self, mailbox: Mailbox, token_id: str) -> Step:
        try:
            async with asyncio.timeout(STEP_TIME):
                return await self._renewed(token_id)
        except TimeoutError:
            return Step("token", "failed", answer="the sign-in server did not answer in time", temporary=True)
        except NoToken as why:
            return self._failed(mailbox, why)

    async def _renewed(self, token_id: str) -> Step:
        token = await self.store.database.read(lambda tx: tokens.get(tx, token_id))
        serving = token.serving_grant if token else None
        if serving is None:
            raise NoToken("There is no token yet.", temporary=False, state=TokenState.NOT_ACQUIRED)
        grant = await self.store.database.read(lambda tx: tokens.get_grant(tx, self.store.sealer, serving))
        if grant is None:
            raise NoToken("There is no token yet.", temporary=False, state=TokenState.NOT_ACQUIRED)
        if not grant.renewable:
            await self.keeper.access_token(token_id)
            return Step("token", "passed", NOT_RENEWED)
        await self.keeper.refresh(grant)
        return Step("token", "passed", PROVES["token"])

    def _failed(self, mailbox: Mailbox, why: NoToken) -> Step:
        outcome = why.outcome or remembered(why.sentence)
        entry = explained(outcome, self._family(mailbox)) if outcome is not None else None
        return Step(
            "token",
            "failed",
            answer=why.sentence,
            cause=entry.meaning if entry else "",
            fix=entry.fix if entry else "",
            temporary=why.temporary,
        )

    # The protocols

    async def _try(self, protocol: Protocol, mailbox: Mailbox) -> Step:
        proof = await self._proof(protocol, mailbox)
        if protocol in mailbox.settings.enabled():
            await self._note(mailbox, proof)
        if proof.verdict == "proved":
            return Step(protocol, "passed", PROVES[protocol], proof.answer)
        temporary = proof.verdict == "unreachable"
        return Step(protocol, "failed", self._blame(mailbox, proof), proof.answer, proof.cause, proof.fix, temporary)

    def _blame(self, mailbox: Mailbox, proof: Proof) -> str:
        """Which of the settings it was; empty where it was none of them, or nobody can tell."""
        seen = mailbox.for_setting(purpose_of(proof.protocol))
        endpoint = self.directory.now.endpoint(seen, proof.protocol)
        if endpoint is None or not proof.stage or proof.class_ in NOBODYS_FAULT:
            return ""
        blamed = proof.stage
        if blamed == "login":
            blamed = "switch" if proof.class_ in SWITCHES else "token" if seen.app_id else "password"
        user = self.directory.now.user(seen, proof.protocol)
        return BLAMED.get(blamed, "").format(host=endpoint.host, port=endpoint.port, user=user)

    async def _proof(self, protocol: Protocol, mailbox: Mailbox) -> Proof:
        seen = mailbox.for_setting(purpose_of(protocol))
        try:
            async with asyncio.timeout(STEP_TIME):
                way = await self.credentials.way(mailbox, protocol)
                return await prove(seen, protocol, way, hostname=self.hostname, family=self._family(seen))
        except TimeoutError:
            return Proof(protocol, "unreachable", "the server did not answer in time")
        except NoToken as why:
            return Proof(protocol, "unreachable" if why.temporary else "refused", why.sentence)

    async def _note(self, mailbox: Mailbox, proof: Proof) -> None:
        """As every other trial it shows on the settings."""
        now, cause = self.clock(), " ".join(part for part in (proof.cause, proof.fix) if part)
        with contextlib.suppress(CommitUnknown):
            await self.store.database.write(
                lambda tx: tokens.set_result(tx, mailbox.id, proof.protocol, proof.verdict, now, proof.answer, cause)
            )

    def _family(self, mailbox: Mailbox) -> Family:
        provider = self.directory.now.provider_of(mailbox)
        return provider.family if provider else "any"
