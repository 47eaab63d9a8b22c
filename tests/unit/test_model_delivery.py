"""What replies mean for a message, recipient by recipient and part by part."""

from typing import Any

import pytest

from posthouse.model.delivery import Concern, Outcome, Part, Result, Said, judge, part_of
from posthouse.model.message import QueuedMessage, Recipient

TAKEN = Said(250, "250 2.0.0 Taken")
LATER = Said(450, "450 4.2.1 Later", own=True)
NEVER = Said(550, "550 5.1.1 Unknown", own=True)
FULL = Said(452, "452 4.5.3 Too many recipients", own=True)
THROTTLED = Said(432, "432 4.3.2 Concurrent connections limit exceeded", "throttled")


def message(*recipients: Recipient, **changes: Any) -> QueuedMessage:
    known: dict[str, Any] = {
        "id": "q1", "mailbox_id": "mb", "device": "printer", "sender": "a@b.c", "message_id": "<q1@b.c>", "size": 10,
        "smtputf8": False, "eight_bit": False, "attempts": 0, "created_at": 0.0, "deadline_at": 1e6, "body": b"",
    }  # fmt: skip
    return QueuedMessage(**{**known, "recipients": recipients, **changes})


def people(count: int) -> tuple[Recipient, ...]:
    return tuple(Recipient(f"p{number}@e.f") for number in range(count))


def judged(about: QueuedMessage, *said: Said, at_most: int = 0, start: int = 0, gravest: Said | None = None) -> Result:
    return judge(about, part_of(about, start, at_most), said, 100.0, 0.5, gravest)


def states(result: Result) -> list[str]:
    return [recipient.state for recipient in result.recipients]


def test_each_recipient_has_an_outcome_of_its_own() -> None:
    result = judged(message(*people(3)), TAKEN, LATER, NEVER)
    assert states(result) == ["sent", "waiting", "failed"]
    assert (result.state, result.kind, result.spent, result.hold, result.taken) == ("queued", "delayed", 1, False, 1)
    assert result.answer == LATER.text
    assert result.mixed == (
        Outcome("recipient taken", "p0@e.f", TAKEN.text),
        Outcome("recipient delayed", "p1@e.f", LATER.text),
        Outcome("recipient refused", "p2@e.f", NEVER.text),
    )


def test_those_who_have_it_are_not_asked_about_again() -> None:
    first = judged(message(*people(3)), TAKEN, LATER, NEVER)
    again = message(*first.recipients, attempts=1)
    assert part_of(again, 0, 0) == Part((1,))
    second = judged(again, TAKEN)
    assert states(second) == ["sent", "sent", "failed"]
    assert (second.state, second.kind, second.mixed) == ("failed", "partly failed", ())


@pytest.mark.parametrize(("said", "kind"), [(TAKEN, "sent"), (NEVER, "failed"), (LATER, "delayed")])
def test_where_all_fare_alike_there_is_one_line_for_all(said: Said, kind: str) -> None:
    result = judged(message(*people(3)), said, said, said)
    assert (result.kind, result.mixed) == (kind, ())


def test_parts_follow_each_other_and_the_gravest_word_counts_at_the_end() -> None:
    about = message(*people(5))
    first = judged(about, TAKEN, LATER, at_most=2)
    assert (first.kind, first.goes_on_at, first.spent, first.gravest) == ("sent in part", 2, 0, LATER)
    second = judged(message(*first.recipients), TAKEN, TAKEN, at_most=2, start=2, gravest=first.gravest)
    assert second.goes_on_at == 4
    last = judged(message(*second.recipients), TAKEN, at_most=2, start=4, gravest=second.gravest)
    assert (last.kind, last.goes_on_at, last.spent, last.answer) == ("delayed", None, 1, LATER.text)
    assert states(last) == ["sent", "waiting", "sent", "sent", "sent"]


def test_whoever_is_too_many_for_one_transaction_is_asked_about_in_the_next_one_at_once() -> None:
    result = judged(message(*people(4)), TAKEN, TAKEN, FULL, FULL)
    assert (result.kind, result.goes_on_at, result.fits, result.spent) == ("sent in part", 2, 2, 0)
    assert states(result) == ["sent", "sent", "waiting", "waiting"]


def test_a_server_that_takes_nobody_at_all_is_asked_later() -> None:
    result = judged(message(*people(2)), FULL, FULL)
    assert (result.kind, result.goes_on_at, result.spent) == ("delayed", None, 1)


def test_a_throttled_part_ends_the_attempt_and_spends_nothing() -> None:
    result = judged(message(*people(4)), THROTTLED, THROTTLED, at_most=2)
    assert (result.kind, result.goes_on_at, result.spent, result.hold, result.throttled) == (
        "delayed", None, 0, True, True,
    )  # fmt: skip
    assert states(result) == ["waiting"] * 4


def test_a_refused_sender_costs_nothing_and_leaves_mailbox_and_pace_alone() -> None:
    refused = Said(554, "554 5.2.252 SendAsDenied", "fix_permission", of_sender=True)
    result = judged(message(*people(2)), refused, refused)
    assert states(result) == ["waiting", "waiting"]
    assert (result.state, result.kind, result.spent, result.hold, result.throttled) == (
        "queued", "delayed", 0, False, False,
    )  # fmt: skip
    assert result.sender == "refused"
    assert judged(message(*people(2)), TAKEN, LATER).sender == "allowed"
    assert judged(message(*people(1)), THROTTLED).sender == ""


def test_a_refused_sender_ends_the_attempt_also_where_more_parts_would_follow() -> None:
    refused = Said(550, "550 5.7.60 No", "fix_permission", of_sender=True)
    result = judged(message(*people(4)), refused, refused, at_most=2)
    assert (result.goes_on_at, result.spent, states(result)) == (None, 0, ["waiting"] * 4)


def test_a_recipient_that_gets_too_much_does_not_slow_the_mailbox_down() -> None:
    own = Said(450, "450 4.2.1 The user you are trying to contact is receiving mail too quickly", "throttled", own=True)
    assert own.concern is Concern.LATER
    assert not judged(message(*people(1)), own).hold


def test_past_the_deadline_what_is_left_fails() -> None:
    result = judged(message(*people(2), deadline_at=50.0), TAKEN, LATER)
    assert (result.kind, states(result)) == ("deadline passed", ["sent", "failed"])


def test_a_recipient_whose_mailbox_takes_nothing_so_large_is_refused_alone() -> None:
    result = judged(message(*people(2)), TAKEN, Said(552, "552 5.3.4 Message too big", own=True))
    assert (result.kind, result.goes_on_at, states(result)) == ("partly failed", None, ["sent", "failed"])
