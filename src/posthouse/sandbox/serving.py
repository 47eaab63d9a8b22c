"""HTTP in the running loop: a server on a socket bound before, forms with a limit, and answers that never come."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from posthouse.sandbox.faults import Fault

MOST_BODY = 64 * 1024
MOST_FIELDS = 100
NO_STORE = {"Cache-Control": "no-store"}
ABORT = "posthouse.abort"
Form = dict[str, str]
Endpoint = Callable[[Request, Form], Awaitable[Response]]
FindFault = Callable[[str, Form], Fault | None]


class BadFormError(Exception):
    """A request that is too large, repeats a parameter (RFC 6749 section 3.2) or broke off."""


class HttpServer(uvicorn.Server):
    """One application on one loopback port. Signals stay with whoever owns the process."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Abortable,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                limit_concurrency=2000,
                timeout_keep_alive=30,
            )
        )
        self._listening = listening
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    async def start(self) -> None:
        """Returns once requests are answered. Raises OSError."""
        self._task = asyncio.create_task(self.serve(sockets=[self._listening]))
        up = asyncio.create_task(self._up.wait())
        await asyncio.wait((self._task, up), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._task.done():
            self._task.result()

    async def main_loop(self) -> None:
        await self._down.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*self.server_state.tasks)

    async def stop(self) -> None:
        """End now: connections are cut. What still runs has been told to end."""
        self._down.set()
        if self._task is not None:
            await self._task


class _Abortable(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope.setdefault("state", {})[ABORT] = self.transport.abort


class NoAnswer(Response):
    """The connection is cut instead of answering."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"][ABORT]()
        while (await receive())["type"] != "http.disconnect":
            pass


def refusal(error: str, sentence: str = "", status: int = 400, **headers: str) -> Response:
    """An OAuth error (RFC 6749 section 5.2)."""
    body = {"error": error, "error_description": sentence} if sentence else {"error": error}
    return JSONResponse(body, status, {**NO_STORE, **headers})


async def read_form(request: Request) -> Form:
    """The form of a POST or the query of a GET. Raises BadFormError."""
    encoded = bytes(request.scope["query_string"])
    if request.method == "POST":
        encoded = await read_body(request)
    try:
        fields = parse_qsl(encoded.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadFormError("The request cannot be read.") from None
    if len({name for name, _ in fields}) < len(fields):
        raise BadFormError("A parameter is there twice.")
    return dict(fields)


async def read_body(request: Request, most: int = MOST_BODY) -> bytes:
    """The body of a request. Raises BadFormError past `most` octets."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise BadFormError("The request is too large.")
    except ClientDisconnect:
        raise BadFormError("The request broke off.") from None
    return bytes(body)


@dataclass(frozen=True, slots=True)
class FaultyDoors:
    """Endpoints with their fault switches in front. `closing` ends the delays when the server goes down."""

    find: FindFault
    closing: asyncio.Event

    def endpoint(self, place: str, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def served(request: Request) -> Response:
            try:
                form = await read_form(request)
            except BadFormError as error:
                return refusal("invalid_request", str(error))
            fault = self.find(place, form)
            if fault is None:
                return await endpoint(request, form)
            return await self._acted(fault, request, form, endpoint)

        return served

    async def _acted(self, fault: Fault, request: Request, form: Form, endpoint: Endpoint) -> Response:
        if fault.delay and await self._closed_within(fault.delay):
            return NoAnswer()
        if fault.action == "answer":
            return _answer(fault)
        if fault.action == "cut":
            return NoAnswer()
        response = await endpoint(request, form)
        if fault.action == "alter":
            return _altered(response, fault)
        return NoAnswer() if fault.action == "lose" else response

    async def _closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self.closing.wait()
        except TimeoutError:
            return False


def _altered(response: Response, fault: Fault) -> Response:
    """Only a good answer in JSON has members to alter."""
    if response.status_code != 200 or response.media_type != "application/json":
        return response
    members = {**json.loads(bytes(response.body)), **json.loads(fault.body)}
    return JSONResponse({name: value for name, value in members.items() if value is not None}, headers=NO_STORE)


def _answer(fault: Fault) -> Response:
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
    if fault.body == "html":
        page = f"<!doctype html><title>{fault.status}</title><h1>Our services aren't available right now</h1>"
        return Response(page, fault.status, headers, "text/html")
    if fault.body == "large":
        large: dict[str, Any] = {"error": fault.error, "padding": "x" * 1024 * 1024}
        return JSONResponse(large, fault.status, headers)
    if fault.body:
        return Response(fault.body, fault.status, headers, "application/json")
    return refusal(fault.error, "Asked for by a fault switch.", fault.status, **headers)
