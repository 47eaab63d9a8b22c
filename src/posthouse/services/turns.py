"""Whose turn it is to be refreshed: each provider has turns of its own, so that one that hangs holds up no other."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog

from posthouse.problems import place_of

EACH = 64
"""Refreshes that may be under way at one provider."""
AT_ONCE = 3 * EACH
"""Refreshes that may be under way at all of them together."""
SILENT = 8
"""Failures in a row after which a provider is taken not to answer."""
PROBES = 4
"""Refreshes that may be under way at one that does not answer; the first answer gives it all its turns again."""
ENOUGH = 100
"""Grants of one provider at hand, with which no more of its are looked for."""

log = structlog.get_logger("token_keeper")


@dataclass(slots=True)
class _Provider:
    waiting: deque[str] = field(default_factory=deque)
    working: int = 0
    silent: int = 0

    @property
    def at_hand(self) -> int:
        return len(self.waiting) + self.working

    @property
    def has_turn(self) -> bool:
        return bool(self.waiting) and self.working < (PROBES if self.silent >= SILENT else EACH)


def _answered(grant_id: str, task: "asyncio.Task[bool | None]") -> bool | None:
    if task.cancelled():
        return None
    if (cause := task.exception()) is not None:
        log.error("token refresh fell down", grant=grant_id, kind=type(cause).__name__, where=place_of(cause))
        return None
    return task.result()


class Turns:
    """`work` refreshes a grant and tells whether its provider answered; None where it was not asked."""

    def __init__(self, work: Callable[[str], Awaitable[bool | None]]) -> None:
        self._work = work
        self._providers: dict[str, _Provider] = {}
        self._tasks: dict[str, asyncio.Task[bool | None]] = {}
        self._waiting: set[str] = set()
        self._room = asyncio.Event()

    def full(self) -> list[str]:
        """Providers of which enough is at hand."""
        return [name for name, provider in self._providers.items() if provider.at_hand >= ENOUGH]

    def at_hand(self, *, without: Iterable[str] = ()) -> int:
        """Grants that are under way or waiting, without those of some providers."""
        left_out = set(without)
        return sum(provider.at_hand for name, provider in self._providers.items() if name not in left_out)

    def add(self, provider: str, grant_id: str) -> bool:
        """Whether it is new here. It waits for its turn."""
        if grant_id in self._tasks or grant_id in self._waiting:
            return False
        self._waiting.add(grant_id)
        self._providers.setdefault(provider, _Provider()).waiting.append(grant_id)
        return True

    def begin(self) -> None:
        """Let everything begin that has its turn, one of each provider after the other."""
        ready = deque(name for name, provider in self._providers.items() if provider.has_turn)
        while ready and len(self._tasks) < AT_ONCE:
            name = ready.popleft()
            provider = self._providers[name]
            self._start(name, provider)
            if provider.has_turn:
                ready.append(name)

    def _start(self, name: str, provider: _Provider) -> None:
        grant_id = provider.waiting.popleft()
        self._waiting.discard(grant_id)
        provider.working += 1
        task = self._tasks[grant_id] = asyncio.ensure_future(self._work(grant_id))
        task.add_done_callback(partial(self._ended, name, grant_id))

    def _ended(self, name: str, grant_id: str, task: "asyncio.Task[bool | None]") -> None:
        del self._tasks[grant_id]
        provider = self._providers[name]
        provider.working -= 1
        answered = _answered(grant_id, task)
        if answered is not None:
            provider.silent = 0 if answered else provider.silent + 1
        if provider.at_hand == ENOUGH - 1:
            self._room.set()
        self.begin()

    async def room(self, patience: float) -> None:
        """Wait until a provider of which enough was at hand has room for more, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._room.wait()
        self._room.clear()

    def cancel(self) -> None:
        for provider in self._providers.values():
            provider.waiting.clear()
        for task in self._tasks.values():
            task.cancel()
