"""Two nodes, four kinds of providers, everything going wrong that can, `kill -9` at every step: no token is lost.

Here a week of sixty mailboxes; `./dev simulate` does a year, or as much as one likes.
"""

import asyncio
from pathlib import Path

import pytest

from posthouse.model.token import Grant
from posthouse.services import token_keeper
from posthouse.services.token_keeper import TokenKeeper
from posthouse.store import tokens
from tests.simulation.judge import NOTICED
from tests.simulation.leaping import LeapingLoop
from tests.simulation.outcome import Outcome
from tests.simulation.world import BEGIN, DAY, STEPS, Plan, World, simulate


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> World:
    return simulate(
        Plan(mailboxes=60, days=7.0, seed=11, outage_every=3 * DAY, revocations_a_day=0.06),
        tmp_path_factory.mktemp("week"),
    )


def test_no_promise_is_broken(week: World) -> None:
    assert week.judge.complaints == [], Outcome.of(week).report()
    assert week.judge.refreshes > 12_000


def test_it_was_killed_at_every_step(week: World) -> None:
    assert min(week.kills[step] for step in STEPS) >= 10


def test_lost_answers_and_revocations_are_told_apart(week: World) -> None:
    """Whether each was told rightly, and at the right provider, is among the promises."""
    assert week.judge.lost["PUNISHES", "answer_lost"] >= 5
    assert sum(count for (_, reason), count in week.judge.lost.items() if reason == "revoked") >= 3
    assert {reason for _, reason in week.judge.lost} == {"answer_lost", "revoked"}


def test_what_ends_is_noticed_within_a_refresh_interval(week: World) -> None:
    assert len(week.judge.notice) > 10
    assert sorted(week.judge.notice)[len(week.judge.notice) * 9 // 10] < NOTICED


def test_refreshes_of_consents_given_in_one_minute_are_spread_evenly(week: World) -> None:
    fullest, dispersion = Outcome.of(week).spread(BEGIN + DAY)
    assert fullest < 2.5
    assert dispersion < 2.0


def test_the_same_seed_gives_the_same_course_of_things(tmp_path: Path) -> None:
    plan = Plan(mailboxes=12, days=0.5, kill_every=600.0)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = simulate(plan, tmp_path / "first"), simulate(plan, tmp_path / "second")
    assert first.judge.sent_at == second.judge.sent_at
    assert first.kills == second.kills


async def _lease_for_all(self: TokenKeeper, grant: Grant) -> tokens.Lease:
    return tokens.Lease(grant, 0, 0.0)


def test_a_gateway_without_leases_would_be_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenKeeper, "_lease", _lease_for_all)
    world = simulate(Plan(mailboxes=60, days=1.0, troubles=0.3), tmp_path)
    assert any("is under way" in complaint for complaint in world.judge.complaints)


def test_a_gateway_that_sends_long_after_its_lease_would_be_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keeper, "PROMPT", 600.0)
    monkeypatch.setattr(token_keeper, "DEADLINE", -600.0)
    """In one of some courses of things at least, however they go after a change."""
    told: list[str] = []
    for seed in range(5):
        (data := tmp_path / str(seed)).mkdir()
        told += simulate(Plan(mailboxes=40, days=1.0, seed=seed, database_troubles=0.2), data).judge.complaints
    assert any("was written already" in complaint for complaint in told)


@pytest.mark.needs("postgres")
def test_the_same_on_postgresql(tmp_path: Path, postgres: str) -> None:
    world = simulate(Plan(mailboxes=24, days=0.5, kill_every=600.0, database=postgres), tmp_path)
    assert world.judge.complaints == [], Outcome.of(world).report()
    assert world.judge.refreshes > 300
    assert min(world.kills[step] for step in STEPS) >= 2


def test_what_is_due_after_half_a_year_is_found_due() -> None:
    """At day 194 the numbers of a loop's clock become too coarse for nanoseconds."""
    loop = LeapingLoop()
    try:
        loop.run_until_complete(asyncio.sleep(2.0**24 - 0.5))
        loop.run_until_complete(asyncio.wait_for(asyncio.sleep(1.1), 2.3))
    finally:
        loop.close()
    assert loop.time() > 2.0**24
