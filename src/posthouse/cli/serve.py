"""`posthouse serve`: the gateway, until it is told to stop."""

import contextlib
import gc
import os
import sys
from pathlib import Path

import click

from posthouse.cli.options import common
from posthouse.cli.running import configure_log, run, stop_on_signals
from posthouse.settings import Settings, read_settings

YOUNG = 5000
"""New objects after which garbage is looked for; Python's own 700 are less than one conversation makes."""


@click.command(epilog="Example:  posthouse serve --config /etc/posthouse/posthouse.toml")
@common
def serve(config: Path | None, debug: bool) -> int:
    """The gateway: listeners, queue, tokens, page and API. Ctrl-C or SIGTERM stops it gently."""
    settings = read_settings(config, os.environ)
    configure_log(settings.log_level, debug=debug)
    return run(_serve(settings))


async def _serve(settings: Settings) -> int:
    from posthouse.app import open_gateway
    from posthouse.services.entrance import nobody_yet, sign_in_link
    from posthouse.store.database import CommitUnknown, DatabaseUnavailable

    stop = stop_on_signals()
    gateway = await open_gateway(settings, create=True)
    try:
        await gateway.start_listeners()
        await gateway.start_background()
        await gateway.start_web()
        _settle()
        with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
            if await nobody_yet(gateway.parts.store):
                link = await sign_in_link(gateway.parts.store, gateway.parts.clock, settings.external_url)
                _tell_once(f"Sign in to the page, once, within 15 minutes:\n{link.reveal()}")
        await stop.wait()
    finally:
        await gateway.close()
    return 0


def _settle() -> None:
    """What was loaded stays to the end: looking for garbage in it again and again cost 4 % of all work."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def _tell_once(text: str) -> None:
    """To the terminal, never to a log: whoever reads the link is administrator."""
    if sys.stdout.isatty():
        click.echo(text)
        return
    try:
        with Path("/dev/tty").open("w") as terminal:
            terminal.write(f"{text}\n")
    except OSError:
        click.echo("Get a sign-in link for the page with: posthouse admin link", err=True)
