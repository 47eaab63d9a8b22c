"""One connection: bytes in, bytes out, TLS on request, back-pressure both ways. Knows no protocol."""

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import cast

READ_AHEAD = 256 * 1024
"""Octets kept for a reader that is slower than its peer; past it the peer is made to wait."""


class ChannelClosed(ConnectionError):
    """The other side went away while something was being written or upgraded."""


class Channel(asyncio.Protocol):
    """A connected stream. One task reads it; `on_open` is called once when it is connected."""

    def __init__(self, on_open: Callable[["Channel"], None] | None = None) -> None:
        self._on_open = on_open
        self._received = bytearray()
        self._unwritten: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._reader: asyncio.Future[None] | None = None
        self._taker: Callable[[bytes], bool] | None = None
        self._patience = math.inf
        self._writer: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        self._ended = False
        self._reading_paused = False
        self._writing_paused = False
        self._deadline = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self.peer = ""

    # What asyncio tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        if self._on_open is not None:
            self._on_open(self)

    def data_received(self, data: bytes) -> None:
        if self._taker is not None:
            self._hand(data, self._taker)
            return
        self._received += data
        if len(self._received) > READ_AHEAD and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake(self._reader)

    def eof_received(self) -> bool:
        """A peer that has said everything still gets its answer; TLS knows no half-closed connection."""
        self._ended = True
        self._wake(self._reader)
        if self._takes_no_more:
            self._wake(self._writer)
        return not self.tls

    @property
    def _takes_no_more(self) -> bool:
        """Also a peer that has said goodbye in TLS, though its connection may linger unread."""
        return self._closed.done() or (self._ended and self.tls)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._wake(self._reader)
        self._wake(self._writer)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake(self._writer)

    # What the owner of the connection does

    @property
    def tls(self) -> bool:
        return self._transport is not None and self._transport.get_extra_info("ssl_object") is not None

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER, where TLS is on and it showed one."""
        session = self._transport.get_extra_info("ssl_object") if self._transport else None
        return session.getpeercert(binary_form=True) if session is not None else None

    @property
    def clogged(self) -> bool:
        """More has been written than the peer has taken: time to `drain()`."""
        return self._writing_paused

    @property
    def ended(self) -> bool:
        """The peer has gone, whatever may still lie unread."""
        return self._ended

    def arrived(self) -> bytes:
        """What lies unread, without waiting."""
        return self._take_received()

    async def read(self, timeout: float | None = None) -> bytes:
        """What has arrived, b"" when the peer has ended. Waits at most `timeout` seconds (TimeoutError)."""
        if not self._received and not self._ended:
            await self._arrival(timeout)
        return self._take_received()

    async def feed(self, take: Callable[[bytes], bool], timeout: float) -> bool:
        """Hand what arrives to `take` as it arrives, until it has had enough (True); b"" tells it of the end.

        A task is not woken for what `take` deals with; what that was given when its task is cancelled is lost.
        Waits at most `timeout` seconds for each arrival. Gives whether the peer goes on. Raises TimeoutError, and
        what `take` raises.
        """
        while True:
            while self._received or self._ended:
                data = self._take_received()
                if take(data) or not data:
                    return bool(data)
            self._taker, self._patience = take, timeout
            try:
                await self._arrival(timeout)
                if self._taker is None:
                    return True
            finally:
                self._taker = None

    def _hand(self, data: bytes, take: Callable[[bytes], bool]) -> None:
        self._deadline = self._loop.time() + self._patience
        try:
            enough = take(data)
        except Exception as cause:
            self._taker = None
            if self._reader is not None and not self._reader.done():
                self._reader.set_exception(cause)
            return
        if enough:
            self._taker = None
            self._wake(self._reader)

    async def _arrival(self, timeout: float | None) -> None:
        self._reader = self._loop.create_future()
        try:
            self._set_deadline(timeout)
            await self._reader
        finally:
            self._reader = None

    def _take_received(self) -> bytes:
        data = bytes(self._received)
        self._received.clear()
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    def _set_deadline(self, timeout: float | None) -> None:
        """One alarm serves many reads: it looks when it goes off whether the deadline has moved meanwhile."""
        self._deadline = math.inf if timeout is None else self._loop.time() + timeout
        if self._alarm is not None and self._alarm_at > self._deadline:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None and timeout is not None:
            self._set_alarm(self._deadline)

    def _set_alarm(self, at: float) -> None:
        self._alarm_at = at
        self._alarm = self._loop.call_at(at, self._alarm_goes_off)

    def _alarm_goes_off(self) -> None:
        self._alarm = None
        if self._reader is None or self._reader.done() or self._deadline == math.inf:
            return
        if self._loop.time() < self._deadline:
            self._set_alarm(self._deadline)
        else:
            self._reader.set_exception(TimeoutError())

    def write(self, data: bytes) -> None:
        """Hand `data` to the connection. Nothing happens when it is closed: the next read or drain tells."""
        if data:
            self._unwritten.append(data)
            if len(self._unwritten) == 1:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Many connections write one after the other: a peer that is awake already is told at half the cost."""
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until the peer has taken enough of what was written. Raises ChannelClosed, TimeoutError."""
        self._flush()
        if self._closed.done():
            raise ChannelClosed("the connection was closed")
        if not self._writing_paused:
            return
        if not self._takes_no_more:
            await self._taken(timeout)
        if self._takes_no_more:
            raise ChannelClosed("the connection was closed")

    async def _taken(self, timeout: float | None) -> None:
        self._writer = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._writer
        finally:
            self._writer = None

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        hostname: str | None = None,
        timeout: float = 20,
    ) -> None:
        """Go over to TLS. What the peer sent before the handshake is dropped (CVE-2011-0411 and kin).

        Raises ssl.SSLError, ChannelClosed, TimeoutError.
        """
        if self._transport is None or self._closed.done():
            raise ChannelClosed("the connection was closed")
        self._flush()
        self._received.clear()
        self._reading_paused = False
        try:
            async with asyncio.timeout(timeout):
                self._transport = await self._upgraded(self._transport, context, server_side, hostname)
        except BaseException as cause:
            self._transport.abort()
            self.connection_lost(None)
            if isinstance(cause, ConnectionError):
                raise ChannelClosed("the connection was closed during the handshake") from cause
            raise

    async def _upgraded(
        self, plain: asyncio.Transport, context: ssl.SSLContext, server_side: bool, hostname: str | None
    ) -> asyncio.Transport:
        transport = await self._loop.start_tls(plain, self, context, server_side=server_side, server_hostname=hostname)
        if transport is None:
            raise ConnectionError("closed")
        return transport

    def close(self) -> None:
        """Send what is written, then close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now and forget what is not sent."""
        if self._transport is not None and not self._closed.done():
            self._transport.abort()

    async def wait_closed(self, timeout: float = 5) -> None:
        """Wait for the end after `close()`; a peer that does not take the rest is cut off after `timeout`.

        Nearly always that is the loop's next turn, and no timer is needed.
        """
        await asyncio.sleep(0)
        if self._transport is None or self._closed.done():
            return
        cut_off = self._loop.call_later(timeout, self.abort)
        try:
            await asyncio.shield(self._closed)
        finally:
            cut_off.cancel()

    @staticmethod
    def _wake(waiting: asyncio.Future[None] | None) -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
