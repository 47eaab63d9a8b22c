"""Mail that waits for a mailbox which is to be removed or to send no more: moved, discarded on purpose, or kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from posthouse.model.mailbox import fold
from posthouse.problems import Problem, ProblemError, problem
from posthouse.store import applied, messages
from posthouse.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Closing:
    """A mailbox that will not send any more, and the messages that wait for it."""

    mailbox_id: str
    address: str
    waiting: tuple[str, ...]
    busy: bool


@dataclass(frozen=True, slots=True)
class MailRule:
    """What a person has said about waiting mail: where to move it, or how many messages may be lost (0: none)."""

    move_to: str = ""
    discard: int = 0


async def closing(tx: Transaction, mailbox_id: str, address: str) -> Closing:
    found = await applied.waiting(tx, mailbox_id)
    return Closing(mailbox_id, address, tuple(found), any(found.values()))


def refuse(closings: Sequence[Closing], rule: MailRule, sending: dict[str, str]) -> list[Problem]:
    """Why these mailboxes cannot be closed by this rule. `sending`: ids of the others by address, where they send."""
    if rule.move_to and rule.discard:
        return [Problem("apply.mail-rule", "Mail is either moved or discarded.", "Give only one of the two.")]
    if rule.move_to and fold(rule.move_to) not in sending:
        return [Problem("apply.mail-rule", f"There is no mailbox {rule.move_to} that could send the waiting mail.")]
    total = sum(len(one.waiting) for one in closings)
    if rule.move_to or rule.discard == total or not total:
        return []
    hint = f"Add --move-to ADDRESS to let another mailbox send them, or --discard {total} to lose them."
    return [Problem("apply.mail-waits", _waiting(one), hint) for one in closings if one.waiting]


def _waiting(one: Closing) -> str:
    if len(one.waiting) == 1:
        return f"1 message waits for {one.address}, which could not send any more."
    return f"{len(one.waiting)} messages wait for {one.address}, which could not send any more."


async def clear(tx: Transaction, one: Closing, rule: MailRule, sending: dict[str, str], now: float) -> list[str]:
    """Do as the rule says; ids of the messages that were discarded. Raises ProblemError."""
    if one.busy:
        sentence = f"A message of {one.address} is being sent at this moment."
        raise problem("apply.mail-busy", sentence, "Try again in a moment.", status=75)
    await messages.release(tx, one.mailbox_id, now)
    if rule.move_to:
        await applied.move_mail(tx, one.mailbox_id, sending[fold(rule.move_to)], now)
        return []
    gone = [queue_id for queue_id in one.waiting if await messages.remove(tx, queue_id, now)]
    if len(gone) != len(one.waiting):
        raise ProblemError(
            Problem("apply.mail-busy", f"The queue of {one.address} is moving.", "Try again."), status=75
        )
    return gone
