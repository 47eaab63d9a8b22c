"""Problem documents (RFC 9457): what every refused or failed request is answered with.

Next to the members of the RFC stand `id` (stable, can be searched for), `hint` (the one step that mends it) and
`problems` (all of them, where there are several).
"""

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posthouse.problems import Problem, ProblemError
from posthouse.services import storage
from posthouse.services.edit_binding import NOT_ALLOWED
from posthouse.services.token_keeper import NoToken
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.sealing import Unsealable

MEDIA_TYPE = "application/problem+json"
JSON_LIMIT = 2 * 1024 * 1024
"""Octets of a request body where the path allows no more."""
STATUSES = {1: 409, 64: 400, 65: 422, 69: 501, 70: 500, 75: 503}
"""HTTP status for the exit status that a problem gives a command."""
BY_ID = {NOT_ALLOWED: 403, "apply.in-use": 409}
"""Where the problem itself says more than the exit status."""
RETRY_AFTER = "5"

log = structlog.get_logger("api")


def document(status: int, problems: Sequence[Problem], **more: Any) -> JSONResponse:
    """The first problem stands at the top; `more` are members of its own kind."""
    first = problems[0]
    content: dict[str, Any] = {
        "type": f"urn:posthouse:problem:{first.id}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": _sentence(first),
        "id": first.id,
        "hint": first.hint,
    }
    if len(problems) > 1:
        content["problems"] = [{"id": p.id, "detail": _sentence(p), "hint": p.hint} for p in problems]
    headers = {"Retry-After": RETRY_AFTER} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse({**content, **more}, status, headers=headers, media_type=MEDIA_TYPE)


def _sentence(problem: Problem) -> str:
    return f"{problem.place}{problem.sentence}"


class Conflict(ProblemError):
    """A 409 with further members, such as the list of what still uses a token."""

    def __init__(self, problem: Problem, **more: Any) -> None:
        super().__init__(problem)
        self.more = more


def not_found(what: str, name: str) -> HTTPException:
    return HTTPException(HTTPStatus.NOT_FOUND, f"There is no {what} {name[:254]}.")


def install(app: FastAPI, message_size: int) -> None:
    """Answer everything that is raised with a problem document. `message_size`: octets of the largest message."""
    app.add_exception_handler(ProblemError, _refused)
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NoToken, _no_token)
    app.add_exception_handler(Unsealable, _unsealable)
    for unavailable in (DatabaseUnavailable, CommitUnknown):
        app.add_exception_handler(unavailable, _unavailable)
    app.add_middleware(Shield, message_size=message_size)


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101
    more = error.more if isinstance(error, Conflict) else {}
    status = BY_ID.get(error.problems[0].id) or STATUSES.get(error.status, 409)
    return document(status, error.problems, **more)


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101
    phrase = HTTPStatus(error.status_code).phrase
    sentence = error.detail if error.detail != phrase else f"{phrase}."
    name = phrase.lower().replace(" ", "-")
    answer = document(error.status_code, [Problem(f"http.{name}", sentence)])
    answer.headers.update(error.headers or {})
    return answer


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Where and what, never the value: it may be a secret in the wrong place."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()[:20]
    problems = [
        Problem("request.invalid", f"{str(one['msg'])[:200]}.", where=".".join(str(part) for part in one["loc"])[:200])
        for one in found
    ]
    return document(422, problems)


def _no_token(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NoToken)  # noqa: S101
    if error.temporary:
        return document(503, [Problem("token.later", error.sentence, "Try again in a moment.")])
    hint = "Sign in for it: posthouse authorise ADDRESS."
    return document(409, [Problem(f"token.{error.state}", error.sentence, hint)])


def _unsealable(_: Request, error: Exception) -> JSONResponse:
    return document(500, [Problem("key.wrong", f"What is stored cannot be read: {error}.", "Restore a backup.")])


def _unavailable(request: Request, error: Exception) -> JSONResponse:
    log.warning("database unavailable", cause=str(error))
    return document(503, storage.refused(request.app.state.parts.store).problems)


class Shield:
    """Limits bodies, and makes of an unforeseen failure an answer that tells nothing, with the place in the log."""

    def __init__(self, app: ASGIApp, message_size: int) -> None:
        self._app = app
        self._message_size = message_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False
        octets = 0

        async def counted() -> Message:
            nonlocal octets
            message = await receive()
            octets += len(message.get("body", b""))
            if octets > limit_of(scope, self._message_size):
                raise StarletteHTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large.")
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except Exception as fault:
            log.error("request failed", path=scope["path"][:200], kind=type(fault).__name__, where=_place_of(fault))
            if begun:
                raise
            sentence = "Posthouse itself failed; the log says where."
            await document(500, [Problem("fault", sentence)])(scope, receive, send)


def limit_of(scope: Scope, message_size: int) -> int:
    """Messages may be large; they are read piece by piece."""
    is_message = scope["method"] == "POST" and scope["path"].endswith("/messages")
    return message_size + JSON_LIMIT if is_message else JSON_LIMIT


def _place_of(fault: BaseException) -> str:
    """File and line, without any value that could be a secret."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
