"""Passwords of devices for an apply file. Hashing takes long on purpose, so it is done before the transaction."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from posthouse.model.device import Device
from posthouse.secret import Secret
from posthouse.services.apply_file import Item, Wanted
from posthouse.services.apply_stored import Stored
from posthouse.services.device_login import fits, generate_password, hash_chosen, hash_generated, password_key
from posthouse.store.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Prepared:
    """`seen` is the hash that was stored when this was prepared. `generated` has to be shown to a person once."""

    seen: str
    password_hash: str
    generated: Secret | None = None


async def prepare(
    wanted: Wanted, stored: Stored, sealer: Sealer, earlier: Mapping[str, Prepared]
) -> dict[str, Prepared]:
    """By name of the device. What was generated in an `earlier` try of the same work stays as it was."""
    key = password_key(sealer)
    return {
        item.name: await asyncio.to_thread(_prepare, item, stored, key, earlier.get(item.name))
        for item in wanted.of("device")
    }


def _prepare(item: Item, stored: Stored, key: bytes, earlier: Prepared | None) -> Prepared:
    device = stored.find("device", item.name)
    seen = device.password_hash if isinstance(device, Device) else ""
    if item.secret is not None:
        return Prepared(seen, seen if seen and fits(seen, key, item.secret) else hash_chosen(item.secret))
    if earlier is not None and earlier.generated is not None and seen in (earlier.seen, earlier.password_hash):
        return Prepared(seen, earlier.password_hash, earlier.generated)
    lane = item.over(stored.values("device", item.name)).get("lane")
    if not item.renew and (seen or item.missing or lane == "open"):
        return Prepared(seen, seen)
    generated = generate_password()
    return Prepared(seen, hash_generated(key, generated), generated)
