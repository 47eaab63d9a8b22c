"""Clients that vanish, dawdle, send too much or speak nonsense: refused in time, in bounded memory, and forgotten."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from posthouse.protocol.smtp_reply import TIMED_OUT, TOO_MANY_CONNECTIONS
from posthouse.secret import Secret
from posthouse.services import submission
from posthouse.store import messages
from tests.faults.clients import Client, client
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.certificates import Certificates
from tests.support.house import House, house, until
from tests.support.serving import Serving, serving

APPLY = f"""
[[mailbox]]
address = "{ALICE}"
password = "of no use"
smtp = "127.0.0.1:1 plain"

[[device]]
name = "{PRINTER}"
mailboxes = ["{ALICE}"]
"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[House]:
    """One that takes mail and hands none on."""
    async with house(tmp_path / "data", APPLY, background=False) as made:
        await made.gateway.start_listeners()
        yield made


def login(gateway: House) -> tuple[str, Secret]:
    return PRINTER, gateway.passwords[PRINTER]


def port(gateway: House) -> int:
    return gateway.gateway.smtp_ports[0]


async def queued(gateway: House) -> int:
    return len(await gateway.parts.store.database.read(messages.page))


async def nobody_is_left(gateway: House) -> None:
    async def alone() -> bool:
        return all(listener.connections == 0 for listener in gateway.gateway._listeners)

    await until(alone, "every conversation having ended")


@pytest.fixture(autouse=True)
def nothing_crashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No client may bring a conversation down by a fault of ours."""
    crashes: list[BaseException] = []
    monkeypatch.setattr("posthouse.app._crashed", crashes.append)
    yield
    assert crashes == []


MOST_FROM_ONE = 200
BROKEN_OFF = (
    b"",
    b"EH",
    b"EHLO x\r\nAUTH PLAIN",
    b"EHLO x\r\nAUTH LOGIN\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET / HTTP/1.1\r\n\r\n",
)


async def test_clients_that_vanish_leave_nothing_behind(gateway: House) -> None:
    for start in BROKEN_OFF:
        async with client(port(gateway)) as somebody:
            await somebody.say(start)
    for body in (b"", b"Subject: half", b"Subject: half\r\n\r\n" + b"a line of text\r\n" * 20_000):
        async with client(port(gateway), login=login(gateway)) as somebody:
            await somebody.begin(BOB)
            await somebody.say(body)
    await nobody_is_left(gateway)
    assert await queued(gateway) == 0
    assert list((gateway.gateway.settings.data / "spool").iterdir()) == []


async def test_a_silent_client_is_told_so_and_left(gateway: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "IDLE", 0.1)
    async with client(port(gateway)) as somebody:
        assert (await somebody.rest()).startswith(b"421 ")
    await nobody_is_left(gateway)


@pytest.mark.parametrize("in_message", [False, True])
async def test_a_client_that_drips_octets_is_left_as_well(
    gateway: House, monkeypatch: pytest.MonkeyPatch, in_message: bool
) -> None:
    monkeypatch.setattr(submission, "PATIENCE", 0.3)
    monkeypatch.setattr(submission, "MESSAGE", 0.1)
    async with client(port(gateway), login=login(gateway)) as somebody:
        if in_message:
            await somebody.begin(BOB)
        ended = asyncio.create_task(somebody.rest())
        with contextlib.suppress(ConnectionError):
            while not ended.done():
                await somebody.say(b"x\r\n" if in_message else b"N")
                await asyncio.sleep(0.02)
        assert (await ended)[:4] in (b"", b"421 ")
    await nobody_is_left(gateway)
    assert await queued(gateway) == 0


async def test_slow_ones_from_one_address_keep_nobody_else_out_and_go_in_the_end(
    gateway: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them sends an octet now and then, at another step of the conversation."""
    starts = (b"E", b"EHLO x\r\nAUTH LOG", b"EHLO x\r\nAUTH LOGIN\r\n", b"EHLO x\r\nMAIL FROM:<a@b.")
    dripped: list[Client] = []
    async with contextlib.AsyncExitStack() as crowd:
        for number in range(MOST_FROM_ONE):
            dripped.append(await crowd.enter_async_context(client(port(gateway))))
            await dripped[-1].say(starts[number % len(starts)])
        one_more = Client(*await asyncio.open_connection("127.0.0.1", port(gateway)))
        assert await one_more.rest() == TOO_MANY_CONNECTIONS.encode()
        one_more.vanish()
        elsewhere = await asyncio.open_connection("127.0.0.1", port(gateway), local_addr=("127.0.0.2", 0))
        somebody = Client(*elsewhere)
        assert (await somebody.hear()).startswith(b"220 ")
        assert (await somebody.log_in(*login(gateway))).startswith(b"235 ")
        assert (await somebody.begin(BOB)).startswith(b"354 ")
        assert (await somebody.ask(HEADER + b"\r\nthrough\r\n.")).startswith(b"250 ")
        somebody.vanish()

        monkeypatch.setattr(submission, "PATIENCE", 0.0)
        for one in dripped:
            await one.say(b"x")
        answers = {(await one.rest()).splitlines()[-1] for one in dripped}
        assert answers == {TIMED_OUT.encode().strip()}
    await nobody_is_left(gateway)


async def test_ten_thousand_recipients_are_far_too_many(gateway: House) -> None:
    async with client(port(gateway), login=login(gateway)) as somebody:
        await somebody.ask(b"MAIL FROM:<scanner@printer.example>")
        hearing = asyncio.create_task(somebody.rest())
        with contextlib.suppress(ConnectionError):
            for number in range(10_000):
                await somebody.say(b"RCPT TO:<someone%d@example.org>\r\n" % number)
        answers = (await hearing).splitlines()
        assert sum(answer.startswith(b"250 ") for answer in answers) == 500
        assert len(answers) < 6000
    assert await queued(gateway) == 0


async def test_five_hundred_recipients_are_taken(gateway: House) -> None:
    async with client(port(gateway), login=login(gateway)) as somebody:
        await somebody.ask(b"MAIL FROM:<scanner@printer.example>")
        for number in range(500):
            assert (await somebody.ask(b"RCPT TO:<someone%d@example.org>" % number)).startswith(b"250 ")
        assert (await somebody.ask(b"DATA")).startswith(b"354 ")
        assert (await somebody.ask(b"Subject: all\r\n\r\nhello\r\n.")).startswith(b"250 ")
    [message] = await gateway.parts.store.database.read(messages.page)
    assert len(message.recipients) == 500


HEADER = b"Subject: a page\r\n"
MESSAGES = [
    (b"", b"250 "),
    (b"no header at all\r\n", b"554 "),
    (b"\r\nonly a body\r\n", b"250 "),
    (HEADER + b"\r\nwithout From\r\n", b"250 "),
    (b"X-Long: " + b"x" * 300_000 + b"\r\n\r\nbody\r\n", b"552 "),
    (b"X-Many: x\r\n" * 30_000 + b"\r\nbody\r\n", b"552 "),
    (HEADER + b"\r\na NUL\0 in it\r\n", b"550 "),
    (HEADER + b"\r\na bare\rreturn\r\n", b"550 "),
    (HEADER + b"\r\na bare\nfeed\r\n", b"550 "),
    (HEADER + b"\r\nsmuggled\n.\nMAIL FROM:<x@y.example>\r\n", b"550 "),
    (HEADER + b"\r\n" + b"one endless line" * 100_000 + b"\r\n", b"250 "),
    (HEADER + b"\r\n..\r\n...\r\n", b"250 "),
]


async def test_odd_messages_get_one_clear_answer_each_and_the_conversation_goes_on(gateway: House) -> None:
    async with client(port(gateway), login=login(gateway)) as somebody:
        for message, wanted in MESSAGES:
            assert (await somebody.begin(BOB)).startswith(b"354 ")
            answer = await somebody.ask(message + b".")
            assert answer.startswith(wanted), (message[:40], answer)
    assert await queued(gateway) == sum(wanted == b"250 " for _, wanted in MESSAGES)


async def test_pipelined_rubbish_ends_after_a_few_errors(gateway: House) -> None:
    rubbish = random.Random(7).randbytes(500_000)
    async with client(port(gateway)) as somebody:
        hearing = asyncio.create_task(somebody.rest())
        with contextlib.suppress(ConnectionError):
            await somebody.say(rubbish)
        answers = (await hearing).splitlines()
        assert len(answers) <= 12
    await nobody_is_left(gateway)


async def test_wrong_passwords_cost_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        before = await gateway.token(ALICE)
        for _ in range(5):
            async with client(port(gateway)) as somebody:
                answers = [(await somebody.log_in(PRINTER, Secret(f"guess {n}")))[:4] for n in range(10)]
                assert answers == [b"535 "] * 10
                assert (await somebody.rest()).startswith(b"421 ")
        assert await gateway.token(ALICE) == before
        assert (await provider.control_state())["refreshes"] == {}
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Still"), "sent")


async def test_what_is_said_before_tls_does_not_count_after_it_and_memory_is_bounded(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with house(tmp_path / "data", APPLY, background=False) as made:
        password = made.passwords[PRINTER]
    tls = f'[tls]\ncertificate = "{certificates.chain}"\nkey = "{certificates.key}"'
    places = ("127.0.0.1:0 starttls", "127.0.0.1:0 plain")
    with serving(tmp_path, tmp_path / "data", smtp=places, more=tls) as gateway:
        await asyncio.to_thread(gateway.start, page=True)
        secured, plain = gateway.smtp_ports
        await injection(secured, password, certificates)
        async with client(plain, login=(PRINTER, password)) as somebody:
            await too_large(somebody, gateway)
        assert gateway.states() == {}


async def injection(port: int, password: Secret, certificates: Certificates) -> None:
    """CVE-2011-0411 and kin: commands that come in the same packet as STARTTLS."""
    async with client(port) as somebody:
        assert b"AUTH" not in await somebody.ask(b"EHLO client.example")
        assert (await somebody.ask(b"AUTH PLAIN AGEAYg=="))[:3] in (b"530", b"538")
        await somebody.say(b"STARTTLS\r\nEHLO injected.example\r\nNOOP\r\nRSET\r\n")
        assert (await somebody.hear()).startswith(b"220 ")
        await somebody.start_tls(ssl.create_default_context(cafile=str(certificates.authority)))
        assert (await somebody.ask(b"MAIL FROM:<a@b.example>")).startswith(b"503 ")
        assert (await somebody.log_in(PRINTER, password)).startswith(b"235 ")
        assert (await somebody.ask(b"QUIT")).startswith(b"221 ")


async def too_large(somebody: Client, gateway: Serving) -> None:
    """100 MB where 35 are allowed: announced, it is refused at once; unannounced, at its end."""
    await somebody.ask(b"EHLO again.example")
    announced = await somebody.ask(b"MAIL FROM:<scanner@printer.example> SIZE=100000000")
    assert announced.startswith(b"552 ")
    before = resident(gateway)
    assert (await somebody.begin(BOB)).startswith(b"354 ")
    await somebody.say(HEADER + b"\r\n")
    line, most = b"x" * 998 + b"\r\n", 0
    for _ in range(100):
        await somebody.say(line * 1000)
        most = max(most, resident(gateway))
    assert (await somebody.ask(b".")).startswith(b"552 ")
    assert most - before < 24 * 1024 * 1024
    assert list((gateway.data / "spool").iterdir()) == []


def resident(gateway: Serving) -> int:
    """Octets of memory that the gateway has."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
