"""`posthouse token`: how tokens stand, giving one to a program, giving one back."""

from pathlib import Path
from typing import Any

import click

from posthouse.cli.calling import Call, calling, clean, confirm, facts, moment, table
from posthouse.cli.connection import path_of
from posthouse.problems import problem

PURPOSES = ("sending", "receiving", "notices")


@click.group()
def token() -> None:
    """Tokens: their state, and handing one to a program that takes a bearer."""


_of_setting = click.option("--for", "purpose", type=click.Choice(PURPOSES), required=True, help="Which setting.")
purpose_option = click.option(
    "--for",
    "purpose",
    type=click.Choice(PURPOSES),
    help="Whose token: that of these settings. Left out: the one that settings share.",
)


@token.command("list", epilog="Example:  posthouse token list --json")
@calling()
def list_(call: Call) -> None:
    """All tokens."""
    from posthouse.cli.wording import token_words

    def tell(found: list[dict[str, Any]]) -> None:
        table(
            ("ACCOUNT", "APP", "STATE", "ENDS", "USED BY"),
            ((one["account"], one["app"], token_words(one), _ends(one), _users(one)) for one in found),
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
@purpose_option
@calling()
def status(call: Call, address: str, purpose: str | None) -> int:
    """State, reason, who signed in, next step. Ends with 1 unless it is acquired."""
    found = _token_of(call, address, purpose)
    call.show(found, lambda one: _tell(address, purpose, one))
    return 0 if found["state"] == "acquired" else 1


def _users(one: dict[str, Any]) -> str:
    from posthouse.cli.wording import users_words

    return users_words(one)


def _tell(address: str, purpose: str | None, one: dict[str, Any]) -> None:
    from posthouse.cli.wording import endings_words, step_words, token_words, waiting_words

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
            "used by": _users(one),
            "waited for by": waiting_words(one),
            "not yet revoked": _given_back(one["giving_back"]),
            "next step": step_words(one["next_step"], address, purpose),
        }
    )
    if one["state"] == "acquired" and not one["refreshable"]:
        click.echo("The provider gave no refresh token: this token ends when its access does.")


def _given_back(held: dict[str, Any] | None) -> str:
    """What was deleted here and lives on at the provider."""
    if held is None:
        return ""
    answer = f" The last answer: {clean(held['answer'], 900)}" if held["answer"] else ""
    return f"what was deleted {moment(held['since'])}; tried again {moment(held['next_attempt_at'])}.{answer}"


def _token_of(call: Call, address: str, purpose: str | None) -> dict[str, Any]:
    """The token that a setting uses, else the one that settings share, else the first. Raises ProblemError."""
    known = call.api.get(path_of("mailboxes", address))
    found: list[dict[str, Any]] = known["tokens"]
    if purpose is not None:
        found = [one for one in found if _has(one, known["address"], purpose)]
    if found:
        return found[0]
    if purpose and known["tokens"]:
        raise problem("token.unused", f"{address} is not used for {purpose}.", status=64)
    raise problem("token.none", f"{address} has a password and no token.", status=64)


def _has(one: dict[str, Any], address: str, purpose: str) -> bool:
    return {"mailbox": address, "for": purpose} in [
        {key: user[key] for key in ("mailbox", "for")} for user in one["used_by"]
    ]


@token.command(epilog="Example:  posthouse token delete support@example.com")
@click.argument("address")
@purpose_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--confirm", "number", type=int, help="How many settings use it, where there are several.")
@calling()
def delete(call: Call, address: str, purpose: str | None, yes: bool, number: int | None) -> None:
    """Forget a token, and revoke it at the provider where that is possible. Mail waits until there is a new one."""
    found = _token_of(call, address, purpose)
    users = found["used_by"]
    if number is None:
        confirm(f"Delete the token of {found['account']}, used by {_users(found) or 'nothing'}?", yes=yes)
    sure = number if number is not None or yes else len(users)
    deleted = call.api.delete(path_of("tokens", found["id"]), confirm=sure)
    call.show(deleted, _tell_deleted)


def _tell_deleted(deleted: dict[str, Any]) -> None:
    words = {
        "nothing": "Deleted here. There was nothing to revoke at the provider.",
        "revoked": "Deleted, and revoked at the provider.",
        "kept": "Deleted here. Not revoked: another consent of the same person is in use and would end with it.",
        "impossible": "Deleted here. The provider cannot revoke it on request.",
        "waiting": "Deleted here. Not yet revoked at the provider: that is tried again by itself.",
    }
    click.echo(words.get(deleted["at_provider"], "Deleted here."))
    if deleted["answer"]:
        click.echo(clean(deleted["answer"], 900))
    if deleted["at_provider"] == "impossible":
        click.echo(f"To end it there, remove the app's permission {_where(deleted['page'])}.")


def _where(page: str) -> str:
    return f"at {clean(page)}" if page else "on the page of the account at the provider"


@token.command(epilog="Example:  posthouse token own alarm@example.com --for notices")
@click.argument("address")
@_of_setting
@click.option("--yes", is_flag=True, help="Do not ask.")
@calling()
def own(call: Call, address: str, purpose: str, yes: bool) -> None:
    """Give a setting a token of its own. What it shares goes on serving it until its own has proved itself."""
    confirm(f"Give {purpose} of {address} a token of its own?", yes=yes)
    _choose(call, address, purpose, "own")


@token.command(epilog="Example:  posthouse token share support@example.com --for receiving")
@click.argument("address")
@_of_setting
@click.option("--yes", is_flag=True, help="Do not ask.")
@calling()
def share(call: Call, address: str, purpose: str, yes: bool) -> None:
    """Let a setting share its mailbox's token again. Its own goes on serving it until the other has proved itself."""
    confirm(f"Let {purpose} of {address} share the mailbox's token again?", yes=yes)
    _choose(call, address, purpose, "shared")


def _choose(call: Call, address: str, purpose: str, share: str) -> None:
    from posthouse.cli.wording import authorise_command

    body = {"for": purpose, "token": share}
    found = call.api.post(path_of("mailboxes", address, "tokens"), body)

    def tell(answer: dict[str, Any]) -> None:
        waiting = [user for one in answer["items"] for user in one["waiting"] if user["for"] == purpose]
        for user in waiting:
            click.echo(f"It goes on as it is. {clean(user['refused'], 500)}".rstrip())
            click.echo(f"Get the token: {authorise_command(address, purpose)}")
        if not waiting:
            click.echo("Done: " + ("it has a token of its own." if share == "own" else "it shares the token."))

    call.show(found, tell)


@token.command(epilog="Example:  posthouse token back support@example.com")
@click.argument("address")
@purpose_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@calling()
def back(call: Call, address: str, purpose: str | None, yes: bool) -> None:
    """Undo the last switch or re-authorisation, for a week and where what served before still lives."""
    confirm(f"Let {address} go back to what served before?", yes=yes)
    gone = call.api.post(path_of("mailboxes", address, "back"), {"for": purpose} if purpose else None)
    words = {
        "password": "the password",
        "account": f"the token of {gone['who']}",
        "own": f"the own token of {purpose}",
        "shared": "the shared token",
    }
    again = words.get(gone["kind"], f"the earlier consent of {gone['who']}")
    call.show(gone, lambda _: click.echo(f"Back: {clean(again)} serves again."))


@token.command("print", epilog='Example:  curl --oauth2-bearer "$(posthouse token print me@example.com)" …')
@click.argument("address")
@purpose_option
@click.option("--as", "form", type=click.Choice(("bearer", "xoauth2", "oauthbearer")), default="bearer")
@click.option(
    "--keep", type=click.Path(dir_okay=False, path_type=Path), help="Keep FILE up to date with it, until you end this."
)
@calling()
def print_(call: Call, address: str, purpose: str | None, form: str, keep: Path | None) -> int:
    """An access token that is good for at least another minute. Never waits for a person: ends with 1 instead.

    With --keep it is written to FILE, which only you can read, and again whenever there is a new one.
    """
    path, query = path_of("control", "token", address), {"as": form, "for": purpose}
    if keep is not None:
        from posthouse.cli.keeping import keep_up

        return keep_up(keep, lambda: call.api.get(path, **query), call.api.pause)
    found = call.api.get(path, **query)
    call.show(found, lambda one: click.echo(one["text"]))
    return 0
