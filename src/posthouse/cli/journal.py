"""`posthouse journal`: one line for each thing that happened to a message."""

from typing import Any

import click

from posthouse.cli.calling import Call, calling, clean, moment

TOLD = ("answer", "cause")


@click.command(epilog="Example:  posthouse journal --message-id '<20270101.4711@example.com>'")
@click.option("--message-id", help="All about one message: its Message-ID, or its id in the queue.")
@click.option("--mailbox", help="Only of this mailbox (address or id).")
@click.option("--device", help="Only of what this device handed in.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many lines, the newest."
)
@calling()
def journal(call: Call, message_id: str | None, mailbox: str | None, device: str | None, limit: int) -> None:
    """What happened, oldest first."""
    if message_id:
        found = call.api.get("/journal", message=message_id)["items"]
    else:
        found = list(call.api.every("/journal", at_most=limit, mailbox=mailbox, device=device))[::-1]
    call.show(found, tell)


def tell(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        words = " ".join(clean(str(line["detail"][key]), 300) for key in TOLD if line["detail"].get(key))
        click.echo(f"{moment(line['at'])}  {line['message']}  {line['kind']}  {words}".rstrip())
