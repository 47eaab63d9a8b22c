"""In and out: name and password, a link that works once, sign-out."""

import secrets
from http import HTTPStatus
from typing import cast

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from posthouse.locales import translations
from posthouse.problems import problem
from posthouse.secret import Secret
from posthouse.store import people
from posthouse.store.database import Transaction
from posthouse.store.sealing import fingerprint
from posthouse.web.passwords import Busy, Passwords
from posthouse.web.rendering import page
from posthouse.web.visits import N_, SESSION, Anyone, Stranger, Visit, Writer

SESSION_LIFE = 12 * 3600
routes = APIRouter()


@routes.get("/sign-in")
async def show(visit: Anyone, next: str = "/") -> Response:
    if visit.person is not None:
        return RedirectResponse(local(next), HTTPStatus.SEE_OTHER)
    return await _form(visit, next)


@routes.post("/sign-in")
async def sign_in(visit: Stranger) -> Response:
    passwords = cast(Passwords, visit.request.app.state.passwords)
    if (seconds := passwords.wait(visit.address)) > 0:
        said = translations(visit.language).ngettext(
            "Too many attempts. Wait %(count)s second.", "Too many attempts. Wait %(count)s seconds.", int(seconds) + 1
        )
        return await _again(visit, said % {"count": int(seconds) + 1}, HTTPStatus.TOO_MANY_REQUESTS)
    name, password = visit.form.get("name", ""), Secret(visit.form.get("password", ""))
    person = await visit.parts.store.database.read(lambda tx: people.by_name(tx, name))
    try:
        right = await passwords.check(person.password_hash if person else "", password, visit.address)
    except Busy:
        said = visit.says(N_("Too many people are signing in at the moment. Try again."))
        return await _again(visit, said, HTTPStatus.SERVICE_UNAVAILABLE)
    if person is None or not person.password_hash or not right:
        said = visit.says(N_("User name or password is wrong."))
        return await _again(visit, said, HTTPStatus.UNPROCESSABLE_ENTITY)
    return await _welcome(visit, person.id, visit.form.get("next", ""))


@routes.get("/sign-in/link/{code}")
async def show_link(visit: Anyone, code: str) -> Response:
    """Programs that look at links before a person does must not use it up: only the button does."""
    return await page(visit, "sign_in_link.html")


@routes.post("/sign-in/link/{code}")
async def use_link(visit: Stranger, code: str) -> Response:
    used = fingerprint(code)
    person_id = await visit.parts.store.database.write(lambda tx: people.use_link(tx, used, visit.now))
    if person_id is None:
        raise problem("sign-in.used", "This sign-in link has been used or has expired.", "Begin again.")
    return await _welcome(visit, person_id, "/")


@routes.post("/sign-out")
async def sign_out(visit: Writer) -> Response:
    ended = fingerprint(visit.session.reveal()) if visit.session else ""
    await visit.parts.store.database.write(lambda tx: people.close_session(tx, ended))
    answer = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(SESSION)
    return answer


async def _welcome(visit: Visit, person_id: str, target: str) -> Response:
    """A new session; one that this browser may have had is closed."""
    session = Secret(secrets.token_urlsafe(32))
    before = visit.session

    async def work(tx: Transaction) -> None:
        if before is not None:
            await people.close_session(tx, fingerprint(before.reveal()))
        until = visit.now + SESSION_LIFE
        await people.open_session(tx, fingerprint(session.reveal()), person_id, visit.now, until)

    await visit.parts.store.database.write(work)
    answer = RedirectResponse(local(target), HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        SESSION,
        session.reveal(),
        max_age=SESSION_LIFE,
        httponly=True,
        samesite="lax",
        secure=visit.parts.settings.secure_cookies,
    )
    return answer


async def _again(visit: Visit, said: str, status: HTTPStatus) -> Response:
    return await _form(visit, visit.form.get("next", ""), said, status)


async def _form(visit: Visit, target: str, said: str = "", status: HTTPStatus = HTTPStatus.OK) -> Response:
    name = visit.form.get("name", "")
    return await page(visit, "sign_in.html", problem=said, name=name, next=local(target), status=status)


def local(target: str) -> str:
    """A path of this page to go on to, whatever was asked for."""
    safe = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if safe else "/"
