"""./dev simulate: tokens kept fresh for as long as one likes, with everything going wrong that can."""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.simulation.world import Plan, report, simulate

TMPFS = Path("/dev/shm")


def main() -> int:
    words = argparse.ArgumentParser(prog="./dev simulate", description=__doc__)
    words.add_argument("--days", type=float, default=365.0, help="simulated days (365)")
    words.add_argument("--mailboxes", type=int, default=20, help="mailboxes, each with a token of its own (20)")
    words.add_argument("--seed", type=int, default=1, help="another seed, another course of things")
    words.add_argument("--seeds", type=int, default=1, help="so many runs, from --seed on")
    words.add_argument("--database", default="", help="postgresql://… instead of the embedded database")
    wanted = words.parse_args()
    broken = 0
    for seed in range(wanted.seed, wanted.seed + wanted.seeds):
        plan = Plan(wanted.mailboxes, wanted.days, seed, database=wanted.database)
        with tempfile.TemporaryDirectory(prefix="posthouse-", dir=TMPFS if TMPFS.is_dir() else None) as data:
            world = simulate(plan, Path(data), partial(show, plan.days))
        print(report(world), flush=True)
        broken += len(world.judge.complaints)
    return 1 if broken else 0


def show(days: float, day: float) -> None:
    """On a terminal: how far it is."""
    if sys.stderr.isatty() and day % 1 < 1 / 1440:
        print(f"\rday {day:.0f} of {days:g} ", end="\n" if day >= days else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
