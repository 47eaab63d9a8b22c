"""What happened: the journal of messages, and events."""

from typing import Annotated

from fastapi import APIRouter, Query

from posthouse.services.forecast import NAMED, stopped_by
from posthouse.store import events, journal, messages
from posthouse.store.database import Transaction
from posthouse.store.events import Event
from posthouse.store.journal import Line
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Reader
from posthouse.web.api.shapes import Limit

routes = APIRouter(tags=["journal"])
LOOKED_AT = 20
"""Pages of the store that one request looks through for what a key may see."""
NEWEST = 2**62

Number = Annotated[int, Query(ge=0, le=NEWEST)]


@routes.get("/journal")
async def read_journal(
    caller: Reader,
    message: Annotated[
        str, Query(max_length=998, pattern=r"^[^\x00-\x1f\x7f]*$", description="Id or Message-ID.")
    ] = "",
    mailbox: Annotated[str, Query(max_length=254, description="Id or address.")] = "",
    device: Annotated[str, Query(max_length=254, description="Name.")] = "",
    cursor: Number = NEWEST,
    limit: Limit = 100,
) -> shapes.Page[shapes.JournalLine]:
    """Newest first; for one message, by id or Message-ID, all of it and oldest first."""
    only = {"mailbox_id": caller.mailbox(mailbox).id if mailbox else "", "device": device}
    if message:
        lines = await caller.parts.store.database.read(lambda tx: journal.of_message(tx, message))
        return shapes.Page(items=[shapes.journal_line(line) for line in lines if caller.sees_id(line.mailbox_id)])
    found, position = await _latest(caller, cursor, limit, only)
    items, more = shapes.cut(found, limit)
    next_ = items[-1].id if more else position
    return shapes.Page(items=[shapes.journal_line(line) for line in items], next=None if next_ is None else str(next_))


async def _latest(caller: Caller, before: int, limit: int, only: dict[str, str]) -> tuple[list[Line], int | None]:
    """The lines that the caller may see, a few more than `limit`, and where to go on; None at the end."""
    found: list[Line] = []
    for _ in range(LOOKED_AT):
        page = await _page(caller, before, only)
        found += [line for line in page if caller.sees_id(line.mailbox_id)]
        if len(page) < journal.PAGE:
            return found, None
        before = page[-1].id
        if len(found) > limit:
            break
    return found, before


async def _page(caller: Caller, before: int, only: dict[str, str]) -> list[Line]:
    return await caller.parts.store.database.read(lambda tx: journal.latest(tx, before, **only))


@routes.get("/events")
async def read_events(caller: Reader, cursor: Number = 0, limit: Limit = 100) -> shapes.Page[shapes.Happening]:
    """Oldest first, those that follow `cursor`. `next` is always told: ask again with it for what is new."""

    async def work(tx: Transaction) -> tuple[list[Event], list[Event]]:
        found = (await events.after(tx, cursor))[:limit]
        return found, [event for event in found if await _sees(tx, caller, event)]

    found, seen = await caller.parts.store.database.read(work)
    position = found[-1].id if found else cursor
    return shapes.Page(items=[_happening(caller, event) for event in seen], next=str(position))


def _happening(caller: Caller, event: Event) -> shapes.Happening:
    """An event that names mailboxes names those that the caller may see."""
    told = shapes.happening(event)
    if caller.mailboxes and "mailboxes" in event.document:
        stopped = stopped_by(caller.parts.directory.now, event.subject)
        seen = [address for address in stopped if caller.sees(address)]
        told.document = event.document | {"mailboxes": seen[:NAMED], "count": len(seen)}
    return told


async def _sees(tx: Transaction, caller: Caller, event: Event) -> bool:
    """By the mailbox, token, app registration or message that the event is about."""
    if not caller.mailboxes:
        return True
    snapshot = caller.parts.directory.now
    if event.kind.startswith("token."):
        return any(caller.sees(address) for address in stopped_by(snapshot, event.subject))
    if event.subject in snapshot.mailboxes:
        return caller.sees_id(event.subject)
    message = await messages.one(tx, event.subject)
    return message is not None and caller.sees_id(message.mailbox_id)
