"""The post office behind the mail doors: who may come in, who may send as whom, and where messages lie.

Nothing leaves the machine: mail to any domain that is not the sandbox's own lies in a drop of that address.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from posthouse.protocol.sasl import Credentials
from posthouse.sandbox.drop import Drop
from posthouse.sandbox.grants import Ledger
from posthouse.sandbox.settings import MAIL_SCOPE, Person, SandboxSettings

DOORS = ("smtp", "imap", "pop3")
EVERYBODY = ""
MOST_ELSEWHERE = 10_000
MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one person may do at once; 0 means without limit. `connections` is for sending,
    `reading_connections` for IMAP. `challenge`: see `SandboxSettings`."""

    connections: int = 0
    reading_connections: int = 0
    messages_per_minute: int = 0
    message_size: int = 36_700_160
    challenge: bool = True
    recipients_per_day: int = 0
    recipients_per_message: int = 0


@dataclass(frozen=True, slots=True)
class Login:
    """Who came in (an address, "" for a program by itself) and whose mailbox is open."""

    person: str
    mailbox: str


@dataclass(slots=True)
class PostOffice:
    settings: SandboxSettings
    ledger: Ledger
    limits: Limits
    clock: Callable[[], float] = time.time
    issuer: str = ""
    off: dict[str, set[str]] = field(default_factory=lambda: {door: set() for door in DOORS})
    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    logins: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    connected: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    open: dict[str, Counter[str]] = field(default_factory=lambda: {door: Counter() for door in DOORS})
    _mailboxes: dict[str, Drop] = field(default_factory=dict)
    _elsewhere: dict[str, Drop] = field(default_factory=dict)
    _recent: dict[str, deque[float]] = field(default_factory=dict)
    _day: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)
    _people: dict[str, Person] = field(init=False)
    _names: dict[str, Person] = field(init=False)
    _senders: dict[str, frozenset[str]] = field(init=False)
    _addresses: frozenset[str] = field(init=False)
    _domains: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        people = self.settings.people
        self._people = {person.address.lower(): person for person in people}
        self._names = {person.username.lower(): person for person in people} | self._people
        self._senders = {
            person.address: frozenset(a.lower() for a in (person.address, *person.send_as)) for person in people
        }
        self._addresses = frozenset([*self._people, *(address.lower() for address in self.settings.shared)])
        self._domains = frozenset(address.rpartition("@")[2] for address in self._addresses)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    # Coming in

    def admit(self, door: str, credentials: Credentials) -> Login | None:
        """Whoever shows a live access token for mail, at a mailbox of theirs; None is a refusal."""
        login = self._login(door, credentials)
        (self.refused if login is None else self.logins)[door] += 1
        return login

    def has_password(self, user: str) -> bool:
        person = self._names.get(user.lower())
        return person is not None and person.app_password is not None

    def _login(self, door: str, credentials: Credentials) -> Login | None:
        if self.has_password(credentials.user) and credentials.mechanism in ("PLAIN", "LOGIN"):
            person = self._names[credentials.user.lower()]
            right = person.app_password == credentials.secret
            return Login(person.address, person.address.lower()) if right else None
        access = self.ledger.look_up(credentials.secret.reveal(), self.clock())
        if access is None or MAIL_SCOPE not in access.consent.scopes:
            return None
        user = credentials.user.lower() or access.consent.person.lower()
        if not access.consent.person:
            return Login("", user) if user in self._addresses else None
        person = self._people[access.consent.person.lower()]
        if self._names.get(user) is person:
            return Login(person.address, person.address.lower())
        shared = door != "smtp" and user in (address.lower() for address in person.full_access)
        return Login(person.address, user) if shared else None

    def challenge(self, credentials: Credentials) -> str:
        """Why a login is refused, in JSON: as Google does for XOAUTH2, else as in RFC 7628 section 3.2.2."""
        if not self.limits.challenge:
            return ""
        if credentials.mechanism == "XOAUTH2":
            return json.dumps({"status": "400", "schemes": "Bearer", "scope": MAIL_SCOPE})
        configuration = f"{self.issuer}/.well-known/openid-configuration"
        failure = {"status": "invalid_token", "scope": MAIL_SCOPE, "openid-configuration": configuration}
        return json.dumps(failure)

    def is_off(self, door: str, mailbox: str) -> str:
        """Whether an administrator switched `door` off: "tenant", "mailbox", or "" when it is on."""
        if not self.off[door]:
            return ""
        if EVERYBODY in self.off[door]:
            return "tenant"
        return "mailbox" if mailbox in self.off[door] else ""

    def switch(self, door: str, person: str, *, on: bool) -> None:
        """Switch a protocol for a mailbox, or with "" for all."""
        (self.off[door].discard if on else self.off[door].add)(person.lower())

    def too_many(self, mailbox: str) -> bool:
        """More connections of this mailbox submit at once than are allowed."""
        return 0 < self.limits.connections < self.open["smtp"][mailbox]

    def is_full(self, mailbox: str) -> bool:
        """No further connection may read this mailbox now."""
        return 0 < self.limits.reading_connections <= self.open["imap"][mailbox]

    def too_fast(self, mailbox: str) -> bool:
        """Counts a message about to be sent; True when it is one too many for this minute."""
        if not self.limits.messages_per_minute:
            return False
        now, recent = self.clock(), self._recent.setdefault(mailbox, deque())
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= self.limits.messages_per_minute:
            return True
        recent.append(now)
        return False

    def used_up(self, mailbox: str, recipients: int) -> bool:
        """Counts recipients of a message about to be taken; True when the last 24 hours have had too many."""
        if not self.limits.recipients_per_day:
            return False
        now, day = self.clock(), self._day.setdefault(mailbox, deque())
        while day and day[0][0] <= now - 86_400:
            day.popleft()
        if sum(count for _, count in day) + recipients > self.limits.recipients_per_day:
            return True
        day.append((now, recipients))
        return False

    def address_of(self, user: str) -> str:
        """The address behind a user name, "" for a stranger's."""
        person = self._names.get(user.lower())
        return person.address if person else ""

    # Sending

    def may_send_as(self, login: Login, sender: str) -> bool:
        if not login.person:
            return sender.lower() == login.mailbox
        return sender.lower() in self._senders[login.person]

    def takes(self, recipient: str) -> bool:
        """Every address elsewhere, and those mailboxes that exist here."""
        return self.knows(recipient) or recipient.lower().rpartition("@")[2] not in self._domains

    def knows(self, address: str) -> bool:
        return address.lower() in self._addresses

    def put(self, recipient: str, sender: str, message: bytes) -> None:
        """Deliver, with the envelope's sender on top (RFC 5321 section 4.4)."""
        address = recipient.lower()
        self.received[address] += 1
        body = b"Return-Path: <%s>\r\n%s" % (sender.encode(), message)
        self.drop(address).deliver(body, self.now())

    def drop(self, address: str) -> Drop:
        """Where mail for an address (in lower case) lies, here or elsewhere."""
        drops = self._mailboxes if address in self._addresses else self._elsewhere
        drop = drops.get(address)
        if drop is None:
            if drops is self._elsewhere and len(drops) >= MOST_ELSEWHERE:
                del drops[next(iter(drops))]
            drop = drops[address] = Drop(int(self.clock()), self.settings.kept_messages, self.settings.kept_octets)
        return drop

    # Looking in from the control door

    def list_messages(self, address: str) -> list[dict[str, Any]]:
        drops = self._mailboxes | self._elsewhere
        if address.lower() not in drops:
            return []
        messages = list(drops[address.lower()].inbox.messages.values())[-MOST_LISTED:]
        return [{"uid": m.uid, "size": len(m.body), "text": m.body.decode(errors="replace")} for m in messages]

    def counts(self) -> dict[str, Any]:
        return {
            "received": dict(self.received),
            "sent": dict(self.sent),
            "logins": dict(self.logins),
            "refused_logins": dict(self.refused),
            "connections": dict(self.connected),
            "complaints": dict(self.complaints),
            "open": {door: dict(+count) for door, count in self.open.items()},
        }

    def reset(self) -> None:
        for counter in (self.received, self.sent, self.logins, self.refused, self.connected, self.complaints):
            counter.clear()
        for people in self.off.values():
            people.clear()
        self._elsewhere.clear()
        for drop in self._mailboxes.values():
            drop.empty()
        self._recent.clear()
        self._day.clear()
