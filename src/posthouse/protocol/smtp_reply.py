"""SMTP replies: what a server says and a client reads (RFC 5321 section 4.2, enhanced codes of RFC 3463)."""

import re
from functools import lru_cache

from msgspec import Struct

from posthouse.protocol.reading import Buffer, TooLong, readable

LINE_LIMIT = 4096
LINES_LIMIT = 100
TEXT_LIMIT = 480

_REPLY_LINE = re.compile(r"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |$)")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class BadReply(Exception):
    """The server's words are no SMTP reply, or are longer than any honest one."""


class Reply(Struct, frozen=True):
    """`code` 200-599, `enhanced` such as `5.7.8` or empty, `text` of one line or several, parted by LF."""

    code: int
    enhanced: str = ""
    text: str = ""

    @property
    def accepted(self) -> bool:
        """2xx or 3xx."""
        return self.code < 400

    @property
    def temporary(self) -> bool:
        """4xx: the same again may work later."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5xx: the same again will not work."""
        return self.code >= 500

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    def __str__(self) -> str:
        """On one line, as the error catalogue and people read it."""
        return " ".join(word for word in (str(self.code), self.enhanced, *self.lines) if word)

    def encode(self) -> bytes:
        """As it is sent. Nothing in the text can end a line; what is not printable ASCII becomes `?`."""
        return _encoded(self)


@lru_cache(maxsize=256)
def _encoded(reply: Reply) -> bytes:
    start = f"{reply.enhanced} " if reply.enhanced else ""
    texts = [start + _UNPRINTABLE.sub("?", line[:TEXT_LIMIT]) for line in reply.lines[:LINES_LIMIT]]
    before = "".join(f"{reply.code}-{text}\r\n" for text in texts[:-1])
    return f"{before}{reply.code} {texts[-1]}\r\n".encode()


class ReplyReader:
    """Gathers the lines of one reply out of a buffer. Memory is bounded by `LINE_LIMIT` and `LINES_LIMIT`."""

    __slots__ = ("_buffer", "_lines")

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._lines: list[str] = []

    def next(self) -> Reply | None:
        """The next whole reply, or None until it is there. Raises BadReply."""
        while (line := self._line()) is not None:
            code, more, text = _parted(line)
            if not more and not self._lines:
                return _reply(code, text)
            if self._lines and self._lines[0] != code:
                raise BadReply(f"a reply that changes its code from {self._lines[0]} to {code}")
            self._lines = [*(self._lines or [code]), text]
            if not more:
                lines, self._lines = self._lines, []
                return _reply(code, "\n".join(lines[1:]))
            if len(self._lines) > LINES_LIMIT:
                raise BadReply(f"a reply of more than {LINES_LIMIT} lines")
        return None

    def _line(self) -> bytes | None:
        try:
            return self._buffer.line(LINE_LIMIT)
        except TooLong as long:
            raise BadReply(f"a line of {long}") from None


@lru_cache(maxsize=256)
def _parted(octets: bytes) -> tuple[str, bool, str]:
    """A server says much the same all the time."""
    line = readable(octets)
    if not (found := _REPLY_LINE.fullmatch(line)):
        raise BadReply("a line that is no SMTP reply: " + _UNPRINTABLE.sub("?", line[:60]))
    return found[1], found[2] == "-", found[3] or ""


@lru_cache(maxsize=256)
def _reply(code: str, text: str) -> Reply:
    """Servers repeat the enhanced code on each line or give it once; either way it is taken out of the text."""
    found = _ENHANCED.match(text)
    if not found or found[1] != code[0]:
        return Reply(int(code), "", text)
    enhanced = found[0]
    lines = [line.removeprefix(enhanced).removeprefix(" ") for line in text.split("\n")]
    return Reply(int(code), enhanced, "\n".join(lines))


# Replies of the engine and of those who drive it

OK = Reply(250, "2.0.0", "OK")
SENDER_OK = Reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient OK")
GO_AHEAD = Reply(354, "", "End with CRLF.CRLF")
AUTHENTICATED = Reply(235, "2.7.0", "Authenticated")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready for TLS")

WRONG_PASSWORD = Reply(535, "5.7.8", "User name or password is wrong")
CANNOT_CHECK_PASSWORD = Reply(454, "4.7.0", "The password cannot be checked now, try again later")
TLS_UNAVAILABLE = Reply(454, "4.7.0", "TLS is not available now")
STORAGE_FULL = Reply(452, "4.3.1", "No space for mail now, try again later")
CANNOT_KEEP = Reply(451, "4.3.0", "Mail cannot be stored now, try again later")
LOCAL_ERROR = Reply(451, "4.3.0", "Something went wrong here, try again later")
TOO_LARGE = Reply(552, "5.3.4", "The message is larger than this server takes")

TIMED_OUT = Reply(421, "4.4.2", "Nothing was heard for too long")
SHUTTING_DOWN = Reply(421, "4.3.2", "The server is being stopped, try again soon")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections, try again soon")
