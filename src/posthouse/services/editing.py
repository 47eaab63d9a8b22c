"""Making, changing and removing one thing from the command line, the API or the page.

It is an apply file with one item in it, and goes the same way: the same checks, one transaction. Only its origin is
no file, so it owns nothing; what a file owns and is changed here is drift, which the next apply of the file reports.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from posthouse.problems import Problem, ProblemError, problem
from posthouse.providers.provider import built_in
from posthouse.secret import Secret
from posthouse.services.apply_file import Wanted, read_item
from posthouse.services.apply_report import Report
from posthouse.services.apply_stored import Stored, key_of
from posthouse.services.apply_values import NAMES
from posthouse.services.applying import apply
from posthouse.services.clock import Clock
from posthouse.services.directory import Directory
from posthouse.services.edit_binding import bind
from posthouse.services.following import Following
from posthouse.services.giving_back import GivingBack
from posthouse.store.opening import Store

Kind = Literal["mailbox", "app", "provider", "device"]
Verb = Literal["add", "change", "remove"]
MOST_PROBLEMS = 50


@dataclass(frozen=True, slots=True)
class Rights:
    """What the door allows: to name files of the gateway's machine, and to say where stored secrets go from now on."""

    files: bool = False
    redirect: bool = False


COMMAND_LINE = Rights(files=True, redirect=True)
NETWORK = Rights()
TIMES = ("timeout", "check_interval", "deadline")


@dataclass(frozen=True, slots=True)
class Edited:
    """What was done. `changed` are keys; `password` is a device's new one, to be shown this once."""

    kind: Kind
    name: str
    id: str
    version: int
    what: str
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class Editing:
    store: Store
    directory: Directory
    giving_back: GivingBack
    following: Following
    clock: Clock

    async def add(self, kind: Kind, name: str, table: Mapping[str, Any], rights: Rights) -> Edited:
        """Make a new one, with the keys of an apply file. Raises ProblemError with all that is wrong."""
        return await self._put("add", kind, name, table, rights, None)

    async def change(
        self,
        kind: Kind,
        name: str,
        table: Mapping[str, Any],
        rights: Rights,
        *,
        version: int | None = None,
        move_to: str = "",
        discard: int = 0,
    ) -> Edited:
        """Change just these keys; None takes one away. With `version` only where nobody has changed it since.

        A device's password given as None is generated anew. Raises ProblemError with all that is wrong.
        """
        mail = {"move_to": move_to, "discard": discard}
        return await self._put("change", kind, name, table, rights, version, **mail)

    async def remove(
        self, kind: Kind, name: str, rights: Rights, *, version: int | None = None, move_to: str = "", discard: int = 0
    ) -> Edited:
        """Remove it, unless it is used or has mail. Raises ProblemError."""
        seen = _Seen("remove", kind, name, version, rights)
        report = await self._apply(Wanted("", ""), seen, removing=((kind, name),), move_to=move_to, discard=discard)
        return self._edited("remove", kind, name, report)

    async def _put(
        self,
        verb: Verb,
        kind: Kind,
        name: str,
        table: Mapping[str, Any],
        rights: Rights,
        version: int | None,
        **mail: Any,
    ) -> Edited:
        given = _given(kind, name, table)
        wanted = read(kind, given, rights)
        known_as = wanted.items[0].name if wanted.items else name
        try:
            report = await self._apply(wanted, _Seen(verb, kind, known_as, version, rights), **mail)
        except ProblemError as error:
            raise _with_keys(error, list(given)) from None
        return self._edited(verb, kind, known_as, report)

    async def _apply(self, wanted: Wanted, seen: "_Seen", **options: Any) -> Report:
        report = await apply(self.store, wanted, self.clock(), look=seen.look, **options)
        await self.settle(report)
        return report

    async def settle(self, report: Report) -> None:
        """What follows when something was written: unused tokens are given back, everybody is told."""
        if report.unused_tokens:
            await self.giving_back.remove_unused()
        await self.directory.refresh()
        self.following.ring()

    def _edited(self, verb: Verb, kind: Kind, name: str, report: Report) -> Edited:
        key = key_of(kind, name)
        entry = next((one for one in report.entries if one.kind == kind and key_of(kind, one.name) == key), None)
        what = entry.what if entry else "unchanged"
        found = self.find(kind, name)
        return Edited(
            kind,
            name,
            found.id if found else "",
            found.version if found else 0,
            "changed" if (verb, what) == ("change", "added") else what,
            entry.keys if entry else (),
            tuple(report.notes),
            report.generated.get(name),
        )

    def find(self, kind: Kind, name: str) -> Any:
        """The stored row, by the name that files use, or None."""
        snapshot = self.directory.now
        match kind:
            case "provider":
                return snapshot.configuration.providers.get(name)
            case "app":
                return snapshot.apps_by_name.get(name)
            case "mailbox":
                return snapshot.by_address.get(name)
        return snapshot.devices_by_name.get(name.casefold())


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is looked at in the transaction: whether it is there, untouched, and where its secrets would go."""

    verb: Verb
    kind: Kind
    name: str
    version: int | None
    rights: Rights

    def look(self, wanted: Wanted, stored: Stored) -> Wanted:
        """Raises ProblemError."""
        row = stored.find(self.kind, self.name)
        known = row is not None or (self.kind == "provider" and self.name in built_in())
        self._must_be(known)
        if self.verb == "remove" and row is None:
            sentence = f"The provider {self.name} comes with Posthouse and cannot be removed."
            raise problem("edit.built-in", sentence)
        if self.version is not None and self.version != (row.version if row is not None else 0):
            sentence = f"The {self.kind} {self.name} was changed by somebody else meanwhile."
            raise problem("edit.changed", sentence, "Look at it again, then change it.")
        removing = self.name if self.verb == "remove" else ""
        return bind(wanted, stored, removing=removing, may_redirect=self.rights.redirect)

    def _must_be(self, known: bool) -> None:
        if self.verb == "add" and known:
            raise problem("edit.exists", f"There is a {self.kind} {self.name} already.", "Change that one.")
        if self.verb != "add" and not known:
            raise problem("edit.gone", f"There is no {self.kind} {self.name}.", status=64)


def _given(kind: Kind, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with its name first. Raises ProblemError where it would get another one."""
    key = NAMES[kind][0]
    if table.get(key, name) != name:
        sentence = f"The {key} of a {kind} cannot be changed."
        raise problem("edit.renamed", sentence, "Add a new one, and remove this one.", where=key, status=64)
    return {key: name, **{key: _written(key, value) for key, value in _with_flat_limits(table)}}


def read(kind: Kind, given: Mapping[str, Any], rights: Rights) -> Wanted:
    """One item; what this door does not take is among its problems."""
    renew = kind == "device" and "password" in given and given["password"] is None
    return read_item(kind, given, dict(_refused(given, rights)), renew=renew)


def _with_flat_limits(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Limits that are taken away as keys of their own."""
    for key, value in table.items():
        if key != "limits" or not isinstance(value, dict):
            yield key, value
            continue
        yield key, {name: limit for name, limit in value.items() if limit is not None}
        yield from ((f"limits.{name}", None) for name, limit in value.items() if limit is None)


def _written(key: str, value: Any) -> Any:
    """As files write it: the API tells times as seconds, so it takes them too."""
    is_seconds = key in TIMES and isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.0f}s" if is_seconds else value


def _refused(table: Mapping[str, Any], rights: Rights) -> Iterator[tuple[str, Problem]]:
    for key, value in table.items():
        if key == "ca_file" and not rights.files:
            yield key, Problem("elsewhere", "ca_file is taken from the command line and from apply files only.")
        elif isinstance(value, dict) and key != "limits":
            yield key, Problem("elsewhere", f"{key} has to be the value itself.", "Only apply files say where it lies.")


def _with_keys(error: ProblemError, keys: Sequence[str]) -> ProblemError:
    """With the key in the place of its number."""

    def key_of_line(where: str) -> str:
        number = where.rpartition(":")[2]
        return keys[int(number) - 1] if number.isdigit() and 0 < int(number) <= len(keys) else ""

    found = [replace(one, where=key_of_line(one.where)) for one in error.problems[:MOST_PROBLEMS]]
    return ProblemError(*found, status=error.status)
