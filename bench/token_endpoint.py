"""A token endpoint that takes its time and grants everything: HTTP/1.1 over TLS, kept alive, as providers have it.

token_endpoint.py CERTIFICATE KEY PORT_FILE DELAY
"""

import asyncio
import itertools
import ssl
import sys
from pathlib import Path
from typing import Any

import uvloop

_numbers = itertools.count(1)
BODY = b'{"access_token":"%s%d","refresh_token":"%s%d","token_type":"Bearer","expires_in":3600}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ACCESS, REFRESH = b"a" * 1500, b"r" * 1000
"""About as long as Microsoft's."""


class Endpoint(asyncio.Protocol):
    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (size := _size_of(self._received)) and len(self._received) >= size:
            self._received = self._received[size:]
            asyncio.get_running_loop().call_later(self._delay, self._answer)

    def _answer(self) -> None:
        number = next(_numbers)
        body = BODY % (ACCESS, number, REFRESH, number)
        if not self._transport.is_closing():
            self._transport.write(HEAD % len(body) + body)


def _size_of(received: bytes) -> int:
    """Octets of the first request; 0 while its head is not complete."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end:
        return 0
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(head) + 4 + int(lengths[0] if lengths else 0)


async def serve(certificate: str, key: str, port_file: str, delay: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Endpoint(float(delay)), "127.0.0.1", 0, ssl=context, backlog=500)
    made = Path(port_file + ".new")
    made.write_text(str(server.sockets[0].getsockname()[1]))
    made.replace(port_file)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
