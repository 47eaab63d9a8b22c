"""The queue: accepted messages until they are sent, and what became of them."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Select, Text, bindparam, case, delete, func, insert, literal, or_, select, update
from sqlalchemy.sql.expression import ClauseElement

from posthouse.model.delivery import Outcome
from posthouse.model.message import MessageState, NewMessage, QueuedMessage, Recipient, Stage
from posthouse.store import events, journal
from posthouse.store.among import all_among, among
from posthouse.store.compiling import one_of
from posthouse.store.database import Row, Transaction
from posthouse.store.ids import first_message_id
from posthouse.store.tables import body, mailbox, message

PAGE = 200
HELD = "parked by a person"
_NEWEST = "~"
QUEUED, PARKED = str(MessageState.QUEUED), str(MessageState.PARKED)
_recipients = msgspec.json.Decoder(tuple[Recipient, ...]).decode


class MailboxGone(Exception):
    """The mailbox was removed meanwhile: nobody would ever send the message."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A message as a list shows it, without its content. `held`: a person parked it."""

    id: str
    mailbox_id: str
    device: str
    state: MessageState
    stage: Stage
    sender: str
    recipients: tuple[Recipient, ...]
    message_id: str
    subject: str
    size: int
    created_at: float
    next_at: float
    finished_at: float
    parked_at: float
    held: bool
    attempts: int
    answer: str
    cause: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages a list shows; what is empty does not matter.

    `text` is looked for in subject, sender and recipients, and as a whole queue id or Message-ID.
    """

    state: str = ""
    mailbox_id: str = ""
    device: str = ""
    text: str = ""


EVERY = Wanted()


class Claim(Struct, frozen=True):
    """Fences every write about a message: the mailbox lease's epoch at the time it was claimed."""

    message: QueuedMessage
    epoch: int


_fields = (
    "id", "mailbox_id", "device", "sender", "recipients", "message_id", "subject", "size", "smtputf8", "eight_bit",
    "pieces", "created_at", "queued_at", "deadline_at", "next_at",
)  # fmt: skip
_insert = insert(message).from_select(
    (*_fields, "state", "stage"),
    select(
        *(bindparam(name, type_=message.c[name].type) for name in _fields),
        literal(QUEUED, Text),
        literal("", Text),
    )
    .select_from(mailbox)
    .where(mailbox.c.id == bindparam("mailbox_id"))
    .with_for_update(read=True, key_share=True),
    include_defaults=False,
)
"""Of a mailbox that is there: whoever removes it at the same moment comes after us, and sees the message."""
_insert_body = insert(body).values(message_id=bindparam("message_id"), data=bindparam("data"))
_forget_body = delete(body).where(body.c.message_id == bindparam("wanted"))
_its_body = select(body.c.data).where(body.c.message_id == message.c.id).scalar_subquery().label("body")
_claimed = [message.c[name] for name in QueuedMessage.__struct_fields__ if name != "body"]
_exists = select(message.c.id).where(message.c.id == bindparam("row_id"))
_due = (
    select(message.c.id)
    .where(
        message.c.mailbox_id == bindparam("mailbox"),
        message.c.state == literal(QUEUED),
        message.c.stage == literal(""),
        message.c.next_at <= bindparam("now"),
    )
    .order_by(message.c.next_at, message.c.id)
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)
)
_still_held = (
    select(mailbox.c.id)
    .where(mailbox.c.id == bindparam("mailbox"), mailbox.c.dispatch_epoch == bindparam("epoch"))
    .with_for_update(read=True)
)

_no_claim_going_on = select(mailbox.c.id).where(mailbox.c.id == bindparam("mailbox")).with_for_update(key_share=True)


def _claiming(due: Select[tuple[str]]) -> ClauseElement:
    """Claim what is due, which is looked for once: a subquery in its place may be run again for each row.

    PostgreSQL does so where it takes that for cheap, and each time passes over what has just been claimed.
    """
    found = due.cte("due")
    return (
        update(message)
        .where(message.c.id.in_(select(found.c.id)))
        .values(stage=str(Stage.CLAIMED), claim_owner=bindparam("owner"), claim_epoch=bindparam("epoch"))
        .returning(*_claimed, _its_body)
    )


_earlier = message.alias("earlier")


def _in_order(*, of_device: bool) -> ClauseElement:
    """What is due in the order of acceptance, except what comes after something that has still to wait."""
    held_back = select(_earlier.c.id).where(
        _earlier.c.state == literal(QUEUED),
        _earlier.c.mailbox_id == bindparam("mailbox"),
        _earlier.c.next_at > bindparam("now"),
        _earlier.c.id < message.c.id,
        *([_earlier.c.device == message.c.device] if of_device else []),
    )
    return _claiming(_due.where(~held_back.exists()).order_by(None).order_by(message.c.id))


_claims = {"": _claiming(_due), "mailbox": _in_order(of_device=False), "device": _in_order(of_device=True)}
_unclaim = (
    update(message)
    .where(
        message.c.mailbox_id == bindparam("mailbox"),
        message.c.claim_owner == bindparam("owner"),
        message.c.claim_epoch == bindparam("epoch"),
        message.c.stage == literal(str(Stage.CLAIMED)),
    )
    .values(stage="", next_at=bindparam("now"))
)
_parked_mailboxes = (
    select(message.c.mailbox_id).where(message.c.state == literal(PARKED), message.c.held == literal(0)).distinct()
)
_waits_since = (
    select(message.c.mailbox_id, func.min(message.c.queued_at).label("since"))
    .where(message.c.state == literal(QUEUED))
    .group_by(message.c.mailbox_id)
)
_sent_after = (
    select(message.c.id)
    .where(
        message.c.state == literal(str(MessageState.SENT)),
        message.c.mailbox_id == bindparam("mailbox"),
        message.c.next_at > bindparam("moment"),
    )
    .limit(1)
)
_parked_since = (
    select(message.c.mailbox_id, func.min(message.c.parked_at).label("since"))
    .where(message.c.state == literal(PARKED), message.c.held == literal(0))
    .group_by(message.c.mailbox_id)
)
_waiting_mailboxes = (
    select(message.c.mailbox_id, func.min(message.c.next_at).label("first"))
    .where(message.c.state == literal(QUEUED), message.c.stage == literal(""))
    .group_by(message.c.mailbox_id)
)
_hand_over = (
    update(message)
    .where(
        message.c.id == bindparam("row_id"),
        message.c.claim_epoch == bindparam("epoch"),
        message.c.stage != literal(""),
    )
    .values(stage=str(Stage.HANDING_OVER))
)
_outcome = (
    update(message)
    .where(
        message.c.id == bindparam("row_id"),
        message.c.claim_epoch == bindparam("epoch"),
        message.c.stage != literal(""),
    )
    .values(
        state=bindparam("new_state"),
        stage="",
        recipients=bindparam("new_recipients"),
        attempts=message.c.attempts + bindparam("spent"),
        next_at=bindparam("new_next_at"),
        finished_at=bindparam("new_finished_at"),
        answer=bindparam("new_answer"),
        cause=bindparam("new_cause"),
    )
)
_progress = (
    update(message)
    .where(
        message.c.id == bindparam("row_id"),
        message.c.claim_epoch == bindparam("epoch"),
        message.c.stage != literal(""),
    )
    .values(stage=str(Stage.CLAIMED), recipients=bindparam("new_recipients"))
)
_give_back = (
    update(message)
    .where(
        message.c.id == bindparam("row_id"),
        message.c.claim_epoch == bindparam("epoch"),
        message.c.stage != literal(""),
    )
    .values(stage="", next_at=bindparam("new_next_at"))
)
_interrupted = (
    update(message)
    .where(
        message.c.state == literal(QUEUED),
        message.c.mailbox_id == bindparam("mailbox"),
        message.c.stage == bindparam("old_stage"),
    )
    .values(stage="", next_at=bindparam("now"), attempts=message.c.attempts + bindparam("spent"))
    .returning(message)
)
_park = (
    update(message)
    .where(message.c.mailbox_id == bindparam("mailbox"), message.c.state == literal(QUEUED), message.c.stage == "")
    .values(state=PARKED, parked_at=bindparam("now"), cause=bindparam("new_cause"))
    .returning(message.c.id, message.c.message_id, message.c.device)
)
_postpone = (
    update(message)
    .where(
        message.c.mailbox_id == bindparam("mailbox"),
        message.c.state == literal(QUEUED),
        message.c.stage == literal(""),
        message.c.next_at < bindparam("until"),
    )
    .values(next_at=bindparam("until"), cause=bindparam("new_cause"))
    .returning(message.c.id, message.c.message_id, message.c.device)
)
_resume = (
    update(message)
    .where(
        message.c.mailbox_id == bindparam("mailbox"),
        message.c.state == literal(QUEUED),
        message.c.stage == literal(""),
        message.c.next_at == bindparam("until"),
    )
    .values(next_at=bindparam("now"), cause="")
)
_release = (
    update(message)
    .where(
        message.c.mailbox_id == bindparam("mailbox"),
        message.c.state == literal(PARKED),
        message.c.held == literal(0),
    )
    .values(
        state=QUEUED,
        queued_at=bindparam("now"),
        next_at=bindparam("now"),
        deadline_at=message.c.deadline_at + (bindparam("now") - message.c.parked_at),
        parked_at=0,
        cause="",
    )
    .returning(message.c.id, message.c.message_id, message.c.device)
)
_retry = (
    update(message)
    .where(
        message.c.id == bindparam("row_id"),
        message.c.stage == literal(""),
        one_of(message.c.state, (QUEUED, PARKED, str(MessageState.FAILED))),
    )
    .values(
        state=QUEUED,
        queued_at=bindparam("now"),
        next_at=bindparam("now"),
        deadline_at=bindparam("new_deadline"),
        finished_at=0,
        parked_at=0,
        held=0,
        cause="",
    )
    .returning(message.c.message_id, message.c.mailbox_id, message.c.device, message.c.recipients)
)
_reopen = update(message).where(message.c.id == bindparam("row_id")).values(recipients=bindparam("new_recipients"))
_remove = (
    delete(message)
    .where(message.c.id == bindparam("row_id"), message.c.stage == literal(""))
    .returning(message.c.message_id, message.c.mailbox_id, message.c.device, message.c.pieces)
)
_STATES = tuple(str(state) for state in MessageState)
_counts_among = (
    select(message.c.mailbox_id, message.c.state, func.count().label("count"))
    .where(one_of(message.c.state, _STATES), among(message.c.mailbox_id))
    .group_by(message.c.mailbox_id, message.c.state)
)
_totals = select(message.c.state, func.count().label("count")).group_by(message.c.state)
_newest_sent = (
    select(message.c.next_at)
    .where(message.c.state == literal(str(MessageState.SENT)), message.c.mailbox_id == mailbox.c.id)
    .order_by(message.c.next_at.desc())
    .limit(1)
    .scalar_subquery()
)
_last_sent = select(mailbox.c.id, _newest_sent.label("at")).where(among(mailbox.c.id))
_EQUAL = {"state": message.c.state, "mailbox_id": message.c.mailbox_id, "device": message.c.device}
_SEARCHED = (message.c.subject, message.c.sender, message.c.recipients)


@cache
def _page(given: frozenset[str]) -> Select[Any]:
    """One statement for each set of conditions, so that each is compiled once."""
    conditions = [column == bindparam(f"only_{name}") for name, column in _EQUAL.items() if name in given]
    if "text" in given:
        exact = [column == bindparam("exact") for column in (message.c.id, message.c.message_id)]
        conditions.append(or_(*exact, *(column.ilike(bindparam("pattern"), escape="!") for column in _SEARCHED)))
    newest_first = select(message).where(message.c.id < bindparam("before"), *conditions)
    return newest_first.order_by(message.c.id.desc()).limit(PAGE)


_one = select(message).where(message.c.id == bindparam("row_id"))
_body = select(body.c.data).where(body.c.message_id == bindparam("wanted"))
_with_pieces = select(message.c.id).where(message.c.pieces > literal(0))
_needing_pieces = _with_pieces.where(message.c.state != literal(str(MessageState.SENT)))
_hold = (
    update(message)
    .where(
        message.c.id == bindparam("row_id"),
        message.c.stage == literal(""),
        one_of(message.c.state, (QUEUED, PARKED)),
        message.c.held == literal(0),
    )
    .values(
        state=PARKED,
        held=1,
        parked_at=case((message.c.state == literal(PARKED), message.c.parked_at), else_=bindparam("now")),
        cause=bindparam("new_cause"),
    )
    .returning(message.c.id, message.c.message_id, message.c.mailbox_id, message.c.device)
)
_aged = (
    select(message.c.id)
    .where(
        message.c.id < bindparam("older"),
        message.c.state == bindparam("only"),
        message.c.finished_at < bindparam("before"),
    )
    .order_by(message.c.id)
    .limit(bindparam("at_most"))
)
"""By the key, which sorts by the time of acceptance: what is young is not walked through."""
_prune = delete(message).where(message.c.id.in_(_aged)).returning(message.c.id, message.c.pieces)


async def accept(tx: Transaction, new: NewMessage, now: float, deadline_at: float) -> None:
    """Write the message and its first journal line: when this is committed, 250 may be said.

    Raises MailboxGone, with nothing written.
    """
    written = await tx.run(
        _insert,
        id=new.id,
        mailbox_id=new.mailbox_id,
        device=new.device,
        sender=new.envelope.sender,
        recipients=_encode([Recipient(address) for address in new.envelope.recipients]),
        message_id=new.message_id,
        subject=new.subject,
        size=new.size,
        smtputf8=int(new.envelope.smtputf8),
        eight_bit=int(new.envelope.eight_bit),
        pieces=new.pieces,
        created_at=now,
        queued_at=now,
        deadline_at=deadline_at,
        next_at=now,
    )
    if not written:
        raise MailboxGone(new.mailbox_id)
    await tx.run(_insert_body, message_id=new.id, data=new.body)
    await journal.write(
        tx,
        now,
        "accepted",
        new.id,
        message_id=new.message_id,
        mailbox_id=new.mailbox_id,
        device=new.device,
        sender=new.envelope.sender,
        recipients=len(new.envelope.recipients),
        size=new.size,
    )


async def exists(tx: Transaction, queue_id: str) -> bool:
    return await tx.one(_exists, row_id=queue_id) is not None


async def claim(
    tx: Transaction, mailbox_id: str, owner: str, epoch: int, now: float, at_most: int, order: str = ""
) -> list[Claim]:
    """Take messages that are due, oldest first, to hand them over; none where the lease has another epoch by now.

    `owner` is a name for this claim alone, by which `unclaim` finds what it took. With `order` ("mailbox", "device")
    nothing is taken that was accepted after something of the same mailbox, or device, that has still to wait.
    """
    if await tx.one(_still_held, mailbox=mailbox_id, epoch=epoch) is None:
        return []
    rows = await tx.all(_claims[order], mailbox=mailbox_id, owner=owner, epoch=epoch, now=now, at_most=at_most)
    return sorted((Claim(_queued(row), epoch) for row in rows), key=lambda claim: claim.message.id)


async def unclaim(tx: Transaction, mailbox_id: str, owner: str, epoch: int, now: float) -> None:
    """Undo a claim of which nobody knows whether it was committed; waits for it where that is going on still."""
    await tx.one(_no_claim_going_on, mailbox=mailbox_id)
    await tx.run(_unclaim, mailbox=mailbox_id, owner=owner, epoch=epoch, now=now)


async def waiting_mailboxes(tx: Transaction) -> dict[str, float]:
    """When the first message of each mailbox that has queued mail is due."""
    return {row["mailbox_id"]: row["first"] for row in await tx.all(_waiting_mailboxes)}


async def waits_since(tx: Transaction) -> dict[str, float]:
    """Since when the oldest queued message of each mailbox waits to be sent, its parked time left out."""
    return {row["mailbox_id"]: row["since"] for row in await tx.all(_waits_since)}


async def parked_since(tx: Transaction) -> dict[str, float]:
    """Since when the oldest message of each mailbox is parked; what a person parked does not count."""
    return {row["mailbox_id"]: row["since"] for row in await tx.all(_parked_since)}


async def was_sent_after(tx: Transaction, mailbox_id: str, moment: float) -> bool:
    """Whether the provider took anything from this mailbox after a time."""
    return await tx.one(_sent_after, mailbox=mailbox_id, moment=moment) is not None


async def parked_mailboxes(tx: Transaction) -> list[str]:
    """Mailboxes that have parked mail."""
    return [row["mailbox_id"] for row in await tx.all(_parked_mailboxes)]


async def hand_over(tx: Transaction, claim: Claim) -> bool:
    """About to send the end of the message; may be said twice. False where the mailbox has gone to another node."""
    return bool(await tx.run(_hand_over, row_id=claim.message.id, epoch=claim.epoch))


async def finish(
    tx: Transaction,
    claim: Claim,
    now: float,
    state: MessageState,
    recipients: Sequence[Recipient],
    *,
    kind: str,
    answer: str = "",
    cause: str = "",
    next_at: float = 0.0,
    spent: int = 1,
    taken: int = 0,
    mixed: Sequence[Outcome] = (),
) -> None:
    """Write what an attempt came to, and the journal line about it, which is written in any case.

    `taken` counts the recipients for whom the provider took it; `mixed` has a word on each where they differ.
    """
    over = state in (MessageState.SENT, MessageState.FAILED)
    changed = await tx.run(
        _outcome,
        row_id=claim.message.id,
        epoch=claim.epoch,
        new_state=str(state),
        new_recipients=_encode(recipients),
        spent=spent,
        new_next_at=now if over else next_at,
        new_finished_at=now if over else 0.0,
        new_answer=answer,
        new_cause=cause,
    )
    attempt = claim.message.attempts + spent
    if changed and state is MessageState.SENT:
        await tx.run(_forget_body, wanted=claim.message.id)
    await _outcomes(tx, now, claim.message, mixed)
    await _line(tx, now, kind, claim.message, answer=answer, cause=cause, attempt=attempt, **_taken(kind, taken))
    if changed and state is MessageState.FAILED:
        await events.record(tx, now, "message.failed", claim.message.id, answer=answer, cause=cause)


async def progress(
    tx: Transaction,
    claim: Claim,
    now: float,
    recipients: Sequence[Recipient],
    *,
    answer: str,
    taken: int,
    mixed: Sequence[Outcome] = (),
) -> bool:
    """Write what became of some recipients, before the others are asked about in the same attempt.

    False where the mailbox has gone to another node.
    """
    ours = await tx.run(_progress, row_id=claim.message.id, epoch=claim.epoch, new_recipients=_encode(recipients))
    await _outcomes(tx, now, claim.message, mixed)
    attempt = claim.message.attempts + 1
    await _line(tx, now, "sent in part", claim.message, answer=answer, attempt=attempt, taken=taken)
    return bool(ours)


async def give_back(tx: Transaction, claim: Claim, next_at: float) -> None:
    """Untouched: nothing was tried, nothing is spent."""
    await tx.run(_give_back, row_id=claim.message.id, epoch=claim.epoch, new_next_at=next_at)


async def recover(tx: Transaction, mailbox_id: str, now: float) -> int:
    """After taking over a mailbox: messages that somebody was working on. How many had an unknown outcome."""
    await tx.all(_interrupted, mailbox=mailbox_id, old_stage=str(Stage.CLAIMED), now=now, spent=0)
    unknown = await tx.all(_interrupted, mailbox=mailbox_id, old_stage=str(Stage.HANDING_OVER), now=now, spent=1)
    for row in unknown:
        cause = "the gateway stopped while handing over"
        await _lines(tx, now, "outcome unknown", mailbox_id, [row], cause, attempt=row["attempts"])
    return len(unknown)


async def park(tx: Transaction, mailbox_id: str, now: float, cause: str) -> int:
    """Let everything queued for a mailbox wait without spending attempts."""
    parked = await tx.all(_park, mailbox=mailbox_id, now=now, new_cause=cause)
    await _lines(tx, now, "parked", mailbox_id, parked, cause)
    if parked:
        await events.record(tx, now, "message.parked", mailbox_id, count=len(parked), cause=cause)
    return len(parked)


async def postpone(tx: Transaction, mailbox_id: str, now: float, until: float, cause: str) -> int:
    """Let everything queued for a mailbox wait until then, without spending attempts."""
    waiting = await tx.all(_postpone, mailbox=mailbox_id, until=until, new_cause=cause)
    await _lines(tx, now, "waiting", mailbox_id, waiting, cause)
    return len(waiting)


async def resume(tx: Transaction, mailbox_id: str, now: float, until: float) -> None:
    """What was to wait until then may go on already."""
    await tx.run(_resume, mailbox=mailbox_id, until=until, now=now)


async def release(tx: Transaction, mailbox_id: str, now: float) -> int:
    """Let parked mail go on; the time it was parked does not count towards its deadline."""
    released = await tx.all(_release, mailbox=mailbox_id, now=now)
    await _lines(tx, now, "released", mailbox_id, released, "")
    return len(released)


async def retry(tx: Transaction, queue_id: str, now: float, deadline_at: float) -> bool:
    """Try again now, also what had failed: recipients that were refused are asked once more."""
    row = await tx.one(_retry, row_id=queue_id, now=now, new_deadline=deadline_at)
    if row is None:
        return False
    again = [Recipient(r.address) if r.state == "failed" else r for r in _recipients(row["recipients"])]
    await tx.run(_reopen, row_id=queue_id, new_recipients=_encode(again))
    await _lines(tx, now, "retry asked for", row["mailbox_id"], [{**row, "id": queue_id}], "")
    return True


async def remove(tx: Transaction, queue_id: str, now: float) -> bool:
    """Forget a message that nobody is working on."""
    row = await tx.one(_remove, row_id=queue_id)
    if row is not None:
        await tx.run(_forget_body, wanted=queue_id)
        await _lines(tx, now, "removed", row["mailbox_id"], [{**row, "id": queue_id}], "")
    return row is not None


async def counts_of(tx: Transaction, mailboxes: Iterable[str]) -> dict[str, dict[str, int]]:
    """Number of messages of these mailboxes, by mailbox id and state."""
    result: dict[str, dict[str, int]] = {}
    for row in await all_among(tx, _counts_among, mailboxes):
        result.setdefault(row["mailbox_id"], {})[row["state"]] = row["count"]
    return result


async def totals(tx: Transaction) -> dict[str, int]:
    """Number of messages by state."""
    return {row["state"]: row["count"] for row in await tx.all(_totals)}


async def last_sent(tx: Transaction, mailboxes: Iterable[str]) -> dict[str, float]:
    """When the provider last took a message of these mailboxes; without those of which it took none."""
    return {row["id"]: row["at"] for row in await all_among(tx, _last_sent, mailboxes) if row["at"]}


async def page(tx: Transaction, *, before: str = _NEWEST, wanted: Wanted = EVERY) -> list[Summary]:
    """Newest first, at most PAGE; `before` is the id of the last one of the page before."""
    given = {name: value for name, value in asdict(wanted).items() if value}
    parameters = {f"only_{name}": value for name, value in given.items() if name in _EQUAL}
    if wanted.text:
        parameters |= {"exact": wanted.text, "pattern": f"%{_escaped(wanted.text)}%"}
    return [_summary(row) for row in await tx.all(_page(frozenset(given)), before=before, **parameters)]


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


async def hold(tx: Transaction, queue_id: str, now: float) -> bool:
    """Park a message until a person lets it go on; False where it is being handed over, or is over."""
    row = await tx.one(_hold, row_id=queue_id, now=now, new_cause=HELD)
    if row is not None:
        await _lines(tx, now, "parked", row["mailbox_id"], [row], HELD)
    return row is not None


async def prune(tx: Transaction, state: MessageState, before: float, at_most: int) -> list[tuple[str, int]]:
    """Forget messages that ended before a time: the ids of those, with the number of their pieces."""
    older = first_message_id(before)
    rows = await tx.all(_prune, older=older, only=str(state), before=before, at_most=at_most)
    for row in rows:
        await tx.run(_forget_body, wanted=row["id"])
    return [(row["id"], row["pieces"]) for row in rows]


async def one(tx: Transaction, queue_id: str) -> Summary | None:
    row = await tx.one(_one, row_id=queue_id)
    return _summary(row) if row else None


async def body_of(tx: Transaction, queue_id: str) -> bytes | None:
    """The sealed body, or the header of one that lies in pieces; None once it is gone."""
    row = await tx.one(_body, wanted=queue_id)
    return row["data"] if row else None


async def with_pieces(tx: Transaction) -> set[str]:
    """Ids of the messages whose bodies lie in the spool."""
    return {row["id"] for row in await tx.all(_with_pieces)}


async def needing_pieces(tx: Transaction) -> set[str]:
    """Those of them that are not sent yet: what lies there of others was left by a crash."""
    return {row["id"] for row in await tx.all(_needing_pieces)}


async def _line(tx: Transaction, now: float, kind: str, about: QueuedMessage, **detail: object) -> None:
    await journal.write(
        tx,
        now,
        kind,
        about.id,
        message_id=about.message_id,
        mailbox_id=about.mailbox_id,
        device=about.device,
        **detail,
    )


async def _outcomes(tx: Transaction, now: float, about: QueuedMessage, mixed: Sequence[Outcome]) -> None:
    for outcome in mixed:
        await _line(tx, now, outcome.kind, about, recipient=outcome.address, answer=outcome.answer)


def _taken(kind: str, taken: int) -> dict[str, int]:
    """Said where it is not what the kind says already."""
    return {"taken": taken} if taken != int(kind == "sent") else {}


async def _lines(
    tx: Transaction, now: float, kind: str, mailbox_id: str, rows: Sequence[Row], cause: str, **detail: object
) -> None:
    for row in rows:
        await journal.write(
            tx,
            now,
            kind,
            row["id"],
            message_id=row["message_id"],
            mailbox_id=mailbox_id,
            device=row["device"],
            cause=cause,
            **detail,
        )


def _encode(recipients: Sequence[Recipient]) -> str:
    return msgspec.json.encode(recipients).decode()


def _queued(row: Row) -> QueuedMessage:
    return QueuedMessage(
        id=row["id"],
        mailbox_id=row["mailbox_id"],
        device=row["device"],
        sender=row["sender"],
        recipients=_recipients(row["recipients"]),
        message_id=row["message_id"],
        size=row["size"],
        smtputf8=bool(row["smtputf8"]),
        eight_bit=bool(row["eight_bit"]),
        attempts=row["attempts"],
        created_at=row["created_at"],
        deadline_at=row["deadline_at"],
        body=row["body"],
        pieces=row["pieces"],
        queued_at=row["queued_at"],
    )


def _summary(row: Row) -> Summary:
    return Summary(
        id=row["id"],
        mailbox_id=row["mailbox_id"],
        device=row["device"],
        state=MessageState(row["state"]),
        stage=Stage(row["stage"]),
        sender=row["sender"],
        recipients=_recipients(row["recipients"]),
        message_id=row["message_id"],
        subject=row["subject"],
        size=row["size"],
        created_at=row["created_at"],
        next_at=row["next_at"],
        finished_at=row["finished_at"],
        parked_at=row["parked_at"],
        held=bool(row["held"]),
        attempts=row["attempts"],
        answer=row["answer"],
        cause=row["cause"],
    )
