"""A PostgreSQL server that goes away under load: 4xx for clients, and everything goes on once it is back."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.test_disk import try_to_send
from tests.faults.test_storage import command, ends_well
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.house import House, house, until
from tests.support.postgres import launch, make_cluster, ordinary_user, programs_for
from tests.support.processes import Running, free_ports, private_directory, stop
from tests.torture.world import MAILBOXES, Plan, World, world_of

KEY = {"POSTHOUSE_KEY": "A" * 43}
SENDERS = 10
BACK_WITHIN = 15.0
"""Seconds after which mail is taken again as before."""


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

    @property
    def processes(self) -> list[int]:
        """The server's own and those that serve connections."""
        assert self.running is not None
        pid = self.running.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    async def kill(self) -> None:
        """The server itself, as `kill -9` does; those that serve connections notice it."""
        assert self.running is not None
        children = self.processes[1:]
        self.running.process.kill()
        if self.running.process.stdin:
            self.running.process.stdin.close()
        await asyncio.to_thread(self.running.process.wait)
        for pid in children:
            await until(lambda pid=pid: is_over(pid), "what is left of the server being gone")  # type: ignore[misc]

    async def hang(self) -> None:
        for pid in self.processes:
            os.kill(pid, signal.SIGSTOP)

    async def go_on(self) -> None:
        for pid in self.processes:
            os.kill(pid, signal.SIGCONT)

    async def end(self) -> None:
        """At once: every connection is cut, no statement is finished."""
        if self.running is not None:
            self.running.process.send_signal(signal.SIGQUIT)
            await asyncio.to_thread(stop, self.running)


async def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


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


HURRIED = "from posthouse.store import postgres\npostgres.PATIENCE = 1.0\nfrom posthouse.cli import main\nmain()"


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("fault", ["killed", "hangs"])
async def test_a_database_that_is_killed_or_hangs_for_a_while_is_told_and_gone_on_with(
    tmp_path: Path, fault: str
) -> None:
    async with server() as database:
        url = f"postgresql://postgres@127.0.0.1:{database.port}/postgres"
        plan = Plan(kills=0, trouble=0.0, database=url, program=(sys.executable, "-c", HURRIED))
        async with world_of(plan, tmp_path, tmp_path / "data") as world:
            await world.start(page=True)
            async with world.under_load():
                await world.until_promised(60)
                await (database.kill() if fault == "killed" else database.hang())
                try:
                    await world.until_refused(60)
                    await is_told(world)
                finally:
                    await (database.start() if fault == "killed" else database.go_on())
                back = time.monotonic()
                await world.until_promised(60)
                assert time.monotonic() - back < BACK_WITHIN
            await ends_well(world)


async def is_told(world: World) -> None:
    """Everything lies in the database, also what status would show."""
    said = await command(world, "status")
    assert (said.returncode, "The database does not answer" in said.stderr) == (75, True), said
    said = await command(world, "send", "--mailbox", MAILBOXES[0], "bob@else.example")
    assert (said.returncode, "The database does not answer" in said.stderr) == (75, True), said


async def all_arrived(subjects: Callable[[str], list[str]], wanted: list[str]) -> bool:
    return set(wanted) <= set(subjects(BOB))
