"""Listening: accepts connections up to a limit, hands each to a task of its own, drains on close."""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from posthouse.net.channel import Channel

Handler = Callable[[Channel], Awaitable[None]]
OnCrash = Callable[[BaseException], None]


HANDSHAKE = 20.0
"""Seconds a client has for the TLS handshake."""
LINGER = 5.0
"""Seconds a client has to take our last words, and a conversation to stop when it is told to."""
BACKLOG = 512


@dataclass(slots=True)
class _Guest:
    """Somebody who takes a place, also while the TLS handshake is not done yet and there is no channel."""

    peer: str
    channel: Channel | None = None


class Listener:
    """One listening socket. Connections past `limit`, or `limit_per_peer` from one address, are closed.

    Without TLS they hear `full` first.
    """

    def __init__(
        self, handler: Handler, *, limit: int, limit_per_peer: int, on_crash: OnCrash | None, full: bytes
    ) -> None:
        self._handler = handler
        self._full = full
        self._limit = limit
        self._limit_per_peer = limit_per_peer
        self._on_crash = on_crash
        self._tasks: dict[asyncio.Task[None], _Guest] = {}
        self._peers: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._closing = False
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
        full: bytes = b"",
    ) -> "Listener":
        """Listen on `host`:`port` (0: the system chooses). Raises OSError where that is not possible."""
        listener = cls(handler, limit=limit, limit_per_peer=limit_per_peer, on_crash=on_crash, full=full)
        await listener._start(bound_socket(host, port), tls)
        return listener

    async def _start(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.host, self.port = listening.getsockname()[:2]
        loop = asyncio.get_running_loop()
        if tls is None:
            self._server = await loop.create_server(lambda: Channel(self._opened), sock=listening, backlog=BACKLOG)
        else:
            listening.listen(BACKLOG)
            self._accepting = loop.create_task(self._accept_tls(listening, tls))

    async def _accept_tls(self, listening: socket.socket, tls: ssl.SSLContext) -> None:
        """Until cancelled. The loop's own server would let any number of clients dwell in their handshake."""
        with contextlib.closing(listening):
            while True:
                try:
                    accepted, (peer, *_) = await asyncio.get_running_loop().sock_accept(listening)
                except OSError:
                    await asyncio.sleep(1)
                    continue
                if self._has_room(peer):
                    guest = _Guest(peer)
                    self._begin(guest, self._shake_hands(guest, accepted, tls))
                else:
                    accepted.close()

    async def _shake_hands(self, guest: _Guest, accepted: socket.socket, tls: ssl.SSLContext) -> None:
        channel = Channel()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: channel, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE
            )
        except OSError:
            return
        guest.channel = channel
        await self._serve(channel)

    def _opened(self, channel: Channel) -> None:
        if self._has_room(channel.peer):
            self._begin(_Guest(channel.peer, channel), self._serve(channel))
        else:
            channel.write(self._full)
            channel.close()

    def _has_room(self, peer: str) -> bool:
        full = len(self._tasks) >= self._limit or self._peers[peer] >= self._limit_per_peer
        return not full and not self._closing

    def _begin(self, guest: _Guest, conversation: Coroutine[Any, Any, None]) -> None:
        self._peers[guest.peer] += 1
        task = asyncio.get_running_loop().create_task(conversation)
        self._tasks[task] = guest
        task.add_done_callback(self._finished)

    async def _serve(self, channel: Channel) -> None:
        try:
            await self._handler(channel)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            channel.abort()
        finally:
            channel.close()
            await channel.wait_closed(LINGER)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        guest = self._tasks.pop(task)
        self._peers[guest.peer] -= 1
        if not self._peers[guest.peer]:
            del self._peers[guest.peer]
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
        self._closing = True
        if self._server is not None:
            self._server.close()
        if self._accepting is not None:
            self._accepting.cancel()
        if self._tasks and drain > 0:
            await asyncio.wait(list(self._tasks), timeout=drain)
        for task, guest in list(self._tasks.items()):
            if guest.channel is not None:
                guest.channel.abort()
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=LINGER)


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
