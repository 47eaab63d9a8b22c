from dataclasses import replace

import pytest

from posthouse.model.token import (
    NEXT_STEP,
    Grant,
    TokenState,
    pause_after_failures,
    refresh_at,
    spread_of,
    state_after,
)
from posthouse.secret import Secret

GRANT = Grant(
    id="gr_1",
    token_id="tk_1",
    serial=3,
    access_token=Secret("access"),
    refresh_token=Secret("refresh"),
    previous_refresh_token=None,
    access_expires_at=3600.0,
    next_refresh_at=2880.0,
    obtained_at=0.0,
    refreshed_at=0.0,
    failures=0,
    last_error="",
    scopes=("mail",),
    issuer="",
    subject="",
    person="",
)


@pytest.mark.parametrize(
    ("life", "before_the_end"),
    [(3600, 720), (86_400, 17_280), (1500, 300), (1000, 300), (600, 300), (300, 150), (60, 30), (0, 0)],
)
def test_a_token_is_refreshed_a_fifth_of_its_life_before_it_ends(life: float, before_the_end: float) -> None:
    assert refresh_at(1000.0, 1000.0 + life) == 1000.0 + life - before_the_end


@pytest.mark.parametrize("life", [3600, 86_400, 600, 60])
def test_refreshes_are_spread_over_a_third_of_the_time_there_is(life: float) -> None:
    last = refresh_at(0.0, life)
    assert refresh_at(0.0, life, 1.0) == pytest.approx(last * 2 / 3)
    assert refresh_at(0.0, life, 0.5) == pytest.approx(last * 5 / 6)


def test_grants_and_their_serials_have_each_a_time_of_their_own() -> None:
    tenths = [0] * 10
    for grant in range(100):
        for serial in range(100):
            tenths[int(spread_of(f"gr_{grant:04}", serial) * 10)] += 1
    assert min(tenths) > 900
    assert max(tenths) < 1100
    assert spread_of("gr_1", 7) == spread_of("gr_1", 7)


def test_a_token_that_has_ended_is_refreshed_at_once() -> None:
    assert refresh_at(1000.0, 900.0) <= 1000.0


@pytest.mark.parametrize(("failures", "pause"), [(0, 0), (1, 5), (2, 10), (3, 20), (8, 640), (9, 900), (5000, 900)])
def test_temporary_failures_are_followed_by_growing_pauses(failures: int, pause: float) -> None:
    assert pause_after_failures(failures) == pause


@pytest.mark.parametrize(
    ("serving", "waiting", "failure", "state"),
    [
        (False, False, "", TokenState.NOT_ACQUIRED),
        (False, True, "", TokenState.WAITING),
        (True, False, "", TokenState.ACQUIRED),
        (True, True, "", TokenState.ACQUIRED),
        (True, False, "revoked", TokenState.INVALID),
        (True, True, "revoked", TokenState.INVALID),
        (False, False, "revoked", TokenState.INVALID),
    ],
)
def test_the_state_follows_from_what_there_is(serving: bool, waiting: bool, failure: str, state: TokenState) -> None:
    assert state_after(serving, waiting, failure) is state


def test_every_state_has_the_contracts_word_and_a_next_step() -> None:
    assert [str(state) for state in TokenState] == [
        "not_acquired", "waiting_for_authentication", "acquired", "invalid",
    ]  # fmt: skip
    assert set(NEXT_STEP) == set(TokenState)
    assert NEXT_STEP[TokenState.ACQUIRED] == ""


def test_an_answer_was_lost_when_the_present_serial_was_sent_and_nothing_came() -> None:
    assert not GRANT.answer_was_lost
    assert replace(GRANT, intent_serial=3).answer_was_lost
    assert not replace(GRANT, intent_serial=2).answer_was_lost


def test_no_secret_of_a_grant_is_shown() -> None:
    assert "access'" not in repr(GRANT)
    assert "refresh'" not in repr(GRANT)
