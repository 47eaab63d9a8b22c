"""Servers and proxies that tests let the gateway talk to: they lie, crawl and leave things out."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

GOOD: Mapping[str, bytes] = {
    "": b"220 liar.example ESMTP\r\n",
    "EHLO": b"250-liar.example\r\n250-AUTH XOAUTH2\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
    "AUTH": b"235 2.7.0 Welcome\r\n",
    "MAIL": b"250 2.1.0 Fine\r\n",
    "RCPT": b"250 2.1.5 Fine\r\n",
    "DATA": b"354 Go ahead\r\n",
    "BDAT": b"250 2.0.0 Taken\r\n",
    ".": b"250 2.0.0 Taken\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
}
Script = Mapping[str, bytes]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Liar:
    """What it says is `says` where a verb stands in it, else what an honest server would, with what it was
    told in the place of <line>; `heard` are the lines
    of its clients, `taken` the messages."""

    port: int = 0
    says: Script = field(default_factory=dict)
    taken: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    _chunks: bytearray = field(default_factory=bytearray)

    def answer(self, verb: str) -> bytes:
        return self.says.get(verb, GOOD.get(verb, b"500 What?\r\n"))

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answer(""))
        while line := await reader.readline():
            self.heard.append(line)
            verb = line[:4].decode("latin-1").strip().upper()
            answer = self.answer(verb).replace(b"<line>", line.strip())
            if verb == "BDAT":
                await self._chunk(reader, line, answer)
            writer.write(answer)
            if verb == "DATA" and answer.startswith(b"354"):
                body = await reader.readuntil(b"\r\n.\r\n")
                if self.answer(".").startswith(b"2"):
                    self.taken.append(body)
                writer.write(self.answer("."))
            await writer.drain()

    async def _chunk(self, reader: asyncio.StreamReader, line: bytes, answer: bytes) -> None:
        """Its octets are read; the message is kept where the last chunk is taken."""
        self._chunks += await reader.readexactly(int(line.split()[1]))
        if line.strip().upper().endswith(b"LAST"):
            if answer.startswith(b"2"):
                self.taken.append(bytes(self._chunks))
            self._chunks.clear()


@contextlib.asynccontextmanager
async def listening(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port on which every connection is given to `handler`, whose network troubles are nobody's business."""

    async def held(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(held, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def liar(context: ssl.SSLContext | None) -> AsyncIterator[Liar]:
    """With TLS from the first octet where there is a context."""
    made = Liar()
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
