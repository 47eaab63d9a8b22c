"""Encryption at rest: AES-256-GCM, each value bound to its place, so that rows cannot be swapped.

A master key from outside the database wraps data keys that lie in it; a change of the master key re-wraps those.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from posthouse.store.randomness import random_octets

_FORMAT = b"\x01"
_KEY_ID = 4
_NONCE = 12
PREFIX = len(_FORMAT) + _KEY_ID
"""Octets at the beginning of a sealed value that name its key."""
OVERHEAD = PREFIX + _NONCE + 16


class Unsealable(Exception):
    """The value was sealed for another place, with another key, or was changed."""


class MasterKey:
    """32 octets from outside the database. `id` names it and tells nothing about it."""

    __slots__ = ("_cipher", "id")

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self.id = _derived(key, "name of a master key", _KEY_ID).hex()

    @classmethod
    def from_text(cls, text: str) -> "MasterKey":
        """From base64 in either alphabet. Raises ValueError."""
        letters = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
        key = base64.b64decode(letters + "=" * (-len(letters) % 4), altchars="-_", validate=True)
        if len(key) != 32:
            raise ValueError("not 32 octets")
        return cls(key)

    def wrap(self, key: bytes, key_id: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, key, f"sealing_key:{key_id}".encode())

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Raises Unsealable."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], f"sealing_key:{key_id}".encode())
        except (InvalidTag, ValueError):
            raise Unsealable("not the master key that wrapped this data key") from None


def new_master_text() -> str:
    """A new master key as it is written into a file: 43 letters of base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Keys:
    """Data keys by their ids of 8 hexadecimal digits; `current` is the one to seal with, `root` is derived from."""

    sealing: Mapping[str, bytes] = field(repr=False)
    current: str
    root: bytes = field(repr=False)


class Sealer:
    """Seals with the current data key, opens with the one that a value names."""

    __slots__ = ("_ciphers", "_current", "_root", "_sealing")

    def __init__(self, keys: Keys) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        self.take(keys)

    def take(self, keys: Keys) -> None:
        """From now on these. Former ones go on opening: what they sealed may still be on its way in this process."""
        self._ciphers |= {bytes.fromhex(key_id): AESGCM(key) for key_id, key in keys.sealing.items()}
        self._current = bytes.fromhex(keys.current)
        self._root = keys.root

    def seal(self, plain: bytes, place: str) -> bytes:
        nonce, current = random_octets(_NONCE), self._current
        return _FORMAT + current + nonce + self._ciphers[current].encrypt(nonce, plain, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Raises Unsealable."""
        key_id, rest = sealed[1:PREFIX], memoryview(sealed)[PREFIX:]
        cipher = self._ciphers.get(key_id)
        if sealed[:1] != _FORMAT or cipher is None:
            raise Unsealable(f"{place} was sealed with a key that is not here")
        try:
            return cipher.decrypt(rest[:_NONCE], rest[_NONCE:], place.encode())
        except (InvalidTag, ValueError):
            raise Unsealable(f"{place} was changed or belongs elsewhere") from None

    def derive(self, purpose: str) -> bytes:
        """32 octets for another use, such as hashing device passwords; nothing sealed can be opened with them.

        They stay the same when the data key is changed.
        """
        return _derived(self._root, purpose, 32)


def key_id_of(sealed: bytes) -> str:
    """Which key a value was sealed with; empty for what is no sealed value."""
    return sealed[1:PREFIX].hex() if sealed[:1] == _FORMAT and len(sealed) >= PREFIX else ""


def _derived(key: bytes, purpose: str, octets: int) -> bytes:
    return HKDF(SHA256(), octets, salt=None, info=purpose.encode()).derive(key)


def new_data_key() -> tuple[str, bytes]:
    """Its id (8 hexadecimal digits) and the key."""
    return secrets.token_hex(_KEY_ID), secrets.token_bytes(32)


def sync_directory(directory: Path) -> None:
    """Wait until names made in `directory` are on disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(text: str) -> str:
    """What is stored of a random value that only has to be recognised, such as a session or a state."""
    return hashlib.sha256(text.encode()).hexdigest()
