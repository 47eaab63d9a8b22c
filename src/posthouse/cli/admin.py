"""`posthouse admin`: who may use the page and the API."""

import sys
from typing import Any

import click

from posthouse.cli.calling import Call, calling, confirm, moment, table
from posthouse.cli.connection import path_of

ROLES = click.Choice(("administrator", "limited", "auditor"))
MAY = click.option(
    "--may",
    "permissions",
    multiple=True,
    type=click.Choice(("tokens", "queue", "settings")),
    help="What a limited administrator may do; give it once for each.",
)


@click.group()
def admin() -> None:
    """Administrators, sign-in links and API keys."""


@admin.command(epilog="Example:  posthouse admin add maria --role auditor --password")
@click.argument("name")
@click.option("--role", type=ROLES, default="administrator", show_default=True)
@MAY
@click.option("--password", "with_password", is_flag=True, help="Ask for a password, or read it from standard input.")
@calling()
def add(call: Call, name: str, role: str, permissions: tuple[str, ...], with_password: bool) -> None:
    """Add an administrator. Without a password they sign in by a link."""
    password = _read_password() if with_password else ""
    body = {"name": name, "role": role, "permissions": permissions, "password": password}
    made = call.api.post("/control/administrators", body)
    hint = "" if with_password else f" To sign in: posthouse admin link {name}"
    call.show(made, lambda _: click.echo(f"Added {name}.{hint}"))


def _read_password() -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    return sys.stdin.readline(1001).rstrip("\r\n")


@admin.command("list", epilog="Example:  posthouse admin list")
@calling()
def list_(call: Call) -> None:
    """All administrators."""
    call.show(list(call.api.every("/administrators")), _list)


def _list(found: list[dict[str, Any]]) -> None:
    table(
        ("NAME", "ROLE", "MAY", "SIGNS IN BY"),
        (
            (one["name"], one["role"], " ".join(one["permissions"]), "password" if one["has_password"] else "link")
            for one in found
        ),
        empty="There is no administrator yet. posthouse admin link makes the first one.",
    )


@admin.command(epilog="Example:  posthouse admin remove maria")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@calling()
def remove(call: Call, name: str, yes: bool) -> None:
    """Remove an administrator, and end their sessions."""
    confirm(f"Remove the administrator {name}?", yes=yes)
    call.api.delete(path_of("control", "administrators", name))
    call.show({"removed": name}, lambda _: click.echo(f"Removed {name}."))


@admin.command(epilog="Example:  posthouse admin role maria limited --may queue")
@click.argument("name")
@click.argument("role", type=ROLES)
@MAY
@calling()
def role(call: Call, name: str, role: str, permissions: tuple[str, ...]) -> None:
    """Give an administrator another role."""
    changed = call.api.patch(path_of("control", "administrators", name), {"role": role, "permissions": permissions})
    call.show(changed, lambda _: click.echo(f"{name} is now {role}."))


@admin.command(epilog="Example:  posthouse admin password maria")
@click.argument("name")
@calling()
def password(call: Call, name: str) -> None:
    """Set a password, asked for or read from standard input. It ends every session of that person."""
    changed = call.api.patch(path_of("control", "administrators", name), {"password": _read_password()})
    call.show(changed, lambda _: click.echo(f"{name} has a new password."))


@admin.command(epilog="Example:  posthouse admin link")
@click.argument("name", default="")
@calling()
def link(call: Call, name: str) -> None:
    """A link to the page that signs in once, within 15 minutes. The first administrator is made by it."""
    made = call.api.post("/control/sign-in-link", {"name": name})
    call.show(made, lambda one: click.echo(one["url"]))


@admin.command(epilog="Example:  posthouse admin key helpdesk --may send --mailbox support@example.com")
@click.argument("name")
@click.option(
    "--may",
    "permissions",
    multiple=True,
    type=click.Choice(("read", "send", "receive", "manage")),
    help="What the key allows; give it once for each.",
)
@click.option("--mailbox", "mailboxes", multiple=True, help="Only for this mailbox; give it once for each.")
@click.option("--remove", "removing", is_flag=True, help="Take the key back.")
@calling()
def key(call: Call, name: str, permissions: tuple[str, ...], mailboxes: tuple[str, ...], removing: bool) -> None:
    """Make a key for the REST API. It is printed this once."""
    if removing:
        call.api.delete(path_of("control", "keys", name))
        call.show({"removed": name}, lambda _: click.echo(f"Removed the key {name}."))
        return
    if not permissions:
        raise click.UsageError("Say what the key allows: --may read, send, receive or manage.")
    made = call.api.post("/control/keys", {"name": name, "permissions": permissions, "mailboxes": mailboxes})
    call.show(made, lambda one: click.echo(one["key"]))


@admin.command(epilog="Example:  posthouse admin keys")
@calling()
def keys(call: Call) -> None:
    """All API keys, without what they are."""
    call.show(call.api.get("/control/keys")["items"], _keys)


def _keys(found: list[dict[str, Any]]) -> None:
    table(
        ("NAME", "MAY", "MAILBOXES", "MADE"),
        (
            (one["name"], " ".join(one["permissions"]), " ".join(one["mailboxes"]) or "all", moment(one["created_at"]))
            for one in found
        ),
        empty="There is no key yet.",
    )


@admin.command("notices-secret", epilog="Example:  posthouse admin notices-secret")
@calling()
def notices_secret(call: Call) -> None:
    """What the webhook of [notices] is signed with (Standard Webhooks), for whoever receives it."""
    call.show(call.api.get("/control/notices-secret"), lambda one: click.echo(one["secret"]))
