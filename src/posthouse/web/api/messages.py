"""The queue: handing mail in, seeing what became of it, trying again, removing."""

import binascii
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posthouse.model.message import DEADLINE, MessageState
from posthouse.problems import Problem, problem
from posthouse.services import intake
from posthouse.services.composing import Attachment, Letter, address_of, compose
from posthouse.services.intake import Intake, Posting
from posthouse.store import messages
from posthouse.store.messages import Summary, Wanted
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Manager, Reader, Sender
from posthouse.web.api.problems import Conflict, not_found
from posthouse.web.api.shapes import Cursor, Limit, Name

routes = APIRouter(tags=["messages"])
LOOKED_AT = 20
"""Pages of the store that one request looks through for what a key may see."""
LETTER_LIMIT = 16 * 1024 * 1024
"""Octets of a message in JSON; larger ones go as message/rfc822, which is read piece by piece."""

Address = Annotated[str, Field(min_length=3, max_length=400)]


class AttachmentIn(BaseModel):
    """`content` in base64."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=255)
    type: str = Field("application/octet-stream", pattern=r"^[a-z0-9.+-]{1,100}/[A-Za-z0-9.+-]{1,100}$")
    content: str = Field(repr=False)


class LetterIn(BaseModel):
    """A message by its parts. Addresses are written `a@example.com` or `Name <a@example.com>`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    mailbox: str = Field("", max_length=254, description="Id or address; left out: by `from`, else the default one.")
    sender: str = Field("", max_length=400, alias="from")
    to: list[Address] = Field(default_factory=list, max_length=10_000)
    cc: list[Address] = Field(default_factory=list, max_length=10_000)
    bcc: list[Address] = Field(default_factory=list, max_length=10_000)
    reply_to: str = Field("", max_length=400)
    subject: str = Field("", max_length=2000)
    text: str | None = None
    html: str | None = None
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,70}$")], Annotated[str, Field(max_length=4000)]] = (
        Field(default_factory=dict, max_length=50)
    )
    attachments: list[AttachmentIn] = Field(default_factory=list, max_length=100)


class Accepted(BaseModel):
    """`again`: a request with this Idempotency-Key was made before; its message is meant."""

    id: str
    state: Literal["queued"] = "queued"
    again: bool = False


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": LetterIn.model_json_schema(ref_template="#/components/schemas/{model}")},
            "message/rfc822": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_BODY["requestBody"]["content"]["application/json"]["schema"].pop("$defs", None)
_BODY["requestBody"]["content"]["application/json"]["schema"]["properties"]["attachments"]["items"] = (
    AttachmentIn.model_json_schema()
)


@routes.post("/messages", status_code=HTTPStatus.ACCEPTED, response_model=Accepted, openapi_extra=_BODY)
async def post(
    caller: Sender,
    request: Request,
    response: Response,
    mailbox: Annotated[str, Query(max_length=254, description="message/rfc822 only: id or address.")] = "",
    sender: Annotated[str, Query(max_length=254, alias="from", description="message/rfc822 only.")] = "",
    to: Annotated[
        list[str] | None, Query(max_length=500, description="message/rfc822 only; left out: To, Cc and Bcc.")
    ] = None,
    idempotency_key: Annotated[str, Header(max_length=255, pattern=r"^[\x20-\x7e]*$")] = "",
) -> Accepted:
    """Hand a message in. The answer comes when it is on disk; what becomes of it stands in `/messages/{id}`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    octets: AsyncIterator[bytes]
    if kind == "message/rfc822":
        posting = _posting(caller, mailbox, sender, tuple(to or ()))
        octets = request.stream()
    elif kind == "application/json":
        letter_in = await _letter(request)
        letter = _as_letter(letter_in)
        posting = _posting(caller, letter_in.mailbox, address_of(letter.sender, "from") if letter.sender else "")
        posting = replace(posting, recipients=letter.recipients)
        octets = _once(compose(letter))
    else:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send application/json or message/rfc822.")
    return await _take(caller, replace(posting, key=idempotency_key), octets, response)


def _posting(caller: Caller, named: str, sender: str, recipients: tuple[str, ...] = ()) -> Posting:
    mailbox = intake.choose(caller.parts.directory.now, named, sender, caller.sees)
    size_limit = caller.parts.directory.now.size_limit(mailbox)
    return Posting(mailbox, sender, recipients, caller.name, size_limit=size_limit)


async def _letter(request: Request) -> LetterIn:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LETTER_LIMIT:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Send large messages as message/rfc822.")
    try:
        return LetterIn.model_validate_json(bytes(body))
    except ValidationError as wrong:
        raise RequestValidationError(wrong.errors(include_input=False, include_url=False)) from None


def _as_letter(given: LetterIn) -> Letter:
    return Letter(
        to=tuple(given.to),
        subject=given.subject,
        text=given.text,
        html=given.html,
        cc=tuple(given.cc),
        bcc=tuple(given.bcc),
        sender=given.sender,
        reply_to=given.reply_to,
        headers=given.headers,
        attachments=tuple(Attachment(one.name, one.type, _octets(one.content)) for one in given.attachments),
    )


def _octets(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise problem("message.attachment", "An attachment is not in base64.", status=65) from None


async def _once(octets: bytes) -> AsyncIterator[bytes]:
    yield octets


async def _take(caller: Caller, posting: Posting, octets: AsyncIterator[bytes], response: Response) -> Accepted:
    parts = caller.parts
    await parts.rates.admit(device := parts.directory.now.devices_by_name.get(posting.by.casefold()))
    intake = Intake(
        parts.store,
        parts.clock,
        parts.submission.hostname,
        parts.dispatcher.accepted,
        parts.refused_senders,
        parts.settings.message_size,
    )
    taken = await intake.take(posting, octets)
    if device is not None and not taken.again:
        parts.rates.accepted(device)
    response.headers["Location"] = f"/api/v1/messages/{taken.id}"
    return Accepted(id=taken.id, again=taken.again)


@routes.get("/messages")
async def listed(
    caller: Reader,
    state: Annotated[Literal["", "queued", "parked", "sent", "failed"], Query()] = "",
    mailbox: Annotated[str, Query(max_length=254, description="Id or address.")] = "",
    device: Annotated[str, Query(max_length=254, description="Name.")] = "",
    search: Annotated[
        str, Query(max_length=998, description="Part of subject, sender or recipients; or an id, or a Message-ID.")
    ] = "",
    cursor: Cursor = "",
    limit: Limit = 50,
) -> shapes.Page[shapes.Message]:
    """Newest first."""
    wanted = Wanted(state, caller.mailbox(mailbox).id if mailbox else "", device, search)
    found: list[Summary] = []
    position, more = cursor or "~", True
    for _ in range(LOOKED_AT):
        page = await _store_page(caller, position, wanted)
        found += [one for one in page if caller.sees_id(one.mailbox_id)]
        more = len(page) == messages.PAGE
        if not more or len(found) > limit:
            break
        position = page[-1].id
    items, cut = shapes.cut(found, limit)
    next_ = items[-1].id if cut else position if more else None
    return shapes.Page(items=[shapes.message(one) for one in items], next=next_)


async def _store_page(caller: Caller, before: str, wanted: Wanted) -> list[Summary]:
    return await caller.parts.store.database.read(lambda tx: messages.page(tx, before=before, wanted=wanted))


async def _one(caller: Caller, name: str) -> Summary:
    found = await caller.parts.store.database.read(lambda tx: messages.one(tx, name))
    if found is None or not caller.sees_id(found.mailbox_id):
        raise not_found("message", name)
    return found


@routes.get("/messages/{id}")
async def one(caller: Reader, name: Name) -> shapes.Message:
    return shapes.message(await _one(caller, name))


@routes.post("/messages/{id}/retry")
async def retry(caller: Manager, name: Name) -> shapes.Message:
    """Try again now, also what had failed. 409 for a message that was sent or is just being handed over."""
    return await _again(caller, await _one(caller, name))


@routes.post("/messages/{id}/park")
async def park(caller: Manager, name: Name) -> shapes.Message:
    """Keep a message back until it is released, whatever its token does. 409 for one that is over or under way."""
    found = await _one(caller, name)
    parts = caller.parts
    now = parts.clock()
    if not await parts.store.database.write(lambda tx: messages.hold(tx, found.id, now)) and not found.held:
        raise Conflict(Problem("message.busy", f"The message cannot be parked: {_doing(found)}."))
    return shapes.message(await _one(caller, found.id))


@routes.post("/messages/{id}/release")
async def release(caller: Manager, name: Name) -> shapes.Message:
    """Let a parked message go on. 409 for one that is not parked."""
    found = await _one(caller, name)
    if found.state is not MessageState.PARKED:
        raise Conflict(Problem("message.not-parked", f"The message is not parked: it is {found.state}."))
    return await _again(caller, found)


async def _again(caller: Caller, found: Summary) -> shapes.Message:
    parts = caller.parts
    now = parts.clock()
    if not await parts.store.database.write(lambda tx: messages.retry(tx, found.id, now, now + DEADLINE)):
        raise Conflict(Problem("message.busy", f"The message cannot be tried again: {_doing(found)}."))
    parts.dispatcher.accepted(found.mailbox_id)
    return shapes.message(await _one(caller, found.id))


@routes.delete("/messages/{id}", status_code=HTTPStatus.NO_CONTENT)
async def remove(caller: Manager, name: Name) -> None:
    """Forget a message, sent or not. 409 for one that is just being handed over."""
    found = await _one(caller, name)
    parts = caller.parts
    now = parts.clock()
    if not await parts.store.database.write(lambda tx: messages.remove(tx, found.id, now)):
        raise Conflict(Problem("message.busy", f"The message cannot be removed: {_doing(found)}."))
    await parts.store.spool.remove(found.id)


def _doing(found: Summary) -> str:
    return f"it is {found.stage or found.state}"
