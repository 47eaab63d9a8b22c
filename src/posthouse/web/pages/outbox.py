"""Queued mail and what became of it."""

from http import HTTPStatus
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.model.message import DEADLINE, MessageState
from posthouse.services.directory import Snapshot
from posthouse.store import journal, messages
from posthouse.store.messages import Summary, Wanted
from posthouse.web.rendering import page
from posthouse.web.visits import N_, QueueWriter, Reader, Visit

SAID = {
    "again": N_("Another attempt was asked for."),
    "busy": N_("The message is being handed over at this moment. Try again in a while."),
    "parked": N_("The message is kept back until somebody releases it."),
    "removed": N_("The message was removed."),
}
STATES = tuple(str(state) for state in MessageState)
routes = APIRouter()


@routes.get("/outbox")
async def listed(
    visit: Reader, state: str = "", mailbox: str = "", search: str = "", before: str = "~", said: str = ""
) -> Response:
    await visit.parts.directory.refresh()
    snapshot, database = visit.parts.directory.now, visit.parts.store.database
    chosen = snapshot.mailbox(mailbox)
    unknown = mailbox.strip()[:254] if chosen is None else ""
    wanted = Wanted(state if state in STATES else "", chosen.id if chosen else unknown, text=search.strip()[:998])
    found = await database.read(lambda tx: messages.page(tx, before=before, wanted=wanted))
    counts = await database.read(messages.totals)
    typed = chosen.address if chosen else unknown
    kept = {"mailbox": typed, "search": wanted.text}
    return await page(
        visit,
        "outbox.html",
        messages=found,
        wanted=wanted,
        states=STATES,
        counts={name: counts.get(name, 0) for name in STATES},
        mailbox=typed,
        unknown=unknown,
        names={one.mailbox_id: _address(snapshot, one.mailbox_id) for one in found},
        links={name: _link(state=name, **kept) for name in ("", *STATES)},
        here=_link(state=wanted.state, **kept) if before == "~" else "",
        older=_link(state=wanted.state, **kept, before=found[-1].id) if len(found) == messages.PAGE else "",
        said=visit.says(SAID[said]) if said in SAID else "",
    )


def _address(snapshot: Snapshot, mailbox_id: str) -> str:
    mailbox = snapshot.mailboxes.get(mailbox_id)
    return mailbox.address if mailbox else "–"


def _link(**filters: str) -> str:
    query = urlencode({name: value for name, value in filters.items() if value})
    return f"/outbox?{query}" if query else "/outbox"


@routes.get("/outbox/{message_id}")
async def one(visit: Reader, message_id: str, said: str = "") -> Response:
    found = await message_of(visit, message_id)
    return await page(
        visit,
        "message.html",
        message=found,
        mailbox=visit.parts.directory.now.mailboxes.get(found.mailbox_id),
        journal=await visit.parts.store.database.read(lambda tx: journal.of_message(tx, message_id)),
        said=visit.says(SAID[said]) if said in SAID else "",
    )


async def message_of(visit: Visit, message_id: str) -> Summary:
    """Raises HTTPException where there is none."""
    found = await visit.parts.store.database.read(lambda tx: messages.one(tx, message_id))
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return found


@routes.post("/outbox/{message_id}/retry")
async def retry(visit: QueueWriter, message_id: str) -> Response:
    found = await message_of(visit, message_id)
    deadline = visit.now + DEADLINE
    done = await visit.parts.store.database.write(lambda tx: messages.retry(tx, message_id, visit.now, deadline))
    if done:
        visit.parts.dispatcher.accepted(found.mailbox_id)
    return RedirectResponse(f"/outbox/{message_id}?said={'again' if done else 'busy'}", HTTPStatus.SEE_OTHER)


@routes.post("/outbox/{message_id}/park")
async def park(visit: QueueWriter, message_id: str) -> Response:
    found = await message_of(visit, message_id)
    done = await visit.parts.store.database.write(lambda tx: messages.hold(tx, message_id, visit.now)) or found.held
    return RedirectResponse(f"/outbox/{message_id}?said={'parked' if done else 'busy'}", HTTPStatus.SEE_OTHER)


@routes.get("/outbox/{message_id}/remove")
async def ask_before_removing(visit: Reader, message_id: str) -> Response:
    return await page(visit, "remove_message.html", message=await message_of(visit, message_id))


@routes.post("/outbox/{message_id}/remove")
async def remove(visit: QueueWriter, message_id: str) -> Response:
    await message_of(visit, message_id)
    if not await visit.parts.store.database.write(lambda tx: messages.remove(tx, message_id, visit.now)):
        return RedirectResponse(f"/outbox/{message_id}?said=busy", HTTPStatus.SEE_OTHER)
    await visit.parts.store.spool.remove(message_id)
    return RedirectResponse("/outbox?said=removed", HTTPStatus.SEE_OTHER)
