"""Encryption at rest: AES-256-GCM, each value bound to its place, so that rows cannot be swapped.

A master key from outside the database wraps data keys that lie in it; rotating the master key re-wraps those.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from posthouse.problems import ProblemError, problem

_FORMAT = b"\x01"
_KEY_ID = 4
_NONCE = 12
OVERHEAD = len(_FORMAT) + _KEY_ID + _NONCE + 16


class Unsealable(Exception):
    """The value was sealed for another place, with another key, or was changed."""


class MasterKey:
    """32 octets from outside the database."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def wrap(self, key: bytes, key_id: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, key, f"sealing_key:{key_id}".encode())

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Raises Unsealable."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], f"sealing_key:{key_id}".encode())
        except (InvalidTag, ValueError):
            raise Unsealable("not the master key that wrapped this data key") from None


class Sealer:
    """Seals with the newest data key, opens with the one that a value names. Keys by id, oldest first."""

    __slots__ = ("_ciphers", "_current", "_derived_from")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {bytes.fromhex(key_id): AESGCM(key) for key_id, key in keys.items()}
        self._current = bytes.fromhex(list(keys)[-1])
        self._derived_from = next(iter(keys.values()))

    def seal(self, plain: bytes, place: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._ciphers[self._current].encrypt(nonce, plain, place.encode())
        return _FORMAT + self._current + nonce + sealed

    def open(self, sealed: bytes, place: str) -> bytes:
        """Raises Unsealable."""
        key_id, rest = sealed[1 : 1 + _KEY_ID], sealed[1 + _KEY_ID :]
        cipher = self._ciphers.get(key_id)
        if sealed[:1] != _FORMAT or cipher is None:
            raise Unsealable(f"{place} was sealed with a key that is not here")
        try:
            return cipher.decrypt(rest[:_NONCE], rest[_NONCE:], place.encode())
        except (InvalidTag, ValueError):
            raise Unsealable(f"{place} was changed or belongs elsewhere") from None

    def derive(self, purpose: str) -> bytes:
        """32 octets for another use, such as hashing device passwords; nothing sealed can be opened with them."""
        return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(self._derived_from)


def new_data_key() -> tuple[str, bytes]:
    """Its id (8 hexadecimal digits) and the key."""
    return secrets.token_hex(_KEY_ID), secrets.token_bytes(32)


def read_master_key(data: Path, environment: Mapping[str, str], *, make: bool) -> MasterKey:
    """From POSTHOUSE_KEY, a systemd credential named posthouse-key, or the file DATA/key, made if so wished.

    Raises ProblemError where there is none, or what is there is not a key.
    """
    if text := environment.get("POSTHOUSE_KEY"):
        return MasterKey(_key_from(text, "POSTHOUSE_KEY"))
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    if credentials and (path := Path(credentials) / "posthouse-key").exists():
        return MasterKey(_key_from(path.read_text(errors="replace"), str(path)))
    path = data / "key"
    try:
        return MasterKey(_key_from(path.read_text(errors="replace"), str(path)))
    except FileNotFoundError:
        if not make:
            raise problem(
                "key.missing",
                f"The database was made with a key that is not here: there is no {path}.",
                "Put it back from your backup, or give it in POSTHOUSE_KEY. Nothing was changed.",
            ) from None
        return MasterKey(_key_from(_make_key_file(path), str(path)))


def _key_from(text: str, where: str) -> bytes:
    letters = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        key = base64.b64decode(letters + "=" * (-len(letters) % 4), altchars="-_", validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise problem("key.malformed", f"{where} does not hold a Posthouse key.", "It is 43 letters of base64.")
    return key


def _make_key_file(path: Path) -> str:
    text = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)
    return text


def sync_directory(directory: Path) -> None:
    """Wait until names made in `directory` are on disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def wrong_key(data: Path) -> ProblemError:
    return problem(
        "key.wrong",
        "The key does not fit the database: what is stored cannot be read with it.",
        f"Put back the key this database was made with (usually {data / 'key'}, or your backup of it).",
    )


def fingerprint(text: str) -> str:
    """What is stored of a random value that only has to be recognised, such as a session or a state."""
    return hashlib.sha256(text.encode()).hexdigest()
