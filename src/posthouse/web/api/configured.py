"""What is configured: devices, app registrations, providers, administrators, without secrets. `editing` writes it."""

from fastapi import APIRouter

from posthouse.model.mailbox import Protocol
from posthouse.providers.provider import Provider
from posthouse.store import people
from posthouse.store.configuration import StoredApp, StoredProvider
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Reader
from posthouse.web.api.problems import not_found
from posthouse.web.api.shapes import Name

routes = APIRouter(tags=["configuration"])


@routes.get("/devices")
async def devices(caller: Reader) -> shapes.Page[shapes.DeviceShape]:
    """A key for some mailboxes sees the devices that may use them."""
    found = caller.parts.directory.now.configuration.devices.values()
    seen = (d for d in found if not caller.mailboxes or any(caller.sees(a) for a in d.settings.mailboxes))
    return shapes.Page(items=[shapes.device(device) for device in seen])


@routes.get("/devices/{id}")
async def device(caller: Reader, name: Name) -> shapes.DeviceShape:
    """By id or name."""
    for found in (await devices(caller)).items:
        if name == found.id or name.casefold() == found.name.casefold():
            return found
    raise not_found("device", name)


@routes.get("/apps")
async def apps(caller: Reader) -> shapes.Page[shapes.App]:
    """App registrations."""
    snapshot = caller.parts.directory.now
    used = {mailbox.app_id for mailbox in snapshot.mailboxes.values() if caller.sees(mailbox.address)}
    found = snapshot.configuration.apps.values()
    return shapes.Page(items=[_app(caller, app) for app in found if not caller.mailboxes or app.id in used])


def _app(caller: Caller, found: StoredApp) -> shapes.App:
    checking = caller.parts.app_check
    warnings = [str(warning) for warning in checking.warnings(found)]
    return shapes.app(found).model_copy(update={"redirect_url": checking.redirect_url_of(found), "warnings": warnings})


@routes.get("/apps/{id}")
async def app(caller: Reader, name: Name) -> shapes.App:
    """By id or name."""
    for found in (await apps(caller)).items:
        if name in (found.id, found.name):
            return found
    raise not_found("app", name)


@routes.get("/providers")
async def providers(caller: Reader) -> shapes.Page[shapes.Provider]:
    """Those that are built in, and those from apply files."""
    snapshot = caller.parts.directory.now
    own = snapshot.configuration.providers
    return shapes.Page(items=[_provider(found, own.get(name)) for name, found in snapshot.providers.items()])


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
async def administrators(caller: Reader) -> shapes.Page[shapes.Administrator]:
    """Not for keys that are limited to some mailboxes."""
    caller.must_see_all()
    found = await caller.parts.store.database.read(people.administrators)
    return shapes.Page(
        items=[
            shapes.Administrator(
                id=one.id,
                name=one.name,
                role=one.role,
                permissions=list(one.permissions),
                has_password=bool(one.password_hash),
            )
            for one in found
        ]
    )
