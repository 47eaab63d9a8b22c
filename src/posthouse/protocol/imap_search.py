"""SEARCH criteria of an IMAP server, made into a test of one message (RFC 3501 section 6.4.4).

Text is looked for without regard to case in the octets as they stand: encoded words and transfer encodings are not
undone. Dates of SENTBEFORE and kin are those of arrival.
"""

from collections.abc import Callable, Iterator
from datetime import date

from posthouse.protocol.imap_message import field_of, split
from posthouse.protocol.imap_syntax import (
    DEPTH,
    Malformed,
    Value,
    number_of,
    octets_of,
    read_date,
    read_set,
    text_of,
)
from posthouse.protocol.maildrop import Message, flag

Criterion = Callable[[int, Message], bool]
"""Whether a message, given with its sequence number, is wanted."""

_FLAGS = {
    "ANSWERED": "\\Answered",
    "DELETED": "\\Deleted",
    "DRAFT": "\\Draft",
    "FLAGGED": "\\Flagged",
    "SEEN": "\\Seen",
}
_FIELDS = ("BCC", "CC", "FROM", "SUBJECT", "TO")


class UnknownCharset(Exception):
    """The client wants a character set other than US-ASCII and UTF-8."""


def read_criteria(values: tuple[Value, ...], highest: int, highest_uid: int) -> Criterion:
    """All criteria together; `*` in sets stands for the highest numbers given. Raises Malformed, UnknownCharset."""
    words = list(values)
    if words and text_is(words[0], "CHARSET"):
        if len(words) < 2 or text_of(words[1]).upper() not in ("US-ASCII", "UTF-8"):
            raise UnknownCharset
        words = words[2:]
    return _Reader(highest, highest_uid).all_of(iter(words), 0)


def text_is(value: Value, word: str) -> bool:
    return isinstance(value, str) and value.upper() == word


class _Reader:
    def __init__(self, highest: int, highest_uid: int) -> None:
        self._highest = highest
        self._highest_uid = highest_uid

    def all_of(self, words: Iterator[Value], depth: int) -> Criterion:
        criteria = [self._one(word, words, depth + 1) for word in words]
        if not criteria:
            raise Malformed("search criteria are missing")
        return lambda number, message: all(wanted(number, message) for wanted in criteria)

    def _one(self, word: Value, words: Iterator[Value], depth: int) -> Criterion:
        if depth > DEPTH:
            raise Malformed("search criteria lie too deep in one another")
        if isinstance(word, tuple):
            return self.all_of(iter(word), depth)
        key = text_of(word).upper()
        if key[:1].isdigit() or key[:1] == "*":
            numbers = read_set(word, self._highest)
            return lambda number, _: number in numbers
        return self._logic(key, words, depth) or _simple(key) or self._with_argument(key, words)

    def _logic(self, key: str, words: Iterator[Value], depth: int) -> Criterion | None:
        if key == "NOT":
            inner = self._one(_next(words), words, depth + 1)
            return lambda number, message: not inner(number, message)
        if key == "OR":
            left = self._one(_next(words), words, depth + 1)
            right = self._one(_next(words), words, depth + 1)
            return lambda number, message: left(number, message) or right(number, message)
        return None

    def _with_argument(self, key: str, words: Iterator[Value]) -> Criterion:
        if key == "UID":
            uids = read_set(_next(words), self._highest_uid)
            return lambda _, message: message.uid in uids
        if key == "HEADER":
            return _in_field(text_of(_next(words)), _text(words))
        if key in _FIELDS:
            return _in_field(key, _text(words))
        reader = _ARGUMENTS.get(key)
        if reader is None:
            raise Malformed("this search key is not known")
        return reader(_next(words))


def _next(words: Iterator[Value]) -> Value:
    try:
        return next(words)
    except StopIteration:
        raise Malformed("a search key has no argument") from None


def _text(words: Iterator[Value]) -> bytes:
    value = _next(words)
    return (octets_of(value) or b"NIL").lower()


def _simple(key: str) -> Criterion | None:
    if key in ("ALL", "OLD"):
        return lambda _, __: True
    if key in ("NEW", "RECENT"):
        return lambda _, __: False
    if key in _FLAGS:
        return _flagged(_FLAGS[key])
    if key.startswith("UN") and key[2:] in _FLAGS:
        return _unflagged(_FLAGS[key[2:]])
    return None


def _flagged(name: str) -> Criterion:
    return lambda _, message: name in message.flags


def _unflagged(name: str) -> Criterion:
    return lambda _, message: name not in message.flags


def _in_field(name: str, text: bytes) -> Criterion:
    key = name.lower().encode()

    def found(_: int, message: Message) -> bool:
        value = field_of(split(message.body)[0], key)
        return value is not None and text in value.lower()

    return found


def _before(value: Value) -> Criterion:
    day = _day(value)
    return lambda _, message: message.date.date() < day


def _on(value: Value) -> Criterion:
    day = _day(value)
    return lambda _, message: message.date.date() == day


def _since(value: Value) -> Criterion:
    day = _day(value)
    return lambda _, message: message.date.date() >= day


def _day(value: Value) -> date:
    return read_date(text_of(value))


def _larger(value: Value) -> Criterion:
    size = number_of(value)
    return lambda _, message: len(message.body) > size


def _smaller(value: Value) -> Criterion:
    size = number_of(value)
    return lambda _, message: len(message.body) < size


def _in_text(value: Value) -> Criterion:
    text = (octets_of(value) or b"NIL").lower()
    return lambda _, message: text in message.body.lower()


def _in_body(value: Value) -> Criterion:
    text = (octets_of(value) or b"NIL").lower()
    return lambda _, message: text in split(message.body)[1].lower()


_ARGUMENTS: dict[str, Callable[[Value], Criterion]] = {
    "BEFORE": _before,
    "BODY": _in_body,
    "KEYWORD": lambda value: _flagged(flag(text_of(value))),
    "LARGER": _larger,
    "ON": _on,
    "SENTBEFORE": _before,
    "SENTON": _on,
    "SENTSINCE": _since,
    "SINCE": _since,
    "SMALLER": _smaller,
    "TEXT": _in_text,
    "UNKEYWORD": lambda value: _unflagged(flag(text_of(value))),
}
