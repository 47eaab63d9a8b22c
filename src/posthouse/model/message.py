"""A message on its way, and when it is tried again."""

from enum import StrEnum

from msgspec import Struct


class MessageState(StrEnum):
    QUEUED = "queued"
    """Waits for its next attempt, or is being handed over."""
    PARKED = "parked"
    """Waits for a token, or for a person; spends no attempts."""
    SENT = "sent"
    FAILED = "failed"
    """Refused for good or past its deadline, and kept."""


class Stage(StrEnum):
    """How far the present attempt has come; written down so that a crash can be told apart afterwards."""

    WAITING = ""
    CLAIMED = "claimed"
    HANDING_OVER = "handing over"


class Recipient(Struct, frozen=True, array_like=True):
    """`state`: waiting, sent or failed. `answer` is the server's last word on this recipient. Stored as three texts."""

    address: str
    state: str = "waiting"
    answer: str = ""


class Envelope(Struct, frozen=True):
    sender: str
    recipients: tuple[str, ...]
    smtputf8: bool = False
    eight_bit: bool = False


class NewMessage(Struct, frozen=True):
    """What was accepted. `body` is sealed: all of it, or just its header where the rest lies in `pieces`."""

    id: str
    mailbox_id: str
    device: str
    envelope: Envelope
    message_id: str
    subject: str
    size: int
    body: bytes
    pieces: int = 0

    def __repr__(self) -> str:
        return f"NewMessage({self.id})"


class QueuedMessage(Struct, frozen=True):
    """A message as the dispatcher gets it."""

    id: str
    mailbox_id: str
    device: str
    sender: str
    recipients: tuple[Recipient, ...]
    message_id: str
    size: int
    smtputf8: bool
    eight_bit: bool
    attempts: int
    created_at: float
    deadline_at: float
    body: bytes
    pieces: int = 0
    queued_at: float = 0.0

    def __repr__(self) -> str:
        return f"QueuedMessage({self.id})"

    @property
    def asked_again_at(self) -> float:
        """When somebody, or a new token, let it go on; 0.0 where it waits since it was accepted."""
        return self.queued_at if self.queued_at > self.created_at else 0.0

    @property
    def waiting(self) -> tuple[str, ...]:
        return tuple(recipient.address for recipient in self.recipients if recipient.state == "waiting")


DEADLINE = 5 * 86_400.0
"""Seconds after which a message that could not be delivered fails (parked time does not count)."""

_PAUSES = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)


def pause_before(attempt: int, chance: float) -> float:
    """Seconds before the next attempt after `attempt` failed ones; `chance` in [0, 1) spreads them by a fifth."""
    pause = _PAUSES[min(attempt, len(_PAUSES)) - 1] if attempt > 0 else 0.0
    return pause * (0.9 + 0.2 * chance)
