"""Random conversations with every engine: none may raise, and how the octets fall may change nothing.

POSTHOUSE_FUZZ_SECONDS is the time for all of them together; without it they take two seconds and are the same each
time. What is found is put into `corpus/TARGET/` and played in every run from then on.
"""

import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
GIVEN = os.environ.get("POSTHOUSE_FUZZ_SECONDS", "")
SECONDS = float(GIVEN or 2) / len(TARGETS)
LONG, LONGEST = 2000, 20_000
PATIENCE = 5.0
"""Seconds for making an input smaller that was found."""


def check(target: Target, octets: bytes) -> None:
    whole = target.play(octets, max(1, len(octets)))
    assert target.play(octets, 1 if len(octets) < LONG else 7) == whole


def inputs(target: Target, dice: random.Random) -> Iterator[bytes]:
    """Conversations out of the target's words, some of them damaged; without end."""
    while True:
        made = dice.choice(target.openings)
        for _ in range(dice.randint(0, 20)):
            made += dice.choice(target.words) + dice.choice(target.ends)
        for _ in range(dice.choice((0, 0, 1, 3))):
            made = damaged(made, dice)
        yield made[:LONGEST]


def damaged(octets: bytes, dice: random.Random) -> bytes:
    at, to = sorted(dice.randint(0, len(octets)) for _ in range(2))
    cut = octets[at:to][:50]
    return dice.choice((
        octets[:at] + octets[at + 1 :],
        octets[:at] + bytes([dice.randrange(256)]) + octets[at:],
        octets[:at] + cut * dice.randint(2, 40) + octets[at:],
        octets[:at] + octets[to:],
    ))  # fmt: skip


def kept(target: Target) -> list[Path]:
    return sorted((CORPUS / target.name).glob("*"))


def keep(target: Target, octets: bytes) -> Path:
    """Put what was found where every run plays it."""
    path = CORPUS / target.name / hashlib.sha256(octets).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(octets)
    return path


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_was_found_before(target: Target) -> None:
    for path in kept(target):
        check(target, path.read_bytes())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_random_conversations(target: Target) -> None:
    dice = random.Random(None if GIVEN else 1)
    until = time.monotonic() + SECONDS
    for number, octets in enumerate(inputs(target, dice)):
        try:
            check(target, octets)
        except Exception as fault:
            raise AssertionError(f"{type(fault).__name__} with {keep(target, smaller(target, octets))}") from fault
        if number >= 20 and time.monotonic() > until:
            break


def fails(target: Target, octets: bytes) -> bool:
    try:
        check(target, octets)
    except Exception:
        return True
    return False


def smaller(target: Target, octets: bytes) -> bytes:
    """Still at fault, with what can be left out left out."""
    until = time.monotonic() + PATIENCE
    size = max(1, len(octets) // 2)
    while size:
        at = 0
        while at < len(octets) and time.monotonic() < until:
            without = octets[:at] + octets[at + size :]
            if fails(target, without):
                octets = without
            else:
                at += size
        size //= 2
    return octets
