"""The languages of the page and the sentences in them.

The .po files are the source and are read as they stand: there is nothing to compile and nothing that can be stale.
"""

import ast
import re
import struct
from functools import cache
from gettext import GNUTranslations
from importlib.resources import files
from io import BytesIO

LANGUAGES = {"en": "English", "ko": "한국어", "el": "Ελληνικά", "da": "Dansk"}
"""By their code, in the name that speakers look for."""
SOURCE = "en"
DOMAIN = "posthouse"

_LINE = re.compile(r'(?:(?P<key>msgid_plural|msgid|msgstr)(?:\[\d\])? )?(?P<text>".*")')
_MAGIC = 0x950412DE


@cache
def translations(language: str) -> GNUTranslations:
    """The sentences of one of LANGUAGES."""
    file = files("posthouse.locales") / language / "LC_MESSAGES" / f"{DOMAIN}.po"
    return GNUTranslations(BytesIO(compiled(read_po(file.read_text("utf-8")))))


def read_po(text: str) -> dict[str, str]:
    """What a catalogue says for each sentence. Plural forms are joined by NUL, as gettext wants them."""
    entries = (_entry(block) for block in re.split(r"\n{2,}", text) if "\n#~" not in f"\n{block}")
    return {key: value for key, value in entries if value.strip("\0")}


def _entry(block: str) -> tuple[str, str]:
    keys: list[str] = []
    values: list[str] = []
    into = keys
    for line in block.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        if found["key"]:
            into = values if found["key"] == "msgstr" else keys
            into.append("")
        into[-1] += ast.literal_eval(found["text"])
    return "\0".join(keys), "\0".join(values)


def compiled(entries: dict[str, str]) -> bytes:
    """The catalogue in gettext's binary form (GNU gettext manual, "The Format of GNU MO Files")."""
    pairs = [(key.encode(), value.encode()) for key, value in sorted(entries.items())]
    first = 28
    position = first + 16 * len(pairs)
    tables: tuple[list[bytes], list[bytes]] = ([], [])
    body = b""
    for side, table in enumerate(tables):
        for pair in pairs:
            table.append(struct.pack("<II", len(pair[side]), position + len(body)))
            body += pair[side] + b"\0"
    header = struct.pack("<7I", _MAGIC, 0, len(pairs), first, first + 8 * len(pairs), 0, 0)
    return header + b"".join(tables[0]) + b"".join(tables[1]) + body
