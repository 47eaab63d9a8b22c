"""Apply files as they are written: lines, values, secrets, and every mistake in words of its own."""

from pathlib import Path
from typing import Any

import pytest

from posthouse.problems import ProblemError
from posthouse.secret import Secret
from posthouse.services.apply_check import check
from posthouse.services.apply_file import Item, Wanted, decode, encode, parse, read_wanted
from posthouse.services.apply_stored import Stored, stored_of
from posthouse.store.configuration import Configuration

MISTAKES = sorted((Path(__file__).parents[1] / "bad_settings" / "apply").iterdir())
EXAMPLE = """\
[[provider]]
name = "example"                        # built in: microsoft, outlook, google, …
issuer = "https://id.example.com"
scopes = ["mail", "offline_access"]
smtp = "mail.example.com:587 starttls"
imap = "mail.example.com:993 tls"
pop3 = "mail.example.com:995 tls"
[provider.limits]
connections = 3
size = "35 MB"

[[app]]
name = "office"
provider = "example"
client_id = "1234"
client_secret = { env = "OFFICE_SECRET" }
secret_expires = 2027-05-01

[[mailbox]]
address = "Support@Example.com"
app = "office"
signs_in_as = "Alice@example.com"
method = "device"
smtp_user = "alice@example.com"
timeout = "30s"
send = true
sender = "automatic"
sender_name = "Support"
sender_address = "support@example.com"
senders = ["Sales@example.com"]
receive = "imap"
folder = "INBOX"
check_interval = "1m"
after_fetch = "move:Archive"
destination = "helpdesk"
token = "shared"
default = true

[[mailbox]]
address = "old@example.net"
password = { file = "old" }
smtp = "smtp.example.net:465 tls"

[[device]]
name = "printer-2nd-floor"
mailboxes = ["support@example.com"]
protocols = ["smtp"]
networks = ["10.0.0.0/8"]
senders = ["scan@example.com", "@scanners.example.com"]
rate = "60/h"
lane = "open"
password = "1234-5678"

[[destination]]
name = "helpdesk"
webhook = "https://desk.example.com/in"
"""


def nothing_stored() -> Stored:
    return stored_of(Configuration(0, {}, {}, {}, {}))


def files(path: Path) -> bytes:
    if path != Path("secrets/old"):
        raise FileNotFoundError(path)
    return "pässword\r\n".encode()


def parsed(text: str, **environment: str) -> Wanted:
    return parse(text, "mail.toml", environment, base=Path("secrets"), read=files)


def understood(text: str, **environment: str) -> Item:
    """The last item of a file without mistakes."""
    wanted = parsed(text, **environment)
    assert wanted.problems == ()
    return wanted.items[-1]


def mailbox(line: str) -> dict[str, Any]:
    return understood(f'[[mailbox]]\naddress = "a@example.com"\n{line}').values


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda path: path.name)
def test_every_mistake_is_told_in_its_own_words(mistake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mistake)
    wanted = read_wanted(Path("apply.toml"), {})
    told = [str(problem).replace(str(mistake), "{folder}") for problem in check(wanted, nothing_stored())]
    assert told == (mistake / "expected.txt").read_text().splitlines()
    assert "CANARY" not in " ".join([*told, repr(wanted)])


def test_the_example_of_the_manual() -> None:
    wanted = parsed(EXAMPLE, OFFICE_SECRET="hidden")
    assert check(wanted, nothing_stored()) == []
    provider, app, support, old, printer, helpdesk = wanted.items
    assert provider.values["limits.size"] == "35 MB"
    written = EXAMPLE.splitlines()
    assert written[provider.line_of("limits.size") - 1] == 'size = "35 MB"'
    assert written[printer.line - 1] == "[[device]]"
    assert app.values == {"provider": "example", "client_id": "1234", "secret_expires": "2027-05-01"}
    assert app.secret == Secret("hidden")
    assert support.name == "support@example.com"
    assert support.values["signs_in_as"] == "alice@example.com"
    assert support.values["senders"] == ["sales@example.com"]
    assert (support.values["timeout"], support.values["check_interval"]) == (30.0, 60.0)
    assert old.secret == Secret("pässword")
    assert printer.values["senders"] == ["scan@example.com", "@scanners.example.com"]
    assert helpdesk.kind == "destination"


def test_it_comes_through_the_control_socket_whole() -> None:
    wanted = parsed(EXAMPLE, OFFICE_SECRET="hidden")
    assert decode(encode(wanted)) == wanted
    broken = parsed("[[mailbox]]\n")
    assert decode(encode(broken)) == broken


@pytest.mark.parametrize(
    ("written", "seconds"), [("30s", 30.0), ("1m", 60.0), ("90 s", 90.0), ("2h", 7200.0), ("1d", 86_400.0)]
)
def test_durations(written: str, seconds: float) -> None:
    assert mailbox(f'check_interval = "{written}"')["check_interval"] == seconds


def test_an_empty_text_takes_a_value_back() -> None:
    assert mailbox('sender_address = ""\nsmtp = ""\nreceive = ""\napp = ""') == {
        "sender_address": "",
        "smtp": "",
        "receive": "",
        "app": "",
    }


def test_a_server_is_kept_with_how_tls_begins() -> None:
    assert mailbox('smtp = "Mail.example.com:465"')["smtp"] == "mail.example.com:465 tls"


def test_a_single_address_is_a_network() -> None:
    text = '[[device]]\nname = "printer"\nnetworks = ["192.168.1.20", "10.1.2.3/8", "fe80::1"]'
    assert understood(text).values["networks"] == ["192.168.1.20/32", "10.0.0.0/8", "fe80::1/128"]


@pytest.mark.parametrize("where", ['{ env = "UNSET" }', '{ env = "EMPTY" }', '{ file = "gone" }'])
def test_a_secret_that_is_not_there_is_missing_and_nothing_else(where: str) -> None:
    item = understood(f'[[app]]\nname = "office"\nclient_secret = {where}', EMPTY="")
    assert item.secret is None
    assert item.missing


def test_a_file_beside_the_apply_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden\n")
    (tmp_path / "mail.toml").write_text('[[app]]\nname = "office"\nclient_secret = { file = "secret" }')
    wanted = read_wanted(tmp_path / "mail.toml", {})
    assert wanted.items[0].secret == Secret("hidden")
    assert wanted.origin == str((tmp_path / "mail.toml").resolve())


def test_authorities_are_found_from_any_directory(tmp_path: Path) -> None:
    text = '[[provider]]\nname = "own"\nca_file = "ca.pem"'
    item = parse(text, "mail.toml", {}, base=tmp_path).items[0]
    assert item.values["ca_file"] == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "mail.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProblemError, match=r"mail\.toml (cannot be read|is not text)"):
        read_wanted(path, {})


def test_a_huge_file_is_not_read() -> None:
    wanted = parsed("#" * 2_000_000)
    assert [problem.sentence for problem in wanted.problems] == ["The file is larger than 1024 KB."]


def test_lines_are_found_behind_long_texts_and_arrays() -> None:
    text = '''\
[[app]]
name = "office"
tenant = """
[[mailbox]]
address = "not this"
"""
[[mailbox]]
address = "a@example.com"
senders = [
    "b@example.com",
    "c",
]
colour = 1
'''
    wanted = parsed(text)
    assert [problem.where for problem in wanted.problems] == ["mail.toml:3", "mail.toml:9", "mail.toml:13"]


def test_tables_may_be_written_in_other_ways() -> None:
    wanted = parsed('mailbox = [{ address = "a@example.com", colour = 1 }]\n["app".x]\n')
    assert [problem.where for problem in wanted.problems] == ["mail.toml:1", "mail.toml:1"]


def test_deep_nesting_is_a_mistake_and_not_a_crash() -> None:
    assert parsed(f"a = {'[' * 50_000}").problems
