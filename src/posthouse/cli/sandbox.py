"""`posthouse sandbox`: the provider in a box alone."""

import asyncio
import contextlib
from pathlib import Path

import click

from posthouse.cli.options import common
from posthouse.cli.running import run, stop_on_signals
from posthouse.problems import problem

limits_option = click.option(
    "--limits",
    type=click.Choice(["exchange"]),
    help="Be as strict as Exchange Online: 3 connections, 30 messages a minute, 500 recipients a message; "
    "XOAUTH2 only, and messages in chunks.",
)


@click.command(epilog="Example:  posthouse sandbox --directory ./box --limits exchange")
@common
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("posthouse-sandbox"),
    show_default=True,
    help="Where its certificate, its addresses (sandbox.json) and its control key lie.",
)
@click.option("--port", default=0, help="Port of its sign-in page; 0 lets the system choose.")
@limits_option
def sandbox(config: Path | None, debug: bool, directory: Path, port: int, limits: str | None) -> int:
    """A mail provider in a box: OAuth sign-in, SMTP, IMAP and POP3 on loopback, to try things out. It keeps no mail."""
    return run(_run(directory, port, limits))


async def _run(directory: Path, port: int, limits: str | None) -> int:
    from posthouse.sandbox.box import Sandbox, run
    from posthouse.sandbox.settings import STRICT, SandboxSettings

    def ready(box: Sandbox) -> None:
        for name, value in box.describe().items():
            if isinstance(value, str):
                click.echo(f"{name:16} {value}")
        click.echo("Ready. Ctrl-C stops it.")

    stop = stop_on_signals()
    settings = SandboxSettings(directory=directory, http_port=port, **(STRICT[limits] if limits else {}))
    work = asyncio.create_task(run(settings, ready))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await _started(work, directory, port)
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    stopped.cancel()
    return 0


async def _started(work: asyncio.Task[None], directory: Path, port: int) -> None:
    """Raises ProblemError where the sandbox could not be started."""
    try:
        await work
    except OSError as cause:
        where = f"in {directory}" if cause.filename else f"at port {port}"
        sentence = f"The sandbox cannot be started {where}: {cause.strerror or cause}."
        raise problem("sandbox.impossible", sentence, "Choose another --directory or --port.", status=64) from cause
