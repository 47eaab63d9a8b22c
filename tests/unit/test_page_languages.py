"""Every page in every language, and which language somebody gets."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

import posthouse
from posthouse.locales import LANGUAGES, translations
from posthouse.locales.__main__ import extracted, placeholders
from posthouse.model.message import MessageState
from posthouse.model.outcome import Reason
from posthouse.model.token import CONFIRM, NEXT_STEP, TokenState
from posthouse.services.entrance import sign_in_link
from posthouse.services.overview import Direction, ServerState
from posthouse.store import tokens
from posthouse.store.authorisations import OPEN
from posthouse.web import i18n, problem_words, words
from posthouse.web.rendering import environment
from posthouse.web.security import ROLES
from tests.support.boxes import ALICE, SUPPORT, box
from tests.support.house import house
from tests.support.visitors import administrator, readable, visitor
from tests.unit.test_page_consent import Scene, path_of
from tests.unit.test_page_mailboxes import FILE, SALES
from tests.unit.test_page_outbox import accept, fail

GLOSSARY = {
    "ko": ("획득되지 않음", "인증 대기 중", "획득됨", "유효하지 않음", "토큰 가져오기", "재인증", "인증됨"),
    "el": (
        "δεν ανακτήθηκε",
        "αναμονή για πιστοποίηση",
        "ανακτήθηκε",
        "άκυρο",
        "Λήψη διακριτικού",
        "Νέα πιστοποίηση",
        "πιστοποιήθηκε",
    ),
    "da": ("ikke hentet", "venter på godkendelse", "hentet", "ugyldig", "Hent token", "Godkend igen", "godkendt"),
}
SOURCE = (*words.TOKEN_STATES.values(), "Get token", "Re-authorise", "authenticated")


def english_left(page: str, language: str) -> set[str]:
    """English sentences on a page of another language."""
    said = translations(language)
    known = [sentence for group in extracted() for sentence in group if " " in sentence and not placeholders(sentence)]
    foreign = [sentence for sentence in known if said.gettext(sentence) != sentence]
    return {sentence for sentence in foreign if sentence in page}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_every_page_speaks_the_language_throughout(tmp_path: Path, language: str) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, SUPPORT, more=FILE), background=False) as home,
        administrator(home, language=language) as person,
        visitor(home, language=language) as stranger,
    ):
        await home.by_device(ALICE, provider.approve_as(ALICE))
        broken = home.parts.directory.now.by_address[SALES]
        await home.parts.store.database.write(
            lambda tx: tokens.set_state(tx, broken.token_id or "", TokenState.INVALID, home.clock(), "revoked")
        )
        message = await accept(home)
        await fail(home)
        play = Scene(provider, home, person)
        link = path_of((await sign_in_link(home.parts.store, home.clock, "http://localhost:8480")).reveal())
        alice = home.parts.directory.now.by_address[ALICE].id
        paths = ["/", "/outbox", f"/outbox/{message}", f"/outbox/{message}/remove", "/nothing"]
        paths += [f"/mailboxes/{mailbox}" for mailbox in home.parts.directory.now.mailboxes]
        paths += [f"/mailboxes/{alice}/token/delete", await play.begin("device"), path_of(await play.begin())]
        shown = {path: (await person.look(path)).text for path in paths}
        shown |= {path: (await stranger.look(path)).text for path in ("/sign-in", link, "/authorise/none")}
        for path, page in shown.items():
            assert f'<html lang="{language}">' in page, path
            assert language == "en" or not english_left(readable(page), language), path


@pytest.mark.parametrize("language", GLOSSARY)
def test_the_words_of_the_guides_are_used_exactly(language: str) -> None:
    said = translations(language)
    assert tuple(said.gettext(word) for word in SOURCE) == GLOSSARY[language]


@pytest.mark.parametrize(
    ("asked", "remembered", "accept_language", "language"),
    [
        ("da", "ko", "el", "da"),
        ("xx", "ko", "el", "ko"),
        (None, "xx", "el", "el"),
        (None, None, "de, el;q=0.5, da;q=0.8", "da"),
        (None, None, "ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        (None, None, "da;q=0, el;q=0.1", "el"),
        (None, None, "da;q=nonsense", "en"),
        (None, None, "fr", "en"),
        (None, None, "", "en"),
        ("../../etc", None, "", "en"),
    ],
)
def test_which_language_it_is(asked: str | None, remembered: str | None, accept_language: str, language: str) -> None:
    assert i18n.choose(asked, remembered, accept_language) == language


async def test_a_language_that_was_chosen_is_remembered(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as stranger:
        assert "Sign in" in (await stranger.look("/sign-in")).text
        await stranger.look("/sign-in?lang=da")
        assert "Log ind" in stranger.text()
        await stranger.look("/sign-in")
        assert "Log ind" in stranger.text()


async def test_the_other_languages_are_one_click_away_and_keep_the_page(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:
        await person.look("/outbox?state=failed")
        assert '<a href="/outbox?state=failed&amp;lang=el" lang="el" hreflang="el">Ελληνικά</a>' in person.shown


@pytest.mark.parametrize(
    ("language", "written"),
    [
        ("en", "{:%Y-%m-%d %H:%M}"),
        ("ko", "{:%Y. %m. %d. %H:%M}"),
        ("el", "{:%d/%m/%Y, %H:%M}"),
        ("da", "{:%d.%m.%Y kl. %H.%M}"),
    ],
)
def test_dates_are_written_as_in_the_language_with_the_distance_from_utc(language: str, written: str) -> None:
    moment = datetime(2026, 3, 9, 14, 23, tzinfo=UTC)
    local = moment.astimezone()
    offset = f"{local:%z}"
    expected = f"{written.format(local)} (UTC{offset[:3]}:{offset[3:]})"
    assert i18n.moment(moment.timestamp(), language) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_have_their_plural(language: str) -> None:
    said = translations(language)
    one, many = (said.ngettext("%(count)s second", "%(count)s seconds", count) % {"count": count} for count in (1, 5))
    expected = {"en": ("1 second", "5 seconds"), "ko": ("1초", "5초"), "da": ("1 sekund", "5 sekunder")}
    assert (one, many) == expected.get(language, ("1 δευτερόλεπτο", "5 δευτερόλεπτα"))


def test_what_a_service_says_is_translated_and_what_a_provider_says_is_not() -> None:
    said = translations("da")
    ours = "bob@example.com signed in, expected was alice@example.com."
    assert words.explained(ours, said) == "bob@example.com loggede ind, men alice@example.com var ventet."
    assert words.explained("535 5.7.139 Authentication unsuccessful", said).startswith("535")
    again = "The provider's sign-in gave no usable answer: HTTP 503. It is asked again by itself."
    assert words.explained(again, said).endswith("HTTP 503. Den spørges igen af sig selv.")
    assert words.is_known(again)
    language_of = environment("da").filters["language_of"]
    assert (language_of(ours), language_of("535 no")) == ("da", "en")


def test_the_sentences_to_translate_are_ones_that_services_say() -> None:
    rooms = ("services", "store", "model", "oauth", "providers")
    sources = [
        path.read_text("utf-8") for room in rooms for path in (Path(posthouse.__file__).parent / room).rglob("*.py")
    ]
    said = "\n".join(sources)
    for sentence in (*words.SENTENCES, *problem_words.SENTENCES):
        for part in re.split(r"\{\w+\}", sentence):
            assert part.strip() in said, sentence


def test_every_word_of_the_api_has_a_word_on_the_page() -> None:
    assert words.TOKEN_STATES.keys() == {str(state) for state in TokenState}
    assert words.MESSAGE_STATES.keys() == {str(state) for state in MessageState}
    assert words.TOKEN_REASONS.keys() >= {str(reason) for reason in Reason}
    assert words.NEXT_STEPS.keys() == {CONFIRM, *(step for step in NEXT_STEP.values() if step)}
    assert words.ATTEMPT_STATES.keys() == {*OPEN, "done", "refused", "expired"}
    assert words.DIRECTIONS.keys() == set(get_args(Direction))
    assert words.RESULT_STATES.keys() == set(get_args(ServerState))
    assert words.ROLES.keys() == set(ROLES)
