"""Worlds side by side: one report for all of them, and whichever goes wrong is named."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation import __main__ as command
from tests.simulation.outcome import Outcome
from tests.simulation.world import Plan
from tests.simulation.worlds import Progress, WorldEnded, play, shares

ROOT = Path(__file__).parents[2]
PLAN = Plan(mailboxes=9, days=0.5, kill_every=600.0, outage_every=20_000.0)


@pytest.fixture(scope="module")
def both() -> Outcome:
    return play(shares(PLAN, 2))


def test_each_world_has_its_share_of_the_mailboxes() -> None:
    plans = shares(Plan(mailboxes=11), 3)
    assert [plan.mailboxes for plan in plans] == [4, 4, 3]
    assert [(plan.world, plan.worlds) for plan in plans] == [(0, 3), (1, 3), (2, 3)]


def test_there_is_one_report_for_all(both: Outcome) -> None:
    first, second = (play([plan]) for plan in shares(PLAN, 2))
    assert first.requests != second.requests
    assert both.refreshes == first.refreshes + second.refreshes > 100
    assert both.requests == first.requests + second.requests
    assert both.kills == first.kills + second.kills
    assert both.report().startswith("seed 1: 9 mailboxes, 0.5 days, two nodes in each of 2 worlds, ")
    assert both.report().endswith("promises broken: 0")


def test_an_outage_comes_to_all_worlds(both: Outcome) -> None:
    assert len(both.outages) > 0
    assert [list(play([plan]).outages) for plan in shares(PLAN, 3)] == [list(both.outages)] * 3


def test_a_broken_promise_is_told_with_its_world(
    both: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = replace(both, complaints=["world 1, second 3.0: box is lost"])
    monkeypatch.setattr(command, "play", lambda plans, progress: both + told)
    assert command.main(["--mailboxes", "9"]) == 1
    assert capsys.readouterr().out.endswith("promises broken: 1\n  world 1, second 3.0: box is lost\n")


def test_a_world_that_ends_early_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = shares(PLAN, 2)
    with pytest.raises(WorldEnded, match="world 1 of 2 ended with 1 and told no outcome"):
        play([good, replace(bad, database="nonsense://")])
    assert "Error" in capfd.readouterr().err


def test_how_far_it_is_and_how_long_it_will_take() -> None:
    told = command.Show(days=10.0).line([Progress(5.0, 600), Progress(3.0, 400)], spent=100.0)
    assert told == "day 3.0 of 10, 1,000 refreshes, 10 a second, 150 s left"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_of_them_and_leaves_nothing(tmp_path: Path, kind: signal.Signals) -> None:
    """As an ordinary kill of the first does. Its standard error is closed when the last of its processes has ended."""
    words = [sys.executable, "-m", "tests.simulation", "--mailboxes", "8", "--jobs", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("day ")
        (os.killpg if kind is signal.SIGINT else os.kill)(running.pid, kind)
        assert [line for line in running.stderr if not line.startswith("day ")] == []
    assert running.returncode == 130
    assert list(tmp_path.iterdir()) == []
