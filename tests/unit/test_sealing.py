import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.problems import ProblemError
from posthouse.store.sealing import OVERHEAD, MasterKey, Sealer, Unsealable, fingerprint, new_data_key, read_master_key

KEYS = {"00000001": bytes(range(32)), "00000002": bytes(range(32, 64))}


def text_of(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def same(one: MasterKey, other: MasterKey) -> bool:
    """Whether what one wraps the other can unwrap."""
    try:
        return other.unwrap(one.wrap(b"data key", "00000001"), "00000001") == b"data key"
    except Unsealable:
        return False


# Values


@given(st.binary(max_size=300), st.text(max_size=30))
def test_what_was_sealed_is_opened_in_its_place(plain: bytes, place: str) -> None:
    sealer = Sealer(KEYS)
    sealed = sealer.seal(plain, place)
    assert sealer.open(sealed, place) == plain
    assert len(sealed) == len(plain) + OVERHEAD


def test_the_same_value_looks_different_each_time() -> None:
    sealer = Sealer(KEYS)
    assert sealer.seal(b"secret", "grant:gr_1:1") != sealer.seal(b"secret", "grant:gr_1:1")


def test_a_value_cannot_be_opened_in_another_place() -> None:
    sealer = Sealer(KEYS)
    sealed = sealer.seal(b"secret", "grant:gr_1:1")
    with pytest.raises(Unsealable, match="grant:gr_2:1"):
        sealer.open(sealed, "grant:gr_2:1")


def test_no_octet_can_be_changed() -> None:
    sealer = Sealer(KEYS)
    sealed = sealer.seal(b"secret", "place")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(Unsealable):
            sealer.open(bytes(changed), "place")


@given(st.binary(max_size=60))
def test_rubbish_is_refused_and_nothing_else_goes_wrong(rubbish: bytes) -> None:
    with pytest.raises(Unsealable):
        Sealer(KEYS).open(rubbish, "place")
    with pytest.raises(Unsealable):
        MasterKey(bytes(32)).unwrap(rubbish, "00000001")


def test_a_shortened_value_is_refused() -> None:
    sealer = Sealer(KEYS)
    sealed = sealer.seal(b"secret", "place")
    for length in range(len(sealed)):
        with pytest.raises(Unsealable):
            sealer.open(sealed[:length], "place")


def test_what_an_older_key_sealed_is_still_opened() -> None:
    older = Sealer({"00000001": KEYS["00000001"]})
    assert Sealer(KEYS).open(older.seal(b"secret", "place"), "place") == b"secret"
    with pytest.raises(Unsealable, match="not here"):
        older.open(Sealer(KEYS).seal(b"secret", "place"), "place")


def test_two_keys_with_one_name_are_told_apart() -> None:
    sealed = Sealer({"00000001": bytes(32)}).seal(b"secret", "place")
    with pytest.raises(Unsealable):
        Sealer({"00000001": KEYS["00000001"]}).open(sealed, "place")


def test_derived_keys_stay_the_same_when_a_key_is_added_and_differ_by_purpose() -> None:
    before = Sealer({"00000001": KEYS["00000001"]}).derive("device passwords")
    after = Sealer(KEYS)
    assert after.derive("device passwords") == before
    assert after.derive("cookies") != before
    assert len(before) == 32
    assert before not in KEYS.values()


def test_a_fingerprint_recognises_and_tells_nothing() -> None:
    assert fingerprint("state") == fingerprint("state") != fingerprint("State")
    assert len(fingerprint("state")) == 64


# Keys


def test_a_data_key_is_unwrapped_by_its_master_key_under_its_name_only() -> None:
    master = MasterKey(bytes(32))
    key_id, key = new_data_key()
    wrapped = master.wrap(key, key_id)
    assert master.unwrap(wrapped, key_id) == key
    assert key not in wrapped
    with pytest.raises(Unsealable):
        master.unwrap(wrapped, "00000001")
    with pytest.raises(Unsealable):
        MasterKey(bytes(range(32))).unwrap(wrapped, key_id)


def test_the_environment_comes_before_the_credential_and_that_before_the_file(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "posthouse-key").write_text(text_of(b"c" * 32))
    (tmp_path / "key").write_text(text_of(b"f" * 32) + "\n")
    both = {"POSTHOUSE_KEY": text_of(b"e" * 32), "CREDENTIALS_DIRECTORY": str(credentials)}
    assert same(read_master_key(tmp_path, both, make=True), MasterKey(b"e" * 32))
    del both["POSTHOUSE_KEY"]
    assert same(read_master_key(tmp_path, both, make=True), MasterKey(b"c" * 32))
    assert same(read_master_key(tmp_path, {}, make=True), MasterKey(b"f" * 32))
    assert same(read_master_key(tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, make=True), MasterKey(b"f" * 32))


def test_a_key_may_be_written_in_either_alphabet_and_with_its_padding(tmp_path: Path) -> None:
    key = b"\xfb\xff" * 16
    for text in (base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode(), text_of(key)):
        assert same(read_master_key(tmp_path, {"POSTHOUSE_KEY": f" {text}\n"}, make=True), MasterKey(key))


def test_a_missing_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    made = read_master_key(tmp_path, {}, make=True)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    kept = (tmp_path / "key").read_text()
    assert same(read_master_key(tmp_path, {}, make=True), made)
    assert (tmp_path / "key").read_text() == kept


def test_no_file_is_made_where_the_key_comes_from_elsewhere(tmp_path: Path) -> None:
    read_master_key(tmp_path, {"POSTHOUSE_KEY": text_of(os.urandom(32))}, make=True)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 43 + "!", text_of(bytes(31)), text_of(bytes(33)), "ключ", "é" * 43]
)
def test_what_is_no_key_is_a_plain_problem_and_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ProblemError) as raised:
        read_master_key(tmp_path, {}, make=True)
    assert raised.value.problems[0].id == "key.malformed"
    assert str(tmp_path / "key") in str(raised.value)
    assert (tmp_path / "key").read_text() == text


def test_a_key_file_of_other_octets_is_a_plain_problem(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(ProblemError, match="does not hold a Posthouse key"):
        read_master_key(tmp_path, {}, make=True)


def test_a_malformed_key_is_not_repeated_in_the_problem(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as raised:
        read_master_key(tmp_path, {"POSTHOUSE_KEY": "almost-a-key-but-too-short"}, make=True)
    assert "almost" not in str(raised.value)


def test_no_new_key_is_made_for_a_database_that_was_sealed_with_another(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="a key that is not here"):
        read_master_key(tmp_path, {}, make=False)
    assert not (tmp_path / "key").exists()
