"""A hundred thousand tokens: how fast the gateway starts, refreshes, shows its pages, and what memory it takes.

`posthouse serve` over its embedded database on disk, and a token endpoint of its own that answers over TLS after 50 ms;
both on this machine. Every refresh rotates. CPU a refresh is the steadier figure where others use the machine as well.
"""

import argparse
import asyncio
import contextlib
import os
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from gateway import Place, Serving, make_place
from measure import Process, Runs, table, wait_for_file

from posthouse.app import gateway
from posthouse.model.token import Grant, TokenState, refresh_at, spread_of
from posthouse.secret import Secret
from posthouse.services.entrance import sign_in_link
from posthouse.settings import read_settings
from posthouse.store import tokens
from posthouse.store.configuration import encode, save
from posthouse.store.database import Transaction
from posthouse.store.opening import Store

HERE = Path(__file__).parent
MB = 1024 * 1024
HOUR = 3600.0
GROUP = 2000
PAGES = ("/", "/outbox", "/nothing-there")
"""The last one looks at nothing but what the banner needs."""


@contextmanager
def endpoint(place: Place, delay: float) -> Iterator[int]:
    """The token endpoint as a process of its own; its port."""
    directory = place.directory
    process = Process(
        sys.executable, HERE / "token_endpoint.py", directory / "server.pem", directory / "server.key",
        directory / "endpoint.port", str(delay), log=directory / "endpoint.log",
    )  # fmt: skip
    try:
        yield int(wait_for_file(directory / "endpoint.port", process))
    finally:
        process.stop()


async def furnish(place: Place, port: int, count: int) -> None:
    """So many mailboxes, each with a token of its own that is good for most of an hour."""
    settings = read_settings(place.settings, {})
    async with gateway(settings, create=True, environment={}) as running:
        store = running.parts.store
        await store.database.write(lambda tx: _register(tx, place, port))
        for first in range(0, count, GROUP):
            await store.database.write(
                lambda tx, at=first: _add(tx, store, range(at, min(at + GROUP, count))), long=True
            )


async def _register(tx: Transaction, place: Place, port: int) -> None:
    provider = {
        "name": "bench",
        "token_url": f"https://127.0.0.1:{port}/token",
        "device_url": f"https://127.0.0.1:{port}/device",
        "ca_file": str(place.authority),
        "scopes": ["mail", "offline_access"],
        "smtp": "127.0.0.1:1 starttls",
    }
    await save(tx, "provider", "bench", name="bench", document=encode(provider))
    await save(tx, "app", "app", name="bench", provider="bench", client_id="posthouse")


async def _add(tx: Transaction, store: Store, numbers: range) -> None:
    now = time.time()
    for number in numbers:
        address = f"box{number:06}@example.com"
        token = await tokens.ensure(tx, "app", address, "main", now)
        await tokens.add_grant(tx, store.sealer, _grant(f"gr_{number:016}", token.id, address, now))
        await tokens.point(tx, token, serving=f"gr_{number:016}", pending=None, pinned=("https://id", address))
        await tokens.set_state(tx, token.id, TokenState.ACQUIRED, now)
        await save(tx, "mailbox", f"mb_{number:016}", address=address, account=address, app_id="app", token_id=token.id)


def _grant(grant_id: str, token_id: str, address: str, now: float) -> Grant:
    return Grant(
        id=grant_id,
        token_id=token_id,
        serial=0,
        access_token=Secret("a" * 1500),
        refresh_token=Secret("r" * 1000),
        previous_refresh_token=None,
        access_expires_at=now + HOUR,
        next_refresh_at=refresh_at(now, now + HOUR, spread_of(grant_id, 0)),
        obtained_at=now,
        refreshed_at=now,
        failures=0,
        last_error="",
        scopes=("mail", "offline_access"),
        issuer="https://id",
        subject=address,
        person=address,
    )


class Bench:
    def __init__(self, place: Place, words: argparse.Namespace) -> None:
        self.place, self.words = place, words

    def rows(self, statement: str, *values: object) -> list[tuple[float, ...]]:
        with (
            contextlib.closing(sqlite3.connect(self.place.directory / "data" / "posthouse.sqlite")) as database,
            database,
        ):
            return database.execute(statement, values).fetchall()

    def calm(self) -> None:
        """Nothing is due for hours."""
        self.rows(
            "UPDATE oauth_grant SET next_refresh_at = ?, access_expires_at = ?", time.time() + 9e4, time.time() + 1e5
        )

    def starts(self) -> list[str]:
        self.calm()
        Serving(self.place).process.stop()
        greeted, memory = [], []
        for _ in range(self.words.runs):
            serving = Serving(self.place)
            time.sleep(self.words.settle)
            greeted.append(serving.greeted)
            memory.append(serving.process.memory / MB)
            serving.process.stop()
        return [
            f"start to 220: {Runs(tuple(greeted)).show('.2f')} s",
            f"memory when nothing is due: {Runs(tuple(memory)).show()} MB",
        ]

    def refreshes(self) -> tuple[list[str], str]:
        """Everything is due, as after a rest; and how far apart it comes due next."""
        rates, cpu, loop, memory = [], [], [], []
        for _ in range(self.words.runs):
            self.rows("UPDATE oauth_grant SET next_refresh_at = 1, access_expires_at = 2")
            began = time.time()
            serving = Serving(self.place, self.words.serve)
            try:
                self._until(began, self.words.warm_up)
                before = time.monotonic(), serving.process.cpu, serving.process.cpu_of_first_thread, self._done(began)
                self._until(began, self.words.warm_up + self.words.refreshes)
                done = self._done(began) - before[3]
                rates.append(done / (time.monotonic() - before[0]))
                cpu.append((serving.process.cpu - before[1]) / done * 1000)
                loop.append((serving.process.cpu_of_first_thread - before[2]) / done * 1000)
                memory.append(serving.process.memory / MB)
                histogram = self._histogram(began)
            finally:
                serving.process.stop()
        return [
            f"refreshes a second: {Runs(tuple(rates)).show()}",
            f"CPU a refresh: {Runs(tuple(cpu)).show('.2f')} ms, {Runs(tuple(loop)).show('.2f')} ms of it in the loop",
            f"memory while refreshing: {Runs(tuple(memory)).show()} MB",
        ], histogram

    def _done(self, began: float) -> int:
        return int(self.rows("SELECT count(*) FROM oauth_grant WHERE refreshed_at > ?", began)[0][0])

    def _until(self, began: float, count: int) -> None:
        give_up = time.monotonic() + 300
        while self._done(began) < count:
            if time.monotonic() > give_up:
                sys.exit(f"only {self._done(began)} of {count} refreshes in 300 s")
            time.sleep(0.5)

    def _histogram(self, began: float) -> str:
        """Seconds from a refresh to the next, in minutes."""
        found = self.rows("SELECT next_refresh_at - refreshed_at FROM oauth_grant WHERE refreshed_at > ?", began)
        minutes = Counter(int(seconds // 60) for (seconds,) in found)
        most = max(minutes.values())
        return "\n".join(
            f"  {minute:3} min {minutes[minute]:6,} {'#' * round(40 * minutes[minute] / most)}"
            for minute in range(min(minutes), max(minutes) + 1)
        )

    async def pages(self) -> str:
        """Milliseconds that a signed-in person waits."""
        settings = read_settings(self.place.settings, {})
        async with gateway(settings, environment={}) as running:
            link = await sign_in_link(running.parts.store, time.time, settings.external_url)
        self.calm()
        serving = Serving(self.place)
        try:
            return await asyncio.to_thread(self._pages, link.reveal())
        finally:
            serving.process.stop()

    def _pages(self, link: str) -> str:
        rows = []
        with httpx2.Client(timeout=120, follow_redirects=True, transport=httpx2.HTTPTransport(retries=20)) as client:
            client.get(link)
            client.post(link)
            for path in PAGES:
                waits = []
                for _ in range(self.words.runs):
                    began = time.monotonic()
                    answer = client.get(httpx2.URL(link).join(path))
                    waits.append((time.monotonic() - began) * 1000)
                rows.append(
                    [f"{path} ({answer.status_code}, {len(answer.content):,} octets)", Runs(tuple(waits)).show()]
                )
        return table(("page", "ms"), rows)


def run(words: argparse.Namespace) -> None:
    print(
        f"{words.tokens:,} tokens; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True
    )
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-", dir=words.directory) as name:
        place = make_place(Path(name))
        bench = Bench(place, words)
        with endpoint(place, words.delay) as port:
            asyncio.run(furnish(place, port, words.tokens))
            if "start" in words.parts:
                print(*bench.starts(), sep="\n", flush=True)
            if "refresh" in words.parts:
                lines, histogram = bench.refreshes()
                print(*lines, "the next refresh comes after", histogram, sep="\n", flush=True)
            if "pages" in words.parts:
                print(asyncio.run(bench.pages()), flush=True)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")


def main() -> None:
    words = argparse.ArgumentParser(prog="./dev bench tokens", description=__doc__.splitlines()[0])
    words.add_argument("--tokens", type=int, default=100_000, help="tokens in the database")
    words.add_argument("--runs", type=int, default=3, help="how often each is measured")
    words.add_argument("--refreshes", type=int, default=6000, help="refreshes that are measured in a run")
    words.add_argument("--warm-up", type=int, default=500, help="refreshes before that")
    words.add_argument("--delay", type=float, default=0.05, help="seconds the token endpoint takes to answer")
    words.add_argument("--settle", type=float, default=5.0, help="seconds from the start until memory is read")
    words.add_argument("--parts", default="start,refresh,pages", help="what is measured")
    words.add_argument("--directory", default=None, help="where the data lies, to measure another disk")
    words.add_argument("--serve", default="", help="what to run instead of `posthouse`, such as a profiler")
    run(words.parse_args())


if __name__ == "__main__":
    main()
