"""Where the master key lies: the environment, a systemd credential, the operating system's keyring, or a file.

Of the latter two a key can be replaced: the new one is kept beside the old one until the database knows it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posthouse.problems import ProblemError, problem
from posthouse.store.sealing import MasterKey, sync_directory

KEYRING = "keyring"
"""What `key` in posthouse.toml, or POSTHOUSE_KEY, says for the operating system's keyring."""
SERVICE = "posthouse"
_INSTALL = "Install it with: pip install 'posthouse[keyring]'. Or leave `key` out of posthouse.toml."


class Place(Protocol):
    """Where a master key lies. All methods may block."""

    @property
    def kind(self) -> str:
        """environment, credential, keyring or file"""
        ...

    @property
    def where(self) -> str:
        """What a person calls it."""
        ...

    def read(self) -> str | None:
        """The key's text; None where there is none. Raises ProblemError."""
        ...

    def make(self, text: str) -> None:
        """Keep the first key there. Raises ProblemError."""
        ...

    def spare(self) -> str | None:
        """The key that is to take its place, as far as that has come. Raises ProblemError."""
        ...

    def keep_spare(self, text: str) -> None:
        """When this returns, the new key is kept beside the old one. Raises ProblemError."""
        ...

    def swap(self) -> None:
        """The spare takes the place of the key. Raises ProblemError."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """A key that was given to the process, which cannot change it."""

    kind: str
    where: str
    text: str = field(repr=False)

    def read(self) -> str | None:
        return self.text

    def make(self, text: str) -> None:
        raise self.cannot()

    def spare(self) -> str | None:
        return None

    def keep_spare(self, text: str) -> None:
        raise self.cannot()

    def swap(self) -> None:
        raise self.cannot()

    def cannot(self) -> ProblemError:
        return problem(
            "key.given",
            f"The master key comes from {self.where}, which Posthouse cannot change.",
            "Make one with `openssl rand -base64 32 > new.key`, then: posthouse key rotate --new-key new.key",
            status=64,
        )


@dataclass(frozen=True, slots=True)
class File:
    """DATA/key, and DATA/key.new beside it."""

    path: Path
    kind: str = "file"

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def _spare(self) -> Path:
        return self.path.with_name(self.path.name + ".new")

    def read(self) -> str | None:
        return _text_of(self.path)

    def make(self, text: str) -> None:
        _write(self.path, text)

    def spare(self) -> str | None:
        return _text_of(self._spare)

    def keep_spare(self, text: str) -> None:
        self._spare.unlink(missing_ok=True)
        _write(self._spare, text)

    def swap(self) -> None:
        self._spare.replace(self.path)
        sync_directory(self.path.parent)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise problem(
            "key.unreadable", f"The master key {path} cannot be read: {cause.strerror}.", "Check who owns it."
        ) from None


def _write(path: Path, text: str) -> None:
    """For its owner only; on disk when this returns, and never half of it under this name."""
    half = path.with_name(path.name + ".half")
    half.unlink(missing_ok=True)
    handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
    sync_directory(path.parent)


@dataclass(frozen=True, slots=True)
class Keyring:
    """An entry of the operating system's keyring, by service `posthouse` and the data directory."""

    entry: str
    kind: str = KEYRING

    @property
    def where(self) -> str:
        return f"the keyring (posthouse, {self.entry})"

    def read(self) -> str | None:
        return _text(self._ask("get_password", self.entry))

    def make(self, text: str) -> None:
        self._ask("set_password", self.entry, text)

    def spare(self) -> str | None:
        return _text(self._ask("get_password", self._spare))

    def keep_spare(self, text: str) -> None:
        self._ask("set_password", self._spare, text)

    def swap(self) -> None:
        if (text := self.spare()) is not None:
            self._ask("set_password", self.entry, text)
            self._ask("delete_password", self._spare)

    @property
    def _spare(self) -> str:
        return f"{self.entry} (new)"

    def _ask(self, verb: str, *words: str) -> Any:
        """The library tells its own errors from those of a backend that is broken; for a person they are one."""
        try:
            import keyring
        except ImportError:
            sentence = 'posthouse.toml says key = "keyring", but the keyring library is not installed.'
            raise problem("key.no-keyring", sentence, _INSTALL) from None
        try:
            return getattr(keyring, verb)(SERVICE, *words)
        except keyring.errors.NoKeyringError:
            raise self._problem("there is none on this machine, or none that a service can reach") from None
        except Exception as cause:
            raise self._problem(f"it is locked or broken ({type(cause).__name__})") from None

    def _problem(self, why: str) -> ProblemError:
        hint = "`keyring diagnose` shows what is used. Unlock it, or leave `key` out of posthouse.toml."
        return problem("key.no-keyring", f"The operating system's keyring cannot be used: {why}.", hint)


def _text(answer: Any) -> str | None:
    return str(answer) if answer is not None else None


def find_place(data: Path, environment: Mapping[str, str], *, keyring: bool) -> Place:
    """POSTHOUSE_KEY, a systemd credential named posthouse-key, the keyring where it is wished, else DATA/key."""
    text = environment.get("POSTHOUSE_KEY", "")
    if text and text != KEYRING:
        return Given("environment", "POSTHOUSE_KEY", text)
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    if credentials and (path := Path(credentials) / "posthouse-key").exists():
        return Given("credential", f"the systemd credential {path}", _text_of(path) or "")
    if keyring or text == KEYRING:
        return Keyring(str(data.resolve()))
    return File(data / "key")


def read_master_key(place: Place, *, make: bool, new: str) -> MasterKey:
    """What lies at `place`; where nothing does, `new`, if it may be made.

    Raises ProblemError where there is none, or what is there is not a key.
    """
    text = place.read()
    if text is None and make:
        place.make(new)
        text = place.read()
    if text is None:
        raise problem(
            "key.missing",
            f"The database was made with a key that is not here: there is none in {place.where}.",
            "Put it back from your backup, or give it in POSTHOUSE_KEY. Nothing was changed.",
        )
    return parse_master_key(text, place.where)


def parse_master_key(text: str, where: str) -> MasterKey:
    """Raises ProblemError, which does not repeat the text."""
    try:
        return MasterKey.from_text(text)
    except ValueError:
        hint = "It is 43 letters of base64, 32 octets. Nothing was changed."
        raise problem("key.malformed", f"{where} does not hold a Posthouse key.", hint) from None


def wrong_key(place: Place, master: MasterKey, wanted: list[str]) -> ProblemError:
    """`wanted`: the ids of the master keys that fit."""
    return problem(
        "key.wrong",
        f"The key in {place.where} ({master.id}) does not fit the database, which needs {' or '.join(wanted)}.",
        "Put back the key this database was made with, from your backup of it. Nothing was changed.",
    )
