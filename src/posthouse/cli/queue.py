"""`posthouse queue`: mail that waits, was sent or has failed."""

from typing import Any

import click

from posthouse.cli.calling import Call, calling, clean, confirm, facts, moment, table
from posthouse.cli.connection import path_of


@click.group()
def queue() -> None:
    """The queue: see, try again, remove."""


@queue.command("list", epilog="Example:  posthouse queue list --state failed")
@click.option("--state", type=click.Choice(("queued", "parked", "sent", "failed")), help="Only these.")
@click.option("--mailbox", help="Only of this mailbox (address or id).")
@click.option("--device", help="Only what this device handed in.")
@click.option("--search", metavar="TEXT", help="Part of subject, sender or recipients; or an id, or a Message-ID.")
@click.option("--all", "everything", is_flag=True, help="Also what was sent.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@calling()
def list_(call: Call, everything: bool, limit: int, **wanted: Any) -> None:
    """What waits or has failed, newest first."""
    everything = everything or bool(wanted["state"])
    found = call.api.every("/messages", **wanted)
    shown = (one for one in found if everything or one["state"] != "sent")
    chosen = [one for one, _ in zip(shown, range(limit), strict=False)]
    call.show(chosen, _list)


def _list(found: list[dict[str, Any]]) -> None:
    table(
        ("ID", "STATE", "FROM", "TO", "SUBJECT", "SINCE", "WHY"),
        (
            (
                one["id"],
                one["stage"] or one["state"],
                clean(one["sender"], 60),
                _to(one["recipients"]),
                clean(one["subject"], 40),
                moment(one["created_at"]),
                clean(one["cause"] or one["answer"], 120),
            )
            for one in found
        ),
        empty="Nothing waits and nothing has failed.",
    )


def _to(recipients: list[dict[str, Any]]) -> str:
    more = f" and {len(recipients) - 1} more" if len(recipients) > 1 else ""
    return clean(recipients[0]["address"], 60) + more if recipients else ""


@queue.command(epilog="Example:  posthouse queue show 01kd3v7t2x9qh5wc8m4n")
@click.argument("id")
@calling()
def show(call: Call, id: str) -> None:
    """One message: its recipients with the server's last word, and its journal."""
    found = call.api.get(path_of("messages", id))
    journal = call.api.get("/journal", message=id)["items"]
    call.show({**found, "journal": journal}, _show)


def _show(one: dict[str, Any]) -> None:
    from posthouse.cli.journal import tell

    facts(
        {
            "id": one["id"],
            "state": one["state"],
            "from": clean(one["sender"]),
            "subject": clean(one["subject"]),
            "message-id": clean(one["message_id"]),
            "handed in by": one["device"],
            "size": one["size"],
            "accepted": moment(one["created_at"]),
            "next attempt": moment(one["next_at"]) if one["state"] == "queued" else "",
            "attempts": one["attempts"],
            "why": clean(one["cause"], 500),
        }
    )
    for recipient in one["recipients"]:
        click.echo(f"to {clean(recipient['address'])}: {recipient['state']} {clean(recipient['answer'], 500)}".rstrip())
    tell(one["journal"])


def _each(call: Call, ids: tuple[str, ...], verb: str, done: str) -> None:
    changed = [call.api.post(path_of("messages", id, verb)) for id in ids]
    call.show(changed, lambda _: click.echo("\n".join(f"{id} {done}" for id in ids)))


@queue.command(epilog="Example:  posthouse queue retry 01kd3v7t2x9qh5wc8m4n")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@calling()
def retry(call: Call, ids: tuple[str, ...]) -> None:
    """Try again now, also what had failed."""
    _each(call, ids, "retry", "is tried again.")


@queue.command(epilog="Example:  posthouse queue park 01kd3v7t2x9qh5wc8m4n")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@calling()
def park(call: Call, ids: tuple[str, ...]) -> None:
    """Keep mail back until it is released. (Mail is parked by itself while there is no token.)"""
    _each(call, ids, "park", "is parked.")


@queue.command(epilog="Example:  posthouse queue release 01kd3v7t2x9qh5wc8m4n")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@calling()
def release(call: Call, ids: tuple[str, ...]) -> None:
    """Let parked mail go on. It is parked again while there is no token."""
    _each(call, ids, "release", "is released.")


@queue.command(epilog="Example:  posthouse queue remove 01kd3v7t2x9qh5wc8m4n")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--yes", is_flag=True, help="Do not ask.")
@calling()
def remove(call: Call, ids: tuple[str, ...], yes: bool) -> None:
    """Throw messages away. This cannot be undone."""
    confirm(f"Throw away {len(ids)} message{'s' * (len(ids) > 1)} for good?", yes=yes)
    for id in ids:
        call.api.delete(path_of("messages", id))
    call.show({"removed": list(ids)}, lambda _: click.echo(f"Removed: {', '.join(ids)}"))
