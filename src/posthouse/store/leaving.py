"""Consents that are forgotten here and have still to be given back at the provider."""

import contextlib
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import bindparam, delete, insert, or_, select

from posthouse.model.token import Grant
from posthouse.secret import Secret
from posthouse.store.database import Row, Transaction
from posthouse.store.sealing import Sealer, Unsealable
from posthouse.store.tables import grant, leaving_grant, token


@dataclass(frozen=True, slots=True)
class Leaving:
    """`secret` is what is given back: the refresh token where there was one. `id` was the grant's."""

    id: str
    app_id: str
    token_id: str
    issuer: str
    subject: str
    since: float
    secret: Secret = field(repr=False)
    given_to: str = ""


_names = ("id", "app_id", "token_id", "issuer", "subject", "since", "sealed")
_insert = insert(leaving_grant).values({name: bindparam(name) for name in _names})
_delete = delete(leaving_grant).where(leaving_grant.c.id == bindparam("row_id"))
_forget = delete(leaving_grant).where(leaving_grant.c.since < bindparam("before"))
_waiting = select(leaving_grant).order_by(leaving_grant.c.since).limit(bindparam("at_most"))
_beside = (
    select(grant.c.token_id, grant.c.issuer, grant.c.subject)
    .join(token, token.c.id == grant.c.token_id)
    .where(token.c.app_id == bindparam("app"), grant.c.id != bindparam("row_id"))
    .where(or_(grant.c.token_id == bindparam("of_token"), grant.c.subject == bindparam("person")))
)


async def add(tx: Transaction, sealer: Sealer, app_id: str, of: Grant, now: float) -> Leaving:
    """To be called where a grant is forgotten, in the same transaction."""
    secret = of.refresh_token or of.access_token
    new = Leaving(of.id, app_id, of.token_id, of.issuer, of.subject, now, secret, of.given_to)
    sealed = sealer.seal(msgspec.json.encode((secret.reveal(), of.given_to)), _place(of.id))
    values = {name: getattr(new, name) for name in _names if name != "sealed"}
    await tx.run(_insert, **values, sealed=sealed)
    return new


async def waiting(tx: Transaction, sealer: Sealer, at_most: int = 100) -> list[Leaving]:
    """The oldest first; without those that cannot be opened."""
    found = [_leaving(row, sealer) for row in await tx.all(_waiting, at_most=at_most)]
    return [one for one in found if one is not None]


async def remove(tx: Transaction, row_id: str) -> None:
    await tx.run(_delete, row_id=row_id)


async def forget(tx: Transaction, before: float) -> int:
    """Those that could not be given back for so long; how many."""
    return await tx.run(_forget, before=before)


async def is_held_beside(tx: Transaction, of: Leaving) -> bool:
    """Whether another consent of the same person to the same app is kept here.

    Persons are compared where both are known; else two consents in one token are the same person's.
    """
    rows = await tx.all(_beside, app=of.app_id, row_id=of.id, of_token=of.token_id, person=of.subject or "-")
    return any(_same_person(row, of) for row in rows)


def _same_person(row: Row, of: Leaving) -> bool:
    if row["subject"] and of.subject:
        return (row["issuer"], row["subject"]) == (of.issuer, of.subject)
    return bool(row["token_id"] == of.token_id)


def _place(row_id: str) -> str:
    return f"leaving_grant:{row_id}"


def _leaving(row: Row, sealer: Sealer) -> Leaving | None:
    with contextlib.suppress(Unsealable):
        secret, given_to = msgspec.json.decode(sealer.open(row["sealed"], _place(row["id"])), type=tuple[str, str])
        known = {name: row[name] for name in _names if name != "sealed"}
        return Leaving(**known, secret=Secret(secret), given_to=given_to)
    return None
