"""Where the master key may lie, what comes first, and what a person is told when it is not there or no key."""

import base64
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringLocked, PasswordDeleteError

from posthouse.problems import ProblemError
from posthouse.store.master_key import File, Given, Keyring, find_place, read_master_key
from posthouse.store.sealing import MasterKey, Unsealable, new_master_text


def text_of(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def same(one: MasterKey, other: MasterKey) -> bool:
    """Whether what one wraps the other can unwrap."""
    try:
        return other.unwrap(one.wrap(b"data key", "00000001"), "00000001") == b"data key"
    except Unsealable:
        return False


def master_key(data: Path, environment: Mapping[str, str], *, make: bool, in_keyring: bool = False) -> MasterKey:
    place = find_place(data, environment, keyring=in_keyring)
    return read_master_key(place, make=make, new=new_master_text())


def test_the_environment_comes_before_the_credential_and_that_before_the_file(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "posthouse-key").write_text(text_of(b"c" * 32))
    (tmp_path / "key").write_text(text_of(b"f" * 32) + "\n")
    both = {"POSTHOUSE_KEY": text_of(b"e" * 32), "CREDENTIALS_DIRECTORY": str(credentials)}
    assert same(master_key(tmp_path, both, make=True), MasterKey(b"e" * 32))
    del both["POSTHOUSE_KEY"]
    assert same(master_key(tmp_path, both, make=True), MasterKey(b"c" * 32))
    assert same(master_key(tmp_path, {}, make=True), MasterKey(b"f" * 32))
    assert same(master_key(tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, make=True), MasterKey(b"f" * 32))


def test_a_key_may_be_written_in_either_alphabet_and_with_its_padding(tmp_path: Path) -> None:
    key = b"\xfb\xff" * 16
    for text in (base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode(), text_of(key)):
        assert same(master_key(tmp_path, {"POSTHOUSE_KEY": f" {text}\n"}, make=True), MasterKey(key))


def test_a_missing_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    made = master_key(tmp_path, {}, make=True)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    kept = (tmp_path / "key").read_text()
    assert same(master_key(tmp_path, {}, make=True), made)
    assert (tmp_path / "key").read_text() == kept


def test_no_file_is_made_where_the_key_comes_from_elsewhere(tmp_path: Path) -> None:
    master_key(tmp_path, {"POSTHOUSE_KEY": text_of(os.urandom(32))}, make=True)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 43 + "!", text_of(bytes(31)), text_of(bytes(33)), "ключ", "é" * 43]
)
def test_what_is_no_key_is_a_plain_problem_and_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ProblemError) as raised:
        master_key(tmp_path, {}, make=True)
    assert raised.value.problems[0].id == "key.malformed"
    assert str(tmp_path / "key") in str(raised.value)
    assert (tmp_path / "key").read_text() == text


def test_a_key_file_of_other_octets_is_a_plain_problem(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(ProblemError, match="does not hold a Posthouse key"):
        master_key(tmp_path, {}, make=True)


def test_a_malformed_key_is_not_repeated_in_the_problem(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as raised:
        master_key(tmp_path, {"POSTHOUSE_KEY": "almost-a-key-but-too-short"}, make=True)
    assert "almost" not in str(raised.value)


def test_no_new_key_is_made_for_a_database_that_was_sealed_with_another(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="a key that is not here"):
        master_key(tmp_path, {}, make=False)
    assert not (tmp_path / "key").exists()


# Replacing


def test_a_new_key_lies_beside_the_old_one_until_it_takes_its_place(tmp_path: Path) -> None:
    place = File(tmp_path / "key")
    place.make("old")
    assert place.spare() is None
    place.keep_spare("newer")
    place.keep_spare("new")
    assert (place.read(), place.spare()) == ("old\n", "new\n")
    assert stat.S_IMODE((tmp_path / "key.new").stat().st_mode) == 0o600
    place.swap()
    assert (place.read(), place.spare()) == ("new\n", None)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_half_a_key_that_a_kill_left_behind_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "key.half").write_text("half a k")
    made = master_key(tmp_path, {}, make=True)
    assert same(master_key(tmp_path, {}, make=False), made)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_key_that_was_given_to_the_process_cannot_be_replaced_and_the_hint_says_how(tmp_path: Path) -> None:
    place = find_place(tmp_path, {"POSTHOUSE_KEY": text_of(bytes(32))}, keyring=True)
    assert isinstance(place, Given)
    refusal = r"POSTHOUSE_KEY, which Posthouse cannot change.*--new-key"
    with pytest.raises(ProblemError, match=refusal):
        place.make("new")
    with pytest.raises(ProblemError, match=refusal):
        place.keep_spare("new")
    with pytest.raises(ProblemError, match=refusal):
        place.swap()


def test_a_key_that_cannot_be_read_is_a_plain_problem(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    with pytest.raises(ProblemError, match="cannot be read: Is a directory"):
        master_key(tmp_path, {}, make=True)


# The operating system's keyring


class Drawer(KeyringBackend):
    """A keyring in memory, which can be locked."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("secret words of the backend")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError(username)


@pytest.fixture
def drawer() -> Iterator[Drawer]:
    before, made = keyring.get_keyring(), Drawer()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def test_in_the_keyring_a_key_is_made_once_and_lies_nowhere_else(tmp_path: Path, drawer: Drawer) -> None:
    made = master_key(tmp_path, {}, make=True, in_keyring=True)
    assert same(master_key(tmp_path, {}, make=False, in_keyring=True), made)
    assert list(drawer.entries) == [("posthouse", str(tmp_path.resolve()))]
    assert list(tmp_path.iterdir()) == []


def test_the_environment_can_name_the_keyring(tmp_path: Path, drawer: Drawer) -> None:
    assert isinstance(find_place(tmp_path, {"POSTHOUSE_KEY": "keyring"}, keyring=False), Keyring)


def test_in_the_keyring_a_new_key_takes_the_old_ones_place(tmp_path: Path, drawer: Drawer) -> None:
    place = Keyring(str(tmp_path))
    place.make("old")
    place.keep_spare("new")
    assert (place.read(), place.spare()) == ("old", "new")
    place.swap()
    assert (place.read(), place.spare()) == ("new", None)
    assert list(drawer.entries.values()) == ["new"]
    place.swap()
    assert place.read() == "new"


def test_a_locked_keyring_is_a_plain_problem_and_no_key_is_made(tmp_path: Path, drawer: Drawer) -> None:
    drawer.locked = True
    with pytest.raises(ProblemError) as raised:
        master_key(tmp_path, {}, make=True, in_keyring=True)
    assert raised.value.problems[0].id == "key.no-keyring"
    assert "it is locked or broken (KeyringLocked)" in str(raised.value)
    assert "secret words" not in str(raised.value)
    assert drawer.entries == {}


def test_a_machine_without_a_keyring_is_a_plain_problem(tmp_path: Path, drawer: Drawer) -> None:
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    with pytest.raises(ProblemError, match="there is none on this machine"):
        master_key(tmp_path, {}, make=True, in_keyring=True)


def test_a_missing_keyring_library_is_a_plain_problem_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(ProblemError) as raised:
        master_key(tmp_path, {}, make=True, in_keyring=True)
    assert raised.value.problems[0].id == "key.no-keyring"
    assert "pip install 'posthouse[keyring]'" in str(raised.value)


def test_an_empty_keyring_does_not_make_a_key_for_a_database_that_has_one(tmp_path: Path, drawer: Drawer) -> None:
    with pytest.raises(ProblemError, match="a key that is not here: there is none in the keyring"):
        master_key(tmp_path, {}, make=False, in_keyring=True)
    assert drawer.entries == {}
