"""Reading an apply file: every mistake with its line, secrets taken from where the file says they lie."""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from posthouse.problems import Problem, problem
from posthouse.secret import Secret
from posthouse.services.apply_credential import CERTIFICATE, read_credential
from posthouse.services.apply_credential import KINDS as KINDS_OF_CREDENTIAL
from posthouse.services.apply_lines import Place, find_lines
from posthouse.services.apply_values import NAMES, SECRETS, VALUES, Wrong, has_control

LARGEST = 1024 * 1024
"""Octets of an apply file."""
LARGEST_SECRET = 16 * 1024
KINDS = tuple(NAMES)
_OF_THE_PROCESS = {"external_url", "data", "database", "administrator", "trusted_proxies", "listen", "tls", "notices"}
_LINE = re.compile(r"\(at line (\d+), column \d+\)$")

MULTILINE = ("private_key", "service_account", CERTIFICATE)
"""Secrets that are files of several lines."""
ReadFile = Callable[[Path], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a file wants. `lines` has a line for each key that was given, also for those that make no sense.

    `values` holds what was understood, in stored form; keys inside a table are written `limits.size`.
    `secret` is what was read; where it could not be had, `missing` says why. No file has `removed`, keys that are to
    be as if they had never been given, or `renew`: a device gets a new password, an app needs new consents.
    """

    kind: str
    name: str
    line: int
    values: dict[str, Any]
    lines: dict[str, int]
    secret: Secret | None = None
    missing: str = ""
    removed: tuple[str, ...] = ()
    renew: bool = False

    def over(self, stored: dict[str, Any]) -> dict[str, Any]:
        """What will be stored."""
        return {key: value for key, value in (stored | self.values).items() if key not in self.removed}

    def line_of(self, key: str) -> int:
        return self.lines.get(key, self.line)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a file wants, and what is wrong with it. `source` is its name for people, `origin` the same for ever."""

    source: str
    origin: str
    items: tuple[Item, ...] = ()
    problems: tuple[Problem, ...] = ()

    def of(self, kind: str) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.kind == kind)

    def where(self, line: int) -> str:
        return f"{self.source}:{line}" if line else self.source


def read_wanted(path: Path, environment: Mapping[str, str]) -> Wanted:
    """Read a file and the secrets it points to. Raises ProblemError where the file itself cannot be read."""
    try:
        text = _read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise problem("apply.unreadable", f"{path} is not text in UTF-8.", status=64) from None
    except OSError as cause:
        raise problem("apply.unreadable", f"{path} cannot be read: {cause.strerror}.", status=64) from None
    return parse(text, str(path), environment, base=path.parent, origin=str(path.resolve()))


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST + 1)


def parse(
    text: str,
    source: str,
    environment: Mapping[str, str],
    *,
    base: Path = Path(),
    read: ReadFile = _read_file,
    origin: str = "",
) -> Wanted:
    """What `text` wants. Files it names lie relative to `base`, and are read with `read`, which raises OSError.

    Never raises: what is wrong stands in the result's `problems`, and applying it reports them with its own.
    """
    reading = _Reading(source, environment, base, read)
    items = reading.items(text)
    return Wanted(source, origin or source, tuple(items), tuple(reading.problems))


def encode(wanted: Wanted) -> bytes:
    """For the control socket. The secrets stand in it in the clear."""
    return msgspec.json.encode(wanted, enc_hook=Secret.reveal)


def decode(data: bytes) -> Wanted:
    """Raises msgspec.DecodeError, msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Wanted, dec_hook=lambda kind, value: kind(value))


def read_item(kind: str, table: Mapping[str, Any], refused: Mapping[str, Problem], *, renew: bool = False) -> Wanted:
    """What was given for one thing elsewhere than in a file, where null takes a key away.

    The origin is empty. In the place of a line stands the number of the key in `table`, from 1. Keys that are
    `refused` are not looked at, and their problems are among the others. Never raises.
    """
    places = {key: number for number, key in enumerate(table, 1)}
    reading = _Reading("", {}, Path(), _read_nothing)
    seen = {key: value for key, value in table.items() if key not in refused}
    given = {key: value for key, value in seen.items() if value is not None}
    removed = tuple(key for key, value in seen.items() if value is None)
    for key, found in refused.items():
        reading.complain(found.id, places[key], found.sentence, found.hint)
    for key in removed:
        if kind != "provider" and key not in (*VALUES[kind], *_secret_keys(kind)):
            reading.refuse_unknown(kind, key, Place(0, places))
    item = reading.item(kind, given, Place(0, {key: places[key] for key in given}))
    items = () if item is None else (replace(item, removed=removed, renew=renew),)
    return Wanted("", "", items, tuple(reading.problems))


def _read_nothing(path: Path) -> bytes:
    raise OSError


@dataclass(slots=True)
class _Reading:
    source: str
    environment: Mapping[str, str]
    base: Path
    read: ReadFile
    problems: list[Problem] = field(default_factory=list)

    def complain(self, id: str, line: int, sentence: str, hint: str = "") -> None:
        self.problems.append(Problem(f"apply.{id}", sentence, hint, f"{self.source}:{line}"))

    def items(self, text: str) -> list[Item]:
        if len(text) > LARGEST:
            self.complain("too-large", 1, f"The file is larger than {LARGEST // 1024} KB.")
            return []
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as cause:
            self._complain_of_syntax(text, str(cause))
            return []
        lines = find_lines(text)
        found = [
            self.item(kind, table, lines.item(kind, number))
            for kind in KINDS
            for number, table in enumerate(self._tables(kind, document.get(kind, []), lines.top))
        ]
        self._refuse_unknown_kinds(document, lines.top)
        items = [item for item in found if item is not None]
        self._refuse_doubles(items)
        return items

    def _complain_of_syntax(self, text: str, cause: str) -> None:
        place = _LINE.search(cause)
        line = int(place[1]) if place else text.rstrip().count("\n") + 1
        self.complain("syntax", line, f"This is not valid TOML: {re.sub(r' *[(]at .*', '', cause).lower()}.")

    def _tables(self, kind: str, value: object, top: Place) -> list[dict[str, Any]]:
        if isinstance(value, list) and all(isinstance(table, dict) for table in value):
            return value
        self.complain("not-a-list", top.of(kind), f"Each {kind} is an item of its own.", f"Write [[{kind}]] above it.")
        return []

    def _refuse_unknown_kinds(self, document: dict[str, Any], top: Place) -> None:
        for key in sorted(set(document) - set(KINDS)):
            hint = f"Known: {', '.join(f'[[{kind}]]' for kind in KINDS)}."
            if key in _OF_THE_PROCESS:
                hint = "It belongs into posthouse.toml."
            self.complain("unknown", top.of(key), f"{key} is nothing that can be applied.", hint)

    def _refuse_doubles(self, items: list[Item]) -> None:
        firsts: dict[tuple[str, str], Item] = {}
        for item in items:
            first = firsts.setdefault((item.kind, item.name.casefold()), item)
            if first is not item:
                sentence = f"There are two {item.kind} items named {item.name}."
                self.complain("double", item.line, sentence, f"The first stands in line {first.line}.")

    def item(self, kind: str, table: dict[str, Any], place: Place) -> Item | None:
        lines = {key: place.of(key) for key in table}
        values = self._provider(table) if kind == "provider" else self._values(kind, table, place)
        if kind == "app":
            secret, missing = self._credential(table, values, place)
            given = [lines[key] for key in KINDS_OF_CREDENTIAL if key in lines]
            lines |= {SECRETS[kind]: given[0]} if given else {}
        else:
            secret, missing = self._text_of(SECRETS.get(kind, ""), table, place)
        name = self._name(kind, table, place)
        if name is None:
            return None
        lines = {key: place.of(key) for key in values} | lines
        return Item(kind, name, place.line, values, lines, secret, missing)

    def _name(self, kind: str, table: dict[str, Any], place: Place) -> str | None:
        key, read = NAMES[kind]
        if key not in table:
            self.complain("nameless", place.line, f"This {kind} has no {key}.")
            return None
        try:
            found: str = read(key, table[key])
        except Wrong as wrong:
            self.complain("wrong", place.of(key), wrong.sentence, wrong.hint)
            return None
        return found

    def _values(self, kind: str, table: dict[str, Any], place: Place) -> dict[str, Any]:
        known, values = VALUES[kind], {}
        others = {NAMES[kind][0], *_secret_keys(kind)}
        for key in table:
            if key in known:
                try:
                    values[key] = known[key](key, table[key])
                except Wrong as wrong:
                    self.complain("wrong", place.of(key), wrong.sentence, wrong.hint)
            elif key not in others:
                self.refuse_unknown(kind, key, place)
        return values

    def refuse_unknown(self, kind: str, key: str, place: Place) -> None:
        known = sorted({*VALUES[kind], NAMES[kind][0], *_secret_keys(kind)})
        near = get_close_matches(key, known, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
        self.complain("unknown", place.of(key), f"{key[:80]} is not a setting of a {kind}.", hint)

    def _provider(self, table: dict[str, Any]) -> dict[str, Any]:
        """As it stands; its own room judges it, together with what is stored. Files are found from anywhere."""
        values = {key: value for key, value in table.items() if key not in ("name", "limits")}
        limits = table.get("limits", {})
        if isinstance(limits, dict):
            values |= {f"limits.{key}": value for key, value in limits.items()}
        else:
            values["limits"] = limits
        if isinstance(values.get("ca_file"), str) and values["ca_file"]:
            values["ca_file"] = os.path.abspath(self.base / values["ca_file"])  # noqa: PTH100 - must not follow links
        return values

    def _credential(self, table: dict[str, Any], values: dict[str, Any], place: Place) -> tuple[Secret | None, str]:
        """What the app shows itself with; what is known of it goes into `values`."""
        given = [key for key in KINDS_OF_CREDENTIAL if key in table]
        for key in given[1:]:
            self.complain("wrong", place.of(key), f"{given[0]} and {key} cannot both be given.", "Keep one of them.")
        if CERTIFICATE in table and "private_key" not in given:
            sentence = "A certificate needs its private_key."
            self.complain("wrong", place.of(CERTIFICATE), sentence, 'Add private_key = { file = "PATH" }.')
        if len(given) != 1:
            return None, ""
        certificate, missing = self._text_of(CERTIFICATE, table, place)
        secret, missing = (None, missing) if missing else self._text_of(given[0], table, place)
        if secret is None:
            return None, missing
        try:
            secret, known = read_credential(given[0], secret, certificate.reveal() if certificate else "")
        except Wrong as wrong:
            self.complain("wrong", place.of(given[0]), wrong.sentence, wrong.hint)
            return None, ""
        values.update({key: value for key, value in known.items() if key not in values})
        return secret, ""

    def _text_of(self, key: str, table: dict[str, Any], place: Place) -> tuple[Secret | None, str]:
        """The text of `key`, or why it is missing; neither where it is not given, or wrong."""
        if key not in table:
            return None, ""
        try:
            found = self._find_secret(key, table[key])
        except Wrong as wrong:
            self.complain("wrong", place.of(key), wrong.sentence, wrong.hint)
            return None, ""
        return (None, found) if isinstance(found, str) else (found, "")

    def _find_secret(self, key: str, value: object) -> Secret | str:
        """The secret, or why it is missing. Raises Wrong."""
        match value:
            case str():
                return _checked(key, value)
            case {"env": str(name), **others} if not others:
                found = self.environment.get(name, "")
                return _checked(key, found) if found else f"the environment variable {name[:80]} is not set"
            case {"file": str(name), **others} if name and not others:
                return self._from_file(key, name)
        raise Wrong(f"{key} has to be text, or say where it lies.", 'Write { env = "NAME" } or { file = "PATH" }.')

    def _from_file(self, key: str, name: str) -> Secret | str:
        try:
            content = self.read(self.base / name)
        except (OSError, ValueError):
            return f"the file {name[:200]} cannot be read"
        try:
            return _checked(key, content.decode("utf-8-sig").rstrip("\r\n"))
        except UnicodeDecodeError:
            raise Wrong(f"{key}: the file {name[:200]} does not hold text.") from None


def _secret_keys(kind: str) -> tuple[str, ...]:
    return (*KINDS_OF_CREDENTIAL, CERTIFICATE) if kind == "app" else (SECRETS[kind],) if kind in SECRETS else ()


def _checked(key: str, text: str) -> Secret:
    if not text:
        raise Wrong(f"{key} is empty.")
    if key in MULTILINE and len(text) <= LARGEST_SECRET:
        return Secret(text)
    if len(text) > LARGEST_SECRET or has_control(text):
        raise Wrong(f"{key} is not one line of text.", "A secret is a single line without control characters.")
    return Secret(text)
