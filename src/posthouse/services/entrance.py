"""How an administrator gets in before there is a password: a link that signs in once."""

import secrets

from posthouse.secret import Secret
from posthouse.services.clock import Clock
from posthouse.store import people
from posthouse.store.database import Duplicate, Transaction
from posthouse.store.ids import new_id
from posthouse.store.opening import Store
from posthouse.store.people import Administrator
from posthouse.store.sealing import fingerprint

LINK_LIFE = 900.0
FIRST_NAME = "admin"


async def sign_in_link(store: Store, clock: Clock, external_url: str) -> Secret:
    """A link for the first administrator, who is made when there is none."""
    code = secrets.token_urlsafe(24)
    now = clock()

    async def work(tx: Transaction) -> None:
        found = [one for one in await people.administrators(tx) if one.role == "administrator"]
        chosen = found[0] if found else Administrator(new_id("ad"), FIRST_NAME, "administrator", (), "")
        if not found:
            await people.add(tx, chosen, now)
        await people.make_link(tx, fingerprint(code), chosen.id, now + LINK_LIFE)

    try:
        await store.database.write(work)
    except Duplicate:
        await store.database.write(work)  # another node has just made the first administrator
    return Secret(f"{external_url}/sign-in/link/{code}")


async def nobody_yet(store: Store) -> bool:
    """Whether no administrator exists: the very first start."""
    return not await store.database.read(people.administrators)
