"""What a file wanted when it was last applied: shows what was edited elsewhere since, and what it has made itself."""

from collections.abc import Iterator, Mapping
from typing import Any

from posthouse.services.apply_file import Item, Wanted
from posthouse.services.apply_stored import STORED_KINDS, Stored, key_of
from posthouse.store.applied import Document

_NOTHING: dict[str, Any] = {}


def entry(made: bool, keys: Mapping[str, Any]) -> dict[str, Any]:
    """`made`: the file brought it into being, so the file may remove it. Secrets stand in `keys` as fingerprints."""
    return {"made": made, "keys": dict(keys)}


def former(record: Document, item: Item) -> dict[str, Any]:
    """What was remembered of this item; empty where nothing was."""
    return record.get(item.kind, {}).get(key_of(item.kind, item.name), _NOTHING)


def keys_of(remembered: Mapping[str, Any]) -> dict[str, Any]:
    return dict(remembered.get("keys", {}))


def was_made(remembered: Mapping[str, Any]) -> bool:
    return bool(remembered.get("made", False))


def drifted(given: Mapping[str, Any], remembered: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Keys that the file owns, that have neither the value it gave them last nor the one it gives them now."""
    return [
        key
        for key, value in keys_of(remembered).items()
        if key in given and present.get(key) not in (value, given[key])
    ]


def no_longer_wanted(wanted: Wanted, record: Document, stored: Stored) -> Iterator[tuple[str, str, bool]]:
    """Kind, key and whether this file made it, of everything stored that an earlier apply named and this one does not.

    The users of a thing come before it.
    """
    named = {(item.kind, key_of(item.kind, item.name)) for item in wanted.items}
    for kind in reversed(STORED_KINDS):
        for key, remembered in record.get(kind, {}).items():
            if (kind, key) not in named and stored.find(kind, key) is not None:
                yield kind, key, was_made(remembered) and stored.origin(kind, key) == wanted.origin
