"""A PostgreSQL server that goes away under load: 4xx for clients, and everything goes on once it is back."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.test_disk import try_to_send
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.house import House, house, until
from tests.support.postgres import launch, make_cluster, ordinary_user, programs_for
from tests.support.processes import Running, free_ports, private_directory, stop

KEY = {"POSTHOUSE_KEY": "A" * 43}
SENDERS = 10


@dataclass(slots=True)
class Server:
    """One that can be ended in the middle of its work and started again."""

    programs: Path
    data: Path
    port: int
    user: str | None
    running: Running | None = None

    async def start(self) -> None:
        self.running = await asyncio.to_thread(launch, self.programs, self.data, self.port, self.user)

    async def end(self) -> None:
        """At once: every connection is cut, no statement is finished."""
        if self.running is not None:
            self.running.process.send_signal(signal.SIGQUIT)
            await asyncio.to_thread(stop, self.running)


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Server]:
    user = ordinary_user()
    with private_directory("postgres") as private:
        programs = await asyncio.to_thread(programs_for, user, private)
        data = await asyncio.to_thread(make_cluster, programs, private, user)
        made = Server(programs, data, free_ports(1)[0], user)
        await made.start()
        try:
            yield made
        finally:
            await made.end()


@dataclass(slots=True)
class Programs:
    """Hand over message after message; `accepted` are the subjects that got 250, `refusals` the other answers."""

    house: House
    accepted: list[str]
    refusals: list[int]
    ended: bool = False

    async def send(self, name: str) -> None:
        port, password = self.house.gateway.smtp_ports[0], self.house.passwords[PRINTER]
        number = 0
        while not self.ended:
            number += 1
            subject = f"{name}, {number}"
            code = await asyncio.to_thread(try_to_send, port, password, subject, "A page.\n")
            (self.accepted.append(subject) if code == 250 else self.refusals.append(code))

    async def until_answered(self, how_many: int) -> None:
        enough = len(self.accepted) + len(self.refusals) + how_many

        async def answered() -> bool:
            return len(self.accepted) + len(self.refusals) >= enough

        await until(answered, f"{how_many} answers")


@pytest.mark.needs("postgres")
async def test_a_database_that_goes_away_under_load_costs_time_and_no_mail(tmp_path: Path) -> None:
    async with server() as database, box(tmp_path / "box") as provider:
        url = f"postgresql://postgres@127.0.0.1:{database.port}/postgres"
        text = provider.apply_file(ALICE)
        async with house(tmp_path / "data", text, database=url, environment=KEY) as gateway:
            await gateway.by_device(ALICE, provider.approve_as(ALICE))
            programs = Programs(gateway, [], [])
            sending = [asyncio.create_task(programs.send(f"Program {number}")) for number in range(SENDERS)]
            await programs.until_answered(20)
            await database.end()
            before = len(programs.accepted)
            await programs.until_answered(SENDERS + 5)
            assert len(programs.accepted) - before <= SENDERS  # what was answered while it ended
            await database.start()
            await programs.until_answered(20)
            programs.ended = True
            await asyncio.gather(*sending)
            assert set(programs.refusals) <= {451, 452}
            assert programs.refusals
            gateway.clock.forward(1000)
            await until(lambda: all_arrived(provider.subjects, programs.accepted), "all that was accepted arriving")
            assert set(Counter(provider.subjects(BOB)).values()) == {1}


async def all_arrived(subjects: Callable[[str], list[str]], wanted: list[str]) -> bool:
    return set(wanted) <= set(subjects(BOB))
