"""`posthouse serve` as a process: over a data directory of the test, on ports of its own, killed by process id."""

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import SECONDS, Running, start, stop, wait_until

PROGRAM = (sys.executable, "-m", "posthouse.cli")
PLAIN = ("127.0.0.1:0 plain",)


@dataclass(slots=True)
class Serving:
    """A gateway that can be started, killed and started again. All calls block: use a thread beside a loop."""

    config: Path
    data: Path
    listeners: int
    debug: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = PROGRAM
    _running: Running | None = None
    _began: int = 0

    @property
    def log(self) -> Path:
        return self.config.with_suffix(".log")

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.process.pid

    @property
    def smtp_ports(self) -> list[int]:
        return self._ports("smtp")

    def start(self, *, page: bool = False, seconds: float = SECONDS) -> None:
        """Returns when mail is taken, and with `page` when the page is served. Raises DidNotStart."""
        self._began = self.log.stat().st_size if self.log.exists() else 0
        words = [*self.program, "serve", "--config", str(self.config), *(["--debug"] if self.debug else [])]
        running = self._running = start("posthouse serve", words, self.log, environment=self.environment)
        try:
            wait_until(lambda: self._is_up(page=page), running, seconds)
        except BaseException:
            stop(running)
            raise

    def kill(self) -> None:
        """As `kill -9` does: nothing more is written or said."""
        if self._running is not None:
            self.kill_only()
            self.stop()

    def kill_only(self) -> None:
        """Without waiting for its end."""
        if self._running is not None:
            self._running.process.kill()

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._running is not None:
            stop(self._running)
            self._running = None

    def alive(self) -> bool:
        return self._running is not None and self._running.alive()

    def logged(self) -> list[dict[str, Any]]:
        """The log's lines since the last start."""
        with self.log.open("rb") as file:
            file.seek(self._began)
            lines = file.read().splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What the embedded database says, asked beside the gateway."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data}/posthouse.sqlite?mode=ro", uri=True)) as database:
            return database.execute(statement, values).fetchall()

    def states(self) -> dict[str, str]:
        """The state of every message by its queue id."""
        return dict(self.rows("SELECT id, state FROM message"))

    def journal(self, queue_id: str) -> list[str]:
        """The kinds of the journal's lines about a message, in order."""
        return [kind for (kind,) in self.rows("SELECT kind FROM journal WHERE message = ? ORDER BY id", queue_id)]

    def _ports(self, protocol: str) -> list[int]:
        told = [line for line in self.logged() if line["event"] == "listening" and line["protocol"] == protocol]
        return [int(line["at"].rpartition(":")[2]) for line in told]

    def _is_up(self, *, page: bool) -> bool:
        return len(self.smtp_ports) == self.listeners and (not page or self._serves_page())

    def _serves_page(self) -> bool:
        return bool(self._ports("http"))


@contextlib.contextmanager
def serving(
    directory: Path,
    data: Path,
    *,
    smtp: Sequence[str] = PLAIN,
    web: str = "127.0.0.1:0",
    more: str = "",
    debug: bool = False,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Serving]:
    """A gateway over `data`, not started yet; killed at the end of the block. `more` is put before [listen]."""
    config = directory / "posthouse.toml"
    places = ", ".join(f'"{place}"' for place in smtp)
    listen = f'[listen]\nweb = "{web}"\nsmtp = [{places}]\nimap = []\npop3 = []\n'
    config.write_text(f'data = "{data}"\n{more}\n{listen}')
    made = Serving(config, data, len(smtp), debug, environment or {}, program)
    try:
        yield made
    finally:
        made.kill()
