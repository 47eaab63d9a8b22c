"""What only the command line may do, over the control socket: nothing here answers on the network.

Bodies and answers may hold secrets in the clear; the socket is open to the gateway's own user alone.
"""

import secrets
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from posthouse.model.mailbox import Purpose
from posthouse.problems import Problem, problem
from posthouse.protocol.sasl import oauthbearer, xoauth2
from posthouse.secret import Secret
from posthouse.services.entrance import LINK_LIFE, sign_in_link
from posthouse.services.token_keeper import NoToken
from posthouse.services.webhook import secret as webhook_secret
from posthouse.store import people
from posthouse.store.database import Transaction
from posthouse.store.ids import new_id
from posthouse.store.people import Administrator as StoredAdministrator
from posthouse.store.people import ApiKey
from posthouse.store.sealing import fingerprint
from posthouse.web.api import shapes
from posthouse.web.api.callers import PERMISSIONS
from posthouse.web.api.control import is_trusted
from posthouse.web.api.problems import Conflict, not_found
from posthouse.web.api.shapes import Name
from posthouse.web.parts import Parts
from posthouse.web.passwords import hash_password


async def _inside(request: Request) -> Parts:
    if not is_trusted(request.scope):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    parts: Parts = request.app.state.parts
    await parts.directory.refresh()
    return parts


Inside = Annotated[Parts, Depends(_inside)]
routes = APIRouter(prefix="/control", include_in_schema=False)


# Tokens


@routes.get("/token/{id}")
async def print_token(
    parts: Inside,
    address: Name,
    form: Annotated[Literal["bearer", "xoauth2", "oauthbearer"], Query(alias="as")] = "bearer",
    purpose: Annotated[Purpose | None, Query(alias="for")] = None,
) -> dict[str, Any]:
    """An access token that is good for another minute. Raises NoToken."""
    snapshot = parts.directory.now
    mailbox = snapshot.mailbox(address)
    if mailbox is None:
        raise not_found("mailbox", address)
    purpose = purpose or snapshot.purpose_of(mailbox)
    seen = mailbox.for_setting(purpose)
    if seen.token_id is None:
        raise NoToken(f"{mailbox.address} has a password and no token.", temporary=False)
    token = await parts.keeper.access_token(seen.token_id)
    user = snapshot.user(seen, seen.settings.protocol(purpose or "sending") or "smtp", app_only=token.app_only)
    shown = {
        "bearer": token.secret,
        "xoauth2": xoauth2(user, token.secret),
        "oauthbearer": oauthbearer(user, token.secret),
    }
    return {"text": shown[form].reveal(), "user": user, "expires_at": token.expires_at}


# Notices


@routes.get("/notices-secret")
async def notices_secret(parts: Inside) -> dict[str, Any]:
    """What the webhook of `[notices]` is signed with."""
    return {"secret": webhook_secret(parts.store.sealer).reveal()}


# Apply files


@routes.post("/apply")
async def apply_file(
    parts: Inside,
    request: Request,
    dry_run: bool = False,
    prune: bool = False,
    move_to: Annotated[str, Query(max_length=254)] = "",
    discard: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """The wanted state as `apply_file.encode` writes it; what was done, with new passwords, told once."""
    from posthouse.services import apply_file as reading
    from posthouse.services.applying import apply

    try:
        wanted = reading.decode(await request.body())
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise problem("apply.unreadable", "This is not what an apply file becomes.", status=64) from None
    report = await apply(
        parts.store, wanted, parts.clock(), dry_run=dry_run, prune=prune, move_to=move_to, discard=discard
    )
    await parts.editing.settle(report)
    return {
        "source": report.source,
        "dry_run": report.dry_run,
        "changed": report.changed,
        "lines": list(report.lines()),
        "entries": [
            {"what": entry.what, "kind": entry.kind, "name": entry.name, "keys": list(entry.keys)}
            for entry in report.entries
        ],
        "drift": list(report.drift),
        "notes": list(report.notes),
        "passwords": {name: password.reveal() for name, password in report.generated.items()},
    }


# People


class Link(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field("", max_length=100)


@routes.post("/sign-in-link")
async def link(parts: Inside, body: Link) -> dict[str, str]:
    """A link that signs in once, within 15 minutes: that person, or the first administrator, who is made if need be."""
    if not body.name:
        made = await sign_in_link(parts.store, parts.clock, parts.settings.external_url)
        return {"url": made.reveal()}
    code, expires_at = Secret(secrets.token_urlsafe(24)), parts.clock() + LINK_LIFE

    async def work(tx: Transaction) -> bool:
        found = await people.by_name(tx, body.name)
        if found is not None:
            await people.make_link(tx, fingerprint(code.reveal()), found.id, expires_at)
        return found is not None

    if not await parts.store.database.write(work):
        raise not_found("administrator", body.name)
    return {"url": f"{parts.settings.external_url}/sign-in/link/{code.reveal()}"}


PersonName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x20\x7f]+$")]
Role = Literal["administrator", "limited", "auditor"]


class NewPerson(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: PersonName
    role: Role = "administrator"
    permissions: list[Literal["tokens", "queue", "settings"]] = Field(default_factory=list)
    password: str = Field("", max_length=1000, repr=False)


class ChangedPerson(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Role | None = None
    permissions: list[Literal["tokens", "queue", "settings"]] = Field(default_factory=list)
    password: str | None = Field(None, max_length=1000, repr=False)


@routes.post("/administrators", status_code=HTTPStatus.CREATED)
async def add_person(parts: Inside, body: NewPerson) -> dict[str, str]:
    """Without a password they sign in by link."""
    hashed = _hash(body.password)
    new = StoredAdministrator(new_id("ad"), body.name, body.role, tuple(body.permissions), hashed)
    now = parts.clock()

    async def work(tx: Transaction) -> bool:
        if await people.by_name(tx, body.name) is not None:
            return False
        await people.add(tx, new, now)
        return True

    if not await parts.store.database.write(work):
        raise Conflict(Problem("administrator.exists", f"There is an administrator {body.name} already."))
    return {"id": new.id, "name": new.name}


@routes.patch("/administrators/{id}")
async def change_person(parts: Inside, name: Name, body: ChangedPerson) -> dict[str, str]:
    """A new password ends every session of that person."""
    hashed = _hash(body.password) if body.password is not None else None

    async def work(tx: Transaction) -> StoredAdministrator | None:
        found = await people.by_name(tx, name)
        if found is not None and body.role is not None:
            await _keep_one(tx, found, body.role)
            await people.set_role(tx, found.id, body.role, tuple(body.permissions))
        if found is not None and hashed is not None:
            await people.set_password(tx, found.id, hashed)
        return found

    changed = await parts.store.database.write(work)
    if changed is None:
        raise not_found("administrator", name)
    return {"id": changed.id, "name": changed.name}


@routes.delete("/administrators/{id}", status_code=HTTPStatus.NO_CONTENT)
async def remove_person(parts: Inside, name: Name) -> None:
    async def work(tx: Transaction) -> bool:
        found = await people.by_name(tx, name)
        if found is None:
            return False
        await _keep_one(tx, found, "")
        await people.remove(tx, found.id)
        return True

    if not await parts.store.database.write(work):
        raise not_found("administrator", name)


async def _keep_one(tx: Transaction, changing: StoredAdministrator, role: str) -> None:
    """Somebody has to be left who may do everything. Raises Conflict."""
    others = [one for one in await people.administrators(tx) if one.id != changing.id and one.role == "administrator"]
    if changing.role == "administrator" and role != "administrator" and not others:
        sentence = f"{changing.name} is the last one who may do everything."
        raise Conflict(Problem("administrator.last", sentence, "Add another administrator first."))


def _hash(password: str) -> str:
    if password and len(password) < 10:
        raise problem("password.short", "A password has at least ten letters.", status=64)
    return hash_password(Secret(password)) if password else ""


# Keys


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: PersonName
    permissions: list[Literal["read", "send", "receive", "manage"]] = Field(min_length=1)
    mailboxes: list[Annotated[str, Field(max_length=254)]] = Field(default_factory=list, max_length=1000)


@routes.get("/keys")
async def keys(parts: Inside) -> shapes.Page[shapes.Key]:
    found = await parts.store.database.read(people.keys)
    return shapes.Page(
        items=[
            shapes.Key(
                id=one.id,
                name=one.name,
                permissions=list(one.permissions),
                mailboxes=list(one.mailboxes),
                created_at=shapes.moment(one.created_at),
            )
            for one in found
        ]
    )


@routes.post("/keys", status_code=HTTPStatus.CREATED)
async def add_key(parts: Inside, body: NewKey) -> dict[str, str]:
    """The key itself stands in this answer and nowhere else."""
    key = Secret(f"ph_{secrets.token_urlsafe(32)}")
    addresses = tuple(_known(parts, name) for name in body.mailboxes)
    chosen = tuple(word for word in PERMISSIONS if word in body.permissions)
    new = ApiKey(new_id("ak"), body.name, chosen, addresses, parts.clock())

    async def work(tx: Transaction) -> bool:
        if any(one.name == body.name for one in await people.keys(tx)):
            return False
        await people.add_key(tx, new, fingerprint(key.reveal()))
        return True

    if not await parts.store.database.write(work):
        raise Conflict(Problem("key.exists", f"There is a key {body.name} already.", "Remove it first."))
    return {"id": new.id, "name": new.name, "key": key.reveal()}


def _known(parts: Parts, name: str) -> str:
    found = parts.directory.now.mailbox(name)
    if found is None:
        raise not_found("mailbox", name)
    return found.address


@routes.delete("/keys/{id}", status_code=HTTPStatus.NO_CONTENT)
async def remove_key(parts: Inside, name: Name) -> None:
    if not await parts.store.database.write(lambda tx: people.remove_key(tx, name)):
        raise not_found("key", name)
