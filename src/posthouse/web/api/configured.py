"""What is configured: devices, app registrations, providers, administrators, without secrets. `editing` writes it."""

from fastapi import APIRouter

from posthouse.model.device import Device
from posthouse.model.mailbox import Protocol
from posthouse.providers.provider import Provider
from posthouse.store import people
from posthouse.store.configuration import StoredApp, StoredProvider
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Reader
from posthouse.web.api.problems import not_found
from posthouse.web.api.shapes import Cursor, Limit, Name

routes = APIRouter(tags=["configuration"])


@routes.get("/devices")
async def devices(caller: Reader, cursor: Cursor = "", limit: Limit = 100) -> shapes.Page[shapes.DeviceShape]:
    """By name. A key for some mailboxes sees the devices that may use them."""
    return shapes.page_of(_devices(caller), lambda device: device.name, cursor, limit, shapes.device)


def _devices(caller: Caller) -> list[Device]:
    found = caller.parts.directory.now.configuration.devices.values()
    return [d for d in found if not caller.mailboxes or any(caller.sees(a) for a in d.settings.mailboxes)]


@routes.get("/devices/{id}")
async def device(caller: Reader, name: Name) -> shapes.DeviceShape:
    """By id or name."""
    for found in _devices(caller):
        if name == found.id or name.casefold() == found.name.casefold():
            return shapes.device(found)
    raise not_found("device", name)


@routes.get("/apps")
async def apps(caller: Reader, cursor: Cursor = "", limit: Limit = 100) -> shapes.Page[shapes.App]:
    """App registrations, by name."""
    return shapes.page_of(_apps(caller), lambda app: app.name, cursor, limit, lambda app: _app(caller, app))


def _apps(caller: Caller) -> list[StoredApp]:
    found = list(caller.parts.directory.now.configuration.apps.values())
    if not caller.mailboxes:
        return found
    used = {mailbox.app_id for mailbox in caller.mailboxes_seen()}
    return [app for app in found if app.id in used]


def _app(caller: Caller, found: StoredApp) -> shapes.App:
    checking = caller.parts.app_check
    warnings = [str(warning) for warning in checking.warnings(found)]
    return shapes.app(found).model_copy(update={"redirect_url": checking.redirect_url_of(found), "warnings": warnings})


@routes.get("/apps/{id}")
async def app(caller: Reader, name: Name) -> shapes.App:
    """By id or name."""
    for found in _apps(caller):
        if name in (found.id, found.name):
            return _app(caller, found)
    raise not_found("app", name)


@routes.get("/providers")
async def providers(caller: Reader, cursor: Cursor = "", limit: Limit = 100) -> shapes.Page[shapes.Provider]:
    """Those that are built in, and those from apply files, by name."""
    snapshot = caller.parts.directory.now
    own = snapshot.configuration.providers
    return shapes.page_of(
        snapshot.providers.values(),
        lambda found: found.name,
        cursor,
        limit,
        lambda found: _provider(found, own.get(found.name)),
    )


@routes.get("/providers/{id}")
async def provider(caller: Reader, name: Name) -> shapes.Provider:
    snapshot = caller.parts.directory.now
    found = snapshot.providers.get(name)
    if found is None:
        raise not_found("provider", name)
    return _provider(found, snapshot.configuration.providers.get(name))


def _provider(found: Provider, own: StoredProvider | None) -> shapes.Provider:
    return shapes.Provider(
        name=found.name,
        title=found.title or found.name,
        built_in=own is None,
        origin=own.origin if own else "",
        version=own.version if own else 0,
        issuer=found.issuer,
        smtp=_server(found, "smtp"),
        imap=_server(found, "imap"),
        pop3=_server(found, "pop3"),
    )


def _server(found: Provider, protocol: Protocol) -> str:
    endpoint = found.endpoint(protocol)
    return str(endpoint) if endpoint else ""


@routes.get("/administrators")
async def administrators(caller: Reader, cursor: Cursor = "", limit: Limit = 100) -> shapes.Page[shapes.Administrator]:
    """By name. Not for keys that are limited to some mailboxes."""
    caller.must_see_all()
    found = await caller.parts.store.database.read(people.administrators)
    return shapes.page_of(found, lambda one: one.name, cursor, limit, _administrator)


def _administrator(found: people.Administrator) -> shapes.Administrator:
    return shapes.Administrator(
        id=found.id,
        name=found.name,
        role=found.role,
        permissions=list(found.permissions),
        has_password=bool(found.password_hash),
    )
