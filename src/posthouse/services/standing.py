"""How all mailboxes stand, counted: which state the token of each is in, with nothing read that has not changed.

The states of all tokens are read once and kept in memory; events tell which have changed since, at whatever node.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from posthouse.model.mailbox import Mailbox, Purpose
from posthouse.model.token import TokenState
from posthouse.services.directory import Directory, Snapshot
from posthouse.services.overview import URGENT
from posthouse.store import events, tokens
from posthouse.store.database import Transaction
from posthouse.store.opening import Store

FAR = 100_000
"""Events after which everything is read anew, rather than what has changed."""
PASSWORD: Literal["password"] = "password"  # noqa: S105 - the word for a mailbox that uses no token
ATTENTION = (TokenState.INVALID, TokenState.NOT_ACQUIRED, TokenState.WAITING)
"""States in which somebody has to do something, the most urgent first."""


@dataclass(frozen=True)
class Standing:
    """One moment. `states` has the tokens that settings use or wait for."""

    snapshot: Snapshot
    states: Mapping[str, TokenState]

    @cached_property
    def by_state(self) -> dict[str, list[Mailbox]]:
        """Mailboxes by address, under the state of the token in use that needs somebody most, or `password`."""
        found: dict[str, list[Mailbox]] = {state: [] for state in (*URGENT, PASSWORD)}
        for mailbox in self.snapshot.ordered:
            found[self._worst.get(mailbox.id, PASSWORD)].append(mailbox)
        return found

    @cached_property
    def _worst(self) -> dict[str, TokenState]:
        found: dict[str, TokenState] = {}
        for token_id, state in sorted(self._in_use, key=lambda one: -URGENT.index(one[1])):
            found.update((user.mailbox.id, state) for user in self.snapshot.in_use[token_id])
        return found

    @property
    def _in_use(self) -> Iterator[tuple[str, TokenState]]:
        return ((token_id, self.states[token_id]) for token_id in self.snapshot.in_use if token_id)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Mailboxes by the same words."""
        return {state: len(found) for state, found in self.by_state.items()}

    @cached_property
    def attention(self) -> Sequence[Mailbox]:
        """The mailboxes for which somebody has to do something, the most urgent first."""
        return [mailbox for state in ATTENTION for mailbox in self.by_state[state]]

    @cached_property
    def broken(self) -> Sequence[str]:
        """Ids of the tokens in use that a provider refuses, by the address of their first mailbox."""
        invalid = [token_id for token_id, state in self._in_use if state is TokenState.INVALID]
        return sorted(invalid, key=lambda token_id: self.snapshot.in_use[token_id][0].mailbox.address)

    @cached_property
    def settings(self) -> Counter[tuple[Purpose, TokenState]]:
        """How many settings of each purpose use a token in each state."""
        found: Counter[tuple[Purpose, TokenState]] = Counter()
        for token_id, state in self._in_use:
            found.update((purpose, state) for user in self.snapshot.in_use[token_id] for purpose in user.purposes)
        return found


class Standings:
    """Gives the newest standing; what was worked out for it is kept until something changes."""

    def __init__(self, store: Store, directory: Directory) -> None:
        self._store = store
        self._directory = directory
        self._states: dict[str, TokenState] = {}
        self._position = -FAR
        self._newest: Standing | None = None
        self._reading = asyncio.Lock()

    async def look(self) -> Standing:
        """Raises DatabaseUnavailable."""
        async with self._reading:
            await self._directory.refresh()
            changed = await self._follow()
            snapshot = self._directory.now
            if changed or self._newest is None or self._newest.snapshot is not snapshot:
                self._newest = Standing(snapshot, self._states_of(snapshot))
            return self._newest

    async def _follow(self) -> bool:
        """Take over what has changed since the last look; whether there was anything."""
        before = self._position
        position, whole, changes = await self._store.database.read(lambda tx: _changes(tx, before))
        if whole:
            self._states.clear()
        self._states.update(changes)
        self._position = position
        return whole or bool(changes)

    def _states_of(self, snapshot: Snapshot) -> dict[str, TokenState]:
        ids = {token_id for token_id, _ in snapshot.waiting}.union(snapshot.in_use)
        return {token_id: self._states.get(token_id, TokenState.NOT_ACQUIRED) for token_id in ids if token_id}


async def _changes(tx: Transaction, position: int) -> tuple[int, bool, dict[str, TokenState]]:
    """The newest event, whether these are the states of all tokens, and the states."""
    newest = await events.value_of(tx, "event")
    if newest - position >= FAR:
        return newest, True, await tokens.states(tx)
    return newest, False, await tokens.state_changes(tx, position) if newest > position else {}
