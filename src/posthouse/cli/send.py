"""`posthouse send`: hand a message in as with sendmail, for cron, scripts and programs that know only that."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from posthouse.cli.calling import reached
from posthouse.cli.connection import Api, SocketApi, answers
from posthouse.cli.options import common
from posthouse.problems import problem

LARGEST = 40 * 1024 * 1024
WRONG_DATA = 65


@click.command(epilog="Example:  posthouse send bob@example.com < message.txt")
@click.argument("recipients", nargs=-1)
@click.option("-t", "from_header", is_flag=True, help="Recipients from To, Cc and Bcc.")
@click.option("-i", "whole", is_flag=True, help="A line with a single dot does not end the message (as -oi).")
@click.option("-f", "-r", "sender", default="", help="Envelope sender, where the mailbox may send as it.")
@click.option("-o", "options", multiple=True, help="-oi as -i; others change nothing.")
@click.option("--mailbox", default="", help="Which mailbox sends; left out: by the sender, else the default one.")
@click.option("--socket", type=click.Path(path_type=Path), help="Hand in by this socket; no configuration is read.")
@click.option("-F", "name", hidden=True)
@click.option("-b", "mode", hidden=True)
@click.option("-B", "-N", "-R", "-V", "-q", "-h", "-L", "ignored", multiple=True, hidden=True)
@click.option("-v", "-n", "-m", "-U", "-G", "silent", is_flag=True, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API answers it.")
@common
def send(
    config: Path | None,
    debug: bool,
    as_json: bool,
    socket: Path | None,
    recipients: tuple[str, ...],
    from_header: bool,
    whole: bool,
    sender: str,
    options: tuple[str, ...],
    mailbox: str,
    name: str | None,
    mode: str | None,
    ignored: tuple[str, ...],
    silent: bool,
) -> int:
    """Queue the message on standard input. Ends with 0 when it is on disk, 65 when it cannot be used, 75 for later."""
    if mode not in (None, "m"):
        raise problem("send.mode", f"-b{mode} is not something this can do.", status=64)
    if not recipients and not from_header:
        raise click.UsageError("Name recipients, or say -t to take them from the message.")
    text = _read(sys.stdin.buffer, whole=whole or "i" in options)
    to = _with_header(recipients, text) if from_header and recipients else recipients
    with _door(socket, config, debug=debug) as api:
        answer = api.hand_in(text, mailbox=mailbox, sender=sender, to=to)
    if answer.status >= 400:
        error = answer.error()
        error.status = WRONG_DATA if answer.status in (413, 422) else error.status
        raise error
    if as_json:
        click.echo(json.dumps(answer.data, indent=2, ensure_ascii=False))
    return 0


@contextmanager
def _door(socket: Path | None, config: Path | None, *, debug: bool) -> Iterator[Api]:
    """Raises ProblemError."""
    if socket is None:
        with reached(config, debug=debug, submit=True) as api:
            yield api
        return
    if not answers(socket):
        raise problem("send.no-gateway", f"No gateway listens at {socket}.", "Try again later.", status=75)
    yield SocketApi(socket)


def _read(source: BinaryIO, *, whole: bool) -> bytes:
    """Raises ProblemError for more than any message may have."""
    text = source.read(LARGEST + 1) if whole else b"".join(_until_dot(source))
    if len(text) > LARGEST:
        raise problem("message.too-large", "The message is too large.", status=WRONG_DATA)
    return text


def _until_dot(source: BinaryIO) -> Iterator[bytes]:
    size = 0
    for line in source:
        size += len(line)
        if line.rstrip(b"\r\n") == b"." or size > LARGEST:
            yield line if size > LARGEST else b""
            return
        yield line


def _with_header(recipients: tuple[str, ...], text: bytes) -> tuple[str, ...]:
    from posthouse.services.intake import recipients_in

    head = text.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    return tuple(dict.fromkeys((*recipients, *recipients_in(head))))
