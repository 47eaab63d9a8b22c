"""posthouse.toml and the environment: what is left out, what is said, and every mistake in words of its own."""

from pathlib import Path

import pytest

from posthouse.problems import ProblemError
from posthouse.settings import ListenAt, Settings, read_settings

MISTAKES = sorted((Path(__file__).parents[1] / "bad_settings" / "process").iterdir())


def read(path: Path, text: str = "", **environment: str) -> Settings:
    file = path / "posthouse.toml"
    file.write_text(text)
    return read_settings(file, environment)


def complaints(path: Path, text: str = "", **environment: str) -> list[str]:
    with pytest.raises(ProblemError) as caught:
        read(path, text, **environment)
    assert caught.value.status == 64
    return [problem.sentence for problem in caught.value.problems]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda path: path.name)
def test_every_mistake_is_told_in_its_own_words(mistake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mistake)
    with pytest.raises(ProblemError) as caught:
        read_settings(Path("posthouse.toml"), {})
    assert [str(problem) for problem in caught.value.problems] == (mistake / "expected.txt").read_text().splitlines()
    assert "CANARY" not in str(caught.value)
    assert caught.value.status == 64


def test_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings(None, {})
    assert settings.data == Path("posthouse-data")
    assert settings.external_url == "http://localhost:8480"
    assert settings.database == ""
    places = [settings.web, *settings.smtp, *settings.imap, *settings.pop3]
    assert [(str(place), place.security) for place in places] == [
        ("127.0.0.1:8480", "plain"),
        ("127.0.0.1:1587", "plain"),
        ("127.0.0.1:1993", "plain"),
        ("127.0.0.1:1995", "plain"),
    ]


def test_the_example_of_the_manual(tmp_path: Path) -> None:
    (tmp_path / "both.pem").touch()
    settings = read(
        tmp_path,
        f"""
        external_url = "https://mail.example.com/"
        data = "/var/lib/posthouse"
        database = "postgresql://db.example.com/mail"
        administrator = "it@example.com"
        trusted_proxies = ["10.0.0.5", "10.1.0.0/16"]
        [listen]
        web = "127.0.0.1:8480"
        smtp = ["0.0.0.0:587 starttls", "127.0.0.1:1587 plain", "[::]:25 plain lane proxy"]
        imap = ["127.0.0.1:1993 plain"]
        pop3 = []
        [tls]
        certificate = "{tmp_path / "both.pem"}"
        key = "{tmp_path / "both.pem"}"
        [notices]
        mailbox = "alarm@example.com"
        webhook = "https://chat.example.com/hook"
        silence = "2h"
        """,
    )
    assert settings.external_url == "https://mail.example.com"
    assert settings.secure_cookies
    assert settings.smtp == (
        ListenAt("0.0.0.0", 587, "starttls"),
        ListenAt("127.0.0.1", 1587),
        ListenAt("::", 25, "plain", lane=True, proxy=True),
    )
    assert str(settings.smtp[2]) == "[::]:25"
    assert settings.pop3 == ()
    assert settings.trusted_proxies == ("10.0.0.5", "10.1.0.0/16")
    assert settings.silence == 7200
    assert (settings.notices_mailbox, settings.notices_webhook) == (
        "alarm@example.com",
        "https://chat.example.com/hook",
    )


def test_the_environment_wins(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        'data = "/from/the/file"\n[listen]\nsmtp = ["127.0.0.1:25"]',
        POSTHOUSE_DATA="/from/the/environment",
        POSTHOUSE_LISTEN_SMTP="127.0.0.1:2525, 127.0.0.1:2526",
        POSTHOUSE_LISTEN_POP3="",
        POSTHOUSE_TRUSTED_PROXIES="10.0.0.5,10.0.0.6",
        POSTHOUSE_NOTICES_MAILBOX="alarm@example.com",
    )
    assert settings.data == Path("/from/the/environment")
    assert [place.port for place in settings.smtp] == [2525, 2526]
    assert settings.pop3 == ()
    assert settings.trusted_proxies == ("10.0.0.5", "10.0.0.6")
    assert settings.notices_mailbox == "alarm@example.com"


def test_an_empty_variable_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, 'data = "/from/the/file"', POSTHOUSE_DATA="").data == Path("/from/the/file")


def test_mistakes_of_file_and_environment_together(tmp_path: Path) -> None:
    found = complaints(tmp_path, 'listen = 3\nadministrator = "nobody"', POSTHOUSE_LISTEN_SMTP="here")
    assert found == ["[listen] has to be a table.", "'nobody' is not an e-mail address."]
    assert complaints(tmp_path, POSTHOUSE_LISTEN_SMTP="here") == ["'here' is not a place to listen at."]


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("posthouse", "variable", "option"):
        (tmp_path / f"{name}.toml").write_text(f'data = "/{name}"')
    monkeypatch.chdir(tmp_path)
    variable = {"POSTHOUSE_CONFIG": "variable.toml"}
    assert read_settings(None, {}).data == Path("/posthouse")
    assert read_settings(None, variable).data == Path("/variable")
    assert read_settings(Path("option.toml"), variable).data == Path("/option")


@pytest.mark.parametrize("environment", [{}, {"POSTHOUSE_CONFIG": "gone.toml"}])
def test_a_file_that_was_named_has_to_be_there(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProblemError, match=r"There is no configuration file gone\.toml"):
        read_settings(None if environment else Path("gone.toml"), environment)


def test_data_lies_in_var_for_a_configuration_in_etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.settings.Path.is_relative_to", lambda path, other: str(other) == "/etc")
    assert read(tmp_path).data == Path("/var/lib/posthouse")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "posthouse.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ProblemError, match="is not valid TOML"):
        read_settings(tmp_path / "posthouse.toml", {})


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "posthouse.toml").write_bytes(b'\xef\xbb\xbfdata = "/data"')
    assert read_settings(tmp_path / "posthouse.toml", {}).data == Path("/data")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("127.evil.example", False)],
)
def test_what_counts_as_this_machine(host: str, loopback: bool) -> None:
    assert ListenAt(host, 25).loopback is loopback


def test_no_secret_in_a_dump(tmp_path: Path) -> None:
    webhook = "https://chat.example.com/hook?key=CANARY"
    text = f'database = "postgresql://mail:CANARY@db/mail"\n[notices]\nwebhook = "{webhook}"'
    settings = read(tmp_path, text)
    assert "CANARY" in settings.database
    assert settings.notices_webhook == webhook
    assert "CANARY" not in repr(settings)
