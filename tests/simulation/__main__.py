"""./dev simulate: tokens kept fresh for as long as one likes, with everything going wrong that can."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.world import Plan
from tests.simulation.worlds import Progress, WorldEnded, play, shares

EXAMPLE = "example: ./dev simulate --days 14 --mailboxes 1000 --seed 7"
SELDOM = 60.0
"""Seconds between two lines about how far it is where nobody looks at a terminal."""


def main(words: Sequence[str] | None = None) -> int:
    wanted = _words().parse_args(words)
    worlds = 1 if wanted.database else min(wanted.jobs, wanted.mailboxes)
    failed = False
    for seed in range(wanted.seed, wanted.seed + wanted.seeds):
        plans = shares(Plan(wanted.mailboxes, wanted.days, seed, database=wanted.database), worlds)
        if wanted.only is not None:
            plans = [plan for plan in plans if plan.world == wanted.only]
        try:
            outcome = play(plans, Show(wanted.days))
        except WorldEnded as ended:
            print(f"seed {seed}: {ended}; what it said stands above.", file=sys.stderr)
            return 1
        print(outcome.report(), flush=True)
        failed |= bool(outcome.complaints)
    return 1 if failed else 0


def _words() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="./dev simulate", description=__doc__, epilog=EXAMPLE)
    words.add_argument("--days", type=float, default=365.0, help="simulated days (365)")
    words.add_argument("--mailboxes", type=_at_least_one, default=20, help="mailboxes, each with its own token (20)")
    words.add_argument("--seed", type=int, default=1, help="another seed, another course of things")
    words.add_argument("--seeds", type=_at_least_one, default=1, help="so many runs, from --seed on")
    words.add_argument(
        "--jobs",
        type=_at_least_one,
        default=len(os.sched_getaffinity(0)),
        help="processes, each with a share of the mailboxes in a world of its own (one for each processor here); "
        "another number, another course of things",
    )
    words.add_argument("--only", type=int, metavar="WORLD", help="of these only the one with this number, from 0 on")
    words.add_argument("--database", default="", help="postgresql://… instead of the embedded database; one process")
    return words


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


@dataclass(slots=True)
class Show:
    """How far it is: on a terminal all the time, in a file a line each minute."""

    days: float
    began: float = field(default_factory=time.monotonic)
    _next: float = 0.0

    def __call__(self, worlds: list[Progress]) -> None:
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if not terminal and now < self._next:
            return
        self._next = now + SELDOM
        line = self.line(worlds, now - self.began)
        print(f"\r{line} \x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def line(self, worlds: list[Progress], spent: float) -> str:
        refreshes = sum(one.refreshes for one in worlds)
        done = sum(one.day for one in worlds) / len(worlds) / self.days
        left = f"{spent / done - spent:,.0f} s left" if done > 0.001 else "just begun"
        day, speed = min(one.day for one in worlds), refreshes / max(spent, 0.1)
        return f"day {day:.1f} of {self.days:g}, {refreshes:,} refreshes, {speed:,.0f} a second, {left}"


if __name__ == "__main__":
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.default_int_handler)  # A shell has one in the background ignore Ctrl-C.
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
