"""A provider that is far away: passes a connection on, each octet later by half a round trip.

Run as a program of its own: far.py PORT SECONDS READY, where SECONDS is the round trip and READY gets its port.
"""

import asyncio
import sys
from collections import deque
from pathlib import Path
from typing import cast

import uvloop


class Half(asyncio.Protocol):
    """One direction: what arrives here leaves by the other half, after the delay."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._early: deque[bytes] = deque()
        self.other: Half | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        while self._early:
            self.write(self._early.popleft())

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self._loop.call_later(self._delay, self.other.write, data)

    def write(self, data: bytes) -> None:
        if self._transport is None:
            self._early.append(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self._loop.call_later(self._delay, self.other.close)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Near(Half):
    """The client's half; a connection takes as long to be made as any word."""

    def __init__(self, port: int, delay: float) -> None:
        super().__init__(delay)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.other = Half(self._delay)
        self.other.other = self
        self._task = self._loop.create_task(self._reach(self.other))

    async def _reach(self, half: Half) -> None:
        await asyncio.sleep(2 * self._delay)
        await self._loop.create_connection(lambda: half, "127.0.0.1", self._port)


async def serve(port: int, round_trip: float, ready: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Near(port, round_trip / 2), "127.0.0.1", 0)
    Path(ready).write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
