"""What goes wrong, as a page: one sentence, one step, never a traceback."""

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posthouse.locales import translations
from posthouse.problems import TEMPORARY, ProblemError
from posthouse.services import storage
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.web.rendering import fragment, page
from posthouse.web.visits import N_, NotSignedIn, anyone, stranger
from posthouse.web.words import explained

TITLES = {
    403: N_("Not allowed"),
    404: N_("Not found"),
    405: N_("Not found"),
    503: N_("Not possible at the moment"),
}
SENTENCES = {
    403: N_("Your role does not allow this."),
    404: N_("There is nothing at this address, or no longer."),
    405: N_("There is nothing at this address, or no longer."),
    413: N_("What was sent is too large."),
}
OUR_FAULT = N_("This is a fault of Posthouse, not yours. Its log says where.")
UNREACHABLE = N_("The database cannot be reached. Nothing was changed; try again.")
OTHERWISE = N_("This cannot be done")

log = structlog.get_logger("web")


def handle(app: FastAPI) -> None:
    app.add_exception_handler(NotSignedIn, to_sign_in)
    app.add_exception_handler(ProblemError, of_problem)
    app.add_exception_handler(HTTPException, of_status)
    app.add_exception_handler(RequestValidationError, of_wrong_values)
    app.add_exception_handler(DatabaseUnavailable, of_database)
    app.add_exception_handler(CommitUnknown, of_database)


async def to_sign_in(request: Request, cause: Exception) -> Response:
    asked = request.url.path if request.method == "GET" else "/"
    target = "/sign-in" if asked == "/" else f"/sign-in?next={quote(asked)}"
    if request.headers.get("hx-request"):
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"hx-redirect": target})
    return RedirectResponse(target, HTTPStatus.SEE_OTHER)


async def of_problem(request: Request, cause: Exception) -> Response:
    assert isinstance(cause, ProblemError)  # noqa: S101
    status = HTTPStatus.SERVICE_UNAVAILABLE if cause.status == TEMPORARY else HTTPStatus.CONFLICT
    return await _answer(request, status, [(one.sentence, one.hint) for one in cause.problems])


async def of_status(request: Request, cause: Exception) -> Response:
    assert isinstance(cause, HTTPException)  # noqa: S101
    known = SENTENCES.get(cause.status_code)
    standard = cause.detail == HTTPStatus(cause.status_code).phrase
    sentence = stranger(request).says(known) if known and standard else cause.detail
    return await _answer(request, cause.status_code, [(sentence, "")])


async def of_wrong_values(request: Request, cause: Exception) -> Response:
    return await _answer(request, HTTPStatus.NOT_FOUND, [(stranger(request).says(SENTENCES[404]), "")])


async def of_database(request: Request, cause: Exception) -> Response:
    """Without looking at the session, which lies in the database as well."""
    visit = stranger(request)
    known = storage.problem_of(visit.parts.store)
    sentence = explained(known.sentence, translations(visit.language)) if known else visit.says(UNREACHABLE)
    hint = visit.says(known.hint) if known else ""
    title = visit.says(TITLES[503])
    return fragment(visit, "problem.html", banner=(), status=503, title=title, problems=[(sentence, hint)])


class Shield:
    """Makes a page of a failure that nobody foresaw; the log gets the place and no value that could be a secret."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as fault:
            log.error("page failed", kind=type(fault).__name__, where=_place_of(fault))
            if begun or scope["type"] != "http":
                raise
            await _of_our_fault(Request(scope))(scope, receive, send)


def _of_our_fault(request: Request) -> Response:
    visit = stranger(request)
    title, sentence = visit.says(OTHERWISE), visit.says(OUR_FAULT)
    return fragment(visit, "problem.html", banner=(), status=500, title=title, problems=[(sentence, "")])


def _place_of(fault: BaseException) -> str:
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"


async def _answer(request: Request, status: int, problems: Sequence[tuple[str, str]]) -> Response:
    visit = await anyone(request)
    title = visit.says(TITLES.get(status, OTHERWISE))
    return await page(visit, "problem.html", status=status, title=title, problems=problems)
