"""What an account may send in a time, and what it has used of that: as the provider counts, and a little slower.

A provider counts for whoever logs in. Days are the last 24 hours; that also keeps within days of the calendar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

MINUTE = 61.0
"""A second more than the provider's: on the way one message may be quicker than the one before it."""
DAY = 86_400.0
CONNECTIONS = 5
"""Connections to a provider whose limit is not known."""
MESSAGES_REACHED = "the provider's limit of {count} messages a day is reached; goes on at {time} UTC"
RECIPIENTS_REACHED = "the provider's limit of {count} recipients a day is reached; goes on at {time} UTC"
PAUSE_AT_FIRST, PAUSE_AT_MOST = 5.0, 900.0
RECOVER = 60.0
"""Seconds without a complaint after which there may be one connection more, and the next pause is half as long."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a provider allows one account; 0 where nothing is known."""

    connections: int = 0
    messages_per_minute: int = 0
    messages_per_day: int = 0
    recipients_per_day: int = 0
    recipients_per_message: int = 0
    messages_per_connection: int = 0

    @property
    def counts(self) -> bool:
        """Whether anything has to be counted."""
        return bool(self.messages_per_minute or self.messages_per_day or self.recipients_per_day)


@dataclass(slots=True)
class Window:
    """How much was used within the last `length` seconds, by slots of `grain` seconds: a whole slot leaves at once."""

    length: float
    grain: float
    slots: dict[int, int] = field(default_factory=dict)
    total: int = 0

    def use(self, at: float, amount: int) -> None:
        """A negative amount takes back what was used at that time."""
        slot = int(at // self.grain)
        if amount > 0 or slot in self.slots:
            self.slots[slot] = self.slots.get(slot, 0) + amount
            self.total += amount

    def used(self, now: float) -> int:
        last = int(now // self.grain)
        if self.slots and next(reversed(self.slots)) > last + 1:
            self._keep({slot: used for slot, used in self.slots.items() if slot <= last})  # the clock was set back
        while self.slots and self._leaves(first := next(iter(self.slots))) <= now:
            self.total -= self.slots.pop(first)
        return self.total

    def fits_at(self, now: float, amount: int, limit: int) -> float:
        """When so much more stays within the limit; `now` where it does already."""
        excess = self.used(now) + amount - limit
        leaves = now
        for slot, used in self.slots.items():
            if excess <= 0:
                break
            excess, leaves = excess - used, self._leaves(slot)
        return leaves

    def _leaves(self, slot: int) -> float:
        return (slot + 1) * self.grain + self.length

    def _keep(self, slots: dict[int, int]) -> None:
        self.slots, self.total = slots, sum(slots.values())

    def document(self) -> dict[str, int]:
        return {str(slot): used for slot, used in self.slots.items() if used}

    def read(self, document: Mapping[str, int]) -> None:
        self._keep({int(slot): used for slot, used in sorted(document.items(), key=lambda item: int(item[0]))})


class Permit(Struct, frozen=True):
    """One message to so many recipients, counted as sent at that time."""

    at: float
    recipients: int


class UsedUp(Exception):
    """The day's allowance is used up until then."""

    def __init__(self, until: float, cause: str) -> None:
        super().__init__(cause)
        self.until = until
        self.cause = cause


@dataclass(slots=True)
class Pace:
    """What one account has used, and how far it has been slowed down. `changed`: since it was last written down."""

    allowance: Allowance
    minute: Window = field(default_factory=lambda: Window(MINUTE, 1.0))
    messages: Window = field(default_factory=lambda: Window(DAY, 600.0))
    recipients: Window = field(default_factory=lambda: Window(DAY, 600.0))
    rests_until: float = 0.0
    changed: bool = False
    _slowed_at: float = 0.0
    _slowed_to: int = 0
    _pauses: int = 0

    def take(self, now: float, recipients: int) -> Permit | None:
        """For a message to so many, None where it is too early. Raises UsedUp."""
        if not self.allowance.counts:
            return Permit(now, recipients)
        self.check_day(now)
        if self.begins_at(now) > now:
            return None
        self.count(now, recipients)
        return Permit(now, recipients)

    def begins_at(self, now: float) -> float:
        """When one more message may be begun, by the limit of a minute."""
        limit = self.allowance.messages_per_minute
        return self.minute.fits_at(now, 1, limit) if limit else now

    def check_day(self, now: float) -> None:
        """Raises UsedUp."""
        allowed = self.allowance
        for window, limit, cause in (
            (self.messages, allowed.messages_per_day, MESSAGES_REACHED),
            (self.recipients, allowed.recipients_per_day, RECIPIENTS_REACHED),
        ):
            if limit and (until := window.fits_at(now, 1, limit)) > now:
                moment = datetime.fromtimestamp(until, UTC)
                raise UsedUp(until, cause.format(count=f"{limit:,}", time=f"{moment:%H:%M}"))

    def most_recipients(self, now: float, message_limit: int = 0) -> int:
        """How many recipients one transaction may have now; `message_limit` is what was learnt, 0 for nothing."""
        allowed = self.allowance
        left = allowed.recipients_per_day - self.recipients.used(now) if allowed.recipients_per_day else 0
        known = [limit for limit in (allowed.recipients_per_message, message_limit, left) if limit > 0]
        return min(known, default=0)

    def settle(self, permit: Permit, taken: int) -> None:
        """What the provider did not take does not count for the day."""
        if self.allowance.counts and taken < permit.recipients:
            self._count_day(permit.at, int(taken > 0) - 1, taken - permit.recipients)

    def count(self, at: float, recipients: int) -> None:
        """A message to so many was sent at that time."""
        if self.allowance.messages_per_minute:
            self.minute.use(at, 1)
            self.changed = True
        self._count_day(at, 1, recipients)

    def _count_day(self, at: float, messages: int, recipients: int) -> None:
        if self.allowance.messages_per_day:
            self.messages.use(at, messages)
            self.changed = True
        if self.allowance.recipients_per_day:
            self.recipients.use(at, recipients)
            self.changed = True

    # What the provider complains of

    def slow_down(self, now: float) -> None:
        """It has complained of the pace: half the connections, and a pause, twice as long each time."""
        if self.rests_until > now:
            return
        pauses = max(0, self._pauses - self._recovered(now)) + 1
        self._slowed_to = max(1, self.connections(now) // 2)
        self._pauses, self._slowed_at, self.changed = pauses, now, True
        self.rests_until = now + min(PAUSE_AT_FIRST * 2 ** min(pauses - 1, 10), PAUSE_AT_MOST)

    def connections(self, now: float) -> int:
        """How many may be open at once."""
        allowed = self.allowance.connections or CONNECTIONS
        return min(allowed, self._slowed_to + self._recovered(now)) if self._slowed_to else allowed

    def _recovered(self, now: float) -> int:
        """Steps towards the full pace since the last pause ended."""
        return max(0, int((now - max(self._slowed_at, self.rests_until)) // RECOVER))

    # Written down, so that a restart does not begin with a fresh allowance

    def document(self) -> dict[str, Any]:
        return {
            "minute": self.minute.document(),
            "messages": self.messages.document(),
            "recipients": self.recipients.document(),
            "slowed": [self._slowed_at, self._slowed_to, self._pauses, self.rests_until],
        }

    def read(self, document: Mapping[str, Any]) -> None:
        for window, name in ((self.minute, "minute"), (self.messages, "messages"), (self.recipients, "recipients")):
            window.read(document.get(name, {}))
        self._slowed_at, self._slowed_to, self._pauses, self.rests_until = document.get("slowed", (0.0, 0, 0, 0.0))


# A device's own rate

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}


@dataclass(slots=True)
class Rate:
    """So many messages in a time, such as `60/h`."""

    limit: int
    window: Window

    @staticmethod
    def parse(text: str) -> "Rate | None":
        """None where the text is empty: no limit."""
        count, _, unit = text.partition("/")
        if not count.strip().isdecimal() or unit.strip() not in _UNITS:
            return None
        length = _UNITS[unit.strip()]
        return Rate(int(count), Window(length, length / 60))

    def next_at(self, now: float, under_way: int = 0) -> float:
        """When one more message may come; `now` where it may come already."""
        return self.window.fits_at(now, 1 + under_way, self.limit)
