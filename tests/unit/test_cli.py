"""The command line without a gateway: its help, its answers, its exit statuses."""

import io
import json
import socket
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from posthouse.cli import commands, demo, main, quick
from posthouse.cli.authorise import _end as end_of_sign_in
from posthouse.cli.calling import Call, clean, facts, table
from posthouse.cli.connection import Answer, SocketApi, connect, path_of
from posthouse.cli.connection import _answer as read_answer
from posthouse.cli.tokens import _tell as tell_status
from posthouse.problems import ProblemError
from posthouse.settings import Settings
from posthouse.store.lock import DataLock


def every_command() -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    context = click.Context(commands.posthouse)
    for name in commands.COMMANDS:
        command = commands.posthouse.get_command(context, name)
        assert command is not None
        inner = command.commands.items() if isinstance(command, click.Group) else [("", command)]
        found += [((name, *filter(None, (sub,))), one) for sub, one in inner]
    return found


COMMANDS = every_command()
BUILT = [(words, one) for words, one in COMMANDS if "Not yet available" not in (one.help or "")]


@pytest.mark.parametrize(
    ("words", "command"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_with_an_example(words: tuple[str, ...], command: click.Command) -> None:
    shown = CliRunner().invoke(commands.posthouse, [*words, "--help"])
    assert shown.exit_code == 0
    assert "Example:" in shown.output


@pytest.mark.parametrize(
    ("words", "command"), BUILT, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_takes_a_configuration_and_debug(words: tuple[str, ...], command: click.Command) -> None:
    options = {name for parameter in command.params for name in parameter.opts}
    assert words[0] == "sandbox" or {"--config", "--debug"} <= options


@pytest.mark.parametrize("words", ["doctor", "received ack 5", "import x y", "backup f",
                                   "restore f", "bundle f", "destination list", "webhook add x"])  # fmt: skip
def test_what_is_not_built_says_so_and_ends_with_69(words: str) -> None:
    ended = CliRunner().invoke(commands.posthouse, words.split(), standalone_mode=False)
    assert ended.return_value == 69
    assert "is not yet available." in ended.stderr


@pytest.mark.parametrize("command", ["serve", "sandbox --directory {place}"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "inside"
    (tmp_path / "posthouse.toml").write_text(f'data = "{place}"\n')
    words = [*command.format(place=place).split(), "--config", str(tmp_path / "posthouse.toml")]
    with pytest.raises(ProblemError) as caught:
        CliRunner().invoke(commands.posthouse, words, standalone_mode=False, catch_exceptions=False)
    assert caught.value.status == 64
    assert str(place) in str(caught.value)
    assert "another" in str(caught.value)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["sandbox", "--directory", str(tmp_path), "--port", str(port)]
        with pytest.raises(ProblemError, match=f"at port {port}: "):
            CliRunner().invoke(commands.posthouse, words, standalone_mode=False, catch_exceptions=False)


def test_the_gateway_of_the_demo_knows_the_limits_of_its_sandbox() -> None:
    places = dict.fromkeys(("issuer", "ca_file", "smtp", "imap", "pop3", "mailbox", "device"), "x")
    strict, plain = (
        tomllib.loads(demo.APPLY.format(**places, limits=demo._limits_table(word))) for word in ("exchange", None)
    )
    assert strict["provider"][0]["limits"] == {
        "connections": 3, "messages_per_minute": 30, "recipients_per_day": 10_000, "recipients_per_message": 500
    }  # fmt: skip
    assert "limits" not in plain["provider"][0]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("servee", "Did you mean 'serve'?"),
        ("queue lst", "Did you mean 'list'?"),
        ("nonsense", "posthouse --help"),
        ("--debug status", "after the command's name"),
        ("journal --limit 0", "x>=1"),
        ("queue list --limit -5", "x>=1"),
    ],
)
def test_a_slip_is_answered_with_advice(capsys: pytest.CaptureFixture[str], words: str, advice: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 64
    assert advice in capsys.readouterr().err


def test_without_a_terminal_nobody_is_told_of_an_option_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    waiting = {"id": "au_1", "state": "unverified", "detail": "Who was it?"}
    call = Call(SocketApi(Path("/nowhere")), as_json=False)
    with pytest.raises(click.UsageError, match="on the page") as told:
        end_of_sign_in(call, waiting)
    assert "--yes" not in told.value.format_message()


def test_a_sign_in_that_waits_for_a_confirmation_says_what_waits_for_whom(capsys: pytest.CaptureFixture[str]) -> None:
    users = [{"mailbox": "a@example.com", "for": "sending", "refused": ""}]
    token = {
        "state": "waiting_for_authentication", "reason": "person_not_verified", "since": "2027-01-01T12:00:00Z",
        "detail": "", "meaning": "", "fix": "", "person": "", "scopes": [], "access_expires_at": None,
        "refreshed_at": None, "forecast": [], "last_error": "", "used_by": users, "waiting": [], "giving_back": None,
        "refreshable": False, "next_step": "confirm",
    }  # fmt: skip
    tell_status("a@example.com", None, token)
    said = capsys.readouterr().out
    assert "waiting for authentication: the provider does not say who signed in, since" in said
    assert "an administrator confirms on the mailbox's page that the right person signed in" in said


def test_the_other_spelling_is_understood() -> None:
    context = click.Context(commands.posthouse)
    assert commands.posthouse.get_command(context, "authorize") is commands.posthouse.get_command(context, "authorise")
    assert commands.posthouse.get_command(context, "nonsense") is None


@pytest.mark.parametrize(
    "octets", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", b"x\r\n\r\n"]
)
def test_an_answer_that_was_cut_off_is_not_taken_for_whole(octets: bytes) -> None:
    with pytest.raises(OSError, match="cut off"):
        read_answer(octets)


def test_an_answer_is_read() -> None:
    answer = read_answer(b'HTTP/1.1 201 Created\r\ncontent-length: 8\r\n\r\n{"a": 1}')
    assert (answer.status, answer.data) == (201, {"a": 1})


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [(400, 64), (404, 64), (422, 64), (409, 1), (401, 1), (403, 1), (429, 75), (503, 75), (500, 70), (501, 69)],
)
def test_the_exit_status_of_an_answer(status: int, exit_status: int) -> None:
    assert Answer(status, b"").exit_status == exit_status


def test_a_problem_document_becomes_its_sentences() -> None:
    many = {"detail": "One.", "problems": [{"id": "a", "detail": "One.", "hint": "Do."}, {"detail": "Two."}]}
    error = Answer(400, json.dumps(many).encode()).error()
    assert ([str(problem) for problem in error.problems], error.status) == (["One. Do.", "Two."], 64)
    assert "502" in str(Answer(502, b"<html>").error())


def test_names_cannot_leave_their_place_in_a_path() -> None:
    assert path_of("messages", "../tokens?x#y") == "/messages/..%2Ftokens%3Fx%23y"


def test_no_data_directory_is_made_for_a_look(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", "http://localhost:8480")
    with pytest.raises(ProblemError, match="No Posthouse data") as caught, connect(settings):
        pass
    assert caught.value.status == 64
    assert not settings.data.exists()


def test_a_gateway_that_does_not_answer_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posthouse.cli.connection.STARTING", 0.0)
    held = DataLock(tmp_path)
    with (
        pytest.raises(ProblemError, match="in use by another Posthouse") as caught,
        connect(Settings(tmp_path, "http://localhost:8480")),
    ):
        pass
    held.release()
    assert caught.value.status == 75


def test_a_gateway_that_went_away_is_temporary(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        SocketApi(tmp_path / "control.sock").get("/status")
    assert caught.value.status == 75


@pytest.mark.parametrize(
    "words", [[], ["--as"], ["a@b", "c@d"], ["a@b", "--json"], ["a@b", "--as", "x", "--as", "y"], ["--help"], [""]]
)
def test_only_plain_words_are_handled_quickly(words: list[str]) -> None:
    assert quick._read(words) is None


def test_plain_words_are_read() -> None:
    assert quick._read(["--as", "xoauth2", "a@b"]) == {"as": "xoauth2", "address": "a@b"}


def test_columns_and_facts_are_plain_text_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table(("A", "LONGER"), [("one", "x"), ("three", "")], empty="nothing")
    table(("A",), [], empty="nothing")
    facts({"name": "x", "left out": "", "number": 0})
    assert capsys.readouterr().out == "A      LONGER\none    x\nthree\nnothing\nname    x\nnumber  0\n"


def test_text_from_outside_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b[31mred\r\nb", 20) == "a [31mred  b"
