"""Attempts to get a token, from their beginning to their end."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, delete, func, insert, literal, or_, select, update

from posthouse.store.among import all_among, among
from posthouse.store.compiling import one_of
from posthouse.store.database import Row, Transaction
from posthouse.store.sealing import Sealer, Unsealable
from posthouse.store.tables import authorisation

OPEN = ("started", "permitted", "proving", "unverified")
"""States in which something may still come of it; `unverified` waits for the administrator to confirm the person."""


@dataclass(frozen=True, slots=True)
class Authorisation:
    """`state`: started, permitted, proving, unverified, done, refused or expired. `person`: who signed in by mistake.

    `secrets` are the flow's own; there are none where they cannot be opened.
    """

    id: str
    mailbox_id: str
    token_id: str
    method: str
    state: str
    reason: str
    detail: str
    cookie_hash: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    created_at: float
    expires_at: float
    poll_at: float
    poll_interval: float
    grant_id: str | None
    version: int
    secrets: dict[str, str] = field(repr=False, default_factory=dict)
    person: str = ""


_columns = (
    "id", "mailbox_id", "token_id", "method", "state", "sealed", "start_hash", "state_hash",
    "user_code", "verification_uri", "verification_uri_complete", "created_at", "expires_at",
    "poll_at", "poll_interval",
)  # fmt: skip
_insert = insert(authorisation).values({name: bindparam(name) for name in _columns})
_by = {
    name: select(authorisation).where(authorisation.c[name] == bindparam("wanted"))
    for name in ("id", "state_hash", "start_hash")
}
_of_mailbox = (
    select(authorisation)
    .where(authorisation.c.mailbox_id == bindparam("mailbox"))
    .order_by(authorisation.c.created_at.desc())
    .limit(20)
)
_open = select(authorisation).where(one_of(authorisation.c.state, OPEN))
_unverified = select(authorisation.c.token_id).where(
    authorisation.c.state == literal("unverified"), among(authorisation.c.token_id)
)
_waiting = (
    select(authorisation.c.id)
    .where(authorisation.c.token_id == bindparam("token"), one_of(authorisation.c.state, OPEN))
    .where(or_(authorisation.c.state != literal("started"), authorisation.c.expires_at > bindparam("now")))
    .limit(1)
)
_count_open = (
    select(func.count().label("found"))
    .select_from(authorisation)
    .where(authorisation.c.mailbox_id == bindparam("mailbox"), one_of(authorisation.c.state, OPEN))
)
_due = _open.where(authorisation.c.poll_at <= bindparam("now"), authorisation.c.poll_at > 0)
_claim_poll = (
    update(authorisation)
    .where(
        authorisation.c.id == bindparam("row_id"),
        authorisation.c.version == bindparam("seen_version"),
        one_of(authorisation.c.state, OPEN),
    )
    .values(poll_at=bindparam("next_poll"), version=authorisation.c.version + 1)
)
_advance = (
    update(authorisation)
    .where(
        authorisation.c.id == bindparam("row_id"),
        authorisation.c.version == bindparam("seen_version"),
        one_of(authorisation.c.state, OPEN),
    )
    .values(
        state=bindparam("new_state"),
        reason=bindparam("new_reason"),
        detail=bindparam("new_detail"),
        person=bindparam("new_person"),
        poll_at=bindparam("next_poll"),
        poll_interval=bindparam("new_interval"),
        grant_id=bindparam("new_grant"),
        cookie_hash=bindparam("new_cookie"),
        version=authorisation.c.version + 1,
    )
)

_set_out = (
    update(authorisation)
    .where(
        authorisation.c.id == bindparam("row_id"),
        authorisation.c.version == bindparam("seen_version"),
        authorisation.c.state == literal("started"),
    )
    .values(
        state_hash=bindparam("new_state_hash"),
        start_hash=bindparam("new_start_hash"),
        cookie_hash=bindparam("new_cookie"),
        sealed=bindparam("new_sealed"),
        user_code=bindparam("new_user_code"),
        verification_uri=bindparam("new_uri"),
        verification_uri_complete=bindparam("new_uri_complete"),
        poll_at=bindparam("next_poll"),
        poll_interval=bindparam("new_interval"),
        version=authorisation.c.version + 1,
    )
)
_permit = (
    update(authorisation)
    .where(
        authorisation.c.id == bindparam("row_id"),
        authorisation.c.version == bindparam("seen_version"),
        one_of(authorisation.c.state, OPEN),
    )
    .values(
        state="permitted",
        state_hash=None,
        grant_id=bindparam("new_grant"),
        poll_at=bindparam("next_poll"),
        sealed=bindparam("new_sealed"),
        version=authorisation.c.version + 1,
    )
)

_forget = delete(authorisation).where(
    and_(*(authorisation.c.state != literal(state) for state in OPEN)),
    authorisation.c.created_at < bindparam("before"),
)


async def add(
    tx: Transaction, sealer: Sealer, new: Authorisation, *, start_hash: str | None, state_hash: str | None = None
) -> None:
    await tx.run(
        _insert,
        id=new.id,
        mailbox_id=new.mailbox_id,
        token_id=new.token_id,
        method=new.method,
        state=new.state,
        sealed=_seal(sealer, new.id, new.secrets),
        start_hash=start_hash,
        state_hash=state_hash,
        user_code=new.user_code,
        verification_uri=new.verification_uri,
        verification_uri_complete=new.verification_uri_complete,
        created_at=new.created_at,
        expires_at=new.expires_at,
        poll_at=new.poll_at,
        poll_interval=new.poll_interval,
    )


async def get(tx: Transaction, sealer: Sealer, row_id: str) -> Authorisation | None:
    return await _find(tx, sealer, "id", row_id)


async def by_state(tx: Transaction, sealer: Sealer, state_hash: str) -> Authorisation | None:
    """The one whose `state` came back from the provider."""
    return await _find(tx, sealer, "state_hash", state_hash)


async def by_start(tx: Transaction, sealer: Sealer, start_hash: str) -> Authorisation | None:
    """The one whose own start page was opened."""
    return await _find(tx, sealer, "start_hash", start_hash)


async def of_mailbox(tx: Transaction, sealer: Sealer, mailbox_id: str) -> list[Authorisation]:
    """The newest first."""
    return [_authorisation(row, sealer) for row in await tx.all(_of_mailbox, mailbox=mailbox_id)]


async def open_ones(tx: Transaction, sealer: Sealer) -> list[Authorisation]:
    return [_authorisation(row, sealer) for row in await tx.all(_open)]


async def unverified(tx: Transaction, wanted: Iterable[str]) -> set[str]:
    """Those of these tokens for which somebody has to confirm who signed in."""
    return {row["token_id"] for row in await all_among(tx, _unverified, wanted)}


async def count_open(tx: Transaction, mailbox_id: str) -> int:
    """How many attempts are under way for a mailbox."""
    row = await tx.one(_count_open, mailbox=mailbox_id)
    return int(row["found"]) if row else 0


async def waits(tx: Transaction, token_id: str, now: float) -> bool:
    """Whether something may still come of an attempt to get this token."""
    return await tx.one(_waiting, token=token_id, now=now) is not None


async def to_poll(tx: Transaction, sealer: Sealer, now: float) -> list[Authorisation]:
    """Those that are due to be looked after."""
    return [_authorisation(row, sealer) for row in await tx.all(_due, now=now)]


async def claim_poll(tx: Transaction, seen: Authorisation, next_poll: float) -> bool:
    """Take this turn of looking after it; False where another node was faster or it has ended."""
    return bool(await tx.run(_claim_poll, row_id=seen.id, seen_version=seen.version, next_poll=next_poll))


async def advance(tx: Transaction, seen: Authorisation, state: str, **changes: Any) -> bool:
    """Go on to `state` with changes of reason, detail, person, poll_at, poll_interval, grant_id or cookie_hash.

    False where it was changed since it was `seen`, or has ended.
    """
    return bool(
        await tx.run(
            _advance,
            row_id=seen.id,
            seen_version=seen.version,
            new_state=state,
            new_reason=changes.get("reason", seen.reason),
            new_detail=changes.get("detail", seen.detail),
            new_person=changes.get("person", seen.person),
            next_poll=changes.get("poll_at", seen.poll_at),
            new_interval=changes.get("poll_interval", seen.poll_interval),
            new_grant=changes.get("grant_id", seen.grant_id),
            new_cookie=changes.get("cookie_hash", seen.cookie_hash),
        )
    )


async def set_out(
    tx: Transaction,
    sealer: Sealer,
    seen: Authorisation,
    changed: Authorisation,
    *,
    state_hash: str | None = None,
    start_hash: str | None = None,
) -> bool:
    """Somebody sets out for the provider: the cookie, secrets, code and times of `changed` hold from now on.

    With `start_hash` the start page can be opened again. False where another one was faster.
    """
    return bool(
        await tx.run(
            _set_out,
            row_id=seen.id,
            seen_version=seen.version,
            new_state_hash=state_hash,
            new_start_hash=start_hash,
            new_cookie=changed.cookie_hash,
            new_sealed=_seal(sealer, seen.id, changed.secrets),
            new_user_code=changed.user_code,
            new_uri=changed.verification_uri,
            new_uri_complete=changed.verification_uri_complete,
            next_poll=changed.poll_at,
            new_interval=changed.poll_interval,
        )
    )


async def permit(
    tx: Transaction,
    sealer: Sealer,
    seen: Authorisation,
    *,
    grant_id: str | None,
    secrets: dict[str, str],
    poll_at: float,
) -> bool:
    """The provider has given its permission; the flow's secrets make way for what the comparison needs.

    Without a grant: it is still to be asked for its tokens, with what is in `secrets`.
    """
    return bool(
        await tx.run(
            _permit,
            row_id=seen.id,
            seen_version=seen.version,
            new_grant=grant_id,
            next_poll=poll_at,
            new_sealed=_seal(sealer, seen.id, secrets),
        )
    )


async def forget(tx: Transaction, before: float) -> int:
    """Attempts that have ended and were begun before that moment; how many."""
    return await tx.run(_forget, before=before)


def _seal(sealer: Sealer, row_id: str, secrets: dict[str, str]) -> bytes:
    return sealer.seal(msgspec.json.encode(secrets), f"authorisation:{row_id}")


async def _find(tx: Transaction, sealer: Sealer, column: str, wanted: str) -> Authorisation | None:
    row = await tx.one(_by[column], wanted=wanted)
    return _authorisation(row, sealer) if row else None


def _authorisation(row: Row, sealer: Sealer) -> Authorisation:
    return Authorisation(
        id=row["id"],
        mailbox_id=row["mailbox_id"],
        token_id=row["token_id"],
        method=row["method"],
        state=row["state"],
        reason=row["reason"],
        detail=row["detail"],
        cookie_hash=row["cookie_hash"],
        user_code=row["user_code"],
        verification_uri=row["verification_uri"],
        verification_uri_complete=row["verification_uri_complete"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        poll_at=row["poll_at"],
        poll_interval=row["poll_interval"],
        grant_id=row["grant_id"],
        version=row["version"],
        secrets=_opened(row, sealer),
        person=row["person"],
    )


def _opened(row: Row, sealer: Sealer) -> dict[str, str]:
    """One that cannot be opened must not keep the others, or a page that lists it, from going on."""
    with contextlib.suppress(Unsealable):
        opened = sealer.open(row["sealed"], f"authorisation:{row['id']}")
        return msgspec.json.decode(opened, type=dict[str, str])
    return {}
