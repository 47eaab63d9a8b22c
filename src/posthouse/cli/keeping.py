"""`token print --keep FILE`: a file that always holds an access token with some life in it."""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from posthouse.problems import TEMPORARY, ProblemError, problem

SELDOM, OFTEN = 15.0, 0.5
"""Seconds between two looks, at most and at least."""


def keep_up(path: Path, ask: Callable[[], dict[str, Any]], pause: Callable[[float], None]) -> int:
    """Write what `ask` answers to `path` whenever it is new, until this process is told to end.

    What waiting may mend is said once and waited for. Raises ProblemError where a person is needed, or `path` cannot
    be written.
    """
    former = signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            _go_on(path, ask, pause)
        finally:
            signal.signal(signal.SIGTERM, former)
    return 0


def _end(*_: object) -> None:
    raise KeyboardInterrupt


def _go_on(path: Path, ask: Callable[[], dict[str, Any]], pause: Callable[[float], None]) -> None:
    written, said = "", ""
    while True:
        wait = SELDOM
        try:
            found = ask()
            if found["text"] != written:
                written = found["text"]
                write(path, written)
            wait, said = _until_next(found["expires_at"] - time.time()), ""
        except ProblemError as trouble:
            if trouble.status != TEMPORARY:
                raise
            said = _say(str(trouble), said)
        pause(wait)


def _until_next(life: float) -> float:
    """A token is handed out with at least half of its life or a minute: look again well before that is over."""
    return min(SELDOM, max(OFTEN, life / 4))


def _say(trouble: str, said: str) -> str:
    if trouble != said:
        click.echo(trouble, err=True)
    return trouble


def write(path: Path, text: str) -> None:
    """Readers find the former text or this one, never half of it, and nobody else can read it. Raises ProblemError."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(f"{text}\n")
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as cause:
        raise problem("file.unwritable", f"{path} cannot be written: {cause.strerror}.", status=64) from None
