"""Notices, what each is about, and the outbox of what is told of them."""

from dataclasses import dataclass, replace

from sqlalchemy import bindparam, delete, func, insert, literal, or_, select, update

from posthouse.model.notice import HOUR, About, Notice, due_after_end, due_after_news
from posthouse.store.compiling import insert_if_absent, one_of
from posthouse.store.database import Row, Transaction
from posthouse.store.ids import new_id
from posthouse.store.tables import episode, notice, notice_about, telling

RECENT = 50
MOST_OPEN = 500
MOST_ABOUT = 5000
"""Rows that are read at once; more would not be read by anybody."""
WAITING, QUEUED, DONE, FAILED = "waiting", "queued", "done", "failed"


@dataclass(frozen=True, slots=True)
class Telling:
    """One mail or one call of the webhook. `claim` grows with every attempt and decides who may write about it.

    `state`: waiting, queued (a mail lies in the queue), done or failed. `answer`: why it is not done.
    """

    id: str
    way: str
    state: str
    document: str
    at: float
    next_at: float
    attempts: int
    claim: int
    claimed_until: float
    mailbox_id: str
    message_id: str
    answer: str


_of_topic = (
    select(notice)
    .where(
        notice.c.topic == bindparam("wanted"),
        or_(notice.c.ended_at == literal(0), notice.c.ended_at > bindparam("ended_after")),
    )
    .order_by(notice.c.since.desc())
    .limit(1)
    .with_for_update()
)
_new = insert(notice).values(
    {name: bindparam(name) for name in ("id", "kind", "topic", "cause", "since", "count", "due_at")}
)
_again = (
    update(notice)
    .where(notice.c.id == bindparam("row_id"))
    .values(
        count=notice.c.count + 1,
        cause=bindparam("new_cause"),
        ended_at=0,
        due_at=bindparam("due"),
        acknowledged_at=bindparam("kept"),
    )
)
_about_begun = insert_if_absent(
    notice_about,
    notice_id=bindparam("about"),
    subject=bindparam("whom"),
    name=bindparam("called"),
    at=bindparam("moment"),
    ended_at=-1,
)
_about_on = (
    update(notice_about)
    .where(
        notice_about.c.notice_id == bindparam("about"),
        notice_about.c.subject == bindparam("whom"),
        notice_about.c.ended_at != literal(0),
    )
    .values(name=bindparam("called"), at=bindparam("moment"), ended_at=0)
)
_about_over = (
    update(notice_about)
    .where(
        notice_about.c.notice_id == bindparam("about"),
        notice_about.c.subject == bindparam("whom"),
        notice_about.c.ended_at == literal(0),
    )
    .values(ended_at=bindparam("moment"))
)
_about = (
    select(notice_about)
    .where(notice_about.c.notice_id == bindparam("about"))
    .order_by(notice_about.c.at.desc(), notice_about.c.name)
    .limit(MOST_ABOUT)
)
_going_on = (
    select(notice_about.c.subject)
    .where(notice_about.c.notice_id == bindparam("about"), notice_about.c.ended_at == literal(0))
    .limit(1)
)
_end = (
    update(notice)
    .where(notice.c.id == bindparam("row_id"), notice.c.ended_at == literal(0))
    .values(ended_at=bindparam("moment"), due_at=bindparam("due"))
)
_open = select(notice).where(notice.c.ended_at == literal(0)).order_by(notice.c.since.desc()).limit(MOST_OPEN)
_unnoted = select(func.count().label("count")).where(
    notice.c.ended_at == literal(0), notice.c.acknowledged_at == literal(0)
)
_ended = select(notice).where(notice.c.ended_at > literal(0)).order_by(notice.c.ended_at.desc()).limit(RECENT)
_one = select(notice).where(notice.c.id == bindparam("row_id")).with_for_update()
_due = (
    select(notice)
    .where(notice.c.due_at > literal(0), notice.c.due_at <= bindparam("moment"))
    .order_by(notice.c.id)
    .limit(MOST_OPEN)
)
_told = (
    update(notice)
    .where(
        notice.c.id == bindparam("row_id"),
        notice.c.due_at == bindparam("seen_due"),
        notice.c.count == bindparam("seen_count"),
        notice.c.ended_at == bindparam("seen_end"),
    )
    .values(due_at=0, told_at=bindparam("new_at"), told_count=bindparam("new_count"), told_open=bindparam("new_open"))
)
_acknowledge = (
    update(notice)
    .where(notice.c.id == bindparam("row_id"), notice.c.acknowledged_at == literal(0))
    .values(acknowledged_at=bindparam("moment"), acknowledged_by=bindparam("person"))
)
_add = insert(telling).values({name: bindparam(name) for name in ("id", "way", "state", "document", "at", "next_at")})
_unfinished = (
    select(telling)
    .where(telling.c.way == bindparam("only"), one_of(telling.c.state, (WAITING, QUEUED)))
    .order_by(telling.c.at, telling.c.id)
    .limit(RECENT)
)
_claimable = (
    select(telling.c.id, telling.c.claim)
    .where(
        telling.c.way == bindparam("only"),
        telling.c.state == literal(WAITING),
        telling.c.next_at <= bindparam("moment"),
        telling.c.claimed_until <= bindparam("database_now"),
    )
    .order_by(telling.c.at, telling.c.id)
    .limit(1)
)
_claim = (
    update(telling)
    .where(telling.c.id == bindparam("row_id"), telling.c.claim == bindparam("seen"))
    .values(claim=telling.c.claim + 1, claimed_until=bindparam("until"))
    .returning(telling)
)
_settle = (
    update(telling)
    .where(telling.c.id == bindparam("row_id"), telling.c.claim == bindparam("seen"))
    .values(
        state=bindparam("new_state"),
        next_at=bindparam("new_next_at"),
        attempts=telling.c.attempts + 1,
        claim=telling.c.claim + 1,
        claimed_until=0,
        mailbox_id=bindparam("new_mailbox"),
        message_id=bindparam("new_message"),
        answer=bindparam("new_answer"),
    )
)
_since = select(func.count().label("count")).where(
    telling.c.way == bindparam("only"), telling.c.at > bindparam("moment")
)
_last = select(telling).order_by(telling.c.at.desc(), telling.c.id).limit(RECENT)
_aged = (
    select(notice.c.id)
    .where(notice.c.ended_at > literal(0), notice.c.ended_at < bindparam("before"))
    .order_by(notice.c.ended_at)
    .limit(bindparam("at_most"))
)
_forget_about = delete(notice_about).where(notice_about.c.notice_id.in_(_aged))
_forget = delete(notice).where(notice.c.id.in_(_aged))
_forget_tellings = delete(telling).where(
    telling.c.id.in_(select(telling.c.id).where(telling.c.at < bindparam("before")).limit(bindparam("at_most")))
)
_episode_begins = insert_if_absent(
    episode, subject=bindparam("whom"), what=bindparam("thing"), since=bindparam("begun"), level=0
)
_this_episode = (episode.c.subject == bindparam("whom"), episode.c.what == bindparam("thing"))
_episode_grows = (
    update(episode).where(*_this_episode, episode.c.level < bindparam("new")).values(level=bindparam("new"))
)
_episode_ends = delete(episode).where(*_this_episode)
_episodes = select(episode)


async def happened(
    tx: Transaction, now: float, kind: str, topic: str, cause: str, whom: About, *, news: bool = False
) -> None:
    """Something has happened: it opens a notice, or is counted in the one of its topic that goes on or ended just now.

    `news`: it is worth telling although the notice is about the same one already.
    """
    row = await tx.one(_of_topic, wanted=topic, ended_after=now - HOUR)
    if row is None:
        made = Notice(new_id("nt"), kind, topic, cause, now, 0.0, 1, 0.0, 0.0, 0, told_open=False)
        due = due_after_news(made, now)
        await tx.run(_new, id=made.id, kind=kind, topic=topic, cause=cause, since=now, count=1, due_at=due)
        await _begin(tx, made.id, whom, now)
        return
    known = _notice(row)
    joined = await _begin(tx, known.id, whom, now)
    due = due_after_news(known, now) if joined or news else known.due_at
    kept = 0.0 if joined or news else known.acknowledged_at
    await tx.run(_again, row_id=known.id, new_cause=cause, due=due, kept=kept)


async def _begin(tx: Transaction, notice_id: str, whom: About, now: float) -> bool:
    given = {"about": notice_id, "whom": whom.subject, "called": whom.name, "moment": now}
    await tx.run(_about_begun, **given)
    return bool(await tx.run(_about_on, **given))


async def mend(tx: Transaction, found: Notice, subject: str, now: float) -> None:
    """It is over for one that a notice is about, and with the last one for the notice."""
    await tx.one(_one, row_id=found.id)
    await tx.run(_about_over, about=found.id, whom=subject, moment=now)
    if await tx.one(_going_on, about=found.id) is None:
        await tx.run(_end, row_id=found.id, moment=now, due=due_after_end(found, now))


async def going_on(tx: Transaction) -> list[Notice]:
    """The newest first, with what they are about."""
    return [await _whole(tx, row) for row in await tx.all(_open)]


async def count_open(tx: Transaction) -> int:
    """How many go on and are not acknowledged."""
    row = await tx.one(_unnoted)
    return int(row["count"]) if row else 0


async def mended(tx: Transaction) -> list[Notice]:
    """The RECENT ones that ended last."""
    return [await _whole(tx, row) for row in await tx.all(_ended)]


async def one(tx: Transaction, notice_id: str) -> Notice | None:
    row = await tx.one(_one, row_id=notice_id)
    return await _whole(tx, row) if row else None


async def due(tx: Transaction, now: float) -> list[Notice]:
    return [await _whole(tx, row) for row in await tx.all(_due, moment=now)]


async def tell(tx: Transaction, seen: Notice, now: float) -> bool:
    """Write down that it is told as it was `seen`; False where another node did so, or it has changed."""
    news = seen.is_news
    written = {
        "new_at": now if news else seen.told_at,
        "new_count": seen.count if news else seen.told_count,
        "new_open": int(seen.open if news else seen.told_open),
    }
    held = {"seen_due": seen.due_at, "seen_count": seen.count, "seen_end": seen.ended_at}
    return bool(await tx.run(_told, row_id=seen.id, **held, **written))


async def acknowledge(tx: Transaction, notice_id: str, person: str, now: float, *, end: bool) -> bool:
    """A person has taken note; `end`: with that it is over. False where somebody had done so before."""
    if not await tx.run(_acknowledge, row_id=notice_id, person=person, moment=now):
        return False
    if end:
        await tx.run(_end, row_id=notice_id, moment=now, due=0.0)
    return True


async def put(tx: Transaction, way: str, document: str, now: float) -> Telling:
    """Something to be told by one way."""
    made = Telling(new_id("tl"), way, WAITING, document, now, now, 0, 0, 0.0, "", "", "")
    await tx.run(_add, id=made.id, way=way, state=WAITING, document=document, at=now, next_at=now)
    return made


async def unfinished(tx: Transaction, way: str) -> list[Telling]:
    """Oldest first."""
    return [_telling(row) for row in await tx.all(_unfinished, only=way)]


async def told_after(tx: Transaction, way: str, moment: float) -> int:
    """How many were put for one way after a time."""
    row = await tx.one(_since, only=way, moment=moment)
    return int(row["count"]) if row else 0


async def latest(tx: Transaction) -> list[Telling]:
    """Newest first."""
    return [_telling(row) for row in await tx.all(_last)]


async def claim(tx: Transaction, way: str, now: float, lease: float) -> Telling | None:
    """One that is due and that nobody is about; it is ours for `lease` seconds of the database's clock."""
    at = await tx.now()
    found = await tx.one(_claimable, only=way, moment=now, database_now=at)
    row = await tx.one(_claim, row_id=found["id"], seen=found["claim"], until=at + lease) if found else None
    return _telling(row) if row else None


async def settle(
    tx: Transaction,
    seen: Telling,
    state: str,
    *,
    next_at: float = 0.0,
    mailbox_id: str = "",
    message_id: str = "",
    answer: str = "",
) -> bool:
    """What an attempt came to. False where somebody else has written about it since it was `seen`."""
    return bool(
        await tx.run(
            _settle,
            row_id=seen.id,
            seen=seen.claim,
            new_state=state,
            new_next_at=next_at,
            new_mailbox=mailbox_id,
            new_message=message_id,
            new_answer=answer,
        )
    )


async def prune(tx: Transaction, before: float, at_most: int) -> int:
    """Forget notices that ended before a time, and what was told before; how many rows."""
    await tx.run(_forget_about, before=before, at_most=at_most)
    return await tx.run(_forget, before=before, at_most=at_most) + await tx.run(
        _forget_tellings, before=before, at_most=at_most
    )


async def reach(tx: Transaction, subject: str, what: str, since: float, level: int) -> bool:
    """Something that goes on has reached a level. False where that, or more, was written down before."""
    await tx.run(_episode_begins, whom=subject, thing=what, begun=since)
    return bool(await tx.run(_episode_grows, whom=subject, thing=what, new=level))


async def episodes(tx: Transaction) -> dict[tuple[str, str], int]:
    """The level of everything that goes on, by subject and what it is."""
    return {(row["subject"], row["what"]): row["level"] for row in await tx.all(_episodes)}


async def end_episode(tx: Transaction, subject: str, what: str) -> bool:
    return bool(await tx.run(_episode_ends, whom=subject, thing=what))


async def _whole(tx: Transaction, row: Row) -> Notice:
    rows = await tx.all(_about, about=row["id"])
    about = [About(one["subject"], one["name"], one["at"], one["ended_at"]) for one in rows]
    return replace(_notice(row), about=tuple(sorted(about, key=lambda one: one.ended_at > 0)))


def _notice(row: Row) -> Notice:
    return Notice(
        id=row["id"],
        kind=row["kind"],
        topic=row["topic"],
        cause=row["cause"],
        since=row["since"],
        ended_at=row["ended_at"],
        count=row["count"],
        due_at=row["due_at"],
        told_at=row["told_at"],
        told_count=row["told_count"],
        told_open=bool(row["told_open"]),
        acknowledged_at=row["acknowledged_at"],
        acknowledged_by=row["acknowledged_by"],
    )


def _telling(row: Row) -> Telling:
    return Telling(
        id=row["id"],
        way=row["way"],
        state=row["state"],
        document=row["document"],
        at=row["at"],
        next_at=row["next_at"],
        attempts=row["attempts"],
        claim=row["claim"],
        claimed_until=row["claimed_until"],
        mailbox_id=row["mailbox_id"],
        message_id=row["message_id"],
        answer=row["answer"],
    )
