"""What applying a file has done, or would do, in words that hold no secret."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from posthouse.secret import Secret

What = Literal["added", "changed", "unchanged", "removed"]
SIGNS: dict[What, str] = {"added": "+", "changed": "~", "unchanged": " ", "removed": "-"}


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one provider, app, mailbox or device; `keys` are the settings that changed."""

    what: What
    kind: str
    name: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        keys = f": {', '.join(self.keys)}" if self.keys else ""
        return f"{SIGNS[self.what]} {self.kind} {self.name} {self.what}{keys}"


@dataclass(slots=True)
class Report:
    """`drift`: what was edited elsewhere although the file owns it. `generated`: new passwords by device, to be shown
    once; none in a dry run. `unused_tokens`: ids of tokens that no mailbox uses any more, to be revoked and deleted.
    """

    source: str
    dry_run: bool
    entries: list[Entry] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    generated: dict[str, Secret] = field(default_factory=dict)
    unused_tokens: list[str] = field(default_factory=list)

    def names(self, what: What, kind: str) -> list[str]:
        return [entry.name for entry in self.entries if (entry.what, entry.kind) == (what, kind)]

    def note(self, what: What, kind: str, name: str, *keys: str) -> None:
        """A second entry about the same thing adds its keys to the first."""
        for position, entry in enumerate(self.entries):
            if (entry.kind, entry.name) == (kind, name):
                strongest = what if entry.what == "unchanged" else entry.what
                self.entries[position] = Entry(strongest, kind, name, tuple(dict.fromkeys((*entry.keys, *keys))))
                return
        self.entries.append(Entry(what, kind, name, keys))

    @property
    def changed(self) -> bool:
        return any(entry.what != "unchanged" for entry in self.entries)

    def lines(self) -> Iterator[str]:
        """For people, without the generated passwords."""
        yield from (str(entry) for entry in self.entries)
        yield from (f"! {sentence}" for sentence in self.drift)
        yield from self.notes
        count = sum(entry.what != "unchanged" for entry in self.entries)
        yield f"{self.source}: {count or 'nothing'} {'would change' if self.dry_run else 'changed'}."
