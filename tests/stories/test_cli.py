"""The command line as people and scripts use it: real processes, beside a running gateway and without one."""

import asyncio
import json
import os
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from posthouse.app import gateway
from posthouse.cli.connection import SocketApi
from posthouse.problems import ProblemError
from posthouse.settings import read_settings
from tests.support.boxes import ALICE, BOB, Box, box
from tests.support.processes import free_ports, private_directory

PROGRAM = (sys.executable, "-m", "posthouse.cli")
SECONDS = 30.0
HEAVY = ("fastapi", "sqlalchemy", "asyncio", "structlog", "rich", "cryptography", "click")


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs commands in a directory with a posthouse.toml."""

    place: Path
    box: Box
    bytecode: Path

    async def start(self, *words: str, python: tuple[str, ...] = PROGRAM) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.bytecode)}
        return await asyncio.create_subprocess_exec(
            *python, *words, cwd=self.place, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **compiled}
        )

    async def run(self, *words: str, text: bytes = b"", python: tuple[str, ...] = PROGRAM) -> Ended:
        process = await self.start(*words, python=python)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(text)
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    async def authorise(self, address: str, person: str) -> Ended:
        """`authorise`, with the person typing in the code that it prints."""
        process = await self.start("authorise", address, "--method", "device")
        code, said = await printed_code(process)
        await self.box.control("approve", user_code=code, person=person)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, said + out.decode(), err.decode())


async def printed_code(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """The first line that is nothing but a user code, and everything printed up to it."""
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(SECONDS):
        while line := (await process.stdout.readline()).decode():
            said += line
            if re.fullmatch(r"[A-Z0-9]{4}-[A-Z0-9]{4}", line.strip()):
                return line.strip(), said
    raise AssertionError(f"no code was printed: {said}")


@pytest.fixture
async def shell(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shell]:
    """A directory of its own, with a short path: the control socket lies in it."""
    with private_directory("cli") as place:
        ports = '[listen]\nweb = "127.0.0.1:0"\nsmtp = ["127.0.0.1:0 plain"]\nimap = []\npop3 = []\n'
        (place / "posthouse.toml").write_text(f'data = "{place}/data"\n{ports}')
        async with box(tmp_path / "box") as provider:
            (place / "mail.toml").write_text(provider.apply_file(ALICE, BOB))
            yield Shell(place, provider, tmp_path_factory.getbasetemp() / "bytecode")


@pytest.fixture
async def serving(shell: Shell) -> AsyncIterator[Shell]:
    """The same with a gateway running."""
    async with gateway(read_settings(shell.place / "posthouse.toml", {}), create=True) as running:
        await running.start_background()
        await running.start_web()
        applied = await shell.run("apply", "mail.toml")
        assert applied.status == 0, applied.err
        yield shell


async def test_without_data_commands_say_so_and_make_nothing(shell: Shell) -> None:
    commands = (("status",), ("mailbox", "list"), ("token", "print", ALICE), ("queue", "list"), ("send", "a@b.example"))
    ended = await asyncio.gather(*(shell.run(*words) for words in commands))
    assert [one.status for one in ended] == [64] * len(commands)
    assert all(one.err.startswith(f"No Posthouse data in {shell.place}/data.") for one in ended)
    assert not (shell.place / "data").exists()


async def test_everything_works_without_a_gateway(shell: Shell) -> None:
    """From an apply file to a token; the message waits on disk for a gateway."""
    applied = await shell.run("apply", "mail.toml")
    assert (applied.status, "password of device printer, shown this once: " in applied.out) == (0, True)
    authorised = await shell.authorise(ALICE, ALICE)
    assert authorised.status == 0, authorised.err
    assert f"{shell.box.sandbox.issuer}/device\n" in authorised.out
    printed = await shell.run("token", "print", ALICE)
    assert (printed.status, len(printed.out.splitlines())) == (0, 1)
    sent = await shell.run("send", "--mailbox", ALICE, BOB, text=b"Subject: from cron\n\nhello\n")
    assert (sent.status, sent.out) == (0, "")
    (waiting,) = (await shell.run("queue", "list", "--json")).data
    assert (waiting["state"], waiting["subject"], waiting["sender"]) == ("queued", "from cron", ALICE)


async def test_a_file_is_applied_over_the_socket(serving: Shell) -> None:
    again = await serving.run("apply", "mail.toml")
    assert (again.status, "nothing changed" in again.out, "password of device" in again.out) == (0, True, False)
    text = (serving.place / "mail.toml").read_text().replace(BOB, "carol@sandbox.example")
    (serving.place / "other.toml").write_text(text)
    dry = await serving.run("apply", "other.toml", "--dry-run", "--json")
    assert {"what": "added", "kind": "mailbox", "name": "carol@sandbox.example", "keys": []} in dry.data["entries"]
    assert (await serving.run("mailbox", "show", "carol@sandbox.example")).status == 64
    (serving.place / "other.toml").write_text(
        text.replace('app = "demo"', 'app = "nothing"').replace("name = ", "nam = ")
    )
    wrong = await serving.run("apply", "other.toml")
    assert (wrong.status, len(wrong.err.splitlines()) > 2, "other.toml:" in wrong.err) == (64, True, True)


async def test_status_says_what_needs_a_person(serving: Shell) -> None:
    before = await serving.run("status")
    assert (before.status, "2 not acquired" in before.out) == (1, True)
    ended = [await serving.run("token", verb, ALICE) for verb in ("print", "status")]
    assert [one.status for one in ended] == [1, 1]
    for person in (ALICE, BOB):
        assert (await serving.authorise(person, person)).status == 0
    after = await serving.run("status")
    assert (after.status, "2 acquired" in after.out) == (0, True)
    assert [(await serving.run("token", "status", person)).status for person in (ALICE, BOB)] == [0, 0]


async def test_a_gateway_sends_what_is_handed_in(serving: Shell) -> None:
    assert (await serving.authorise(ALICE, ALICE)).status == 0
    text = f"To: {BOB}\nBcc: {ALICE}\nSubject: by sendmail\n\nline\n.\nafter the dot\n".encode()
    assert (await serving.run("send", "-t", "-oi", "-f", ALICE, text=text)).status == 0
    await until_arrived(serving, BOB, "by sendmail")
    assert "after the dot" in serving.box.texts(BOB)[0]
    assert "Bcc" not in serving.box.texts(BOB)[0]
    assert (await serving.run("send", f"-f{ALICE}", BOB, text=text)).status == 0
    await until_arrived(serving, BOB, "by sendmail", 2)
    assert "after the dot" not in serving.box.texts(BOB)[1]

    newest = (await serving.run("queue", "list", "--all", "--json")).data[0]
    shown = await serving.run("queue", "show", newest["id"])
    assert f"to {BOB}: sent" in shown.out
    lines = (await serving.run("journal", "--message-id", newest["message_id"])).out.splitlines()
    assert [line.split()[3] for line in lines] == ["accepted", "sent"]
    status = await serving.run("status", "--json")
    assert (status.status, status.data["queue"]["sent"]) == (1, 2)


async def until_arrived(shell: Shell, address: str, subject: str, count: int = 1) -> None:
    async with asyncio.timeout(SECONDS):
        while shell.box.subjects(address).count(subject) < count:
            await asyncio.sleep(0.02)


async def test_the_wrong_person_ends_with_1_and_both_names(serving: Shell) -> None:
    ended = await serving.authorise(ALICE, BOB)
    assert ended.status == 1
    assert ALICE in ended.err
    assert BOB in ended.err
    assert "Traceback" not in ended.err


async def test_an_address_is_pasted_and_a_wrong_one_is_asked_for_again(serving: Shell) -> None:
    process = await serving.start("authorise", BOB, "--method", "paste")
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(SECONDS):
        assert b"sign in for" in await process.stdout.readline()
        url = (await process.stdout.readline()).decode().strip()
        callback = (await serving.box.control("approve", url=url, person=BOB))["url"]
        process.stdin.write(f"https://www.example.com/\n{callback}\n".encode())
        out, err = await process.communicate()
    assert (process.returncode, "Authenticated" in out.decode()) == (0, True)
    assert err.decode().count("Paste the whole address of that page") == 2
    assert "does not answer this sign-in" in err.decode()


async def test_pasting_ends_with_the_input(serving: Shell) -> None:
    ended = await serving.run("authorise", BOB, "--method", "paste", text=b"https://www.example.com/\n")
    assert (ended.status, "does not answer this sign-in" in ended.err) == (1, True)


async def test_the_owners_link_is_printed_to_be_sent_on(serving: Shell) -> None:
    ended = await serving.run("authorise", BOB, "--method", "link")
    assert ended.status == 0
    first, link = ended.out.splitlines()
    assert f"whoever signs in for {BOB}" in first
    assert re.fullmatch(r"http://localhost:\d+/authorise/[\w-]{43}", link)
    assert "waiting for" in (await serving.run("token", "status", BOB)).out


async def test_the_connection_test_tells_step_by_step(serving: Shell) -> None:
    without = await serving.run("test", BOB)
    assert (without.status, without.out.splitlines()[0].startswith("token … failed")) == (1, True)
    assert f"Get a token: posthouse authorise {BOB}" in without.out
    assert "SMTP" not in without.out
    await serving.authorise(BOB, BOB)
    tested = await serving.run("test", BOB)
    assert (tested.status, re.findall(r"^(\w+) … (\w+)", tested.out, re.MULTILINE)) == (
        0,
        [("token", "good"), ("SMTP", "good")],
    )
    report = (await serving.run("test", BOB, "--only", "imap", "--json")).data
    assert [check["name"] for check in report["checks"]] == ["token", "imap"]
    await serving.box.control("protocols", protocol="smtp", on=False)
    refused = await serving.run("test", BOB)
    assert (refused.status, "5.7.139" in refused.out) == (1, True)
    assert (await serving.run("test", "nobody@example.com")).status == 64


async def test_ctrl_c_ends_the_waiting_and_not_the_sign_in(serving: Shell) -> None:
    process = await serving.start("authorise", BOB, "--method", "device")
    code, _ = await printed_code(process)
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        assert b"Waiting" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130
    await serving.box.control("approve", user_code=code, person=BOB)
    async with asyncio.timeout(SECONDS):
        while (await serving.run("token", "status", BOB)).status != 0:
            pass


async def test_a_token_is_printed_without_loading_what_is_slow(serving: Shell) -> None:
    """Programs ask for it before each connection."""
    assert (await serving.authorise(BOB, BOB)).status == 0
    timed = await serving.run("token", "print", BOB, python=(sys.executable, "-X", "importtime", "-m", "posthouse.cli"))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in timed.err.splitlines() if "|" in line}
    assert timed.status == 0
    assert loaded.isdisjoint(HEAVY)
    again = await serving.run("token", "print", BOB, "--for", "sending")
    assert again.out == timed.out
    forms = [(await serving.run("token", "print", BOB, "--as", form)).out for form in ("xoauth2", "oauthbearer")]
    assert len({timed.out, *forms}) == 3
    assert (await serving.run("token", "print", BOB, "--as", "nonsense")).status == 64


async def test_an_app_registration_is_checked(serving: Shell) -> None:
    well = await serving.run("app", "check", "demo")
    assert (well.status, well.err) == (0, "")
    assert well.out.count("good (") == 4
    assert "redirect URL: http://localhost" in well.out
    await serving.box.control("faults", place="authorize", action="answer", status=400, body="html", times=1)
    ill = await serving.run("app", "check", "demo", "--json")
    assert ill.status == 1
    assert [check["state"] for check in ill.data["checks"]] == ["passed", "failed", "passed", "passed"]
    assert (await serving.run("app", "check", "nobody")).status == 64


async def test_deleting_a_token_wants_a_yes(serving: Shell) -> None:
    await serving.authorise(BOB, BOB)
    unasked = await serving.run("token", "delete", BOB)
    assert (unasked.status, (await serving.run("token", "status", BOB)).status) == (64, 0)
    deleted = await serving.run("token", "delete", BOB, "--yes")
    assert (deleted.status, "revoked at the provider" in deleted.out) == (0, True)
    assert "not acquired" in (await serving.run("token", "status", BOB)).out


async def test_mail_is_removed_only_with_a_yes(serving: Shell) -> None:
    assert (await serving.run("send", "--mailbox", BOB, ALICE, text=b"x\n")).status == 0
    (waiting,) = (await serving.run("queue", "list", "--json")).data
    assert (await serving.run("queue", "remove", waiting["id"])).status == 64
    assert (await serving.run("queue", "remove", waiting["id"], "--yes")).status == 0
    assert (await serving.run("queue", "list", "--all", "--json")).data == []
    assert (await serving.run("queue", "show", waiting["id"])).status == 64


@pytest.fixture
async def submitting(shell: Shell) -> AsyncIterator[Shell]:
    """A gateway with a socket for handing in, beside its data directory."""
    config = shell.place / "posthouse.toml"
    config.write_text(config.read_text().replace("[listen]", f'[listen]\nsubmit = "{shell.place}/submit.sock"'))
    async with gateway(read_settings(config, {}), create=True) as running:
        await running.start_web()
        assert (await shell.run("apply", "mail.toml")).status == 0
        yield shell
    assert not (shell.place / "submit.sock").exists()


async def test_whoever_may_open_the_submit_socket_hands_mail_in_and_can_do_nothing_else(submitting: Shell) -> None:
    path = submitting.place / "submit.sock"
    assert path.stat().st_mode & 0o777 == 0o666
    elsewhere = ("--config", "/nonexistent/posthouse.toml", "--socket", str(path))
    assert (await submitting.run("send", "--mailbox", ALICE, BOB, text=b"Subject: one\n\nx\n")).status == 0
    assert (await submitting.run("send", *elsewhere, "--mailbox", ALICE, BOB, text=b"Subject: two\n\nx\n")).status == 0
    waiting = (await submitting.run("queue", "list", "--json")).data
    assert [(one["subject"], one["device"]) for one in waiting] == [("two", "send"), ("one", "send")]
    answers = [
        (await asyncio.to_thread(SocketApi(path).call, method, door, b"{}", {})).status
        for method, door in (
            ("GET", "/messages"),
            ("GET", "/mailboxes"),
            ("POST", "/commands/apply"),
            ("GET", "/../.."),
        )
    ]
    assert answers == [404] * 4


async def test_without_a_gateway_at_the_socket_a_message_is_for_later(shell: Shell) -> None:
    ended = await shell.run("send", "--socket", str(shell.place / "submit.sock"), BOB, text=b"x")
    assert (ended.status, ended.err) == (75, f"No gateway listens at {shell.place}/submit.sock. Try again later.\n")


async def test_a_file_in_the_place_of_the_submit_socket_is_not_removed(shell: Shell) -> None:
    precious = shell.place / "precious"
    precious.write_text("do not delete")
    config = shell.place / "posthouse.toml"
    config.write_text(config.read_text().replace("[listen]", f'[listen]\nsubmit = "{precious}"'))
    async with gateway(read_settings(config, {}), create=True) as running:
        with pytest.raises(ProblemError, match="Cannot make"):
            await running.start_web()
    assert precious.read_text() == "do not delete"


@pytest.mark.parametrize(
    ("words", "text", "status"),
    [
        ((), b"x", 64),
        (("-bs", "a@b.example"), b"x", 64),
        (("not-an-address",), b"x", 65),
        (("-t",), b"Subject: nobody\n\nx", 65),
        (("--mailbox", "nobody@example.com", "a@b.example"), b"x", 64),
        (("-q1h", "-oem", "-odi", "-Fcron", "-i", "--", BOB), b"x", 0),
        (("-t", BOB), f"To: {ALICE}\n\nx".encode(), 0),
    ],
)
async def test_send_ends_as_sendmail_does(serving: Shell, words: tuple[str, ...], text: bytes, status: int) -> None:
    ended = await serving.run("send", *(words if "--mailbox" in words else ("--mailbox", ALICE, *words)), text=text)
    assert ended.status == status, ended.err
    assert bool(ended.err) == bool(status)


async def test_administrators_and_keys(serving: Shell) -> None:
    assert (await serving.run("admin", "add", "maria", "--password", text=b"long enough to be one\n")).status == 0
    assert (await serving.run("admin", "add", "maria")).status == 1
    assert (await serving.run("admin", "add", "jens", "--role", "limited", "--may", "queue")).status == 0
    assert (await serving.run("admin", "role", "jens", "auditor")).status == 0
    listed = (await serving.run("admin", "list")).out.splitlines()
    assert [line.split() for line in listed[1:]] == [
        ["jens", "auditor", "link"],
        ["maria", "administrator", "password"],
    ]
    assert re.fullmatch(r"http://localhost:\d+/sign-in/link/\S+\n", (await serving.run("admin", "link", "jens")).out)
    assert (await serving.run("admin", "remove", "jens", "--yes")).status == 0

    key = await serving.run("admin", "key", "desk", "--may", "read", "--mailbox", ALICE)
    assert key.out.startswith("ph_")
    assert ALICE in (await serving.run("admin", "keys")).out
    assert (await serving.run("admin", "key", "desk", "--remove")).status == 0
    assert (await serving.run("admin", "key", "desk")).status == 64


async def test_what_is_configured_is_shown(serving: Shell) -> None:
    listed = await serving.run("mailbox", "list")
    assert f"posthouse authorise {ALICE}" in listed.out
    shown = await serving.run("mailbox", "show", ALICE)
    assert f"smtp: {serving.box.described['smtp']} as {ALICE}: untested" in shown.out
    assert "posthouse" in (await serving.run("app", "show", "demo")).out
    assert "smtp" in (await serving.run("device", "list")).out
    assert "Microsoft 365" in (await serving.run("provider", "list")).out
    assert (await serving.run("device", "show", "nothing")).status == 64


async def test_a_second_gateway_is_refused_and_a_reader_that_goes_is_no_fault(serving: Shell) -> None:
    second = await serving.run("serve")
    assert (second.status, "is in use by another Posthouse" in second.err) == (75, True)
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "provider", "list", cwd=serving.place, stdout=write, stderr=asyncio.subprocess.PIPE
    )
    os.close(write)
    _, err = await process.communicate()
    assert b"failed" not in err


async def test_a_secret_that_ends_soon_is_told_by_status_and_apply_is_silent_about_it(serving: Shell) -> None:
    last = (datetime.now(UTC) + timedelta(days=20)).date().isoformat()
    office = '[[app]]\nname = "office"\nprovider = "sandbox"\nclient_id = "posthouse-office"\n'
    office += f'client_secret = "a secret for trying out"\nsecret_expires = {last}\n'
    mailbox = '[[mailbox]]\naddress = "carol@sandbox.example"\napp = "office"\n'
    (serving.place / "mail.toml").write_text(serving.box.apply_file(ALICE, BOB, more=office + mailbox))
    applied = await serving.run("apply", "mail.toml")
    assert (applied.status, "effect" in applied.out) == (0, False)
    shown = await serving.run("status")
    assert f"! office: client secret ends in 20 days, on {last} (carol@sandbox.example). Make a new" in shown.out
    listed = await serving.run("app", "list")
    assert last in listed.out
    mailbox_shown = await serving.run("mailbox", "show", "carol@sandbox.example")
    assert re.search(rf"^ends +{last} client secret$", mailbox_shown.out, re.MULTILINE)


async def test_a_wrong_configuration_is_one_sentence(shell: Shell) -> None:
    (shell.place / "posthouse.toml").write_text("external_url = 4711\n")
    plain, debug = await shell.run("status"), await shell.run("status", "--debug")
    missing = await shell.run("status", "--config", "nothing.toml")
    assert (plain.status, debug.status, missing.status) == (64, 64, 64)
    assert "external_url has to be text" in plain.err
    assert ("Traceback" in plain.err, "Traceback" in debug.err) == (False, True)


async def test_the_browser_finds_our_page_even_without_a_gateway(shell: Shell) -> None:
    """The command opens it for as long as it waits."""
    (port,) = free_ports(1)
    config = shell.place / "posthouse.toml"
    config.write_text(config.read_text().replace('web = "127.0.0.1:0"', f'web = "127.0.0.1:{port}"'))
    assert (await shell.run("apply", "mail.toml")).status == 0
    process = await shell.start("authorise", ALICE, "--method", "browser")
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS), httpx2.AsyncClient() as browser:
        await process.stdout.readline()
        page = await browser.get((await process.stdout.readline()).decode().strip())
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert (page.status_code, ALICE in page.text) == (200, True)
    assert not (shell.place / "data" / "control.sock").exists()


async def test_a_file_is_kept_up_to_date_with_the_token(serving: Shell) -> None:
    file = serving.place / "token"
    await serving.box.control("rules", access_token_lifetime=2)
    assert (await serving.authorise(BOB, BOB)).status == 0
    keeping = await serving.start("token", "print", BOB, "--keep", str(file))
    seen: set[str] = set()
    async with asyncio.timeout(SECONDS):
        while len(seen) < 2:
            await asyncio.sleep(0.05)
            seen |= {file.read_text().strip()} if file.exists() else set()
    assert "" not in seen
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keeping.terminate()
    out, err = await asyncio.wait_for(keeping.communicate(), SECONDS)
    assert (keeping.returncode, out, err) == (0, b"", b"")
    assert [one.name for one in serving.place.iterdir() if one.name.startswith(".token")] == []


async def test_a_file_cannot_be_kept_without_a_token_or_a_place(serving: Shell) -> None:
    without = await serving.run("token", "print", BOB, "--keep", str(serving.place / "token"))
    assert (without.status, "There is no token yet" in without.err) == (1, True)
    assert (await serving.authorise(BOB, BOB)).status == 0
    nowhere = await serving.run("token", "print", BOB, "--keep", str(serving.place / "nowhere" / "token"))
    assert (nowhere.status, "cannot be written" in nowhere.err) == (64, True)


async def test_settings_and_their_tokens_on_the_command_line(serving: Shell) -> None:
    (serving.place / "both.toml").write_text(f'[[mailbox]]\naddress = "{BOB}"\nreceive = "imap"')
    assert (await serving.run("apply", "both.toml")).status == 0
    assert (await serving.authorise(BOB, BOB)).status == 0
    asked = await serving.run("token", "own", BOB, "--for", "receiving")
    assert (asked.status, "Say --yes" in asked.err) == (64, True)
    given = await serving.run("token", "own", BOB, "--for", "receiving", "--yes")
    assert (given.status, f"posthouse authorise {BOB} --for receiving" in given.out) == (0, True), given.err
    listed = await serving.run("token", "list")
    assert f"{BOB}: sending, receiving" in listed.out
    assert f"Still to do: posthouse authorise {BOB} --for receiving" in (await serving.authorise(BOB, BOB)).err
    assert (await serving.run("token", "status", BOB, "--for", "notices")).status == 64
    shared = await serving.run("token", "share", BOB, "--for", "receiving", "--yes")
    assert (shared.status, "it shares the token" in shared.out) == (0, True), shared.err


async def test_the_wrong_person_is_told_how_to_stay(serving: Shell) -> None:
    wrong = await serving.authorise(BOB, ALICE)
    assert (wrong.status, f"--switch {ALICE}" in wrong.err) == (1, True)
