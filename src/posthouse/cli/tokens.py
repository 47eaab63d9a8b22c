"""`posthouse token`: how tokens stand, giving one to a program, giving one back."""

from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.calling import Call, calling, clean, confirm, facts, moment, table
from posthouse.cli.connection import path_of
from posthouse.problems import problem

if TYPE_CHECKING:
    from collections.abc import Callable


@click.group()
def token() -> None:
    """Tokens: their state, and handing one to a program that takes a bearer."""


def _purpose(command: "Callable[..., Any]") -> "Callable[..., Any]":
    return click.option(
        "--for",
        "purpose",
        type=click.Choice(("sending", "receiving", "notices")),
        help="Which settings' token; as yet all of a mailbox share one.",
    )(command)


@token.command("list", epilog="Example:  posthouse token list --json")
@calling()
def list_(call: Call) -> None:
    """All tokens."""
    from posthouse.cli.wording import token_words

    def tell(found: list[dict[str, Any]]) -> None:
        table(
            ("ACCOUNT", "APP", "STATE", "ENDS", "USED BY"),
            ((one["account"], one["app"], token_words(one), _ends(one), ", ".join(one["used_by"])) for one in found),
            empty="There is no token yet. Get one with: posthouse authorise ADDRESS",
        )

    call.show(list(call.api.every("/tokens")), tell)


def _ends(one: dict[str, Any]) -> str:
    from posthouse.cli.wording import endings_words

    if one["state"] != "acquired":
        return ""
    renewed = "is refreshed" if one["refreshable"] else moment(one["access_expires_at"])
    return endings_words(one) or renewed


@token.command(epilog="Example:  posthouse token status support@example.com")
@click.argument("address")
@_purpose
@calling()
def status(call: Call, address: str, purpose: str | None) -> int:
    """State, reason, who signed in, next step. Ends with 1 unless it is acquired."""
    found = _token_of(call, address)
    call.show(found, lambda one: _tell(address, one))
    return 0 if found["state"] == "acquired" else 1


def _tell(address: str, one: dict[str, Any]) -> None:
    from posthouse.cli.wording import endings_words, token_words

    facts(
        {
            "token": token_words(one),
            "detail": clean(one["detail"], 500),
            "means": clean(f"{one['meaning']} {one['fix']}", 900),
            "signed in": one["person"],
            "scopes": " ".join(one["scopes"]),
            "access until": moment(one["access_expires_at"]),
            "refreshed": moment(one["refreshed_at"]),
            "ends": endings_words(one),
            "last error": clean(one["last_error"], 500),
            "used by": ", ".join(one["used_by"]),
            "next step": f"posthouse authorise {address}" if one["next_step"] else "",
        }
    )
    if one["state"] == "acquired" and not one["refreshable"]:
        click.echo("The provider gave no refresh token: this token ends when its access does.")


def _token_of(call: Call, address: str) -> dict[str, Any]:
    found = call.api.get(path_of("mailboxes", address, "tokens"))["items"]
    if not found:
        raise problem("token.none", f"{address} has a password and no token.", status=64)
    first: dict[str, Any] = found[0]
    return first


@token.command(epilog="Example:  posthouse token delete support@example.com")
@click.argument("address")
@_purpose
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--confirm", "number", type=int, help="How many mailboxes use it, where there are several.")
@calling()
def delete(call: Call, address: str, purpose: str | None, yes: bool, number: int | None) -> None:
    """Forget a token, and revoke it at the provider where that is possible. Mail waits until there is a new one."""
    found = _token_of(call, address)
    users = found["used_by"]
    if number is None:
        confirm(f"Delete the token of {found['account']}, used by {', '.join(users)}?", yes=yes)
    sure = number if number is not None or yes else len(users)
    deleted = call.api.delete(path_of("tokens", found["id"]), confirm=sure)
    words = "and revoked at the provider" if deleted["revoked"] else "here; the provider was not told or cannot be"
    call.show(deleted, lambda _: click.echo(f"Deleted {words}."))


@token.command(epilog="Example:  posthouse token back support@example.com")
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@calling()
def back(call: Call, address: str, yes: bool) -> None:
    """Undo the last switch or re-authorisation, for a week and where what served before still lives."""
    confirm(f"Let {address} go back to what served before?", yes=yes)
    gone = call.api.post(path_of("mailboxes", address, "back"))
    words = {"password": "the password", "account": f"the token of {gone['who']}"}
    again = words.get(gone["kind"], f"the earlier consent of {gone['who']}")
    call.show(gone, lambda _: click.echo(f"Back: {clean(again)} serves again."))


@token.command("print", epilog='Example:  curl --oauth2-bearer "$(posthouse token print me@example.com)" …')
@click.argument("address")
@_purpose
@click.option("--as", "form", type=click.Choice(("bearer", "xoauth2", "oauthbearer")), default="bearer")
@click.option("--keep", type=click.Path(), help="Not yet available: keep a file up to date.")
@calling()
def print_(call: Call, address: str, purpose: str | None, form: str, keep: str | None) -> None:
    """An access token that is good for at least another minute. Never waits for a person: ends with 1 instead."""
    if keep is not None:
        raise problem("not-yet", "--keep is not yet available.", "Print it whenever it is needed.", status=69)
    found = call.api.get(path_of("control", "token", address), **{"as": form})
    call.show(found, lambda one: click.echo(one["text"]))
