"""How fast mail goes through the gateway, beside the same clients talking to the same provider directly.

Everything runs on this machine and on loopback: clients, gateway and provider, each a process of its own. The
gateway is `posthouse serve` with its embedded database on disk; the provider is a sink that takes everything.
Ratios are of the same run; CPU a message is the steadier figure where others use the machine as well.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gateway import DEVICE, MAILBOX, Place, Serving, furnish, make_place, sandbox
from generator import Order
from measure import Counter, Process, Runs, table, wait_for, wait_for_file

HERE = Path(__file__).parent
WARM_UP = 200
MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """`through` the gateway, or direct; `tls` with the client."""

    name: str
    through: bool = True
    tls: bool = False
    a_connection: int = 1
    size: int = 2048
    share: float = 1.0


DIRECT = Case("direct: a connection each, TLS, XOAUTH2", through=False, tls=True)
CASES = (
    DIRECT,
    Case("a connection each, plain in"),
    Case("a connection each, TLS in", tls=True),
    Case("100 a connection, plain in", a_connection=100, share=2.0),
    Case("200 KB, 10 a connection, plain in", a_connection=10, size=200 * 1024, share=0.2),
)


@dataclass(slots=True)
class Figures:
    """What was measured of one case, run by run. `cpu` is in microseconds a message, `wait` in milliseconds."""

    accepted: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, place: Place, words: argparse.Namespace) -> None:
        self.place = place
        self.words = words
        self.counter = Counter(place.directory / "arrived", create=True)
        self.sent = 0
        self.sink_port = 0
        self.password = ""
        self.serving: Serving | None = None

    @contextmanager
    def sink(self) -> Iterator[None]:
        directory = self.place.directory
        process = Process(
            sys.executable, HERE / "sink.py", directory / "server.pem", directory / "server.key", directory / "arrived",
            directory / "sink.port", log=directory / "sink.log",
        )  # fmt: skip
        try:
            self.sink_port = int(wait_for_file(directory / "sink.port", process))
            yield
        finally:
            process.stop()

    def send(self, case: Case, messages: int) -> dict[str, float]:
        """Send and wait until the last one has arrived at the provider."""
        result = self.place.directory / "result.json"
        generator = Process(
            sys.executable,
            HERE / "generator.py",
            json.dumps(asdict(self._order(case, messages, result))),
            log=self.place.directory / "generator.log",
        )
        self.sent += messages
        generator.finish(300)
        seen = json.loads(result.read_text())
        if seen["refused"]:
            sys.exit(f"refused: {seen['refused'][:3]}")
        arrived = wait_for(self.sent, self.counter, *([self.serving.process] if self.serving else []))
        waits = sorted(seen["waits"])
        return {
            "accepted": messages / (seen["last"] - seen["first"]),
            "delivered": messages / (arrived - seen["first"]),
            "wait": waits[len(waits) // 2] * 1000,
            "late": waits[len(waits) * 99 // 100] * 1000,
        }

    def _order(self, case: Case, messages: int, result: Path) -> Order:
        return Order(
            port=(self.place.tls if case.tls else self.place.plain) if case.through else self.sink_port,
            messages=messages,
            size=case.size,
            at_once=self.words.at_once,
            a_connection=case.a_connection,
            user=DEVICE if case.through else MAILBOX,
            result=str(result),
            password=self.password if case.through else "",
            token="" if case.through else "t" * 300,
            ca_file=str(self.place.authority) if case.tls else "",
            first=self.sent,
        )

    def measure(self, case: Case, figures: Figures) -> None:
        process = self.serving.process if self.serving and case.through else None
        before = process.cpu if process else 0.0
        messages = max(20, int(self.words.messages * case.share))
        found = self.send(case, messages)
        for name, value in found.items():
            getattr(figures, name).append(value)
        if process:
            time.sleep(0.2)
            figures.cpu.append((process.cpu - before) / messages * 1e6)


def run(words: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-", dir=words.directory) as name:
        place = make_place(Path(name))
        bench = Bench(place, words)
        with sandbox(place.directory) as box, bench.sink():
            bench.password = asyncio.run(furnish(place, box, bench.sink_port, words.connections)).reveal()
            starts = _cold_starts(bench)
            bench.serving = Serving(place, words.serve)
            try:
                _run_cases(bench, starts)
            finally:
                bench.serving.process.stop()


def _cold_starts(bench: Bench) -> list[str]:
    """Seconds from the start of the process to the first greeting and to the first message on disk."""
    Serving(bench.place, bench.words.serve).process.stop()
    greeted, accepted = [], []
    for _ in range(bench.words.runs):
        bench.serving = Serving(bench.place, bench.words.serve)
        try:
            bench.send(Case("first"), 1)
            accepted.append(json.loads((bench.place.directory / "result.json").read_text())["last"])
            accepted[-1] -= bench.serving.process.began
            greeted.append(bench.serving.greeted)
        finally:
            bench.serving.process.stop()
    return [f"cold start to 220: {Runs(tuple(greeted)).show('.2f')} s, to 250: {Runs(tuple(accepted)).show('.2f')} s"]


def _run_cases(bench: Bench, lines: list[str]) -> None:
    assert bench.serving is not None
    process = bench.serving.process
    time.sleep(2)
    idle = process.memory / MB
    figures = {case: Figures() for case in CASES if bench.words.case in case.name}
    for case in figures:
        bench.send(case, min(WARM_UP, bench.words.messages))
    for _ in range(bench.words.runs):
        for case, found in figures.items():
            bench.measure(case, found)
    print(_shown(figures))
    print(*lines, f"memory of the gateway: {idle:.0f} MB idle, {process.memory / MB:.0f} MB afterwards", sep="\n")
    print(f"CPU of the gateway: {process.cpu:.1f} s, {process.cpu_of_first_thread:.1f} s of it in the loop")
    if bench.counter.twice:
        print(f"{bench.counter.twice} messages arrived twice")


def _shown(figures: dict[Case, Figures]) -> str:
    direct = figures.get(DIRECT)
    base = Runs(tuple(direct.delivered)).median if direct else None
    head = ("case", "accepted/s", "delivered/s", "x direct", "CPU us a message", "ms to 250, p50", "p99")
    return table(head, [_row(case, found, base) for case, found in figures.items()])


def _row(case: Case, found: Figures, base: float | None) -> list[str]:
    show: Callable[[list[float], str], str] = lambda values, form: Runs(tuple(values)).show(form) if values else ""  # noqa: E731
    delivered = Runs(tuple(found.delivered))
    return [
        case.name,
        show(found.accepted, ",.0f"),
        delivered.show(),
        f"{delivered.median / base:.2f}" if base else "",
        show(found.cpu, ",.0f"),
        show(found.wait, ".1f"),
        show(found.late, ".1f"),
    ]


def main() -> None:
    words = argparse.ArgumentParser(prog="./dev bench sending", description=__doc__.splitlines()[0])
    words.add_argument("--runs", type=int, default=5, help="how often each case is measured")
    words.add_argument("--messages", type=int, default=3000, help="messages of a run; long cases send fewer")
    words.add_argument("--at-once", type=int, default=20, help="clients at once")
    words.add_argument("--connections", type=int, default=5, help="connections that the provider allows")
    words.add_argument("--case", default="", help="only cases with this in their name")
    words.add_argument("--directory", default=None, help="where the data lies, to measure another disk")
    words.add_argument("--serve", default="", help="what to run instead of `posthouse`, such as a profiler")
    run(words.parse_args())


if __name__ == "__main__":
    main()
