"""Options that every command takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config FILE and --debug."""
    config = click.option(
        "--config", type=click.Path(path_type=Path, dir_okay=False), help="Configuration file instead of the usual one."
    )
    debug = click.option("--debug", is_flag=True, help="More words in the log, and a traceback when it fails.")
    return config(debug(command))
