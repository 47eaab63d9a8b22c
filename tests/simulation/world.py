"""Mailboxes, sign-in servers and two nodes of the gateway for as long as one likes, with `kill -9` at every step.

Real: TokenKeeper, SignIn, the flows, the store and its database. Simulated: time, the network, the sign-in servers,
and death: a node that is killed never comes back from whatever it awaits, and another one with its name takes over.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_plus, urlsplit

import structlog
from sqlalchemy.sql.expression import ClauseElement

from posthouse.model.outcome import Unreachable
from posthouse.model.token import TokenState
from posthouse.net.http import HttpClient
from posthouse.oauth.message import Answer, Request
from posthouse.services import token_keeper
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from posthouse.services.directory import Directory
from posthouse.services.sign_in import SignIn
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.store import events, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Row, Transaction, Work
from posthouse.store.events import Event
from posthouse.store.opening import Store, open_store
from tests.contract.making import consent as plain_consent
from tests.simulation.judge import Judge
from tests.simulation.leaping import LeapingLoop, SteadyDatabase
from tests.simulation.provider import ACTED, HOUR, Consent, Habit, Provider, Trouble, Weather, said

T = TypeVar("T")
BEGIN = 1_800_000_000.0
MINUTE, DAY = 60.0, 86_400.0
POLL = 15.0
"""Simulated seconds between two looks for what is due; really it is one, which would only take longer here."""
STEPS = (
    "before the lease is committed",
    "after the lease is committed",
    "before sending",
    "on the way there",
    "on the way back",
    "after the answer",
    "before the answer is committed",
    "after the answer is committed",
    "before a failure is committed",
    "after a failure is committed",
)
_WRITES = {id(tokens._lease): "the lease", id(tokens._rotate): "the answer", id(tokens._postpone): "a failure"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, how long, how bad. Rates are chances for one request or one trip to the database."""

    mailboxes: int = 60
    days: float = 7.0
    seed: int = 1
    troubles: float = 0.05
    answers_lost: float = 0.004
    kill_every: float = HOUR
    outage_every: float = 2 * DAY
    revocations_a_day: float = 0.02
    database_troubles: float = 0.001
    database: str = ""
    world: int = 0
    """Its number where several stand side by side; their providers have the same outages."""
    worlds: int = 1


class Killed(BaseException):
    """Undoes a transaction whose process dies before it commits."""


async def never() -> None:
    await asyncio.get_running_loop().create_future()


class _Watched:
    """A transaction with the simulation's time that notices what it is about."""

    def __init__(self, inner: Transaction, world: "World") -> None:
        self._inner, self._world = inner, world
        self.what, self.grant_id = "", ""

    def all(self, statement: ClauseElement, **parameters: Any) -> Coroutine[Any, Any, list[Row]]:
        return self._inner.all(statement, **parameters)

    def one(self, statement: ClauseElement, **parameters: Any) -> Coroutine[Any, Any, Row | None]:
        done = self._inner.one(statement, **parameters)
        return self._noticed(done, statement, parameters) if id(statement) in _WRITES else done

    def run(self, statement: ClauseElement, **parameters: Any) -> Coroutine[Any, Any, int]:
        done = self._inner.run(statement, **parameters)
        return self._noticed(done, statement, parameters) if id(statement) in _WRITES else done

    async def _noticed(self, done: Coroutine[Any, Any, T], statement: ClauseElement, parameters: dict[str, Any]) -> T:
        result = await done
        if result:
            self.what, self.grant_id = _WRITES[id(statement)], parameters["row_id"]
        return result

    async def now(self) -> float:
        return self._world.now


class NodesDatabase:
    """The database as one node sees it: sometimes slow, sometimes away, and the last thing it sees before it dies."""

    def __init__(self, node: "Node") -> None:
        self._node, self._world = node, node.world
        self.embedded = node.world.store.database.embedded
        self.fared = node.world.store.database.fared

    async def read(self, work: Work[T]) -> T:
        if self._is_slow():
            await self._away()
        if not self._node.alive:
            await never()
        world = self._world
        found: T = await world.real(world.store.database.read(lambda tx: work(_Watched(tx, world))))
        if not self._node.alive:
            await never()
        return found

    async def write(self, work: Work[T], *, long: bool = False) -> T:
        if self._is_slow():
            await self._away()
        if not self._node.alive:
            await never()
        seen: list[_Watched] = []

        async def watched(tx: Transaction) -> T:
            seen[:] = [_Watched(tx, self._world)]
            result = await work(seen[0])
            if seen[0].what and self._world.dies(self._node, f"before {seen[0].what} is committed"):
                raise Killed
            return result

        try:
            result: T = await self._world.real(self._world.store.database.write(watched, long=long))
        except Killed:
            await never()
            raise
        self._world.committed(seen[0].what, seen[0].grant_id, result)
        await self._node.passes(f"after {seen[0].what} is committed")
        if self._is_slow() and await self._breaks():
            raise CommitUnknown("the connection was lost while committing")
        return result

    def _is_slow(self) -> bool:
        return self._world.chance.random() < self._world.plan.database_troubles

    async def _away(self) -> None:
        if await self._breaks():
            raise DatabaseUnavailable("the database is being restarted")

    async def _breaks(self) -> bool:
        """Whether it does, after a time that nobody can know."""
        await asyncio.sleep(self._world.chance.choice((0.1, 2.0, 10.0, 45.0, 70.0)))
        await self._node.lives()
        return self._world.chance.random() < 0.5

    async def close(self) -> None: ...


class Wire(HttpClient):
    """The network between one node and the sign-in servers."""

    def __init__(self, node: "Node") -> None:
        self._node, self._world = node, node.world

    async def ask(self, request: Request, *, deadline: float, ca_file: str = "") -> Answer | Unreachable:
        if request.method == "GET":
            return await self._discover(request)
        refresh_token = unquote_plus(request.body().decode().partition("refresh_token=")[2].partition("&")[0])
        await self._node.passes("before sending")
        sent = self._world.judge.sends(self._node, refresh_token, self._world.now)
        try:
            answer = await self._carry(refresh_token, deadline)
        finally:
            self._world.judge.ends(sent)
        await self._node.passes("after the answer")
        return answer

    async def _carry(self, refresh_token: str, deadline: float) -> Answer | Unreachable:
        world, trouble = self._world, self._world.weather.trouble(self._world.now)
        if trouble in (Trouble.NO_NAME, Trouble.NO_CONNECTION):
            await asyncio.sleep(world.chance.uniform(0.01, 5.0))
            return Unreachable("no connection: Name or service not known")
        await asyncio.sleep(world.chance.uniform(9.0, 12.0) if trouble is Trouble.SLOW else 0.03)
        world.dies(self._node, "on the way there")  # What is on the wire goes on without it.
        answer = world.provider.answer(refresh_token, world.now) if trouble in ACTED else said(503)
        world.dies(self._node, "on the way back")
        await asyncio.sleep(world.chance.uniform(3.0, 6.0) if trouble is Trouble.SLOW else 0.03)
        match trouble:
            case Trouble.REQUEST_LOST | Trouble.ANSWER_LOST:
                await asyncio.sleep(deadline - 0.06)
                return Unreachable("no answer in time", outcome_unknown=True)
            case Trouble.CUT_OFF:
                return Unreachable("no answer: the server disconnected", outcome_unknown=True)
            case Trouble.BAD_GATEWAY | Trouble.BROKEN:
                return Answer(502 if trouble is Trouble.BAD_GATEWAY else 500, {}, b"<h1>Bad gateway</h1>")
            case Trouble.PAGE:
                return Answer(200, {}, b"<html>Welcome to the captive portal</html>")
            case Trouble.TOO_MANY:
                return Answer(429, {"retry-after": str(world.chance.randint(1, 120))})
        return answer

    async def _discover(self, request: Request) -> Answer | Unreachable:
        """As slow as the rest of the world; nothing is kept of it for longer than an hour."""
        trouble = self._world.weather.trouble(self._world.now)
        await asyncio.sleep(self._world.chance.choice((0.05, 19.0)) if trouble is Trouble.NONE else 19.0)
        await self._node.lives()
        issuer = "https://" + urlsplit(request.url).netloc
        if trouble is not Trouble.NONE:
            return Unreachable("no answer in time", outcome_unknown=True)
        return said(
            200,
            issuer=issuer,
            token_endpoint=f"{issuer}/token",
            authorization_endpoint=f"{issuer}/authorize",
            jwks_uri=f"{issuer}/keys",
        )

    async def close(self) -> None: ...


class Node:
    """One life of a gateway's process: the keeper, and programs that want tokens from it."""

    def __init__(self, world: "World", name: str, ahead: float) -> None:
        self.world, self.name, self.alive = world, name, True
        clock: Callable[[], float] = lambda: world.now + ahead  # noqa: E731
        store = replace(world.store, database=NodesDatabase(self))
        self.keeper = TokenKeeper(store, SignIn(world.directory, Wire(self), clock), clock, name)
        self.tasks = [asyncio.create_task(work) for work in (self.keeper.run(), self._programs())]

    async def lives(self) -> None:
        if not self.alive:
            await never()

    async def passes(self, step: str) -> None:
        if self.world.dies(self, step):
            await never()

    def is_forgotten(self) -> None:
        """Long after its death; everything of it waits for ever."""
        for task in (*self.tasks, *self.keeper._refreshing.values()):
            task.cancel()

    async def _programs(self) -> None:
        chance = self.world.chance
        while self.alive:
            await asyncio.sleep(chance.expovariate(1 / 40))
            token_id = chance.choice(self.world.token_ids)
            with contextlib.suppress(NoToken, DatabaseUnavailable, CommitUnknown):
                got = await self.keeper.access_token(token_id)
                if chance.random() < 0.02:
                    await self.keeper.access_token(token_id, newer_than=got.serial)


class World:
    def __init__(self, plan: Plan, store: Store, loop: LeapingLoop) -> None:
        self.plan, self.store = plan, store
        self.chance = random.Random(f"world {plan.world} of {plan.worlds}, seed {plan.seed}")
        self.directory = Directory(store)
        self.provider = Provider()
        self.weather = Weather(self.chance, plan.troubles, plan.answers_lost)
        self.judge = Judge(self.provider, self.weather, BEGIN)
        self.loop = loop
        self._zero = BEGIN - self.loop.time()
        self.nodes: dict[str, Node] = {}
        self.over = False
        self.token_ids: list[str] = []
        self.kills: Counter[str] = Counter()
        self._kill_at = self.now + plan.kill_every
        self._position = 0
        self._wanted: dict[str, float] = {}
        self._consents = 0

    @property
    def now(self) -> float:
        return self._zero + self.loop.time()

    @property
    def day(self) -> float:
        return (self.now - BEGIN) / DAY

    async def real(self, work: Any) -> Any:
        return await (work if self.store.database.embedded else self.loop.outside(work))

    # Death

    def dies(self, node: Node, step: str) -> bool:
        """Whether this is where and when the node is killed. Each step has its turn."""
        if node.alive and self.now >= self._kill_at and self._has_its_turn(step):
            self.kills[step] += 1
            self._kill_at = self.now + self.chance.expovariate(1 / self.plan.kill_every)
            node.alive = False
            self.loop.call_later(HOUR, node.is_forgotten)
            pause = self.chance.choice((0.0, 0.5, 3.0, 60.0, 600.0))
            self.loop.call_later(pause, self.starts, node.name)
        return not node.alive

    def _has_its_turn(self, step: str) -> bool:
        return step in STEPS and self.kills[step] == min(self.kills[known] for known in STEPS)

    def starts(self, name: str) -> None:
        if self.over:
            return
        self.nodes[name] = Node(self, name, ahead={"node-1": -20.0}.get(name, 25.0))

    # What people and providers do

    async def furnish(self) -> None:
        """The registrations, and a consent of each mailbox, all given in the same minute."""
        wanted = parse(apply_file(self.plan.mailboxes), "mail.toml", {})
        await self.real(apply(self.store, wanted, self.now))
        await self.real(self.directory.refresh())
        for mailbox in self.directory.now.by_address.values():
            assert mailbox.token_id is not None
            self.token_ids.append(mailbox.token_id)
            await self.sign_in(mailbox.token_id)

    async def sign_in(self, token_id: str) -> None:
        """As `services.authorise` leaves it when somebody has consented and the consent has proved itself."""
        habit = list(Habit)[self.token_ids.index(token_id) % len(Habit)]
        self._consents += 1
        name = f"gr_{self._consents}"
        self.provider.consents[name] = Consent(name, habit)
        now = self.now
        made = replace(
            plain_consent(name, token_id, refresh=f"{name}.1"),
            access_expires_at=now + HOUR,
            next_refresh_at=now + 0.8 * HOUR,
            obtained_at=now,
            refreshed_at=now,
        )

        async def work(tx: Transaction) -> None:
            seen = await tokens.get_for_change(tx, token_id)
            assert seen is not None
            if seen.serving_grant:
                await tokens.remove_grant(tx, seen.serving_grant)
            await tokens.add_grant(tx, self.store.sealer, made)
            await tokens.point(tx, seen, serving=name, pending=None, pinned=None)
            await tokens.set_state(tx, token_id, TokenState.ACQUIRED, now)

        await self.real(self.store.database.write(work))
        self.judge.holds(token_id, name, now)
        for node in self.nodes.values():
            node.keeper.forget(token_id)

    def committed(self, what: str, grant_id: str, result: Any) -> None:
        if what == "the lease":
            self.judge.leases(grant_id)
        if what == "the answer":
            self.judge.written(grant_id, result.refresh_token.reveal(), self.now)

    async def live(self, progress: Callable[["World"], None]) -> None:
        """Until the plan's last day, minute by minute."""
        for name in ("node-1", "node-2"):
            self.starts(name)
        fate = random.Random(self.plan.seed)
        outage = self.now + fate.expovariate(1 / self.plan.outage_every)
        while self.now < BEGIN + self.plan.days * DAY:
            await asyncio.sleep(MINUTE)
            if self.now >= outage:
                self.weather.outages.append((self.now, self.now + fate.uniform(300.0, 2400.0)))
                outage = self.now + fate.expovariate(1 / self.plan.outage_every)
            self._somebody_revokes()
            await self._look()
            progress(self)
        self.over = True
        await self._audit()

    def _somebody_revokes(self) -> None:
        if self.chance.random() < self.plan.revocations_a_day * self.plan.mailboxes * MINUTE / DAY:
            consent = self.provider.consents[self.judge.serving[self.chance.choice(self.token_ids)]]
            if consent.alive and self.now + 2 * HOUR < BEGIN + self.plan.days * DAY:
                consent.revoked_at = self.now

    async def _look(self) -> None:
        """What the gateway has told; who lost a token signs in again some hours later."""
        while found := await self.real(self.store.database.read(lambda tx: events.after(tx, self._position))):
            for event in found:
                self._told(event)
            self._position = found[-1].id
        for token_id in [known for known, at in self._wanted.items() if at <= self.now]:
            del self._wanted[token_id]
            await self.sign_in(token_id)

    def _told(self, event: Event) -> None:
        if event.kind == "token.invalid":
            self.judge.invalid(event.subject, event.document["reason"], event.at)
            self._wanted[event.subject] = self.now + self.chance.uniform(HOUR, 6 * HOUR)
        elif event.kind == "token.acquired" and event.subject in self._wanted:
            self.judge.complain(f"{event.subject} came back by itself", self.now)

    async def _audit(self) -> None:
        found = await self.real(self.store.database.read(tokens.everything))
        for token in found:
            grant_id = token.serving_grant or ""
            grant = await self.real(
                self.store.database.read(
                    lambda tx, of=grant_id: tokens.get_grant(tx, self.store.sealer, of)  # type: ignore[misc]
                )
            )
            assert grant is not None
            self.judge.audits(token, grant, self.now)


def apply_file(mailboxes: int) -> str:
    """A provider of each habit and its registration; every other one has to be asked where its doors are."""
    parts = []
    for number, habit in enumerate(Habit):
        name = habit.name.lower().replace("_", "-")
        host = f"https://{name}.example"
        doors = f'issuer = "{host}"' if number % 2 else f'token_url = "{host}/token"\ndevice_url = "{host}/device"'
        parts.append(f'[[provider]]\nname = "{name}"\n{doors}\nscopes = ["mail"]\nsmtp = "mail.example:587 starttls"')
        parts.append(f'[[app]]\nname = "{name}"\nprovider = "{name}"\nclient_id = "us"')
    for number in range(mailboxes):
        name = list(Habit)[number % len(Habit)].name.lower().replace("_", "-")
        parts.append(f'[[mailbox]]\naddress = "box{number:05}@example.com"\napp = "{name}"')
    return "\n".join(parts)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hundreds of lines a second that nobody reads."""
    usual = token_keeper.POLL, token_keeper.log
    silent = structlog.make_filtering_bound_logger(50)
    structlog.configure(wrapper_class=silent, cache_logger_on_first_use=False)
    token_keeper.POLL, token_keeper.log = POLL, silent(None, [], {})  # type: ignore[call-arg]
    try:
        yield
    finally:
        token_keeper.POLL, token_keeper.log = usual
        structlog.reset_defaults()


async def _simulated(plan: Plan, data: Path, progress: Callable[["World"], None]) -> World:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    store = await loop.outside(open_store(data, plan.database, {"POSTHOUSE_KEY": "A" * 43}))
    if not plan.database:
        await store.database.close()
        store = replace(store, database=SteadyDatabase(data / "posthouse.sqlite").steady())
        store.keys.database = store.database
    world = World(plan, store, loop)
    await world.furnish()
    await world.live(progress)
    await loop.outside(store.close())
    return world


def simulate(plan: Plan, data: Path, progress: Callable[["World"], None] = lambda _: None) -> World:
    """Everything that happened, judged. `progress` is shown the world each simulated minute."""
    with quiet(), asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(_simulated(plan, data, progress))
