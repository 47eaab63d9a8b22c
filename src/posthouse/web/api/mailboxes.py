"""Mailboxes, their tokens, and getting a token for them."""

import bisect
from http import HTTPStatus
from typing import Annotated, Literal, cast, get_args

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from posthouse.model.mailbox import Mailbox, Purpose, fold
from posthouse.oauth.code import MAX_CALLBACK
from posthouse.problems import Problem
from posthouse.secret import Secret
from posthouse.services.authorise import Method
from posthouse.services.overview import MailboxView, Setting, TokenView, view_mailbox, view_mailboxes, view_tokens
from posthouse.store import authorisations
from posthouse.store import tokens as stored_tokens
from posthouse.store.authorisations import OPEN, Authorisation
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Manager, Reader
from posthouse.web.api.problems import Conflict, not_found
from posthouse.web.api.shapes import Cursor, Limit, Name

routes = APIRouter()
PAGES_AT_ONCE = 3
"""Pages of tokens that one answer reads."""


class Begin(BaseModel):
    model_config = ConfigDict(extra="forbid")
    method: Method | None = Field(
        default=None, description="Left out: the mailbox's own, else what its provider can do."
    )
    purpose: Purpose | None = Field(
        default=None, alias="for", description="Whose token; left out, the one that settings share."
    )
    switch_to: str = Field(
        default="", max_length=254, description="The mailbox is to sign in as this account from then on."
    )


@routes.get("/mailboxes", tags=["mailboxes"])
async def mailboxes(
    caller: Reader,
    address: Annotated[str, Query(max_length=254)] = "",
    cursor: Cursor = "",
    limit: Limit = 100,
) -> shapes.Page[shapes.Mailbox]:
    """All mailboxes by address, with the state of their tokens."""
    wanted, seen = fold(address), caller.mailboxes_seen()
    if wanted:
        seen = [mailbox for mailbox in seen if mailbox.address == wanted]
    start = bisect.bisect_right(seen, cursor, key=lambda mailbox: mailbox.address)
    items, more = shapes.cut(seen[start : start + limit + 1], limit)
    views = await view_mailboxes(caller.parts.store, caller.parts.directory.now, items)
    return shapes.Page(items=[shapes.mailbox(view) for view in views], next=items[-1].address if more else None)


@routes.get("/mailboxes/{id}", tags=["mailboxes"])
async def mailbox_by_name(caller: Reader, name: Name) -> shapes.Mailbox:
    """By id or address."""
    return shapes.mailbox(await _view(caller, caller.mailbox(name)))


async def _view(caller: Caller, mailbox: Mailbox) -> MailboxView:
    return await view_mailbox(caller.parts.store, caller.parts.directory.now, mailbox)


@routes.get("/mailboxes/{id}/tokens", tags=["tokens"])
async def tokens_of_mailbox(caller: Reader, name: Name) -> shapes.Page[shapes.Token]:
    """The tokens that the mailbox's settings use or wait for, what they share first."""
    return await _tokens_of(caller, caller.mailbox(name))


async def _tokens_of(caller: Caller, mailbox: Mailbox) -> shapes.Page[shapes.Token]:
    return shapes.Page(items=[shapes.token(one) for one in (await _view(caller, mailbox)).tokens])


class Share(BaseModel):
    model_config = ConfigDict(extra="forbid")
    purpose: Purpose = Field(alias="for")
    token: Literal["shared", "own"]
    version: int | None = Field(default=None, description="That you saw: 409 where it has changed since.")


@routes.post("/mailboxes/{id}/tokens", tags=["tokens"])
async def share(caller: Manager, name: Name, body: Share) -> shapes.Page[shapes.Token]:
    """Give a setting a token of its own, or let it share the mailbox's again; all of them as they stand then.

    What serves goes on until the other token has proved itself for the setting: one that serves already is tried now.
    """
    chosen = await caller.parts.sharing.choose(caller.mailbox(name), body.purpose, body.token, seen=body.version)
    caller.parts.following.ring()
    await caller.parts.directory.refresh()
    return await _tokens_of(caller, chosen)


@routes.get("/tokens", tags=["tokens"])
async def tokens(caller: Reader, cursor: Cursor = "", limit: Limit = 100) -> shapes.Page[shapes.Token]:
    """All tokens by id. Where most are not worth showing an answer has fewer than `limit`, even none, and a `next`."""
    seen: list[TokenView] = []
    position = cursor
    for _ in range(PAGES_AT_ONCE):
        ids = await _ids_after(caller, position)
        views = await view_tokens(caller.parts.store, caller.parts.directory.now, ids)
        seen += [view for view in views if view.matters and _sees(caller, view)]
        position = ids[-1] if len(ids) == stored_tokens.PAGE else ""
        if not position or len(seen) >= limit:
            break
    items, more = shapes.cut(seen, limit)
    return shapes.Page(items=[shapes.token(view) for view in items], next=items[-1].id if more else position or None)


async def _ids_after(caller: Caller, position: str) -> list[str]:
    """The next tokens that may be shown: of a key for some mailboxes only those that they use or wait for."""
    if not caller.mailboxes:
        found = await caller.parts.store.database.read(lambda tx: stored_tokens.page(tx, position))
        return [token.id for token in found]
    ids = {way.token_id for mailbox in caller.mailboxes_seen() for way in mailbox.ways()}
    return sorted(token_id for token_id in ids if token_id and token_id > position)[: stored_tokens.PAGE]


def _sees(caller: Caller, view: TokenView) -> bool:
    return not caller.mailboxes or any(caller.sees(one.address) for one in (*view.used_by, *view.waiting))


async def _token(caller: Caller, name: str) -> TokenView:
    for view in await view_tokens(caller.parts.store, caller.parts.directory.now, [name]):
        if view.matters and _sees(caller, view):
            return view
    raise not_found("token", name)


@routes.get("/tokens/{id}", tags=["tokens"])
async def token(caller: Reader, name: Name) -> shapes.Token:
    return shapes.token(await _token(caller, name))


class Deleted(BaseModel):
    """`revoked`: the provider has taken the token back as well."""

    id: str
    revoked: bool
    at_provider: str = Field(
        description="nothing: there was nothing to give back. revoked. kept: another consent of the same person is "
        "held, and would end with it. impossible: the provider has no door for it. waiting: it is tried again."
    )
    answer: str = Field(description="What the provider answered, and what that means.")
    page: str = Field(description="Where the person can take the permission back; empty where unknown.")


@routes.delete("/tokens/{id}", tags=["tokens"])
async def delete_token(
    caller: Manager, name: Name, confirm: Annotated[int | None, Query(ge=0, le=10**6)] = None
) -> Deleted:
    """Forget the token and revoke it where the provider can.

    While several settings use it, `confirm` has to be their number: otherwise 409 with the list.
    """
    view = await _token(caller, name)
    if not all(caller.sees(address) for address in view.addresses):
        raise not_found("token of this key's mailboxes alone", name)
    users = len(view.used_by)
    if users > 1 and confirm != users:
        raise Conflict(
            Problem(
                "token.shared",
                f"{users} settings use this token: {', '.join(_words(one) for one in view.used_by[:20])}.",
                f"Say confirm={users} to delete it for all of them.",
            ),
            used_by=[shapes.setting(one).model_dump(by_alias=True) for one in view.used_by],
        )
    parts = caller.parts
    given = await parts.authorise.delete_token(view.id)
    parts.keeper.forget(view.id)
    parts.following.ring()
    return Deleted(id=view.id, revoked=given.how == "revoked", at_provider=given.how, answer=given.why, page=given.page)


def _words(setting: Setting) -> str:
    return f"{setting.address} for {setting.purpose}"


@routes.post("/mailboxes/{id}/authorisations", status_code=HTTPStatus.CREATED, tags=["authorisations"])
async def begin(caller: Manager, name: Name, body: Begin, response: Response) -> shapes.Attempt:
    """Begin to get a token.

    `device` answers a code and where to type it; `browser` our own start page; `link` the same for the mailbox's owner,
    valid for days; `paste` the provider's page, on whose end `paste` below waits; with `app` nobody signs in.
    `switch_to` needs a key for all mailboxes: another person's token takes over once it has proved itself.
    """
    mailbox = caller.mailbox(name)
    if body.switch_to:
        caller.must_see_all()
        mailbox = await caller.parts.sharing.switch_account(mailbox, body.switch_to)
    method = body.method or _usual_method(caller, mailbox)
    begun = await caller.parts.authorise.begin(mailbox, method, body.purpose)
    caller.parts.following.ring()
    response.headers["Location"] = f"/api/v1/authorisations/{begun.authorisation.id}"
    return shapes.begun(begun)


def _usual_method(caller: Caller, mailbox: Mailbox) -> Method:
    """Google, for one, has no device codes for mail."""
    snapshot = caller.parts.directory.now
    app = snapshot.configuration.apps.get(mailbox.switched.app_id or "")
    if app is not None and app.document.get("credential") == "service_account":
        return "app"
    wanted = mailbox.settings.method
    if wanted in get_args(Method):
        return cast("Method", wanted)
    provider = snapshot.provider_of(mailbox)
    only_browser = provider is not None and provider.authorize_url and not provider.device_url
    return "browser" if only_browser else "device"


@routes.get("/mailboxes/{id}/authorisations", tags=["authorisations"])
async def attempts(caller: Reader, name: Name) -> shapes.Page[shapes.Attempt]:
    """The newest attempts, newest first."""
    store, known = caller.parts.store, caller.mailbox(name)
    found = await store.database.read(lambda tx: authorisations.of_mailbox(tx, store.sealer, known.id))
    return shapes.Page(items=[shapes.attempt(one) for one in found])


async def _attempt(caller: Caller, name: str) -> Authorisation:
    store = caller.parts.store
    found = await store.database.read(lambda tx: authorisations.get(tx, store.sealer, name))
    if found is None or not caller.sees_id(found.mailbox_id):
        raise not_found("authorisation", name)
    return found


@routes.get("/authorisations/{id}", tags=["authorisations"])
async def attempt(caller: Reader, name: Name) -> shapes.Attempt:
    return shapes.attempt(await _attempt(caller, name))


@routes.delete("/authorisations/{id}", tags=["authorisations"])
async def cancel(caller: Manager, name: Name) -> shapes.Attempt:
    """Give the attempt up. 409 where it has ended already."""
    found = await _attempt(caller, name)
    if found.state not in OPEN:
        raise Conflict(Problem("authorisation.ended", f"This sign-in has ended already: {found.state}."))
    ended = await caller.parts.authorise.cancel(found.id)
    caller.parts.following.ring()
    return shapes.attempt(ended or found)


@routes.post("/authorisations/{id}/confirm", tags=["authorisations"])
async def confirm(caller: Manager, name: Name) -> shapes.Attempt:
    """The right person signed in, although the provider does not say who it was."""
    found = await _attempt(caller, name)
    confirmed = await caller.parts.authorise.confirm_person(found.id)
    caller.parts.following.ring()
    return shapes.attempt(confirmed)


class Earlier(BaseModel):
    """What serves again. `kind`: account (another account or app), password, consent (of the same account), and for
    a setting that went alone shared or own."""

    kind: str
    who: str


class Back(BaseModel):
    model_config = ConfigDict(extra="forbid")
    purpose: Purpose | None = Field(default=None, alias="for", description="Just this setting, where it went alone.")


@routes.post("/mailboxes/{id}/back", tags=["tokens"])
async def go_back(caller: Manager, name: Name, body: Back | None = None) -> Earlier:
    """Undo the last switch or re-authorisation, within 7 days and where what served before still lives; else 409."""
    mailbox = caller.mailbox(name)
    gone = await caller.parts.going_back.go(mailbox, body.purpose if body else None)
    caller.parts.following.ring()
    return Earlier(kind=gone.kind, who=gone.who)


class Pasted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    address: SecretStr = Field(max_length=MAX_CALLBACK, description="The address on which the browser ended.")


@routes.post("/authorisations/{id}/paste", tags=["authorisations"])
async def paste(caller: Manager, name: Name, body: Pasted) -> shapes.Attempt:
    """Finish a sign-in that was begun with `paste`. An address of something else changes nothing."""
    found = await _attempt(caller, name)
    answered = await caller.parts.authorise.paste(found.id, Secret(body.address.get_secret_value()))
    caller.parts.following.ring()
    return shapes.attempt(answered)
