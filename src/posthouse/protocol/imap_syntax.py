"""How IMAP writes its values, for both sides (RFC 3501 section 9): words, literals, sets of numbers, names, dates.

A line with literals is a list of pieces: text, literal, text, literal, text and so on; the `{n}` before a literal is
already taken off. Reading the pieces off the wire, and their limits, belong to the engines.
"""

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import TypeAlias

Value: TypeAlias = "str | bytes | tuple[Value, ...]"
"""An atom is a str, a string (quoted or literal) is bytes, a list is a tuple. NIL is the atom "NIL"."""

DEPTH = 32
"""How deep lists may lie in one another."""

LITERAL_HEAD = re.compile(rb"~?\{([0-9]{1,10})(\+?)\}\Z")
"""The end of a line that a literal follows: its octets, and whether it is sent without being asked for."""

_TOKEN = re.compile(
    rb"""[ \t]*(?:
        (?P<bracket>[()])
      | "(?P<quoted>[^"\\]*(?:\\.[^"\\]*)*)"
      | (?P<atom>(?:BODY|BINARY)(?:\.PEEK|\.SIZE)?\[[^\]]*\](?:<[0-9.]*>)? | [^\x00-\x20()"\x7f]+)
    )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_QUOTABLE = re.compile(rb"[\x20-\x7e]{0,1000}")
_RUN = re.compile("[^\x20-\x7e]+|&")
_SHIFTED = re.compile("&([^-]*)-")
_NUMBER = re.compile("[0-9]{1,20}")
_DATE_TIME = re.compile(
    r" ?([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"
)
_DATE = re.compile(r"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Malformed(Exception):
    """The peer's line cannot be read. The text is a fixed sentence."""


class Literal(bytes):
    """Octets to be sent as a literal."""


# Words


def read_values(pieces: Sequence[bytes], depth: int = DEPTH) -> tuple[Value, ...]:
    """The values of a line. Raises Malformed."""
    stack: list[list[Value]] = [[]]
    for index, piece in enumerate(pieces):
        if index % 2:
            stack[-1].append(piece)
        else:
            _read_text(piece.rstrip(), stack, depth)
    if len(stack) > 1:
        raise Malformed("a list is not closed")
    return tuple(stack[0])


def _read_text(text: bytes, stack: list[list[Value]], depth: int) -> None:
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise Malformed("a word has characters that do not belong there")
        position = token.end()
        if token["atom"] is not None:
            stack[-1].append(token["atom"].decode(errors="replace"))
        elif token["quoted"] is not None:
            stack[-1].append(_ESCAPED.sub(rb"\1", token["quoted"]))
        elif token["bracket"] == b"(":
            _open(stack, depth)
        else:
            _close(stack)


def _open(stack: list[list[Value]], depth: int) -> None:
    if len(stack) > depth:
        raise Malformed("lists lie too deep in one another")
    stack.append([])


def _close(stack: list[list[Value]]) -> None:
    if len(stack) == 1:
        raise Malformed("a list is closed that was not opened")
    finished = tuple(stack.pop())
    stack[-1].append(finished)


def text_of(value: Value) -> str:
    """An atom or a string as text. Raises Malformed for a list."""
    if isinstance(value, tuple):
        raise Malformed("a list stands where a word is wanted")
    return value if isinstance(value, str) else value.decode(errors="replace")


def octets_of(value: Value) -> bytes | None:
    """An atom or a string as octets, None for NIL. Raises Malformed for a list."""
    if isinstance(value, bytes):
        return value
    text = text_of(value)
    return None if text.upper() == "NIL" else text.encode()


def list_of(value: Value) -> tuple[Value, ...]:
    """Raises Malformed for what is no list."""
    if not isinstance(value, tuple):
        raise Malformed("a list is wanted")
    return value


def number_of(value: Value) -> int:
    """A number of at most 20 digits. Raises Malformed."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise Malformed("a number is wanted")
    return int(value)


def quoted(data: bytes) -> bytes:
    """A quoted string; `data` must be printable ASCII."""
    return b'"' + data.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def string(text: str) -> bytes:
    """A quoted string or a `Literal`, whichever can carry `text`. Raises ValueError for NUL."""
    data = text.encode()
    if b"\0" in data:
        raise ValueError("NUL cannot be sent")
    return quoted(data) if _QUOTABLE.fullmatch(data) else Literal(data)


def nstring(data: bytes | None) -> bytes:
    """A string as a server writes it: NIL, quoted, or a literal with its head."""
    if data is None:
        return b"NIL"
    return quoted(data) if _QUOTABLE.fullmatch(data) else b"{%d}\r\n%b" % (len(data), data)


# Names of folders (modified UTF-7, RFC 3501 section 5.1.3)


def encode_name(name: str) -> str:
    """ASCII for the wire. Raises ValueError for lone surrogates."""
    return _RUN.sub(lambda run: _shifted(run[0]), name)


def _shifted(run: str) -> str:
    if run == "&":
        return "&-"
    packed = base64.b64encode(run.encode("utf-16-be")).decode()
    return f"&{packed.rstrip('=').replace('/', ',')}-"


def decode_name(name: str) -> str:
    """The name for people; what is not encoded properly is shown as it came."""
    try:
        return _SHIFTED.sub(lambda shifted: _unshifted(shifted[1]), name)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return name


def _unshifted(packed: str) -> str:
    if not packed:
        return "&"
    octets = packed.replace(",", "/") + "=" * (-len(packed) % 4)
    return base64.b64decode(octets, validate=True).decode("utf-16-be")


# Sets of numbers


@dataclass(frozen=True, slots=True)
class NumberSet:
    """Numbers as ordered ranges that do not touch; both ends belong to them."""

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.ranges, number, key=lambda ends: ends[0]) - 1
        return at >= 0 and number <= self.ranges[at][1]


def read_set(value: Value, highest: int) -> NumberSet:
    """A set such as `1:3,7,9:*`; `*` stands for `highest`. Raises Malformed."""
    if not isinstance(value, str):
        raise Malformed("a set of numbers is wanted")
    return NumberSet(tuple(_merged(sorted(_range(part, highest) for part in value.split(",")))))


def _range(part: str, highest: int) -> tuple[int, int]:
    first, colon, last = part.partition(":")
    low = _end(first, highest)
    high = _end(last, highest) if colon else low
    return min(low, high), max(low, high)


def _end(text: str, highest: int) -> int:
    if text == "*":
        return highest
    number = number_of(text)
    if not 0 < number < 1 << 32:
        raise Malformed("a number is out of bounds")
    return number


def _merged(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for low, high in ranges:
        if current is not None and low <= current[1] + 1:
            current = current[0], max(current[1], high)
            continue
        if current is not None:
            yield current
        current = low, high
    if current is not None:
        yield current


def write_sets(numbers: Iterable[int], room: int = 4000) -> Iterator[str]:
    """Sets that together hold `numbers`, each of at most `room` octets so that a command line stays short."""
    line = ""
    for low, high in _merged((number, number) for number in sorted(set(numbers))):
        part = str(low) if low == high else f"{low}:{high}"
        if line and len(line) + 1 + len(part) > room:
            yield line
            line = ""
        line = f"{line},{part}" if line else part
    if line:
        yield line


# Dates


def read_date_time(text: str) -> datetime:
    """`17-Jul-1996 02:44:25 -0700`. Raises Malformed."""
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise Malformed("a date with time is wanted")
    day, month, year, hour, minute, second, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    try:
        moment = (int(year), _month(month), int(day), int(hour), int(minute), min(int(second), 59))
        return datetime(*moment, tzinfo=timezone(offset))
    except ValueError:
        raise Malformed("a date with time is wanted") from None


def write_date_time(moment: datetime) -> str:
    """`moment` must carry its time zone."""
    return f"{moment.day:02}-{_MONTHS[moment.month - 1]}-{moment.year:04} {moment:%H:%M:%S %z}"


def read_date(text: str) -> date:
    """`1-Feb-1994`. Raises Malformed."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise Malformed("a date is wanted")
    try:
        return date(int(match[3]), _month(match[2]), int(match[1]))
    except ValueError:
        raise Malformed("a date is wanted") from None


def _month(name: str) -> int:
    return _MONTHS.index(name.capitalize()) + 1
