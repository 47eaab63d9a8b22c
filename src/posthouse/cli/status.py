"""`posthouse status`: everything at a glance."""

from typing import Any

import click

from posthouse.cli.calling import Call, calling
from posthouse.cli.wording import step_for, tokens_words, warning_words

MOST_WARNINGS = 20
"""Lines about what ends soon."""


@click.command(epilog="Example:  posthouse status --json")
@calling()
def status(call: Call) -> int:
    """Tokens and queue at a glance, and what ends soon. Ends with 1 while somebody has to do something."""
    data = call.api.get("/status")
    trouble = data["trouble"]
    waiting = any(count for state, count in data["tokens"].items() if state != "acquired")
    call.show(data, _tell)
    if waiting and not call.as_json:
        click.echo("Somebody has to sign in. For which mailbox: posthouse mailbox list")
    return 1 if waiting or trouble else 0


def _tell(data: dict[str, Any]) -> None:
    click.echo(f"Posthouse {data['version']}, {data['database']} database, page {data['external_url']}")
    if data["trouble"]:
        click.echo(f"! {data['trouble']['detail']} {data['trouble']['hint']}")
    click.echo(f"mailboxes  {data['mailboxes']}")
    click.echo(f"tokens     {_counts(data['tokens'])}")
    click.echo(f"queue      {_counts(data['queue'])}")
    if data["notices"]:
        click.echo(f"notices    {data['notices']}, at {data['external_url']}/notices")
    for mailbox in data["attention"]:
        click.echo(f"! {mailbox['address']}: {tokens_words(mailbox)}. {step_for(mailbox)}")
    unnamed = data["attention_count"] - len(data["attention"])
    if unnamed > 0:
        click.echo(f"  and {unnamed} more that need a sign-in: posthouse mailbox list")
    for warning in data["warnings"][:MOST_WARNINGS]:
        click.echo(f"! {warning_words(warning)}")
    more = len(data["warnings"]) - MOST_WARNINGS
    if more > 0:
        click.echo(f"  and {more} more that end soon: posthouse status --json")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
