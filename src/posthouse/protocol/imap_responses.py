"""What an IMAP server says, read into values (RFC 3501 section 7). `imap_client` gives them out as its events."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from posthouse.protocol.imap_syntax import (
    Malformed,
    Value,
    decode_name,
    list_of,
    number_of,
    octets_of,
    read_date_time,
    read_values,
    text_of,
)
from posthouse.protocol.reading import readable

_STATUS = re.compile(rb"(OK|NO|BAD|BYE|PREAUTH)(?: (.*))?\Z", re.IGNORECASE | re.DOTALL)
_TEXT = re.compile(r"(?:\[([^\] ]+)(?: ([^\]]*))?\] ?)?(.*)", re.DOTALL)
_COUNTED = re.compile(rb"([0-9]{1,10}) ([A-Za-z]+)(?: (.*))?\Z", re.DOTALL)


class Status(StrEnum):
    """How a command or a greeting ended."""

    OK = "OK"
    NO = "NO"
    BAD = "BAD"
    PREAUTH = "PREAUTH"
    BYE = "BYE"


@dataclass(frozen=True, slots=True)
class Condition:
    """A status with its words. `code` is the first word between brackets in capitals, `argument` what follows it."""

    status: Status
    text: str
    code: str = ""
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Greeting:
    """The server's first line: OK, PREAUTH (already signed in) or BYE (refuses to talk)."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Completed:
    """A command has ended. `challenge` is what the server said before it refused an AUTHENTICATE, mostly JSON."""

    command: str
    condition: Condition
    challenge: str = ""

    @property
    def ok(self) -> bool:
        return self.condition.status is Status.OK


@dataclass(frozen=True, slots=True)
class Notice:
    """An untagged OK, NO or BAD; where `code` is ALERT a person should see it."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Bye:
    """The server is about to close, for the reason it gives."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Capabilities:
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Exists:
    """How many messages the open folder has now."""

    count: int


@dataclass(frozen=True, slots=True)
class Expunged:
    """The message with this sequence number is gone; later ones moved down by one."""

    number: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the server told about one message; what it did not tell is None.

    `sections` holds the message data by item name in capitals, such as "BODY[]", "BODY[HEADER]", "BODY[]<0>";
    `other` holds what is not read further (ENVELOPE, BODYSTRUCTURE, MODSEQ …).
    """

    number: int
    uid: int | None = None
    flags: frozenset[str] | None = None
    internal_date: datetime | None = None
    size: int | None = None
    sections: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    other: Mapping[str, Value] = field(default_factory=dict, repr=False)

    @property
    def body(self) -> bytes | None:
        """The whole message, where BODY[] or RFC822 was asked for."""
        return self.sections.get("BODY[]", self.sections.get("RFC822"))


@dataclass(frozen=True, slots=True)
class Found:
    """Numbers that a SEARCH found: UIDs after UID SEARCH. A server may send several."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A folder. `delimiter` is empty where names have no hierarchy; `flags` are in lower case, such as "\\noselect"."""

    name: str
    delimiter: str
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """The answer to STATUS: MESSAGES, UIDNEXT, UIDVALIDITY, UNSEEN … as asked for."""

    name: str
    items: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Other:
    """An untagged response that is not read further."""

    name: str
    values: tuple[Value, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Idling:
    """The server has begun to wait with us; news come as events until `done()`."""


@dataclass(frozen=True, slots=True)
class ProtocolError:
    """The server said what IMAP does not allow, or more than the limits do; nothing more is read."""

    text: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The server is gone. `command` is the one it left without an answer."""

    command: str = ""


Untagged: TypeAlias = Notice | Bye | Capabilities | Exists | Expunged | Fetched | Found | Listed | FolderStatus | Other
Event: TypeAlias = Untagged | Greeting | Completed | Idling | ProtocolError | Disconnected
"""What `ImapClient.next_event` gives out."""


def is_status(text: bytes) -> bool:
    """Whether `text` (after tag or star) is words for people, in which `{n}` announces no literal."""
    return _STATUS.match(text) is not None


def read_condition(text: bytes) -> Condition:
    """Raises Malformed."""
    match = _STATUS.match(text)
    if match is None:
        raise Malformed("an answer is neither OK, NO nor BAD")
    words = _TEXT.match(readable(match[2] or b""))
    code, argument, rest = words.groups() if words else (None, None, "")
    return Condition(Status(match[1].decode().upper()), rest, (code or "").upper(), argument or "")


def read_untagged(pieces: Sequence[bytes]) -> Untagged:
    """A response after its star. Raises Malformed."""
    if is_status(pieces[0]):
        condition = read_condition(pieces[0])
        return Bye(condition) if condition.status is Status.BYE else Notice(condition)
    counted = _COUNTED.match(pieces[0])
    if counted is not None:
        return _counted(int(counted[1]), counted[2].decode().upper(), (counted[3] or b"", *pieces[1:]))
    name, _, rest = pieces[0].partition(b" ")
    word = name.decode(errors="replace").upper()
    values = read_values((rest, *pieces[1:]))
    reader = _READERS.get(word)
    return Other(word, values) if reader is None else reader(values)


def read_capabilities(words: str) -> frozenset[str]:
    """Names in capitals, from the argument of a CAPABILITY code."""
    return frozenset(words.upper().split())


def _counted(number: int, word: str, rest: Sequence[bytes]) -> Untagged:
    match word:
        case "EXISTS":
            return Exists(number)
        case "EXPUNGE":
            return Expunged(number)
        case "FETCH":
            return _fetched(number, read_values(rest))
    return Other(word, (str(number), *read_values(rest)))


def _fetched(number: int, values: tuple[Value, ...]) -> Fetched:
    if len(values) != 1:
        raise Malformed("a FETCH response is one list")
    items = dict(_pairs(list_of(values[0])))
    sections = {name: octets_of(value) for name, value in items.items() if _is_section(name)}
    known = {"UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE", *sections}
    return Fetched(
        number,
        number_of(items["UID"]) if "UID" in items else None,
        _flags(items["FLAGS"]) if "FLAGS" in items else None,
        read_date_time(text_of(items["INTERNALDATE"])) if "INTERNALDATE" in items else None,
        number_of(items["RFC822.SIZE"]) if "RFC822.SIZE" in items else None,
        {name: octets for name, octets in sections.items() if octets is not None},
        {name: value for name, value in items.items() if name not in known},
    )


def _is_section(name: str) -> bool:
    return name.startswith(("BODY[", "BINARY[")) or name in ("RFC822", "RFC822.HEADER", "RFC822.TEXT")


def _pairs(values: tuple[Value, ...]) -> Iterator[tuple[str, Value]]:
    if len(values) % 2:
        raise Malformed("an item has no value")
    for index in range(0, len(values), 2):
        yield text_of(values[index]).upper(), values[index + 1]


def _flags(value: Value) -> frozenset[str]:
    return frozenset(map(text_of, list_of(value)))


def _found(values: tuple[Value, ...]) -> Found:
    numbers = [value for value in values if not isinstance(value, tuple)]  # RFC 7162 adds (MODSEQ n)
    return Found(tuple(map(number_of, numbers)))


def _listed(values: tuple[Value, ...]) -> Listed:
    if len(values) < 3:
        raise Malformed("a LIST response is too short")
    flags = frozenset(flag.lower() for flag in _flags(values[0]))
    delimiter = octets_of(values[1]) or b""
    return Listed(decode_name(text_of(values[2])), delimiter.decode(errors="replace"), flags)


def _folder_status(values: tuple[Value, ...]) -> FolderStatus:
    if len(values) != 2:
        raise Malformed("a STATUS response has a name and a list")
    items = {name: number_of(value) for name, value in _pairs(list_of(values[1]))}
    return FolderStatus(decode_name(text_of(values[0])), items)


_READERS: dict[str, Callable[[tuple[Value, ...]], Untagged]] = {
    "CAPABILITY": lambda values: Capabilities(frozenset(text_of(value).upper() for value in values)),
    "LIST": _listed,
    "LSUB": _listed,
    "SEARCH": _found,
    "STATUS": _folder_status,
}
