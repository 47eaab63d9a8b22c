"""What an administrator should know: what goes on, what was mended, and how it was told."""

from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.model.notice import NAMED, Notice
from posthouse.services.telling import MAIL, WEBHOOK
from posthouse.store import notices
from posthouse.store.database import Transaction
from posthouse.store.notices import FAILED, WAITING, Telling
from posthouse.web.rendering import page
from posthouse.web.visits import N_, QueueWriter, Reader, Visit

MOST_TROUBLES = 5
SAID = {"noted": N_("You have taken note.")}
WAYS = {MAIL: N_("by mail"), WEBHOOK: N_("by the webhook")}
routes = APIRouter()


@dataclass(frozen=True, slots=True)
class Shown:
    """A notice as the page has it; `more` is how many are not named."""

    notice: Notice
    named: str
    more: int


@routes.get("/notices")
async def listed(visit: Reader, said: str = "") -> Response:
    async def work(tx: Transaction) -> tuple[list[Notice], list[Notice], list[Telling]]:
        return await notices.going_on(tx), await notices.mended(tx), await notices.latest(tx)

    going_on, mended, told = await visit.parts.store.database.read(work)
    return await page(
        visit,
        "notices.html",
        going_on=[_shown(one) for one in going_on],
        mended=[_shown(one) for one in mended],
        troubles=_troubles(told),
        ways=[visit.says(WAYS[way]) for way in visit.parts.notices.telling.ways],
        missing=_missing(visit),
        may_note=visit.may("queue"),
        said=visit.says(SAID[said]) if said in SAID else "",
    )


def _shown(notice: Notice) -> Shown:
    concerned = notice.concerned
    return Shown(notice, ", ".join(one.name for one in concerned[:NAMED]), max(0, len(concerned) - NAMED))


def _troubles(told: list[Telling]) -> list[tuple[Telling, str]]:
    """What could not be told, or not yet, with its way."""
    found = [one for one in told if one.state == FAILED or (one.state == WAITING and one.answer)]
    return [(one, WAYS[one.way]) for one in found[:MOST_TROUBLES]]


def _missing(visit: Visit) -> str:
    """The mailbox for notices where it is set and not there."""
    wanted = visit.parts.settings.notices_mailbox
    return "" if not wanted or visit.parts.directory.now.mailbox(wanted) else wanted


@routes.post("/notices/{notice_id}/acknowledge")
async def acknowledge(visit: QueueWriter, notice_id: str) -> Response:
    person = visit.person.name if visit.person else ""
    if await visit.parts.notices.acknowledge(notice_id, person) is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return RedirectResponse("/notices?said=noted", HTTPStatus.SEE_OTHER)
