"""What an attempt to hand a message over came to, and what that means for message and mailbox.

Only a verdict about the message ends a message; whatever concerns the mailbox, the token or the network delays it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from posthouse.model.message import MessageState, QueuedMessage, Recipient, pause_before

ACCOUNT_CLASSES = frozenset(
    ("reauthorise", "fix_app_registration", "fix_mailbox_setting", "fix_permission", "fix_licence", "fix_policy")
)
"""Classes of the error catalogue that concern the mailbox and not the message."""
_ACCOUNT_CODES = frozenset((530, 534, 535, 538))


class Concern(Enum):
    """Whom a refusal is about."""

    MESSAGE = "this message or recipient, for good"
    LATER = "this message or recipient, for now"
    MAILBOX = "the mailbox or its account"
    THROTTLE = "the pace"


@dataclass(frozen=True, slots=True)
class Said:
    """A reply with what the error catalogue makes of it; `class_` and `meaning` are empty where it knows nothing."""

    code: int
    text: str
    class_: str = ""
    meaning: str = ""

    @property
    def accepted(self) -> bool:
        return self.code < 400

    @property
    def concern(self) -> Concern:
        if self.class_ == "throttled":
            return Concern.THROTTLE
        if self.code in _ACCOUNT_CODES or self.class_ in ACCOUNT_CLASSES:
            return Concern.MAILBOX
        return Concern.LATER if self.code < 500 or self.class_ == "retry_later" else Concern.MESSAGE


@dataclass(frozen=True, slots=True)
class Result:
    """What is to be written about the message, and whether the mailbox should rest for a while."""

    state: MessageState
    recipients: tuple[Recipient, ...]
    kind: str
    answer: str
    cause: str
    next_at: float
    spent: int
    hold: bool = False


def judge(message: QueuedMessage, said: Sequence[Said], now: float, chance: float) -> Result:
    """`said` holds the last word about each recipient that was waiting, in their order."""
    words = iter(said)
    recipients, worst = [], None
    for recipient in message.recipients:
        word = next(words) if recipient.state == "waiting" else None
        recipients.append(recipient if word is None else _after(recipient, word))
        if word is not None and not word.accepted:
            worst = _graver(worst, word)
    return _result(message, tuple(recipients), said[0] if worst is None else worst, now, chance)


def _after(recipient: Recipient, word: Said) -> Recipient:
    if word.accepted:
        return replace(recipient, state="sent", answer=word.text)
    failed = word.concern is Concern.MESSAGE
    return replace(recipient, state="failed" if failed else "waiting", answer=word.text)


def _graver(one: Said | None, other: Said) -> Said:
    order = (Concern.MESSAGE, Concern.LATER, Concern.THROTTLE, Concern.MAILBOX)
    return other if one is None or order.index(other.concern) > order.index(one.concern) else one


def _result(message: QueuedMessage, recipients: tuple[Recipient, ...], word: Said, now: float, chance: float) -> Result:
    if any(recipient.state == "waiting" for recipient in recipients):
        return _delayed(message, recipients, word, now, chance)
    failed = [recipient for recipient in recipients if recipient.state == "failed"]
    state = MessageState.FAILED if failed else MessageState.SENT
    kind = "sent" if not failed else "failed" if len(failed) == len(recipients) else "partly failed"
    return Result(state, recipients, kind, word.text, word.meaning, 0.0, 1)


def _delayed(
    message: QueuedMessage, recipients: tuple[Recipient, ...], word: Said, now: float, chance: float
) -> Result:
    about_mailbox = word.concern in (Concern.MAILBOX, Concern.THROTTLE)
    spent = 0 if about_mailbox else 1
    return postponed(message, recipients, word.text, word.meaning, now, chance, spent=spent, hold=about_mailbox)


def postponed(
    message: QueuedMessage,
    recipients: tuple[Recipient, ...],
    answer: str,
    cause: str,
    now: float,
    chance: float,
    *,
    spent: int,
    hold: bool = False,
    kind: str = "delayed",
) -> Result:
    """Try again later, or fail where the deadline has passed; failed mail is kept."""
    if now >= message.deadline_at:
        given_up = tuple(replace(r, state="failed") if r.state == "waiting" else r for r in recipients)
        return Result(MessageState.FAILED, given_up, "deadline passed", answer, cause, 0.0, spent)
    next_at = now + pause_before(max(message.attempts + spent, 1), chance)
    return Result(MessageState.QUEUED, recipients, kind, answer, cause, next_at, spent, hold)
