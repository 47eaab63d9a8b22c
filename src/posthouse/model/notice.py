"""A notice: what an administrator should know, when that is told, and in which words."""

from dataclasses import dataclass
from datetime import datetime

SETTLE = 30.0
"""Seconds that a notice waits for more of the same before it is told first."""
HOUR = 3600.0
"""Seconds for which more of the same is counted, and told together after them."""
MAILS_AN_HOUR = 12
"""What comes to be told beyond so many mails waits, and shares the next one."""
NAMED = 3
"""How many of those that a notice is about are named."""

WHAT = {
    "token.invalid": "the token is invalid, so its mail waits",
    "token.expiring": "something ends soon",
    "message.failed": "mail could not be delivered",
    "message.parked": "mail waits for a token",
    "queue.stuck": "mail is due, and none of it has gone out",
    "mailbox.silent": "mail should be fetched, and none could be",
    "disk.full": "the disk is nearly full, so mail is refused",
    "authorisation.waiting": "a sign-in waits for a confirmation",
}
"""What deserves a notice, by the kind of its event."""
STEPS = {
    "token.invalid": "Re-authorise",
    "token.expiring": "See what ends, and renew it",
    "message.failed": "See the answers; what failed is kept and can be sent again",
    "message.parked": "Get token",
    "queue.stuck": "See the answers of the provider",
    "mailbox.silent": "Test the mailbox",
    "disk.full": "Make space on it, 64 MB have to be free",
    "authorisation.waiting": "Confirm the person, or end the sign-in",
    "client_changed": "Check the app registration: its secret may have expired",
}
"""The next step, by the kind or by a cause that asks for another one."""
ONCE = ("message.failed",)
"""Kinds that are not mended: they are over when somebody has acknowledged them."""


@dataclass(frozen=True, slots=True)
class About:
    """A mailbox, or an app registration or token that ends, and its name. `ended_at` is 0 while it goes on."""

    subject: str
    name: str
    at: float
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Notice:
    """`topic` is the kind, and what it has in common: for an invalid token the id of its app, and the reason.

    Times are seconds since 1970, 0.0 for never. `count`: how often it has happened. `due_at`: when it is told next.

    `told_count` and `told_open` are how it stood when it was told last. `about`: those that go on first, the newest
    first.
    """

    id: str
    kind: str
    topic: str
    cause: str
    since: float
    ended_at: float
    count: int
    due_at: float
    told_at: float
    told_count: int
    told_open: bool
    acknowledged_at: float = 0.0
    acknowledged_by: str = ""
    about: tuple[About, ...] = ()

    @property
    def open(self) -> bool:
        return self.ended_at == 0

    @property
    def state(self) -> str:
        """open, acknowledged, or mended."""
        return ("acknowledged" if self.acknowledged_at else "open") if self.open else "mended"

    @property
    def concerned(self) -> tuple[About, ...]:
        """Those that it is about at present; all of them once it is mended."""
        return tuple(one for one in self.about if one.ended_at == 0 or not self.open)

    @property
    def is_news(self) -> bool:
        """Whether there is anything to say that has not been said."""
        if not self.open:
            return self.told_open
        return not self.acknowledged_at and not (self.told_open and self.told_count == self.count)

    @property
    def step(self) -> str:
        return STEPS.get(self.cause) or STEPS[self.kind]

    @property
    def path(self) -> str:
        """The page where the next step is taken."""
        concerned = self.concerned
        only = concerned[0].subject if len(concerned) == 1 and concerned[0].subject.startswith("mb_") else ""
        if self.kind in ("message.failed", "queue.stuck"):
            state = "failed" if self.kind == "message.failed" else "queued"
            return f"/outbox?state={state}" + (f"&mailbox={only}" if only else "")
        if self.cause == "client_changed":
            return f"/apps/{self.topic.split()[1]}/check"
        return f"/mailboxes/{only}#token" if only else "/"


def due_after_news(notice: Notice, now: float) -> float:
    """When a notice that has just happened once more is told."""
    if notice.told_at:
        return max(now + SETTLE, notice.told_at + HOUR)
    return notice.due_at or now + SETTLE


def due_after_end(notice: Notice, now: float) -> float:
    """When it is told that a notice is mended; never where it was not told itself."""
    return now + SETTLE if notice.told_open else 0.0


def sentence(notice: Notice, moment: datetime, external_url: str) -> str:
    """What, since when, and the one next step with the page's address. `moment` is `since`, in UTC."""
    since = moment.strftime("since %Y-%m-%d %H:%M UTC")
    what = f"{WHAT[notice.kind]}{_because(notice)}, {since}"
    if not notice.open:
        return f"{names(notice)}: mended ({what})."
    times = f", {notice.count} times" if notice.kind in ONCE and notice.count > 1 else ""
    return f"{names(notice)}: {what}{times}. {notice.step}: {external_url}{notice.path}"


def names(notice: Notice) -> str:
    concerned = notice.concerned
    named = ", ".join(one.name for one in concerned[:NAMED])
    more = len(concerned) - NAMED
    return f"{len(concerned)} mailboxes ({named} and {more} more)" if more > 0 else named


def _because(notice: Notice) -> str:
    return f" ({notice.cause.replace('_', ' ')})" if notice.cause else ""
