"""`posthouse apply`: providers, app registrations, mailboxes and devices from a file."""

import os
from pathlib import Path
from typing import Any

import click

from posthouse.cli.calling import Call, calling


@click.command(epilog="Example:  posthouse apply mail.toml --dry-run")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Remove what an earlier apply of this file made and it no longer names.")
@click.option("--move-to", metavar="ADDRESS", default="", help="Where queued mail of a removed mailbox goes.")
@click.option("--discard", metavar="N", type=int, default=0, help="Throw away so many queued messages.")
@calling(create=True)
def apply(call: Call, file: Path, dry_run: bool, prune: bool, move_to: str, discard: int) -> None:
    """Make everything as FILE says, in one step; nothing changes where it has a mistake.

    Secrets named by { env = … } or { file = … } are read here, by this command.
    """
    from posthouse.services.apply_file import encode, read_wanted

    wanted = encode(read_wanted(file, os.environ))
    query = {"dry_run": dry_run, "prune": prune, "move_to": move_to, "discard": discard or None}
    report = call.api.post_octets("/control/apply", wanted, **query)
    call.show(report, _tell)


def _tell(report: dict[str, Any]) -> None:
    for line in report["lines"]:
        click.echo(line)
    for name, password in report["passwords"].items():
        click.echo(f"password of device {name}, shown this once: {password}")
