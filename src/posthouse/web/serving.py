"""uvicorn inside our loop: on the page's port and on the control socket. Signals stay ours."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServer:
    """One bound socket, served until `stop()`."""

    def __init__(self, app: Any, listening: socket.socket, tls: tuple[Path, Path] | None = None) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            http="httptools",
            ws="none",
            timeout_graceful_shutdown=3,
            limit_concurrency=500,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
        )
        self._server = _Quiet(config)
        self._listening = listening
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def on_tcp(cls, app: Any, listening: socket.socket, tls: tuple[Path, Path] | None = None) -> "WebServer":
        """`tls`: certificate and key in PEM form, or None for plain HTTP."""
        return cls(app, listening, tls)

    @classmethod
    def on_control(cls, app: Any, listening: socket.socket) -> "WebServer":
        """Whoever can open this socket is the user the gateway runs as."""
        from posthouse.web.api.control import trusted

        return cls(trusted(app), listening)

    @classmethod
    def on_submit(cls, app: Any, listening: socket.socket) -> "WebServer":
        """Whoever can open this socket may hand mail in."""
        from posthouse.web.api.control import submit_only

        return cls(submit_only(app), listening)

    async def start(self) -> None:
        """Returns when requests are answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listening]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.01)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._listening.close()
