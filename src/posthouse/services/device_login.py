"""Checking the passwords of devices: generated ones by a keyed hash, chosen ones by argon2, slowly and remembered."""

import asyncio
import hashlib
import hmac
import secrets
from concurrent.futures import ThreadPoolExecutor

from posthouse.model.device import Device, login_names
from posthouse.secret import Secret
from posthouse.services.clock import Clock
from posthouse.services.directory import Directory
from posthouse.store.sealing import Sealer

REMEMBER = 600.0
"""Seconds that a chosen password need not be checked again."""
REMEMBERED = 10_000
WAITING = 100
"""Chosen passwords that may wait to be checked at once."""
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


class LoginsBusy(Exception):
    """Too many chosen passwords are being checked; come back later."""


class DeviceLogins:
    """Knows who a device is; knows nothing that could open a token."""

    def __init__(self, directory: Directory, sealer: Sealer, clock: Clock) -> None:
        self._directory = directory
        self._key = password_key(sealer)
        self._clock = clock
        self._remembered: dict[bytes, float] = {}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="posthouse-password")
        self._waiting = 0

    async def check(self, login: str, password: Secret, peer: str, protocol: str) -> tuple[Device, str] | None:
        """The device that logs in with this password, and the mailbox address it names or "". Raises LoginsBusy."""
        if (found := self.check_quickly(login, password, peer, protocol)) is not None:
            return found
        mailbox = login_names(login)[1]
        for device in self._candidates(login, peer, protocol):
            if await self._fits_slowly(device, password):
                return device, mailbox
        return None

    def check_quickly(self, login: str, password: Secret, peer: str, protocol: str) -> tuple[Device, str] | None:
        """The same, as far as it is known without work; None is not yet a refusal."""
        digest = _digest(self._key, password)
        for device in self._candidates(login, peer, protocol):
            if self._fits(device, digest):
                return device, login_names(login)[1]
        return None

    def _candidates(self, login: str, peer: str, protocol: str) -> list[Device]:
        """The devices that this login may mean, where they may come from."""
        return [
            device
            for device in self._named(*login_names(login))
            if protocol in device.settings.protocols and device.admits(peer)
        ]

    def _named(self, name: str, mailbox: str) -> list[Device]:
        devices = self._directory.now.devices_by_name
        if name:
            named = devices.get(name.casefold())
            return [named] if named else []
        return [device for device in devices.values() if mailbox.casefold() in device.settings.mailboxes]

    def _fits(self, device: Device, digest: bytes) -> bool:
        kind, _, rest = device.password_hash.partition(":")
        if kind == "generated":
            return hmac.compare_digest(rest, digest.hex())
        return kind == "chosen" and self._remembered.get(_known_as(device, rest, digest), 0.0) > self._clock()

    async def _fits_slowly(self, device: Device, password: Secret) -> bool:
        kind, _, hashed = device.password_hash.partition(":")
        if kind != "chosen":
            return False
        if self._waiting >= WAITING:
            raise LoginsBusy
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._pool, _fits_chosen, hashed, password)
        finally:
            self._waiting -= 1
        if right:
            self._remember(_known_as(device, hashed, _digest(self._key, password)))
        return right

    def _remember(self, known: bytes) -> None:
        if len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
        self._remembered[known] = self._clock() + REMEMBER

    def hash_generated(self, password: Secret) -> str:
        return hash_generated(self._key, password)

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def password_key(sealer: Sealer) -> bytes:
    """What generated passwords are hashed with."""
    return sealer.derive("device passwords")


def hash_generated(key: bytes, password: Secret) -> str:
    return f"generated:{_digest(key, password).hex()}"


def fits(password_hash: str, key: bytes, password: Secret) -> bool:
    """Whether the hash was made of this password; for one that a person chose it takes a tenth of a second."""
    kind, _, rest = password_hash.partition(":")
    if kind == "chosen":
        return _fits_chosen(rest, password)
    return hmac.compare_digest(password_hash, hash_generated(key, password))


def hash_chosen(password: Secret) -> str:
    """A password that a person chose; takes a tenth of a second on purpose."""
    from argon2 import PasswordHasher

    return f"chosen:{PasswordHasher().hash(password.reveal())}"


def generate_password() -> Secret:
    """Sixteen letters and digits that cannot be mistaken for one another, for a keypad: 79 bits."""
    return Secret("".join(secrets.choice(_LETTERS) for _ in range(16)))


def _known_as(device: Device, hashed: str, digest: bytes) -> bytes:
    """What is remembered of a chosen password that was right."""
    return hashlib.sha256(f"{device.id}\0{hashed}\0".encode() + digest).digest()


def _digest(key: bytes, password: Secret) -> bytes:
    return hmac.digest(key, password.reveal().encode(), "sha256")


def _fits_chosen(hashed: str, password: Secret) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return PasswordHasher().verify(hashed, password.reveal())
    except (Argon2Error, InvalidHashError):
        return False
