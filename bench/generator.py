"""Clients that send: so many at once, each connection with so many messages, a command at a time as devices do.

Run as a program of its own with a JSON object (see `Order`); it prints one with times of the monotonic clock.
"""

import asyncio
import base64
import json
import ssl
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

TLS = b"STARTTLS\r\n"
Script = Generator[bytes | tuple[bytes, ...], bytes, None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to send where. With `ca_file` the client begins TLS; with `token` it logs in by XOAUTH2.

    Without a user it does not log in.
    """

    port: int
    messages: int
    size: int
    at_once: int
    a_connection: int
    user: str
    result: str
    password: str = ""
    token: str = ""
    ca_file: str = ""
    first: int = 0


@dataclass(slots=True)
class Seen:
    """`first` and `last` are the times of the first connect and the last 250; `waits` the seconds from start to 250."""

    first: float
    last: float
    waits: list[float]
    refused: list[str]


class Work:
    """Messages that are still to be sent, and what became of the others."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._next = order.first
        self.seen = Seen(time.monotonic(), 0.0, [], [])
        self.context = ssl.create_default_context(cafile=order.ca_file) if order.ca_file else None
        filler = ("0123456789 abcdefghijklmnopqrstuvwxyz " * 2)[:70]
        lines = max(1, (order.size - 230) // 72)
        self._text = "".join(f"{filler}\r\n" for _ in range(lines)).encode()
        self._rest = self._text + b".\r\n"

    def take(self) -> int | None:
        if self._next >= self.order.first + self.order.messages:
            return None
        self._next += 1
        return self._next - 1

    def header(self, number: int) -> bytes:
        """It says how many octets follow it, for the sink to count."""
        text = (
            f"From: Scanner <scan@bench.example>\r\nTo: bob@bench.example\r\nSubject: Scan {number}\r\n"
            f"Date: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{number}.{id(self)}@bench.example>\r\n"
            f"X-Number: {number} of {len(self._text)} octets\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
        )
        return text.encode()

    def script(self, number: int) -> Script:
        """One conversation: yields what to send, is given each last line of a reply."""
        order = self.order
        yield b""
        yield b"EHLO bench\r\n"
        if self.context is not None:
            yield TLS
            yield b"EHLO bench\r\n"
        if order.user:
            self._expect((yield self._login()), b"235")
        for _ in range(order.a_connection):
            began = time.monotonic()
            self._expect((yield b"MAIL FROM:<scan@bench.example>\r\n"), b"250")
            self._expect((yield b"RCPT TO:<bob@bench.example>\r\n"), b"250")
            self._expect((yield b"DATA\r\n"), b"354")
            self._expect((yield (self.header(number), self._rest)), b"250")
            self.seen.last = time.monotonic()
            self.seen.waits.append(self.seen.last - began)
            following = self.take() if _ + 1 < order.a_connection else None
            if following is None:
                break
            number = following
        yield b"QUIT\r\n"

    def _login(self) -> bytes:
        order = self.order
        if order.token:
            text = f"user={order.user}\x01auth=Bearer {order.token}\x01\x01"
            return b"AUTH XOAUTH2 " + base64.b64encode(text.encode()) + b"\r\n"
        return b"AUTH PLAIN " + base64.b64encode(f"\0{order.user}\0{order.password}".encode()) + b"\r\n"

    def _expect(self, reply: bytes, code: bytes) -> None:
        if not reply.startswith(code):
            self.seen.refused.append(reply.decode(errors="replace"))
            raise ConnectionError(reply)


class Client(asyncio.Protocol):
    """Plays one script."""

    def __init__(self, work: Work, number: int) -> None:
        self._work = work
        self._script = work.script(number)
        self._data = b""
        self._sent: bytes | tuple[bytes, ...] = b""
        self.ended = asyncio.get_running_loop().create_future()
        next(self._script)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._data.endswith(b"\n"):
            return
        last = self._data[self._data.rfind(b"\n", 0, -1) + 1 :]
        if last[3:4] == b"-":
            return
        self._data = b""
        if self._sent == TLS:
            self._task = asyncio.create_task(self._start_tls())
        else:
            self._go_on(last)

    def _go_on(self, reply: bytes) -> None:
        try:
            self._sent = self._script.send(reply)
            self._transport.writelines(self._sent if isinstance(self._sent, tuple) else (self._sent,))
        except StopIteration:
            self._transport.close()
        except ConnectionError:
            self._transport.abort()

    async def _start_tls(self) -> None:
        context = self._work.context
        assert context is not None
        loop = asyncio.get_running_loop()
        upgraded = await loop.start_tls(self._transport, self, context, server_hostname="localhost")
        if upgraded is not None:
            self._transport = upgraded
            self._go_on(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._script.close()
        if not self.ended.done():
            self.ended.set_result(None)


async def _client_after_client(work: Work) -> None:
    loop = asyncio.get_running_loop()
    while (number := work.take()) is not None:
        make = partial(Client, work, number)
        _, client = await loop.create_connection(make, "127.0.0.1", work.order.port)
        await client.ended
        if len(work.seen.refused) > 10:
            return


async def send(order: Order) -> Seen:
    work = Work(order)
    async with asyncio.TaskGroup() as group:
        for _ in range(order.at_once):
            group.create_task(_client_after_client(work))
    return work.seen


if __name__ == "__main__":
    given = Order(**json.loads(sys.argv[1]))
    Path(given.result).write_text(json.dumps(asdict(uvloop.run(send(given)))))
