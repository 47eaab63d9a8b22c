"""`posthouse app`, `provider` and `device`: what is configured beside mailboxes."""

from typing import Any

import click

from posthouse.cli.calling import Call, calling, facts, table
from posthouse.cli.connection import path_of
from posthouse.cli.editing import add_verbs
from posthouse.cli.registering import check, guide

COLUMNS = {
    "app": ("name", "provider", "client_id", "has_secret", "secret_expires", "origin"),
    "provider": ("name", "title", "issuer", "smtp", "imap", "pop3"),
    "device": ("name", "mailboxes", "protocols", "networks", "lane", "origin"),
}
HELP = {
    "app": "App registrations: our client at a provider.",
    "provider": "Providers: those that come with Posthouse, and your own.",
    "device": "Printers, programs and people with a password of their own.",
}


def _group(kind: str) -> click.Group:
    @click.group(kind, help=HELP[kind])
    def group() -> None: ...

    @group.command("list", epilog=f"Example:  posthouse {kind} list")
    @calling()
    def list_(call: Call) -> None:
        """All of them."""
        call.show(list(call.api.every(f"/{kind}s")), lambda found: _list(kind, found))

    @group.command(epilog=f"Example:  posthouse {kind} show NAME")
    @click.argument("name")
    @calling()
    def show(call: Call, name: str) -> None:
        """One of them."""
        call.show(call.api.get(path_of(f"{kind}s", name)), lambda one: facts(_flat(one)))

    add_verbs(group, kind)
    return group


def _list(kind: str, found: list[dict[str, Any]]) -> None:
    columns = COLUMNS[kind]
    rows = [[_flat(one).get(column, "") for column in columns] for one in found]
    table([column.replace("_", " ").upper() for column in columns], rows, empty=f"There is no {kind} yet.")


def _flat(one: dict[str, Any]) -> dict[str, str]:
    """With the settings beside the other properties."""
    settings = one.get("settings", {})
    return {key: _text(value) for key, value in {**one, **settings}.items() if key != "settings"}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


app, provider, device = (_group(kind) for kind in COLUMNS)
app.add_command(guide)
app.add_command(check)
