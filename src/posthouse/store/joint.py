"""Work that is done once for all who asked for it before it began."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Joint(Generic[T]):
    """Those who come while it is under way share the next run, since this one may have been too early for them.

    If it fails they are given its failure, so that nobody waits for what does not answer longer than once.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._under_way: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """What a run gave, or raised, that began after this was asked for."""
        if self._under_way is not None:
            await asyncio.shield(self._under_way)
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._work())
            self._under_way.add_done_callback(self._ended)
        return await asyncio.shield(self._under_way)

    def _ended(self, run: asyncio.Task[T]) -> None:
        self._under_way = None
        if not run.cancelled():
            run.exception()  # Whoever asked may have gone.
