"""A provider's submission server that remembers whatever it took, and breaks off at any step when it likes."""

import asyncio
import base64
import hashlib
import random
import ssl
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.faults.liars import listening

LARGEST = 8 * 1024 * 1024
ANSWERS = {
    b"MAIL": b"250 2.1.0 Fine\r\n",
    b"RCPT": b"250 2.1.5 Fine\r\n",
    b"RSET": b"250 2.0.0 Fine\r\n",
    b"NOOP": b"250 2.0.0 Fine\r\n",
    b"DATA": b"354 Go ahead\r\n",
}
STEPS = ("connect", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "body", "end", "taken")
"""At `end` it has read the message and forgets it; at `taken` it remembers it, and says so to nobody."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """`digest` is of what stands below the header."""

    digest: bytes
    recipients: tuple[str, ...]


@dataclass(slots=True)
class Sink:
    """`is_live` knows access tokens. `when_taken` is called once, when `countdown` further messages have come, with
    the last one remembered and not answered yet."""

    is_live: Callable[[str], bool]
    chance: random.Random
    port: int = 0
    trouble: float = 0.0
    arrived: dict[str, list[Arrival]] = field(default_factory=lambda: defaultdict(list))
    broken: Counter[str] = field(default_factory=Counter)
    when_taken: Callable[[], None] | None = None
    countdown: int = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stumble("connect")
        writer.write(b"220 sink.example ESMTP\r\n")
        chunking = self.chance.random() < 0.5
        recipients: list[str] = []
        chunks = bytearray()
        while line := await reader.readline():
            verb = line[:4].upper()
            self._stumble(verb.decode("latin-1"))
            if verb == b"MAIL":
                recipients.clear()
                chunks.clear()
            elif verb == b"RCPT":
                recipients.append(_path(line))
            if verb == b"BDAT":
                chunks += await reader.readexactly(int(line.split()[1]))
                last = line.strip().upper().endswith(b"LAST")
                writer.write(self._take(bytes(chunks), recipients) if last else b"250 2.0.0 More\r\n")
            elif verb == b"DATA":
                writer.write(ANSWERS[verb])
                writer.write(self._take(await self._data(reader), recipients))
            else:
                writer.write(self._answer(verb, line, chunking=chunking))
            await writer.drain()

    def _answer(self, verb: bytes, line: bytes, *, chunking: bool) -> bytes:
        if verb == b"EHLO":
            more = b"250-CHUNKING\r\n" if chunking else b""
            return b"250-sink.example\r\n250-AUTH XOAUTH2\r\n250-8BITMIME\r\n" + more + b"250 PIPELINING\r\n"
        if verb == b"AUTH":
            return b"235 2.7.0 Welcome\r\n" if self.is_live(_bearer(line)) else b"535 5.7.3 Not with that token\r\n"
        return ANSWERS.get(verb, b"221 2.0.0 Bye\r\n" if verb == b"QUIT" else b"500 5.5.1 What?\r\n")

    async def _data(self, reader: asyncio.StreamReader) -> bytes:
        if self._unlucky():
            await reader.read(2000)
            self._break("body")
        text = await reader.readuntil(b"\r\n.\r\n")
        return text[:-3].replace(b"\r\n.", b"\r\n")

    def _take(self, text: bytes, recipients: list[str]) -> bytes:
        self._stumble("end")
        header, _, body = text.partition(b"\r\n\r\n")
        arrival = Arrival(hashlib.sha256(body).digest(), tuple(sorted(recipients)))
        self.arrived[message_id_in(header)].append(arrival)
        self._call()
        self._stumble("taken")
        return b"250 2.0.0 Taken\r\n"

    def _call(self) -> None:
        self.countdown -= 1
        if self.when_taken is not None and self.countdown <= 0:
            call, self.when_taken = self.when_taken, None
            call()

    def _unlucky(self) -> bool:
        return self.chance.random() < self.trouble

    def _stumble(self, step: str) -> None:
        if self._unlucky():
            self._break(step)

    def _break(self, step: str) -> None:
        self.broken[step] += 1
        raise ConnectionResetError(step)


def message_id_in(header: bytes) -> str:
    lines = header.split(b"\r\n")
    return next((line[11:].strip().decode() for line in lines if line[:11].lower() == b"message-id:"), "")


def _path(line: bytes) -> str:
    return line.partition(b"<")[2].partition(b">")[0].decode()


def _bearer(line: bytes) -> str:
    """The access token in `AUTH XOAUTH2 …`."""
    said = base64.b64decode(line.split()[2]).decode()
    return said.partition("Bearer ")[2].partition("\1")[0]


@asynccontextmanager
async def sink(context: ssl.SSLContext, is_live: Callable[[str], bool], seed: int) -> AsyncIterator[Sink]:
    """With TLS from the first octet."""
    made = Sink(is_live, random.Random(seed))
    async with listening(made.converse, context, limit=LARGEST) as made.port:
        yield made
