"""Which senders a provider has just refused, so that a device is told at once and not by a report days later."""

from dataclasses import dataclass, field

from posthouse.model.mailbox import fold
from posthouse.model.sender import REFUSED_FOR
from posthouse.model.token import TokenState
from posthouse.services.clock import Clock
from posthouse.services.directory import Directory
from posthouse.store import senders
from posthouse.store.events import Event
from posthouse.store.opening import Store


@dataclass(slots=True)
class RefusedSenders:
    """Kept in memory by each node, by mailbox and folded address: when it was refused, under which settings.

    After a change of settings, or with another token, the provider is asked again.
    """

    store: Store
    directory: Directory
    clock: Clock
    _known: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)

    async def start(self) -> None:
        """What was written down before. Raises DatabaseUnavailable."""
        for mailbox_id, found in (await self.store.database.read(senders.everything)).items():
            for learnt in found:
                if learnt.state == "refused":
                    self._note(mailbox_id, learnt.address, learnt.since)

    async def on_event(self, event: Event) -> None:
        if event.kind == "sender.refused":
            self._note(event.subject, event.document["address"], event.at)
        elif event.kind == "sender.allowed":
            self._known.get(event.subject, {}).pop(event.document["address"], None)
        elif event.kind == f"token.{TokenState.ACQUIRED}":
            for user in self.directory.now.uses_now(event.subject):
                self._known.pop(user.mailbox.id, None)

    def __call__(self, mailbox_id: str, address: str) -> bool:
        """Whether mail of this sender would be refused, as far as is known."""
        of_mailbox = self._known.get(mailbox_id)
        found = of_mailbox.get(fold(address)) if of_mailbox else None
        if found is None:
            return False
        at, generation = found
        return self.clock() - at < REFUSED_FOR and generation == self._generation

    def _note(self, mailbox_id: str, address: str, at: float) -> None:
        self._known.setdefault(mailbox_id, {})[address] = (at, self._generation)

    @property
    def _generation(self) -> int:
        return self.directory.now.configuration.generation
