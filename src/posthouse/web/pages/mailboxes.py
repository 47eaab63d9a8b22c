"""The list of mailboxes, and one mailbox with its token."""

from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.model.token import TokenState
from posthouse.services.forecast import Forecast
from posthouse.services.overview import MailboxView, Overview, TokenView
from posthouse.services.token_keeper import NoToken
from posthouse.store import authorisations, tokens
from posthouse.store.authorisations import Authorisation
from posthouse.web.pages.attempts import methods_for, shown_to_administrators
from posthouse.web.rendering import look, page
from posthouse.web.visits import N_, Reader, TokenWriter, Visit

SHOWN_AFTER_END = 600.0
"""Seconds that the outcome of an authorisation stays on the mailbox's page."""
MOST_NOTED = 10
"""Lines above the list of mailboxes."""
SAID = {
    "renewed": N_("The token was renewed."),
    "not-renewed": N_("The token could not be renewed at the moment. The one in hand goes on serving."),
    "refused": N_("Token update failed. Delete the token and get it again."),
    "deleted": N_(
        "The token was deleted here. The provider was not told, or could not be: remove the permission there."
    ),
    "revoked": N_("The token was deleted, and the provider was told."),
    "back": N_("The earlier sign-in serves again."),
}
routes = APIRouter()


@dataclass(frozen=True, slots=True)
class Noted:
    """What ends soon, and where to do something about it; empty where that is not on a page."""

    forecast: Forecast
    page: str


@routes.get("/")
async def listed(visit: Reader) -> Response:
    seen = await look(visit)
    warnings = seen.warnings(visit.now)
    noted = [Noted(found, _page_of(seen, found)) for found in warnings[:MOST_NOTED]]
    unnoted = len(warnings) - len(noted)
    return await page(visit, "mailboxes.html", seen=seen, views=seen.mailboxes, noted=noted, unnoted=unnoted)


def _page_of(seen: Overview, found: Forecast) -> str:
    """Where the token that ends can be got again; nowhere for what a whole app registration lives on."""
    view = seen.mailbox(found.mailboxes[0]) if seen.token(found.subject) else None
    return f"/mailboxes/{view.mailbox.id}#token" if view else ""


@routes.get("/mailboxes/{mailbox_id}")
async def one(visit: Reader, mailbox_id: str, said: str = "") -> Response:
    seen = await look(visit)
    view = mailbox_of(seen, mailbox_id)
    attempt = await _latest(visit, view)
    snapshot = visit.parts.directory.now
    app = snapshot.configuration.apps.get(view.mailbox.switched.app_id or "")
    methods = methods_for(app, snapshot.providers.get(app.provider) if app else None)
    preferred = view.mailbox.settings.method
    return await page(
        visit,
        "mailbox.html",
        seen=seen,
        view=view,
        mailbox=view.mailbox,
        token=view.token,
        again=view.token is not None and (view.token.obtained_at > 0 or view.token.state is TokenState.INVALID),
        forecast=view.token.forecast if view.token else (),
        serving=view.token is not None and view.token.obtained_at > 0,
        servers={server.protocol: server for server in view.servers},
        endpoints={s.protocol: visit.parts.directory.now.endpoint(view.mailbox, s.protocol) for s in view.servers},
        attempt=shown_to_administrators(visit, attempt) if attempt else None,
        methods=methods,
        app_id=view.mailbox.switched.app_id,
        earlier=await visit.parts.going_back.earlier(view.mailbox),
        preferred=preferred if preferred in methods else methods[0],
        said=visit.says(SAID[said]) if said in SAID else "",
    )


def mailbox_of(seen: Overview, mailbox_id: str) -> MailboxView:
    """Raises HTTPException where there is none."""
    view = seen.mailbox(mailbox_id)
    if view is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return view


async def _latest(visit: Visit, view: MailboxView) -> Authorisation | None:
    """The newest attempt, while it goes on and for some minutes after."""
    store, wanted = visit.parts.store, view.mailbox.id
    found = await store.database.read(lambda tx: authorisations.of_mailbox(tx, store.sealer, wanted))
    latest = found[0] if found else None
    if latest is None or latest.state in authorisations.OPEN:
        return latest
    overtaken = latest.state == "done" and view.token is not None and view.token.state is not TokenState.ACQUIRED
    return latest if latest.created_at + SHOWN_AFTER_END > visit.now and not overtaken else None


@routes.get("/mailboxes/{mailbox_id}/token/delete")
async def ask_before_deleting(visit: Reader, mailbox_id: str) -> Response:
    seen = await look(visit)
    view = mailbox_of(seen, mailbox_id)
    return await page(visit, "delete_token.html", seen=seen, mailbox=view.mailbox, token=token_of(view))


@routes.post("/mailboxes/{mailbox_id}/token/delete")
async def delete(visit: TokenWriter, mailbox_id: str) -> Response:
    token = token_of(mailbox_of(await look(visit), mailbox_id))
    revoked = await visit.parts.authorise.delete_token(token.id)
    visit.parts.following.ring()
    return back(mailbox_id, "revoked" if revoked else "deleted")


@routes.post("/mailboxes/{mailbox_id}/token/renew")
async def renew(visit: TokenWriter, mailbox_id: str) -> Response:
    token = token_of(mailbox_of(await look(visit), mailbox_id))
    try:
        said = "renewed" if await _renew(visit, token) else "not-renewed"
    except NoToken as why:
        said = "refused" if not why.temporary and why.state is TokenState.INVALID else "not-renewed"
    visit.parts.following.ring()
    return back(mailbox_id, said)


@routes.post("/mailboxes/{mailbox_id}/back")
async def go_back(visit: TokenWriter, mailbox_id: str) -> Response:
    await visit.parts.going_back.go(mailbox_of(await look(visit), mailbox_id).mailbox)
    visit.parts.following.ring()
    return back(mailbox_id, "back")


async def _renew(visit: Visit, token: TokenView) -> bool:
    store = visit.parts.store
    stored = await store.database.read(lambda tx: tokens.get(tx, token.id))
    serving = stored.serving_grant if stored else None
    grant = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, serving or ""))
    return grant is not None and (await visit.parts.keeper.refresh(grant)).serial > grant.serial


def token_of(view: MailboxView) -> TokenView:
    """Raises HTTPException for a mailbox with a password."""
    if view.token is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return view.token


def back(mailbox_id: str, said: str) -> Response:
    return RedirectResponse(f"/mailboxes/{mailbox_id}?said={said}#token", HTTPStatus.SEE_OTHER)
