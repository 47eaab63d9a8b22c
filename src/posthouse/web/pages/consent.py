"""The way of a browser to the provider and back. Whoever has the link may go it, administrator or not."""

from http import HTTPStatus

from fastapi import APIRouter, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.problems import ProblemError, problem
from posthouse.providers.provider import CALLBACK
from posthouse.secret import Secret
from posthouse.store import authorisations
from posthouse.store.authorisations import Authorisation
from posthouse.store.sealing import fingerprint
from posthouse.web import security
from posthouse.web.pages.attempts import Attempt, attempt_of, shown
from posthouse.web.rendering import fragment, page
from posthouse.web.visits import Anyone, Stranger, Visit

COOKIE = "posthouse_sign_in_"
"""With the id of the authorisation: two sign-ins may be under way in one browser."""
COOKIE_LIFE = 3600
routes = APIRouter()


@routes.get("/authorise/{start}")
async def ask(visit: Anyone, start: str) -> Response:
    """Nothing happens yet: programs that look at links before a person does use nothing up."""
    found = await _started(visit, start)
    mailbox = visit.parts.directory.now.user_of_token(found.token_id, found.mailbox_id)
    if mailbox is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    provider = visit.parts.directory.now.provider_of(mailbox)
    answer = await page(
        visit,
        "start.html",
        provider=(provider.title or provider.name) if provider else "",
        account=mailbox.account,
        address=mailbox.address,
        mailbox_id=mailbox.id,
        expires_at=found.expires_at,
        owner=found.method == "link",
        by_code=found.method == "link" and provider is not None and bool(provider.device_url or provider.issuer),
    )
    answer.headers["content-security-policy"] = security.content_policy(visit.parts.settings, leaves=True)
    return answer


async def _started(visit: Visit, start: str) -> Authorisation:
    """Raises ProblemError for a link that leads nowhere any more."""
    store, wanted = visit.parts.store, fingerprint(start)
    found = await store.database.read(lambda tx: authorisations.by_start(tx, store.sealer, wanted))
    if found is None or found.state != "started" or found.expires_at < visit.now:
        raise used_up()
    return found


def used_up() -> ProblemError:
    return problem("sign-in.used", "This sign-in link has been used or has expired.", "Begin again.")


@routes.post("/authorise/{start}")
async def go(visit: Stranger, start: str) -> Response:
    by_code = visit.form.get("way") == "code"
    redirect = await visit.parts.authorise.open_start_page(Secret(start), by_code=by_code)
    answer = RedirectResponse(redirect.url.reveal(), HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        COOKIE + redirect.authorisation_id,
        redirect.cookie.reveal(),
        max_age=COOKIE_LIFE,
        path="/oauth",
        httponly=True,
        samesite="lax",
        secure=visit.parts.settings.secure_cookies,
    )
    return answer


@routes.get(CALLBACK)
@routes.get(f"{CALLBACK}/{{provider}}")
async def callback(visit: Anyone) -> Response:
    """What the provider sends the browser back with. The outcome has a page of its own, without the code."""
    pairs = visit.request.query_params.multi_items()
    if len({name for name, _ in pairs}) != len(pairs):
        raise problem(
            "sign-in.foreign",
            "This answer does not belong to a sign-in that was begun in this browser.",
            "Begin the sign-in again, and finish it in the same browser.",
        )
    found = await visit.parts.authorise.callback(
        dict(pairs),
        await _cookie_for(visit, dict(pairs).get("state", "")),
        came_to=visit.request.scope["raw_path"].decode("latin-1"),
    )
    visit.parts.following.ring()
    return RedirectResponse(f"/oauth/result/{found.id}", HTTPStatus.SEE_OTHER)


async def _cookie_for(visit: Visit, state: str) -> Secret | None:
    store = visit.parts.store
    found = await store.database.read(lambda tx: authorisations.by_state(tx, store.sealer, fingerprint(state)))
    return _cookie(visit, found.id) if found else None


def _cookie(visit: Visit, attempt_id: str) -> Secret | None:
    value = visit.request.cookies.get(COOKIE + attempt_id)
    return Secret(value) if value else None


@routes.get("/oauth/result/{attempt_id}")
async def result(visit: Anyone, attempt_id: str) -> Response:
    return await page(visit, "authorisation.html", attempt=await _own_attempt(visit, attempt_id))


@routes.get("/oauth/result/{attempt_id}/progress")
async def progress(visit: Anyone, attempt_id: str) -> Response:
    return fragment(visit, "progress.html", attempt=await _own_attempt(visit, attempt_id))


async def _own_attempt(visit: Visit, attempt_id: str) -> Attempt:
    """For the browser that made the attempt, and for administrators."""
    found = await attempt_of(visit, attempt_id)
    cookie = _cookie(visit, found.id)
    own = cookie is not None and found.cookie_hash == fingerprint(cookie.reveal())
    if not own and visit.person is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return shown(visit, found, f"/oauth/result/{found.id}/progress")
