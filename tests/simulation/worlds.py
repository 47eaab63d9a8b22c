"""Several simulated worlds at once, each in a process of its own, with its share of the mailboxes."""

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from operator import add
from pathlib import Path

from tests.simulation.outcome import Outcome
from tests.simulation.world import Plan, World, simulate

OFTEN = 0.5
"""Seconds between two words of a world about how far it is."""


class WorldEnded(Exception):
    """A process came to its end and told no outcome."""


@dataclass(frozen=True, slots=True)
class Progress:
    day: float
    refreshes: int


def shares(plan: Plan, worlds: int) -> list[Plan]:
    """The plan of each world: as many mailboxes as the others or one more, and its own course of things."""
    each, more = divmod(plan.mailboxes, worlds)
    return [replace(plan, mailboxes=each + (number < more), world=number, worlds=worlds) for number in range(worlds)]


def play(plans: Sequence[Plan], progress: Callable[[list[Progress]], None] = lambda _: None) -> Outcome:
    """All of them at once. Raises WorldEnded; in any case no process is left."""
    with ExitStack() as stack:
        worlds = [stack.enter_context(_begun(plan)) for plan in plans]
        return reduce(add, _outcomes(worlds, progress))


@dataclass(frozen=True, slots=True)
class _Running:
    plan: Plan
    process: BaseProcess
    told: Connection


@contextmanager
def _begun(plan: Plan) -> Iterator[_Running]:
    new = multiprocessing.get_context("spawn")
    told, tells = new.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="posthouse-") as data:
        process = new.Process(target=_world, args=(plan, Path(data), tells), daemon=True)
        with _without_interrupts():
            process.start()
        tells.close()
        try:
            yield _Running(plan, process, told)
        finally:
            process.kill()
            process.join()
            told.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is begun meanwhile never hears of Ctrl-C, not even while it is still being loaded."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _outcomes(worlds: Sequence[_Running], progress: Callable[[list[Progress]], None]) -> list[Outcome]:
    waiting: dict[object, int] = {world.told: number for number, world in enumerate(worlds)}
    latest = [Progress(0.0, 0) for _ in worlds]
    outcomes: dict[int, Outcome] = {}
    while waiting:
        for told in wait([world.told for world in worlds if world.told in waiting]):
            number = waiting[told]
            heard = _heard(worlds[number])
            if isinstance(heard, Outcome):
                outcomes[number] = heard
                del waiting[told]
            else:
                latest[number] = heard
                progress(latest)
    return [outcomes[number] for number in range(len(worlds))]


def _heard(world: _Running) -> Progress | Outcome:
    try:
        heard = world.told.recv()
    except EOFError:
        world.process.join()
        raise WorldEnded(
            f"world {world.plan.world} of {world.plan.worlds} ended with {world.process.exitcode} and told no outcome"
        ) from None
    assert isinstance(heard, Progress | Outcome)
    return heard


def _world(plan: Plan, data: Path, tells: Connection) -> None:
    """In its own process; the one that began it ends it and says what there is to say."""
    next_word = time.monotonic() + OFTEN

    def tell(world: World) -> None:
        nonlocal next_word
        if time.monotonic() >= next_word:
            next_word = time.monotonic() + OFTEN
            tells.send(Progress(world.day, world.judge.refreshes))

    tells.send(Outcome.of(simulate(plan, data, tell)))
