"""The catalogues, and the check that keeps them complete."""

import pytest

from posthouse.locales import LANGUAGES, compiled, read_po, translations
from posthouse.locales.__main__ import Sentence, extracted, faults, faults_of, path_of, placeholders, written

SENTENCES: dict[Sentence, list[str]] = {("Hello %(name)s",): ["a.html"], ("%(n)s day", "%(n)s days"): ["a.html"]}
GOOD: dict[Sentence, Sentence] = {
    ("Hello %(name)s",): ("Hej %(name)s",),
    ("%(n)s day", "%(n)s days"): ("%(n)s dag", "%(n)s dage"),
}


def test_nothing_is_missing_in_any_language() -> None:
    assert list(faults()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({("Hello %(name)s",): ("",)}, "not translated: 'Hello %(name)s'"),
        ({("Hello %(name)s",): ("Hej",)}, "other placeholders: 'Hello %(name)s'"),
        ({("Hello %(name)s",): ("Hej {name} %(who)s",)}, "other placeholders: 'Hello %(name)s'"),
        ({("%(n)s day", "%(n)s days"): ("%(n)s dage",)}, "has 1 forms: '%(n)s day'"),
        ({("Bye",): ("Farvel",)}, "no longer used: 'Bye'"),
    ],
)
def test_the_check_finds_a_mistake(change: dict[Sentence, Sentence], fault: str) -> None:
    assert list(faults_of("da", SENTENCES, GOOD)) == []
    assert list(faults_of("da", SENTENCES, GOOD | change)) == [fault]


def test_a_language_without_plural_has_one_form() -> None:
    korean: dict[Sentence, Sentence] = {**GOOD, ("%(n)s day", "%(n)s days"): ("%(n)s일",)}
    assert list(faults_of("ko", SENTENCES, korean)) == []


def test_sentences_of_templates_and_of_python_are_found() -> None:
    found = extracted()
    assert ("Skip to the content",) in found
    assert ("waiting for authentication",) in found
    assert ("%(count)s second", "%(count)s seconds") in found


def test_a_catalogue_is_read_as_it_was_written() -> None:
    said: dict[Sentence, Sentence] = {**GOOD, ('Say "no"\n\\ twice',): ('Sig "nej"\n\\ to gange',)}
    text = written("da", {**SENTENCES, ('Say "no"\n\\ twice',): ["b.py"]}, said)
    entries = {tuple(key.split("\0")): tuple(value.split("\0")) for key, value in read_po(text).items() if key}
    assert entries == said
    assert "charset=UTF-8" in read_po(text)[""]


def test_sentences_over_several_lines_and_old_ones() -> None:
    text = 'msgid ""\n"One "\n"two"\nmsgstr "En "\n"to"\n\n#~ msgid "Gone"\n#~ msgstr "Væk"\n'
    assert read_po(text) == {"One two": "En to"}


def test_the_binary_form_is_what_gettext_reads() -> None:
    assert compiled({})[:4] == b"\xde\x12\x04\x95"
    for language in LANGUAGES:
        said = translations(language)
        assert said.info()["language"] == language
        assert said.gettext("never written") == "never written"


def test_english_says_what_the_program_says() -> None:
    said = translations("en")
    assert all(said.gettext(sentence[0]) == sentence[0] for sentence in extracted() if len(sentence) == 1)


@pytest.mark.parametrize(
    ("text", "found"), [("%(a)s and {b}", {"a", "b"}), ("100 %", set()), ("{}", {""}), ("%(a)d", {"a"})]
)
def test_placeholders(text: str, found: set[str]) -> None:
    assert placeholders(text) == found


def test_no_language_holds_something_that_is_not_a_sentence() -> None:
    for language in LANGUAGES:
        assert "fuzzy" not in path_of(language).read_text("utf-8")
