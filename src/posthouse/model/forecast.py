"""What a token lives on and when that ends, so that people hear of it before: 60, 30, 14, 7, 3 and 1 days."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

DAY = 86_400.0
HOUR = 3600.0
DISTANCES = (60, 30, 14, 7, 3, 1)
"""Days before an end at which it is told."""


class Ends(StrEnum):
    """What it is that ends."""

    CLIENT_SECRET = "client_secret"  # noqa: S105 - a word, no secret
    CERTIFICATE = "certificate"
    CONSENT = "consent"
    """The provider gave the permission for a time, and said for how long."""
    TEST_MODE = "test_mode"
    """The app is in test mode at the provider, where permissions end after days."""
    IDLE = "idle"
    """A refresh token that is not used for too long, while renewing fails."""


NEXT_STEP = {
    Ends.CLIENT_SECRET: "renew_secret",
    Ends.CERTIFICATE: "renew_certificate",
    Ends.CONSENT: "reauthorise",
    Ends.TEST_MODE: "publish_app",
    Ends.IDLE: "mend_renewal",
}


@dataclass(frozen=True, slots=True, order=True)
class Ending:
    """`at`: the second since 1970 from which on it is over."""

    at: float
    what: Ends

    @property
    def next_step(self) -> str:
        return NEXT_STEP[self.what]

    def days_left(self, now: float) -> int:
        """Days begun until then; 0 when it is over."""
        return max(0, math.ceil((self.at - now) / DAY))

    def distance(self, now: float) -> int | None:
        """The nearest of DISTANCES that has been passed; None while it is still farther away than all of them."""
        left = self.days_left(now)
        return min((days for days in DISTANCES if left <= days), default=None)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """What the provider and the settings of the app registration say about refresh tokens; None: nothing known.

    `testing`: the app is in test mode at the provider.
    """

    idle_days: int | None = None
    testing_days: int | None = None
    testing: bool = False


@dataclass(frozen=True, slots=True)
class Course:
    """How a grant has fared, in seconds since 1970; 0.0 where there is nothing to tell.

    `told_end` and `latest_end`: the end of the refresh token as the provider named it first and last.
    `next_refresh_at` is 0.0 where it is not renewed any more.
    """

    obtained_at: float
    refreshed_at: float
    next_refresh_at: float
    failures: int = 0
    told_end: float = 0.0
    latest_end: float = 0.0


def of_date(what: Ends, day: str) -> Ending | None:
    """The end of something that has a date, such as 2027-05-01: the first second of that day. None where it has none.

    Providers show the day and not the hour, and the day counts from midnight in UTC.
    """
    try:
        first = date.fromisoformat(day)
    except ValueError:
        return None
    return Ending(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp(), what)


def of_grant(course: Course, known: Lifetimes) -> tuple[Ending, ...]:
    """What ends of a grant that serves. A token that is renewed in time has no end of its own."""
    fixed = _test_mode(course, known) or _consent(course)
    outlived = fixed is not None and fixed.at < course.refreshed_at
    end = _idle(course, known) if fixed is None or outlived else fixed
    return (end,) if end is not None else ()


def _test_mode(course: Course, known: Lifetimes) -> Ending | None:
    """Told by the settings, or guessed from the provider's own words: a time just as long as in its test mode."""
    if known.testing_days is None:
        return None
    end = course.obtained_at + known.testing_days * DAY
    guessed = abs(course.told_end - end) < HOUR and not _moves(course)
    return Ending(end, Ends.TEST_MODE) if known.testing or guessed else None


def _consent(course: Course) -> Ending | None:
    """The end that the provider named, once renewals have shown that they do not move it, or move it no more."""
    if not course.told_end:
        return None
    life = course.told_end - course.obtained_at
    tried = course.refreshed_at - course.obtained_at >= min(HOUR / 2, life / 4)
    if tried and not _moves(course):
        return Ending(course.told_end, Ends.CONSENT)
    spent = course.latest_end - course.refreshed_at < life / 2
    return Ending(course.latest_end, Ends.CONSENT) if tried and spent else None


def _moves(course: Course) -> bool:
    """Whether each renewal puts the end off. Measured by half of the time that went by: clocks may be set right."""
    return course.latest_end - course.told_end > (course.refreshed_at - course.obtained_at) / 2


def _idle(course: Course, known: Lifetimes) -> Ending | None:
    """Nothing while it is renewed before that: a token in use does not idle."""
    ends = [course.latest_end] if course.latest_end > course.refreshed_at else []
    if known.idle_days is not None:
        ends.append(course.refreshed_at + known.idle_days * DAY)
    renewed = course.failures == 0 and course.next_refresh_at > 0
    if not ends or (renewed and course.next_refresh_at < min(ends)):
        return None
    return Ending(min(ends), Ends.IDLE)
