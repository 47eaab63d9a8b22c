"""How all mailboxes stand, counted: which state the token of each is in, with nothing read that has not changed.

The states of all tokens are read once and kept in memory; events tell which have changed since, at whatever node.
"""

import asyncio
import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, TypeVar

from posthouse.model.mailbox import Mailbox, Purpose, User
from posthouse.model.token import TokenState
from posthouse.services.clock import Clock
from posthouse.services.directory import Directory, Snapshot
from posthouse.services.overview import URGENT
from posthouse.store import events, tokens
from posthouse.store.database import Transaction
from posthouse.store.joint import Joint
from posthouse.store.opening import Store

FAR = 100_000
"""Events after which everything is read anew, rather than what has changed."""
ANEW = 3600.0
"""Seconds after which that happens in any case: of a database that was put back no event tells."""
FEW = 100
"""Mailboxes up to which a change is worked out on the event loop, in some thousandths of a second."""
PASSWORD: Literal["password"] = "password"  # noqa: S105 - the word for a mailbox that uses no token
ATTENTION = (TokenState.INVALID, TokenState.NOT_ACQUIRED, TokenState.WAITING)
"""States in which somebody has to do something, the most urgent first."""

T = TypeVar("T")


@dataclass(frozen=True)
class Standing:
    """One moment.

    `states` has the tokens that settings use or wait for, `tokens` how many of them are in each state. `by_state` has
    mailboxes by address, under the state of the token in use that needs somebody most, or `password`. `settings` is
    how many settings of each purpose use a token in each state. `broken` are the ids of the tokens in use that a
    provider refuses, by the address of their first mailbox.
    """

    snapshot: Snapshot
    used: Mapping[str, Sequence[str]]
    """Ids of the tokens in use by mailbox id."""
    states: Mapping[str, TokenState]
    tokens: Counter[TokenState]
    by_state: Mapping[str, Sequence[Mailbox]]
    settings: Counter[tuple[Purpose, TokenState]]
    broken: Sequence[str]

    @classmethod
    def of(cls, snapshot: Snapshot, known: Mapping[str, TokenState]) -> "Standing":
        """Of all tokens whose state is known; of others none was ever got. Slow where there are many mailboxes."""
        used: dict[str, list[str]] = {}
        for token_id, user in _users(snapshot):
            used.setdefault(user.mailbox.id, []).append(token_id)
        ids = chain(snapshot.in_use, (token_id for token_id, _ in snapshot.waiting))
        states = {token_id: known.get(token_id, TokenState.NOT_ACQUIRED) for token_id in ids if token_id}
        by_state: dict[str, list[Mailbox]] = {state: [] for state in (*URGENT, PASSWORD)}
        for mailbox in snapshot.ordered:
            by_state[_worst(used.get(mailbox.id, ()), states)].append(mailbox)
        settings = Counter((purpose, states[one]) for one, user in _users(snapshot) for purpose in user.purposes)
        invalid = (one for one in snapshot.in_use if one and states[one] is TokenState.INVALID)
        broken = sorted(invalid, key=_place(snapshot))
        return cls(snapshot, used, states, Counter(states.values()), by_state, settings, broken)

    def reach(self, changes: Mapping[str, TokenState]) -> int:
        """How often a mailbox uses one of these tokens."""
        return sum(len(self.snapshot.in_use.get(token_id, ())) for token_id in changes)

    def after(self, changes: Mapping[str, TokenState]) -> "Standing":
        """Once these tokens are in another state. Quick where their reach is small; this one stays as it is."""
        new = {one: state for one, state in changes.items() if self.states.get(one, state) is not state}
        if not new:
            return self
        states = {**self.states, **new}
        counted = self.tokens + Counter(new.values())
        counted.subtract(self.states[token_id] for token_id in new)
        by_state, settings = self._moved(new, states), self._settled(new)
        return Standing(self.snapshot, self.used, states, counted, by_state, settings, self._broken_after(new))

    def _moved(self, new: Mapping[str, TokenState], states: Mapping[str, TokenState]) -> dict[str, list[Mailbox]]:
        found = {state: list(mailboxes) for state, mailboxes in self.by_state.items()}
        for mailbox_id in {user.mailbox.id for token_id in new for user in self.snapshot.in_use.get(token_id, ())}:
            mailbox, used = self.snapshot.mailboxes[mailbox_id], self.used[mailbox_id]
            _take_out(found[_worst(used, self.states)], mailbox, _address)
            bisect.insort(found[_worst(used, states)], mailbox, key=_address)
        return found

    def _settled(self, new: Mapping[str, TokenState]) -> Counter[tuple[Purpose, TokenState]]:
        found = Counter(self.settings)
        for token_id, state in new.items():
            purposes = [one for user in self.snapshot.in_use.get(token_id, ()) for one in user.purposes]
            found.update((purpose, state) for purpose in purposes)
            found.subtract((purpose, self.states[token_id]) for purpose in purposes)
        return found

    def _broken_after(self, new: Mapping[str, TokenState]) -> list[str]:
        found, place = list(self.broken), _place(self.snapshot)
        for token_id in new.keys() & self.snapshot.in_use.keys():
            if self.states[token_id] is TokenState.INVALID:
                _take_out(found, token_id, place)
            if new[token_id] is TokenState.INVALID:
                bisect.insort(found, token_id, key=place)
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Mailboxes by the words of `by_state`."""
        return {state: len(found) for state, found in self.by_state.items()}

    @cached_property
    def attention(self) -> Sequence[Mailbox]:
        """The mailboxes for which somebody has to do something, the most urgent first."""
        return [mailbox for state in ATTENTION for mailbox in self.by_state[state]]


def _users(snapshot: Snapshot) -> Iterator[tuple[str, User]]:
    return ((token_id, user) for token_id, users in snapshot.in_use.items() if token_id for user in users)


def _worst(used: Sequence[str], states: Mapping[str, TokenState]) -> str:
    return min((states[token_id] for token_id in used), key=URGENT.index, default=PASSWORD)


def _address(mailbox: Mailbox) -> str:
    return mailbox.address


def _place(snapshot: Snapshot) -> Callable[[str], tuple[str, str]]:
    """Where a token stands among others."""
    return lambda token_id: (snapshot.in_use[token_id][0].mailbox.address, token_id)


def _take_out(ordered: list[T], one: T, key: Callable[[T], str | tuple[str, str]]) -> None:
    del ordered[bisect.bisect_left(ordered, key(one), key=key)]


class Standings:
    """Gives the newest standing, which is kept until something changes."""

    def __init__(self, store: Store, directory: Directory, clock: Clock) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self._states: dict[str, TokenState] = {}
        self._position = -FAR
        self._all_read_at = 0.0
        self._newest: Standing | None = None
        self._looking = Joint(self._look)

    async def look(self) -> Standing:
        """What was written before is in it. Raises DatabaseUnavailable."""
        return await self._looking()

    async def _look(self) -> Standing:
        await self._directory.refresh()
        snapshot, changes = self._directory.now, await self._follow()
        newest, self._newest = self._newest, None
        if newest is None or newest.snapshot is not snapshot or changes is None or newest.reach(changes) > FEW:
            # Beside the loop: with a hundred thousand mailboxes mail would stand still for half a second.
            self._newest = await asyncio.to_thread(Standing.of, snapshot, self._states)
        else:
            self._newest = newest.after(changes)
        return self._newest

    async def _follow(self) -> dict[str, TokenState] | None:
        """Take over what has changed since the last look; None where all was read anew."""
        now, position = self._clock(), self._position
        anew = not 0 <= now - self._all_read_at < ANEW
        read = await self._store.database.read(lambda tx: _changes(tx, -FAR if anew else position))
        self._position = read.position
        if read.whole:
            self._states, self._all_read_at = read.states, now
            return None
        self._states.update(read.states)
        return read.states


@dataclass(frozen=True, slots=True)
class _Read:
    """`position` is the newest event's; `whole`: these are the states of all tokens, not just of those that changed."""

    position: int
    whole: bool
    states: dict[str, TokenState]


async def _changes(tx: Transaction, position: int) -> _Read:
    newest = await events.value_of(tx, "event")
    if newest == position:
        return _Read(newest, False, {})
    followed = position < newest < position + FAR and await events.kept_from(tx, newest) <= position + 1
    if followed:
        return _Read(newest, False, await tokens.state_changes(tx, position))
    return _Read(newest, True, await tokens.states(tx))
