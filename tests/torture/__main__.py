"""./dev torture: `kill -9` again and again under load; nothing that was accepted is lost, or doubled unawares."""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support import postgres
from tests.torture.world import Plan, report, torture


def main() -> int:
    words = argparse.ArgumentParser(prog="./dev torture", description=__doc__)
    words.add_argument("--kills", type=int, default=500, help="how often the gateway is killed (500)")
    words.add_argument("--senders", type=int, default=20, help="programs that hand mail over at once (20)")
    words.add_argument("--seed", type=int, default=1, help="another seed, another course of things")
    words.add_argument("--database", default="", help="'postgresql' for one of our own, or postgresql://…")
    wanted = words.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="posthouse-torture-"))
    with _database(wanted.database) as url:
        world = asyncio.run(torture(Plan(wanted.kills, wanted.senders, wanted.seed, url), directory, show))
    print(report(world), flush=True)
    if world.judge.complaints:
        print(f"everything is kept in {directory}", flush=True)
        return 1
    _forget(directory)
    return 0


@contextlib.contextmanager
def _database(name: str) -> Iterator[str]:
    if name != "postgresql":
        yield name
        return
    with postgres.server() as server:
        yield server.url("postgres")


def _forget(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def show(line: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    print(f"\r\033[K{line}" if not end else line, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.nice(5)
    raise SystemExit(main())
