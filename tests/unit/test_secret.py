import copy
import json
import logging
import pickle
import traceback
from dataclasses import dataclass

import pytest

from posthouse.secret import Secret

TEXT = "hunter2-correct-horse"
SECRET = Secret(TEXT)


@dataclass(frozen=True)
class _Holder:
    user: str
    password: Secret


def test_it_is_revealed_only_on_request() -> None:
    assert SECRET.reveal() == TEXT


@pytest.mark.parametrize(
    "shown",
    [
        repr(SECRET),
        str(SECRET),
        f"{SECRET}",
        f"{SECRET!r:>40}",
        f"{SECRET:>40}",
        "%s %r" % (SECRET, SECRET),  # noqa: UP031
        repr([SECRET, {"password": SECRET}]),
        repr(_Holder("alice", SECRET)),
    ],
)
def test_it_is_not_shown(shown: str) -> None:
    assert "hunter" not in shown
    assert "horse" not in shown


def test_it_is_neither_pickled_nor_written_as_json() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SECRET)
    with pytest.raises(TypeError):
        json.dumps(SECRET)
    assert not hasattr(SECRET, "__dict__")


def test_it_is_in_no_traceback_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        shown = traceback.format_exc().replace('TEXT = "', "")
        logging.getLogger("test").exception("failed for %s", SECRET)
    assert TEXT not in shown
    assert TEXT not in caplog.text


def test_equal_texts_are_equal_secrets() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert {Secret("a"), Secret("a")} == {Secret("a")}
    assert Secret("pässword") == Secret("pässword")


def test_an_empty_one_is_false() -> None:
    assert not Secret("")
    assert SECRET


def test_a_deep_copy_of_what_holds_it_holds_the_same() -> None:
    assert copy.deepcopy({"password": SECRET})["password"] is SECRET
