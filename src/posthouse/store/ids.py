"""Names for rows. Message ids sort by time; the others are only random."""

import secrets
import time

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def _letters(number: int, count: int) -> str:
    return "".join(_LETTERS[(number >> (5 * position)) & 31] for position in reversed(range(count)))


def new_id(prefix: str) -> str:
    """For example mb_4k2n…: 80 random bits."""
    return f"{prefix}_{_letters(secrets.randbits(80), 16)}"


def new_message_id(now: float | None = None) -> str:
    """A queue id of 20 letters: milliseconds since 1970, then 55 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    return _letters(milliseconds, 9) + _letters(secrets.randbits(55), 11)


def first_message_id(at: float) -> str:
    """What every queue id made before `at` sorts before."""
    return _letters(int(at * 1000), 9)
