"""A client that says what a test wants, well or badly, and hears the answers."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

from posthouse.secret import Secret

SECONDS = 10.0


@dataclass(slots=True)
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self) -> bytes:
        """One whole reply; b"" when the gateway has closed."""
        said = b""
        async with asyncio.timeout(SECONDS):
            while line := await self.reader.readline():
                said += line
                if line[3:4] != b"-":
                    break
        return said

    async def ask(self, line: bytes) -> bytes:
        await self.say(line + b"\r\n")
        return await self.hear()

    async def rest(self) -> bytes:
        """What is still said, up to the end of the connection, however that comes."""
        said = b""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    said += data
        return said

    async def log_in(self, device: str, password: Secret) -> bytes:
        await self.ask(b"EHLO client.example")
        plain = base64.b64encode(f"\0{device}\0{password.reveal()}".encode())
        return await self.ask(b"AUTH PLAIN " + plain)

    async def begin(self, recipient: str) -> bytes:
        """MAIL, RCPT and DATA; the answer to DATA."""
        await self.ask(b"MAIL FROM:<scanner@printer.example>")
        await self.ask(f"RCPT TO:<{recipient}>".encode())
        return await self.ask(b"DATA")

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self.writer.start_tls(context, server_hostname="localhost")

    def vanish(self) -> None:
        """Without a goodbye."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def client(port: int, *, login: tuple[str, Secret] | None = None) -> AsyncIterator[Client]:
    """Connected and greeted, and logged in where asked for."""
    made = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        assert (await made.hear()).startswith(b"220 ")
        if login:
            assert (await made.log_in(*login)).startswith(b"235 ")
        yield made
    finally:
        made.vanish()
