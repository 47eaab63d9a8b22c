"""The sandbox's IMAP doors, spoken to by the standard library's client."""

import asyncio
import imaplib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
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
    async with Sandbox(SandboxSettings(directory, kept_messages=5, kept_octets=10_000)) as box:
        yield box


def token(box: Sandbox, person: str = ALICE) -> str:
    return box.signin.grant(person, "posthouse").access_token.reveal()


def login(imap: imaplib.IMAP4, user: str, access: str, mechanism: str = "XOAUTH2") -> None:
    said = f"user={user}\1auth=Bearer {access}\1\1"
    if mechanism == "OAUTHBEARER":
        said = f"n,a={user},\1auth=Bearer {access}\1\1"
    answers = iter([said.encode()])
    imap.authenticate(mechanism, lambda _: next(answers, b"\1"))


async def talk(box: Sandbox, say: Callable[[imaplib.IMAP4], T], *, implicit: bool = True) -> T:
    """Run `say` in a thread with a fresh connection, which is closed in any case."""
    context = ssl.create_default_context(cafile=str(box.ca_file))

    def hold() -> T:
        imap: imaplib.IMAP4
        if implicit:
            imap = imaplib.IMAP4_SSL("127.0.0.1", box.ports.imaps, ssl_context=context, timeout=10)
        else:
            imap = imaplib.IMAP4("127.0.0.1", box.ports.imap, timeout=10)
        try:
            if not implicit:
                imap.starttls(context)
            return say(imap)
        finally:
            imap.shutdown()

    return await asyncio.to_thread(hold)


async def read(box: Sandbox, user: str = ALICE, person: str = ALICE) -> list[bytes]:
    """The bodies in the INBOX of `user`, with a token of `person`."""
    access = token(box, person)

    def say(imap: imaplib.IMAP4) -> list[bytes]:
        login(imap, user, access)
        imap.select()
        _, numbers = imap.search(None, "ALL")
        answers = [imap.fetch(number, "(BODY.PEEK[])")[1][0] for number in numbers[0].decode().split()]
        return [answer[1] for answer in answers if isinstance(answer, tuple)]

    return await talk(box, say)


def inside(box: Sandbox, say: Callable[[imaplib.IMAP4], T], person: str = ALICE) -> Callable[[imaplib.IMAP4], T]:
    """`say` after a login."""
    access = token(box, person)

    def logged_in(imap: imaplib.IMAP4) -> T:
        login(imap, person, access)
        return say(imap)

    return logged_in


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
async def test_mail_is_read_by_each_port_and_mechanism(box: Sandbox, implicit: bool, mechanism: str) -> None:
    box.post.put(ALICE, BOB, b"Subject: hi\r\n\r\nhello\r\n")
    access = token(box)

    def say(imap: imaplib.IMAP4) -> object:
        login(imap, ALICE, access, mechanism)
        imap.select()
        return imap.fetch("1", "(UID BODY[])")[1][0]

    answer = await talk(box, say, implicit=implicit)
    assert isinstance(answer, tuple)
    assert answer[1] == b"Return-Path: <bob@sandbox.example>\r\nSubject: hi\r\n\r\nhello\r\n"


async def test_delete_and_move_last_beyond_the_connection(box: Sandbox) -> None:
    for number in range(3):
        box.post.put(ALICE, BOB, b"Subject: %d\r\n\r\n" % number)

    def say(imap: imaplib.IMAP4) -> None:
        imap.select()
        imap.uid("MOVE", "2", "Archive")
        imap.store("1", "+FLAGS", r"\Deleted")
        imap.expunge()

    await talk(box, inside(box, say))
    assert [body.rpartition(b"Subject: ")[2] for body in await read(box)] == [b"2\r\n\r\n"]


async def test_a_shared_mailbox_is_read_by_who_has_full_access(box: Sandbox) -> None:
    box.post.put(SUPPORT, BOB, b"Subject: help\r\n\r\n")
    assert len(await read(box, user=SUPPORT)) == 1
    with pytest.raises(imaplib.IMAP4.error, match=r"AUTHENTICATE failed\."):
        await read(box, user=SUPPORT, person=BOB)


async def test_a_token_of_another_or_none_is_refused(box: Sandbox) -> None:
    for user, person in ((BOB, ALICE), ("nobody@sandbox.example", ALICE)):
        with pytest.raises(imaplib.IMAP4.error, match=r"AUTHENTICATE failed\."):
            await read(box, user=user, person=person)
    access = token(box)
    box.ledger.revoke_person()
    with pytest.raises(imaplib.IMAP4.error, match=r"AUTHENTICATE failed\."):
        await talk(box, lambda imap: login(imap, ALICE, access))


async def test_passwords_are_retired(box: Sandbox) -> None:
    with pytest.raises(imaplib.IMAP4.error, match=r"LOGIN failed\."):
        await talk(box, lambda imap: imap.login(ALICE, "secret"))


async def test_no_login_is_offered_before_tls(box: Sandbox) -> None:
    def capabilities() -> tuple[str, ...]:
        imap = imaplib.IMAP4("127.0.0.1", box.ports.imap, timeout=10)
        imap.shutdown()
        return imap.capabilities

    offered = await asyncio.to_thread(capabilities)
    assert "STARTTLS" in offered
    assert "AUTH=XOAUTH2" not in offered


@pytest.mark.parametrize("person", ["", ALICE])
async def test_imap_switched_off_is_said_after_the_login_as_exchange_does(box: Sandbox, person: str) -> None:
    box.post.switch("imap", person, on=False)
    with pytest.raises(imaplib.IMAP4.error, match=r"User is authenticated but not connected\."):
        await talk(box, inside(box, lambda imap: imap.select()))
    box.post.switch("imap", person, on=True)
    assert await talk(box, inside(box, lambda imap: imap.select()[0])) == "OK"


async def test_too_many_connections_are_refused_and_counted_down(box: Sandbox) -> None:
    box.post.limits = replace(box.post.limits, reading_connections=1)
    access = token(box)

    def second(_: imaplib.IMAP4) -> None:
        context = ssl.create_default_context(cafile=str(box.ca_file))
        other = imaplib.IMAP4_SSL("127.0.0.1", box.ports.imaps, ssl_context=context, timeout=10)
        try:
            with pytest.raises(imaplib.IMAP4.error, match="Too many simultaneous connections"):
                login(other, ALICE, access)
        finally:
            other.shutdown()

    await talk(box, inside(box, second))
    for _ in range(100):
        if not box.post.open["imap"][ALICE]:
            break
        await asyncio.sleep(0.01)
    await read(box)


async def test_an_idle_client_hears_of_new_mail_at_once(box: Sandbox) -> None:
    idling, arrived = asyncio.Event(), asyncio.get_running_loop()

    def say(imap: imaplib.IMAP4) -> bytes:
        imap.select()
        imap.send(b"x IDLE\r\n")
        assert imap.readline().startswith(b"+ ")
        arrived.call_soon_threadsafe(idling.set)
        news = imap.readline()
        imap.send(b"DONE\r\n")
        assert imap.readline().startswith(b"x OK")
        return news

    waiting = asyncio.create_task(talk(box, inside(box, say)))
    await idling.wait()
    box.post.put(ALICE, BOB, b"Subject: news\r\n\r\n")
    assert await waiting == b"* 1 EXISTS\r\n"


async def test_the_oldest_goes_where_a_mailbox_is_full_by_count_or_size(box: Sandbox) -> None:
    for number in range(7):
        box.post.put(ALICE, BOB, b"Subject: %d\r\n\r\n" % number)
    assert [body.split()[-1] for body in await read(box)] == [b"2", b"3", b"4", b"5", b"6"]
    for number in range(2):
        box.post.put(ALICE, BOB, b"Subject: large%d\r\n\r\n" % number + b"x" * 6000)
    (only,) = await read(box)
    assert b"large1" in only


async def test_a_new_life_has_new_uid_validities(directory: Path) -> None:
    seen = []
    for now in (1_000.0, 2_000.0):
        async with Sandbox(SandboxSettings(directory), lambda now=now: now) as box:  # type: ignore[misc]
            seen.append({folder.name: folder.uidvalidity for folder in box.post.drop(ALICE).store})
    assert all(seen[0][name] < seen[1][name] for name in ("INBOX", "Archive"))


# Faults


@pytest.mark.parametrize("stage", ["connect", "auth", "select", "fetch"])
async def test_a_cut_at_each_stage_ends_the_connection_once(box: Sandbox, stage: str) -> None:
    box.post.put(ALICE, BOB, b"Subject: hi\r\n\r\n")
    box.faults.add(Fault(f"imap.{stage}", "cut", times=1))
    with pytest.raises((imaplib.IMAP4.abort, ConnectionError, ssl.SSLError)):
        await read(box)
    assert len(await read(box)) == 1


async def test_a_lost_answer_has_done_its_work(box: Sandbox) -> None:
    box.post.put(ALICE, BOB, b"Subject: hi\r\n\r\n")
    box.faults.add(Fault("imap.store", "lose"))

    def say(imap: imaplib.IMAP4) -> None:
        imap.select()
        imap.store("1", "+FLAGS", r"\Flagged")

    with pytest.raises((imaplib.IMAP4.abort, ConnectionError, ssl.SSLError)):
        await talk(box, inside(box, say))
    (message,) = box.post.drop(ALICE).inbox.messages.values()
    assert r"\Flagged" in message.flags


async def test_an_answer_of_choice_for_one_person_at_one_command(box: Sandbox) -> None:
    box.faults.add(Fault("imap.select", "answer", person=ALICE, reply="imap-throttled", times=1))

    def say(imap: imaplib.IMAP4) -> str:
        return imap.select()[0]

    assert await talk(box, inside(box, say, BOB)) == "OK"
    with pytest.raises(imaplib.IMAP4.error, match=r"Suggested Backoff Time: \d+ milliseconds"):
        await talk(box, inside(box, say))
    assert await talk(box, inside(box, say)) == "OK"


async def test_goodbye_at_the_greeting_a_login_and_a_command(box: Sandbox) -> None:
    box.faults.add(Fault("imap.connect", "answer", reply="BYE Connection closed. 14", times=1))
    with pytest.raises(imaplib.IMAP4.error, match=r"Connection closed\. 14"):
        await read(box)
    box.faults.add(Fault("imap.auth", "answer", person=ALICE, reply="NO Not today", times=1))
    with pytest.raises(imaplib.IMAP4.error, match="Not today"):
        await read(box)
    box.faults.add(Fault("imap.select", "answer", reply="BYE Connection closed. 14", times=1))
    with pytest.raises(imaplib.IMAP4.abort):
        await read(box)
    await read(box)
