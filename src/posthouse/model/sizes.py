"""Sizes as people write them: `35 MB`, where a megabyte is 1024 times 1024 octets as mail servers count."""

import re

from posthouse.problems import Problem, ProblemError

_UNITS = {"": 1, "b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}
_WRITTEN = re.compile(r"(\d{1,12})\s*([a-z]*)")


def parse_size(value: object, where: str = "") -> int:
    """Octets, from a number or from a text with B, KB, MB or GB. Raises `ProblemError`."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    written = _WRITTEN.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if written is None or written[2] not in _UNITS or int(written[1]) == 0:
        raise ProblemError(Problem("size.unreadable", f"{value!r} is not a size.", 'Write it as "35 MB".', where))
    return int(written[1]) * _UNITS[written[2]]


def written_size(octets: int) -> str:
    """As `parse_size` reads it, in the largest unit that gives a whole number."""
    unit = next(unit for unit in ("gb", "mb", "kb", "") if octets % _UNITS[unit] == 0)
    return f"{octets // _UNITS[unit]} {unit.upper()}".strip()
