"""Ending tasks, also one that did not hear that it is to end."""

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN = 10.0
"""Seconds after which a task that goes on is told once more: more than it may take over its last words."""


async def end(tasks: "Collection[asyncio.Task[Any]]") -> None:
    """Cancel them and wait until they have ended; what they raise does not matter.

    Python 3.11's `asyncio.wait_for`, which asyncpg uses, may hide a cancellation that comes just as its work is done
    (gh-86296): a loop that was to end then goes on.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)
