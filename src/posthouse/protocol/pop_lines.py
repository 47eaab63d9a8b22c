"""The end of a multi-line answer of POP3, and the dots in front of its lines (RFC 1939 section 3)."""

import re

from posthouse.protocol.reading import Buffer

LONG_LINE = 65536
"""A line longer than this is given out in pieces."""

_END = re.compile(rb"\n\.\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")


class DotReader:
    """Takes a message off a buffer as it arrives, without the dots that were added and without the last line."""

    __slots__ = ("_at_line_start", "finished")

    def __init__(self) -> None:
        self.finished = False
        self._at_line_start = True

    def take(self, buffer: Buffer) -> bytes:
        """What can be given out now, b"" when more octets are needed or all is done (`finished`)."""
        data = buffer.peek()
        if not self._at_line_start:
            return self._rest_of_line(buffer, data)
        whole_lines = data.rfind(b"\n") + 1
        if not whole_lines:
            return self._long_line(buffer) if len(data) > LONG_LINE else b""
        if data.startswith((b".\r\n", b".\n")):
            return self._finish(buffer)
        end = _END.search(data, 0, whole_lines)
        if end is None:
            return _without_dots(buffer.up_to(whole_lines))
        lines = _without_dots(buffer.up_to(end.start() + 1))
        self._finish(buffer)
        return lines

    def _finish(self, buffer: Buffer) -> bytes:
        buffer.line(LONG_LINE)
        self.finished = True
        return b""

    def _long_line(self, buffer: Buffer) -> bytes:
        self._at_line_start = False
        return buffer.up_to(len(buffer)).removeprefix(b".")

    def _rest_of_line(self, buffer: Buffer, data: bytearray) -> bytes:
        end = data.find(b"\n") + 1
        self._at_line_start = end > 0
        return buffer.up_to(end or len(data))


def _without_dots(lines: bytes) -> bytes:
    return lines.removeprefix(b".").replace(b"\n.", b"\n")


def with_dots(message: bytes) -> bytes:
    """A whole message ready to be sent: lines end in CRLF, dots are doubled, the last line is there."""
    lines = _BARE_LF.sub(b"\r\n", message)
    if lines and not lines.endswith(b"\r\n"):
        lines += b"\r\n"
    dotted = lines.replace(b"\n.", b"\n..")
    return (b"." if dotted.startswith(b".") else b"") + dotted + b".\r\n"
