"""What is allowed in a time, and how what was used leaves again."""

from datetime import UTC, datetime

import pytest

from posthouse.model.pacing import DAY, Allowance, Pace, Rate, UsedUp, Window

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()


def test_never_more_than_allowed_within_any_minute_and_never_much_less() -> None:
    pace, now, taken = Pace(Allowance(messages_per_minute=30)), NOON, []
    while now < NOON + 600:
        if pace.take(now, 1):
            taken.append(now)
        else:
            now = max(now + 0.1, pace.begins_at(now))
    assert max(sum(at - 60 < other <= at for other in taken) for at in taken) == 30
    assert len(taken) >= 280


def test_a_day_is_the_last_24_hours_and_its_end_is_told() -> None:
    pace = Pace(Allowance(recipients_per_day=10_000))
    assert pace.take(NOON, 4000)
    assert pace.take(NOON + 7200, 6000)
    with pytest.raises(UsedUp) as caught:
        pace.take(NOON + 7300, 1)
    assert caught.value.cause == "the provider's limit of 10,000 recipients a day is reached; goes on at 12:10 UTC"
    assert caught.value.until == NOON + DAY + 600
    assert pace.take(caught.value.until, 4000)
    with pytest.raises(UsedUp):
        pace.take(caught.value.until, 1)


def test_messages_of_a_day_are_counted_too() -> None:
    pace = Pace(Allowance(messages_per_day=2))
    assert pace.take(NOON, 50)
    assert pace.take(NOON, 50)
    with pytest.raises(UsedUp, match="2 messages a day"):
        pace.check_day(NOON)


def test_what_the_provider_did_not_take_does_not_count_for_the_day() -> None:
    pace = Pace(Allowance(recipients_per_day=10, messages_per_day=1))
    permit = pace.take(NOON, 10)
    assert permit is not None
    pace.settle(permit, 0)
    permit = pace.take(NOON, 10)
    assert permit is not None
    pace.settle(permit, 4)
    assert pace.recipients.used(NOON) == 4
    assert pace.messages.used(NOON) == 1


def test_how_many_recipients_fit_is_the_least_of_what_is_known() -> None:
    pace = Pace(Allowance(recipients_per_message=500, recipients_per_day=700))
    assert pace.most_recipients(NOON) == 500
    assert pace.most_recipients(NOON, 100) == 100
    pace.take(NOON, 500)
    assert pace.most_recipients(NOON) == 200
    assert Pace(Allowance()).most_recipients(NOON) == 0


def test_complaints_halve_the_connections_and_double_the_pause_until_time_has_passed() -> None:
    pace, pauses, now = Pace(Allowance(connections=8)), [], NOON
    for left in (4, 2, 1, 1):
        pace.slow_down(now)
        pace.slow_down(now + 0.1)
        pauses.append(pace.rests_until - now)
        now = pace.rests_until
        assert pace.connections(now) == left
    assert pauses == [5, 10, 20, 40]
    assert [pace.connections(now + 60 * minutes) for minutes in (1, 3, 7, 100)] == [2, 4, 8, 8]
    pace.slow_down(now + 6000)
    assert pace.rests_until == now + 6005


def test_what_is_written_down_is_the_same_afterwards() -> None:
    allowed = Allowance(messages_per_minute=2, recipients_per_day=100, messages_per_day=100)
    pace, again = Pace(allowed), Pace(allowed)
    pace.take(NOON, 60)
    pace.take(NOON + 1, 30)
    pace.slow_down(NOON + 1)
    again.read(pace.document())
    assert again.document() == pace.document()
    assert again.begins_at(NOON + 2) == pace.begins_at(NOON + 2) > NOON + 60
    assert again.most_recipients(NOON + 2) == 10
    assert (again.rests_until, again.connections(NOON + 2)) == (pace.rests_until, pace.connections(NOON + 2))


def test_an_account_without_limits_writes_nothing_down() -> None:
    pace = Pace(Allowance())
    assert all(pace.take(NOON, 1) for _ in range(1000))
    assert not pace.changed


def test_a_clock_that_is_set_back_does_not_lock_anything_for_ever() -> None:
    window = Window(60, 1)
    window.use(NOON + 1_000_000, 5)
    assert window.used(NOON) == 0
    assert window.fits_at(NOON, 1, 5) == NOON


@pytest.mark.parametrize(("text", "seconds"), [("60/h", 3600), ("1/s", 1), ("2/m", 60), ("5/d", DAY)])
def test_a_rate_lets_so_many_through_in_its_time(text: str, seconds: float) -> None:
    rate = Rate.parse(text)
    assert rate is not None
    for _ in range(rate.limit):
        assert rate.next_at(NOON) == NOON
        rate.window.use(NOON, 1)
    assert NOON + seconds <= rate.next_at(NOON) <= NOON + seconds * 1.02


def test_no_rate_is_no_limit() -> None:
    assert Rate.parse("") is None
