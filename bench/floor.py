"""A relay that keeps nothing, checks nothing and knows one user: what loop, kernel and TLS cost by themselves.

It says 250 as soon as it has a message, loses all of them when it ends, and passes them on over a few warm connections,
each with the next envelope behind the message before it. What is faster than this has to leave Python.
Run as a program of its own: floor.py SINK CONNECTIONS AUTHORITY CERTIFICATE KEY READY, where it writes its port.
"""

import asyncio
import ssl
import sys
from pathlib import Path
from typing import cast

import uvloop

ENVELOPE = b"MAIL FROM:<alice@sandbox.example>\r\nRCPT TO:<bob@bench.example>\r\nDATA\r\n"
LOGIN = b"AUTH XOAUTH2 " + b"t" * 400 + b"\r\n"
ANSWERS = {
    b"EHLO": b"250-floor\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n",
    b"AUTH": b"235 2.7.0 OK\r\n",
    b"MAIL": b"250 2.1.0 OK\r\n",
    b"RCPT": b"250 2.1.5 OK\r\n",
    b"DATA": b"354 Go\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
Messages = asyncio.Queue[bytearray]


class Door(asyncio.Protocol):
    """For a client that waits for each answer before it goes on."""

    def __init__(self, context: ssl.SSLContext, messages: Messages) -> None:
        self._context = context
        self._messages = messages
        self._data = bytearray()
        self._in_message = self._tls = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._tls:
            self._transport.write(b"220 floor\r\n")

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._in_message:
            if self._data.endswith(b"\r\n.\r\n"):
                self._messages.put_nowait(self._data)
                self._data, self._in_message = bytearray(), False
                self._transport.write(b"250 2.0.0 Taken\r\n")
        elif self._data.endswith(b"\n"):
            verb = bytes(self._data[:4])
            self._data.clear()
            self._answer(verb)

    def _answer(self, verb: bytes) -> None:
        if verb == b"STAR":
            self._task = asyncio.create_task(self._start_tls())
            self._transport.write(b"220 Go\r\n")
            return
        self._in_message = verb == b"DATA"
        self._transport.write(ANSWERS[verb])
        if verb == b"QUIT":
            self._transport.close()

    async def _start_tls(self) -> None:
        self._tls = True
        loop = asyncio.get_running_loop()
        upgraded = await loop.start_tls(self._transport, self, self._context, server_side=True)
        if upgraded is not None:
            self._transport = upgraded


async def _answers(reader: asyncio.StreamReader, lines: int) -> None:
    while lines > 0:
        data = await reader.read(65536)
        if not data:
            raise ConnectionError("the sink has gone")
        lines -= data.count(b"\n")


async def deliver(messages: Messages, port: int, context: ssl.SSLContext) -> None:
    """Over one connection, for ever."""
    reader, writer = await asyncio.open_connection("localhost", port)
    for words, lines in ((b"", 1), (b"EHLO floor\r\n", 6), (b"STARTTLS\r\n", 1)):
        writer.write(words)
        await _answers(reader, lines)
    await writer.start_tls(context, server_hostname="localhost")
    for words, lines in ((b"EHLO floor\r\n", 6), (LOGIN, 1)):
        writer.write(words)
        await _answers(reader, lines)
    message: bytearray | None = None
    while True:
        if message is None:
            message = await messages.get()
            writer.write(ENVELOPE)
            await _answers(reader, 3)
        following = messages.get_nowait() if messages.qsize() else None
        writer.write(message if following is None else message + ENVELOPE)
        await _answers(reader, 1 if following is None else 4)
        message = following


async def serve(sink: str, connections: str, authority: str, certificate: str, key: str, ready: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.num_tickets = 0
    messages, upstream = Messages(), ssl.create_default_context(cafile=authority)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Door(context, messages), "127.0.0.1", 0, backlog=512)
    Path(ready).write_text(str(server.sockets[0].getsockname()[1]))
    async with asyncio.TaskGroup() as group:
        for _ in range(int(connections)):
            group.create_task(deliver(messages, int(sink), upstream))


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
