"""The app registration assistant: which provider, what to do there, and whether it came to something."""

from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException
from starlette.datastructures import QueryParams
from starlette.responses import RedirectResponse, Response

from posthouse.providers.registration import CREDENTIALS, WAYS
from posthouse.services.app_check import STEPS
from posthouse.services.app_guide import Asked, app_guide
from posthouse.services.steps import Run
from posthouse.store.configuration import StoredApp
from posthouse.web.pages.testing import waiting
from posthouse.web.rendering import fragment, page
from posthouse.web.visits import Reader, TokenWriter, Visit

routes = APIRouter()


@routes.get("/register")
async def providers(visit: Reader) -> Response:
    """Those with OAuth first; the others need no registration, and their page says so."""
    await visit.parts.directory.refresh()
    found = sorted(visit.parts.directory.now.providers.values(), key=lambda one: (not one.has_oauth, one.title))
    return await page(visit, "register.html", providers=found)


@routes.get("/register/{provider}")
async def guide(visit: Reader, provider: str) -> Response:
    await visit.parts.directory.refresh()
    snapshot = visit.parts.directory.now
    if provider not in snapshot.providers:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    asked = _asked(visit.request.query_params)
    made = app_guide(snapshot, visit.parts.settings.external_url, provider, asked)
    return await page(
        visit,
        "guide.html",
        guide=made,
        asked=asked,
        sends=asked.send or not asked.receive,
        said=visit.says,
        next_page=_next_page(visit, provider, asked),
    )


def _next_page(visit: Visit, provider: str, asked: Asked) -> str:
    """Where the registration is entered; one that is there already has a page of its own."""
    known = visit.parts.directory.now.apps_by_name.get(asked.app)
    return f"/apps/{known.id}" if known else f"/apps/new?{urlencode({'provider': provider})}"


def _asked(query: QueryParams) -> Asked:
    """What the form of the page says; what it cannot say counts as not said."""
    addresses = query.get("mailboxes", "")[:20_000].replace(",", " ").split()
    return Asked(
        way=_word(query.get("way"), WAYS),
        credential=_word(query.get("credential"), CREDENTIALS),
        send="send" in query,
        receive=_receive(query.get("receive")),
        mailboxes=tuple(addresses),
        tenant=query.get("tenant", "").strip()[:253],
        app=query.get("app", "")[:320],
    )


def _word(given: str | None, known: tuple[Any, ...]) -> Any:
    return given if given in known else ""


def _receive(given: str | None) -> Literal["imap", "pop3", ""]:
    return "imap" if given == "imap" else "pop3" if given == "pop3" else ""


@routes.get("/apps/{app_id}/check")
async def check(visit: Reader, app_id: str) -> Response:
    """What is registered, and the button."""
    return await page(visit, "check.html", **_about(visit, _app(visit, app_id)), run=None)


@routes.post("/apps/{app_id}/check")
async def begin_check(visit: TokenWriter, app_id: str) -> Response:
    await visit.parts.directory.refresh()
    run = visit.parts.app_check.runs.begin(_app(visit, app_id).id, STEPS)
    return RedirectResponse(f"/apps/{app_id}/check/{run.id}", HTTPStatus.SEE_OTHER)


@routes.get("/apps/{app_id}/check/{run_id}")
async def follow(visit: Reader, app_id: str, run_id: str) -> Response:
    run = visit.parts.app_check.runs.find(run_id)
    if run is None:
        return RedirectResponse(f"/apps/{app_id}/check", HTTPStatus.SEE_OTHER)
    return await page(visit, "check.html", **_about(visit, _app(visit, app_id)), **_shown(run))


@routes.get("/apps/{app_id}/check/{run_id}/progress")
async def progress(visit: Reader, app_id: str, run_id: str) -> Response:
    run = visit.parts.app_check.runs.find(run_id)
    if run is None or run.subject != app_id:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return fragment(visit, "steps.html", **_shown(run))


def _app(visit: Visit, app_id: str) -> StoredApp:
    found = visit.parts.directory.now.configuration.apps.get(app_id)
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return found


def _about(visit: Visit, app: StoredApp) -> dict[str, Any]:
    """What check.html says of the registration."""
    checking, provider = visit.parts.app_check, visit.parts.directory.now.providers.get(app.provider)
    return {
        "app": app,
        "provider": provider,
        "redirect_url": checking.redirect_url_of(app),
        "warnings": checking.warnings(app),
        "said": visit.says,
    }


def _shown(run: Run) -> dict[str, Any]:
    """What steps.html wants to know."""
    return {"run": run, "waiting": waiting(run), "place": f"/apps/{run.subject}/check", "token_page": ""}
