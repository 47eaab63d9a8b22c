"""Keeps account of what was promised and of what arrived, and tells which promise was broken."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.torture.sink import Arrival

KEPT = ("queued", "parked", "failed")


@dataclass(frozen=True, slots=True)
class Letter:
    """`digest` is of what stands below the header; `way` is how it is handed over."""

    message_id: str
    header: bytes
    body: bytes
    recipients: tuple[str, ...]
    way: str
    mailbox: str

    @property
    def text(self) -> bytes:
        return self.header + b"\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Known:
    """What the gateway says of a message in the end."""

    state: str
    unknown: int


@dataclass(slots=True)
class Judge:
    """All by Message-ID. `promised` holds the queue ids, where they were told."""

    given: dict[str, Arrival] = field(default_factory=dict)
    promised: dict[str, str] = field(default_factory=dict)
    by_way: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    unheard: set[str] = field(default_factory=set)
    """Accounts of which the gateway was killed with a refresh under way."""
    renewed: Counter[str] = field(default_factory=Counter)

    def hands_over(self, letter: Letter) -> None:
        digest = hashlib.sha256(letter.body).digest()
        self.given[letter.message_id] = Arrival(digest, tuple(sorted(letter.recipients)))

    def promises(self, letter: Letter, queue_id: str) -> None:
        self.promised[letter.message_id] = queue_id
        self.by_way[letter.way] += 1

    def refuses(self, letter: Letter, answer: str) -> None:
        """Only for now: nothing is wrong with any of them."""
        self.refusals[f"{letter.way}: {answer[:60]}"] += 1
        if answer.startswith("5") and not answer.startswith("503"):
            self.complain(f"{letter.message_id} was refused for good: {answer}")

    def lost_token(self, account: str, reason: str) -> None:
        if reason != "answer_lost" or account not in self.unheard:
            self.complain(f"the token of {account} is lost: {reason}, with no answer lost")
        self.unheard.discard(account)
        self.renewed[account] += 1

    def complain(self, what: str) -> None:
        if what not in self.complaints:
            self.complaints.append(what)

    def decide(self, arrived: Mapping[str, Sequence[Arrival]], known: Mapping[str, Known]) -> None:
        """Once nothing is under way any more."""
        for message_id, queue_id in self.promised.items():
            state = known[message_id].state if message_id in known else "no row"
            if not arrived.get(message_id) and state not in KEPT:
                self.complain(f"{message_id} was promised ({queue_id}) and is lost: {state}")
        for message_id, arrivals in arrived.items():
            self._look_at(message_id, arrivals, known.get(message_id, Known("", 0)).unknown)

    def _look_at(self, message_id: str, arrivals: Sequence[Arrival], unknown: int) -> None:
        if message_id not in self.given:
            self.complain(f"{message_id} arrived, and nobody sent it")
        elif set(arrivals) != {self.given[message_id]}:
            self.complain(f"{message_id} arrived changed, or for others: {self.promised.get(message_id, '?')}")
        if len(arrivals) > 1 + unknown:
            times = f"{len(arrivals)} times, with {unknown} outcomes unknown in the journal"
            self.complain(f"{message_id} ({self.promised.get(message_id, 'not promised')}) arrived {times}")
