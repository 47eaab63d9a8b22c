import pytest

from posthouse.model.message import MessageState, QueuedMessage, Recipient, Stage, pause_before


@pytest.mark.parametrize(
    ("attempt", "pause"),
    [(0, 0), (1, 10), (2, 30), (3, 60), (4, 120), (5, 300), (6, 600), (7, 1200), (8, 1800), (9, 1800), (1000, 1800)],
)
def test_each_pause_is_longer_up_to_half_an_hour(attempt: int, pause: float) -> None:
    assert pause_before(attempt, 0.5) == pytest.approx(pause)


def test_chance_spreads_attempts_by_a_tenth_either_way() -> None:
    assert pause_before(4, 0.0) == pytest.approx(108)
    assert pause_before(4, 0.999999) == pytest.approx(132, rel=1e-3)


def test_only_recipients_without_a_verdict_are_still_asked() -> None:
    message = QueuedMessage(
        id="m1",
        mailbox_id="mb_1",
        device="printer",
        sender="scan@example.com",
        recipients=(Recipient("a@b"), Recipient("c@d", "sent"), Recipient("e@f", "failed"), Recipient("g@h")),
        message_id="<1@example.com>",
        size=1,
        smtputf8=False,
        eight_bit=False,
        attempts=1,
        created_at=0.0,
        deadline_at=1.0,
        body=b"sealed",
    )
    assert message.waiting == ("a@b", "g@h")
    assert "sealed" not in repr(message)


def test_states_are_written_as_the_interface_shows_them() -> None:
    assert [str(state) for state in MessageState] == ["queued", "parked", "sent", "failed"]
    assert [str(stage) for stage in Stage] == ["", "claimed", "handing over"]
