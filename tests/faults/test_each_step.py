"""A submission server that says 421, hangs or hangs up at each step of the conversation, in every form of it.

The message is tried again under the schedule, arrives once, and is never called unknown where the server has said no.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path

import pytest
from msgspec.structs import replace

from posthouse.sandbox.certificates import server_context
from posthouse.services import dispatcher, sending, upstream
from posthouse.services.proving import prove
from tests.faults.liars import Liar, liar
from tests.support.boxes import ALICE, BOB, PRINTER, box, subject_of
from tests.support.house import House, house, until

CLOSING = b"421 4.3.2 Closing for maintenance\r\n"
LINE = "One of many words. " * 45 + "\n"
NOBODY = b"550 5.1.1 Nobody here\r\n"
LARGE, HUGE = LINE * 900, LINE * 7000
"""Of four chunks, and more than the system keeps for a server that does not read."""
THREE = (BOB, "carol@example.org", "dave@example.org")
LOGIN = ("", "EHLO 1", "STAR", "EHLO 2", "AUTH 1", "AUTH 2")
ENVELOPE = ("MAIL", "RCPT 1", "RCPT 2", "RCPT 3")
BY_DATA = (*LOGIN, *ENVELOPE, "DATA", "BODY", ".")
BY_CHUNKS = (*ENVELOPE, "BDAT 1", "BDAT 2", "BDAT 3", "BDAT 4")
LAST = (".", "BDAT 4")
"""Where the end of the message has been sent."""
BODIES = {"BDAT 4": LARGE} | dict.fromkeys(("BODY", "BDAT 1", "BDAT 2", "BDAT 3"), HUGE)


def offer(*extensions: str) -> bytes:
    lines = ("liar.example", "STARTTLS", "AUTH XOAUTH2", "8BITMIME", *extensions)
    return "".join(f"250-{line}\r\n" for line in lines).encode() + b"250 HELP\r\n"


FORMS: Mapping[str, tuple[bytes, tuple[str, ...]]] = {
    "step by step": (offer(), BY_DATA),
    "pipelined": (offer("PIPELINING"), BY_DATA),
    "in chunks": (offer("PIPELINING", "CHUNKING"), BY_CHUNKS),
}


@dataclass(frozen=True, slots=True)
class Fault:
    says: bytes
    hangs_up: bool

    @property
    def kind_at_the_end(self) -> str:
        """Of an attempt in which it comes after the end of the message."""
        return "delayed" if self.says else "outcome unknown"


FAULTS = {
    "421": Fault(CLOSING, hangs_up=False),
    "421 and hangs up": Fault(CLOSING, hangs_up=True),
    "hangs": Fault(b"", hangs_up=False),
    "hangs up": Fault(b"", hangs_up=True),
}


ONE_CONNECTION = "ordered = true"
CASES = [(form, fault) for form in FORMS for fault in FAULTS if fault.startswith("421") or form != "step by step"]
PATIENT, IMPATIENT = 15.0, 0.5


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "IDLE", 0.0)
    monkeypatch.setattr(dispatcher, "POLL", 0.02)
    monkeypatch.setattr(upstream, "BODY_TIMEOUT", PATIENT)
    monkeypatch.setattr(upstream, "TAKING", PATIENT)


def wait_for_the_server(gateway: House, seconds: float) -> None:
    """Less than an apply file may ask for, where that is little."""
    upstream.BODY_TIMEOUT = upstream.TAKING = seconds
    mailboxes = gateway.parts.directory.now.mailboxes
    for name, mailbox in mailboxes.items():
        mailboxes[name] = replaced(mailbox, settings=replace(mailbox.settings, timeout=seconds))


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, settings: str = "") -> AsyncIterator[tuple[House, Liar]]:
    """A mailbox with a token, whose mail goes to a liar that knows STARTTLS."""
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE)) as gateway,
        liar(None, starttls=server_context(tmp_path / "box")) as server,
    ):
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        own = f'app = "demo"\nsmtp = "localhost:{server.port} starttls"\n{settings}'
        await gateway.apply(provider.apply_file(ALICE).replace('app = "demo"', own))
        yield gateway, server


def stop(server: Liar, form: bytes, step: str, fault: Fault) -> None:
    """An honest server up to this step."""
    asks_on = {"AUTH 1": b"334 \r\n"} if step == "AUTH 2" else {}
    server.says = {"EHLO": form, **asks_on, step: fault.says}
    server.stops_at, server.hangs_up = step, fault.hangs_up


def be_honest(server: Liar, form: bytes) -> None:
    server.says, server.stops_at = {"EHLO": form}, None


async def written(gateway: House, queue_id: str, kind: str, times: int = 1) -> None:
    async def is_written() -> bool:
        return (await gateway.lines(queue_id)).count(kind) >= times

    await until(is_written, f"{kind!r} in the journal of {queue_id}")


async def tried(gateway: House, queue_id: str) -> None:
    async def is_written() -> bool:
        return len(await gateway.lines(queue_id)) > 1

    await until(is_written, f"an attempt with {queue_id}")


async def goes_on(gateway: House, queue_id: str) -> None:
    """And no connection is kept that the next message could go by."""
    gateway.clock.forward(1000)
    await gateway.until_message(queue_id, "sent")

    async def alone() -> bool:
        return not any(lane.workers for lane in gateway.parts.dispatcher._lanes.values())

    await until(alone, "every connection being closed")


def taken(server: Liar) -> Counter[str]:
    return Counter(subject_of(body.decode()) for body in server.taken)


@pytest.mark.parametrize(("form", "fault"), CASES)
async def test_the_message_is_tried_again_and_arrives_once(tmp_path: Path, form: str, fault: str) -> None:
    (says, steps), wrong = FORMS[form], FAULTS[fault]
    async with opened(tmp_path) as (gateway, server):
        for step in steps:
            stop(server, says, step, wrong)
            wait_for_the_server(gateway, IMPATIENT if fault == "hangs" else PATIENT)
            queue_id = await gateway.send(PRINTER, THREE, f"Past step {step}", body=BODIES.get(step, LINE))
            kind = wrong.kind_at_the_end if step in LAST else "delayed"
            await tried(gateway, queue_id)
            message = await gateway.message(queue_id)
            assert await gateway.lines(queue_id) == ["accepted", kind], step
            assert (message.state, message.attempts) == ("queued", 0 if step in LOGIN else 1), step
            assert not wrong.says or "Closing for maintenance" in message.answer, step
            assert message.next_at > gateway.clock(), step
            be_honest(server, says)
            wait_for_the_server(gateway, PATIENT)
            await goes_on(gateway, queue_id)
        assert taken(server) == Counter(f"Past step {step}".strip() for step in steps)
        assert (await gateway.token(ALICE)).state == "acquired"


WARM = [(form, f"{step} {count}") for form in FORMS for step, count in (("MAIL", 2), ("RCPT", 3))] + [
    ("step by step", "DATA 2"),
    ("pipelined", "DATA 2"),
    ("in chunks", "BDAT 2"),
    ("step by step", ". 2"),
    ("pipelined", ". 2"),
]


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize(("form", "step"), WARM)
async def test_a_connection_that_had_its_day_costs_the_next_message_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, step: str, hangs_up: bool
) -> None:
    """Servers close what was idle with a 421 to the next command. Only the answer to a whole message is a verdict."""
    monkeypatch.setattr(sending, "IDLE", 20.0)
    says, _ = FORMS[form]
    async with opened(tmp_path, ONE_CONNECTION) as (gateway, server):
        stop(server, says, step, Fault(CLOSING, hangs_up))
        await gateway.until_message(await gateway.send(PRINTER, BOB, "One"), "sent")
        second = await gateway.send(PRINTER, (BOB, "carol@example.org"), "Two")
        if step in (". 2", "BDAT 2"):
            await written(gateway, second, "delayed")
            be_honest(server, says)
            gateway.clock.forward(1000)
        message = await gateway.until_message(second, "sent")
        assert message.attempts <= 2
        assert taken(server) == Counter(("One", "Two"))


@pytest.mark.parametrize("apart", [False, True])
async def test_what_comes_in_the_clear_behind_starttls_is_not_believed(tmp_path: Path, apart: bool) -> None:
    """Somebody in between adds an answer of his own to EHLO (CVE-2021-38371 and kin)."""
    injected = b"250-mx.example\r\n250 AUTH PLAIN\r\n"
    async with opened(tmp_path) as (gateway, server):
        server.says = {"EHLO": offer(), "STAR": b"220 2.0.0 Go ahead\r\n" + injected * (not apart)}
        server.behind_starttls = injected * apart
        queue_id = await gateway.send(PRINTER, BOB, "Clean")
        await written(gateway, queue_id, "delayed")
        assert "in the clear" in (answer := (await gateway.message(queue_id)).answer) or "TLS" in answer
        assert not any(line.startswith((b"AUTH", b"MAIL")) for line in server.heard)
        server.behind_starttls = b""
        be_honest(server, offer())
        await goes_on(gateway, queue_id)
        assert taken(server) == Counter(("Clean",))


async def test_a_slow_line_is_not_cut_and_has_no_say_in_the_timeout_for_answers(tmp_path: Path) -> None:
    """Pieces of 256 KB take 32 seconds over 64 kbit/s, where a mailbox waits 30 for an answer."""

    async with opened(tmp_path) as (gateway, server):
        be_honest(server, offer("PIPELINING"))
        wait_for_the_server(gateway, IMPATIENT)
        upstream.BODY_TIMEOUT = upstream.TAKING = PATIENT
        server.pause = IMPATIENT * 2
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Slowly", body=HUGE), "sent")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_said_to_rset_and_quit_is_no_word_on_the_next_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, fault: str
) -> None:
    monkeypatch.setattr(sending, "IDLE", 20.0)
    says, _ = FORMS[form]
    async with opened(tmp_path, ONE_CONNECTION) as (gateway, server):
        wait_for_the_server(gateway, IMPATIENT if fault == "hangs" else PATIENT)
        stop(server, says, "RSET", FAULTS[fault])
        server.says = {**server.says, "QUIT": FAULTS[fault].says, "RCPT 1": NOBODY, "DATA 1": NOBODY}
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Refused"), "failed")
        server.says = {name: said for name, said in server.says.items() if said != NOBODY}
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Next"), "sent")
        assert any(line.startswith(b"RSET") for line in server.heard)
        assert taken(server) == Counter(("Next",))


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_fate_of_one_message_is_not_that_of_the_one_begun_behind_it(tmp_path: Path, fault: str) -> None:
    """With PIPELINING the next envelope is under way when the server goes at the end of a message."""
    async with opened(tmp_path) as (gateway, server):
        be_honest(server, says := offer("PIPELINING"))
        server.says = {**server.says, "": b"450 4.3.2 Not yet\r\n"}
        sent = [await gateway.send(PRINTER, BOB, f"Number {number}") for number in range(3)]
        await written(gateway, sent[0], "delayed")
        stop(server, says, ".", FAULTS[fault])
        wait_for_the_server(gateway, IMPATIENT if fault == "hangs" else PATIENT)
        gateway.clock.forward(1000)
        await written(gateway, sent[0], kind := FAULTS[fault].kind_at_the_end, 2 if FAULTS[fault].says else 1)
        be_honest(server, says)
        wait_for_the_server(gateway, PATIENT)
        for queue_id in sent:
            gateway.clock.forward(1000)
            await gateway.until_message(queue_id, "sent")
            lines = await gateway.lines(queue_id)
            assert lines.count("outcome unknown") == (await gateway.message(queue_id)).attempts - 1 or kind == "delayed"
        assert taken(server) == Counter(f"Number {number}" for number in range(3))


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_server_that_closes_has_not_refused_the_token(tmp_path: Path, fault: str) -> None:
    """A token is proved by a login and a NOOP."""
    async with opened(tmp_path) as (gateway, server):
        wait_for_the_server(gateway, IMPATIENT if fault == "hangs" else PATIENT)
        mailbox = gateway.parts.directory.now.by_address[ALICE]
        way = await gateway.parts.credentials.way(mailbox, "smtp")
        for step in (*LOGIN, "NOOP"):
            stop(server, offer(), step, FAULTS[fault])
            proof = await prove(mailbox, "smtp", way, hostname="gw.example", family="any")
            assert proof.verdict == "unreachable", step
        be_honest(server, offer())
        assert (await prove(mailbox, "smtp", way, hostname="gw.example", family="any")).verdict == "proved"
