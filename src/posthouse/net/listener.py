"""Listening: accepts connections up to a limit, hands each to a task of its own, drains on close."""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable

from .channel import Channel

Handler = Callable[[Channel], Awaitable[None]]
OnCrash = Callable[[BaseException], None]


class Listener:
    """One listening socket. Connections past `limit`, or `limit_per_peer` from one address, are closed."""

    def __init__(self, handler: Handler, *, limit: int, limit_per_peer: int, on_crash: OnCrash | None) -> None:
        self._handler = handler
        self._limit = limit
        self._limit_per_peer = limit_per_peer
        self._on_crash = on_crash
        self._tasks: dict[asyncio.Task[None], Channel] = {}
        self._peers: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.host = ""

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        handler: Handler,
        *,
        tls: ssl.SSLContext | None = None,
        limit: int = 1000,
        limit_per_peer: int = 200,
        on_crash: OnCrash | None = None,
    ) -> "Listener":
        """Listen on `host`:`port` (0: the system chooses). Raises OSError where that is not possible."""
        listener = cls(handler, limit=limit, limit_per_peer=limit_per_peer, on_crash=on_crash)
        await listener._start(host, port, tls)
        return listener

    async def _start(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Channel(self._opened),
            sock=bound_socket(host, port),
            backlog=512,
            ssl=tls,
            ssl_handshake_timeout=20 if tls else None,
        )
        self.host, self.port = self._server.sockets[0].getsockname()[:2]

    def _opened(self, channel: Channel) -> None:
        if len(self._tasks) >= self._limit or self._peers[channel.peer] >= self._limit_per_peer:
            channel.abort()
            return
        self._peers[channel.peer] += 1
        task = asyncio.get_running_loop().create_task(self._serve(channel))
        self._tasks[task] = channel
        task.add_done_callback(self._finished)

    async def _serve(self, channel: Channel) -> None:
        try:
            await self._handler(channel)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            channel.abort()
        finally:
            channel.close()

    def _finished(self, task: "asyncio.Task[None]") -> None:
        channel = self._tasks.pop(task)
        self._peers[channel.peer] -= 1
        if not self._peers[channel.peer]:
            del self._peers[channel.peer]
        if task.cancelled():
            return
        crash = task.exception()
        if crash is not None and self._on_crash is not None:
            self._on_crash(crash)

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def close(self, drain: float = 0) -> None:
        """Accept no more; give running conversations `drain` seconds to end, then end them."""
        if self._server is not None:
            self._server.close()
        if self._tasks and drain > 0:
            await asyncio.wait(list(self._tasks), timeout=drain)
        for task, channel in list(self._tasks.items()):
            channel.abort()
            task.cancel()
        for task in list(self._tasks):
            with contextlib.suppress(BaseException):
                await task


def bound_socket(host: str, port: int) -> socket.socket:
    """A bound, non-blocking stream socket for an address of either family. Raises OSError."""
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    listening = socket.socket(family, kind, number)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
