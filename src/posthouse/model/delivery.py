"""What an attempt to hand a message over came to, and what that means for message and mailbox.

Only a verdict about the message ends a message; whatever concerns the mailbox, the token or the network delays it.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from posthouse.model.message import MessageState, QueuedMessage, Recipient, pause_before
from posthouse.model.sender import SenderState

ACCOUNT_CLASSES = frozenset(
    ("reauthorise", "fix_app_registration", "fix_mailbox_setting", "fix_permission", "fix_licence", "fix_policy")
)
"""Classes of the error catalogue that concern the mailbox and not the message."""
_ACCOUNT_CODES = frozenset((530, 534, 535, 538))


class Concern(Enum):
    """Whom a refusal is about."""

    MESSAGE = "this message or recipient, for good"
    LATER = "this message or recipient, for now"
    SENDER = "the sender's address, whoever it is for"
    MAILBOX = "the mailbox or its account"
    THROTTLE = "the pace"


class Said(Struct, frozen=True):
    """A reply with what the error catalogue makes of it; `class_` and `meaning` are empty where it knows nothing.

    `own`: it was said to one recipient, the sender being accepted. `of_sender`: it refuses the sender's address alone.
    """

    code: int
    text: str
    class_: str = ""
    meaning: str = ""
    own: bool = False
    of_sender: bool = False

    @property
    def accepted(self) -> bool:
        return self.code < 400

    @property
    def concern(self) -> Concern:
        if self.class_ == "throttled":
            return Concern.LATER if self.own else Concern.THROTTLE
        if self.of_sender:
            return Concern.SENDER
        if self.code in _ACCOUNT_CODES or self.class_ in ACCOUNT_CLASSES:
            return Concern.MAILBOX
        return Concern.LATER if self.code < 500 or self.class_ == "retry_later" else Concern.MESSAGE

    @property
    def too_many(self) -> bool:
        """No more recipients in this transaction; the next one may have some (RFC 5321 section 4.5.3.1.10)."""
        return self.own and self.code in (452, 552) and (".5.3" in self.text[:9] or "recipients" in self.text.lower())


class Outcome(Struct, frozen=True):
    """What became of one recipient, in a line of the journal."""

    kind: str
    address: str
    answer: str


class Part(Struct, frozen=True):
    """Recipients, by their places in the message, that one transaction is for; `rest`: others come after them."""

    places: tuple[int, ...]
    rest: bool = False


class Result(Struct, frozen=True):
    """What is to be written about the message, and whether the mailbox should rest for a while.

    `goes_on_at`: the place of the first recipient who is still to be asked about in the same attempt; None at its end.
    `fits`: so many recipients the server took at once, where it turned others away. `gravest` is the worst word so far.
    `sender`: whether its address was taken, empty where nothing was said of it.
    """

    state: MessageState
    recipients: tuple[Recipient, ...]
    kind: str
    answer: str
    cause: str
    next_at: float
    spent: int
    hold: bool = False
    throttled: bool = False
    taken: int = 0
    mixed: tuple[Outcome, ...] = ()
    goes_on_at: int | None = None
    fits: int = 0
    gravest: Said | None = None
    sender: SenderState | Literal[""] = ""


def part_of(message: QueuedMessage, start: int, at_most: int) -> Part:
    """The next recipients to ask about, from the place `start` on; `at_most` 0 means all of them."""
    places = [place for place, one in enumerate(message.recipients) if place >= start and one.state == "waiting"]
    chosen = places[:at_most] if at_most else places
    return Part(tuple(chosen), len(chosen) < len(places))


def judge(
    message: QueuedMessage, part: Part, said: Sequence[Said], now: float, chance: float, gravest: Said | None = None
) -> Result:
    """`said` holds the last word about each recipient of `part`; `gravest` the worst word of the parts before it."""
    recipients, anybody = list(message.recipients), any(word.accepted for word in said)
    asked = list(zip(part.places, said, strict=True))
    settled = [(place, word) for place, word in asked if not (anybody and word.too_many)]
    for place, word in settled:
        recipients[place] = _after(recipients[place], word)
        if not word.accepted:
            gravest = _graver(gravest, word)
    goes_on_at = _goes_on_at(part, asked, settled)
    result = _result(message, tuple(recipients), gravest or _first_good(said), now, chance, goes_on_at)
    taken = sum(word.accepted for word in said)
    fits = taken if len(settled) < len(asked) else 0
    sender = _of_sender(gravest, taken)
    return replace(result, taken=taken, mixed=_mixed(message, settled), fits=fits, gravest=gravest, sender=sender)


def _of_sender(gravest: Said | None, taken: int) -> SenderState | Literal[""]:
    if gravest is not None and gravest.concern is Concern.SENDER:
        return "refused"
    return "allowed" if taken else ""


def _goes_on_at(part: Part, asked: list[tuple[int, Said]], settled: list[tuple[int, Said]]) -> int | None:
    """At the first one who was too many, else behind the part where others follow."""
    if len(settled) < len(asked):
        return next(place for place, word in asked if word.too_many)
    return part.places[-1] + 1 if part.rest else None


def _first_good(said: Sequence[Said]) -> Said:
    return next(word for word in said if word.accepted)


def _after(recipient: Recipient, word: Said) -> Recipient:
    if word.accepted:
        return Recipient(recipient.address, "sent", word.text)
    failed = word.concern is Concern.MESSAGE
    return replace(recipient, state="failed" if failed else "waiting", answer=word.text)


def _fate(word: Said) -> str:
    if word.accepted:
        return "recipient taken"
    return "recipient refused" if word.concern is Concern.MESSAGE else "recipient delayed"


def _mixed(message: QueuedMessage, settled: list[tuple[int, Said]]) -> tuple[Outcome, ...]:
    """A word on each recipient where they fared differently."""
    fates = [_fate(word) for _, word in settled]
    if fates.count(fates[0]) == len(fates):
        return ()
    return tuple(
        Outcome(fate, message.recipients[place].address, word.text)
        for fate, (place, word) in zip(fates, settled, strict=True)
    )


def _graver(one: Said | None, other: Said) -> Said:
    order = (Concern.MESSAGE, Concern.LATER, Concern.SENDER, Concern.THROTTLE, Concern.MAILBOX)
    return other if one is None or order.index(other.concern) > order.index(one.concern) else one


def _result(
    message: QueuedMessage,
    recipients: tuple[Recipient, ...],
    word: Said,
    now: float,
    chance: float,
    goes_on_at: int | None,
) -> Result:
    about_all = not word.accepted and word.concern in (Concern.MAILBOX, Concern.THROTTLE, Concern.SENDER)
    if goes_on_at is not None and not about_all:
        return Result(MessageState.QUEUED, recipients, "sent in part", word.text, "", 0.0, 0, goes_on_at=goes_on_at)
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
    result = postponed(
        message,
        recipients,
        word.text,
        word.meaning,
        now,
        chance,
        spent=0 if about_mailbox or word.concern is Concern.SENDER else 1,
        hold=about_mailbox,
    )
    return replace(result, throttled=word.concern is Concern.THROTTLE)


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
