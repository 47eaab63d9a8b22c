"""Sign-in servers as they are: they rotate, some of them punish, they are busy, and answers get lost on the way."""

import random
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec

from posthouse.oauth.message import Answer

HOUR = 3600.0


class Habit(Enum):
    """What a provider does about refresh tokens."""

    NEVER_ROTATES = auto()
    KEEPS_OLD = auto()
    """Rotates; every refresh token of the consent goes on working."""
    OVERLAPS = auto()
    """Rotates; the one before works until the new one has been used."""
    PUNISHES = auto()
    """Rotates; whoever comes with an old one has the whole consent revoked (RFC 9700 section 4.14.2)."""


@dataclass(slots=True)
class Consent:
    """What the provider knows of one grant. `newest` is the number of its last refresh token."""

    name: str
    habit: Habit
    newest: int = 1
    before: int = 0
    revoked_at: float = 0.0
    punished_at: float = 0.0
    last_unheard: float = 0.0
    """When an answer with a new refresh token was last made that nobody has written down."""

    @property
    def alive(self) -> bool:
        return not self.revoked_at and not self.punished_at

    def accepts(self, number: int) -> bool:
        match self.habit:
            case Habit.KEEPS_OLD | Habit.NEVER_ROTATES:
                return self.alive
            case Habit.OVERLAPS:
                return self.alive and number in (self.newest, self.before)
            case Habit.PUNISHES:
                return self.alive and number == self.newest

    def use(self, number: int, now: float) -> bool:
        """Somebody comes with refresh token `number`."""
        if not self.accepts(number):
            if self.alive and self.habit is Habit.PUNISHES:
                self.punished_at = now
            return False
        if self.habit is not Habit.NEVER_ROTATES:
            self.before, self.newest = number, self.newest + 1
            self.last_unheard = now
        return True


@dataclass(slots=True)
class Provider:
    """All consents of one simulation, by name. A refresh token is `name.number`."""

    consents: dict[str, Consent] = field(default_factory=dict)

    def consent_of(self, refresh_token: str) -> tuple[Consent, int]:
        name, _, number = refresh_token.rpartition(".")
        return self.consents[name], int(number)

    def answer(self, refresh_token: str, now: float) -> Answer:
        consent, number = self.consent_of(refresh_token)
        if not consent.use(number, now):
            return said(400, error="invalid_grant", error_description="The refresh token was revoked or is unknown.")
        members: dict[str, object] = {"access_token": f"access-{consent.name}.{now:.3f}", "expires_in": int(HOUR)}
        if consent.habit is not Habit.NEVER_ROTATES:
            members["refresh_token"] = f"{consent.name}.{consent.newest}"
        return said(200, **members)


def said(status: int, **members: object) -> Answer:
    return Answer(status, {}, msgspec.json.encode(members))


class Trouble(Enum):
    """What happens to one request. After those of ACTED the provider has done what it was asked."""

    NONE = auto()
    SLOW = auto()
    NO_NAME = auto()
    NO_CONNECTION = auto()
    TOO_MANY = auto()
    BUSY = auto()
    BROKEN = auto()
    REQUEST_LOST = auto()
    ANSWER_LOST = auto()
    CUT_OFF = auto()
    BAD_GATEWAY = auto()
    PAGE = auto()


ACTED = {Trouble.NONE, Trouble.SLOW, Trouble.ANSWER_LOST, Trouble.CUT_OFF, Trouble.BAD_GATEWAY, Trouble.PAGE}
OUTAGE = (Trouble.NO_NAME, Trouble.NO_CONNECTION, Trouble.BUSY, Trouble.TOO_MANY, Trouble.REQUEST_LOST)


@dataclass(slots=True)
class Weather:
    """Troubles at random, and whole outages now and then: `outages` are (from, to)."""

    chance: random.Random
    rate: float
    lost: float
    outages: list[tuple[float, float]] = field(default_factory=list)

    def trouble(self, now: float) -> Trouble:
        if any(begin <= now < end for begin, end in self.outages[-2:]):
            return self.chance.choice(OUTAGE)
        draw = self.chance.random()
        if draw < self.lost:
            return self.chance.choice((Trouble.ANSWER_LOST, Trouble.CUT_OFF, Trouble.BAD_GATEWAY, Trouble.PAGE))
        if draw < self.lost + self.rate:
            return self.chance.choice((*OUTAGE, Trouble.BROKEN, Trouble.SLOW))
        return Trouble.NONE
