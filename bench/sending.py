"""How fast mail goes through the gateway, beside what people use instead, all measured in one run.

Beside it: the same clients talking to the same provider directly, Postfix as a durable relay, email-oauth2-proxy, and
"nothing kept": a relay of a few lines that keeps and checks nothing, which is what Python itself leaves to be gained.
Everything runs on this machine and on loopback: clients, gateway and provider, each a process of its own. The
gateway is `posthouse serve` with its embedded database on disk; the provider is a sink that takes everything.
Ratios are of the same run; CPU a message is the steadier figure where others use the machine as well.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from comparators import email_oauth2_proxy, postfix, postfix_master
from gateway import DEVICE, FAR_DEVICE, FAR_MAILBOX, MAILBOX, Place, Serving, Way, furnish, make_place, sandbox
from generator import Order
from measure import Counter, Process, Runs, table, wait_for, wait_for_file

HERE = Path(__file__).parent
WARM_UP = 100
MB = 1024 * 1024
ROUND_TRIP = 0.04
"""Seconds to the provider that is far away."""


@dataclass(frozen=True, slots=True)
class Case:
    """`door`: posthouse, direct, floor, postfix, proxy. `tls` with the client; `far`: a provider ROUND_TRIP away."""

    name: str
    door: str = "posthouse"
    tls: bool = False
    a_connection: int = 1
    size: int = 2048
    share: float = 1.0
    at_once: int = 20
    far: bool = False


DIRECT = Case("direct: a connection each, TLS, XOAUTH2", "direct", tls=True)
EACH = Case("posthouse: a connection each, plain in")
EACH_TLS = Case("posthouse: a connection each, TLS in", tls=True)
EACH_FLOOR = Case("nothing kept: a connection each, plain in", "floor")
EACH_TLS_FLOOR = Case("nothing kept: a connection each, TLS in", "floor", tls=True)
EACH_PROXY = Case("email-oauth2-proxy: a connection each, plain in", "proxy", share=0.015, at_once=4)
EACH_POSTFIX = Case("Postfix: a connection each, plain in", "postfix", share=0.5)
MANY = Case("posthouse: 100 a connection, plain in", a_connection=100, share=2.0)
MANY_FLOOR = Case("nothing kept: 100 a connection, plain in", "floor", a_connection=100, share=2.0)
MANY_POSTFIX = Case("Postfix: 100 a connection, plain in", "postfix", a_connection=100, share=0.5)
LARGE = Case("posthouse: 200 KB, 10 a connection", a_connection=10, size=200 * 1024, share=0.2)
LARGE_FLOOR = Case("nothing kept: 200 KB, 10 a connection", "floor", a_connection=10, size=200 * 1024, share=0.2)
LARGE_POSTFIX = Case("Postfix: 200 KB, 10 a connection", "postfix", a_connection=10, size=200 * 1024, share=0.2)
LARGE_PROXY = Case(
    "email-oauth2-proxy: 200 KB, 10 a connection", "proxy", a_connection=10, size=200 * 1024, share=0.07, at_once=4
)
HUGE = Case("posthouse: 5 MB, 2 a connection", a_connection=2, size=5 * MB, share=0.014)
HUGE_FLOOR = Case("nothing kept: 5 MB, 2 a connection", "floor", a_connection=2, size=5 * MB, share=0.014)
HUGE_POSTFIX = Case("Postfix: 5 MB, 2 a connection", "postfix", a_connection=2, size=5 * MB, share=0.014)
HUGE_PROXY = Case(
    "email-oauth2-proxy: 5 MB, 2 a connection", "proxy", a_connection=2, size=5 * MB, share=0.014, at_once=4
)
FAR_DIRECT = Case("direct, 40 ms away: a connection each", "direct", tls=True, at_once=1, far=True, share=0.007)
FAR = Case("posthouse, 40 ms away: a connection each", at_once=1, far=True, share=0.1)
CASES = (
    DIRECT, EACH, EACH_TLS, EACH_FLOOR, EACH_TLS_FLOOR, EACH_PROXY, EACH_POSTFIX, MANY, MANY_FLOOR, MANY_POSTFIX,
    LARGE, LARGE_FLOOR, LARGE_POSTFIX, LARGE_PROXY, HUGE, HUGE_FLOOR, HUGE_POSTFIX, HUGE_PROXY, FAR_DIRECT, FAR,
)  # fmt: skip
RATIOS = (
    (EACH, DIRECT, 3.0),
    (EACH_TLS, DIRECT, 0.75),
    (EACH_FLOOR, DIRECT, 0.0),
    (EACH_TLS_FLOOR, DIRECT, 0.0),
    (EACH_FLOOR, EACH_POSTFIX, 0.0),
    (MANY_FLOOR, MANY_POSTFIX, 0.0),
    (LARGE_FLOOR, LARGE_POSTFIX, 0.0),
    (HUGE_FLOOR, HUGE_POSTFIX, 0.0),
    (EACH, EACH_PROXY, 200.0),
    (EACH, EACH_POSTFIX, 6.0),
    (MANY, MANY_POSTFIX, 10.0),
    (LARGE, LARGE_POSTFIX, 3.0),
    (LARGE, LARGE_PROXY, 2.0),
    (HUGE, HUGE_POSTFIX, 3.0),
    (HUGE, HUGE_PROXY, 3.0),
    (FAR, FAR_DIRECT, 8.0),
)
"""What is delivered a second, in times of the other, and what we want of it (0: shown for comparison)."""


@dataclass(slots=True)
class Figures:
    """What was measured of one case, run by run. `cpu` is in microseconds a message, `wait` in milliseconds."""

    accepted: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


class Bench:
    """`ports` says where each door is."""

    def __init__(self, place: Place, words: argparse.Namespace) -> None:
        self.place = place
        self.words = words
        self.counter = Counter(place.directory / "arrived", create=True)
        self.sent = 0
        self.ports: dict[str, int] = {}
        self.password = ""
        self.serving: Serving | None = None
        self.processes: dict[str, Process] = {}

    @contextmanager
    def sink(self) -> Iterator[int]:
        directory = self.place.directory
        process = Process(
            sys.executable, HERE / "sink.py", directory / "server.pem", directory / "server.key", directory / "arrived",
            directory / "sink.port", log=directory / "sink.log",
        )  # fmt: skip
        try:
            yield int(wait_for_file(directory / "sink.port", process))
        finally:
            process.stop()

    @contextmanager
    def floor(self, sink: int) -> Iterator[int]:
        directory, connections = self.place.directory, self.words.connections
        process = Process(
            sys.executable, HERE / "floor.py", str(sink), str(connections), self.place.authority,
            directory / "server.pem", directory / "server.key", directory / "floor.port", log=directory / "floor.log",
        )  # fmt: skip
        self.processes["floor"] = process
        try:
            yield int(wait_for_file(directory / "floor.port", process))
        finally:
            process.stop()

    @contextmanager
    def far(self, port: int) -> Iterator[int]:
        ready = self.place.directory / "far.port"
        process = Process(
            sys.executable, HERE / "far.py", str(port), str(ROUND_TRIP), ready, log=self.place.directory / "far.log"
        )
        try:
            yield int(wait_for_file(ready, process))
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
        generator.finish(600)
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
        user, password, token = self._login(case)
        return Order(
            port=self.ports[f"{case.door}{' far' * (case.far and case.door == 'direct')}{' tls' * case.tls}"],
            messages=messages,
            size=case.size,
            at_once=case.at_once,
            a_connection=case.a_connection,
            user=user,
            result=str(result),
            password=password,
            token=token,
            ca_file=str(self.place.authority) if case.tls else "",
            first=self.sent,
        )

    def _login(self, case: Case) -> tuple[str, str, str]:
        """User, password and token, as far as there are."""
        if case.door == "posthouse":
            return FAR_DEVICE if case.far else DEVICE, self.password, ""
        known = {
            "direct": (MAILBOX, "", "t" * 300),
            "floor": (MAILBOX, "any", ""),
            "proxy": (MAILBOX, "any", ""),
            "postfix": ("", "", ""),
        }
        return known[case.door]

    def measure(self, case: Case, figures: Figures) -> None:
        process = self.processes.get(case.door)
        before = process.cpu if process else 0.0
        messages = max(20, int(self.words.messages * case.share))
        found = self.send(case, messages)
        for name, value in found.items():
            getattr(figures, name).append(value)
        if process:
            time.sleep(0.2)
            figures.cpu.append((process.cpu - before) / messages * 1e6)


def run(words: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-", dir=words.directory) as name, ExitStack() as stack:
        place = make_place(Path(name))
        bench = Bench(place, words)
        box = stack.enter_context(sandbox(place.directory))
        sink = stack.enter_context(bench.sink())
        far = stack.enter_context(bench.far(sink))
        bench.ports = {"direct tls": sink, "direct far tls": far, "posthouse": place.plain, "posthouse tls": place.tls}
        bench.ports["floor"] = bench.ports["floor tls"] = stack.enter_context(bench.floor(sink))
        cases = [case for case in CASES if words.case.lower() in case.name.lower() and not _left_out(case)]
        _start_comparators(bench, stack, cases, box, sink)
        ways = (Way(DEVICE, MAILBOX, sink, words.connections), Way(FAR_DEVICE, FAR_MAILBOX, far, 1))
        bench.password = asyncio.run(furnish(place, box, ways)).reveal()
        starts = _cold_starts(bench)
        bench.serving = Serving(place, words.serve)
        bench.processes["posthouse"] = bench.serving.process
        try:
            _run_cases(bench, cases, starts)
        finally:
            bench.serving.process.stop()


def _left_out(case: Case) -> str:
    if case.door == "postfix" and postfix_master() is None:
        return "Postfix is not installed (apt install postfix)"
    return ""


def _start_comparators(bench: Bench, stack: ExitStack, cases: list[Case], box: dict[str, str], sink: int) -> None:
    doors = {case.door for case in cases}
    place = bench.place
    for name in doors & {"postfix", "proxy"}:
        home = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        if name == "postfix":
            made = postfix(home, sink, place.authority)
        else:
            made = email_oauth2_proxy(home, sink, place.authority, f"{box['issuer']}/token", MAILBOX)
        bench.ports[name] = stack.enter_context(made)


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


def _run_cases(bench: Bench, cases: list[Case], lines: list[str]) -> None:
    assert bench.serving is not None
    process = bench.serving.process
    time.sleep(2)
    idle = process.memory / MB
    figures = {case: Figures() for case in cases}
    peaks: dict[Case, float] = {}
    for case in figures:
        bench.send(case, max(2, int(WARM_UP * case.share)))
    for number in range(bench.words.runs):
        for case, found in figures.items():
            print(f"run {number + 1} of {bench.words.runs}: {case.name} …", file=sys.stderr, flush=True)
            bench.measure(case, found)
            peaks[case] = process.peak / MB
    print(_shown(figures), _ratios(figures), sep="\n\n", end="\n\n")
    print(*lines, sep="\n")
    print(f"memory of the gateway: {idle:.0f} MB idle; at most {max(peaks.values()):.0f} MB over all cases")
    if FAR in figures:
        print(f"messages a round trip, 40 ms away: {Runs(tuple(figures[FAR].delivered)).median * ROUND_TRIP:.2f}")
    print(f"CPU of the gateway: {process.cpu:.1f} s, {process.cpu_of_first_thread:.1f} s of it in the loop")
    for why in {_left_out(case) for case in CASES} - {""}:
        print(f"left out: {why}")
    if bench.counter.twice:
        print(f"{bench.counter.twice} messages arrived twice")


def _shown(figures: dict[Case, Figures]) -> str:
    head = ("case", "accepted/s", "delivered/s", "CPU us a message", "ms to 250, p50", "p99")
    return table(head, [_row(case, found) for case, found in figures.items()])


def _row(case: Case, found: Figures) -> list[str]:
    show: Callable[[list[float], str], str] = lambda values, form: Runs(tuple(values)).show(form) if values else ""  # noqa: E731
    return [
        case.name,
        show(found.accepted, ",.0f"),
        show(found.delivered, ",.0f" if min(found.delivered) > 20 else ",.1f"),
        show(found.cpu, ",.0f"),
        show(found.wait, ".1f"),
        show(found.late, ".1f"),
    ]


def _ratios(figures: dict[Case, Figures]) -> str:
    rows = []
    for case, other, wanted in RATIOS:
        if case in figures and other in figures:
            ratio = Runs(tuple(figures[case].delivered)).median / Runs(tuple(figures[other].delivered)).median
            rows.append(
                [
                    f"{case.name} : {other.name}",
                    f"{ratio:.2f}",
                    f"{wanted:.2f}" if wanted else "",
                    "" if ratio >= wanted else "less",
                ]
            )
    return table(("delivered a second", "ratio", "wanted", ""), rows)


def main() -> None:
    words = argparse.ArgumentParser(prog="./dev bench sending", description=__doc__.splitlines()[0])
    words.add_argument("--runs", type=int, default=5, help="how often each case is measured")
    words.add_argument("--messages", type=int, default=3000, help="messages of a run; long cases send fewer")
    words.add_argument("--connections", type=int, default=5, help="connections that the provider allows")
    words.add_argument("--case", default="", help="only cases with this in their name, such as posthouse")
    words.add_argument("--directory", default=None, help="where the data lies, to measure another disk")
    words.add_argument("--serve", default="", help="what to run instead of `posthouse`, such as a profiler")
    run(words.parse_args())


if __name__ == "__main__":
    main()
