"""Watches a simulation from outside and complains about whatever was promised not to happen."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from posthouse.model.token import Grant, Token, TokenState
from tests.simulation.provider import HOUR, Consent, Habit, Provider, Weather

NOTICED = HOUR
"""A refresh interval: as long as an access token lives."""
AFTER_OUTAGE = 1200.0
"""What an outage may delay beyond its own length: the longest pause between two tries, and the tries themselves."""
PERIOD = 600.0
"""Requests are counted in periods of so many seconds."""


@dataclass(slots=True)
class Sent:
    grant_id: str
    node: Any
    refresh_token: str
    at: float


@dataclass(slots=True)
class Judge:
    provider: Provider
    weather: Weather
    began: float
    complaints: list[str] = field(default_factory=list)
    serving: dict[str, str] = field(default_factory=dict)
    """The grant that serves, by token."""
    refreshes: int = 0
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tokens that became invalid, by the habit of their provider and the reason that was told."""
    notice: list[float] = field(default_factory=list)
    """Seconds from the end of a consent to the word about it."""
    sent_at: "array[float]" = field(default_factory=lambda: array("d"))
    _known: dict[str, str] = field(default_factory=dict)
    _leases: Counter[str] = field(default_factory=Counter)
    _open: dict[str, Sent] = field(default_factory=dict)

    def complain(self, what: str, now: float) -> None:
        self.complaints.append(f"second {now - self.began:.1f}: {what}")

    def holds(self, token_id: str, grant_id: str, now: float) -> None:
        self.serving[token_id] = grant_id
        self._known[grant_id] = f"{grant_id}.1"

    def sends(self, node: Any, refresh_token: str, now: float) -> Sent:
        grant_id = refresh_token.rpartition(".")[0]
        before = self._open.get(grant_id)
        if before is not None:
            self.complain(
                f"{node.name} sends {refresh_token} while a request of {before.node.name}"
                f"{'' if before.node.alive else ', which was killed,'} is under way since {now - before.at:.1f} s",
                now,
            )
        if self._known[grant_id] != refresh_token:
            self.complain(f"{node.name} sends {refresh_token} when {self._known[grant_id]} was written already", now)
        sent = self._open[grant_id] = Sent(grant_id, node, refresh_token, now)
        self.sent_at.append(now)
        return sent

    def ends(self, sent: Sent) -> None:
        if self._open.get(sent.grant_id) is sent:
            del self._open[sent.grant_id]

    def leases(self, grant_id: str) -> None:
        """Somebody is about to ask; if this is the second since an answer was written, the first may have been lost."""
        self._leases[grant_id] += 1

    def written(self, grant_id: str, refresh_token: str, now: float) -> None:
        self.refreshes += 1
        self._leases[grant_id] = 0
        self._known[grant_id] = refresh_token
        consent = self.provider.consents[grant_id]
        if consent.newest == int(refresh_token.rpartition(".")[2]):
            consent.last_unheard = 0.0

    def invalid(self, token_id: str, reason: str, now: float) -> None:
        consent = self.provider.consents[self.serving[token_id]]
        self.lost[consent.habit.name, reason] += 1
        ended = self._end_of(consent)
        if ended is None:
            self.complain(f"{consent.name} ({consent.habit.name}) is lost for no reason: {reason}", now)
            return
        self.notice.append(now - ended)
        if now - ended > NOTICED + self._outage_since(ended, now):
            self.complain(f"{consent.name} ended and was noticed only {now - ended:.0f} s later", now)
        if not consent.revoked_at and reason != "answer_lost":
            self.complain(f"{consent.name} was lost with an answer, and {reason} was told", now)
        if consent.revoked_at and reason != "revoked" and self._leases[consent.name] < 2:
            self.complain(f"{consent.name} was revoked, no answer can have been lost, and {reason} was told", now)

    def _end_of(self, consent: Consent) -> float | None:
        """When it came to its end: revoked, or an answer of which nobody heard at a provider that punishes."""
        if consent.revoked_at:
            return consent.revoked_at
        if consent.habit is Habit.PUNISHES and consent.last_unheard:
            return consent.last_unheard
        return None

    def _outage_since(self, begin: float, now: float) -> float:
        overlaps = [min(now, end) - max(begin, start) for start, end in self.weather.outages]
        spent = sum(max(0.0, one) for one in overlaps)
        return spent + AFTER_OUTAGE if spent else 0.0

    def audits(self, token: Token, grant: Grant, now: float) -> None:
        """At the end every token is either good at its provider or said to be broken."""
        consent = self.provider.consents[grant.id]
        number = int(grant.refresh_token.reveal().rpartition(".")[2]) if grant.refresh_token else 0
        ended = self._end_of(consent)
        fresh = ended is not None and now - ended <= NOTICED + self._outage_since(ended, now)
        if token.state is TokenState.ACQUIRED and not consent.accepts(number) and not fresh:
            self.complain(f"{consent.name} is called acquired and would be refused", now)
        if token.state is TokenState.INVALID and ended is None:
            self.complain(f"{consent.name} is called invalid and would serve", now)
        stale = now - grant.access_expires_at
        if token.state is TokenState.ACQUIRED and stale > self._outage_since(now - HOUR, now):
            self.complain(f"{consent.name} has had no access token for {stale:.0f} s", now)
