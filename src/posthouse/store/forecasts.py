"""What is known of the ends of things, and which warnings were given: each distance once, whichever node is first."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, bindparam, delete, literal, not_, or_, select, update

from posthouse.model.forecast import Course, Ending
from posthouse.model.token import TokenState
from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Row, Transaction
from posthouse.store.tables import ZERO, app, expiry_warning, grant, token

PAGE = 500
MOST = 1000
"""Tokens of each kind of end that are looked at where only the nearest are told."""
SAME = 43_200.0
"""Ends that lie closer together than these seconds are the same end, named anew by an answer that took its time."""
NEVER = 1_000_000


@dataclass(frozen=True, slots=True)
class Serving:
    """A token that is acquired, and how the grant that serves it has fared."""

    token_id: str
    app_id: str
    account: str
    course: Course


_COURSE = (
    grant.c.obtained_at,
    grant.c.refreshed_at,
    grant.c.next_refresh_at,
    grant.c.failures,
    grant.c.told_end,
    grant.c.latest_end,
)
_ACQUIRED = token.c.state == literal(str(TokenState.ACQUIRED))
_serving = (
    select(token.c.id, token.c.app_id, token.c.account, *_COURSE)
    .join(grant, grant.c.id == token.c.serving_grant)
    .where(_ACQUIRED)
)
_MOVES = grant.c.latest_end - grant.c.told_end > (grant.c.refreshed_at - grant.c.obtained_at) / 2
_SPENT = grant.c.latest_end - grant.c.refreshed_at < (grant.c.told_end - grant.c.obtained_at) / 2
_NOT_RENEWED = or_(grant.c.failures > ZERO, grant.c.next_refresh_at == ZERO)
_IDLES = or_(_NOT_RENEWED, grant.c.next_refresh_at >= grant.c.latest_end)
_grants = select(grant.c.id, grant.c.token_id, *_COURSE).limit(MOST)
_idle_since = _grants.where(grant.c.refreshed_at <= bindparam("before")).order_by(grant.c.refreshed_at)


def _that_serve(grants: Select[Any]) -> Select[Any]:
    """Grants are found by themselves first: SQLite would begin with the tokens, which are nearly all acquired."""
    found = grants.subquery()
    course = (found.c[column.name] for column in _COURSE)
    joined = and_(token.c.id == found.c.token_id, token.c.serving_grant == found.c.id)
    return select(token.c.id, token.c.app_id, token.c.account, *course).join(found, joined).where(_ACQUIRED)


_told_ends = _that_serve(
    _grants.where(
        grant.c.told_end > ZERO,
        or_(
            and_(grant.c.told_end <= bindparam("until"), not_(_MOVES)),
            and_(grant.c.latest_end <= bindparam("until"), or_(_SPENT, _IDLES)),
        ),
    ).order_by(grant.c.told_end)
)
_failing = _that_serve(_idle_since.where(grant.c.failures > ZERO))
_given_up = _that_serve(_idle_since.where(grant.c.next_refresh_at == ZERO))
_tokens_of_app = (
    select(token).where(token.c.app_id == bindparam("app")).order_by(token.c.account).limit(MOST).subquery()
)
_of_app = (
    select(_tokens_of_app.c.id, _tokens_of_app.c.app_id, _tokens_of_app.c.account, *_COURSE)
    .join(grant, grant.c.id == _tokens_of_app.c.serving_grant)
    .where(_tokens_of_app.c.state == literal(str(TokenState.ACQUIRED)))
)
_page = _serving.where(token.c.id > bindparam("position")).order_by(token.c.id).limit(PAGE)
_one = _serving.where(token.c.id == bindparam("token_id"))
_given = select(expiry_warning)
_this = and_(expiry_warning.c.subject == bindparam("about"), expiry_warning.c.what == bindparam("ending"))
_begin = insert_if_absent(
    expiry_warning, subject=bindparam("about"), what=bindparam("ending"), ends_at=bindparam("new_end"), distance=NEVER
)
_give = (
    update(expiry_warning)
    .where(
        _this,
        or_(
            expiry_warning.c.distance > bindparam("new_distance"),
            expiry_warning.c.ends_at < bindparam("earliest"),
            expiry_warning.c.ends_at > bindparam("latest"),
        ),
    )
    .values(ends_at=bindparam("new_end"), distance=bindparam("new_distance"))
)
_forget = delete(expiry_warning).where(
    ~select(app.c.id).where(app.c.id == expiry_warning.c.subject).exists(),
    ~select(token.c.id).where(token.c.id == expiry_warning.c.subject).exists(),
)


async def serving(tx: Transaction, position: str = "") -> list[Serving]:
    """At most PAGE acquired tokens by id, those that follow `position`."""
    return [_read(row) for row in await tx.all(_page, position=position)]


async def may_end(tx: Transaction, until: float, idle_before: float, testing: Iterable[str]) -> list[Serving]:
    """The acquired tokens of which something may end by then (model/forecast.py decides), at most MOST for each cause.

    `idle_before`: those last renewed before that, and not renewed any more, may have idled by then. `testing`: ids of
    app registrations in test mode.
    """
    rows = await tx.all(_told_ends, until=until)
    rows += await tx.all(_failing, before=idle_before)
    rows += await tx.all(_given_up, before=idle_before)
    for app_id in testing:
        rows += await tx.all(_of_app, app=app_id)
    return list({row["id"]: _read(row) for row in rows}.values())


async def serving_one(tx: Transaction, token_id: str) -> Serving | None:
    """None for a token that is not acquired."""
    row = await tx.one(_one, token_id=token_id)
    return _read(row) if row else None


async def given(tx: Transaction) -> dict[tuple[str, str], tuple[float, int]]:
    """The last warning about each subject and what of it ends: when, and the distance in days."""
    return {(row["subject"], row["what"]): (row["ends_at"], row["distance"]) for row in await tx.all(_given)}


def is_given(last: tuple[float, int] | None, ending: Ending, distance: int) -> bool:
    """Whether this warning, or one nearer to the end, was the last one."""
    return last is not None and abs(last[0] - ending.at) <= SAME and last[1] <= distance


async def give(tx: Transaction, subject: str, ending: Ending, distance: int) -> bool:
    """Write down that a warning is given. False where somebody else has given it before; then it must not be told."""
    about = {"about": subject, "ending": str(ending.what), "new_end": ending.at}
    await tx.run(_begin, **about)
    bounds = {"earliest": ending.at - SAME, "latest": ending.at + SAME}
    return bool(await tx.run(_give, **about, **bounds, new_distance=distance))


async def forget_gone(tx: Transaction) -> int:
    """Warnings about app registrations and tokens that are no longer there; how many."""
    return await tx.run(_forget)


def _read(row: Row) -> Serving:
    course = Course(
        row["obtained_at"],
        row["refreshed_at"],
        row["next_refresh_at"],
        row["failures"],
        row["told_end"],
        row["latest_end"],
    )
    return Serving(row["id"], row["app_id"], row["account"], course)
