"""Providers, app registrations, mailboxes and devices: what an administrator configures."""

import sys
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update

from posthouse.model.device import Device, DeviceSettings
from posthouse.model.mailbox import Mailbox, MailboxSettings
from posthouse.secret import Secret
from posthouse.store import events
from posthouse.store.database import Row, Transaction
from posthouse.store.sealing import Sealer
from posthouse.store.tables import app, device, mailbox, provider, sender


@dataclass(frozen=True, slots=True)
class StoredProvider:
    """A provider that is not built in, as the table of an apply file."""

    id: str
    name: str
    document: dict[str, Any]
    origin: str
    version: int


@dataclass(frozen=True, slots=True)
class StoredApp:
    """An app registration. `sealed_secret` is None for a public client."""

    id: str
    name: str
    provider: str
    client_id: str
    sealed_secret: bytes | None = field(repr=False)
    document: dict[str, Any]
    origin: str
    version: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """All of it at one moment; `generation` grows with every change."""

    generation: int
    providers: dict[str, StoredProvider]
    apps: dict[str, StoredApp]
    mailboxes: dict[str, Mailbox]
    devices: dict[str, Device]


PAGE = 2000
"""Mailboxes that are read at a time."""
_providers, _apps = select(provider), select(app)
_devices = select(device).order_by(device.c.name)
_mailboxes = select(mailbox).where(mailbox.c.address > bindparam("position")).order_by(mailbox.c.address).limit(PAGE)
_tables = {"provider": provider, "app": app, "mailbox": mailbox, "device": device}
_deletes = {name: delete(table).where(table.c.id == bindparam("row_id")) for name, table in _tables.items()}
_forget_senders = delete(sender).where(sender.c.mailbox_id == bindparam("row_id"))
_password = select(mailbox.c.password).where(mailbox.c.id == bindparam("row_id"))
_move_token = update(mailbox).where(mailbox.c.id == bindparam("row_id")).values(token_id=bindparam("new_token"))


async def load(tx: Transaction) -> Configuration:
    """Everything, read in one transaction. Keys: names of providers, ids of the others."""
    return Configuration(
        generation=await generation(tx),
        providers={row["name"]: _provider(row) for row in await tx.all(_providers)},
        apps={row["id"]: _app(row) for row in await tx.all(_apps)},
        mailboxes=await _all_mailboxes(tx),
        devices={row["id"]: _device(row) for row in await tx.all(_devices)},
    )


async def _all_mailboxes(tx: Transaction) -> dict[str, Mailbox]:
    """By address. Most of a hundred thousand have the same settings, and share them in memory."""
    found: dict[str, Mailbox] = {}
    alike: dict[str, MailboxSettings] = {}
    position = ""
    while rows := await tx.all(_mailboxes, position=position):
        for row in rows:
            found[row["id"]] = _mailbox(row, alike)
        position = rows[-1]["address"]
    return found


async def generation(tx: Transaction) -> int:
    return await events.value_of(tx, "configuration")


async def save(tx: Transaction, kind: str, row_id: str, **values: Any) -> None:
    """Make or change a row of `kind` (provider, app, mailbox, device) with just these columns."""
    changed = await tx.run(_update_of(kind, tuple(sorted(values))), row_id=row_id, **values)
    if not changed:
        await tx.run(_insert_of(kind, tuple(sorted(values))), row_id=row_id, **values)
    await events.bump(tx, "configuration")


async def remove(tx: Transaction, kind: str, row_id: str) -> bool:
    await events.bump(tx, "configuration")
    if kind == "mailbox":
        await tx.run(_forget_senders, row_id=row_id)
    return bool(await tx.run(_deletes[kind], row_id=row_id))


async def share_token(tx: Transaction, mailbox_id: str, token_id: str | None) -> None:
    """The settings of a mailbox use this token from now on."""
    await tx.run(_move_token, row_id=mailbox_id, new_token=token_id)
    await events.bump(tx, "configuration")


async def mailbox_password(tx: Transaction, sealer: Sealer, mailbox_id: str) -> Secret | None:
    row = await tx.one(_password, row_id=mailbox_id)
    if row is None or row["password"] is None:
        return None
    return Secret(sealer.open(row["password"], f"mailbox:{mailbox_id}:password").decode())


def app_secret(sealer: Sealer, stored: StoredApp) -> Secret | None:
    """Raises Unsealable."""
    if stored.sealed_secret is None:
        return None
    return Secret(sealer.open(stored.sealed_secret, f"app:{stored.id}:secret").decode())


_statements: dict[tuple[str, str, tuple[str, ...]], Any] = {}


def _update_of(kind: str, columns: tuple[str, ...]) -> Any:
    table = _tables[kind]
    return _remember(
        ("update", kind, columns),
        lambda: (
            update(table)
            .where(table.c.id == bindparam("row_id"))
            .values({**{name: bindparam(name) for name in columns}, "version": table.c.version + 1})
        ),
    )


def _insert_of(kind: str, columns: tuple[str, ...]) -> Any:
    table = _tables[kind]
    return _remember(
        ("insert", kind, columns),
        lambda: insert(table).values({"id": bindparam("row_id"), **{name: bindparam(name) for name in columns}}),
    )


def _remember(key: tuple[str, str, tuple[str, ...]], make: Any) -> Any:
    if key not in _statements:
        _statements[key] = make()
    return _statements[key]


def encode(document: Any) -> str:
    """Settings as the text of a `document` column."""
    return msgspec.json.encode(document).decode()


def _provider(row: Row) -> StoredProvider:
    return StoredProvider(row["id"], row["name"], msgspec.json.decode(row["document"]), row["origin"], row["version"])


def _app(row: Row) -> StoredApp:
    return StoredApp(
        id=row["id"],
        name=row["name"],
        provider=row["provider"],
        client_id=row["client_id"],
        sealed_secret=row["secret"],
        document=msgspec.json.decode(row["document"] or "{}"),
        origin=row["origin"],
        version=row["version"],
    )


def _mailbox(row: Row, alike: dict[str, MailboxSettings]) -> Mailbox:
    document, address, account = row["document"] or "{}", row["address"], row["account"]
    if document not in alike:
        alike[document] = msgspec.json.decode(document, type=MailboxSettings)
    return Mailbox(
        id=row["id"],
        address=address,
        app_id=sys.intern(row["app_id"]) if row["app_id"] is not None else None,
        account=address if account == address else account,
        token_id=row["token_id"],
        has_password=row["password"] is not None,
        default=bool(row["is_default"]),
        origin=sys.intern(row["origin"]),
        version=row["version"],
        settings=alike[document],
    )


def _device(row: Row) -> Device:
    return Device(
        id=row["id"],
        name=row["name"],
        origin=row["origin"],
        version=row["version"],
        password_hash=row["password_hash"],
        settings=msgspec.json.decode(row["document"] or "{}", type=DeviceSettings),
    )
