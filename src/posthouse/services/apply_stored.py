"""What is stored, in the words of an apply file, so that the two can be compared key by key."""

from dataclasses import dataclass
from typing import Any

from posthouse.model.device import Device
from posthouse.model.mailbox import Mailbox
from posthouse.services.apply_file import Item
from posthouse.services.apply_values import DEVICE_SETTINGS, MAILBOX_SETTINGS, SECRETS
from posthouse.store.configuration import Configuration, StoredApp, StoredProvider

Row = StoredProvider | StoredApp | Mailbox | Device
STORED_KINDS = ("provider", "app", "mailbox", "device")


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows by kind and by the name that files use for them; names of devices are case-folded."""

    rows: dict[str, dict[str, Row]]
    app_names: dict[str, str]

    def find(self, kind: str, name: str) -> Row | None:
        return self.rows.get(kind, {}).get(key_of(kind, name))

    def values(self, kind: str, name: str) -> dict[str, Any]:
        """By key, in the form that `Item.values` has; empty where there is no such row."""
        row = self.find(kind, name)
        return values_of(row, self.app_names) if row is not None else {}

    def origin(self, kind: str, name: str) -> str:
        row = self.find(kind, name)
        return row.origin if row is not None else ""

    def mailbox(self, address: str) -> Mailbox | None:
        row = self.find("mailbox", address)
        return row if isinstance(row, Mailbox) else None

    def has_secret(self, item: Item) -> bool:
        """Whether one is stored, and is to stay."""
        if SECRETS.get(item.kind) in item.removed:
            return False
        match self.find(item.kind, item.name):
            case StoredApp(sealed_secret=sealed):
                return sealed is not None
            case Mailbox(has_password=has):
                return has
            case Device(password_hash=hashed):
                return bool(hashed)
        return False


def stored_of(configuration: Configuration) -> Stored:
    return Stored(
        {
            "provider": dict(configuration.providers),
            "app": {app.name: app for app in configuration.apps.values()},
            "mailbox": {mailbox.address: mailbox for mailbox in configuration.mailboxes.values()},
            "device": {key_of("device", device.name): device for device in configuration.devices.values()},
        },
        {app.id: app.name for app in configuration.apps.values()},
    )


def key_of(kind: str, name: str) -> str:
    return name.casefold() if kind == "device" else name


def values_of(row: Row, app_names: dict[str, str]) -> dict[str, Any]:
    match row:
        case StoredProvider():
            return flat(row.document)
        case StoredApp():
            return {"provider": row.provider, "client_id": row.client_id, **row.document}
        case Mailbox():
            return _mailbox(row, app_names)
    return {key: _plain(getattr(row.settings, key)) for key in DEVICE_SETTINGS}


def _mailbox(row: Mailbox, app_names: dict[str, str]) -> dict[str, Any]:
    """A way to sign in that is wanted and waits for its proof counts as the one that is stored."""
    switch = row.settings.switch
    app_id, account = (switch.app_id, switch.account) if switch else (row.app_id, row.account)
    settings = {key: _plain(getattr(row.settings, key)) for key in MAILBOX_SETTINGS}
    return {"app": app_names.get(app_id or "", ""), "signs_in_as": account, "default": row.default, **settings}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def flat(document: dict[str, Any]) -> dict[str, Any]:
    """The table of a provider without its name, keys of its limits written `limits.size`."""
    limits = document.get("limits", {})
    values = {key: value for key, value in document.items() if key not in ("name", "limits")}
    return values | {f"limits.{key}": value for key, value in limits.items()}


def unflat(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The table of a provider again."""
    limits = {key.removeprefix("limits."): value for key, value in values.items() if key.startswith("limits.")}
    document = {"name": name} | {key: value for key, value in values.items() if not key.startswith("limits.")}
    return document | {"limits": limits} if limits else document
