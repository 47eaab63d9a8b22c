"""Passwords of people: checked slowly, a few at a time, and more slowly for an address that keeps failing."""

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from posthouse.secret import Secret
from posthouse.services.clock import Clock

AT_ONCE = 2
WAITING = 10
"""Checks that may wait for their turn; each takes about 0.13 s and 64 MB."""
FREE_FAILURES = 3
LONGEST = 300.0
REMEMBERED = 10_000
"""Addresses whose failures are counted."""
MAX_PASSWORD = 1000
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$Y0/me/FRmuuI4okpDL0Z+Q$qwrBIbDmc/Nh/hMDSH89DYRM+1LX2ntIjHI9TrJqriw"
"""Checked for a name that does not exist, so that it takes as long as for one that does."""


class Busy(Exception):
    """Too many passwords are waiting to be checked."""


class Passwords:
    """Checks passwords in threads of its own. Failures are counted by the address they come from."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="posthouse-sign-in")
        self._waiting = 0
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds before this address may try again."""
        failures, last = self._failures.get(address, (0, 0.0))
        return max(0.0, last + pause_after(failures) - self._clock())

    async def check(self, hashed: str, password: Secret, address: str) -> bool:
        """`hashed` is empty for a name that has no password, or does not exist. Raises Busy."""
        if self._waiting >= WAITING:
            raise Busy
        self._count_failure(address)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._pool, _verify, hashed or _NOBODY, password)
        finally:
            self._waiting -= 1
        if right:
            self._failures.pop(address, None)
        return right

    def _count_failure(self, address: str) -> None:
        """Before the check, so that many at the same moment count as well."""
        failures, _ = self._failures.pop(address, (0, 0.0))
        self._failures[address] = (failures + 1, self._clock())
        if len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def pause_after(failures: int) -> float:
    """Seconds: none for the first failures, then 1, 2, 4 … up to five minutes."""
    return 0.0 if failures < FREE_FAILURES else min(2.0 ** (failures - FREE_FAILURES), LONGEST)


def hash_password(password: Secret) -> str:
    """Takes a tenth of a second on purpose."""
    from argon2 import PasswordHasher

    return PasswordHasher().hash(password.reveal())


def _verify(hashed: str, password: Secret) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHashError

    if len(password.reveal()) > MAX_PASSWORD:
        return False
    try:
        return PasswordHasher().verify(hashed, password.reveal())
    except (Argon2Error, InvalidHashError):
        return False
