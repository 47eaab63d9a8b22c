"""How a command reaches the API: over the control socket of a running gateway, else in this very process.

What a command needs stands in `Answer`; FastAPI and the database are loaded only where no gateway runs.
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from posthouse.problems import Problem, ProblemError, problem

if TYPE_CHECKING:
    import asyncio

    from posthouse.app import Gateway
    from posthouse.settings import Settings

PATIENCE = 60.0
"""Seconds an answer may take."""
STARTING = 8.0
"""Seconds to wait for a gateway that has the data directory but does not answer yet."""
LARGEST = 64 * 1024 * 1024
EXITS = {409: 1, 401: 1, 403: 1, 501: 69, 429: 75, 502: 75, 503: 75, 504: 75}
"""Exit status for the status of an answer; others: 64 below 500, else 70."""


class Answer:
    """What the API said: `data` is the decoded JSON, None where there is none."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body

    @property
    def data(self) -> Any:
        return json.loads(self.body) if self.body else None

    @property
    def exit_status(self) -> int:
        return EXITS.get(self.status, 64 if self.status < 500 else 70)

    def error(self) -> ProblemError:
        """The problem document as problems."""
        try:
            document = json.loads(self.body)
            listed = document.get("problems") or [document]
            found = [Problem(one.get("id", ""), one["detail"], one.get("hint", "")) for one in listed]
        except (ValueError, KeyError, AttributeError, TypeError):
            found = [Problem("api", f"The gateway answered {self.status} without saying why.")]
        return ProblemError(*found, status=self.exit_status)


class Api:
    """The doors under /api/v1; every method but `call` raises ProblemError where the answer is a refusal.

    `alone`: nobody but this process works on the data.
    """

    alone = False

    def call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:  # pragma: no cover
        raise NotImplementedError

    def pause(self, seconds: float) -> None:
        """Wait a while, letting go on what goes on by itself."""
        time.sleep(seconds)

    def can_be_visited(self) -> None:
        """Make sure that a browser finds our page. Raises ProblemError."""

    def get(self, path: str, **query: Any) -> Any:
        return self._checked("GET", _with_query(path, query))

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self._checked("POST", _with_query(path, query), body)

    def patch(self, path: str, body: Any, **query: Any) -> Any:
        return self._checked("PATCH", _with_query(path, query), body)

    def delete(self, path: str, **query: Any) -> Any:
        return self._checked("DELETE", _with_query(path, query))

    def post_octets(self, path: str, body: bytes, **query: Any) -> Any:
        """JSON that is written already."""
        return self._send("POST", _with_query(path, query), body)

    def hand_in(self, text: bytes, *, mailbox: str, sender: str, to: Sequence[str]) -> Answer:
        """A whole message, whatever the answer is."""
        path = _with_query("/messages", {"mailbox": mailbox, "from": sender, "to": list(to) or None})
        return self.call("POST", path, text, {"Content-Type": "message/rfc822"})

    def every(self, path: str, at_most: int = 0, **query: Any) -> Iterator[Any]:
        """The items of a list, page after page; `at_most` 0 for all."""
        told, cursor = 0, ""
        while True:
            page = self.get(path, **query, **({"cursor": cursor} if cursor else {}))
            for item in page["items"]:
                yield item
                told += 1
                if told == at_most:
                    return
            cursor = page.get("next")
            if not cursor:
                return

    def _checked(self, method: str, path: str, body: Any = None) -> Any:
        octets = None if body is None else json.dumps(body).encode()
        return self._send(method, path, octets)

    def _send(self, method: str, path: str, octets: bytes | None) -> Any:
        answer = self.call(method, path, octets, {"Content-Type": "application/json"} if octets else {})
        if answer.status >= 400:
            raise answer.error()
        return answer.data


def path_of(*parts: str) -> str:
    """A path with each part quoted."""
    return "/" + "/".join(quote(part, safe="@") for part in parts)


def _with_query(path: str, query: Mapping[str, Any]) -> str:
    given = {key: value for key, value in query.items() if value not in (None, "", False)}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


@contextmanager
def connect(settings: "Settings", *, create: bool = False, debug: bool = False) -> Iterator[Api]:
    """`create` makes the data directory where there is none. Raises ProblemError."""
    if not create and not settings.data.is_dir():
        raise problem(
            "data.missing",
            f"No Posthouse data in {settings.data}.",
            "Start `posthouse serve` or `posthouse apply FILE.toml` first, or name the right --config.",
            status=64,
        )
    path = settings.data / "control.sock"
    if answers(path):
        yield SocketApi(path)
        return
    with _in_process(settings, path, create=create, debug=debug) as api:
        yield api


def answers(path: Path) -> bool:
    """Whether a gateway listens there. Raises ProblemError where that cannot be found out."""
    try:
        _open(path).close()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return False
    except PermissionError:
        raise problem(
            "control.forbidden", f"{path} belongs to another user.", "Run this as the user the gateway runs as."
        ) from None
    except OSError as cause:
        raise problem("control.unreachable", f"{path} cannot be reached: {cause.strerror}.", status=75) from None
    return True


def _open(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    opened.settimeout(PATIENCE)
    try:
        opened.connect(str(path))
    except BaseException:
        opened.close()
        raise
    return opened


class SocketApi(Api):
    """One HTTP/1.0 request a connection: the answer ends where the gateway closes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            with _open(self._path) as opened:
                opened.sendall(_request(method, path, body, headers))
                return _answer(_read_all(opened))
        except OSError as cause:
            raise problem(
                "control.lost", f"The gateway did not answer: {cause.strerror or cause}.", "Try again.", status=75
            ) from None


def _request(method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} /api/v1{path} HTTP/1.0", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def _read_all(opened: socket.socket) -> bytes:
    parts, size = [], 0
    while part := opened.recv(65536):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise OSError("the answer is too large")
    return b"".join(parts)


def _answer(octets: bytes) -> Answer:
    """Raises OSError for one that was cut off."""
    head, found, body = octets.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if not found or len(words) < 2 or not words[1].isdigit():
        raise OSError("the answer was cut off")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and int(value) != len(body):
            raise OSError("the answer was cut off")
    return Answer(int(words[1]), body)


@contextmanager
def _in_process(settings: "Settings", path: Path, *, create: bool, debug: bool) -> Iterator[Api]:
    import asyncio

    from posthouse.cli.running import configure_log

    configure_log("error", debug=debug)
    with asyncio.Runner() as runner:
        gateway = _take(runner, settings, path, create=create)
        if gateway is None:
            yield SocketApi(path)
            return
        try:
            yield LocalApi(gateway, runner)
        finally:
            runner.run(gateway.close())


def _take(runner: "asyncio.Runner", settings: "Settings", path: Path, *, create: bool) -> "Gateway | None":
    """The parts over the data directory; None where a gateway that was starting answers by now."""
    from posthouse.app import open_gateway

    give_up = time.monotonic() + STARTING
    while True:
        try:
            return runner.run(open_gateway(settings, create=create))
        except ProblemError as error:
            if error.problems[0].id != "data.in-use" or time.monotonic() > give_up:
                raise
        if answers(path):
            return None
        time.sleep(0.1)


class LocalApi(Api):
    """The same API without a gateway: asked directly, with nothing going on between two calls but in `pause`."""

    def __init__(self, gateway: "Gateway", runner: "asyncio.Runner") -> None:
        from posthouse.web.api import alone

        self._gateway = gateway
        self._runner = runner
        self._app = alone(gateway.parts)
        self._visited = False
        self.alone = gateway.parts.store.database.embedded

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        return self._runner.run(self._call(method, path, body, headers))

    async def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        import httpx2

        transport = httpx2.ASGITransport(app=self._app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.request(
                method, f"/api/v1{path}", content=body, headers=dict(headers), timeout=PATIENCE
            )
        return Answer(answer.status_code, answer.content)

    def pause(self, seconds: float) -> None:
        self._runner.run(self._look_after(seconds))

    async def _look_after(self, seconds: float) -> None:
        """What the gateway does by itself for a sign-in or a change of keys that is under way."""
        import asyncio

        from posthouse.store.database import CommitUnknown, DatabaseUnavailable

        with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
            await self._gateway.parts.authorise.look_after()
            if await self._rotate_keys(seconds):
                return
        await asyncio.sleep(seconds)

    async def _rotate_keys(self, seconds: float) -> bool:
        """For some seconds, or until all is done: whether it is, and was not before."""
        parts, until = self._gateway.parts, time.monotonic() + seconds
        begun = parts.store.keys.changing
        while await parts.key_rotation.turn(alone=self.alone) and time.monotonic() < until:
            pass
        return begun and not parts.store.keys.changing

    def can_be_visited(self) -> None:
        """The browser has to come back to our page: open it for as long as this command runs."""
        if not self._visited:
            self._runner.run(self._gateway.start_web())
            self._visited = True
