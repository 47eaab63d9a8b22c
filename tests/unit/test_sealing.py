from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.store.sealing import (
    OVERHEAD,
    Keys,
    MasterKey,
    Sealer,
    Unsealable,
    fingerprint,
    key_id_of,
    new_data_key,
)

OLDER = Keys({"00000001": bytes(range(32))}, "00000001", bytes(range(64, 96)))
KEYS = Keys({"00000001": bytes(range(32)), "00000002": bytes(range(32, 64))}, "00000002", bytes(range(64, 96)))


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
    older = Sealer(OLDER)
    assert Sealer(KEYS).open(older.seal(b"secret", "place"), "place") == b"secret"
    with pytest.raises(Unsealable, match="not here"):
        older.open(Sealer(KEYS).seal(b"secret", "place"), "place")


def test_after_a_change_it_seals_with_the_new_key_and_still_opens_what_was_on_its_way() -> None:
    sealer = Sealer(OLDER)
    sealed = sealer.seal(b"secret", "place")
    sealer.take(replace(KEYS, sealing={"00000002": KEYS.sealing["00000002"]}))
    assert sealer.open(sealed, "place") == b"secret"
    assert (key_id_of(sealed), key_id_of(sealer.seal(b"secret", "place"))) == ("00000001", "00000002")


def test_two_keys_with_one_name_are_told_apart() -> None:
    sealed = Sealer(replace(OLDER, sealing={"00000001": bytes(32)})).seal(b"secret", "place")
    with pytest.raises(Unsealable):
        Sealer(OLDER).open(sealed, "place")


def test_derived_keys_stay_the_same_when_the_data_key_is_changed_and_differ_by_purpose() -> None:
    sealer = Sealer(OLDER)
    before = sealer.derive("device passwords")
    sealer.take(replace(KEYS, sealing={"00000002": KEYS.sealing["00000002"]}))
    assert sealer.derive("device passwords") == before
    assert sealer.derive("cookies") != before
    assert len(before) == 32
    assert before not in (*KEYS.sealing.values(), KEYS.root)


def test_keys_are_not_shown() -> None:
    assert "x02" not in repr(KEYS)


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


def test_the_name_of_a_master_key_is_always_the_same_and_tells_nothing_of_it() -> None:
    assert MasterKey(bytes(32)).id == MasterKey(bytes(32)).id != MasterKey(bytes(range(32))).id
    assert len(MasterKey(bytes(32)).id) == 8
    assert MasterKey(bytes(range(32))).id not in bytes(range(32)).hex()
