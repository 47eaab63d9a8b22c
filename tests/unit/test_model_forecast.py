"""What ends and when: every rule with the time as an argument."""

import pytest

from posthouse.model.forecast import DAY, HOUR, Course, Ending, Ends, Lifetimes, of_date, of_grant

NOW = 1_800_000_000.0
MICROSOFT = Lifetimes(idle_days=90)
GOOGLE = Lifetimes(idle_days=180, testing_days=7)
NOTHING = Lifetimes()


@pytest.mark.parametrize(
    ("left", "days", "distance"),
    [
        (61 * DAY, 61, None),
        (60 * DAY + 1, 61, None),
        (60 * DAY, 60, 60),
        (31 * DAY, 31, 60),
        (30 * DAY, 30, 30),
        (20 * DAY, 20, 30),
        (14 * DAY, 14, 14),
        (13.5 * DAY, 14, 14),
        (7 * DAY, 7, 7),
        (4 * DAY, 4, 7),
        (3 * DAY, 3, 3),
        (1.5 * DAY, 2, 3),
        (DAY, 1, 1),
        (1.0, 1, 1),
        (0.0, 0, 1),
        (-400 * DAY, 0, 1),
    ],
)
def test_the_nearest_distance_that_was_passed(left: float, days: int, distance: int | None) -> None:
    ending = Ending(NOW + left, Ends.CLIENT_SECRET)
    assert (ending.days_left(NOW), ending.distance(NOW)) == (days, distance)


def test_a_date_ends_with_the_beginning_of_its_day_in_utc() -> None:
    assert of_date(Ends.CLIENT_SECRET, "2027-01-15") == Ending(1_799_971_200.0, Ends.CLIENT_SECRET)
    assert of_date(Ends.CERTIFICATE, "") is None
    assert of_date(Ends.CERTIFICATE, "next year") is None


@pytest.mark.parametrize(
    ("what", "step"),
    [
        (Ends.CLIENT_SECRET, "renew_secret"),
        (Ends.CERTIFICATE, "renew_certificate"),
        (Ends.CONSENT, "reauthorise"),
        (Ends.TEST_MODE, "publish_app"),
        (Ends.IDLE, "mend_renewal"),
    ],
)
def test_every_end_has_a_next_step(what: Ends, step: str) -> None:
    assert Ending(NOW, what).next_step == step


def course(
    age: float = 30 * DAY,
    *,
    renewed: float = 0.0,
    next_in: float = 0.8 * HOUR,
    failures: int = 0,
    told: float = 0.0,
    latest: float = 0.0,
) -> Course:
    """A grant `age` old, renewed `renewed` ago; `told` and `latest` count from the consent."""
    began = NOW - age
    return Course(
        obtained_at=began,
        refreshed_at=NOW - renewed,
        next_refresh_at=NOW - renewed + next_in if next_in else 0.0,
        failures=failures,
        told_end=began + told if told else 0.0,
        latest_end=began + (latest or told) if told else 0.0,
    )


def end(of: Course, known: Lifetimes = NOTHING) -> tuple[Ends, float] | None:
    """What ends, and in how many days after the consent."""
    found = of_grant(of, known)
    assert len(found) <= 1
    return (found[0].what, (found[0].at - of.obtained_at) / DAY) if found else None


@pytest.mark.parametrize("known", [MICROSOFT, GOOGLE, NOTHING])
def test_a_token_that_is_renewed_in_time_has_no_end(known: Lifetimes) -> None:
    assert end(course(400 * DAY), known) is None
    assert end(course(400 * DAY, renewed=80 * DAY, next_in=81 * DAY), known) is None


def test_a_token_that_cannot_be_renewed_idles_to_its_end() -> None:
    failing = course(100 * DAY, renewed=40 * DAY, failures=7)
    assert end(failing, MICROSOFT) == (Ends.IDLE, 150)
    assert end(failing, GOOGLE) == (Ends.IDLE, 240)
    assert end(failing, NOTHING) is None


def test_a_token_that_is_not_to_be_renewed_in_time_idles_too() -> None:
    assert end(course(0, next_in=0), MICROSOFT) == (Ends.IDLE, 90)
    assert end(course(0, next_in=200 * DAY), MICROSOFT) == (Ends.IDLE, 90)


def test_test_mode_is_told_by_the_settings() -> None:
    known = Lifetimes(idle_days=180, testing_days=7, testing=True)
    assert end(course(2 * DAY), known) == (Ends.TEST_MODE, 7)
    assert end(course(0.0), known) == (Ends.TEST_MODE, 7)


def test_a_provider_without_a_test_mode_has_none_to_end() -> None:
    assert end(course(), Lifetimes(testing=True)) is None


def test_test_mode_is_guessed_from_a_week_that_the_provider_names() -> None:
    assert end(course(0.0, told=7 * DAY - 1), GOOGLE) == (Ends.TEST_MODE, 7)
    assert end(course(3 * DAY, told=7 * DAY - 1), GOOGLE) == (Ends.TEST_MODE, 7)
    assert end(course(3 * DAY, told=5 * DAY), GOOGLE) == (Ends.CONSENT, 5)


def test_a_test_mode_that_has_been_outlived_is_no_more() -> None:
    assert end(course(8 * DAY), Lifetimes(testing_days=7, testing=True)) is None


def test_a_consent_for_a_time_ends_when_the_provider_said() -> None:
    assert end(course(3 * DAY, told=30 * DAY)) == (Ends.CONSENT, 30)
    assert end(course(3 * DAY, told=30 * DAY, failures=3), MICROSOFT) == (Ends.CONSENT, 30)


def test_an_end_that_every_renewal_puts_off_is_none() -> None:
    assert end(course(3 * DAY, told=90 * DAY, latest=93 * DAY), MICROSOFT) is None
    assert end(course(3 * DAY, told=HOUR, latest=3 * DAY + HOUR)) is None


def test_before_the_first_renewal_nobody_knows_whether_it_moves() -> None:
    assert end(course(60.0, renewed=60.0, told=HOUR, next_in=240)) is None
    assert end(course(240.0, told=30 * DAY, latest=30 * DAY + 240, next_in=240)) is None


def test_an_end_that_is_put_off_ends_where_renewing_fails() -> None:
    failing = course(3 * DAY, told=DAY, latest=4 * DAY, failures=2)
    assert end(failing) == (Ends.IDLE, 4)


def test_an_end_that_is_put_off_no_more_is_one() -> None:
    assert end(course(9.5 * HOUR, told=HOUR, latest=9.75 * HOUR)) == (Ends.CONSENT, 9.75 / 24)


def test_a_clock_that_was_set_right_by_ten_minutes_moves_nothing() -> None:
    assert end(course(HOUR, told=30 * DAY, latest=30 * DAY + 600)) == (Ends.CONSENT, 30)


def test_an_end_that_has_been_outlived_was_none() -> None:
    assert end(course(40 * DAY, told=30 * DAY)) is None
