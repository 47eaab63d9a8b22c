"""`add`, `edit` and `remove` as they are typed: where secrets come from, and what is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from posthouse.cli import commands, editing
from posthouse.problems import ProblemError
from posthouse.providers import applied
from posthouse.services.apply_values import VALUES

Run = Callable[..., Result]
OFFICE = "app add office --provider microsoft --client-id 11111111-2222-3333-4444-555555555555"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "posthouse.toml").write_text(f'data = "{tmp_path}/data"\n')
    (tmp_path / "data").mkdir(mode=0o700)

    def type_in(words: str, text: str = "", **environment: str) -> Result:
        given = [*words.split(), "--config", str(tmp_path / "posthouse.toml")]
        return CliRunner().invoke(commands.posthouse, given, input=text, env=environment, standalone_mode=False)

    return type_in


def shown(ended: Result) -> Any:
    return json.loads(ended.stdout)


def test_from_an_empty_directory_to_a_printer_that_can_log_in(run: Run) -> None:
    assert run(OFFICE).stdout == "app office added\n"
    assert run("mailbox add support@example.com --app office --no-send --receive imap").stdout.endswith("added\n")
    made = run("device add printer --mailboxes support@example.com --networks 10.0.0.0/8")
    assert "password of device printer, shown this once: " in made.stdout
    assert shown(run("device show printer --json"))["settings"]["networks"] == ["10.0.0.0/8"]
    assert run("mailbox edit support@example.com --send --unset receive").stdout.startswith("mailbox support@")
    assert shown(run("mailbox show support@example.com --json"))["direction"] == "outgoing"


def test_a_sender_address_that_was_never_proved_is_warned_of(run: Run) -> None:
    run(OFFICE)
    added = run("mailbox add support@example.com --app office --sender-address help@example.com")
    assert "the sender address help@example.com differs from support@example.com, who signs in." in added.stdout
    warned = "Warning: the sender address differs from support@example.com, who signs in"
    assert warned in run("mailbox show support@example.com").stdout
    run("mailbox edit support@example.com --unset sender_address")
    assert "Warning" not in run("mailbox show support@example.com").stdout


@pytest.mark.parametrize("way", ["line", "file", "environment"])
def test_a_secret_never_stands_on_the_command_line(run: Run, tmp_path: Path, way: str) -> None:
    (tmp_path / "secret").write_text("canary-secret\n")
    run(OFFICE)
    ended = {
        "line": lambda: run("app edit office --client-secret", "canary-secret\n"),
        "file": lambda: run(f"app edit office --client-secret-file {tmp_path}/secret"),
        "environment": lambda: run("app edit office --client-secret-env OFFICE", OFFICE="canary-secret"),
    }[way]()
    assert ended.stdout == "app office changed: client_secret\n"
    assert shown(run("app show office --json"))["has_secret"] is True
    again = run(f"app edit office --client-secret-file {tmp_path}/secret")
    assert again.stdout == "app office unchanged\n", "it was read whole, and without its line break"
    refused = run("app edit office --client-secret canary-secret")
    assert "unexpected extra argument" in str(refused.exception)


def test_all_mistakes_are_told_and_nothing_is_made(run: Run) -> None:
    ended = run("mailbox add support@example.com --app nowhere --timeout soon --smtp x")
    assert isinstance(ended.exception, ProblemError)
    said = str(ended.exception)
    assert "There is no app nowhere." in said
    assert "timeout is not a time." in said
    assert "'x' is not a server address." in said
    assert shown(run("mailbox list --json")) == []


@pytest.mark.parametrize("kind", ["mailbox", "app", "device", "provider"])
def test_every_key_of_an_apply_file_has_an_option(kind: str) -> None:
    of_provider = {*applied.KEYS, *(f"limits.{key}" for key in (*applied.COUNTS, "size"))} - {"name", "limits"}
    assert set(editing.keys_of(kind)) == (VALUES[kind].keys() if kind in VALUES else of_provider)


def test_removing_asks_first(run: Run) -> None:
    run(OFFICE)
    assert "--yes" in str(run("app remove office").exception)
    assert run("app remove office --yes").stdout == "app office removed\n"
    assert "There is no app office." in str(run("app remove office --yes").exception)


def test_an_edit_without_a_change_says_how_to_go_on(run: Run) -> None:
    assert "posthouse app edit --help" in str(run("app edit office").exception)
