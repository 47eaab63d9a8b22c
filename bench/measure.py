"""What the benchmarks share: processes and what they cost, the counter that a sink shares, medians and tables."""

import contextlib
import mmap
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A program that is measured. It is told to end, and after ten seconds made to."""

    def __init__(self, *command: str | Path, log: Path, environment: dict[str, str] | None = None) -> None:
        self.began = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._log = log

    @property
    def cpu(self) -> float:
        """Seconds of CPU that all its threads have used, in user and in system."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def cpu_of_first_thread(self) -> float:
        """The same for the thread that runs the loop."""
        text = self._proc(f"task/{self._process.pid}/schedstat")
        return int(text.split()[0]) / 1e9

    @property
    def memory(self) -> int:
        """Octets that are resident."""
        return int(self._proc("statm").split()[1]) * _PAGE

    @property
    def peak(self) -> int:
        """Octets that were resident at most."""
        line = next(line for line in self._proc("status").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()

    def check(self) -> None:
        """Raises SystemExit where it has ended."""
        if self._process.poll() is not None:
            sys.exit(f"{self._log.stem} ended with {self._process.returncode}:\n{self._log.read_text()[-2000:]}")

    def finish(self, timeout: float) -> None:
        """Wait for an end by itself."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            sys.exit(f"{self._log.stem} took longer than {timeout:.0f} s:\n{self._log.read_text()[-2000:]}")
        if status:
            self.check()

    def stop(self) -> None:
        """With all that it has started, as a profiler has."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class Counter:
    """A file in memory that two processes share: which messages have arrived, how many twice, when the last did.

    Messages are numbered from 0. Times are those of the monotonic clock, which is one for the whole machine.
    """

    _HEAD = struct.Struct("=QQd")
    ROOM = 1_000_000

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.write_bytes(bytes(self._HEAD.size + self.ROOM))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.arrived, self.twice, self.last = 0, 0, 0.0
        self.look()

    def add(self, number: int) -> None:
        place = self._HEAD.size + number
        if self._map[place]:
            self.twice += 1
        else:
            self._map[place] = 1
            self.arrived += 1
        self._HEAD.pack_into(self._map, 0, self.arrived, self.twice, time.monotonic())

    def look(self) -> None:
        self.arrived, self.twice, self.last = self._HEAD.unpack_from(self._map)


def wait_for(count: int, counter: Counter, *processes: Process) -> float:
    """When message number `count` had arrived. Gives up when none arrives any more."""
    patience, seen = time.monotonic() + PATIENCE, -1
    while True:
        counter.look()
        if counter.arrived >= count:
            return float(counter.last)
        if counter.arrived > seen:
            patience, seen = time.monotonic() + PATIENCE, counter.arrived
        if time.monotonic() > patience:
            sys.exit(f"only {seen} of {count} messages arrived")
        for process in processes:
            process.check()
        time.sleep(0.02)


def wait_for_file(path: Path, process: Process) -> str:
    """What stands in a file that a process writes when it is ready."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        process.check()
        with contextlib.suppress(FileNotFoundError):
            if text := path.read_text():
                return text
        time.sleep(0.005)
    sys.exit(f"{path.name} did not appear in time")


def greeting_at(port: int, process: Process) -> float:
    """When a mail server on loopback has first greeted."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        process.check()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            if connection.recv(3) == b"220":
                return time.monotonic()
        time.sleep(0.002)
    sys.exit(f"nothing answered on port {port}")


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Runs:
    """The same measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, form: str = ",.0f") -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:{form}} ({low:{form}} to {high:{form}})" if len(self.values) > 1 else f"{low:{form}}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first one to the left and the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in (head, ["-" * width for width in widths], *rows)]
    return "\n".join(lines)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
