"""Getting a token from the page: begin, follow, confirm, cancel."""

from dataclasses import dataclass
from http import HTTPStatus

import segno
from fastapi import APIRouter, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.model.mailbox import PURPOSES, Mailbox, Purpose
from posthouse.providers.provider import Provider
from posthouse.providers.registration import known_client
from posthouse.secret import Secret
from posthouse.services.authorise import Method
from posthouse.store import authorisations
from posthouse.store.authorisations import Authorisation
from posthouse.store.configuration import StoredApp
from posthouse.web.rendering import fragment, page
from posthouse.web.visits import Administering, Reader, TokenWriter, Visit

QR_LIMIT = 1000
"""Characters of an address that becomes a picture; a larger one could not be scanned."""
METHODS: tuple[Method, ...] = ("browser", "device", "link", "paste", "app")
routes = APIRouter()


@dataclass(frozen=True, slots=True)
class Attempt:
    """An authorisation as its page shows it. `progress_url` answers with the newest state of it.

    `person`: who signed in, where it was not the one expected. For who may get tokens: `link` is for the owner,
    `sign_in_url` for the sign-in whose end is pasted. `qr_code` is a picture of where a device code is typed, as a
    data: address.
    """

    id: str
    mailbox_id: str
    address: str
    account: str
    method: str
    state: str
    reason: str
    detail: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_at: float
    progress_url: str
    person: str = ""
    link: str = ""
    sign_in_url: str = ""
    qr_code: str = ""

    @property
    def open(self) -> bool:
        return self.state in authorisations.OPEN

    @property
    def other_ways(self) -> tuple[Method, ...]:
        shut = {self.method, "app", "device" if self.user_code else ""}
        return tuple(way for way in METHODS if way not in shut)


def methods_for(app: StoredApp | None, provider: Provider | None = None) -> tuple[Method, ...]:
    """Ways that an app registration allows: a public client has no rights of its own, a service account only those,
    and from somebody else's registration nobody comes back to us."""
    if app is not None and provider is not None and known_client(provider, app.client_id):
        return ("device", "paste")
    if app is None or app.sealed_secret is None:
        return tuple(way for way in METHODS if way != "app")
    return ("app",) if app.document.get("credential") == "service_account" else METHODS


def shown(visit: Visit, found: Authorisation, progress_url: str) -> Attempt:
    snapshot = visit.parts.directory.now
    mailbox = snapshot.user_of_token(found.token_id, found.mailbox_id) or snapshot.mailboxes.get(found.mailbox_id)
    return Attempt(
        id=found.id,
        mailbox_id=found.mailbox_id,
        address=mailbox.address if mailbox else "",
        account=mailbox.account if mailbox else "",
        method=found.method,
        state=found.state,
        reason=found.reason,
        detail=found.detail,
        user_code=found.user_code,
        verification_uri=web_address(found.verification_uri),
        verification_uri_complete=web_address(found.verification_uri_complete),
        expires_at=found.expires_at,
        progress_url=progress_url,
        person=found.person,
        qr_code=_picture(found),
        **(_addresses(visit, found) if visit.may("tokens") and found.state == "started" else {}),
    )


def _picture(found: Authorisation) -> str:
    url = web_address(found.verification_uri_complete or found.verification_uri)
    if not url or not found.user_code or found.state != "started" or len(url) > QR_LIMIT:
        return ""
    return segno.make_qr(url).svg_data_uri(scale=4, border=3, dark="#000", light="#fff")


def _addresses(visit: Visit, found: Authorisation) -> dict[str, str]:
    start = found.secrets.get("start", "")
    link = visit.parts.authorise.start_page(Secret(start)) if start else ""
    return {"link": link, "sign_in_url": found.secrets.get("url", "")}


def shown_to_administrators(visit: Visit, found: Authorisation) -> Attempt:
    return shown(visit, found, f"/authorisations/{found.id}/progress")


def web_address(url: str) -> str:
    """What a provider sends may become a link only where it leads to a web page."""
    return url if url.startswith(("https://", "http://")) else ""


async def attempt_of(visit: Visit, attempt_id: str) -> Authorisation:
    """Raises HTTPException where there is none."""
    store = visit.parts.store
    found = await store.database.read(lambda tx: authorisations.get(tx, store.sealer, attempt_id))
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return found


@routes.post("/mailboxes/{mailbox_id}/authorisations")
async def begin(visit: TokenWriter, mailbox_id: str) -> Response:
    """A browser goes on to the start page; anything else is shown on a page of its own."""
    await visit.parts.directory.refresh()
    mailbox = visit.parts.directory.now.mailboxes.get(mailbox_id)
    if mailbox is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    asked = visit.form.get("method")
    method = next((way for way in METHODS if way == asked), METHODS[0])
    return await _begin(visit, mailbox, method, purpose_from(visit.form.get("for", "")))


async def _begin(visit: Visit, mailbox: Mailbox, method: Method, purpose: Purpose | None) -> Response:
    begun = await visit.parts.authorise.begin(mailbox, method, purpose)
    own = f"/authorisations/{begun.authorisation.id}"
    return RedirectResponse(begun.url if method == "browser" else own, HTTPStatus.SEE_OTHER)


def purpose_from(word: str) -> Purpose | None:
    """Empty, or unknown, for the token that settings share."""
    return next((purpose for purpose in PURPOSES if purpose == word), None)


@routes.get("/authorisations/{attempt_id}/switch")
async def ask_before_switching(visit: Reader, attempt_id: str) -> Response:
    found = await _of_wrong_person(visit, attempt_id)
    return await page(visit, "switch_account.html", attempt=shown_to_administrators(visit, found))


@routes.post("/authorisations/{attempt_id}/switch")
async def switch(visit: Administering, attempt_id: str) -> Response:
    """The mailbox is to sign in as whoever did so by mistake, who signs in once more for it."""
    found = await _of_wrong_person(visit, attempt_id)
    await visit.parts.directory.refresh()
    mailbox = visit.parts.directory.now.mailboxes.get(found.mailbox_id)
    if mailbox is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    purpose = visit.parts.directory.now.setting_of_token(mailbox, found.token_id)
    switched = await visit.parts.sharing.switch_account(mailbox, found.person)
    visit.parts.following.ring()
    method = next((way for way in METHODS if way == found.method), METHODS[0])
    return await _begin(visit, switched, method, purpose)


async def _of_wrong_person(visit: Visit, attempt_id: str) -> Authorisation:
    """Raises HTTPException where nobody signed in by mistake."""
    found = await attempt_of(visit, attempt_id)
    if not found.person:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return found


@routes.get("/authorisations/{attempt_id}")
async def follow(visit: Reader, attempt_id: str) -> Response:
    found = await attempt_of(visit, attempt_id)
    return await page(visit, "authorisation.html", attempt=shown_to_administrators(visit, found))


@routes.get("/authorisations/{attempt_id}/progress")
async def progress(visit: Reader, attempt_id: str) -> Response:
    found = await attempt_of(visit, attempt_id)
    return fragment(visit, "progress.html", attempt=shown_to_administrators(visit, found))


@routes.post("/authorisations/{attempt_id}/confirm")
async def confirm(visit: TokenWriter, attempt_id: str) -> Response:
    await visit.parts.authorise.confirm_person(attempt_id)
    return RedirectResponse(f"/authorisations/{attempt_id}", HTTPStatus.SEE_OTHER)


@routes.post("/authorisations/{attempt_id}/cancel")
async def cancel(visit: TokenWriter, attempt_id: str) -> Response:
    found = await attempt_of(visit, attempt_id)
    await visit.parts.authorise.cancel(attempt_id)
    return RedirectResponse(f"/mailboxes/{found.mailbox_id}#token", HTTPStatus.SEE_OTHER)


@routes.post("/authorisations/{attempt_id}/paste")
async def paste(visit: TokenWriter, attempt_id: str) -> Response:
    await visit.parts.authorise.paste(attempt_id, Secret(visit.form.get("address", "")))
    visit.parts.following.ring()
    return RedirectResponse(f"/authorisations/{attempt_id}", HTTPStatus.SEE_OTHER)
