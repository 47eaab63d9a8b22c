"""Notices: what an administrator should know."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from posthouse.model.notice import Notice
from posthouse.services.forecast import NAMED, stopped_by
from posthouse.store import notices
from posthouse.store.database import Transaction
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Manager, Reader
from posthouse.web.api.problems import not_found
from posthouse.web.api.shapes import moment

routes = APIRouter(tags=["notices"])


class Shown(BaseModel):
    """`state`: open, acknowledged or mended. `mailboxes` are 20 at most, `count` is all of them; `happened` how often.

    `page` is where the next step is taken.
    """

    id: str
    kind: str
    state: str
    cause: str
    since: datetime | None
    ended_at: datetime | None
    told_at: datetime | None
    acknowledged_by: str
    mailboxes: list[str]
    count: int
    happened: int
    next_step: str
    page: str


@routes.get("/notices")
async def read_notices(caller: Reader) -> shapes.Page[Shown]:
    """What goes on, the newest first, then what was mended last. A key for some mailboxes sees those."""

    async def work(tx: Transaction) -> list[Notice]:
        return await notices.going_on(tx) + await notices.mended(tx)

    found = await caller.parts.store.database.read(work)
    shown = (_shown(caller, notice) for notice in found)
    return shapes.Page(items=[one for one in shown if one.mailboxes or not caller.mailboxes])


@routes.post("/notices/{id}/acknowledge")
async def acknowledge_notice(caller: Manager, id: str) -> Shown:
    """Take note of it: what is not mended by itself is over with that."""
    caller.must_see_all()
    noted = await caller.parts.notices.acknowledge(id, caller.name)
    if noted is None:
        raise not_found("notice", id)
    return _shown(caller, noted)


def _shown(caller: Caller, notice: Notice) -> Shown:
    names = _names(caller, notice)
    return Shown(
        id=notice.id,
        kind=notice.kind,
        state=notice.state,
        cause=notice.cause,
        since=moment(notice.since),
        ended_at=moment(notice.ended_at),
        told_at=moment(notice.told_at),
        acknowledged_by=notice.acknowledged_by,
        mailboxes=names[:NAMED],
        count=len(names),
        happened=notice.count,
        next_step=notice.step,
        page=notice.path,
    )


def _names(caller: Caller, notice: Notice) -> list[str]:
    """The mailboxes that it is about, or that stop with what ends: those that the caller may see."""
    snapshot = caller.parts.directory.now
    if notice.kind == "token.expiring":
        stopped = (name for one in notice.concerned for name in stopped_by(snapshot, one.subject))
        return [name for name in dict.fromkeys(stopped) if caller.sees(name)]
    return [one.name for one in notice.concerned if caller.sees(one.name)]
