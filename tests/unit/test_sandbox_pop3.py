"""The sandbox's POP3 doors, spoken to by the standard library's client."""

import asyncio
import poplib
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from posthouse.sandbox import Fault, Sandbox, SandboxSettings

ALICE, BOB, SUPPORT = "alice@sandbox.example", "bob@sandbox.example", "support@sandbox.example"
T = TypeVar("T")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("box")


@pytest.fixture
async def box(directory: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(directory)) as box:
        box.post.put(ALICE, BOB, b"Subject: one\r\n\r\n.hello\r\n")
        box.post.put(ALICE, BOB, b"Subject: two\r\n\r\n")
        yield box


class Pop(poplib.POP3):
    """poplib knows no OAuth; `login` adds it in two steps (RFC 5034)."""

    def command(self, line: str) -> bytes:
        return bytes(self._shortcmd(line))  # type: ignore[attr-defined]

    def login(self, user: str, access: str, mechanism: str = "XOAUTH2") -> None:
        said = f"user={user}\1auth=Bearer {access}\1\1"
        if mechanism == "OAUTHBEARER":
            said = f"n,a={user},\1auth=Bearer {access}\1\1"
        self.command(f"AUTH {mechanism}")
        if self.command(b64encode(said.encode()).decode()).startswith(b"+ "):
            self.command("" if mechanism == "XOAUTH2" else "AQ==")


class PopTls(poplib.POP3_SSL, Pop):
    """The same with TLS from the start."""


async def talk(box: Sandbox, say: Callable[[Pop], T], *, implicit: bool = True) -> T:
    """Run `say` in a thread with a fresh connection, which is closed in any case."""
    context = ssl.create_default_context(cafile=str(box.ca_file))

    def hold() -> T:
        if implicit:
            pop: Pop = PopTls("127.0.0.1", box.ports.pop3s, context=context, timeout=10)
        else:
            pop = Pop("127.0.0.1", box.ports.pop3, timeout=10)
        try:
            if not implicit:
                pop.stls(context)
            return say(pop)
        finally:
            pop.close()

    return await asyncio.to_thread(hold)


def token(box: Sandbox, person: str = ALICE) -> str:
    return box.signin.grant(person, "posthouse").access_token.reveal()


def inside(box: Sandbox, say: Callable[[Pop], T], user: str = ALICE, person: str = ALICE) -> Callable[[Pop], T]:
    """`say` after a login at `user` with a token of `person`."""
    access = token(box, person)

    def logged_in(pop: Pop) -> T:
        pop.login(user, access)
        return say(pop)

    return logged_in


def count(box: Sandbox) -> int:
    return len(box.post.drop(ALICE).inbox.messages)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
async def test_mail_is_read_by_each_port_and_mechanism(box: Sandbox, implicit: bool, mechanism: str) -> None:
    access = token(box)

    def say(pop: Pop) -> list[bytes]:
        pop.login(ALICE, access, mechanism)
        return pop.retr(1)[1]

    lines = await talk(box, say, implicit=implicit)
    assert lines == [b"Return-Path: <bob@sandbox.example>", b"Subject: one", b"", b".hello"]


async def test_deletions_happen_at_quit_only(box: Sandbox) -> None:
    await talk(box, inside(box, lambda pop: pop.dele(1)))
    assert count(box) == 2

    def say(pop: Pop) -> None:
        pop.dele(1)
        pop.quit()

    await talk(box, inside(box, say))
    assert count(box) == 1


async def test_who_may_come_in(box: Sandbox) -> None:
    assert (await talk(box, inside(box, lambda pop: pop.stat(), user=SUPPORT)))[0] == 0
    for user, person in ((SUPPORT, BOB), (ALICE, BOB), ("nobody@sandbox.example", ALICE)):
        with pytest.raises(poplib.error_proto, match="Authentication failure: unknown user name or bad password"):
            await talk(box, inside(box, lambda pop: pop.stat(), user, person))


async def test_passwords_are_retired(box: Sandbox) -> None:
    def say(pop: Pop) -> None:
        pop.user(ALICE)
        pop.pass_("secret")

    with pytest.raises(poplib.error_proto, match="Logon failure: unknown user name or bad password"):
        await talk(box, say)


async def test_pop3_switched_off_is_said_after_the_login(box: Sandbox) -> None:
    box.post.switch("pop3", ALICE, on=False)
    with pytest.raises(poplib.error_proto, match="User is authenticated but not connected"):
        await talk(box, inside(box, lambda pop: pop.stat()))


@pytest.mark.parametrize("stage", ["auth", "stat", "retr", "command"])
async def test_a_cut_at_each_stage_ends_the_connection_once(box: Sandbox, stage: str) -> None:
    def say(pop: Pop) -> int:
        pop.uidl()
        pop.retr(1)
        return pop.stat()[0]

    box.faults.add(Fault(f"pop3.{stage}", "cut", times=1))
    with pytest.raises((poplib.error_proto, OSError)):
        await talk(box, inside(box, say))
    assert await talk(box, inside(box, say)) == 2


async def test_a_lost_answer_to_quit_has_deleted(box: Sandbox) -> None:
    box.faults.add(Fault("pop3.quit", "lose"))

    def say(pop: Pop) -> None:
        pop.dele(1)
        pop.quit()

    with pytest.raises((poplib.error_proto, OSError)):
        await talk(box, inside(box, say))
    assert count(box) == 1


@pytest.mark.parametrize("stage", ["auth", "retr"])
async def test_an_answer_of_choice(box: Sandbox, stage: str) -> None:
    box.faults.add(Fault(f"pop3.{stage}", "answer"))
    with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\] Please try again later"):
        await talk(box, inside(box, lambda pop: pop.retr(1)))


async def test_faults_before_the_greeting(box: Sandbox) -> None:
    box.faults.add(Fault("pop3.connect", "cut", times=1))
    box.faults.add(Fault("pop3.connect", "answer", reply="pop3-protocol-error", times=1))
    heard = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", box.ports.pop3)
        try:
            heard.append(await reader.readline())
        except ConnectionError:
            heard.append(b"")
        writer.close()
    assert heard[:2] == [b"", b"-ERR Protocol error. Connection is closed. 10\r\n"]
    assert heard[2].startswith(b"+OK ")
