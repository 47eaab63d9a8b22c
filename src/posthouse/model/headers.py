"""The header of a message on its way out: completed where devices are careless, and in the right sender's name."""

import contextlib
import re
from datetime import datetime
from email.errors import MessageError
from email.header import decode_header, make_header
from email.utils import format_datetime, formataddr, parseaddr
from functools import lru_cache

from msgspec import Struct

HEADER_LIMIT = 256 * 1024
"""Octets of header that a message may have."""
FROM_LIMIT = 2000
"""Characters of From that are looked at."""

_FOLD = re.compile(rb"\r\n[ \t]+")
_END = b"\r\n\r\n"
_VALUE = rb"[^\r\n]*(?:\r\n[ \t][^\r\n]*)*"
_HEADER = re.compile(rb"(?:[!-9;-~]+[ \t]*:" + _VALUE + rb"\r\n)*(?:\r\n)?")
_KNOWN = re.compile(
    rb"^(from|sender|reply-to|date|message-id|subject)[ \t]*:(" + _VALUE + rb")\r\n", re.IGNORECASE | re.MULTILINE
)
_ADDRESS = r"([^\s<>()\[\]\\,:;\"@]+@[^\s<>()\[\]\\,:;\"@]+)"
_PLAIN = re.compile(rf'(?:"?([^"\\<>()@,:;\s]+(?: [^"\\<>()@,:;\s]+)*)?"?[ \t]*<{_ADDRESS}>)|{_ADDRESS}')
"""The two forms of From that nearly all mail has; the standard library reads the others, slowly."""
_ATOMS = re.compile(r"[\w!#$%&'*+/=?^`{|}~ -]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ONE_FIELD = re.compile(r"[!-9;-~]+:(?:[\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\U0010ffff]{0,997}\r\n(?=[ \t]|\Z))+")
"""Lines have at most 998 octets (RFC 5322 section 2.1.1)."""


def is_one_field(written: str) -> bool:
    """Whether a field as `email.policy` writes it is one field, without control characters, on lines that all take.

    It may be more: what stands in encoded words (RFC 2047) is decoded by the standard library, line ends too.
    """
    return _ONE_FIELD.fullmatch(written) is not None


def plain_words(value: str) -> str:
    """What a field says, for a line of text or another field: encoded words decoded once, and none left in it."""
    with contextlib.suppress(LookupError, ValueError, MessageError):
        value = str(make_header(decode_header(value)))
    return " ".join(_CONTROL.sub(" ", value).split()).replace("=?", "= ?")


class BadHeader(Exception):
    """The text says, in words for a device's display, what is wrong."""


class SenderChange(Struct, frozen=True):
    """The sender that goes into From; the one that stood there is kept in Reply-To."""

    address: str
    name: str


class Head(Struct, frozen=True):
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
    if _HEADER.fullmatch(head) is None:
        raise BadHeader("The message does not begin with a header")
    known = list(_KNOWN.finditer(head))
    first = {field[1].lower(): field[2] for field in reversed(known)}
    name, given = _name_and_address(_text(first.get(b"from", b"")))
    message_id = _text(first.get(b"message-id", b"")) or new_message_id
    added = [f"Received: {received}"]
    if b"date" not in first:
        added.append(f"Date: {date_text(now)}")
    if b"message-id" not in first:
        added.append(f"Message-ID: {message_id}")
    lines = head[: len(head) - 2]
    if change is None and b"from" not in first:
        raise BadHeader("The message has no From")
    if change is not None and (change.name or given.casefold() != change.address.casefold()):
        lines = _without(lines, [field for field in known if field[1].lower() in (b"from", b"sender")])
        added += _in_the_name_of(change, name, "" if b"reply-to" in first else given)
    octets = "".join(f"{line}\r\n" for line in added).encode() + lines + b"\r\n"
    return Head(octets, message_id[:998], _text(first.get(b"subject", b""))[:300], given)


def date_text(now: datetime) -> str:
    """As Date and Received have it."""
    return _date_text(now.replace(microsecond=0))


@lru_cache(maxsize=8)
def _date_text(second: datetime) -> str:
    return format_datetime(second)


def _in_the_name_of(change: SenderChange, name: str, reply_to: str) -> list[str]:
    added = [f"From: {_mailbox(change.name or name, change.address)}"]
    if reply_to and reply_to.casefold() != change.address.casefold():
        added.append(f"Reply-To: {reply_to}")
    return added


def _mailbox(name: str, address: str) -> str:
    if not name:
        return address
    written = name if _ATOMS.fullmatch(name) else formataddr((name, "@"), charset="utf-8").removesuffix(" <@>")
    return f"{written} <{address}>"


def _name_and_address(text: str) -> tuple[str, str]:
    if (plain := _PLAIN.fullmatch(text)) is not None:
        return plain[1] or "", plain[2] or plain[3]
    return parseaddr(text[:FROM_LIMIT])


def _without(lines: bytes, fields: list[re.Match[bytes]]) -> bytes:
    kept, end = [], 0
    for field in fields:
        kept.append(lines[end : field.start()])
        end = field.end()
    return b"".join((*kept, lines[end:]))


def _text(value: bytes) -> str:
    if b"\r\n" in value:
        value = _FOLD.sub(b" ", value)
    return value.decode("utf-8", "replace").strip().replace("\x00", "")
