"""Tokens and grants.

The serial decides who may write: the answer of a refresh goes over the serial it was made with and over no other.
The lease decides who may send: it is taken, together with the intent to send, before anything leaves.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, delete, func, insert, literal, or_, select, update

from posthouse.model.token import Grant, Token, TokenState
from posthouse.secret import Secret
from posthouse.store import events
from posthouse.store.among import all_among, among, few
from posthouse.store.compiling import insert_if_absent, one_of
from posthouse.store.database import Row, Transaction
from posthouse.store.ids import new_id
from posthouse.store.sealing import Sealer, Unsealable
from posthouse.store.tables import ZERO, app, event, grant, mailbox, setting, token

PAGE = 200
STATES = 5000
"""Rows that are read at a time where only the state is looked at."""


@dataclass(frozen=True, slots=True)
class SettingResult:
    """How a protocol of a mailbox fared when it was last tried. `state`: proved, refused or unreachable."""

    mailbox_id: str
    kind: str
    state: str
    answer: str
    cause: str
    since: float


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one refresh request for `grant`, which is as it was before: `answer_was_lost` tells of
    an earlier request. The answer must be written over the grant's serial."""

    grant: Grant
    epoch: int
    until: float


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    access: str
    refresh: str
    given_to: str = ""
    app_only: str = ""


_token_by_id = select(token).where(token.c.id == bindparam("row_id"))
_token_by_key = select(token).where(
    token.c.app_id == bindparam("app"), token.c.account == bindparam("person"), token.c.name == bindparam("label")
)
_tokens = select(token).order_by(token.c.account, token.c.name)
_invalid = (
    select(token).where(token.c.state == literal(str(TokenState.INVALID))).order_by(token.c.account, token.c.name)
)
_invalid_for = _invalid.where(token.c.reason == bindparam("why"))
_among = select(token).where(among(token.c.id))
_page = select(token).where(token.c.id > bindparam("position")).order_by(token.c.id).limit(PAGE)
_by_state = select(token.c.state, func.count().label("count")).group_by(token.c.state)
_states = select(token.c.id, token.c.state).where(token.c.id > bindparam("position")).order_by(token.c.id).limit(STATES)
_state_changes = (
    select(event.c.subject, event.c.kind)
    .where(event.c.id > bindparam("position"), one_of(event.c.kind, (f"token.{state}" for state in TokenState)))
    .order_by(event.c.id)
)
_not_shared = select(token).where(token.c.id.not_in(select(mailbox.c.token_id).where(mailbox.c.token_id.is_not(None))))
_token_for_change = _token_by_id.with_for_update()
_make_token = insert_if_absent(
    token, **{name: bindparam(name) for name in ("id", "app_id", "account", "name", "state", "since")}
)
_set_state = (
    update(token)
    .where(token.c.id == bindparam("row_id"))
    .values(
        state=bindparam("new_state"),
        reason=bindparam("new_reason"),
        detail=bindparam("new_detail"),
        since=bindparam("new_since"),
        version=token.c.version + 1,
    )
)
_point = (
    update(token)
    .where(token.c.id == bindparam("row_id"), token.c.version == bindparam("seen_version"))
    .values(
        serving_grant=bindparam("serving"),
        pending_grant=bindparam("pending"),
        pinned_issuer=bindparam("new_issuer"),
        pinned_subject=bindparam("new_subject"),
        version=token.c.version + 1,
    )
)
_delete_token = delete(token).where(token.c.id == bindparam("row_id"))
_grant_by_id = select(grant).where(grant.c.id == bindparam("row_id"))
_grant_for_change = _grant_by_id.with_for_update()
_grants_of_token = select(grant).where(grant.c.token_id == bindparam("of_token"))
_serving = select(grant).join(token, and_(token.c.id == grant.c.token_id, token.c.serving_grant == grant.c.id))
_serving_among = _serving.where(among(grant.c.token_id))
_failures = (
    select(func.coalesce(func.sum(grant.c.failures), 0).label("failures"))
    .where(grant.c.failures > ZERO)
    .where(select(token.c.id).where(token.c.id == grant.c.token_id, token.c.serving_grant == grant.c.id).exists())
)
_grant_columns = (
    "id", "token_id", "serial", "sealed", "issuer", "subject", "person", "scopes",
    "obtained_at", "refreshed_at", "access_expires_at", "next_refresh_at",
    "told_end", "latest_end",
)  # fmt: skip
_app_of_token = select(token.c.app_id).where(token.c.id == bindparam("token_id")).scalar_subquery()
_insert_grant = insert(grant).values(
    {name: bindparam(name) for name in _grant_columns} | {"app_id": func.coalesce(_app_of_token, "")}
)
_delete_grant = delete(grant).where(grant.c.id == bindparam("row_id"))
_move_grant = update(grant).where(grant.c.id == bindparam("row_id")).values(token_id=bindparam("new_token"))
_identify = (
    update(grant)
    .where(grant.c.id == bindparam("row_id"))
    .values(issuer=bindparam("new_issuer"), subject=bindparam("new_subject"), person=bindparam("new_person"))
)
_apps_apart = select(app.c.id).where(among(app.c.provider))
_due = (
    select(grant.c.id, grant.c.app_id, grant.c.next_refresh_at)
    .join(token, and_(token.c.id == grant.c.token_id, token.c.serving_grant == grant.c.id))
    .where(grant.c.next_refresh_at <= bindparam("now"), grant.c.next_refresh_at > 0)
    .where(grant.c.app_id.not_in(_apps_apart))
    .where(or_(grant.c.lease_until < bindparam("lease_now"), grant.c.lease_owner == bindparam("owner")))
    # Said so that no index of the states can help: SQLite would go through all tokens by it.
    .where(token.c.state != literal(str(TokenState.NOT_ACQUIRED)), token.c.state != literal(str(TokenState.WAITING)))
    .order_by(grant.c.next_refresh_at)
    .limit(bindparam("at_most"))
)
_wake = update(grant).where(grant.c.id == bindparam("row_id")).values(next_refresh_at=bindparam("now"))
_lease = (
    update(grant)
    .where(
        grant.c.id == bindparam("row_id"),
        grant.c.serial == bindparam("seen_serial"),
        or_(
            grant.c.lease_until < bindparam("now"),
            and_(grant.c.lease_owner == bindparam("owner"), grant.c.intent_at <= bindparam("over")),
        ),
    )
    .values(
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until"),
        lease_epoch=grant.c.lease_epoch + 1,
        intent_serial=grant.c.serial,
        intent_at=bindparam("now"),
    )
    .returning(grant.c.lease_epoch)
)
_rotate = (
    update(grant)
    .where(grant.c.id == bindparam("row_id"), grant.c.serial == bindparam("seen_serial"))
    .values(
        serial=grant.c.serial + 1,
        sealed=bindparam("new_sealed"),
        previous=bindparam("new_previous"),
        refreshed_at=bindparam("now"),
        access_expires_at=bindparam("new_expiry"),
        next_refresh_at=bindparam("new_next"),
        told_end=bindparam("new_told_end"),
        latest_end=bindparam("new_latest_end"),
        scopes=bindparam("new_scopes"),
        failures=0,
        last_error="",
        intent_serial=None,
        lease_owner="",
        lease_until=0.0,
    )
)
_postpone = (
    update(grant)
    .where(
        grant.c.id == bindparam("row_id"),
        grant.c.serial == bindparam("seen_serial"),
        grant.c.lease_epoch == bindparam("seen_epoch"),
    )
    .values(
        failures=grant.c.failures + 1,
        last_error=bindparam("error"),
        next_refresh_at=bindparam("new_next"),
        lease_owner="",
        lease_until=0.0,
    )
)
_answered = update(grant).where(grant.c.id == bindparam("row_id")).values(intent_serial=None)
_settings = select(setting)
_settings_among = _settings.where(among(setting.c.mailbox_id))
_settings_of = _settings.where(setting.c.mailbox_id == bindparam("mailbox"))
_setting_values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("state", "answer", "cause", "since")}
_update_setting = (
    update(setting)
    .where(setting.c.mailbox_id == bindparam("mailbox"), setting.c.kind == bindparam("protocol"))
    .values(_setting_values)
)
_make_setting = insert_if_absent(setting, mailbox_id=bindparam("mailbox"), kind=bindparam("protocol"))


_retired = (
    select(grant.c.id, grant.c.token_id)
    .join(token, token.c.id == grant.c.token_id)
    .where(
        grant.c.refreshed_at < bindparam("before"),
        or_(token.c.serving_grant.is_(None), token.c.serving_grant != grant.c.id),
        or_(token.c.pending_grant.is_(None), token.c.pending_grant != grant.c.id),
    )
    .limit(100)
)


async def ensure(tx: Transaction, app_id: str, account: str, name: str, now: float) -> Token:
    """The token of (app, account, name), made as not acquired when there is none."""
    row = await tx.one(_token_by_key, app=app_id, person=account, label=name)
    if row is None:
        state = str(TokenState.NOT_ACQUIRED)
        await tx.run(_make_token, id=new_id("tk"), app_id=app_id, account=account, name=name, state=state, since=now)
        row = await tx.one(_token_by_key, app=app_id, person=account, label=name)
    assert row is not None  # noqa: S101
    return _token(row)


async def get(tx: Transaction, token_id: str) -> Token | None:
    row = await tx.one(_token_by_id, row_id=token_id)
    return _token(row) if row else None


async def get_for_change(tx: Transaction, token_id: str) -> Token | None:
    """As `get`; nobody else changes it before this transaction has ended."""
    row = await tx.one(_token_for_change, row_id=token_id)
    return _token(row) if row else None


async def everything(tx: Transaction) -> list[Token]:
    return [_token(row) for row in await tx.all(_tokens)]


async def some(tx: Transaction, wanted: Iterable[str]) -> list[Token]:
    """Those of these ids that there are, in no order."""
    return [_token(row) for row in await all_among(tx, _among, wanted)]


async def page(tx: Transaction, position: str = "") -> list[Token]:
    """At most PAGE by id, those that follow `position`."""
    return [_token(row) for row in await tx.all(_page, position=position)]


async def counts(tx: Transaction) -> dict[str, int]:
    """Number of tokens by state, also of those that nothing uses."""
    return {row["state"]: row["count"] for row in await tx.all(_by_state)}


async def failures(tx: Transaction) -> int:
    """Refreshes in a row that failed for now, over all tokens."""
    row = await tx.one(_failures)
    return int(row["failures"]) if row else 0


async def states(tx: Transaction) -> dict[str, TokenState]:
    """The state of every token by its id."""
    found: dict[str, TokenState] = {}
    position = ""
    while rows := await tx.all(_states, position=position):
        found.update((row["id"], TokenState(row["state"])) for row in rows)
        position = rows[-1]["id"]
    return found


async def state_changes(tx: Transaction, position: int) -> dict[str, TokenState]:
    """The state of each token of which it has changed since this event; what was made since is not acquired."""
    rows = await tx.all(_state_changes, position=position)
    return {row["subject"]: TokenState(row["kind"].removeprefix("token.")) for row in rows}


async def invalid(tx: Transaction) -> list[Token]:
    """Those that somebody has to sign in for again, by account."""
    return [_token(row) for row in await tx.all(_invalid)]


async def invalid_for(tx: Transaction, reason: str) -> list[Token]:
    return [_token(row) for row in await tx.all(_invalid_for, why=str(reason))]


async def not_shared(tx: Transaction) -> list[Token]:
    """Those that no mailbox names as the one its settings share; settings may use or await them all the same."""
    return [_token(row) for row in await tx.all(_not_shared)]


async def set_state(
    tx: Transaction,
    token_id: str,
    state: TokenState,
    now: float,
    reason: str = "",
    detail: str = "",
    *,
    again: bool = False,
) -> bool:
    """Change the state and write its event; nothing happens when it is that already.

    `again`: it is told in any case, since something else about the token has changed with it.
    """
    row = await tx.one(_token_for_change, row_id=token_id)
    if row is None or ((row["state"], row["reason"], row["detail"]) == (str(state), reason, detail) and not again):
        return False
    since = row["since"] if row["state"] == str(state) else now
    await tx.run(
        _set_state, row_id=token_id, new_state=str(state), new_reason=reason, new_detail=detail, new_since=since
    )
    await events.record(tx, now, f"token.{state}", token_id, reason=reason, detail=detail, account=row["account"])
    return True


async def point(
    tx: Transaction,
    seen: Token,
    *,
    serving: str | None,
    pending: str | None,
    pinned: tuple[str, str] | None,
) -> bool:
    """Move the pointers, unless the token was changed since it was `seen`."""
    issuer, subject = pinned or ("", "")
    return bool(
        await tx.run(
            _point,
            row_id=seen.id,
            seen_version=seen.version,
            serving=serving,
            pending=pending,
            new_issuer=issuer,
            new_subject=subject,
        )
    )


async def split_off(tx: Transaction, of: Token, name: str, now: float) -> Token:
    """A token for the grant that serves `of`, which the caller is about to give another one."""
    made = await ensure(tx, of.app_id, of.account, name, now)
    await tx.run(_move_grant, row_id=of.serving_grant, new_token=made.id)
    await point(tx, made, serving=of.serving_grant, pending=None, pinned=of.pinned)
    await set_state(tx, made.id, of.state, now, of.reason, of.detail)
    return made


async def remove(tx: Transaction, token_id: str) -> None:
    """Forget a token with all its grants."""
    for row in await tx.all(_grants_of_token, of_token=token_id):
        await tx.run(_delete_grant, row_id=row["id"])
    await tx.run(_delete_token, row_id=token_id)


async def take_grant(tx: Transaction, sealer: Sealer, grant_id: str) -> Grant | None:
    """Forget a grant; what was in it, to be given back. None where it is gone or cannot be opened."""
    row = await tx.one(_grant_for_change, row_id=grant_id)
    await tx.run(_delete_grant, row_id=grant_id)
    return _grant_if_readable(row, sealer) if row else None


async def take_grants(tx: Transaction, sealer: Sealer, token_id: str) -> list[Grant]:
    """As `take_grant`, for all grants of a token."""
    ids = [row["id"] for row in await tx.all(_grants_of_token, of_token=token_id)]
    taken = [await take_grant(tx, sealer, grant_id) for grant_id in ids]
    return [grant for grant in taken if grant is not None]


async def add_grant(tx: Transaction, sealer: Sealer, new: Grant) -> None:
    await tx.run(
        _insert_grant,
        id=new.id,
        token_id=new.token_id,
        serial=new.serial,
        sealed=_seal(sealer, new, new.serial, new.access_token, new.refresh_token),
        issuer=new.issuer,
        subject=new.subject,
        person=new.person,
        scopes=" ".join(new.scopes),
        obtained_at=new.obtained_at,
        refreshed_at=new.refreshed_at,
        access_expires_at=new.access_expires_at,
        next_refresh_at=new.next_refresh_at,
        told_end=new.told_end,
        latest_end=new.latest_end,
    )


async def identify(tx: Transaction, grant_id: str, issuer: str, subject: str, person: str) -> None:
    """Write down who gave this consent."""
    await tx.run(_identify, row_id=grant_id, new_issuer=issuer, new_subject=subject, new_person=person)


async def get_grant(tx: Transaction, sealer: Sealer, grant_id: str) -> Grant | None:
    """Raises Unsealable."""
    row = await tx.one(_grant_by_id, row_id=grant_id)
    return _grant(row, sealer) if row else None


async def is_newer(tx: Transaction, grant_id: str | None, obtained_at: float, now: float) -> bool:
    """Whether a grant was consented to after that moment; one from the future was not: the clock was put back."""
    row = await tx.one(_grant_by_id, row_id=grant_id or "")
    return row is not None and obtained_at < row["obtained_at"] <= now


async def serving(tx: Transaction, sealer: Sealer, wanted: Iterable[str]) -> dict[str, Grant]:
    """The grants that serve these tokens, by the grants' ids; without those that cannot be opened."""
    found = (_grant_if_readable(row, sealer) for row in await all_among(tx, _serving_among, wanted))
    return {grant.id: grant for grant in found if grant is not None}


async def grants_of(tx: Transaction, sealer: Sealer, token_id: str) -> list[Grant]:
    return [_grant(row, sealer) for row in await tx.all(_grants_of_token, of_token=token_id)]


async def out_of_service(tx: Transaction, sealer: Sealer, of: Token) -> list[Grant]:
    """Grants of a token that another one has taken the place of, the newest first."""
    rows = await tx.all(_grants_of_token, of_token=of.id)
    readable = (
        _grant_if_readable(row, sealer) for row in rows if row["id"] not in (of.serving_grant, of.pending_grant)
    )
    return sorted((grant for grant in readable if grant), key=lambda grant: grant.refreshed_at, reverse=True)


async def retired(tx: Transaction, before: float) -> list[tuple[str, str]]:
    """Grants that another one has taken the place of, or that never served, and that were not used since `before`.

    Ids of the grants and of their tokens.
    """
    return [(row["id"], row["token_id"]) for row in await tx.all(_retired, before=before)]


async def remove_grant(tx: Transaction, grant_id: str) -> bool:
    return bool(await tx.run(_delete_grant, row_id=grant_id))


async def due(
    tx: Transaction, now: float, at_most: int, owner: str = "", *, apart: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Serving grants that want a refresh, the most urgent first; refused ones where it is worth another try.

    Ids of the grants and of their app registrations. Without those that somebody else than `owner` is refreshing, and
    without those of the providers named in `apart`, at most AT_ONCE of them.
    """
    rows = await tx.all(_due, now=now, at_most=at_most, lease_now=await tx.now(), owner=owner, **few(apart))
    # Of one moment the index has them by registration: no registration comes before another.
    return [(row["id"], row["app_id"]) for row in sorted(rows, key=lambda row: (row["next_refresh_at"], row["id"]))]


async def wake(tx: Transaction, grant_id: str, now: float) -> None:
    """A grant wants to be refreshed now, also one that was not to be refreshed any more."""
    await tx.run(_wake, row_id=grant_id, now=now)


async def lease(
    tx: Transaction, sealer: Sealer, seen: Grant, owner: str, seconds: float, request: float
) -> Lease | None:
    """Take the right to refresh a grant and write down the intent.

    None where another holds it, or has refreshed it or failed to since it was `seen`.
    A lease of the owner's own, from before it was started again, is taken over `request` seconds after it was taken:
    whatever was sent with it is over then. Raises Unsealable.
    """
    before = await tx.one(_grant_for_change, row_id=seen.id)
    if before is None or before["failures"] > seen.failures:
        return None
    now = await tx.now()
    got = await tx.one(
        _lease,
        row_id=seen.id,
        seen_serial=seen.serial,
        now=now,
        over=now - request,
        owner=owner,
        until=now + seconds,
    )
    if got is None:
        return None
    epoch: int = got["lease_epoch"]
    return Lease(replace(_grant(before, sealer), lease_epoch=epoch), epoch, now + seconds)


async def rotate(
    tx: Transaction,
    sealer: Sealer,
    old: Grant,
    *,
    access_token: Secret,
    refresh_token: Secret | None,
    scopes: Sequence[str],
    now: float,
    expires_at: float,
    next_refresh_at: float,
    refresh_ends_at: float = 0.0,
) -> Grant | None:
    """Write a provider's answer over the serial it was made with: the grant as it is then.

    None: it is gone or has moved on. `refresh_ends_at` is 0.0 where the answer names no end of the refresh token.
    """
    new = replace(
        old,
        serial=old.serial + 1,
        access_token=access_token,
        refresh_token=refresh_token or old.refresh_token,
        previous_refresh_token=old.refresh_token,
        access_expires_at=expires_at,
        next_refresh_at=next_refresh_at,
        refreshed_at=now,
        failures=0,
        last_error="",
        scopes=tuple(scopes or old.scopes),
        intent_serial=None,
        told_end=old.told_end or refresh_ends_at,
        latest_end=refresh_ends_at or old.latest_end,
    )
    previous = sealer.seal(old.refresh_token.reveal().encode(), _previous_place(old.id)) if old.refresh_token else None
    written = await tx.run(
        _rotate,
        row_id=old.id,
        seen_serial=old.serial,
        new_sealed=_seal(sealer, new, new.serial, new.access_token, new.refresh_token),
        new_previous=previous,
        now=now,
        new_expiry=expires_at,
        new_next=next_refresh_at,
        new_told_end=new.told_end,
        new_latest_end=new.latest_end,
        new_scopes=" ".join(new.scopes),
    )
    return new if written else None


async def postpone(tx: Transaction, old: Grant, error: str, next_refresh_at: float, *, answered: bool) -> None:
    """A failure that leaves the grant as it is; nothing happens where the lease has gone to another.

    `answered`: the provider spoke, so this request rotated nothing behind our back; an earlier one still may have.
    """
    ours = await tx.run(
        _postpone,
        row_id=old.id,
        seen_serial=old.serial,
        seen_epoch=old.lease_epoch,
        error=error,
        new_next=next_refresh_at,
    )
    if ours and answered and not old.answer_was_lost:
        await tx.run(_answered, row_id=old.id)


async def set_result(
    tx: Transaction, mailbox_id: str, protocol: str, state: str, now: float, answer: str = "", cause: str = ""
) -> None:
    """Write down how a protocol fared."""
    values = {"new_state": state, "new_answer": answer, "new_cause": cause, "new_since": now}
    await tx.run(_make_setting, mailbox=mailbox_id, protocol=protocol)
    await tx.run(_update_setting, mailbox=mailbox_id, protocol=protocol, **values)


async def results(tx: Transaction, mailboxes: Iterable[str]) -> dict[tuple[str, str], SettingResult]:
    """By mailbox id and protocol, of these mailboxes."""
    rows = await all_among(tx, _settings_among, mailboxes)
    return {(row["mailbox_id"], row["kind"]): SettingResult(**dict(row)) for row in rows}


async def results_of(tx: Transaction, mailbox_id: str) -> dict[str, SettingResult]:
    """By protocol."""
    return {row["kind"]: SettingResult(**dict(row)) for row in await tx.all(_settings_of, mailbox=mailbox_id)}


def _seal(sealer: Sealer, of: Grant, serial: int, access: Secret, refresh: Secret | None) -> bytes:
    both = _Sealed(access.reveal(), refresh.reveal() if refresh else "", of.given_to, of.app_only)
    return sealer.seal(msgspec.json.encode(both), f"grant:{of.id}:{serial}")


def _previous_place(grant_id: str) -> str:
    return f"grant:{grant_id}:previous"


def _token(row: Row) -> Token:
    pinned = (row["pinned_issuer"], row["pinned_subject"]) if row["pinned_subject"] else None
    return Token(
        id=row["id"],
        app_id=row["app_id"],
        account=row["account"],
        name=row["name"],
        state=TokenState(row["state"]),
        reason=row["reason"],
        detail=row["detail"],
        since=row["since"],
        version=row["version"],
        serving_grant=row["serving_grant"],
        pending_grant=row["pending_grant"],
        pinned=pinned,
    )


def _grant_if_readable(row: Row, sealer: Sealer) -> Grant | None:
    with contextlib.suppress(Unsealable):
        return _grant(row, sealer)
    return None


def _grant(row: Row, sealer: Sealer) -> Grant:
    opened = sealer.open(row["sealed"], f"grant:{row['id']}:{row['serial']}")
    both = msgspec.json.decode(opened, type=_Sealed)
    previous = sealer.open(row["previous"], _previous_place(row["id"])).decode() if row["previous"] else ""
    return Grant(
        id=row["id"],
        token_id=row["token_id"],
        serial=row["serial"],
        access_token=Secret(both.access),
        refresh_token=Secret(both.refresh) if both.refresh else None,
        previous_refresh_token=Secret(previous) if previous else None,
        access_expires_at=row["access_expires_at"],
        next_refresh_at=row["next_refresh_at"],
        obtained_at=row["obtained_at"],
        refreshed_at=row["refreshed_at"],
        failures=row["failures"],
        last_error=row["last_error"],
        scopes=tuple(row["scopes"].split()),
        issuer=row["issuer"],
        subject=row["subject"],
        person=row["person"],
        intent_serial=row["intent_serial"],
        intent_at=row["intent_at"],
        lease_epoch=row["lease_epoch"],
        app_only=both.app_only,
        given_to=both.given_to,
        told_end=row["told_end"],
        latest_end=row["latest_end"],
    )
