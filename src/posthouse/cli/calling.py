"""What every command over the API has in common: its options, the connection, and how things are shown."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from posthouse.cli.connection import Api, SocketApi, answers, connect
from posthouse.cli.options import common


@dataclass(frozen=True, slots=True)
class Call:
    """The API, and whether people or programs read the answer."""

    api: Api
    as_json: bool

    def show(self, data: Any, people: Callable[[Any], None]) -> None:
        """As JSON where that was asked for, else as `people` puts it."""
        show(data, people, as_json=self.as_json)


def show(data: Any, people: Callable[[Any], None], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        people(data)


def calling(*, create: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a command --config, --debug and --json, and a `Call` as its first argument."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @common
        @click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API answers it.")
        @functools.wraps(command)
        def run(config: Path | None, debug: bool, as_json: bool, **words: Any) -> Any:
            with reached(config, create=create, debug=debug) as api:
                return command(Call(api, as_json), **words)

        return run

    return decorate


@contextlib.contextmanager
def reached(config: Path | None, *, create: bool = False, debug: bool = False, submit: bool = False) -> Iterator[Api]:
    """The API as the configuration says where it is; with `submit`, by the socket for handing in, where there is one.

    Raises ProblemError.
    """
    from posthouse.settings import read_settings

    settings = read_settings(config, os.environ)
    if submit and settings.submit is not None and answers(settings.submit):
        yield SocketApi(settings.submit)
        return
    with connect(settings, create=create, debug=debug) as api:
        yield api


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Columns: drawn on a terminal, plain text with two blanks between them elsewhere."""
    lines = [[str(cell) for cell in row] for row in rows]
    if not lines:
        click.echo(empty)
    elif sys.stdout.isatty():
        _draw(head, lines)
    else:
        _align(head, lines)


def _draw(head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in head:
        drawn.add_column(name, overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(cell) for cell in line))
    Console().print(drawn)


def _align(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *lines)) for column in range(len(head))]
    for row in (head, *lines):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def facts(pairs: Mapping[str, Any]) -> None:
    """One thing with its properties, empty ones left out."""
    known = {name: str(value) for name, value in pairs.items() if value not in (None, "", [], {})}
    width = max((len(name) for name in known), default=0)
    for name, value in known.items():
        click.echo(f"{name.ljust(width)}  {value}")


def moment(text: str | None) -> str:
    """A time of the API as the clock on the wall shows it."""
    if not text:
        return ""
    from datetime import datetime

    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clean(text: str, most: int = 200) -> str:
    """Text from outside on one line, without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:most].strip()


def confirm(question: str, *, yes: bool, otherwise: str = "Say --yes if you are sure.") -> None:
    """Ask on a terminal. Raises Abort for a no, UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"Nobody can be asked here. {otherwise}")
    click.confirm(question, abort=True, err=True)
