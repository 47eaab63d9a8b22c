"""A provider's submission server that does as little as it can: STARTTLS, any XOAUTH2 login, PIPELINING, and counting.

Of a message it reads the header, which says how many octets follow; these it counts and does not look at, and then
the message has to end. So it costs the same few cycles whoever sends, and a message that lost something is noticed.

Run as a program of its own: sink.py CERTIFICATE KEY COUNTER READY, where it writes its port into READY.
"""

import asyncio
import re
import ssl
import sys
from pathlib import Path
from typing import cast

import uvloop
from measure import Counter

OFFER = b"250-sink\r\n250-PIPELINING\r\n250-SIZE 157286400\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
ANSWERS = {
    b"MAIL": b"250 2.1.0 OK\r\n",
    b"RCPT": b"250 2.1.5 OK\r\n",
    b"DATA": b"354 Go\r\n",
    b"RSET": b"250 2.0.0 OK\r\n",
    b"NOOP": b"250 2.0.0 OK\r\n",
}
NUMBERS = re.compile(rb"\r\nX-Number: (\d+) of (\d+) octets\r\n")
END = b"\r\n.\r\n"
READ = 256 * 1024


class Sink(asyncio.BufferedProtocol):
    """`_number` is that of the message whose octets are coming, of which the next `_skip` are only counted."""

    def __init__(self, context: ssl.SSLContext, counter: Counter) -> None:
        self._context = context
        self._counter = counter
        self._read = memoryview(bytearray(READ))
        self._data = bytearray()
        self._in_message = False
        self._number = -1
        self._skip = 0
        self._tls = False
        self._tokens = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._tls:
            self._transport.write(b"220 sink ESMTP\r\n")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read

    def buffer_updated(self, nbytes: int) -> None:
        skipped = min(self._skip, nbytes)
        self._skip -= skipped
        self._data += self._read[skipped:nbytes]
        answers = bytearray()
        while self._data and (answer := self._message() if self._in_message else self._command()) is not None:
            answers += answer
        if answers:
            self._transport.write(bytes(answers))

    def _message(self) -> bytes | None:
        if self._number < 0 and not self._header():
            return None
        if self._skip or len(self._data) < len(END):
            return None
        if not self._data.startswith(END):
            sys.exit(f"message {self._number} did not arrive as it was sent")
        self._counter.add(self._number)
        del self._data[: len(END)]
        self._in_message, self._number = False, -1
        return b"250 2.0.0 taken\r\n"

    def _header(self) -> bool:
        """Whether it is all there; then the octets that follow are skipped, up to the last line end."""
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        said = NUMBERS.search(self._data, 0, end + 2)
        if said is None:
            sys.exit("a message came without its numbers")
        self._number, self._skip = int(said[1]), int(said[2]) - 2
        body = len(self._data) - end - 4
        del self._data[: end + 4 + min(body, self._skip)]
        self._skip -= min(body, self._skip)
        return True

    def _command(self) -> bytes | None:
        end = self._data.find(b"\r\n")
        if end < 0:
            return None
        verb = bytes(self._data[:4]).upper()
        initial = self._data.count(b" ", 0, end) > 1
        del self._data[: end + 2]
        self._in_message = verb == b"DATA"
        return self._login(verb, initial) if verb not in ANSWERS else ANSWERS[verb]

    def _login(self, verb: bytes, initial: bool) -> bytes:
        if verb == b"EHLO":
            return OFFER + (b"250 AUTH XOAUTH2 OAUTHBEARER\r\n" if self._tls else b"250 STARTTLS\r\n")
        if verb == b"STAR":
            self._task = asyncio.create_task(self._start_tls())
            return b"220 2.0.0 Go\r\n"
        if verb == b"QUIT":
            self._transport.write(b"221 2.0.0 Bye\r\n")
            self._transport.close()
            return b""
        if verb == b"AUTH" and not initial:
            return b"334 \r\n"
        return b"235 2.7.0 Welcome\r\n"

    async def _start_tls(self) -> None:
        self._tls = True
        loop = asyncio.get_running_loop()
        upgraded = await loop.start_tls(self._transport, self, self._context, server_side=True)
        if upgraded is not None:
            self._transport = upgraded


async def serve(certificate: str, key: str, counter: str, ready: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.num_tickets = 0
    counted = Counter(Path(counter))
    server = await asyncio.get_running_loop().create_server(lambda: Sink(context, counted), "127.0.0.1", 0, backlog=512)
    Path(ready).write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
