"""The header of a message on its way out: completed where devices are careless, and in the right sender's name."""

import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime, formataddr, parseaddr

HEADER_LIMIT = 256 * 1024
"""Octets of header that a message may have."""

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[ \t]*(.*)", re.DOTALL)
_FOLD = re.compile(rb"\r\n[ \t]+")
_END = b"\r\n\r\n"


class BadHeader(Exception):
    """The text says, in words for a device's display, what is wrong."""


@dataclass(frozen=True, slots=True)
class SenderChange:
    """The sender that goes into From; the one that stood there is kept in Reply-To."""

    address: str
    name: str


@dataclass(frozen=True, slots=True)
class Head:
    """`octets` ends with the empty line. `sender` is the address in From as the device gave it, or empty."""

    octets: bytes
    message_id: str
    subject: str
    sender: str


def split(data: bytes | bytearray) -> int:
    """Where the body begins: behind the first empty line, or -1 while that has not been seen."""
    if data.startswith(b"\r\n"):
        return 2
    end = data.find(_END)
    return end + len(_END) if end >= 0 else -1


def complete(head: bytes, *, received: str, new_message_id: str, now: datetime, change: SenderChange | None) -> Head:
    """The header with Received in front, Date and Message-ID where missing, and the sender changed if so wished.

    Raises BadHeader where the lines are not a header at all.
    """
    fields = _fields(head)
    first = dict(reversed(fields))
    given = parseaddr(_text(first.get(b"from", b"")))[1]
    message_id = _text(first.get(b"message-id", b"")) or new_message_id
    added = [f"Received: {received}"]
    if b"date" not in first:
        added.append(f"Date: {format_datetime(now)}")
    if b"message-id" not in first:
        added.append(f"Message-ID: {message_id}")
    lines = head[: len(head) - 2]
    if change is not None or b"from" not in first:
        lines, more = _in_the_name_of(lines, first, change, given)
        added += more
    octets = "".join(f"{line}\r\n" for line in added).encode() + lines + b"\r\n"
    return Head(octets, message_id[:998], _text(first.get(b"subject", b""))[:300], given)


def _in_the_name_of(
    lines: bytes, first: dict[bytes, bytes], change: SenderChange | None, given: str
) -> tuple[bytes, list[str]]:
    if change is None:
        raise BadHeader("The message has no From")
    name = change.name or parseaddr(_text(first.get(b"from", b"")))[0]
    if given.casefold() == change.address.casefold() and not change.name:
        return lines, []
    added = [f"From: {formataddr((name, change.address), charset='utf-8')}"]
    if given and b"reply-to" not in first and given.casefold() != change.address.casefold():
        added.append(f"Reply-To: {given}")
    return _without(lines, {b"from", b"sender"}), added


def _without(lines: bytes, names: set[bytes]) -> bytes:
    kept, dropping = [], False
    for line in lines.splitlines(keepends=True):
        if line[:1] not in (b" ", b"\t"):
            dropping = line.partition(b":")[0].strip().lower() in names
        if not dropping:
            kept.append(line)
    return b"".join(kept)


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    for line in _FOLD.sub(b" ", head).split(b"\r\n"):
        if not line:
            continue
        match = _FIELD.match(line)
        if match is None:
            raise BadHeader("The message does not begin with a header")
        found.append((match[1].lower(), match[2]))
    return found


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip().replace("\x00", "")
