"""Keeping a file up to date with a token, without a gateway and without waiting."""

import stat
import time
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli.keeping import keep_up, write
from posthouse.problems import ProblemError, problem

DOWN = problem("control.lost", "The gateway did not answer.", status=75)


class Script:
    """What the gateway answers, one after the other; then somebody ends it."""

    def __init__(self, *answers: dict[str, Any] | ProblemError) -> None:
        self.answers = list(answers)
        self.waits: list[float] = []

    def ask(self) -> dict[str, Any]:
        if not self.answers:
            raise KeyboardInterrupt
        answer = self.answers.pop(0)
        if isinstance(answer, ProblemError):
            raise answer
        return answer

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)


def token(text: str, life: float = 3600.0) -> dict[str, Any]:
    return {"text": text, "expires_at": time.time() + life}


def test_the_newest_token_stands_in_the_file(tmp_path: Path) -> None:
    file, script = tmp_path / "token", Script(token("one"), token("two"), token("two"))
    assert keep_up(file, script.ask, script.pause) == 0
    assert file.read_text() == "two\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["token"]


def test_a_token_with_a_short_life_is_looked_at_often(tmp_path: Path) -> None:
    script = Script(token("one"), token("two", 20.0), token("three", 0.1))
    keep_up(tmp_path / "token", script.ask, script.pause)
    assert script.waits == [15.0, pytest.approx(5.0, abs=0.5), 0.5]


def test_what_waiting_may_mend_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(token("one"), DOWN, DOWN, token("two"), DOWN)
    assert keep_up(tmp_path / "token", script.ask, script.pause) == 0
    assert capsys.readouterr().err == "The gateway did not answer.\n" * 2
    assert (tmp_path / "token").read_text() == "two\n"


def test_a_person_who_is_needed_ends_it_and_the_file_stays(tmp_path: Path) -> None:
    script = Script(token("one"), problem("token.invalid", "It was revoked."))
    with pytest.raises(ProblemError, match="revoked"):
        keep_up(tmp_path / "token", script.ask, script.pause)
    assert (tmp_path / "token").read_text() == "one\n"


def test_a_file_that_others_could_read_is_replaced_by_one_that_they_cannot(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    file.chmod(0o644)
    write(file, "new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="cannot be written"):
        write(tmp_path / "nowhere" / "token", "text")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ProblemError, match="cannot be written"):
        write(tmp_path / "directory", "text")
    assert [one.name for one in tmp_path.iterdir()] == ["directory"]
