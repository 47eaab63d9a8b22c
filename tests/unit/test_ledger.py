"""What a worker writes down: in order, together with what comes up meanwhile, and for sure where it waits for it."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from posthouse.services import ledger
from posthouse.services.ledger import Ledger
from posthouse.store.database import CommitUnknown, Database, DatabaseUnavailable, Transaction


class Slow:
    """A database whose commits end when they are let; `pieces` holds what each of them wrote."""

    def __init__(self) -> None:
        self.pieces: list[list[str]] = []
        self.failures: list[Exception] = []
        self._goes_on = asyncio.Semaphore(0)
        self._written: list[str] = []

    def go_on(self, commits: int = 1) -> None:
        for _ in range(commits):
            self._goes_on.release()

    async def write(self, work: Callable[[Any], Any], *, long: bool = False) -> Any:
        self._written = []
        result = await work(self)
        await self._goes_on.acquire()
        if self.failures:
            raise self.failures.pop(0)
        self.pieces.append(self._written)
        return result

    def step(self, name: str) -> Callable[[Transaction], Any]:
        async def work(_: Transaction) -> str:
            self._written.append(name)
            return name.upper()

        return work


@pytest.fixture
def database() -> Slow:
    return Slow()


@pytest.fixture
def written(database: Slow) -> Ledger:
    return Ledger(cast(Database, database), "mb_1")


async def test_what_comes_up_while_one_is_written_is_written_together_and_in_order(
    database: Slow, written: Ledger
) -> None:
    written.add(database.step("a"))
    await asyncio.sleep(0)
    for name in ("b", "c"):
        written.add(database.step(name))
    assert not written.settled
    database.go_on(2)
    await written.settle()
    assert written.settled
    assert database.pieces == [["a"], ["b", "c"]]


async def test_an_entry_is_waited_for_and_not_what_follows_it(database: Slow, written: Ledger) -> None:
    first = written.add(database.step("a"))
    await asyncio.sleep(0)
    second = written.add(database.step("b"))
    database.go_on()
    await written.until(first)
    assert (written.has(first), written.has(second)) == (True, False)


async def test_what_a_step_gave_is_told_once_it_is_on_disk(database: Slow, written: Ledger) -> None:
    told: list[str] = []
    written.add(database.step("a"), told.append)
    for _ in range(3):
        await asyncio.sleep(0)
    assert told == []
    database.go_on()
    await written.settle()
    assert told == ["A"]


async def test_what_has_to_be_done_afterwards_is_done_before_the_next_is_written(
    database: Slow, written: Ledger
) -> None:
    done: list[int] = []

    async def afterwards() -> None:
        done.append(len(database.pieces))

    written.add(database.step("a"), lambda _: afterwards())
    await asyncio.sleep(0)
    written.add(database.step("b"))
    database.go_on(2)
    await written.settle()
    assert done == [1]


@pytest.mark.parametrize("failure", [DatabaseUnavailable("away"), CommitUnknown("cut")])
async def test_what_the_database_does_not_take_is_written_again(
    database: Slow, written: Ledger, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "AGAIN_AT_FIRST", 0.0)
    database.failures = [failure]
    told: list[str] = []
    written.add(database.step("a"), told.append)
    database.go_on(2)
    await written.settle()
    assert database.pieces == [["a"]]
    assert told == ["A"]


async def test_a_fault_of_ours_reaches_who_waits_once_and_the_next_entry_is_written(
    database: Slow, written: Ledger
) -> None:
    async def wrong(_: Transaction) -> None:
        raise ValueError("a fault of ours")

    number = written.add(wrong)
    with pytest.raises(ValueError, match="a fault of ours"):
        await written.until(number)
    written.add(database.step("b"))
    database.go_on()
    await written.settle()
    assert database.pieces == [["b"]]


async def test_an_entry_that_could_not_be_written_is_not_taken_for_written(database: Slow, written: Ledger) -> None:
    async def fault(_: Transaction) -> None:
        raise LookupError("a fault of ours")

    number = written.add(fault)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not written.has(number)
    with pytest.raises(LookupError):
        await written.until(number)


async def test_nothing_is_written_after_it_was_stopped(database: Slow, written: Ledger) -> None:
    written.add(database.step("a"))
    await asyncio.sleep(0)
    written.stop()
    database.go_on()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert database.pieces == []
