"""Pages that make, change and remove mailboxes, app registrations, devices and providers."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException
from starlette.responses import RedirectResponse, Response

from posthouse.model.mailbox import Mailbox
from posthouse.model.token import TokenState
from posthouse.problems import Problem, ProblemError
from posthouse.providers.provider import built_in
from posthouse.services.connection_test import StepName
from posthouse.services.directory import Snapshot
from posthouse.services.edit_binding import NOT_ALLOWED
from posthouse.services.editing import Edited, Kind
from posthouse.services.overview import view_mailbox
from posthouse.store import messages
from posthouse.web import confirming, forms
from posthouse.web.forms import N_, Section, Values, mailbox, others
from posthouse.web.rendering import page
from posthouse.web.visits import Reader, SettingsWriter, Visit

routes = APIRouter()
WAITS = "apply.mail-waits"
SAID = {"saved": N_("Saved."), "added": N_("Added."), "removed": N_("Removed.")}


@dataclass(frozen=True, slots=True)
class Form:
    """What the pages of one kind have of their own. `find` is given what stands in the address."""

    kind: Kind
    path: str
    new_title: str
    find: Callable[[Snapshot, str], Any]
    shown: Callable[[Any, Snapshot], Values]
    new: Callable[[Visit], Values]
    read: Callable[[Values], dict[str, Any]]
    sections: Callable[[Snapshot, Any, Values], Sequence[Section]]
    chosen: Callable[[Any, Values], Values] = lambda row, values: {}
    """What follows from a choice that was just made."""

    def name_of(self, row: Any) -> str:
        return str(row.address if self.kind == "mailbox" else row.name)

    def address_of(self, row: Any) -> str:
        return f"{self.path}/{quote(row.name, safe='') if self.kind == 'provider' else row.id}"


def _sections_of_mailbox(snapshot: Snapshot, row: Mailbox | None, values: Values) -> Sequence[Section]:
    return mailbox.sections(mailbox.Sketch(snapshot, row, values.get("app", "")), values)


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A provider as it comes with Posthouse: nothing of it is stored until somebody changes it."""

    name: str
    id: str = ""
    version: int = 0
    origin: str = ""


def _find_provider(snapshot: Snapshot, name: str) -> Any:
    return snapshot.configuration.providers.get(name) or (BuiltIn(name) if name in built_in() else None)


MAILBOX = Form(
    "mailbox",
    "/mailboxes",
    N_("Add a mailbox"),
    find=lambda snapshot, row_id: snapshot.mailboxes.get(row_id),
    shown=mailbox.shown,
    new=lambda visit: mailbox.NEW | {"app": visit.request.query_params.get("app", "")},
    read=mailbox.read,
    sections=_sections_of_mailbox,
    chosen=mailbox.chosen,
)
APP = Form(
    "app",
    "/apps",
    N_("Add an app registration"),
    find=lambda snapshot, row_id: snapshot.configuration.apps.get(row_id),
    shown=lambda row, _: others.app_shown(row),
    new=lambda visit: {"provider": visit.request.query_params.get("provider", "microsoft")},
    read=others.app_read,
    sections=lambda snapshot, row, _: others.app_sections(snapshot, row),
)
DEVICE = Form(
    "device",
    "/devices",
    N_("Add a device"),
    find=lambda snapshot, row_id: snapshot.configuration.devices.get(row_id),
    shown=lambda row, _: others.device_shown(row),
    new=lambda visit: {"protocol_smtp": "on", "mailboxes": visit.request.query_params.get("mailbox", "")},
    read=others.device_read,
    sections=lambda snapshot, row, _: others.device_sections(snapshot, row),
)
PROVIDER = Form(
    "provider",
    "/providers",
    N_("Add a provider"),
    find=_find_provider,
    shown=lambda row, _: {"name": row.name} if isinstance(row, BuiltIn) else others.provider_shown(row),
    new=lambda _: {},
    read=others.provider_read,
    sections=lambda _, row, values: others.provider_sections(built_in().get(row.name if row else "")),
)
FORMS = (MAILBOX, APP, DEVICE, PROVIDER)


async def _may_change(visit: Reader) -> Visit:
    """A form that may not be sent is not shown."""
    if not visit.may("settings"):
        raise HTTPException(HTTPStatus.FORBIDDEN)
    await visit.parts.directory.refresh()
    return visit


Changer = Annotated[Visit, Depends(_may_change)]


def _add_pages(form: Form) -> None:
    @routes.get(f"{form.path}/new")
    async def ask_new(visit: Changer) -> Response:
        return await _show(visit, form, None, form.new(visit))

    @routes.post(f"{form.path}/new")
    async def add(visit: SettingsWriter) -> Response:
        return await _save(visit, form, None)

    @routes.get(f"{form.path}/{{row_id}}/edit")
    async def ask(visit: Changer, row_id: str) -> Response:
        row = _row(visit, form, row_id)
        return await _show(visit, form, row, form.shown(row, visit.parts.directory.now))

    @routes.post(f"{form.path}/{{row_id}}/edit")
    async def change(visit: SettingsWriter, row_id: str) -> Response:
        await visit.parts.directory.refresh()
        return await _save(visit, form, _row(visit, form, row_id))

    @routes.get(f"{form.path}/{{row_id}}/remove")
    async def ask_before_removing(visit: Changer, row_id: str) -> Response:
        return await _ask_before_removing(visit, form, _row(visit, form, row_id))

    @routes.post(f"{form.path}/{{row_id}}/remove")
    async def remove(visit: SettingsWriter, row_id: str) -> Response:
        await visit.parts.directory.refresh()
        return await _remove(visit, form, _row(visit, form, row_id))


def _row(visit: Visit, form: Form, row_id: str) -> Any:
    row = form.find(visit.parts.directory.now, row_id)
    if row is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return row


# Making and changing


async def _show(
    visit: Visit,
    form: Form,
    row: Any,
    values: Values,
    problems: Sequence[Problem] = (),
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    sections = form.sections(visit.parts.directory.now, row, values)
    if row is not None:
        sections = [section.without("name", "address") for section in sections]
    return await page(
        visit,
        "form.html",
        form=form,
        row=row,
        title=form.name_of(row) if row else visit.says(form.new_title),
        sections=sections,
        values=values,
        version=values.get("version", row.version if row else ""),
        told=_by_field(sections, problems),
        confirm=_confirmation(visit, problems),
        waiting=await _waiting(visit, row) if any(one.id == WAITS for one in problems) else 0,
        others=_has_other_senders(visit, row),
        status=status,
    )


def _by_field(sections: Sequence[Section], problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Problems by the name of the field they are told at; those that concern none by an empty one."""
    fields = [field for section in sections for field in section.fields]
    told: dict[str, list[Problem]] = {}
    for one in problems:
        name = next((field.name for field in fields if field.concerns(one.where)), "")
        told.setdefault(name, []).append(one)
    return told


def _confirmation(visit: Visit, problems: Sequence[Problem]) -> str:
    """What would let this visitor do it all the same: their password, a new sign-in, or nothing."""
    if not any(one.id == NOT_ALLOWED for one in problems) or visit.person is None:
        return ""
    if visit.person.role != "administrator":
        return "other"
    return "password" if visit.person.password_hash else "link"


async def _waiting(visit: Visit, row: Any) -> int:
    """How many messages wait to be sent by it."""
    if not isinstance(row, Mailbox):
        return 0
    counted = await visit.parts.store.database.read(lambda tx: messages.counts_of(tx, [row.id]))
    return sum(counted.get(row.id, {}).get(state, 0) for state in ("queued", "parked"))


def _has_other_senders(visit: Visit, row: Any) -> bool:
    mailboxes = visit.parts.directory.now.mailboxes.values()
    return isinstance(row, Mailbox) and any(one.settings.send and one.id != row.id for one in mailboxes)


def _as_typed(visit: Visit, form: Form, row: Any) -> Values:
    """What the form holds, with what is stored where a field was set by the provider, and so was not sent."""
    stored = form.shown(row, visit.parts.directory.now) if row else form.new(visit)
    unsent = {name: value for name, value in stored.items() if value != forms.ON}
    return {**unsent, **visit.form, **form.chosen(row, visit.form)}


async def _save(visit: Visit, form: Form, row: Any) -> Response:
    if visit.form.get("redraw"):
        return await _show(visit, form, row, _as_typed(visit, form, row))
    editing, table = visit.parts.editing, form.read(visit.form)
    rights = await confirming.rights(visit)
    try:
        if row is None:
            name = visit.form.get("address" if form.kind == "mailbox" else "name", "").strip()
            done = await editing.add(form.kind, name, table, rights)
        else:
            version, mail = _number(visit.form.get("version", "")), _about_mail(visit.form)
            done = await editing.change(form.kind, form.name_of(row), table, rights, version=version, **mail)
    except ProblemError as error:
        return await _show(visit, form, row, visit.form, error.problems, HTTPStatus.UNPROCESSABLE_ENTITY)
    return await _after(visit, form, done)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _about_mail(form: Values) -> dict[str, Any]:
    """What is to become of waiting mail."""
    what = form.get("waiting", "")
    if what == "move":
        return {"move_to": form.get("move_to", "")}
    return {"discard": max(0, _number(form.get("count", "")))} if what == "discard" else {}


async def _after(visit: Visit, form: Form, done: Edited) -> Response:
    row = visit.parts.editing.find(form.kind, done.name)
    if done.password is not None:
        return await page(visit, "device_password.html", device=done.name, password=done.password.reveal())
    if isinstance(row, Mailbox):
        return await _after_mailbox(visit, row, done)
    return RedirectResponse(f"{form.path}?said={'added' if done.what == 'added' else 'saved'}", HTTPStatus.SEE_OTHER)


TRIED: dict[str, tuple[StepName, ...]] = {
    "smtp": ("smtp",),
    "smtp_user": ("smtp",),
    "imap": ("imap",),
    "imap_user": ("imap",),
    "folder": ("imap",),
    "pop3": ("pop3",),
    "pop3_user": ("pop3",),
}
for _key in ("password", "app", "signs_in_as", "token", "timeout", "send", "receive"):
    TRIED[_key] = ("smtp", "imap", "pop3")
"""What is tried again after a change of these keys, where the mailbox uses it."""


async def _after_mailbox(visit: Visit, row: Mailbox, done: Edited) -> Response:
    """With something to sign in with, what was changed is tried; else a token is the next step."""
    own = f"/mailboxes/{row.id}"
    if row.settings.switch is not None and {"app", "signs_in_as", "token"} & set(done.changed):
        return RedirectResponse(f"{own}?said=switching#token", HTTPStatus.SEE_OTHER)
    view = await view_mailbox(visit.parts.store, visit.parts.directory.now, row)
    if view.token is not None and view.token.state is not TokenState.ACQUIRED:
        return RedirectResponse(f"{own}?said=token-next#token", HTTPStatus.SEE_OTHER)
    used = row.settings.enabled()
    changed = used if done.what == "added" else [name for key in done.changed for name in TRIED.get(key, ())]
    steps = [name for name in used if name in changed]
    if not steps:
        return RedirectResponse(f"{own}?said=saved", HTTPStatus.SEE_OTHER)
    run = visit.parts.connection_test.begin(row, [*(("token",) if row.app_id else ()), *steps])
    return RedirectResponse(f"{own}/test/{run.id}?said=saved", HTTPStatus.SEE_OTHER)


# Removing


async def _ask_before_removing(
    visit: Visit, form: Form, row: Any, problems: Sequence[Problem] = (), status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return await page(
        visit,
        "remove_settings.html",
        form=form,
        row=row,
        name=form.name_of(row),
        waiting=await _waiting(visit, row),
        others=_has_other_senders(visit, row),
        problems=problems,
        confirm=_confirmation(visit, problems),
        status=status,
    )


async def _remove(visit: Visit, form: Form, row: Any) -> Response:
    rights, version = await confirming.rights(visit), _number(visit.form.get("version", ""))
    try:
        await visit.parts.editing.remove(
            form.kind, form.name_of(row), rights, version=version, **_about_mail(visit.form)
        )
    except ProblemError as error:
        return await _ask_before_removing(visit, form, row, error.problems, HTTPStatus.CONFLICT)
    target = "/" if form.kind == "mailbox" else form.path
    return RedirectResponse(f"{target}?said=removed", HTTPStatus.SEE_OTHER)


# Lists


@routes.get("/apps")
async def apps(visit: Reader, said: str = "") -> Response:
    snapshot = await _newest(visit)
    used = Counter(box.switched.app_id for box in snapshot.mailboxes.values())
    rows = sorted(snapshot.configuration.apps.values(), key=lambda app: app.name)
    return await page(visit, "apps.html", rows=rows, providers=snapshot.providers, used=used, said=_said(visit, said))


@routes.get("/devices")
async def devices(visit: Reader, said: str = "") -> Response:
    rows = (await _newest(visit)).configuration.devices.values()
    return await page(visit, "devices.html", rows=list(rows), said=_said(visit, said))


@routes.get("/providers")
async def providers(visit: Reader, said: str = "") -> Response:
    snapshot = await _newest(visit)
    rows = sorted(snapshot.providers.values(), key=lambda one: (one.title or one.name).casefold())
    own = snapshot.configuration.providers
    return await page(visit, "providers.html", rows=rows, own=own, said=_said(visit, said))


async def _newest(visit: Visit) -> Snapshot:
    await visit.parts.directory.refresh()
    return visit.parts.directory.now


def _said(visit: Visit, said: str) -> str:
    return visit.says(SAID[said]) if said in SAID else ""


for _form in FORMS:
    _add_pages(_form)
