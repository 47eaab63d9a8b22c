"""What README and manual name exists, and what exists is named: commands, keys, settings, words, links, examples."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from posthouse.cli.commands import ALIASES, COMMANDS, LazyGroup, posthouse
from posthouse.model.forecast import Ends
from posthouse.model.headers import HEADER_LIMIT
from posthouse.model.message import DEADLINE
from posthouse.model.outcome import Reason
from posthouse.protocol.smtp_server import ServerPolicy
from posthouse.providers.applied import KEYS as PROVIDER_KEYS
from posthouse.providers.applied import from_apply
from posthouse.providers.provider import Limits, built_in
from posthouse.services.apply_credential import CERTIFICATE, KINDS
from posthouse.services.apply_file import parse
from posthouse.services.apply_values import NAMES, SECRETS, VALUES
from posthouse.services.authorise import BROWSER_LIFE, ENDED_LIFE, MOST_OPEN
from posthouse.services.entrance import LINK_LIFE
from posthouse.services.intake import MOST_RECIPIENTS
from posthouse.services.submission import IDLE
from posthouse.settings import _OVERRIDES as SETTINGS
from posthouse.settings import read_settings
from posthouse.web.pages.signing_in import SESSION_LIFE
from posthouse.web.words import ATTEMPT_STATES, ENDING_STEPS, ENDINGS, JOURNAL_KINDS, TOKEN_REASONS, TOKEN_STATES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")
VARIABLE = re.compile(r"\bPOSTHOUSE_[A-Z_]*[A-Z]\b")
COMMAND = re.compile(r"(?:^|[(|&=] ?|/dev |/bin/)posthouse((?: [^\s)]+)+)")
ENDS = {"|", "&&", ";", "<", ">", "…", ")"}


def blocks(page: Path, language: str) -> list[str]:
    found = []
    for indent, kind, text in BLOCK.findall(page.read_text()):
        if kind == language:
            found.append(re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
    return found


def commands(page: Path) -> list[str]:
    """What follows `posthouse` wherever it is written as something to type."""
    code = [line for block in blocks(page, "") for line in block.replace("\\\n", " ").splitlines()]
    code += SPAN.findall(BLOCK.sub("", page.read_text()))
    typed = (match for text in code for match in COMMAND.finditer(text))
    return [match[1].strip() for match in typed]


def words_of(typed: str) -> list[str]:
    """Up to where the shell begins something else; brackets around optional words are left out."""
    words = []
    for word in shlex.split(re.sub(r"[\[\]]", "", typed), posix=False):
        if word in ENDS:
            break
        words.append(word.strip("\"'"))
    return words


def complaint(typed: str) -> str:
    """Why this cannot be typed; empty where it can."""
    command: click.Command = posthouse
    words = words_of(typed)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words.pop(0))
        if found is None:
            return f"no such command: {typed}"
        command = found
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word) and word not in {*known, "--help"}]
    return f"no such option: {unknown[0]} in {typed}" if unknown else ""


def is_command(typed: str) -> bool:
    """Not `posthouse = …`, `posthouse.toml`, a user or a directory of that name."""
    return re.match(r"[a-z-]", typed) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_it_can_be_typed(page: Path) -> None:
    wrong = [why for typed in commands(page) if is_command(typed) and (why := complaint(typed))]
    assert wrong == []


def test_commands_are_found_where_they_stand() -> None:
    assert len(commands(ROOT / "docs" / "reference.md")) > 30
    assert complaint("queue lists") == "no such command: queue lists"
    assert complaint("queue list --stat x") == "no such option: --stat in queue list --stat x"
    assert complaint("queue list [--state STATE]") == ""


def every_command() -> list[str]:
    names = []
    for name in COMMANDS:
        command = LazyGroup.get_command(posthouse, click.Context(posthouse), name)
        below = list(command.commands) if isinstance(command, click.Group) else []
        names += [f"{name} {verb}" for verb in below] or [name]
    return [*names, *ALIASES]


@pytest.mark.parametrize("name", every_command())
def test_the_reference_knows_every_command(name: str) -> None:
    assert re.search(rf"`(?:posthouse )?{name}\b", REFERENCE)


def apply_keys() -> list[str]:
    keys = {key for values in VALUES.values() for key in values} | {key for key, _ in NAMES.values()}
    secrets = {*SECRETS.values(), *KINDS, CERTIFICATE}
    return sorted(keys | secrets | PROVIDER_KEYS | set(Limits.__struct_fields__))


@pytest.mark.parametrize("key", apply_keys())
def test_the_reference_knows_every_apply_key(key: str) -> None:
    assert f"`{key}`" in REFERENCE


@pytest.mark.parametrize("kind", VALUES.keys() | {"provider"})
def test_the_reference_names_no_apply_key_that_does_not_exist(kind: str) -> None:
    section = REFERENCE.partition(f"### `[[{kind}]]`")[2].partition("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    known = set(VALUES.get(kind, PROVIDER_KEYS)) | {NAMES[kind][0], SECRETS.get(kind, NAMES[kind][0])}
    known |= {*KINDS, CERTIFICATE} if kind == "app" else set()
    named = {key for row in rows for key in SPAN.findall(row)}
    assert named <= known
    assert named or kind == "destination"


def variables() -> list[str]:
    return ["_".join(part for part in ("POSTHOUSE", section, name) if part).upper() for section, name in settings()]


def settings() -> list[tuple[str, str]]:
    return [(section, name) for section, names in SETTINGS.items() for name in names]


def test_the_reference_knows_every_setting_and_its_variable() -> None:
    for (section, name), variable in zip(settings(), variables(), strict=True):
        setting = f"[{section}] {name}" if section else name
        assert re.search(rf"^\| `{re.escape(setting)}` \|.*\| `{variable}` \|", REFERENCE, re.MULTILINE), setting


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_in_it_exists(page: Path) -> None:
    known = {*variables(), "POSTHOUSE_KEY", "POSTHOUSE_CONFIG"}
    assert set(VARIABLE.findall(page.read_text())) <= known


WORDS = [TOKEN_STATES, TOKEN_REASONS, JOURNAL_KINDS, ATTEMPT_STATES, ENDINGS, ENDING_STEPS]


@pytest.mark.parametrize("words", [*WORDS, list(Reason), list(Ends), built_in()])
def test_the_reference_knows_every_word_of_the_api(words: Any) -> None:
    assert [str(word) for word in words if f"`{word}`" not in REFERENCE] == []


def test_the_reference_tells_the_limits_of_the_code() -> None:
    section = REFERENCE.partition("## Limits")[2].partition("\n## ")[0]
    rows = dict(line.strip("| ").split(" | ", 1) for line in section.splitlines() if line.startswith("| "))
    policy = ServerPolicy("here")
    assert rows["message"].startswith(f"{policy.size_limit:,} octets")
    assert f"header {HEADER_LIMIT // 1024} KB" in rows["message"]
    assert rows["recipients of a message"] == f"{policy.max_recipients} over SMTP, {MOST_RECIPIENTS:,} over the API"
    assert rows["wrong commands and logins on one connection"] == str(policy.max_errors)
    assert rows["commands without an accepted message"] == str(policy.max_commands)
    assert rows["silence of an SMTP client"].startswith(f"{IDLE / 60:.0f} minutes")
    assert rows["attempts for a message"].startswith(f"for {DEADLINE / 86_400:.0f} days")
    assert (
        rows["browser sign-in, sign-in link"] == f"{BROWSER_LIFE / 60:.0f} minutes" == f"{LINK_LIFE / 60:.0f} minutes"
    )
    assert rows["sign-ins under way for a mailbox"] == str(MOST_OPEN)
    assert rows["a sign-in can be looked up"] == f"for {ENDED_LIFE / 86_400:.0f} days"
    assert rows["session on the page"] == f"{SESSION_LIFE / 3600:.0f} hours"


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def examples() -> list[tuple[str, str]]:
    return [(page.name, text) for page in PAGES for text in blocks(page, "toml")]


@pytest.mark.parametrize(("page", "text"), examples())
def test_every_example_is_taken(page: str, text: str, tmp_path: Path) -> None:
    if set(tomllib.loads(text)) & set(NAMES):
        assert [str(problem) for problem in parse(text, page, {}).problems] == []
        for table in tomllib.loads(text).get("provider", []):
            assert from_apply(table).name == table["name"]
        return
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).touch()
    file = tmp_path / "posthouse.toml"
    file.write_text(text.replace("/etc/posthouse", str(tmp_path)))
    assert read_settings(file, {}).source == file


def test_there_are_examples() -> None:
    assert len(examples()) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short_enough_to_read(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if len(line) > 120 and page.name != "CONTRIBUTING.md"] == []


SECURITY = (ROOT / "docs" / "rfc9700.md").read_text()
NAMED_TEST = re.compile(r"^\d+\. `([^`]+)`$", re.MULTILINE)


def known_tests(file: str) -> set[str]:
    path = ROOT / "tests" / file
    return set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)) if path.is_file() else set()


def test_every_test_that_the_security_page_names_exists() -> None:
    named = [name.partition("::") for name in NAMED_TEST.findall(SECURITY)]
    assert len(named) > 100
    assert [f"{file}::{test}" for file, _, test in named if test not in known_tests(file)] == []


def test_every_section_of_the_security_page_leads_to_its_tests() -> None:
    for section in SECURITY.split("\n## ")[1:]:
        rows = [line.split(" | ") for line in section.splitlines() if re.match(r"\| \d", line)]
        numbers = [number for row in rows for number in re.findall(r"\d+", row[-1])]
        assert rows
        assert sorted(map(int, set(numbers))) == list(range(1, len(NAMED_TEST.findall(section)) + 1))
        for row in rows:
            told = " ".join(row)
            assert re.search(r"\d", row[-1]) or re.search("does not apply|not asked for|see \\d|the provider's", told)


def test_every_section_of_the_rfc_is_gone_through() -> None:
    asked = [f"2.{number}" for number in range(1, 7)] + [f"4.{number}" for number in range(1, 18)]
    assert [section for section in asked if not re.search(rf"^\| {section}(?:\.\d+)* \|", SECURITY, re.MULTILINE)] == []
