"""A request for a page: who sends it, in which language it is answered, what its form says."""

import ipaddress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, HTTPException, Request

from posthouse.locales import translations
from posthouse.model.device import is_among
from posthouse.secret import Secret
from posthouse.store import people
from posthouse.store.people import Administrator
from posthouse.store.sealing import fingerprint
from posthouse.web import i18n, security
from posthouse.web.parts import Parts

SESSION = "posthouse_session"
MAX_FORM = 64 * 1024
MAX_FIELDS = 60


class NotSignedIn(Exception):
    """Only administrators see this page; the way in is the sign-in page."""


@dataclass(frozen=True, slots=True)
class Visit:
    """`session` and `person` are None for a stranger. `form` is empty unless something was sent."""

    request: Request
    parts: Parts
    language: str
    session: Secret | None = None
    person: Administrator | None = None
    form: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def now(self) -> float:
        return self.parts.clock()

    @property
    def address(self) -> str:
        """Where it comes from; a trusted proxy's word counts."""
        peer = self.request.client.host if self.request.client else ""
        forwarded = self.request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        trusted = is_among(peer, self.parts.settings.trusted_proxies)
        return forwarded if trusted and _is_number(forwarded) else peer

    def says(self, sentence: str) -> str:
        return translations(self.language).gettext(sentence)

    def may(self, permission: str) -> bool:
        return self.person is not None and security.may(self.person, permission)

    @property
    def form_token(self) -> str:
        return security.form_token(self.parts.store.sealer, self.session) if self.session else ""


def _is_number(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def stranger(request: Request) -> Visit:
    """A visit by nobody known: all that an error page needs."""
    asked, remembered = request.query_params.get("lang"), request.cookies.get(i18n.COOKIE)
    language = i18n.choose(asked, remembered, request.headers.get("accept-language", ""))
    return Visit(request, request.app.state.parts, language)


async def anyone(request: Request) -> Visit:
    visit = stranger(request)
    session = Secret(request.cookies.get(SESSION, ""))
    person = await _owner(visit, session) if session else None
    return replace(visit, session=session, person=person) if person else visit


async def _owner(visit: Visit, session: Secret) -> Administrator | None:
    wanted = fingerprint(session.reveal())
    return await visit.parts.store.database.read(lambda tx: people.of_session(tx, wanted, visit.now))


async def signed_in(visit: Annotated[Visit, Depends(anyone)]) -> Visit:
    if visit.person is None:
        raise NotSignedIn
    return visit


async def with_form(request: Request) -> Visit:
    """For the few forms that a stranger may send."""
    return replace(await anyone(request), form=await read_form(request))


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises HTTPException for one that none of our pages has."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if b"%00" in body or b"\0" in body:
        raise HTTPException(HTTPStatus.BAD_REQUEST)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise HTTPException(HTTPStatus.BAD_REQUEST) from None


@dataclass(frozen=True, slots=True)
class Require:
    """Stands in front of every write: a session, a form made for it, and the permission."""

    permission: str

    async def __call__(self, request: Request) -> Visit:
        visit = await signed_in(await with_form(request))
        session = visit.session or Secret("")
        if not security.fits(visit.parts.store.sealer, session, visit.form.get("token", "")):
            raise HTTPException(
                HTTPStatus.FORBIDDEN, visit.says(N_("This form is out of date. Go back and try again."))
            )
        if not visit.may(self.permission):
            raise HTTPException(HTTPStatus.FORBIDDEN, visit.says(N_("Your role does not allow this.")))
        return visit


def N_(sentence: str) -> str:  # noqa: N802 - gettext's own name for "to be translated later"
    return sentence


Anyone = Annotated[Visit, Depends(anyone)]
Stranger = Annotated[Visit, Depends(with_form)]
Reader = Annotated[Visit, Depends(signed_in)]
Writer = Annotated[Visit, Depends(Require(""))]
TokenWriter = Annotated[Visit, Depends(Require("tokens"))]
Administering = Annotated[Visit, Depends(Require("administer"))]
"""Only who may do everything."""
QueueWriter = Annotated[Visit, Depends(Require("queue"))]
SettingsWriter = Annotated[Visit, Depends(Require("settings"))]
