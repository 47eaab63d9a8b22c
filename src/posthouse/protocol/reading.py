"""Bounded reading for the engines: nothing a peer sends is kept without a limit."""

import re
from io import IncrementalNewlineDecoder

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_DOT = re.compile(rb"\n\.")


def has_bare_line_end(data: bytes | bytearray) -> bool:
    """Whether there is a CR or LF that is not part of CRLF.

    The decoder notes the kinds of line ends it comes by: a quarter of the time that counting them takes.
    """
    decoder = IncrementalNewlineDecoder(None, translate=False)
    decoder.decode(str(data, "latin-1"), final=True)
    return decoder.newlines not in (None, "\r\n")


def dot_line(data: bytes | bytearray) -> int:
    """Where the first line begins, after the first of all, that begins with a dot; -1 where none does.

    That costs little where there is no dot, as in Base64.
    """
    dot = data.find(b".")
    found = _DOT.search(data, max(0, dot - 1)) if dot >= 0 else None
    return found.start() + 1 if found else -1


def readable(octets: bytes) -> str:
    """What a peer says to people: it comes into logs, pages and databases, so control characters become `?`."""
    text = octets.decode(errors="replace")
    return text if text.isprintable() else _CONTROL.sub("?", text)


class TooLong(Exception):
    """The peer sent more than `limit` octets without the end that was awaited."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} octets")
        self.limit = limit


class Buffer:
    """Octets received and not yet taken. Lines end in CRLF or, where `bare_lf` is allowed, in LF."""

    __slots__ = ("_data", "_searched", "bare_lf")

    def __init__(self, *, bare_lf: bool = True) -> None:
        self._data = bytearray()
        self._searched = 0
        self.bare_lf = bare_lf

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        self._data += data

    def clear(self) -> None:
        self._data.clear()
        self._searched = 0

    def line(self, limit: int) -> bytes | None:
        """The next line without its end, or None while it has not arrived. Raises `TooLong`."""
        data = self._data
        end = data.find(b"\n" if self.bare_lf else b"\r\n", self._searched)
        if end < 0:
            if len(data) > limit:
                raise TooLong(limit)
            self._searched = max(0, len(data) - 1)
            return None
        if end > limit:
            raise TooLong(limit)
        line = bytes(data[:end])
        del data[: end + (1 if self.bare_lf else 2)]
        self._searched = 0
        return line[:-1] if self.bare_lf and line.endswith(b"\r") else line

    def exactly(self, count: int) -> bytes | None:
        """The next `count` octets, or None until they are all there."""
        if len(self._data) < count:
            return None
        return self.up_to(count)

    def up_to(self, count: int) -> bytes:
        """At most `count` of the octets that are there."""
        with memoryview(self._data) as data:
            taken = bytes(data[:count])
        del self._data[:count]
        self._searched = 0
        return taken

    def peek(self) -> bytearray:
        """What is there, to look at and not to change."""
        return self._data
