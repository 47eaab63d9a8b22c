"""Names for rows. Message ids sort by time; the others are only random."""

import time

from posthouse.store.randomness import random_octets

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [one + other for one in _LETTERS for other in _LETTERS]


def _letters(number: int, count: int) -> str:
    text = ""
    for _ in range((count + 1) // 2):
        number, pair = divmod(number, 1024)
        text = _PAIRS[pair] + text
    return text[-count:]


def _random(octets: int) -> int:
    return int.from_bytes(random_octets(octets), "big")


def new_id(prefix: str) -> str:
    """For example mb_4k2n…: 80 random bits."""
    return f"{prefix}_{_letters(_random(10), 16)}"


def new_message_id(now: float | None = None) -> str:
    """A queue id of 20 letters: milliseconds since 1970, then 55 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    return _letters(milliseconds, 9) + _letters(_random(7), 11)


def first_message_id(at: float) -> str:
    """What every queue id made before `at` sorts before."""
    return _letters(int(at * 1000), 9)
