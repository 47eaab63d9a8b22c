"""What is known of the ends of things, and which warnings were given: each distance once, whichever node is first."""

from dataclasses import dataclass

from sqlalchemy import and_, bindparam, delete, literal, or_, select, update

from posthouse.model.forecast import Course, Ending
from posthouse.model.token import TokenState
from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Row, Transaction
from posthouse.store.tables import app, expiry_warning, grant, token

PAGE = 500
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


_serving = (
    select(
        token.c.id,
        token.c.app_id,
        token.c.account,
        grant.c.obtained_at,
        grant.c.refreshed_at,
        grant.c.next_refresh_at,
        grant.c.failures,
        grant.c.told_end,
        grant.c.latest_end,
    )
    .join(grant, grant.c.id == token.c.serving_grant)
    .where(token.c.state == literal(str(TokenState.ACQUIRED)))
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
