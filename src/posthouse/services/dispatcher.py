"""Sends what is in the queue: mailbox by mailbox, within the provider's limits, without losing or inventing anything.

A mailbox is ours while we hold its lease. It has a lane with workers, each of which keeps one connection and takes
message after message (`posthouse.services.sending`): the workers are the pool of warm connections.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

import structlog

from posthouse.model.mailbox import Mailbox
from posthouse.model.pacing import Allowance, Pace, UsedUp
from posthouse.model.token import TokenState
from posthouse.services import paces
from posthouse.services.clock import Clock
from posthouse.services.credentials import Credentials
from posthouse.services.directory import Directory, Snapshot
from posthouse.services.ending import end
from posthouse.services.lanes import Account, Lane
from posthouse.services.sending import Worker
from posthouse.store import leases, messages, tokens
from posthouse.store import paces as store_paces
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.events import Event
from posthouse.store.opening import Store

POLL = 1.0
ENDS_CONNECTIONS = tuple(
    f"token.{state}" for state in (TokenState.INVALID, TokenState.NOT_ACQUIRED, TokenState.ACQUIRED)
)
"""Events of a token after which what was logged in with it before is not used any more."""
TAKE_AT_ONCE = 1000
DRAIN = 5.0
"""Seconds that workers get to finish their messages when the gateway is stopped."""

log = structlog.get_logger("dispatcher")


@dataclass(slots=True)
class Dispatcher:
    store: Store
    directory: Directory
    credentials: Credentials
    clock: Clock
    node_id: str
    hostname: str
    stopping: bool = False
    _lanes: dict[str, Lane] = field(default_factory=dict)
    _accounts: dict[str, Account] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _due: set[str] = field(default_factory=set)
    _bound_to: int = -1
    """Generation of the configuration by which lanes have their accounts."""
    _paced_at: float = 0.0
    """Up to then all paces are written down."""

    def accepted(self, mailbox_id: str) -> None:
        """A message for this mailbox is on disk."""
        lane = self._lanes.get(mailbox_id)
        if lane is None:
            self._due.add(mailbox_id)
            self._wake.set()
        elif not lane.ring() or lane.flows(self.clock()):
            self._start_worker(mailbox_id, lane)

    async def on_event(self, event: Event) -> None:
        """A token that has changed ends the connections of the old one; one that is acquired lets parked mail go on."""
        if event.kind not in ENDS_CONNECTIONS:
            return
        senders = [user.mailbox.id for user in self.directory.now.uses_now(event.subject) if "sending" in user.purposes]
        for mailbox_id in senders:
            if mailbox_id in self._lanes:
                self._lanes[mailbox_id].renew()
            if event.kind == f"token.{TokenState.ACQUIRED}":
                await self.release(mailbox_id)

    def configuration_changed(self) -> None:
        """Connections that were made for another account or server go at once."""
        snapshot = self.directory.now
        for mailbox_id, lane in self._lanes.items():
            mailbox = self.sending_view(mailbox_id)
            way = _way(snapshot, mailbox) if mailbox else None
            if lane.way != way:
                lane.way, lane.fared, lane.chunking, lane.most_recipients = way, None, True, 0
                lane.renew()
            lane.order = snapshot.order(mailbox) if mailbox else ""
        self._wake.set()

    async def release(self, mailbox_id: str) -> None:
        lane = self._lanes.get(mailbox_id)
        if lane is not None:
            lane.held_until, lane.holds, lane.fared, lane.waits_for = 0.0, 0, None, ""
            await self._ask_senders_again(mailbox_id, lane)
        now = self.clock()
        await self.store.database.write(lambda tx: messages.release(tx, mailbox_id, now), long=True)
        self.accepted(mailbox_id)

    async def _ask_senders_again(self, mailbox_id: str, lane: Lane) -> None:
        """Something was changed: the provider may take by now whom it refused."""
        now = self.clock()
        waits = {standing.until for standing in lane.senders.values() if standing.until > now}

        async def work(tx: Transaction) -> None:
            for until in waits:
                await messages.resume(tx, mailbox_id, now, until)

        if waits:
            await self.store.database.write(work, long=True)
        lane.senders.clear()

    async def run(self) -> None:
        """Until cancelled."""
        await self._take(own=True)  # first, as a heartbeat says that nothing is missing of what paces are written down
        heart = asyncio.create_task(self._beat())
        try:
            while True:
                await self._wait()
                with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                    await self._look()
        finally:
            heart.cancel()
            await self._stop_workers()
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self._save_paces()

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the gateway is being stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._wake.wait()
        self._wake.clear()

    async def _look(self) -> None:
        """Start workers where mail is due: at once where we were told of it, every second for the rest."""
        await self._bind()
        await self._resume()
        told, self._due = self._due, set()
        if not told:
            now = self.clock()
            waiting = await self.store.database.read(messages.waiting_mailboxes)
            told = {mailbox_id for mailbox_id, first in waiting.items() if first <= now}
        if told - self._lanes.keys():
            await self._take(own=False)
        for mailbox_id in told & self._lanes.keys():
            await self._postpone(mailbox_id, self._lanes[mailbox_id])
            self.accepted(mailbox_id)

    async def _postpone(self, mailbox_id: str, lane: Lane) -> None:
        """What came after the day's allowance was used up waits as the others do."""
        now, until, cause = self.clock(), lane.held_until, lane.waits_for
        if cause and until > now:
            await self.store.database.write(lambda tx: messages.postpone(tx, mailbox_id, now, until, cause), long=True)

    def sending_view(self, mailbox_id: str) -> Mailbox | None:
        """The mailbox as its sending settings see it."""
        mailbox = self.directory.now.mailboxes.get(mailbox_id)
        return mailbox.for_setting("sending") if mailbox is not None else None

    # Workers

    def _start_worker(self, mailbox_id: str, lane: Lane) -> None:
        account, now = lane.account, self.clock()
        if account is None or self.stopping or lane.rests(now) or (lane.order and lane.workers):
            return
        open_ones = max(account.workers, len(lane.workers))
        if open_ones >= account.pace.connections(now) or self._is_paced(account, now):
            if not lane.workers:
                account.wait(mailbox_id, lane)
            return
        account.waiting.pop(mailbox_id, None)
        account.workers += 1
        worker = Worker(self, mailbox_id, lane, account)
        task = asyncio.create_task(worker.run())
        lane.workers.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, lane, worker.account))

    def _is_paced(self, account: Account, now: float) -> bool:
        """A worker waits already until the next message may go."""
        return account.paced and account.pace.begins_at(now) > now

    def _ended(self, task: "asyncio.Task[None]", lane: Lane, account: Account) -> None:
        """Whoever waits longest for a connection of the account comes next."""
        lane.workers.discard(task)
        account.workers -= 1
        if account.waiting:
            mailbox_id = next(iter(account.waiting))
            following = account.waiting.pop(mailbox_id)
            if self._lanes.get(mailbox_id) is following:
                self._start_worker(mailbox_id, following)

    # Leases and paces

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self._save_paces()
                await self._take(own=False)
                await self._drop_lost()
                await self._release_ready()
            await asyncio.sleep(leases.HEARTBEAT)

    async def _save_paces(self) -> None:
        """With the heartbeat. Raises DatabaseUnavailable, CommitUnknown."""
        now = self.clock()
        changed = [account for account in self._accounts.values() if account.pace.changed]
        documents = {account.name: account.pace.document() for account in changed}
        for account in changed:
            account.pace.changed = False

        async def work(tx: Transaction) -> None:
            await store_paces.save(tx, documents, now)
            await self._say_alive(tx, now)

        try:
            await self.store.database.write(work)
        except (DatabaseUnavailable, CommitUnknown):
            for account in changed:
                account.pace.changed = True
            raise
        self._paced_at = now

    async def _say_alive(self, tx: Transaction, paced_at: float) -> None:
        keys = self.store.keys
        await leases.beat(tx, self.node_id, keys.generation, keys.master_id, paced_at)

    async def _take(self, *, own: bool) -> None:
        now, snapshot = self.clock(), self.directory.now
        paced_at = now if own else self._paced_at

        async def work(tx: Transaction) -> tuple[dict[str, int], dict[str, Pace]]:
            since = await leases.paced_until(tx, self.node_id)
            await self._say_alive(tx, paced_at)
            taken = await leases.take_free(tx, self.node_id, TAKE_AT_ONCE, own=own, leaders=snapshot.leaders)
            for mailbox_id in taken:
                await messages.recover(tx, mailbox_id, now)
            return taken, await paces.read(tx, self._unknown(snapshot, taken), snapshot.sending_accounts, since, now)

        taken, found = await self.store.database.write(work, long=True)
        self._paced_at = paced_at
        self._know(found)
        for mailbox_id, epoch in taken.items():
            mailbox = self.sending_view(mailbox_id)
            self._lanes[mailbox_id] = lane = Lane(epoch, way=_way(snapshot, mailbox) if mailbox else None)
            lane.order = snapshot.order(mailbox) if mailbox else ""
            self._join(snapshot, mailbox_id, lane)

    def _unknown(self, snapshot: Snapshot, mailbox_ids: "dict[str, int] | dict[str, Lane]") -> dict[str, Allowance]:
        """Accounts of mailboxes that have not been read yet."""
        mailboxes = [snapshot.mailboxes[one] for one in mailbox_ids if one in snapshot.mailboxes]
        named = {snapshot.sending_accounts[mailbox.id]: mailbox for mailbox in mailboxes}
        return {name: snapshot.allowance(mailbox) for name, mailbox in named.items() if name not in self._accounts}

    def _know(self, found: dict[str, Pace]) -> None:
        """What is in use already is newer than what was read."""
        for name, pace in found.items():
            self._accounts.setdefault(name, Account(name, pace))

    def _join(self, snapshot: Snapshot, mailbox_id: str, lane: Lane) -> None:
        """Let a lane use the account of its mailbox."""
        account = self._accounts.get(snapshot.sending_accounts.get(mailbox_id, ""))
        if lane.account is not None and lane.account is not account:
            self._part(mailbox_id, lane)
            lane.renew()
        lane.account = account
        if account is not None:
            account.lanes[mailbox_id] = lane

    def _part(self, mailbox_id: str, lane: Lane) -> None:
        if lane.account is not None:
            lane.account.lanes.pop(mailbox_id, None)
            lane.account.waiting.pop(mailbox_id, None)

    async def _bind(self) -> None:
        """After a change of settings: accounts, and what they are allowed."""
        snapshot = self.directory.now
        if snapshot.configuration.generation == self._bound_to:
            return
        self.configuration_changed()
        now, unknown = self.clock(), self._unknown(snapshot, self._lanes)
        if unknown:
            self._know(
                await self.store.database.write(
                    lambda tx: paces.read(tx, unknown, snapshot.sending_accounts, None, now)
                )
            )
        for mailbox_id, lane in list(self._lanes.items()):
            await self._ask_senders_again(mailbox_id, lane)
            self._join(snapshot, mailbox_id, lane)
            if mailbox_id in snapshot.mailboxes and lane.account is not None:
                lane.account.pace.allowance = snapshot.allowance(snapshot.mailboxes[mailbox_id])
        self._bound_to = snapshot.configuration.generation

    async def _resume(self) -> None:
        """Where more is allowed now than when the day's allowance was used up."""
        for mailbox_id, lane in list(self._lanes.items()):
            if lane.waits_for and lane.account is not None:
                await self._go_on(mailbox_id, lane, lane.account.pace)

    async def _go_on(self, mailbox_id: str, lane: Lane, pace: Pace) -> None:
        now, until = self.clock(), lane.held_until
        with contextlib.suppress(UsedUp):
            pace.check_day(now)
            await self.store.database.write(lambda tx: messages.resume(tx, mailbox_id, now, until), long=True)
            lane.held_until, lane.waits_for = 0.0, ""

    async def _drop_lost(self) -> None:
        """Mailboxes that another node took over while we seemed dead are not ours any more."""
        held = await self.store.database.read(lambda tx: leases.held(tx, self.node_id))
        leaders = self.directory.now.leaders
        for mailbox_id, lane in list(self._lanes.items()):
            if held.get(mailbox_id) != lane.epoch:
                self._drop(mailbox_id, lane)
            elif leaders.get(mailbox_id, mailbox_id) not in self._lanes:
                await self._give_up(mailbox_id, lane)

    def _drop(self, mailbox_id: str, lane: Lane) -> None:
        del self._lanes[mailbox_id]
        self._part(mailbox_id, lane)
        if lane.account is not None and not lane.account.lanes:
            self._accounts.pop(lane.account.name, None)
        for worker in lane.workers:
            worker.cancel()

    async def _give_up(self, mailbox_id: str, lane: Lane) -> None:
        """Another node sends for another mailbox of the same account: let it do both, once nothing is under way."""
        lane.leaving = True
        lane.wake()
        if not lane.workers:
            await self.store.database.write(lambda tx: leases.give_up(tx, self.node_id, mailbox_id))
            self._drop(mailbox_id, lane)

    async def _release_ready(self) -> None:
        """Mail that was parked in the very moment its token was acquired."""
        for mailbox_id in await self.store.database.read(messages.parked_mailboxes):
            mailbox = self.sending_view(mailbox_id)
            if mailbox is not None and await self._can_log_in(mailbox):
                await self.release(mailbox_id)

    async def _can_log_in(self, mailbox: Mailbox) -> bool:
        if mailbox.app_id is None:
            return mailbox.has_password
        token = await self.store.database.read(lambda tx: tokens.get(tx, mailbox.token_id or ""))
        return token is not None and token.state is TokenState.ACQUIRED

    async def _stop_workers(self) -> None:
        """Let each finish its message and give the others back; what takes longer is cut off."""
        self.stopping = True
        self._stop.set()
        tasks = [worker for lane in self._lanes.values() for worker in lane.workers]
        for lane in self._lanes.values():
            lane.wake()
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN)
        await end(tasks)


def _way(snapshot: Snapshot, mailbox: Mailbox) -> object:
    """What a connection was made for; with another one it is of no use."""
    provider = snapshot.provider_of(mailbox)
    password = mailbox.version if mailbox.app_id is None else 0
    place = (snapshot.endpoint(mailbox, "smtp"), snapshot.user(mailbox, "smtp"), provider and provider.ca_file)
    return (mailbox.way, password, *place)
