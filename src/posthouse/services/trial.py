"""Trying a token for every setting that is to use it: what works goes over, what is refused keeps what it has."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from posthouse.model.mailbox import Mailbox, Protocol, Purpose, User
from posthouse.model.token import Grant
from posthouse.providers.provider import Provider
from posthouse.services import switching
from posthouse.services.clock import Clock
from posthouse.services.credentials import Way
from posthouse.services.directory import Directory, Snapshot
from posthouse.services.proving import Proof, prove
from posthouse.services.upstream import Login
from posthouse.store import tokens
from posthouse.store.database import Transaction
from posthouse.store.opening import Store

PROOF_TIME = 45.0
PROOFS_AT_ONCE = 4
Setting = tuple[str, Purpose]
"""Mailbox id and what the setting is for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`proofs` by mailbox id; `works` and `kept` as `switching.finish_all` wants them."""

    proofs: Mapping[str, Sequence[Proof]]
    works: Mapping[str, set[Purpose]]
    kept: Mapping[Setting, str]

    @property
    def made(self) -> list[Proof]:
        return [proof for made in self.proofs.values() for proof in made]


@dataclass(frozen=True, slots=True)
class Trial:
    store: Store
    directory: Directory
    clock: Clock
    hostname: str

    async def of(self, users: Sequence[User], token_id: str, provider: Provider, grant: Grant) -> Outcome:
        """Try `grant`, which serves `token_id` or is to, for `users`; how it went is noted on their settings."""
        snapshot = self.directory.now
        living = await self._living(snapshot, users)
        proofs = await self._proofs(snapshot, users, provider, grant)
        works: dict[str, set[Purpose]] = {user.mailbox.id: set() for user in users}
        kept: dict[Setting, str] = {}
        for user, purpose in _each(users):
            proof = _proof_for(user, purpose, proofs[user.mailbox.id])
            if proof is None or proof.verdict == "proved":
                works[user.mailbox.id].add(purpose)
            elif _stays(snapshot, user, purpose, token_id, proof) and (user.mailbox.id, purpose) in living:
                kept[user.mailbox.id, purpose] = _words(proof)
        await self._note(users, proofs, living)
        return Outcome(proofs, works, kept)

    async def _living(self, snapshot: Snapshot, users: Sequence[User]) -> set[Setting]:
        """Settings that have something that serves them, as far as is known."""

        async def work(tx: Transaction) -> set[Setting]:
            found = set()
            for user in users:
                results = await tokens.results_of(tx, user.mailbox.id)
                mailbox = snapshot.mailboxes.get(user.mailbox.id, user.mailbox)
                for purpose in user.purposes:
                    last = results.get(_kind(user, purpose))
                    refused = last is not None and last.state == "refused"
                    way = mailbox.for_setting(purpose).way
                    if not refused and await switching.serves(tx, way, mailbox.has_password):
                        found.add((mailbox.id, purpose))
            return found

        return await self.store.database.read(work)

    async def _proofs(
        self, snapshot: Snapshot, users: Sequence[User], provider: Provider, grant: Grant
    ) -> dict[str, list[Proof]]:
        turns = asyncio.Semaphore(PROOFS_AT_ONCE)

        async def of(user: User) -> list[Proof]:
            async with turns:
                ways = _ways(snapshot, provider, user, grant)
                return [await self._try(user.mailbox, protocol, way, provider) for protocol, way in ways]

        made = await asyncio.gather(*(of(user) for user in users))
        return {user.mailbox.id: proofs for user, proofs in zip(users, made, strict=True)}

    async def _try(self, mailbox: Mailbox, protocol: Protocol, way: Way, provider: Provider) -> Proof:
        try:
            async with asyncio.timeout(PROOF_TIME):
                return await prove(mailbox, protocol, way, hostname=self.hostname, family=provider.family)
        except TimeoutError:
            return Proof(protocol, "unreachable", "the server did not answer in time")

    async def _note(self, users: Sequence[User], proofs: Mapping[str, Sequence[Proof]], living: set[Setting]) -> None:
        """A failure says nothing about a setting that has something else which serves it."""
        now = self.clock()

        async def work(tx: Transaction) -> None:
            for user, purpose in _each(users):
                proof = _proof_for(user, purpose, proofs[user.mailbox.id])
                if proof and (proof.verdict == "proved" or (user.mailbox.id, purpose) not in living):
                    cause = " ".join(part for part in (proof.cause, proof.fix) if part)
                    kind = _kind(user, purpose)
                    await tokens.set_result(tx, user.mailbox.id, kind, proof.verdict, now, proof.answer, cause)

        await self.store.database.write(work)


def _each(users: Sequence[User]) -> Iterator[tuple[User, Purpose]]:
    return ((user, purpose) for user in users for purpose in user.purposes)


def _stays(snapshot: Snapshot, user: User, purpose: Purpose, token_id: str, proof: Proof) -> bool:
    """What waits for the token goes on waiting; what uses it goes on with the former consent only when refused."""
    present = snapshot.mailboxes.get(user.mailbox.id)
    waits = present is not None and present.for_setting(purpose).token_id != token_id
    return waits or proof.verdict == "refused"


def _proof_for(user: User, purpose: Purpose, made: Sequence[Proof]) -> Proof | None:
    """None where the setting needs none."""
    protocol = user.mailbox.settings.protocol(purpose)
    return next((proof for proof in made if proof.protocol == protocol), None)


def _kind(user: User, purpose: Purpose) -> str:
    """Under which name the result is kept: the gateway's notices have one where their token is not that of sending."""
    alone = purpose == "notices" and "sending" not in user.purposes
    return "notices" if alone else user.mailbox.settings.protocol(purpose) or "smtp"


def _words(proof: Proof) -> str:
    return " ".join(part for part in (proof.answer, proof.cause, proof.fix) if part)[:900]


def _ways(snapshot: Snapshot, provider: Provider, user: User, grant: Grant) -> Iterator[tuple[Protocol, Way]]:
    for protocol in user.protocols():
        endpoint = snapshot.endpoint(user.mailbox, protocol)
        if endpoint is not None:
            name = snapshot.user(user.mailbox, protocol, app_only=bool(grant.app_only))
            login = Login(name, grant.access_token, provider.mechanisms)
            yield protocol, Way(endpoint, login, provider.ca_file, grant.serial)
