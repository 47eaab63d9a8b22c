"""Making, changing and removing mailboxes, app registrations, providers and devices: the keys are an apply file's."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Response
from pydantic import BaseModel, Field

from posthouse.problems import problem
from posthouse.services.apply_values import NAMES
from posthouse.services.editing import Edited, Kind
from posthouse.web.api.callers import Caller, Manager
from posthouse.web.api.problems import not_found
from posthouse.web.api.shapes import Name

routes = APIRouter()

KINDS: dict[Kind, str] = {"mailbox": "mailboxes", "app": "apps", "provider": "providers", "device": "devices"}
Table = Annotated[dict[str, Any], Body(description="As in an apply file; null takes a key away.")]
IfMatch = Annotated[str, Header(max_length=40, description="The version it has to have still; else 409.")]
MoveTo = Annotated[str, Query(max_length=254, description="The mailbox that is to send what waits here.")]
Discard = Annotated[int, Query(ge=0, le=10**9, description="How many waiting messages may be lost: exactly so many.")]


def _terms(if_match: IfMatch = "", move_to: MoveTo = "", discard: Discard = 0) -> dict[str, Any]:
    return {"version": _version(if_match), "move_to": move_to, "discard": discard}


OnTerms = Annotated[dict[str, Any], Depends(_terms)]


class Done(BaseModel):
    """What was done: added, changed, unchanged, removed."""

    id: str
    name: str
    version: int
    what: str
    changed: list[str] = Field(description="The keys that have another value now.")
    notes: list[str]
    password: str | None = Field(description="Of a device, where it was generated. It is told this once.")


def _add_doors(kind: Kind, path: str) -> None:
    @routes.post(f"/{path}", status_code=HTTPStatus.CREATED, tags=[path], operation_id=f"add_{kind}")
    async def add(caller: Manager, body: Table, response: Response) -> Done:
        """Everything that is wrong is told at once. A device without a password gets one, told in this answer."""
        caller.must_see_all()
        edited = await caller.parts.editing.add(kind, _name_of(kind, body), body, caller.rights)
        response.headers["Location"] = f"/api/v1/{path}/{edited.name if kind == 'provider' else edited.id}"
        return _done(edited, response)

    @routes.patch(f"/{path}/{{id}}", tags=[path], operation_id=f"change_{kind}")
    async def change(caller: Manager, name: Name, body: Table, terms: OnTerms, response: Response) -> Done:
        """Change the keys that are named. `send: false` asks for `move_to` or `discard` while mail waits."""
        known = _known(caller, kind, name)
        return _done(await caller.parts.editing.change(kind, known, body, caller.rights, **terms), response)

    @routes.delete(f"/{path}/{{id}}", tags=[path], operation_id=f"remove_{kind}")
    async def remove(caller: Manager, name: Name, terms: OnTerms, response: Response) -> Done:
        """409 while something uses it, or mail waits and neither `move_to` nor `discard` says what becomes of it."""
        known = _known(caller, kind, name)
        return _done(await caller.parts.editing.remove(kind, known, caller.rights, **terms), response)


for _kind, _path in KINDS.items():
    _add_doors(_kind, _path)


def _name_of(kind: Kind, body: dict[str, Any]) -> str:
    key = NAMES[kind][0]
    name = body.get(key)
    if not isinstance(name, str):
        raise problem("edit.nameless", f"This {kind} has no {key}.", where=key, status=64)
    return name


def _known(caller: Caller, kind: Kind, name: str) -> str:
    """The name that apply files use, by id or name. Raises HTTPException."""
    caller.must_see_all()
    snapshot = caller.parts.directory.now
    found: str | None = None
    match kind:
        case "mailbox":
            return caller.mailbox(name).address
        case "app":
            found = next((one.name for one in snapshot.configuration.apps.values() if name in (one.id, one.name)), None)
        case "device":
            known = snapshot.configuration.devices.get(name) or snapshot.devices_by_name.get(name.casefold())
            found = known.name if known else None
        case "provider":
            is_known = name in snapshot.providers or name in snapshot.configuration.providers
            found = name if is_known else None
    if found is None:
        raise not_found(kind, name)
    return found


def _version(if_match: str) -> int | None:
    """Of an entity tag (RFC 9110 section 8.8.3), as it stands in ETag. Raises ProblemError."""
    written = if_match.strip().removeprefix("W/").strip('"')
    if written in ("", "*"):
        return None
    if not written.isascii() or not written.isdigit():
        raise problem("request.if-match", 'If-Match has to be the version, such as "3".', status=64)
    return int(written)


def _done(edited: Edited, response: Response) -> Done:
    response.headers["ETag"] = f'"{edited.version}"'
    return Done(
        id=edited.id,
        name=edited.name,
        version=edited.version,
        what=edited.what,
        changed=list(edited.changed),
        notes=list(edited.notes),
        password=edited.password.reveal() if edited.password else None,
    )
