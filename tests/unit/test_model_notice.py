"""What a notice says, and when there is anything to say."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from posthouse.model.notice import STEPS, WHAT, About, Notice, sentence
from posthouse.web.words import NOTICES, is_known

AT = datetime(2026, 11, 25, 14, 3, tzinfo=UTC)
ONE = Notice(
    "nt_1", "token.invalid", "token.invalid ap_1 revoked", "revoked", 1.0, 0.0, 1, 0.0, 0.0, 0, told_open=False,
    about=(About("mb_1", "alice@example.com", 1.0),),
)  # fmt: skip


def said(notice: Notice) -> str:
    return sentence(notice, AT, "https://mail.example.com")


def test_one_sentence_says_what_since_when_and_what_to_do_where() -> None:
    assert said(ONE) == (
        "alice@example.com: the token is invalid, so its mail waits (revoked), since 2026-11-25 14:03 UTC. "
        "Re-authorise: https://mail.example.com/mailboxes/mb_1#token"
    )


def test_many_are_counted_and_some_named() -> None:
    many = tuple(About(f"mb_{n}", f"m{n}@example.com", 1.0) for n in range(5))
    assert said(replace(ONE, about=many, cause="client_changed")) == (
        "5 mailboxes (m0@example.com, m1@example.com, m2@example.com and 2 more): the token is invalid, so its mail "
        "waits (client changed), since 2026-11-25 14:03 UTC. Check the app registration: its secret may have expired: "
        "https://mail.example.com/apps/ap_1/check"
    )


def test_what_is_mended_says_so_and_asks_for_nothing() -> None:
    over = replace(ONE, ended_at=2.0, about=(About("mb_1", "alice@example.com", 1.0, 2.0),))
    assert said(over) == (
        "alice@example.com: mended (the token is invalid, so its mail waits (revoked), since 2026-11-25 14:03 UTC)."
    )


@pytest.mark.parametrize(
    ("changes", "news"),
    [
        ({}, True),
        ({"acknowledged_at": 2.0}, False),
        ({"told_open": True, "told_count": 1}, False),
        ({"told_open": True, "told_count": 1, "count": 2}, True),
        ({"told_open": True, "told_count": 1, "ended_at": 2.0}, True),
        ({"told_open": True, "told_count": 1, "ended_at": 2.0, "acknowledged_at": 2.0}, True),
        ({"ended_at": 2.0}, False),
        ({"told_open": False, "told_count": 1}, True),
    ],
)
def test_there_is_something_to_say_where_it_differs_from_what_was_said(changes: dict[str, float], news: bool) -> None:
    assert replace(ONE, **changes).is_news is news  # type: ignore[arg-type]


def test_the_page_has_the_same_sentences_and_knows_every_step() -> None:
    assert NOTICES == WHAT
    assert [step for step in STEPS.values() if not is_known(step)] == []
    assert WHAT.keys() <= STEPS.keys()
