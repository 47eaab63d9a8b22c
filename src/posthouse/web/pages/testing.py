"""The connection test on the page: begun with a button, followed step by step."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.model.mailbox import Mailbox
from posthouse.services.steps import Run
from posthouse.web.rendering import fragment, page
from posthouse.web.visits import Reader, TokenWriter, Visit

routes = APIRouter()


@routes.post("/mailboxes/{mailbox_id}/test")
async def begin(visit: TokenWriter, mailbox_id: str) -> Response:
    await visit.parts.directory.refresh()
    run = visit.parts.connection_test.begin(_mailbox(visit, mailbox_id))
    return RedirectResponse(f"/mailboxes/{mailbox_id}/test/{run.id}", HTTPStatus.SEE_OTHER)


@routes.get("/mailboxes/{mailbox_id}/test/{run_id}")
async def follow(visit: Reader, mailbox_id: str, run_id: str, said: str = "") -> Response:
    """A test that is not remembered here any more leads back to the mailbox, where its outcome is noted."""
    run = visit.parts.connection_test.runs.find(run_id)
    if run is None:
        return RedirectResponse(f"/mailboxes/{mailbox_id}", HTTPStatus.SEE_OTHER)
    mailbox, saved = _mailbox(visit, mailbox_id), said == "saved"
    return await page(visit, "test.html", mailbox=mailbox, saved=saved, **_shown(run))


@routes.get("/mailboxes/{mailbox_id}/test/{run_id}/progress")
async def progress(visit: Reader, mailbox_id: str, run_id: str) -> Response:
    run = visit.parts.connection_test.runs.find(run_id)
    if run is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return fragment(visit, "steps.html", **_shown(run))


def _shown(run: Run) -> dict[str, Any]:
    """What steps.html wants to know."""
    page_of = f"/mailboxes/{run.subject}"
    return {"run": run, "waiting": waiting(run), "place": f"{page_of}/test", "token_page": f"{page_of}#token"}


def waiting(run: Run) -> list[str]:
    """Steps that are still to come."""
    return [] if run.ended else list(run.names[len(run.steps) :])


def _mailbox(visit: Visit, mailbox_id: str) -> Mailbox:
    mailbox = visit.parts.directory.now.mailboxes.get(mailbox_id)
    if mailbox is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return mailbox
