"""Consents that are forgotten here and have still to be given back at the provider."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import bindparam, delete, insert, or_, select, update

from posthouse.secret import Secret
from posthouse.store.among import all_among, among
from posthouse.store.database import Row, Transaction
from posthouse.store.sealing import Sealer, Unsealable
from posthouse.store.tables import grant, leaving_grant, token


@dataclass(frozen=True, slots=True)
class Leaving:
    """`secret` is what is given back: the refresh token where there was one. `id` was the grant's, or is a new one.

    `next_at` is the next attempt, `answer` what came of the last one; after `ends_at` there is none.
    """

    id: str
    app_id: str
    token_id: str
    issuer: str
    subject: str
    since: float
    secret: Secret = field(repr=False)
    given_to: str = ""
    ends_at: float = 0.0
    next_at: float = 0.0
    attempts: int = 0
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A consent of a token that lives on at the provider for now: since when, what came of the last attempt, and when
    the next one is made."""

    token_id: str
    since: float
    next_at: float
    answer: str


_names = ("id", "app_id", "token_id", "issuer", "subject", "since", "ends_at", "next_at", "attempts", "answer")
_insert = insert(leaving_grant).values({name: bindparam(name) for name in (*_names, "sealed")})
_delete = delete(leaving_grant).where(leaving_grant.c.id == bindparam("row_id"))
_forget = delete(leaving_grant).where(leaving_grant.c.ends_at < bindparam("now"))
_due = (
    select(leaving_grant)
    .where(leaving_grant.c.next_at <= bindparam("now"))
    .order_by(leaving_grant.c.next_at)
    .limit(bindparam("at_most"))
)
_take = (
    update(leaving_grant)
    .where(leaving_grant.c.id == bindparam("row_id"), leaving_grant.c.attempts == bindparam("seen"))
    .values(attempts=leaving_grant.c.attempts + 1, next_at=bindparam("until"))
)
_postpone = (
    update(leaving_grant)
    .where(leaving_grant.c.id == bindparam("row_id"), leaving_grant.c.attempts == bindparam("seen"))
    .values(next_at=bindparam("until"), answer=bindparam("what"))
)
_held = (
    select(*(leaving_grant.c[name] for name in ("token_id", "since", "next_at", "answer")))
    .where(among(leaving_grant.c.token_id))
    .order_by(leaving_grant.c.since.desc())
)
_beside = (
    select(grant.c.token_id, grant.c.issuer, grant.c.subject)
    .join(token, token.c.id == grant.c.token_id)
    .where(token.c.app_id == bindparam("app"))
    .where(or_(grant.c.token_id == bindparam("of_token"), grant.c.subject == bindparam("person")))
)


async def add(tx: Transaction, sealer: Sealer, new: Leaving) -> None:
    """To be called where a grant is forgotten, in the same transaction."""
    sealed = sealer.seal(msgspec.json.encode((new.secret.reveal(), new.given_to)), _place(new.id))
    await tx.run(_insert, **{name: getattr(new, name) for name in _names}, sealed=sealed)


async def take_due(tx: Transaction, sealer: Sealer, now: float, until: float, at_most: int) -> list[Leaving]:
    """What is to be tried now, by nobody else before `until`; without those that cannot be opened."""
    found = [
        _leaving({**dict(row), "attempts": row["attempts"] + 1}, sealer)
        for row in await tx.all(_due, now=now, at_most=at_most)
        if await tx.run(_take, row_id=row["id"], seen=row["attempts"], until=until)
    ]
    return [one for one in found if one is not None]


async def postpone(tx: Transaction, one: Leaving, answer: str, until: float) -> bool:
    """It could not be given back for now. False, with nothing done, where somebody else has tried meanwhile."""
    return bool(await tx.run(_postpone, row_id=one.id, seen=one.attempts, what=answer, until=until))


async def held(tx: Transaction, wanted: Iterable[str]) -> list[Held]:
    """Of these tokens, the newest of each before its older ones."""
    return [Held(**dict(row)) for row in await all_among(tx, _held, wanted)]


async def remove(tx: Transaction, row_id: str) -> None:
    await tx.run(_delete, row_id=row_id)


async def forget(tx: Transaction, now: float) -> int:
    """Those that could not be given back before their end; how many."""
    return await tx.run(_forget, now=now)


async def is_held_beside(tx: Transaction, of: Leaving) -> bool:
    """Whether another consent of the same person to the same app is kept here.

    Persons are compared where both are known; else two consents in one token are the same person's.
    """
    rows = await tx.all(_beside, app=of.app_id, of_token=of.token_id, person=of.subject or "-")
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
        return Leaving(**{name: row[name] for name in _names}, secret=Secret(secret), given_to=given_to)
    return None
