"""What is sent side by side: a lane for each mailbox that is ours, and the accounts that lanes share at a provider."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from posthouse.model.pacing import Pace

Task: TypeAlias = "asyncio.Task[None]"
DENSE = 2.0
"""Seconds between two messages that make a flow: then a connection more is opened before it is needed."""
AHEAD_AGAIN = 30.0
"""Seconds until it is tried again where one could not be opened ahead."""


@dataclass(slots=True, eq=False)
class Account:
    """Who is counted at a provider. `waiting` are lanes that have mail and no connection, the longest first.

    `paced`: one worker waits for the pace already.
    """

    name: str
    pace: Pace
    lanes: dict[str, "Lane"] = field(default_factory=dict)
    waiting: dict[str, "Lane"] = field(default_factory=dict)
    workers: int = 0
    paced: bool = False

    def wait(self, mailbox_id: str, lane: "Lane") -> None:
        """For a connection of this account: whoever has one and nothing to do gives it up."""
        self.waiting[mailbox_id] = lane
        for other in self.lanes.values():
            if other is not lane:
                other.wake()

    def others_wait(self, lane: "Lane") -> bool:
        return any(other is not lane for other in self.waiting.values())


@dataclass(frozen=True, slots=True)
class Standing:
    """How the provider takes one sender: refused so many times in a row, last `at`, and not tried before `until`."""

    refusals: int = 0
    at: float = 0.0
    until: float = 0.0
    answer: str = ""
    cause: str = ""


@dataclass(slots=True, eq=False)
class Lane:
    """One mailbox that is ours to send for.

    `held_until`: it rests after a refusal that concerns it; `waits_for`: its day's allowance is used up, and why.
    `fared`: what was last written down about logging in for it. `order`: see `messages.claim`. `connected` counts
    its open connections; those opened for an earlier `generation` go. `chunking`: BDAT has not been refused so far;
    `most_recipients`: how many the server took at once when it turned others away. `senders`: how it takes each sender,
    by folded address, since the last change of settings or token.
    """

    epoch: int
    account: Account | None = None
    workers: set[Task] = field(default_factory=set)
    idle: deque["asyncio.Future[None]"] = field(default_factory=deque)
    news: int = 0
    """Grows with every message, so that a worker who found nothing sees whether one came meanwhile."""
    held_until: float = 0.0
    waits_for: str = ""
    holds: int = 0
    fared: tuple[str, str] | None = None
    way: object = None
    order: str = ""
    connected: int = 0
    generation: int = 0
    leaving: bool = False
    chunking: bool = True
    most_recipients: int = 0
    senders: dict[str, Standing] = field(default_factory=dict)
    rung_at: float = 0.0
    ahead_at: float = 0.0

    def ring(self) -> bool:
        """There is something to send; whether an idle worker has been told."""
        self.news += 1
        while self.idle:
            worker = self.idle.popleft()
            if not worker.done():
                worker.set_result(None)
                return True
        return False

    def wake(self) -> None:
        """Let idle workers look around, though there is no news."""
        while self.idle:
            worker = self.idle.popleft()
            if not worker.done():
                worker.set_result(None)

    def renew(self) -> None:
        """Open connections were made for what does not hold any more."""
        self.generation += 1
        self.wake()

    def flows(self, now: float) -> bool:
        """Whether mail comes so densely that one more connection is worth having; asked at each message."""
        before, self.rung_at = self.rung_at, now
        return now - before < DENSE and not self.idle and self.connected > 0 and now >= self.ahead_at

    def rests(self, now: float) -> bool:
        return (
            self.leaving or self.held_until > now or (self.account is not None and self.account.pace.rests_until > now)
        )
