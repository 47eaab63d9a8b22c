"""What happened in a simulated world, or in several that stood side by side, and how it is told."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.judge import PERIOD
from tests.simulation.provider import HOUR
from tests.simulation.world import BEGIN, DAY, STEPS, World

DRIFT = 6 * HOUR
"""What came due together after an outage has drifted apart by then."""
TOLD = 20
"""Complaints that a report tells; it counts all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`requests` by the period they were sent in; `lost` by the habit of the provider and the reason that was told."""

    worlds: int
    mailboxes: int
    days: float
    seed: int
    refreshes: int
    requests: Counter[int]
    outages: Sequence[tuple[float, float]]
    kills: Counter[str]
    lost: Counter[tuple[str, str]]
    noticed_after: float
    complaints: Sequence[str]

    @classmethod
    def of(cls, world: World) -> "Outcome":
        plan, judge = world.plan, world.judge
        named = f"world {plan.world}, " if plan.worlds > 1 else ""
        return cls(
            worlds=1,
            mailboxes=plan.mailboxes,
            days=plan.days,
            seed=plan.seed,
            refreshes=judge.refreshes,
            requests=Counter(int(at // PERIOD) for at in judge.sent_at),
            outages=world.weather.outages,
            kills=world.kills,
            lost=judge.lost,
            noticed_after=max(judge.notice, default=0.0),
            complaints=[named + complaint for complaint in judge.complaints],
        )

    def __add__(self, other: "Outcome") -> "Outcome":
        """Of two worlds with the same outages."""
        return Outcome(
            worlds=self.worlds + other.worlds,
            mailboxes=self.mailboxes + other.mailboxes,
            days=self.days,
            seed=self.seed,
            refreshes=self.refreshes + other.refreshes,
            requests=self.requests + other.requests,
            outages=self.outages,
            kills=self.kills + other.kills,
            lost=self.lost + other.lost,
            noticed_after=max(self.noticed_after, other.noticed_after),
            complaints=[*self.complaints, *other.complaints],
        )

    def spread(self, begin: float) -> tuple[float, float]:
        """Requests in periods of ten minutes since `begin`, those after outages left out: the fullest over the mean,
        and variance over mean, which is 1 where each comes at a time of its own."""
        first, last = int(begin // PERIOD) + 1, max(self.requests)
        calm = [self.requests[period] for period in range(first, last) if not self._disturbed(period * PERIOD)]
        if not calm:
            return 0.0, 0.0
        mean = statistics.fmean(calm)
        return max(calm) / mean, statistics.pvariance(calm) / mean

    def _disturbed(self, at: float) -> bool:
        return any(start - PERIOD <= at <= end + DRIFT for start, end in self.outages)

    def report(self) -> str:
        """In the words of the promise."""
        fullest, dispersion = self.spread(BEGIN + min(DAY, self.days * DAY / 2))
        nodes = "two nodes" if self.worlds == 1 else f"two nodes in each of {self.worlds} worlds"
        lines = [
            f"seed {self.seed}: {self.mailboxes} mailboxes, {self.days:g} days, {nodes}, {self.refreshes:,} refreshes "
            f"({self.requests.total():,} requests), {len(self.outages)} outages of the providers",
            f"kill -9: {self.kills.total():,} times",
            *(f"  {self.kills[step]:5} {step}" for step in STEPS),
            "tokens that became invalid, by habit of the provider and the reason that was told:",
            *(
                f"  {count:5} {habit.lower().replace('_', ' ')}: {why}"
                for (habit, why), count in sorted(self.lost.items())
            ),
            f"  noticed after {self.noticed_after:,.0f} s at most (an access token lives {HOUR:,.0f} s)",
            "requests in ten minutes: "
            f"the fullest has {fullest:.1f} times the mean, variance over mean {dispersion:.2f}",
            f"promises broken: {len(self.complaints)}",
            *(f"  {complaint}" for complaint in self.complaints[:TOLD]),
        ]
        return "\n".join(lines)
