"""Servers and proxies that tests let the gateway talk to: they lie, crawl and leave things out."""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

GOOD: Mapping[str, bytes] = {
    "": b"220 liar.example ESMTP\r\n",
    "EHLO": b"250-liar.example\r\n250-AUTH XOAUTH2\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
    "STAR": b"220 2.0.0 Go ahead\r\n",
    "AUTH": b"235 2.7.0 Welcome\r\n",
    "MAIL": b"250 2.1.0 Fine\r\n",
    "RCPT": b"250 2.1.5 Fine\r\n",
    "DATA": b"354 Go ahead\r\n",
    "BDAT": b"250 2.0.0 Taken\r\n",
    ".": b"250 2.0.0 Taken\r\n",
    "RSET": b"250 2.0.0 Forgotten\r\n",
    "NOOP": b"250 2.0.0 Here\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
}
SECONDS = 30.0
Script = Mapping[str, bytes]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Liar:
    """What it says is `says` where a verb stands in it, else what an honest server would, with what it was
    told in the place of <line>; `heard` are the lines of its clients, `taken` the messages.

    `RCPT 2` in `says` is the second RCPT of a connection. At `stops_at`, written in the same way, it hears and says
    no more after that; `BODY` is after some of a message. Then it keeps the line or `hangs_up`. `tls` is for STARTTLS.
    """

    port: int = 0
    says: Script = field(default_factory=dict)
    stops_at: str | None = None
    hangs_up: bool = False
    pause: float = 0.0
    """Seconds before it reads a message."""
    behind_starttls: bytes = b""
    """In the clear, in a packet of its own."""
    tls: ssl.SSLContext | None = None
    taken: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Conversation(self, reader, writer).hold()


@dataclass(slots=True)
class _Conversation:
    liar: Liar
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _verbs: Counter[str] = field(default_factory=Counter)
    _chunks: bytearray = field(default_factory=bytearray)

    async def hold(self) -> None:
        await self._say("")
        verb = ""
        while line := await self.reader.readline():
            self.liar.heard.append(line)
            verb = "AUTH" if verb == "AUTH more" else line[:4].decode("latin-1").strip().upper()
            chunk = await self.reader.readexactly(int(line.split()[1])) if verb == "BDAT" else b""
            answer = await self._say(verb, line.strip())
            if verb == "BDAT":
                self._take_chunk(chunk, answer, last=line.strip().upper().endswith(b"LAST"))
            elif verb == "DATA" and answer.startswith(b"354"):
                await self._read_body()
            elif verb == "STAR" and answer.startswith(b"220"):
                assert self.liar.tls
                if self.liar.behind_starttls:
                    await asyncio.sleep(0.001)
                    self.writer.write(self.liar.behind_starttls)
                await self.writer.start_tls(self.liar.tls)
            elif verb == "AUTH" and answer.startswith(b"334"):
                verb = "AUTH more"

    async def _say(self, verb: str, line: bytes = b"") -> bytes:
        """What is said where the client has said this verb."""
        self._verbs[verb] += 1
        names, says = (f"{verb} {self._verbs[verb]}", verb), self.liar.says
        answer = next((says[name] for name in names if name in says), GOOD.get(verb, b"500 What?\r\n"))
        answer = answer.replace(b"<line>", line)
        self.writer.write(answer)
        await self.writer.drain()
        if self.liar.stops_at in names:
            await self._stop()
        return answer

    async def _stop(self) -> None:
        """A connection that ends with octets unread loses what was said last, unless that has arrived before."""
        await asyncio.sleep(0.05 if self.liar.hangs_up else SECONDS)
        self.writer.close()
        await self.writer.wait_closed()
        raise ConnectionError

    async def _read_body(self) -> None:
        if self.liar.stops_at == "BODY":
            await self.reader.readexactly(1000)
            await self._say("BODY")
        await asyncio.sleep(self.liar.pause)
        body = bytearray()
        while (line := await self.reader.readuntil(b"\n")) != b".\r\n":
            body += line
        if (await self._say(".")).startswith(b"2"):
            self.liar.taken.append(bytes(body))

    def _take_chunk(self, chunk: bytes, answer: bytes, *, last: bool) -> None:
        """The message is kept where the last chunk is taken."""
        self._chunks += chunk
        if last:
            if answer.startswith(b"2"):
                self.liar.taken.append(bytes(self._chunks))
            self._chunks.clear()


@contextlib.asynccontextmanager
async def listening(
    handler: Handler, context: ssl.SSLContext | None = None, *, limit: int = 64 * 1024
) -> AsyncIterator[int]:
    """The port on which every connection is given to `handler`, whose network troubles are nobody's business.

    The system keeps little of what the handler does not read. `limit`: octets that are looked through for the end of
    a line, or of a message.
    """
    held_ones: set[asyncio.Task[None] | None] = set()

    async def held(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held_ones.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError):
            pass
        finally:
            held_ones.discard(asyncio.current_task())
            writer.transport.abort()

    place = socket.create_server(("127.0.0.1", 0))
    place.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    server = await asyncio.start_server(held, sock=place, ssl=context, limit=limit)
    try:
        yield place.getsockname()[1]
    finally:
        server.close()
        for task in held_ones:
            if task is not None:
                task.cancel()


@contextlib.asynccontextmanager
async def liar(context: ssl.SSLContext | None, *, starttls: ssl.SSLContext | None = None) -> AsyncIterator[Liar]:
    """With TLS from the first octet where there is a context."""
    made = Liar(tls=starttls)
    async with listening(made.converse, context) as made.port:
        yield made


@contextlib.asynccontextmanager
async def between(port: int, change: Callable[[bytes], bytes], step: int) -> AsyncIterator[int]:
    """A proxy in front of 127.0.0.1:`port` that hands on `step` octets at a time, the server's after `change`."""

    async def pass_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
    ) -> None:
        while data := await reader.read(64 * 1024):
            data = change(data)
            for start in range(0, len(data), step):
                writer.write(data[start : start + step])
                await writer.drain()
                await asyncio.sleep(0)
        writer.write_eof()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pass_on(reader, back, bytes), pass_on(there, writer, change))
        finally:
            back.transport.abort()

    async with listening(handler) as own:
        yield own


@contextlib.asynccontextmanager
async def dripping(port: int, seconds: float) -> AsyncIterator[int]:
    """What the server says comes octet by octet, with a pause before each."""

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octet := await reader.read(1):
            await asyncio.sleep(seconds)
            writer.write(octet)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            await slowly(there, writer)
        finally:
            back.transport.abort()

    async with listening(handler) as own:
        yield own


def crawling(port: int) -> contextlib.AbstractAsyncContextManager[int]:
    """Hands on one octet at a time."""
    return between(port, bytes, 1)


def without(port: int, line: bytes) -> contextlib.AbstractAsyncContextManager[int]:
    """Leaves a line out of what the server says in the clear."""
    return between(port, lambda data: data.replace(line, b""), 64 * 1024)
