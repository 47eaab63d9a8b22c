"""The connection test: first the token is renewed, then each protocol is tried by itself.

It says what each step has proved and never more: a login that was taken is not yet a message that was sent.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import structlog

from posthouse.model.mailbox import Mailbox, Protocol, Purpose, purpose_of
from posthouse.model.outcome import Refused, Unreachable
from posthouse.model.token import TokenState
from posthouse.providers.catalogue import explain_token_error
from posthouse.providers.provider import Family
from posthouse.services.clock import Clock
from posthouse.services.credentials import Credentials
from posthouse.services.directory import Directory
from posthouse.services.proving import Proof, prove
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.store import tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.ids import new_id
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable

STEP_TIME = 45.0
"""Seconds for each step."""
RUNS = 100
"""Tests that are remembered; the oldest is forgotten first."""
StepName = Literal["token", "smtp", "imap", "pop3"]
StepState = Literal["passed", "failed", "skipped", "unused"]
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

log = structlog.get_logger("connection test")


@dataclass(frozen=True, slots=True)
class Step:
    """`sentence` says what is proved or why nothing was tried; `answer` is the server's, the rest the catalogue's.

    `temporary`: waiting may help. `seconds` it took.
    """

    name: StepName
    state: StepState
    sentence: str = ""
    answer: str = ""
    cause: str = ""
    fix: str = ""
    temporary: bool = False
    seconds: float = 0.0


@dataclass(slots=True)
class Run:
    """A test that goes on in the background, as far as it has come."""

    id: str
    mailbox_id: str
    steps: list[Step] = field(default_factory=list)
    ended: bool = False


@dataclass(slots=True)
class ConnectionTest:
    store: Store
    directory: Directory
    keeper: TokenKeeper
    credentials: Credentials
    clock: Clock
    hostname: str
    _runs: dict[str, Run] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, mailbox: Mailbox) -> Run:
        """Test in the background; one that goes on for this mailbox already is joined."""
        for known in self._runs.values():
            if known.mailbox_id == mailbox.id and not known.ended:
                return known
        while len(self._runs) >= RUNS:
            self._runs.pop(next(iter(self._runs)))
        run = Run(new_id("ct"), mailbox.id)
        self._runs[run.id] = run
        task = asyncio.create_task(self._follow(run, mailbox))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def find(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, run: Run, mailbox: Mailbox) -> None:
        try:
            async for step in self.steps(mailbox):
                run.steps.append(step)
        except (DatabaseUnavailable, CommitUnknown, Unsealable) as cause:
            log.error("connection test broken off", mailbox=mailbox.address, cause=str(cause))
        finally:
            run.ended = True

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
            yield _timed(step, asyncio.get_running_loop().time() - began)

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
        outcome = why.outcome or _remembered(why.sentence)
        entry = explain_token_error(self._family(mailbox), outcome) if outcome is not None else None
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
        return Step(protocol, "failed", "", proof.answer, proof.cause, proof.fix, temporary)

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


def verdict(steps: Collection[Step]) -> Literal["passed", "failed", "temporary"]:
    """What all of them come to; `temporary` where nothing but waiting may help."""
    failed = [step for step in steps if step.state == "failed"]
    if not failed:
        return "passed"
    return "temporary" if all(step.temporary for step in failed) else "failed"


def _timed(step: Step, seconds: float) -> Step:
    return replace(step, seconds=round(seconds, 3))


def _remembered(detail: str) -> Refused | Unreachable | None:
    """What the provider said when the token became invalid, for the catalogue: its error, then its description."""
    error, _, description = detail.partition(" ")
    if not re.fullmatch(r"[a-z_]{3,60}", error):
        return None
    return Refused(error, description=description, codes=tuple(re.findall(r"AADSTS\d{1,9}", detail))[:10])
