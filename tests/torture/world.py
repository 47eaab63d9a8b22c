"""A gateway under load that is killed again and again, and what became of everything that was promised."""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from posthouse.cli.connection import SocketApi
from posthouse.problems import ProblemError
from posthouse.sandbox.certificates import server_context
from posthouse.sandbox.settings import Person
from posthouse.secret import Secret
from posthouse.services.entrance import sign_in_link
from posthouse.store import journal, messages
from posthouse.store.opening import Store, open_store
from tests.support.boxes import PRINTER, Box, box
from tests.support.house import house, until
from tests.support.processes import STARTS, DidNotStart, tail
from tests.support.serving import PROGRAM, Serving, serving
from tests.torture.judge import Judge, Known
from tests.torture.senders import crowd
from tests.torture.sink import Sink, sink

MAILBOXES = tuple(f"m{number}@sandbox.example" for number in range(4))
KEY = {"POSTHOUSE_KEY": "A" * 43}
LIFETIME = 20.0
"""Seconds of an access token: there is always one that is about to be renewed."""
BACKLOG = 300
"""Promised messages that have not arrived, at which the senders wait."""
LONGEST, LATEST = 2.5, 80
"""Seconds at most that the gateway takes mail before it is killed, and messages that it sends."""
PATIENCE = 15.0
"""Seconds at most in which that many are taken, or sent."""
DRAIN, HUNG = 240.0, 30.0
Show = Callable[[str], None]
INVALID = "SELECT account, reason FROM token WHERE state = 'invalid'"
UNHEARD = "SELECT account FROM token JOIN oauth_grant ON token_id = token.id WHERE intent_serial = serial"
NEEDED = "SELECT id, pieces FROM message WHERE pieces > 0 AND state <> 'sent'"
WAITING = "SELECT id, next_at, state FROM message WHERE state IN ('queued', 'parked')"


@dataclass(frozen=True, slots=True)
class Plan:
    """`trouble`: how likely the provider breaks off, at each step. `program`: what is killed."""

    kills: int = 500
    senders: int = 20
    seed: int = 1
    database: str = ""
    trouble: float = 0.004
    program: Sequence[str] = PROGRAM


@dataclass(slots=True)
class World:
    plan: Plan
    provider: Box
    sink: Sink
    gateway: Serving
    password: Secret
    judge: Judge
    chance: random.Random
    mailboxes: tuple[str, ...] = MAILBOXES
    kills: int = 0
    began: float = field(default_factory=time.monotonic)
    _port: int = 0
    _ended: bool = False
    _attempts: dict[str, float] = field(default_factory=dict)

    @property
    def environment(self) -> Mapping[str, str]:
        return KEY

    @property
    def config(self) -> Path:
        return self.gateway.config

    @property
    def data(self) -> Path:
        return self.gateway.data

    @property
    def ended(self) -> bool:
        return self._ended

    async def port(self) -> int:
        while not self._ended and (not self._port or self._backlog > BACKLOG):
            await asyncio.sleep(0.02)
        return self._port

    @property
    def _backlog(self) -> int:
        return len(self.judge.promised) - len(self.sink.arrived)

    # The kills

    async def run(self, show: Show) -> None:
        said = time.monotonic()
        async with self.under_load():
            while self.kills < self.plan.kills:
                await self._live_and_die()
                if time.monotonic() - said > 5:
                    said = time.monotonic()
                    show(self.progress())
        await self.start(page=True)
        await self.finish(show)

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Everybody hands mail over; at the end each finishes what was begun."""
        senders = [asyncio.create_task(one.run()) for one in crowd(self, self.plan.senders, self.plan.seed)]
        person = asyncio.create_task(self._sign_in_again())
        try:
            yield
            self._ended = True
            await asyncio.gather(*senders)
        finally:
            for task in (*senders, person):
                task.cancel()
            await asyncio.gather(*senders, person, return_exceptions=True)

    async def until_promised(self, more: int) -> None:
        """So many more messages."""
        enough = len(self.judge.promised) + more

        async def promised() -> bool:
            return len(self.judge.promised) >= enough

        await until(promised, f"{more} more messages being accepted", seconds=HUNG)

    async def until_refused(self, more: int) -> None:
        enough = self.judge.refusals.total() + more

        async def refused() -> bool:
            return self.judge.refusals.total() >= enough

        await until(refused, f"{more} more answers that are refusals", seconds=HUNG)

    async def _live_and_die(self) -> None:
        """Started, and killed at a moment that nobody chose: while it starts, at a time, after so many promises, or
        with a message just taken by the provider and not yet answered."""
        if self.chance.random() < 0.1:
            starting = asyncio.create_task(self.start())
            await asyncio.sleep(self.chance.uniform(0.0, 1.0))
            await self._kill()
            with contextlib.suppress(DidNotStart):
                await starting
        else:
            await self.start()
            way = self.chance.choice(("time", "promised", "taken"))
            if way == "taken":
                self.sink.countdown = self.chance.randrange(1, LATEST)
                self.sink.when_taken = self.gateway.kill_only
            enough = len(self.judge.promised) + self.chance.randrange(1, LATEST)
            await self._until_dead(
                self.chance.uniform(0.0, LONGEST) if way == "time" else PATIENCE, enough if way == "promised" else 0
            )
        self.sink.when_taken = None
        await self._kill()

    async def start(self, *, page: bool = False) -> None:
        """Again, as a service manager does, where a command that found no gateway works on the data just then."""
        for left in reversed(range(STARTS)):
            try:
                await asyncio.to_thread(self.gateway.start, page=page, seconds=HUNG)
                break
            except DidNotStart as failed:
                if not left or "is in use by another" not in str(failed):
                    raise
        self._port = self.gateway.smtp_ports[0]

    async def _until_dead(self, seconds: float, promised: int) -> None:
        """Or so many seconds are over, or so many messages promised."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and self.gateway.alive():
            if 0 < promised <= len(self.judge.promised):
                return
            await asyncio.sleep(0.01)

    async def _kill(self) -> None:
        self._port = 0
        await asyncio.to_thread(self.gateway.kill)
        self._port = 0
        self.kills += 1
        self.judge.unheard |= {account for (account,) in await self.rows(UNHEARD)}

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if not self.plan.database:
            return await asyncio.to_thread(self.gateway.rows, statement)
        connection = await asyncpg.connect(self.plan.database)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    # What an administrator does

    async def _sign_in_again(self) -> None:
        """Where a token was lost with an answer that nobody heard, which the judge has to agree with."""
        while True:
            with contextlib.suppress(ProblemError, OSError, sqlite3.Error, asyncpg.PostgresError):
                for account, reason in await self.rows(INVALID):
                    await self._sign_in(account, reason)
            await asyncio.sleep(0.5)

    async def _sign_in(self, account: str, reason: str) -> None:
        now = time.monotonic()
        if now - self._attempts.get(account, 0.0) < 5:
            return
        path = f"/mailboxes/{account}/authorisations"
        begun = await asyncio.to_thread(self.api().post, path, {"method": "device"})
        if account not in self._attempts:
            self.judge.lost_token(account, reason)
        self._attempts[account] = now
        await self.provider.control("approve", user_code=begun["user_code"], person=account)

    def api(self) -> SocketApi:
        return SocketApi(self.data / "control.sock")

    # The end

    async def finish(self, show: Show = lambda _: None) -> None:
        """Everything that waits is sent by the gateway that runs, then judged."""
        person = asyncio.create_task(self._sign_in_again())
        try:
            await self._drain(show)
        finally:
            person.cancel()
            await asyncio.gather(person, return_exceptions=True)
        await asyncio.to_thread(self.gateway.stop)
        await self.start()  # what is left in the spool is swept now
        await asyncio.to_thread(self.gateway.stop)
        await self._decide()

    async def _drain(self, show: Show) -> None:
        """Without anything that gets in the way."""
        self.sink.trouble = 0.0
        give_up = time.monotonic() + DRAIN
        while (waiting := await self.rows(WAITING)) and time.monotonic() < give_up:
            show(f"{self.progress()}, {len(waiting)} wait")
            for queue_id, next_at, state in waiting:
                if state == "queued" and next_at > time.time() + 2:
                    with contextlib.suppress(ProblemError):
                        await asyncio.to_thread(self.api().post, f"/messages/{queue_id}/retry")
            await asyncio.sleep(1.0)
        for queue_id, _, state in waiting:
            self.judge.complain(f"{queue_id} is still {state} after {DRAIN:.0f} s without any trouble")

    async def _decide(self) -> None:
        store = await open_store(self.data, self.plan.database, KEY)
        try:
            known = {message_id: await self._known(store, message_id) for message_id in self.judge.given}
            self.judge.decide(self.sink.arrived, known)
            await self._look_at_spool(store)
        finally:
            await store.close()
        if not self.plan.database:
            for (found,) in self.gateway.rows("PRAGMA integrity_check"):
                if found != "ok":
                    self.judge.complain(f"the database is damaged: {found}")
        for account, reason in await self.rows(INVALID):
            self.judge.complain(f"the token of {account} is invalid in the end: {reason}")

    async def _known(self, store: Store, message_id: str) -> Known:
        """By the journal, which names every message that was ever accepted."""
        lines = await store.database.read(lambda tx: journal.of_message(tx, message_id))
        unknown = sum(line.kind == "outcome unknown" for line in lines)
        states = [
            row.state
            for queue_id in {line.message for line in lines}
            if (row := await store.database.read(lambda tx, one=queue_id: messages.one(tx, one)))  # type: ignore[misc]
        ]
        if len(states) > 1:
            self.judge.complain(f"{message_id} was accepted {len(states)} times")
        return Known(states[0] if states else "no row", unknown)

    async def _look_at_spool(self, store: Store) -> None:
        """Every row has its pieces, and every file a row that still needs it."""
        needed = dict(await self.rows(NEEDED))
        for row_id, pieces in needed.items():
            try:
                async for _ in store.spool.read(row_id, pieces):
                    pass
            except Exception as cause:
                self.judge.complain(f"{row_id} has lost its pieces: {cause!r}")
        if not self.plan.database:
            for path in (self.data / "spool").iterdir():
                if path.name not in needed:
                    self.judge.complain(f"{path.name} lies in the spool and belongs to nothing")

    def progress(self) -> str:
        doubled = sum(len(arrivals) > 1 for arrivals in self.sink.arrived.values())
        return (
            f"{time.monotonic() - self.began:.0f} s: {self.kills} of {self.plan.kills} kills, "
            f"{len(self.judge.promised)} promised, {len(self.sink.arrived)} arrived, {doubled} of them doubled, "
            f"{sum(self.judge.renewed.values())} tokens lost with an answer"
        )


def report(world: World) -> str:
    judge, sink = world.judge, world.sink
    lines = [
        world.progress(),
        "promised by " + ", ".join(f"{way}: {count}" for way, count in sorted(judge.by_way.items())),
        "broken off by the provider at " + ", ".join(f"{step}: {count}" for step, count in sorted(sink.broken.items())),
        "refused for now: " + (", ".join(f"{what}: {count}" for what, count in judge.refusals.most_common(12)) or "0"),
    ]
    if judge.complaints:
        lines += [f"BROKEN PROMISES: {len(judge.complaints)}", *judge.complaints[:100], f"log: {world.gateway.log}"]
    return "\n".join([*lines, "no promise was broken" if not judge.complaints else ""]).strip()


@contextlib.asynccontextmanager
async def _prepared(plan: Plan, directory: Path, data: Path) -> AsyncIterator[tuple[Box, Sink, Secret]]:
    """A data directory with an administrator and mailboxes that may send by way of the sink."""
    people = tuple(Person(address) for address in MAILBOXES)
    async with box(directory / "box", people=people, access_token_lifetime=LIFETIME) as provider:
        ledger = provider.sandbox.post.ledger
        context = server_context(directory / "box")
        async with sink(context, lambda token: ledger.look_up(token, time.time()) is not None, plan.seed) as taking:
            text = provider.apply_file(*MAILBOXES)
            text = text.replace(f'smtp = "{provider.described["smtp"]}"', f'smtp = "localhost:{taking.port} tls"')
            async with house(data, text, database=plan.database, background=False, environment=KEY) as at:
                for address in MAILBOXES:
                    assert (await at.by_device(address, provider.approve_as(address))).state == "done"
                await sign_in_link(at.parts.store, at.clock, "http://localhost")
                password = at.passwords[PRINTER]
            taking.trouble = plan.trouble
            yield provider, taking, password


@contextlib.asynccontextmanager
async def world_of(plan: Plan, directory: Path, data: Path) -> AsyncIterator[World]:
    """With a gateway over `data` that is not started yet; everything else lies in `directory`."""
    more = f'database = "{plan.database}"' if plan.database else ""
    async with _prepared(plan, directory, data) as (provider, taking, password):
        with serving(directory, data, more=more, environment=KEY, program=plan.program) as gateway:
            yield World(plan, provider, taking, gateway, password, Judge(), random.Random(plan.seed))


async def torture(plan: Plan, directory: Path, show: Show = lambda _: None) -> World:
    """The whole of it; everything lies in `directory`."""
    async with world_of(plan, directory, directory / "data") as world:
        try:
            await world.run(show)
        except DidNotStart as failed:
            world.judge.complain(f"the gateway did not start again: {failed}")
        except Exception:
            show(tail(world.gateway.log))
            raise
        return world
