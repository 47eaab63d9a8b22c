"""`posthouse mailbox`: what sends and receives, and how it stands."""

from typing import Any

import click

from posthouse.cli.calling import Call, calling, clean, facts, moment, table
from posthouse.cli.connection import path_of
from posthouse.cli.editing import add_verbs
from posthouse.cli.wording import endings_words, step_for, tokens_words, waiting_words

_DOUBTS = {
    "unproved": "the sender address differs from {account}, who signs in, and the provider has not taken it yet. "
    "See that the account may send as it.",
    "refused": "the provider refuses the sender address. Let {account} send as it at the provider, or change it.",
}


@click.group()
def mailbox() -> None:
    """Mailboxes, with the state of their tokens."""


@mailbox.command("list", epilog="Example:  posthouse mailbox list")
@calling()
def list_(call: Call) -> None:
    """All mailboxes: provider, direction, token, last success, next step."""
    call.show(list(call.api.every("/mailboxes")), _list)


def _list(found: list[dict[str, Any]]) -> None:
    table(
        ("ADDRESS", "PROVIDER", "DIRECTION", "TOKEN", "LAST SUCCESS", "NEXT STEP"),
        (
            (
                one["address"] + (" *" if one["default"] else ""),
                one["provider_title"] or "password",
                one["direction"],
                tokens_words(one),
                moment(one["last_success"]) or "never",
                step_for(one),
            )
            for one in found
        ),
        empty="There is no mailbox yet. Make one with: posthouse mailbox add ADDRESS, or posthouse apply FILE.toml",
    )


@mailbox.command(epilog="Example:  posthouse mailbox show support@example.com")
@click.argument("address")
@calling()
def show(call: Call, address: str) -> None:
    """One mailbox, its servers and how they last answered."""
    call.show(call.api.get(path_of("mailboxes", address)), _show)


def _show(one: dict[str, Any]) -> None:
    facts(
        {
            "address": one["address"],
            "signs in as": one["account"],
            "provider": one["provider_title"],
            "app": one["app"],
            "direction": one["direction"],
            "default": "yes" if one["default"] else "",
            "from": one["origin"],
            "token": tokens_words(one),
            "detail": clean((one["token"] or {}).get("detail", ""), 500),
            "waits for": "; ".join(filter(None, map(waiting_words, one["tokens"]))),
            "ends": endings_words(one["token"]),
            "next step": step_for(one),
            "last success": moment(one["last_success"]) or "never",
            "queue": ", ".join(f"{count} {state}" for state, count in one["queue"].items()),
        }
    )
    for server in one["servers"]:
        click.echo(_server(server))
    for sender in one["senders"]:
        click.echo(f"sender {sender['address']}: {sender['state']}, {_last_words(sender)}")
    if doubt := _DOUBTS.get(one["sender_doubt"]):
        click.echo(f"Warning: {doubt.format(account=one['account'])}")


def _last_words(sender: dict[str, Any]) -> str:
    since = moment(sender["since"])
    return f"{since}: {clean(sender['answer'], 400)}" if sender["answer"] else f"since {since}"


def _server(server: dict[str, Any]) -> str:
    said = clean(f"{server['answer']} {server['cause']}", 400)
    line = f"{server['protocol']}: {server['server'] or 'no server'} as {server['user']}: {server['state']}"
    return f"{line}, {said}" if said and server["state"] != "proved" else line


add_verbs(mailbox, "mailbox")
