"""What an IMAP server tells about a message: its parts, envelope and structure (RFC 3501 section 7.4.2).

Messages come from anyone, so depth and number of parts are limited; what lies deeper is shown as one piece.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.utils import getaddresses

from posthouse.protocol.imap_syntax import Malformed, Value, list_of, nstring, text_of

DEPTH = 12
PARTS = 200
_HEADER_FIELD = 8000

_HEADER_END = re.compile(rb"\r?\n\r?\n|\A\r?\n")
_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:(.*(?:\r?\n[ \t].*)*)(?:\r?\n|\Z)", re.MULTILINE)
_FIELD_NAME = re.compile("[-!#$&'+.0-9A-Z^_`a-z|~]{1,200}")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_MEDIA = re.compile(r"\s*([!#-'*+.0-9A-Z^_`a-z{|}~-]+)/([!#-'*+.0-9A-Z^_`a-z{|}~-]+)")
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_SECTION = re.compile(
    r"(?:([0-9]{1,4}(?:\.[0-9]{1,4}){0,20})(?:\.(?=[A-Z])|\Z))?(HEADER\.FIELDS(?:\.NOT)?|HEADER|TEXT|MIME)?"
)

Parameters = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A message or a part of one. `header` ends with its blank line; `parts` are those of a multipart or the message
    inside a message/rfc822."""

    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    kind: str = "text"
    subtype: str = "plain"
    parameters: Parameters = (("charset", "us-ascii"),)
    parts: tuple["Part", ...] = ()


@dataclass(slots=True)
class _Room:
    parts: int = PARTS


def read_message(data: bytes) -> Part:
    return _read_part(data, _Room(), 0)


def _read_part(data: bytes, room: _Room, depth: int) -> Part:
    header, body = split(data)
    kind, subtype, parameters = _media(field_of(header, b"content-type"))
    part = Part(header, body, kind, subtype, parameters)
    if depth >= DEPTH:
        return part
    inner = tuple(_read_part(piece, room, depth + 1) for piece in _pieces(part, room))
    return Part(header, body, kind, subtype, parameters, inner)


def _pieces(part: Part, room: _Room) -> Iterator[bytes]:
    if (part.kind, part.subtype) == ("message", "rfc822"):
        pieces: Iterable[bytes] = (part.body,)
    elif part.kind == "multipart":
        pieces = _multipart(part.body, dict(part.parameters).get("boundary", ""))
    else:
        pieces = ()
    for piece in pieces:
        if room.parts == 0:
            return
        room.parts -= 1
        yield piece


def _multipart(body: bytes, boundary: str) -> Iterator[bytes]:
    """RFC 2046 section 5.1.1; without the preamble and what follows the last boundary."""
    if not boundary:
        return
    delimiter = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*(?:(?=\r?\n)|\Z)")
    start: int | None = None
    for found in delimiter.finditer(body):
        if start is not None:
            yield body[start : found.start()]
        if found[1]:
            return
        end = body.find(b"\n", found.end())
        start = end + 1 if end >= 0 else len(body)
    if start is not None:
        yield body[start:]


def split(data: bytes) -> tuple[bytes, bytes]:
    """Header with its blank line, and body."""
    end = _HEADER_END.search(data)
    return (data, b"") if end is None else (data[: end.end()], data[end.end() :])


def fields(header: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name in lower case, value on one line, and the field as it stands with its line end."""
    for found in _FIELD.finditer(header):
        yield found[1].lower(), _FOLD.sub(b"", found[2]).strip(), found[0]


def field_of(header: bytes, name: bytes) -> bytes | None:
    """The value of the first field of that name (in lower case)."""
    return next((value for field_name, value, _ in fields(header) if field_name == name), None)


def _media(value: bytes | None) -> tuple[str, str, Parameters]:
    text = (value or b"")[:_HEADER_FIELD].decode(errors="replace")
    media = _MEDIA.match(text)
    if media is None:
        return "text", "plain", (("charset", "us-ascii"),)
    parameters = tuple(
        (name.lower(), re.sub(r"\\(.)", r"\1", in_quotes) or bare)
        for name, in_quotes, bare in _PARAMETER.findall(text, media.end())
    )
    return media[1].lower(), media[2].lower(), parameters


# Sections


@dataclass(frozen=True, slots=True)
class Section:
    """What stands between the brackets of BODY[…]: `path` of part numbers, `part` such as HEADER, field `names`."""

    path: tuple[int, ...] = ()
    part: str = ""
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = ".".join([*map(str, self.path), *([self.part] if self.part else [])])
        return f"{words} ({' '.join(self.names)})" if self.names else words


def read_section(values: tuple[Value, ...]) -> Section:
    """Raises Malformed."""
    text = text_of(values[0]).upper() if values else ""
    found = _SECTION.fullmatch(text)
    if found is None:
        raise Malformed("this section is not known")
    path = tuple(map(int, found[1].split("."))) if found[1] else ()
    part = found[2] or ""
    if part == "MIME" and not path:
        raise Malformed("MIME needs a part number")
    wants_names = part.startswith("HEADER.FIELDS")
    if len(values) > 1 + wants_names or (wants_names and len(values) < 2):
        raise Malformed("this section is not known")
    names = tuple(map(_field_name, list_of(values[1]))) if wants_names else ()
    return Section(path, part, names)


def _field_name(value: Value) -> str:
    name = text_of(value).upper()
    if not _FIELD_NAME.fullmatch(name):
        raise Malformed("this is no name of a header field")
    return name


def section(data: bytes, wanted: Section) -> bytes | None:
    """The octets of a section, None where the message has no such part."""
    if not wanted.path:
        return _plain_section(data, wanted)
    part = _at(read_message(data), wanted.path)
    if part is None:
        return None
    if wanted.part == "MIME":
        return part.header
    if not wanted.part:
        return part.body
    return _plain_section(part.body, wanted) if part.subtype == "rfc822" else None


def _at(message: Part, path: tuple[int, ...]) -> Part | None:
    parts = _numbered(message)
    for index, number in enumerate(path, 1):
        if not 0 < number <= len(parts):
            return None
        part = parts[number - 1]
        if index == len(path):
            return part
        parts = _numbered(part.parts[0]) if part.subtype == "rfc822" and part.parts else part.parts
    return None


def _numbered(message: Part) -> tuple[Part, ...]:
    """The parts of a whole message; one that is no multipart is its own part 1."""
    return message.parts if message.kind == "multipart" else (message,)


def _plain_section(data: bytes, wanted: Section) -> bytes:
    if not wanted.part:
        return data
    header, body = split(data)
    if wanted.part == "TEXT":
        return body
    if wanted.part == "HEADER":
        return header
    names = frozenset(name.lower().encode() for name in wanted.names)
    listed = wanted.part == "HEADER.FIELDS"
    return b"".join(raw for name, _, raw in fields(header) if (name in names) == listed) + b"\r\n"


# Envelope and structure


def envelope(header: bytes) -> bytes:
    """Date, subject, from, sender, reply-to, to, cc, bcc, in-reply-to, message-id."""
    values: dict[bytes, bytes] = {}
    for name, value, _ in fields(header):
        values.setdefault(name, value[:_HEADER_FIELD])
    sender = values.get(b"from", b"")
    people = (
        sender,
        values.get(b"sender") or sender,
        values.get(b"reply-to") or sender,
        *(values.get(name, b"") for name in (b"to", b"cc", b"bcc")),
    )
    words = (
        nstring(values.get(b"date")),
        nstring(values.get(b"subject")),
        *map(_addresses, people),
        nstring(values.get(b"in-reply-to")),
        nstring(values.get(b"message-id")),
    )
    return b"(" + b" ".join(words) + b")"


def _addresses(value: bytes) -> bytes:
    found = [_address(*one) for one in getaddresses([value.decode(errors="replace")]) if one[1]]
    return b"(" + b"".join(found) + b")" if found else b"NIL"


def _address(name: str, address: str) -> bytes:
    local, _, domain = address.rpartition("@")
    words = (name.encode() or None, None, (local or domain).encode(), domain.encode() if local else b"")
    return b"(" + b" ".join(map(nstring, words)) + b")"


def structure(part: Part, *, extended: bool) -> bytes:
    """BODYSTRUCTURE, or BODY where not `extended`."""
    if part.kind == "multipart" and part.parts:
        inner = b"".join(structure(one, extended=extended) for one in part.parts)
        words = [inner, nstring(part.subtype.encode())]
        words += [_parameters(part.parameters), b"NIL NIL NIL"] if extended else []
    else:
        words = [*_leaf(part, extended=extended)]
        words += [b"NIL", _disposition(part.header), b"NIL NIL"] if extended else []
    return b"(" + b" ".join(words) + b")"


def _leaf(part: Part, *, extended: bool) -> Iterator[bytes]:
    header: Callable[[bytes], bytes | None] = lambda name: field_of(part.header, name)  # noqa: E731
    whole = part.kind == "multipart" or ((part.kind, part.subtype) == ("message", "rfc822") and not part.parts)
    kind, subtype = ("application", "octet-stream") if whole else (part.kind, part.subtype)
    yield nstring(kind.encode())
    yield nstring(subtype.encode())
    yield _parameters(part.parameters)
    yield nstring(header(b"content-id"))
    yield nstring(header(b"content-description"))
    yield nstring(header(b"content-transfer-encoding") or b"7bit")
    yield b"%d" % len(part.body)
    if kind == "message" and subtype == "rfc822":
        yield envelope(part.parts[0].header)
        yield structure(part.parts[0], extended=extended)
    if kind == "text" or (kind == "message" and subtype == "rfc822"):
        yield b"%d" % part.body.count(b"\n")


def _parameters(parameters: Parameters) -> bytes:
    words = b" ".join(nstring(word.encode()) for pair in parameters for word in pair)
    return b"(" + words + b")" if words else b"NIL"


def _disposition(header: bytes) -> bytes:
    value = field_of(header, b"content-disposition")
    if value is None:
        return b"NIL"
    kind, _, rest = value[:_HEADER_FIELD].decode(errors="replace").partition(";")
    found = _PARAMETER.findall(";" + rest)
    parameters = tuple((name.lower(), in_quotes or bare) for name, in_quotes, bare in found)
    return b"(" + nstring(kind.strip().encode()) + b" " + _parameters(parameters) + b")"
