"""Where things stand in an apply file. The TOML reader tells no line numbers, so the text is looked through again."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_ITEM = re.compile(r"\s*\[\[\s*\"?([\w-]+)\"?\s*\]\]")
_PART = re.compile(r"\s*\[\s*([\w-]+)\s*\.\s*([\w-]+)\s*\]")
_TABLE = re.compile(r"\s*\[\s*\"?([\w-]+)\"?\s*\]")
_KEY = re.compile(r"\s*(?:\"([^\"]+)\"|([\w-]+(?:\s*\.\s*[\w-]+)*))\s*=")
_LONG_STRING = re.compile(r'"""|\'\'\'')


@dataclass(slots=True)
class Place:
    """The line of a table's header, and those of its keys; keys of a table inside it are written `limits.size`."""

    line: int
    keys: dict[str, int] = field(default_factory=dict)

    def of(self, key: str) -> int:
        """The line of a key, else of the table around it, else of the item."""
        return self.keys.get(key) or self.keys.get(key.partition(".")[0]) or self.line


@dataclass(slots=True)
class Lines:
    """Places of the items of each kind, in order, and of what stands above them all."""

    items: dict[str, list[Place]] = field(default_factory=dict)
    top: Place = field(default_factory=lambda: Place(1))

    def item(self, kind: str, number: int) -> Place:
        """Of the item with this number, from 0; where it was not found, the place of its kind."""
        found = self.items.get(kind, [])
        return found[number] if number < len(found) else Place(self.top.of(kind))


def find_lines(text: str) -> Lines:
    """Look through the text of a file that is valid TOML."""
    found = Lines()
    place, prefix = found.top, ""
    for number, line in _outside_long_strings(text):
        if header := _ITEM.match(line):
            place, prefix = Place(number), ""
            found.items.setdefault(header[1], []).append(place)
        elif header := _PART.match(line):
            place = found.items.get(header[1], [found.top])[-1]
            prefix = f"{header[2]}."
            place.keys.setdefault(header[2], number)
        elif header := _TABLE.match(line):
            found.top.keys.setdefault(header[1], number)
            place, prefix = Place(number), ""
        elif written := _KEY.match(line):
            _note(place, prefix + re.sub(r"\s", "", written[1] or written[2]), number)
    return found


def _note(place: Place, key: str, number: int) -> None:
    place.keys.setdefault(key, number)
    place.keys.setdefault(key.partition(".")[0], number)


def _outside_long_strings(text: str) -> Iterator[tuple[int, str]]:
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if not inside:
            yield number, line
        if len(_LONG_STRING.findall(line)) % 2:
            inside = not inside
