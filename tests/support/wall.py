"""What may come between the gateway and its database: from one moment to the next no answer arrives any more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHUNK = 65536


@dataclass(slots=True)
class Wall:
    """`url` leads through it. While it is shut, connections are taken and stay silent, those opened then for good."""

    host: str
    port: int
    url: str = ""
    silent: bool = False
    deaf: bool = False
    talks: set[asyncio.Task[None]] = field(default_factory=set)

    def shut(self, *, deaf: bool = False) -> None:
        """No answer comes back from now on; with `deaf` nothing arrives at the database either."""
        self.silent, self.deaf = True, deaf

    def open(self) -> None:
        """For new connections; what was lost remains so."""
        self.silent = self.deaf = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk
        self.talks.add(talk)
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            await self._talk(reader, writer)
        self.talks.discard(talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.silent:
            while await reader.read(CHUNK):
                pass
            return
        answers, database = await asyncio.open_connection(self.host, self.port)
        with contextlib.closing(database):
            back = asyncio.create_task(self._back(answers, writer))
            try:
                await self._there(reader, database)
            finally:
                back.cancel()

    async def _there(self, reader: asyncio.StreamReader, database: asyncio.StreamWriter) -> None:
        lost = False
        while data := await reader.read(CHUNK):
            lost = lost or self.deaf
            if not lost:
                database.write(data)
                await database.drain()

    async def _back(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lost = False
        while data := await answers.read(CHUNK):
            lost = lost or self.silent
            if not lost:
                writer.write(data)
                await writer.drain()
        if not lost:
            writer.close()


@contextlib.asynccontextmanager
async def wall(url: str) -> AsyncIterator[Wall]:
    """In front of the database at a postgresql:// address on loopback."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    made = Wall(parts.hostname, parts.port)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
    try:
        yield made
    finally:
        server.close()
        for talk in made.talks:
            talk.cancel()
        await asyncio.gather(*made.talks, return_exceptions=True)
