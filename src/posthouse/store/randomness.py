"""Random octets of the system, fetched many at a time: each system call lets go of Python's lock."""

import os

MOST = 16
_AT_ONCE = 256
_items: list[bytes] = []
os.register_at_fork(after_in_child=_items.clear)


def random_octets(count: int) -> bytes:
    """At most MOST of them, which nobody else is given; for any thread."""
    while True:
        try:
            return _items.pop()[:count]
        except IndexError:
            fresh = os.urandom(MOST * _AT_ONCE)
            _items.extend(fresh[place : place + MOST] for place in range(0, len(fresh), MOST))
