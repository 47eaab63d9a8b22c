import asyncio

import pytest

from posthouse.services import ending
from posthouse.services.ending import end


async def test_a_task_that_did_not_hear_of_its_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "AGAIN", 0.01)
    heard: list[int] = []

    async def deaf_at_first() -> None:
        while len(heard) < 2:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                heard.append(1)

    task = asyncio.create_task(deaf_at_first())
    await asyncio.sleep(0)
    await end([task])
    assert task.done()
    assert heard == [1, 1]


async def test_whoever_needs_time_for_last_words_is_told_once() -> None:
    said: list[str] = []

    async def finishing() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.02)
            said.append("goodbye")

    task = asyncio.create_task(finishing())
    await asyncio.sleep(0)
    await end([task])
    assert (task.cancelled(), said) == (True, ["goodbye"])


async def test_nothing_to_end() -> None:
    await end([])
