"""A disk that fills or breaks under load, a database that somebody holds: 4xx, one cause, one step, no mail lost."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import break_down, device, fill, mend, read_only, small_disk, why_no_device, why_none
from tests.support.house import until
from tests.support.serving import PROGRAM, serving
from tests.torture.world import MAILBOXES, Plan, World, report, world_of

PLAN = Plan(kills=0, trouble=0.0)
REFUSED = "mail is refused for now, and none is lost."
MOST_LINES = 400
"""Lines of warnings and errors in the log, in all."""
ONLY_WITH_DISKS = pytest.mark.skipif(bool(why_none()), reason=why_none())
ONLY_WITH_DEVICES = pytest.mark.skipif(bool(why_none() or why_no_device()), reason=why_none() or why_no_device())


async def status(world: World) -> dict[str, Any]:
    return dict(await asyncio.to_thread(world.api().get, "/status"))


async def tells(world: World, trouble: str) -> None:
    """Page and command say the one cause and the one step."""

    async def told() -> bool:
        found = (await status(world))["trouble"]
        return found is not None and found["id"] == trouble

    await until(told, f"{trouble} being told")
    said = await command(world, "status")
    assert (said.returncode, REFUSED in said.stdout) == (1, True), said
    said = await command(world, "send", "--mailbox", MAILBOXES[0], "bob@else.example")
    assert (said.returncode, REFUSED in said.stderr) == (75, True), said


async def command(world: World, *words: str) -> "subprocess.CompletedProcess[str]":
    whole = (*PROGRAM, words[0], "--config", str(world.config), *words[1:])
    letter = f"From: {MAILBOXES[0]}\n\nA page.\n"
    return await asyncio.to_thread(
        subprocess.run, whole, input=letter, capture_output=True, text=True, check=False, timeout=60
    )


def kept_its_head(world: World) -> None:
    """Every refusal was for now, no conversation was cut off, nobody had to restart anything, the log is readable."""
    judge = world.judge
    assert judge.complaints == [], report(world)
    assert {what.split(": ")[1][:3] for what in judge.refusals} <= {"451", "452", "503", "exi"}, judge.refusals
    assert sum(line["level"] in ("warning", "error") for line in world.gateway.logged()) < MOST_LINES


async def ends_well(world: World) -> None:
    kept_its_head(world)
    await world.finish()
    assert world.judge.complaints == [], report(world)


@ONLY_WITH_DISKS
async def test_a_disk_that_fills_under_load_costs_time_and_no_mail(tmp_path: Path) -> None:
    with small_disk(240) as disk:
        async with world_of(PLAN, tmp_path, disk / "data") as world:
            await world.start(page=True)
            pid = world.gateway.pid
            async with world.under_load():
                await world.until_promised(100)
                filler = await asyncio.to_thread(fill, disk)
                await world.until_refused(60)
                await tells(world, "disk.full")
                assert any("452 4.3.1" in what for what in world.judge.refusals)
                filler.unlink()
                await world.until_promised(60)
            assert (await status(world))["trouble"] is None
            assert world.gateway.pid == pid
            assert world.gateway.alive()
            await ends_well(world)


@ONLY_WITH_DEVICES
async def test_a_disk_that_breaks_under_load_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    with device() as disk:
        async with world_of(PLAN, tmp_path, disk / "data") as world:
            await world.start(page=True)
            async with world.under_load():
                await world.until_promised(100)
                await asyncio.to_thread(break_down, disk)
                await world.until_refused(60)
                await tells(world, "disk.unwritable")
                arrived = world.sink.arrived
                assert {len(arrivals) for arrivals in arrived.values()} == {1}  # nothing is sent again and again
                kept_its_head(world)
                await asyncio.to_thread(world.gateway.kill)
                await asyncio.to_thread(mend, disk)
                await world.start(page=True)
                await world.until_promised(60)
            await world.finish()
            # Between the two mounts nothing is there, and `posthouse send` says so.
            broken = [told for told in world.judge.complaints if "No Posthouse data in" not in told]
            assert broken == [], report(world)


IMPATIENT = "from posthouse.store import sqlite\nsqlite.LOCKED = 0.5\nfrom posthouse.cli import main\nmain()"


async def test_a_database_that_another_program_holds_costs_time_and_no_mail(tmp_path: Path) -> None:
    plan = Plan(kills=0, trouble=0.0, program=(sys.executable, "-c", IMPATIENT))
    async with world_of(plan, tmp_path, tmp_path / "data") as world:
        await world.start(page=True)
        async with world.under_load():
            await world.until_promised(60)
            with contextlib.closing(sqlite3.connect(world.data / "posthouse.sqlite", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                await world.until_refused(60)
                await tells(world, "database.locked")
            await world.until_promised(60)
        await ends_well(world)


@ONLY_WITH_DISKS
@pytest.mark.parametrize("known", [False, True], ids=["new", "in use before"])
@pytest.mark.parametrize("trouble", ["full", "read-only"])
async def test_a_start_on_a_disk_that_cannot_be_written_ends_with_one_sentence(
    tmp_path: Path, trouble: str, known: bool
) -> None:
    with small_disk(4) as disk, serving(tmp_path, disk / "data") as gateway:
        if known:
            await asyncio.to_thread(gateway.start)
            await asyncio.to_thread(gateway.stop)
        fill(disk) if trouble == "full" else read_only(disk)
        words = (*PROGRAM, "serve", "--config", str(gateway.config))
        ended = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False, timeout=30)
        step = "Make space on it" if trouble == "full" else "Mount it for writing"
        assert (ended.returncode, ended.stdout) == (75 if trouble == "full" else 1, "")
        assert ended.stderr.count("\n") == 1
        assert f"The disk of {disk}/data is {trouble}. {step}" in ended.stderr
