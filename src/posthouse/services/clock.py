"""Time as the services see it: given to them, so that tests can turn the hands."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds since 1970."""


def as_datetime(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
