"""A submission server that hangs, breaks off, refuses or talks rubbish at every stage: no message is lost for it.

Only a verdict about the message ends a message; all else delays it, with the cause, and it goes on by itself.
"""

import contextlib
import itertools
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace as replaced
from pathlib import Path

import pytest
import trustme
from msgspec.structs import replace

from posthouse.protocol.smtp_reply import Reply
from posthouse.sandbox.certificates import server_context
from posthouse.services import dispatcher, sending, upstream
from posthouse.store.messages import Summary
from tests.faults.liars import crawling, dripping, liar, without
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box, subject_of
from tests.support.house import House, house, until

BEFORE_MAIL = ("smtp.connect", "smtp.hello", "smtp.starttls", "smtp.auth")
IN_MAIL = ("smtp.mail", "smtp.rcpt", "smtp.data")
AFTER_DATA = ("smtp.body", "smtp.end")
PLACES = (*BEFORE_MAIL, *IN_MAIL, *AFTER_DATA)
HANG = {"action": "cut", "delay": 30.0}
CUT = {"action": "cut"}
CLOSE = {"action": "answer", "reply": "421 4.3.2 Service not available, closing transmission channel"}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "IDLE", 0.0)
    monkeypatch.setattr(dispatcher, "POLL", 0.02)
    monkeypatch.setattr(upstream, "BODY_TIMEOUT", 1.0)


@contextlib.asynccontextmanager
async def ready(tmp_path: Path) -> AsyncIterator[tuple[Box, House]]:
    """A mailbox that may send, and waits a second at most for its provider."""
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", patient(provider)) as gateway:
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        yield provider, gateway


def patient(provider: Box, smtp: str = "", ca_file: str = "") -> str:
    own = f'app = "demo"\ntimeout = "1s"\nsmtp = "{smtp}"'
    return (
        provider.apply_file(ALICE)
        .replace('app = "demo"', own)
        .replace(provider.described["ca_file"], ca_file or provider.described["ca_file"])
    )


def be_quick(gateway: House) -> None:
    """A shorter wait than an apply file may ask for."""
    mailboxes = gateway.parts.directory.now.mailboxes
    for name, mailbox in mailboxes.items():
        mailboxes[name] = replaced(mailbox, settings=replace(mailbox.settings, timeout=0.3))


async def delayed(gateway: House, queue_id: str, lines: int = 2) -> Summary:
    """The message after an attempt has been written down."""

    async def written() -> bool:
        return len(await gateway.lines(queue_id)) >= lines

    await until(written, f"an attempt with {queue_id} being written down")
    return await gateway.message(queue_id)


async def goes_on(gateway: House, queue_id: str) -> None:
    """By itself, once the time has come."""
    gateway.clock.forward(1000)
    await gateway.until_message(queue_id, "sent")


@pytest.mark.parametrize("fault", [HANG, CUT, CLOSE], ids=["hangs", "is cut", "says 421"])
async def test_a_server_that_fails_at_any_stage_delays_the_message_and_gets_it_once(
    tmp_path: Path, fault: dict[str, object]
) -> None:
    async with ready(tmp_path) as (provider, gateway):
        be_quick(gateway)
        for place in PLACES:
            await provider.control("faults", place=place, times=1, **fault)
            queue_id = await gateway.send(PRINTER, BOB, f"Past {place}")
            message = await delayed(gateway, queue_id)
            kind = (await gateway.lines(queue_id))[1]
            assert (message.state, message.attempts) == ("queued", 0 if place in BEFORE_MAIL else 1), place
            assert message.answer or message.cause, place
            assert message.next_at > gateway.clock(), place
            assert kind == "delayed" or (kind == "outcome unknown" and place in AFTER_DATA), place
            await goes_on(gateway, queue_id)
        assert sorted(provider.subjects(BOB)) == sorted(f"Past {place}" for place in PLACES)


VERDICTS = [
    ("smtp.mail", "550 5.1.0 Sender denied for good", "failed", 1),
    ("smtp.rcpt", "550 5.1.1 No such person", "failed", 1),
    ("smtp.data", "554 5.6.0 No", "failed", 1),
    ("smtp.end", "554 5.6.0 Not that content", "failed", 1),
    ("smtp.rcpt", "450 4.2.1 Later", "queued", 1),
    ("smtp.end", "451 4.7.0 Temporary server error. Please try again later.", "queued", 1),
    ("smtp.mail", "smtp-concurrent", "queued", 0),
    ("smtp.end", "smtp-concurrent", "queued", 0),
    ("smtp.mail", "421 4.7.66 TLS 1.0 and 1.1 are not supported", "queued", 1),
    ("smtp.mail", "530 5.7.57 Client not authenticated to send mail.", "queued", 0),
    ("smtp.end", "smtp-quota", "queued", 0),
    ("smtp.auth", "smtp-refused", "queued", 0),
    ("smtp.auth", "smtp-disabled-tenant", "queued", 0),
    ("smtp.auth", "454 4.7.0 Temporary authentication failure", "queued", 0),
]


async def test_only_a_verdict_about_the_message_ends_it(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway):
        known = gateway.parts.directory.now.providers
        known["sandbox"] = replace(known["sandbox"], family="microsoft")
        for number, (place, reply, state, attempts) in enumerate(VERDICTS):
            switch = await provider.control("faults", place=place, action="answer", reply=reply)
            queue_id = await gateway.send(PRINTER, BOB, f"Number {number}")
            message = await delayed(gateway, queue_id)
            assert (message.state, message.attempts) == (state, attempts), (place, reply)
            assert message.answer, (place, reply)
            provider.sandbox.faults.remove(switch["id"])
            if state == "queued":
                await goes_on(gateway, queue_id)
        kept = [number for number, (_, _, state, _) in enumerate(VERDICTS) if state == "queued"]
        assert sorted(provider.subjects(BOB)) == sorted(f"Number {number}" for number in kept)
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_server_that_closes_for_the_sake_of_the_pace_is_left_alone_for_a_while(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway):
        known = gateway.parts.directory.now.providers
        known["sandbox"] = replace(known["sandbox"], family="google")
        before = provider.sandbox.post.connected["smtp"]
        await provider.control("faults", place="smtp.mail", action="answer", reply="421 4.7.0 Try again later")
        sent = [await gateway.send(PRINTER, BOB, f"Waiting {number}") for number in range(3)]
        await all_wait(gateway, sent)
        # With each attempt one more may have been opened ahead.
        assert provider.sandbox.post.connected["smtp"] - before <= 2 * len(sent)
        assert [(await gateway.message(queue_id)).attempts for queue_id in sent] == [0, 0, 0]
        provider.sandbox.faults.remove()
        gateway.clock.forward(15)
        for queue_id in sent:
            await gateway.until_message(queue_id, "sent")


async def all_wait(gateway: House, queue_ids: list[str]) -> None:
    async def waiting() -> bool:
        messages = [await gateway.message(queue_id) for queue_id in queue_ids]
        return all(not message.stage and message.next_at > gateway.clock() for message in messages)

    await until(waiting, "all of them waiting")


async def test_a_mailbox_that_is_refused_rests_longer_each_time_and_goes_on_by_itself(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway):
        switch = await provider.control("faults", place="smtp.auth", action="answer", reply="smtp-refused")
        queue_id = await gateway.send(PRINTER, BOB, "Waiting")
        pauses = []
        for attempt in range(6):
            message = await delayed(gateway, queue_id, 2 + attempt)
            pauses.append(message.next_at - gateway.clock())
            gateway.clock.forward(pauses[-1] + 0.01)
        assert pauses[0] < 15
        assert [after / before for before, after in itertools.pairwise(pauses[2:])] == pytest.approx([2, 2, 2], rel=0.1)
        assert (await gateway.token(ALICE)).state == "acquired"
        provider.sandbox.faults.remove(switch["id"])
        await goes_on(gateway, queue_id)
        assert (await gateway.message(queue_id)).attempts == 1


async def test_connections_that_are_refused_at_once_let_the_mailbox_rest_once(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway):
        switch = await provider.control("faults", place="smtp.auth", action="answer", reply="smtp-refused", delay=0.5)
        sent = [await gateway.send(PRINTER, BOB, f"Waiting {number}") for number in range(5)]

        await all_wait(gateway, sent)
        provider.sandbox.faults.remove(switch["id"])
        gateway.clock.forward(15)
        for queue_id in sent:
            await gateway.until_message(queue_id, "sent")


STAGES = ("", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", ".")
RUBBISH = (
    b"\x00\xff\xfe\r\n",
    b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
    b"999 What is this\r\n",
    b"101 Not a reply that SMTP has\r\n",
    b"250-endless\r\n" * 20_000,
    b"x" * 1_000_000,
)


async def test_a_fault_of_our_own_after_the_end_of_a_message_is_an_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = upstream.SmtpSession.verdict
    failed: list[Reply | None] = []

    async def fails_once(self: upstream.SmtpSession) -> Reply:
        said = await verdict(self)
        if not failed:
            failed.append(said)
            raise RuntimeError("a fault of ours")
        return said

    async with ready(tmp_path) as (provider, gateway):
        monkeypatch.setattr(upstream.SmtpSession, "verdict", fails_once)
        queue_id = await gateway.send(PRINTER, BOB, "Who knows")
        await delayed(gateway, queue_id)
        await goes_on(gateway, queue_id)
        assert await gateway.lines(queue_id) == ["accepted", "outcome unknown", "sent"]
        assert provider.subjects(BOB) == ["Who knows", "Who knows"]


async def test_rubbish_at_any_stage_delays_the_message(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway), liar(server_context(tmp_path / "box")) as server:
        await gateway.apply(patient(provider, f"localhost:{server.port} tls"))
        said = [(stage, rubbish) for stage in STAGES for rubbish in RUBBISH] + [("", b""), (".", b"25")]
        for number, (stage, rubbish) in enumerate(said):
            server.says = {stage: rubbish}
            queue_id = await gateway.send(PRINTER, BOB, f"Number {number}")
            message = await delayed(gateway, queue_id)
            assert message.state == "queued", (stage, rubbish[:20], message)
            assert message.answer, (stage, rubbish[:20])
            server.says = {}
            await goes_on(gateway, queue_id)
        taken = Counter(subject_of(body.decode()) for body in server.taken)
        assert taken.keys() == {f"Number {number}" for number in range(len(said))}
        assert {said[int(subject.split()[1])][0] for subject, count in taken.items() if count > 1} <= {"."}


async def test_a_verdict_before_the_end_of_the_message_is_not_believed(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway), liar(server_context(tmp_path / "box")) as server:
        await gateway.apply(patient(provider, f"localhost:{server.port} tls"))
        server.says = {"DATA": b"354 Go ahead\r\n250 2.0.0 Taken\r\n", ".": b"250 2.0.0 Taken\r\n"}
        queue_id = await gateway.send(PRINTER, BOB, "Too soon")
        assert (await delayed(gateway, queue_id)).state == "queued"
        assert await gateway.lines(queue_id) == ["accepted", "delayed"]
        server.says = {}
        await goes_on(gateway, queue_id)

        server.says = {"DATA": b"354 Go ahead\r\n554 5.6.0 Not that one\r\n"}
        refused = await gateway.until_message(await gateway.send(PRINTER, BOB, "Refused at once"), "failed")
        assert "Not that one" in refused.answer
        assert server.heard[-1] != b".\r\n"


async def test_a_connection_that_hands_on_one_octet_at_a_time_is_enough(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway), crawling(provider.sandbox.ports.smtp) as port:
        await gateway.apply(patient(provider, f"localhost:{port} starttls"))
        queue_id = await gateway.send(PRINTER, BOB, "Crawling")
        await gateway.until_message(queue_id, "sent")
        assert provider.subjects(BOB) == ["Crawling"]


async def test_a_server_that_drips_is_given_up_though_every_octet_comes_in_time(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway), dripping(provider.sandbox.ports.smtp, 0.1) as port:
        await gateway.apply(patient(provider, f"localhost:{port} starttls"))
        be_quick(gateway)
        queue_id = await gateway.send(PRINTER, BOB, "Drop by drop")
        message = await delayed(gateway, queue_id)
        assert (message.state, message.attempts, message.answer) == ("queued", 0, "the server did not answer in time")
        await gateway.apply(patient(provider))
        await goes_on(gateway, queue_id)
        assert provider.subjects(BOB) == ["Drop by drop"]


BY_CHUNKS = b"250-liar.example\r\n250-AUTH XOAUTH2\r\n250-CHUNKING\r\n250 PIPELINING\r\n"
LARGE = "One of many lines.\n" * 40_000


async def test_a_server_that_only_claims_to_take_chunks_gets_the_message_by_data(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway), liar(server_context(tmp_path / "box")) as server:
        await gateway.apply(patient(provider, f"localhost:{server.port} tls"))
        server.says = {"EHLO": BY_CHUNKS, "BDAT": b"500 5.5.1 What?\r\n"}
        queue_id = await gateway.send(PRINTER, BOB, "In one go")
        assert (await gateway.until_message(queue_id, "sent")).attempts == 1
        assert await gateway.lines(queue_id) == ["accepted", "sent"]
        assert [subject_of(body.decode()) for body in server.taken] == ["In one go"]
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Another"), "sent")
        assert sum(line.startswith(b"BDAT") for line in server.heard) == 1


@pytest.mark.parametrize(
    ("answer", "state", "kind"),
    [
        (b"421 4.3.2 Closing\r\n", "queued", "delayed"),
        (b"452 4.3.1 Full\r\n", "queued", "delayed"),
        (b"552 5.3.4 Too large\r\n", "failed", "failed"),
        (b"", "queued", "outcome unknown"),
        (b"What?\r\n", "queued", "delayed, outcome unknown"),
    ],
)
async def test_whatever_is_said_to_a_chunk_nothing_is_lost(
    tmp_path: Path, answer: bytes, state: str, kind: str
) -> None:
    async with ready(tmp_path) as (provider, gateway), liar(server_context(tmp_path / "box")) as server:
        await gateway.apply(patient(provider, f"localhost:{server.port} tls"))
        server.says = {"EHLO": BY_CHUNKS, "BDAT": answer}
        queue_id = await gateway.send(PRINTER, BOB, "Large", body=LARGE)
        message = await delayed(gateway, queue_id)
        assert message.state == state
        assert (await gateway.lines(queue_id))[1] in kind
        server.says = {"EHLO": BY_CHUNKS}
        if state == "queued":
            await goes_on(gateway, queue_id)
            assert server.taken[-1].endswith(LARGE.replace("\n", "\r\n").encode())


async def test_no_password_and_no_mail_over_a_connection_without_tls(tmp_path: Path) -> None:
    """Somebody in between takes STARTTLS out of the offer."""
    async with ready(tmp_path) as (provider, gateway):
        before = provider.sandbox.post.logins["smtp"]
        async with without(provider.sandbox.ports.smtp, b"250-STARTTLS\r\n") as port:
            await gateway.apply(patient(provider, f"localhost:{port} starttls"))
            queue_id = await gateway.send(PRINTER, BOB, "In the open")
            message = await delayed(gateway, queue_id)
            assert (message.state, message.attempts) == ("queued", 0)
            assert "STARTTLS" in message.answer
        assert provider.sandbox.post.logins["smtp"] == before
        await gateway.apply(patient(provider))
        await goes_on(gateway, queue_id)
        assert provider.subjects(BOB) == ["In the open"]


async def test_a_server_that_offers_no_way_to_log_in_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    async with ready(tmp_path) as (provider, gateway), liar(server_context(tmp_path / "box")) as server:
        await gateway.apply(patient(provider, f"localhost:{server.port} tls"))
        server.says = {"EHLO": b"250-liar.example\r\n250 8BITMIME\r\n"}
        queue_id = await gateway.send(PRINTER, BOB, "No door")
        message = await delayed(gateway, queue_id)
        assert (message.state, message.attempts) == ("queued", 0)
        assert "XOAUTH2" in message.answer
        server.says = {}
        await goes_on(gateway, queue_id)


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_certificate_that_is_not_the_servers_own_gets_no_token_and_no_mail(tmp_path: Path, wrong: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost" if wrong == "authority" else "mail.elsewhere.example").configure_cert(context)
    async with ready(tmp_path) as (provider, gateway), liar(context) as server:
        trusted = "" if wrong == "authority" else str(tmp_path / "other.pem")
        await gateway.apply(patient(provider, f"localhost:{server.port} tls", trusted))
        queue_id = await gateway.send(PRINTER, BOB, "To whom")
        message = await delayed(gateway, queue_id)
        assert (message.state, message.attempts) == ("queued", 0)
        assert "certificate" in message.answer
        assert server.heard == []
        await gateway.apply(patient(provider))
        await goes_on(gateway, queue_id)
        assert provider.subjects(BOB) == ["To whom"]
