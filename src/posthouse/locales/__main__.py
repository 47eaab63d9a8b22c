"""`python -m posthouse.locales check` finds what is not translated; `update` takes new sentences in."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from posthouse.locales import DOMAIN, LANGUAGES, SOURCE, read_po


def sentences_of_guide(file: BinaryIO, *_: Any, **__: Any) -> Iterator[tuple[int, None, str, list[str]]]:
    """An extraction method of Babel's for the steps of the guides."""
    for step in tomllib.load(file)["step"]:
        yield 1, None, step["text"], []


HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
METHODS: list[tuple[str, Any]] = [
    ("**/templates/**.html", "jinja2"),
    ("web/**.py", "python"),
    ("providers/registration.py", "python"),
    ("providers/guides/*.toml", sentences_of_guide),
]
OPTIONS = {"**/templates/**.html": {"trimmed": "true", "silent": "false"}}
KEYWORDS = {"gettext": None, "ngettext": (1, 2), "_": None, "N_": None}
PLURALS = {"ko": "nplurals=1; plural=0;"}
_PLACEHOLDER = re.compile(r"%\((\w+)\)|\{(\w*)\}")

Sentence = tuple[str, ...]
"""A sentence, or its singular and plural."""


def extracted() -> dict[Sentence, list[str]]:
    """Every sentence of the program, with the files it stands in."""
    from babel.messages.extract import extract_from_dir

    found: dict[Sentence, list[str]] = {}
    for place, _, message, _, _ in extract_from_dir(ROOT, METHODS, OPTIONS, KEYWORDS):
        sentence = message if isinstance(message, tuple) else (message,)
        places = found.setdefault(tuple(part for part in sentence if part), [])
        places.extend([place] if place not in places else [])
    return found


def catalogue(language: str) -> dict[Sentence, Sentence]:
    """What a language has so far."""
    path = path_of(language)
    entries = read_po(path.read_text("utf-8")) if path.exists() else {}
    return {tuple(key.split("\0")): tuple(value.split("\0")) for key, value in entries.items() if key}


def path_of(language: str) -> Path:
    return HERE / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def faults() -> Iterator[str]:
    """One line for each thing that is wrong with the catalogues."""
    sentences = extracted()
    if template(sentences) != (HERE / f"{DOMAIN}.pot").read_text("utf-8"):
        yield f"{DOMAIN}.pot is not what the program says: run python -m posthouse.locales update"
    for language in LANGUAGES:
        yield from (f"{language}: {fault}" for fault in faults_of(language, sentences, catalogue(language)))


def faults_of(language: str, sentences: dict[Sentence, list[str]], have: dict[Sentence, Sentence]) -> Iterator[str]:
    forms = 1 if language in PLURALS else 2
    for sentence in sentences:
        said = have.get(sentence)
        if said is None or not all(said):
            yield f"not translated: {sentence[0]!r}"
        elif len(said) != (forms if len(sentence) > 1 else 1):
            yield f"has {len(said)} forms: {sentence[0]!r}"
        elif any(placeholders(form) != placeholders(sentence[-1]) for form in said):
            yield f"other placeholders: {sentence[0]!r}"
    yield from (f"no longer used: {sentence[0]!r}" for sentence in have if sentence not in sentences)


def placeholders(text: str) -> set[str]:
    return {percent or brace for percent, brace in _PLACEHOLDER.findall(text)}


def template(sentences: dict[Sentence, list[str]]) -> str:
    return written("", sentences, {})


def written(language: str, sentences: dict[Sentence, list[str]], have: dict[Sentence, Sentence]) -> str:
    """The text of a catalogue, its sentences in the order of the files they stand in."""
    plural = PLURALS.get(language, "nplurals=2; plural=(n != 1);")
    header = ["Content-Type: text/plain; charset=UTF-8", f"Plural-Forms: {plural}"]
    blocks = ['msgid ""\nmsgstr ""\n' + "".join(f'"{line}\\n"\n' for line in [f"Language: {language}", *header])]
    for sentence, places in sorted(sentences.items(), key=lambda item: (sorted(item[1]), item[0])):
        blocks.append(_block(sentence, places, have.get(sentence, ()), 1 if language in PLURALS else 2))
    return "\n".join(blocks)


def _block(sentence: Sentence, places: list[str], said: Sentence, forms: int) -> str:
    lines = [f"#: {' '.join(sorted(places))}", f"msgid {_quoted(sentence[0])}"]
    if len(sentence) == 1:
        return "\n".join([*lines, f"msgstr {_quoted(said[0] if said else '')}"]) + "\n"
    padded = [*said, *[""] * forms][:forms]
    numbered = [f"msgstr[{number}] {_quoted(form)}" for number, form in enumerate(padded)]
    return "\n".join([*lines, f"msgid_plural {_quoted(sentence[1])}", *numbered]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def check() -> int:
    found = list(faults())
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    return 1 if found else 0


def update() -> int:
    """English says what the program says; other languages keep what they have."""
    sentences = extracted()
    (HERE / f"{DOMAIN}.pot").write_text(template(sentences), "utf-8")
    for language in LANGUAGES:
        have = {sentence: sentence for sentence in sentences} if language == SOURCE else catalogue(language)
        path_of(language).parent.mkdir(parents=True, exist_ok=True)
        path_of(language).write_text(written(language, sentences, have), "utf-8")
    return 0


if __name__ == "__main__":
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    if verb not in ("check", "update"):
        sys.exit("usage: python -m posthouse.locales check|update")
    sys.exit(check() if verb == "check" else update())
