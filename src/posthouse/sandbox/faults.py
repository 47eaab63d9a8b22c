"""Fault switches: what shall go wrong, where, for whom and how often. Pure; the doors ask and obey.

A place is `token`, `smtp.end`, `imap.select` and so on (`PLACES`); a fault at `smtp` covers all of SMTP.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from posthouse.sandbox.answers import NAMED

Action = Literal["answer", "cut", "lose", "alter", "pass"]
"""answer: with the given status, body or reply. cut: the connection, before anything is done.
lose: do it, then cut instead of answering. alter: do it, and answer with the members of `body` put into the true
answer, JSON in JSON; those that are null are left out. pass: go on (with a delay, a slow server)."""

ACTIONS: tuple[Action, ...] = get_args(Action)
PLACES = (
    *("discovery", "authorize", "token", "device_authorization", "device"),
    *("jwks", "revoke", "introspect", "userinfo"),
    *("smtp", "smtp.connect", "smtp.hello", "smtp.starttls", "smtp.auth"),
    *("smtp.mail", "smtp.rcpt", "smtp.data", "smtp.body", "smtp.end"),
    *("imap", "imap.connect", "imap.starttls", "imap.auth", "imap.list", "imap.select", "imap.status"),
    *("imap.fetch", "imap.store", "imap.expunge", "imap.idle", "imap.command"),
    *("pop3", "pop3.connect", "pop3.starttls", "pop3.auth", "pop3.stat"),
    *("pop3.retr", "pop3.dele", "pop3.quit", "pop3.command"),
)
REPLIES = {
    "smtp": re.compile(r"[2-5][0-9][0-9] [ -~]+"),
    "imap": re.compile(r"(?:OK|NO|BAD|BYE) [ -~]+"),
    "pop3": re.compile(r"(?:\+OK|-ERR)(?: [ -~]+)?"),
}
TEMPORARY = {
    "smtp": NAMED["smtp-server-error"],
    "imap": NAMED["imap-unavailable"],
    "pop3": NAMED["pop3-temporary"],
}
MOST_FAULTS = 1000
MOST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch. `person` "" means everybody; `times` 0 means until taken away; the first `skip` go well.

    HTTP: `status`, `error` (an OAuth error), `body` ("html", "large" for 1 MB of JSON, or literal text),
    `retry_after` seconds. Mail: `reply`, the literal answer or the name of one (see `answers.NAMED`).
    """

    place: str
    action: Action
    person: str = ""
    times: int = 0
    skip: int = 0
    delay: float = 0.0
    status: int = 503
    error: str = "temporarily_unavailable"
    body: str = ""
    retry_after: int = 0
    reply: str = ""
    id: int = 0

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"There is no place {self.place!r}; the places are {', '.join(PLACES)}.")
        if self.action not in ACTIONS:
            raise ValueError(f"There is no action {self.action!r}; the actions are {', '.join(ACTIONS)}.")
        if not (0 <= self.delay <= MOST_SECONDS and self.times >= 0 and self.skip >= 0):
            raise ValueError("delay, times and skip are not negative, and delay is an hour at most.")
        if self.action == "alter" and not isinstance(_json(self.body), dict):
            raise ValueError("body is the members to put into the answer, as a JSON object.")
        if not 200 <= self.status <= 599:
            raise ValueError("status is an HTTP status.")
        wanted = REPLIES.get(self.protocol)
        if wanted and self.reply and not wanted.fullmatch(self.literal):
            raise ValueError(f"This is no answer of {self.protocol}: {self.reply!r}.")

    @property
    def protocol(self) -> str:
        return self.place.partition(".")[0]

    @property
    def literal(self) -> str:
        """The reply in its own words; where none was asked for, one that says to try again later."""
        return NAMED.get(self.reply, self.reply) or TEMPORARY.get(self.protocol, "")

    def covers(self, place: str, people: tuple[str, ...]) -> bool:
        if self.place not in (place, place.partition(".")[0]):
            return False
        return not self.person or self.person.lower() in people


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@dataclass(slots=True)
class Faults:
    """The switches in force, in the order they were set; the first that covers a place acts."""

    active: tuple[Fault, ...] = ()
    hits: Counter[int] = field(default_factory=Counter)
    _last: int = 0

    def add(self, fault: Fault) -> Fault:
        """Set a switch; the answer carries its id. Raises ValueError past `MOST_FAULTS`."""
        if len(self.active) >= MOST_FAULTS:
            raise ValueError(f"There are {MOST_FAULTS} faults already.")
        self._last += 1
        fault = replace(fault, id=self._last)
        self.active = (*self.active, fault)
        return fault

    def remove(self, id: int = 0) -> None:
        """Take one switch away, or with 0 all of them."""
        self.active = tuple(fault for fault in self.active if id and fault.id != id)

    def take(self, place: str, *people: str) -> Fault | None:
        """The fault that acts now at `place` for one of `people` (addresses), counted; None when all is well."""
        if not self.active:
            return None
        lowered = tuple(person.lower() for person in people)
        fault = next((fault for fault in self.active if fault.covers(place, lowered)), None)
        if fault is None:
            return None
        self.hits[fault.id] += 1
        if self.hits[fault.id] <= fault.skip:
            return None
        if fault.times and self.hits[fault.id] >= fault.skip + fault.times:
            self.remove(fault.id)
        return fault
