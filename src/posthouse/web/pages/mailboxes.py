"""The list of mailboxes, and one mailbox with its token."""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.model.mailbox import Mailbox, Purpose, purpose_of
from posthouse.model.token import TokenState
from posthouse.services import forecast
from posthouse.services.authorise import Method
from posthouse.services.directory import Snapshot
from posthouse.services.forecast import Forecast
from posthouse.services.going_back import Earlier
from posthouse.services.overview import MailboxView, TokenView, view_mailbox, view_mailboxes
from posthouse.services.standing import Standing
from posthouse.services.token_keeper import NoToken
from posthouse.store import authorisations, tokens
from posthouse.store.authorisations import Authorisation
from posthouse.web.pages.attempts import methods_for, purpose_from, shown_to_administrators
from posthouse.web.rendering import fragment, page
from posthouse.web.visits import N_, Reader, TokenWriter, Visit

SHOWN_AFTER_END = 600.0
"""Seconds that the outcome of an authorisation stays on the mailbox's page."""
MOST_NOTED = MOST_URGENT = 10
"""Lines above the list of mailboxes, and mailboxes above it that need somebody."""
FEW = 10
"""Mailboxes that are seen at a glance, without search and states."""
PAGE = 25
OFFERED = 20
SAID = {
    "renewed": N_("The token was renewed."),
    "not-renewed": N_("The token could not be renewed at the moment. The one in hand goes on serving."),
    "refused": N_("Token update failed. Delete the token and get it again."),
    "nothing": N_("The token was deleted here. There was nothing to revoke at the provider."),
    "revoked": N_("The token was deleted, and revoked at the provider."),
    "kept": N_(
        "The token was deleted here. It was not revoked at the provider: another consent of the same person is in use "
        "and would end with it."
    ),
    "impossible": N_(
        "The token was deleted here. The provider cannot revoke it on request: remove the permission on the page of "
        "the account there."
    ),
    "deletion-waits": N_(
        "The token was deleted here. The provider has not revoked it yet: that is tried again by itself."
    ),
    "back": N_("The earlier sign-in serves again."),
    "saved": N_("Saved."),
    "removed": N_("Removed."),
    "token-next": N_("Saved. The next step is to get a token."),
    "switching": N_("Saved. It goes on as before until its new token has proved itself: get that token."),
    "waits": N_("Everything goes on as it is until the new token has proved itself. Get it below."),
    "own": N_("It has a token of its own."),
    "shared": N_("It shares the token again."),
}
routes = APIRouter()


@dataclass(frozen=True, slots=True)
class Noted:
    """What ends soon, and where to do something about it; empty where that is not on a page."""

    forecast: Forecast
    page: str


@routes.get("/")
async def listed(
    visit: Reader, said: str = "", state: str = "", search: str = "", after: str = "", before: str = ""
) -> Response:
    standing, store = await visit.parts.standings.look(), visit.parts.store
    snapshot, wanted = standing.snapshot, Wanted(state if state in standing.by_state else "", search.strip()[:254])
    found = wanted.among(standing)
    shown = cut(found, after, before)
    first = not (wanted.narrow or after or before)
    urgent = standing.attention[:MOST_URGENT] if first and len(found) > FEW else ()
    warnings = await forecast.warned(store, snapshot, visit.now) if first else []
    views = await view_mailboxes(store, snapshot, [*urgent, *shown.items])
    return await page(
        visit,
        "mailboxes.html",
        urgent=views[: len(urgent)],
        views=views[len(urgent) :],
        wanted=wanted,
        found=len(found),
        total=len(snapshot.mailboxes),
        few=FEW,
        counts=standing.counts,
        attention=len(standing.attention),
        links={name: wanted.link(state=name) for name in ("", *standing.by_state)},
        previous=wanted.link(before=shown.items[0].address) if shown.before else "",
        next=wanted.link(after=shown.items[-1].address) if shown.after else "",
        noted=[Noted(one, _page_of(snapshot, one)) for one in warnings[:MOST_NOTED]],
        unnoted=max(0, len(warnings) - MOST_NOTED),
        said=visit.says(SAID[said]) if said in SAID else "",
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which mailboxes the list shows; what is empty does not matter. `search` is part of address or account."""

    state: str = ""
    search: str = ""

    @property
    def narrow(self) -> bool:
        return bool(self.state or self.search)

    def among(self, standing: Standing) -> Sequence[Mailbox]:
        """By address."""
        mailboxes = standing.by_state[self.state] if self.state else standing.snapshot.ordered
        return matching(mailboxes, self.search) if self.search else mailboxes

    def link(self, **changes: str) -> str:
        query = {"state": self.state, "search": self.search, **changes}
        given = urlencode({name: value for name, value in query.items() if value})
        return f"/?{given}" if given else "/"


def matching(mailboxes: Iterable[Mailbox], search: str) -> list[Mailbox]:
    part = search.casefold()
    return [mailbox for mailbox in mailboxes if part in mailbox.address or part in mailbox.account.casefold()]


@dataclass(frozen=True, slots=True)
class Shown:
    """A page of a list. `before`, `after`: there are others before the first, after the last."""

    items: Sequence[Mailbox]
    before: bool
    after: bool


def cut(found: Sequence[Mailbox], after: str = "", before: str = "") -> Shown:
    """Those that follow an address, or the last ones before it, whether or not there is a mailbox of that name."""
    if before:
        end = bisect.bisect_left(found, before, key=_address)
        start = max(0, end - PAGE)
    else:
        start = bisect.bisect_right(found, after, key=_address)
        end = start + PAGE
    return Shown(found[start:end], start > 0 and bool(found[start:end]), end < len(found))


def _address(mailbox: Mailbox) -> str:
    return mailbox.address


@routes.get("/mailboxes/find")
async def find(visit: Reader, mailbox: str = "", move_to: str = "") -> Response:
    """What one of these fields offers while an address is typed."""
    await visit.parts.directory.refresh()
    found = matching(visit.parts.directory.now.ordered, (mailbox or move_to).strip()[:254])
    return fragment(visit, "found.html", addresses=[mailbox.address for mailbox in found[:OFFERED]])


def _page_of(snapshot: Snapshot, found: Forecast) -> str:
    """Where the token that ends can be got again; nowhere for what a whole app registration lives on."""
    if found.subject in snapshot.configuration.apps:
        return ""
    mailbox = snapshot.by_address[found.mailboxes[0]]
    purpose = snapshot.setting_of_token(mailbox, found.subject)
    return f"/mailboxes/{mailbox.id}#token{f'-{purpose}' if purpose else ''}"


@dataclass(frozen=True, slots=True)
class SettingShown:
    """`own`: it is to have a token of its own. `refused`: what was said when the token it waits for was tried.

    `choosable`: it waits for no other token than this one, and one can choose whether it shares.
    """

    purpose: Purpose
    own: bool
    waits: bool
    refused: str
    choosable: bool


@dataclass(frozen=True, slots=True)
class Block:
    """One token of a mailbox. `purpose` is the setting by which it is meant, empty for the one that settings share.

    `gettable`: not where it serves only until another one has proved itself. `others` are further mailboxes that use
    it; one goes back to `earlier` with `back_for`.
    """

    token: TokenView
    app_id: str
    purpose: str
    settings: tuple[SettingShown, ...]
    others: tuple[str, ...]
    gettable: bool
    methods: tuple[Method, ...]
    preferred: Method
    earlier: Earlier | None
    back_for: str

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        return tuple(setting.purpose for setting in self.settings)

    @property
    def place(self) -> str:
        """Where links to it lead."""
        return (f"token-{self.purpose}" if self.purpose else "token") if self.gettable else self.token.id

    @property
    def serving(self) -> bool:
        return self.token.obtained_at > 0

    @property
    def again(self) -> bool:
        return self.serving or self.token.state is TokenState.INVALID


@routes.get("/mailboxes/{mailbox_id}")
async def one(visit: Reader, mailbox_id: str, said: str = "") -> Response:
    view = await view_of(visit, mailbox_id)
    attempt = await _latest(visit, view)
    snapshot = visit.parts.directory.now
    provider = snapshot.provider_of(view.mailbox)
    by_setting = {server.protocol: view.mailbox.for_setting(purpose_of(server.protocol)) for server in view.servers}
    return await page(
        visit,
        "mailbox.html",
        view=view,
        mailbox=view.mailbox,
        blocks=[await _block(visit, view, token) for token in view.tokens],
        choices=[purpose for purpose in snapshot.purposes(view.mailbox) if view.mailbox.settings.protocol(purpose)],
        by_token=view.mailbox.for_setting("sending").app_id is not None,
        servers={server.protocol: server for server in view.servers},
        endpoints={protocol: snapshot.endpoint(mailbox, protocol) for protocol, mailbox in by_setting.items()},
        attempt=shown_to_administrators(visit, attempt) if attempt else None,
        account_url=provider.account_url if provider and said == "impossible" else "",
        said=visit.says(SAID[said]) if said in SAID else "",
    )


async def _block(visit: Visit, view: MailboxView, token: TokenView) -> Block:
    mailbox, purpose = view.mailbox, view.purpose_of(token)
    snapshot = visit.parts.directory.now
    app = snapshot.apps_by_name.get(token.app)
    methods = methods_for(app, snapshot.providers.get(app.provider) if app else None)
    preferred = next((way for way in methods if way == mailbox.settings.method), methods[0])
    earlier, back_for = await _earlier(visit, mailbox, token, purpose)
    return Block(
        token=token,
        app_id=app.id if app else "",
        purpose=purpose,
        settings=tuple(_settings(mailbox, token)),
        others=tuple(address for address in token.addresses if address != mailbox.address),
        gettable=mailbox.for_setting(purpose_from(purpose)).switched.token_id == token.id,
        methods=methods,
        preferred=preferred,
        earlier=earlier,
        back_for=back_for,
    )


def _settings(mailbox: Mailbox, token: TokenView) -> Iterator[SettingShown]:
    for settings, waits in ((token.used_by, False), (token.waiting, True)):
        for one in settings:
            if one.address == mailbox.address:
                own = mailbox.settings.owns(one.purpose)
                settled = mailbox.for_setting(one.purpose).switched.token_id == token.id
                several = len(token.used_by) + len(token.waiting) > 1
                yield SettingShown(one.purpose, own, waits, one.refused, settled and (own or several))


async def _earlier(visit: Visit, mailbox: Mailbox, token: TokenView, purpose: str) -> tuple[Earlier | None, str]:
    """What the settings that use a token can go back to: those that share it together, else one by itself."""
    used = [one.purpose for one in token.used_by if one.address == mailbox.address]
    wanted: list[Purpose | None] = [*(() if purpose else (None,)), *used]
    for one in wanted if used else ():
        found = await visit.parts.going_back.earlier(mailbox, one)
        if found is not None:
            return found, one or ""
    return None, ""


async def mailbox_of(visit: Visit, mailbox_id: str) -> Mailbox:
    """Raises HTTPException where there is none."""
    await visit.parts.directory.refresh()
    mailbox = visit.parts.directory.now.mailboxes.get(mailbox_id)
    if mailbox is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return mailbox


async def view_of(visit: Visit, mailbox_id: str) -> MailboxView:
    """Raises HTTPException where there is none."""
    mailbox = await mailbox_of(visit, mailbox_id)
    return await view_mailbox(visit.parts.store, visit.parts.directory.now, mailbox)


async def _latest(visit: Visit, view: MailboxView) -> Authorisation | None:
    """The newest attempt, while it goes on and for some minutes after."""
    store, wanted = visit.parts.store, view.mailbox.id
    found = await store.database.read(lambda tx: authorisations.of_mailbox(tx, store.sealer, wanted))
    latest = found[0] if found else None
    if latest is None or latest.state in authorisations.OPEN:
        return latest
    token = next((token for token in view.tokens if token.id == latest.token_id), None)
    overtaken = latest.state == "done" and token is not None and token.state is not TokenState.ACQUIRED
    return latest if latest.created_at + SHOWN_AFTER_END > visit.now and not overtaken else None


@routes.get("/mailboxes/{mailbox_id}/token/delete")
async def ask_before_deleting(visit: Reader, mailbox_id: str, of: str = "") -> Response:
    view = await view_of(visit, mailbox_id)
    return await page(visit, "delete_token.html", mailbox=view.mailbox, token=token_of(view, of))


@routes.post("/mailboxes/{mailbox_id}/token/delete")
async def delete(visit: TokenWriter, mailbox_id: str, of: str = "") -> Response:
    token = token_of(await view_of(visit, mailbox_id), of)
    given = await visit.parts.authorise.delete_token(token.id)
    visit.parts.following.ring()
    return back(mailbox_id, "deletion-waits" if given.how == "waiting" else given.how)


@routes.post("/mailboxes/{mailbox_id}/token/renew")
async def renew(visit: TokenWriter, mailbox_id: str) -> Response:
    token = token_of(await view_of(visit, mailbox_id), visit.form.get("of", ""))
    try:
        said = "renewed" if await _renew(visit, token) else "not-renewed"
    except NoToken as why:
        said = "refused" if not why.temporary and why.state is TokenState.INVALID else "not-renewed"
    visit.parts.following.ring()
    return back(mailbox_id, said)


@routes.post("/mailboxes/{mailbox_id}/back")
async def go_back(visit: TokenWriter, mailbox_id: str) -> Response:
    mailbox = await mailbox_of(visit, mailbox_id)
    await visit.parts.going_back.go(mailbox, purpose_from(visit.form.get("for", "")))
    visit.parts.following.ring()
    return back(mailbox_id, "back")


@routes.get("/mailboxes/{mailbox_id}/tokens/{purpose}")
async def ask_before_sharing(visit: Reader, mailbox_id: str, purpose: Purpose) -> Response:
    mailbox = await mailbox_of(visit, mailbox_id)
    own = mailbox.settings.owns(purpose)
    return await page(visit, "share_token.html", mailbox=mailbox, purpose=purpose, own=own)


@routes.post("/mailboxes/{mailbox_id}/tokens/{purpose}")
async def share(visit: TokenWriter, mailbox_id: str, purpose: Purpose) -> Response:
    """The form carries the version of the mailbox that the person saw."""
    mailbox = await mailbox_of(visit, mailbox_id)
    wish: Literal["shared", "own"] = "own" if visit.form.get("share") == "own" else "shared"
    version = visit.form.get("version", "")
    seen = int(version) if version.isascii() and version.isdigit() and len(version) < 16 else -1
    chosen = await visit.parts.sharing.choose(mailbox, purpose, wish, seen=seen)
    visit.parts.following.ring()
    waits = chosen.for_setting(purpose).settings.switch is not None
    return back(mailbox_id, "waits" if waits else "own" if wish == "own" else "shared")


async def _renew(visit: Visit, token: TokenView) -> bool:
    store = visit.parts.store
    stored = await store.database.read(lambda tx: tokens.get(tx, token.id))
    serving = stored.serving_grant if stored else None
    grant = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, serving or ""))
    return grant is not None and (await visit.parts.keeper.refresh(grant)).serial > grant.serial


def token_of(view: MailboxView, token_id: str = "") -> TokenView:
    """Where none is named the first. Raises HTTPException for a mailbox with a password, or another one's token."""
    found = next((token for token in view.tokens if token_id in ("", token.id)), None)
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return found


def back(mailbox_id: str, said: str) -> Response:
    return RedirectResponse(f"/mailboxes/{mailbox_id}?said={said}#token", HTTPStatus.SEE_OTHER)
