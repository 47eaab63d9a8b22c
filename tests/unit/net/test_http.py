"""Asking servers over HTTP: what is not followed, not kept and not believed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posthouse.model.outcome import Unreachable
from posthouse.net.http import HttpClient
from posthouse.oauth.message import Answer, get, post
from posthouse.sandbox.certificates import server_context
from posthouse.secret import Secret
from tests.faults.liars import listening


@dataclass(slots=True)
class Server:
    """Gives the next of its answers to each request; `heard` is what it was asked."""

    answers: Sequence[bytes]
    port: int = 0
    heard: list[bytes] = field(default_factory=list)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.readuntil(b"\r\n\r\n"))
        head = self.answers[min(len(self.heard), len(self.answers)) - 1]
        writer.write(b"HTTP/1.1 " + head + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()


@asynccontextmanager
async def server(*answers: bytes) -> AsyncIterator[Server]:
    made = Server(answers)
    async with listening(made.converse) as made.port:
        yield made


@asynccontextmanager
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient()
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"308 Permanent Redirect"])
async def test_a_secret_is_not_carried_on_to_where_a_server_points(status: bytes) -> None:
    async with server(b"200 OK") as foreign, client() as http:
        async with server(status + b"\r\nLocation: http://127.0.0.1:%d/" % foreign.port) as provider:
            request = post(f"http://127.0.0.1:{provider.port}/token", {"refresh_token": Secret("s3cret")})
            answer = await http.ask(request, deadline=5)
        assert isinstance(answer, Answer)
        assert answer.status == int(status[:3])
        assert foreign.heard == []


async def test_what_a_server_says_to_one_account_does_not_come_back_with_another() -> None:
    async with server(b"200 OK\r\nSet-Cookie: session=of-alice; Path=/") as provider, client() as http:
        for _ in range(2):
            await http.ask(get(f"http://127.0.0.1:{provider.port}/"), deadline=5)
        assert len(provider.heard) == 2
        assert b"cookie" not in provider.heard[1].lower()


async def test_a_server_that_hangs_takes_no_connection_from_another() -> None:
    heard, over = [], asyncio.Event()

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        await over.wait()

    async with listening(hang) as port, server(b"200 OK") as well, client() as http:
        hanging = [asyncio.create_task(http.ask(get(f"http://127.0.0.1:{port}/"), deadline=20)) for _ in range(250)]
        async with asyncio.timeout(10):
            while len(heard) < 200:
                await asyncio.sleep(0.01)
        assert isinstance(await http.ask(get(f"http://127.0.0.1:{well.port}/"), deadline=5), Answer)
        over.set()
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_server_whose_certificate_is_not_trusted_is_told_nothing(tmp_path: Path) -> None:
    made, context = Server([b"200 OK"]), server_context(tmp_path)
    async with listening(made.converse, context) as port, client() as http:
        answer = await http.ask(post(f"https://localhost:{port}/token", {"code": Secret("c0de")}), deadline=5)
        assert isinstance(answer, Unreachable)
        assert not answer.outcome_unknown
        assert made.heard == []
