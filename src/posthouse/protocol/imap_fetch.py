"""The items of a FETCH, as an IMAP server answers them (RFC 3501 section 6.4.5)."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from posthouse.protocol.imap_message import (
    Section,
    envelope,
    read_message,
    read_section,
    section,
    split,
    structure,
)
from posthouse.protocol.imap_syntax import Malformed, Value, nstring, read_values, text_of, write_date_time
from posthouse.protocol.maildrop import Message

ITEMS = 50
"""How many items one FETCH may ask for: each can be a whole message."""

Item = Callable[[Message], bytes]

_SECTION = re.compile(r"BODY(\.PEEK)?\[(.*)\](?:<([0-9]{1,10})\.([0-9]{1,10})>)?", re.IGNORECASE | re.DOTALL)
_MACROS = {
    "ALL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"),
    "FAST": ("FLAGS", "INTERNALDATE", "RFC822.SIZE"),
    "FULL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """`items` write one name and value each; `marks_seen` where reading sets \\Seen."""

    items: tuple[Item, ...]
    marks_seen: bool

    def answer(self, message: Message) -> bytes:
        return b"(" + b" ".join(item(message) for item in self.items) + b")"


def read_plan(value: Value, *, with_uid: bool) -> Plan:
    """What a client asks for, one word or a list; `with_uid` for UID FETCH. Raises Malformed."""
    words = [text_of(word).upper() for word in value] if isinstance(value, tuple) else _macro(text_of(value))
    if with_uid and "UID" not in words:
        words.insert(0, "UID")
    if not words or len(words) > ITEMS:
        raise Malformed("too many items are asked for" if words else "items are missing")
    marks_seen = any(word in ("RFC822", "RFC822.TEXT") or word.startswith("BODY[") for word in words)
    if marks_seen and "FLAGS" not in words:
        words.append("FLAGS")
    return Plan(tuple(map(_item, words)), marks_seen)


def _macro(word: str) -> list[str]:
    return list(_MACROS.get(word.upper(), (word.upper(),)))


def _item(word: str) -> Item:
    found = _SECTION.fullmatch(word)
    if found is not None:
        return _section_item(found)
    item = _ITEMS.get(word)
    if item is None:
        raise Malformed("this item is not known")
    return item


def _section_item(found: re.Match[str]) -> Item:
    wanted = read_section(read_values((found[2].encode(),)))
    if found[3] is None:
        return lambda message: f"BODY[{wanted}] ".encode() + nstring(section(message.body, wanted))
    first, count = int(found[3]), int(found[4])
    if count == 0:
        raise Malformed("a part has at least one octet")
    return lambda message: f"BODY[{wanted}]<{first}> ".encode() + nstring(_some(message, wanted, first, count))


def _some(message: Message, wanted: Section, first: int, count: int) -> bytes | None:
    octets = section(message.body, wanted)
    return None if octets is None else octets[first : first + count]


def flags_of(message: Message) -> bytes:
    return f"FLAGS ({' '.join(sorted(message.flags))})".encode()


_ITEMS: dict[str, Item] = {
    "BODY": lambda message: b"BODY " + structure(read_message(message.body), extended=False),
    "BODYSTRUCTURE": lambda message: b"BODYSTRUCTURE " + structure(read_message(message.body), extended=True),
    "ENVELOPE": lambda message: b"ENVELOPE " + envelope(split(message.body)[0]),
    "FLAGS": flags_of,
    "INTERNALDATE": lambda message: f'INTERNALDATE "{write_date_time(message.date)}"'.encode(),
    "RFC822": lambda message: b"RFC822 " + nstring(message.body),
    "RFC822.HEADER": lambda message: b"RFC822.HEADER " + nstring(split(message.body)[0]),
    "RFC822.SIZE": lambda message: b"RFC822.SIZE %d" % len(message.body),
    "RFC822.TEXT": lambda message: b"RFC822.TEXT " + nstring(split(message.body)[1]),
    "UID": lambda message: b"UID %d" % message.uid,
}
