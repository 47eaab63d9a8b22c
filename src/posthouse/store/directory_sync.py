"""One fsync of a directory for all whose files came into it before it began."""

import asyncio
from pathlib import Path

from posthouse.store.sealing import sync_directory


class DirectorySync:
    """Those who come while it is under way share the next one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._going_on: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """What is in the directory now is so on disk. Raises OSError."""
        if self._next is None:
            self._next = asyncio.create_task(self._sync(self._going_on))
        await asyncio.shield(self._next)

    async def _sync(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait((before,))
        self._going_on, self._next = self._next, None
        await asyncio.to_thread(sync_directory, self._directory)
