"""Checks that are done step by step: what a step found, and runs of them that go on in the background."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Literal

import structlog

from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.ids import new_id
from posthouse.store.sealing import Unsealable

RUNS = 100
"""Runs that are remembered; the oldest is forgotten first."""
State = Literal["passed", "failed", "skipped", "unused"]

log = structlog.get_logger("steps")


@dataclass(frozen=True, slots=True)
class Step:
    """`sentence` says what is proved or why nothing was tried; `answer` is the server's, the rest the catalogue's.

    `asked` is what was sent, where that is worth knowing. `temporary`: waiting may help. `seconds` it took.
    """

    name: str
    state: State
    sentence: str = ""
    answer: str = ""
    cause: str = ""
    fix: str = ""
    temporary: bool = False
    seconds: float = 0.0
    asked: str = ""


@dataclass(slots=True)
class Run:
    """As far as it has come; `subject` is the id of what is looked at, in this `version`; `names` are its steps."""

    id: str
    subject: str
    names: tuple[str, ...]
    version: int = 0
    steps: list[Step] = field(default_factory=list)
    ended: bool = False


@dataclass(slots=True)
class Runs:
    """`look` gives the steps of a subject that have these names."""

    look: Callable[[str, tuple[str, ...]], AsyncIterator[Step]]
    _runs: dict[str, Run] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, subject: str, names: tuple[str, ...], version: int = 0) -> Run:
        """Look in the background; the same run that goes on already is joined."""
        for known in self._runs.values():
            if (known.subject, known.names, known.version) == (subject, names, version) and not known.ended:
                return known
        while len(self._runs) >= RUNS:
            self._runs.pop(next(iter(self._runs)))
        run = Run(new_id("ct"), subject, names, version)
        self._runs[run.id] = run
        task = asyncio.create_task(self._follow(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def find(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, run: Run) -> None:
        try:
            async for step in self.look(run.subject, run.names):
                run.steps.append(step)
        except (DatabaseUnavailable, CommitUnknown, Unsealable) as cause:
            log.error("broken off", subject=run.subject, cause=str(cause))
        finally:
            run.ended = True


def verdict(steps: Collection[Step]) -> Literal["passed", "failed", "temporary"]:
    """What all of them come to; `temporary` where nothing but waiting may help."""
    failed = [step for step in steps if step.state == "failed"]
    if not failed:
        return "passed"
    return "temporary" if all(step.temporary for step in failed) else "failed"


def timed(step: Step, since: float) -> Step:
    """With the seconds since `since`, a time of the running loop."""
    return replace(step, seconds=round(asyncio.get_running_loop().time() - since, 3))
