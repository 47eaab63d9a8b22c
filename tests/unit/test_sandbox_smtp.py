"""The sandbox's submission doors, spoken to by the standard library's client."""

import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from posthouse.sandbox import Fault, Sandbox, SandboxSettings
from posthouse.sandbox.smtp import senders_in

ALICE, BOB, SUPPORT = "alice@sandbox.example", "bob@sandbox.example", "support@sandbox.example"
T = TypeVar("T")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("box")


@pytest.fixture
async def box(directory: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(directory, message_size=100_000)) as box:
        yield box


class Sender:
    """A conversation of smtplib over STARTTLS. Each method raises as smtplib does."""

    def __init__(self, box: Sandbox, *, implicit: bool = False) -> None:
        context = ssl.create_default_context(cafile=str(box.ca_file))
        if implicit:
            self.smtp: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", box.ports.smtps, timeout=10, context=context)
        else:
            self.smtp = smtplib.SMTP("127.0.0.1", box.ports.smtp, timeout=10)
            self._start_tls(context)
        self.smtp.ehlo()

    def _start_tls(self, context: ssl.SSLContext) -> None:
        try:
            self.smtp.starttls(context=context)
        except (smtplib.SMTPException, OSError):
            self.smtp.close()
            raise

    def login(self, user: str, token: str, mechanism: str = "XOAUTH2") -> None:
        said = f"user={user}\1auth=Bearer {token}\1\1"
        if mechanism == "OAUTHBEARER":
            said = f"n,a={user},\1auth=Bearer {token}\1\1"
        answers = iter([said])
        self.smtp.auth(mechanism, lambda challenge=None: next(answers, "\1"))

    def send(self, to: str = BOB, sender: str = ALICE, message: str = "") -> None:
        self.smtp.sendmail(sender, [to], message or f"From: {sender}\r\nSubject: hello\r\n\r\nhello\r\n")


async def talk(box: Sandbox, say: Callable[[Sender], T], *, implicit: bool = False) -> T:
    """Run `say` in a thread with a fresh conversation, which is closed in any case."""

    def hold() -> T:
        sender = Sender(box, implicit=implicit)
        try:
            return say(sender)
        finally:
            sender.smtp.close()

    return await asyncio.to_thread(hold)


def token(box: Sandbox, person: str = ALICE) -> str:
    return box.signin.grant(person, "posthouse").access_token.reveal()


async def send(box: Sandbox, to: str = BOB, sender: str = ALICE, message: str = "") -> None:
    """One message of Alice's from connecting to QUIT."""
    access = token(box)

    def say(it: Sender) -> None:
        it.login(ALICE, access)
        it.send(to, sender, message)

    await talk(box, say)


async def refusal(box: Sandbox, say: Callable[[Sender], object]) -> str:
    """The words of the answer that ended `say`."""
    with pytest.raises((smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)) as caught:
        await talk(box, say)
    error = caught.value
    if isinstance(error, smtplib.SMTPResponseException):
        code, words = error.smtp_code, error.smtp_error
    elif isinstance(error, smtplib.SMTPRecipientsRefused):
        code, words = next(iter(error.recipients.values()))
    return f"{code} {words.decode() if isinstance(words, bytes) else words}"


def texts(box: Sandbox, address: str) -> list[str]:
    return [message["text"] for message in box.post.list_messages(address)]


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
async def test_a_message_arrives_by_each_port_and_mechanism(box: Sandbox, implicit: bool, mechanism: str) -> None:
    access = token(box)

    def say(it: Sender) -> None:
        it.login(ALICE, access, mechanism)
        it.send(message="From: Alice <alice@sandbox.example>\r\n\r\n.dots\r\n..stay\r\n")

    await talk(box, say, implicit=implicit)
    expected = f"Return-Path: <{ALICE}>\r\nFrom: Alice <{ALICE}>\r\n\r\n.dots\r\n..stay\r\n"
    assert texts(box, BOB) == [expected]
    assert (box.post.sent[ALICE], box.post.received[BOB]) == (1, 1)


async def test_mail_to_other_domains_stays_on_the_machine(box: Sandbox) -> None:
    await send(box, to="Somebody@elsewhere.example")
    assert len(texts(box, "somebody@elsewhere.example")) == 1


async def test_an_unknown_local_recipient_is_refused(box: Sandbox) -> None:
    access = token(box)

    def say(it: Sender) -> None:
        it.login(ALICE, access)
        it.send(to="nobody@sandbox.example")

    assert (await refusal(box, say)).startswith("550 5.1.1 ")


@pytest.mark.parametrize("user", [BOB, "nobody@sandbox.example", SUPPORT])
async def test_a_token_opens_only_the_submission_of_its_person(box: Sandbox, user: str) -> None:
    access = token(box)
    words = await refusal(box, lambda it: it.login(user, access))
    assert words == "535 5.7.3 Authentication unsuccessful"


async def test_expired_and_revoked_tokens_are_refused(box: Sandbox) -> None:
    expired, revoked = token(box), token(box, BOB)
    await talk(box, lambda it: it.login(ALICE, expired))
    box.ledger.expire_access(ALICE)
    assert box.ledger.revoke_person(BOB) == 1
    for user, access in ((ALICE, expired), (BOB, revoked)):
        assert (await refusal(box, lambda it, u=user, a=access: it.login(u, a))).startswith("535 5.7.3 ")  # type: ignore[misc]


async def test_the_json_challenge_comes_first_where_it_is_on(box: Sandbox) -> None:
    def first_answer(it: Sender) -> int:
        return it.smtp.docmd("AUTH", "XOAUTH2 " + "dXNlcj1hAWF1dGg9QmVhcmVyIHgBAQ==")[0]

    assert await talk(box, first_answer) == 334
    box.post.limits = replace(box.post.limits, challenge=False)
    assert await talk(box, first_answer) == 535


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_passwords_are_retired(box: Sandbox, mechanism: str) -> None:
    def say(it: Sender) -> None:
        it.smtp.user, it.smtp.password = ALICE, "secret"
        it.smtp.auth(mechanism, getattr(it.smtp, f"auth_{mechanism.lower()}"))

    words = await refusal(box, say)
    assert words == "535 5.7.139 Authentication unsuccessful, basic authentication is disabled."


async def test_nothing_goes_without_tls_and_login(box: Sandbox) -> None:
    def plain() -> tuple[int, bytes]:
        with smtplib.SMTP("127.0.0.1", box.ports.smtp, timeout=10) as smtp:
            smtp.ehlo()
            assert not smtp.has_extn("auth")
            return smtp.mail(ALICE)

    assert await asyncio.to_thread(plain) == (451, b"5.7.3 STARTTLS is required to send mail")
    words = await refusal(box, lambda it: it.send())
    assert words == "530 5.7.57 Client not authenticated to send mail."


async def test_the_sender_is_the_person_or_an_address_they_may_use(box: Sandbox) -> None:
    await send(box, sender=SUPPORT)
    assert len(texts(box, BOB)) == 1
    access = token(box)

    def envelope(it: Sender) -> None:
        it.login(ALICE, access)
        it.send(sender=BOB)

    def header(it: Sender) -> None:
        it.login(ALICE, access)
        it.send(message=f"To: {BOB}\r\nFrom: Bob\r\n <{BOB}>\r\n\r\nforged\r\n")

    denied = "550 5.7.60 SMTP; Client does not have permissions to send as this sender"
    assert await refusal(box, envelope) == denied
    words = await refusal(box, header)
    assert words.startswith(f"554 5.2.252 SendAsDenied; {ALICE} not allowed to send as {BOB};")
    assert len(texts(box, BOB)) == 1


async def test_a_message_too_large_is_refused_by_size_and_by_count(box: Sandbox) -> None:
    access = token(box)
    large = f"From: {ALICE}\r\n\r\n" + "x" * 70 + ("\r\n" + "y" * 70) * 1500

    def announced(it: Sender) -> None:
        it.login(ALICE, access)
        it.send(message=large)

    def silent(it: Sender) -> None:
        it.login(ALICE, access)
        it.smtp.esmtp_features.pop("size")
        it.send(message=large)

    assert (await refusal(box, announced)).startswith("552 5.3.4 ")
    assert (await refusal(box, silent)).startswith("552 5.3.4 ")
    assert texts(box, BOB) == []


@pytest.mark.parametrize(("person", "which"), [("", "Tenant"), (ALICE, "Mailbox")])
async def test_smtp_switched_off_refuses_tokens_too(box: Sandbox, person: str, which: str) -> None:
    access, bobs = token(box), token(box, BOB)
    box.post.switch("smtp", person, on=False)
    words = await refusal(box, lambda it: it.login(ALICE, access))
    expected = f"Authentication unsuccessful, SmtpClientAuthentication is disabled for the {which}."
    assert words.startswith(f"535 5.7.139 {expected}")
    if person:
        await talk(box, lambda it: it.login(BOB, bobs))
    box.post.switch("smtp", person, on=True)
    await talk(box, lambda it: it.login(ALICE, access))


async def test_more_connections_than_allowed_are_told_so(box: Sandbox) -> None:
    box.post.limits = replace(box.post.limits, connections=1)
    access = token(box)

    def second(first: Sender) -> str:
        first.login(ALICE, access)
        other = Sender(box)
        try:
            other.login(ALICE, access)
            other.send()
        except smtplib.SMTPSenderRefused as error:
            return f"{error.smtp_code} {error.smtp_error!r}"
        finally:
            other.smtp.close()
        return ""

    assert "432 b'4.3.2 Concurrent connections limit exceeded." in await talk(box, second)
    await send(box)


async def test_more_messages_a_minute_than_allowed_are_throttled(directory: Path) -> None:
    now = [1_800_000_000.0]
    settings = SandboxSettings(directory, messages_per_minute=2)
    async with Sandbox(settings, lambda: now[0]) as box:
        access = token(box)

        def say(it: Sender) -> None:
            it.login(ALICE, access)
            for _ in range(3):
                it.send()

        assert (await refusal(box, say)).startswith("421 4.4.2 ")
        assert box.post.received[BOB] == 2
        now[0] += 60
        await send(box)
        assert box.post.received[BOB] == 3


# Faults


async def lost(box: Sandbox) -> None:
    """Sending ends in a lost connection."""
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        await send(box)


@pytest.mark.parametrize("stage", ["connect", "hello", "starttls", "auth", "mail", "rcpt", "data", "body", "end"])
async def test_a_cut_at_each_stage_delivers_nothing_and_then_is_over(box: Sandbox, stage: str) -> None:
    box.faults.add(Fault(f"smtp.{stage}", "cut", times=1))
    await lost(box)
    assert texts(box, BOB) == []
    await send(box)
    assert len(texts(box, BOB)) == 1


async def test_a_lost_answer_after_the_end_of_data_has_delivered(box: Sandbox) -> None:
    box.faults.add(Fault("smtp.end", "lose", times=1))
    await lost(box)
    assert len(texts(box, BOB)) == 1


@pytest.mark.parametrize("stage", ["connect", "starttls", "auth", "mail", "rcpt", "data", "body", "end"])
async def test_an_answer_of_choice_at_each_stage(box: Sandbox, stage: str) -> None:
    box.faults.add(Fault(f"smtp.{stage}", "answer", reply="454 4.7.0 Not now"))
    access = token(box)

    def say(it: Sender) -> None:
        it.login(ALICE, access)
        it.send()

    assert await refusal(box, say) == "454 4.7.0 Not now"
    assert texts(box, BOB) == []


async def test_421_in_the_middle_of_a_message_is_the_last_word(box: Sandbox) -> None:
    box.faults.add(Fault("smtp.body", "answer", reply="421 4.3.2 Closing"))

    def say(it: Sender) -> bytes:
        it.login(ALICE, token(box))
        it.smtp.mail(ALICE)
        it.smtp.rcpt(BOB)
        it.smtp.docmd("DATA")
        it.smtp.send(b"Subject: x\r\n\r\nhalf of a text")
        assert it.smtp.file is not None
        return bytes(it.smtp.file.read())

    assert await talk(box, say) == b"421 4.3.2 Closing\r\n"
    assert texts(box, BOB) == []


async def test_a_fault_is_for_its_person_and_lets_the_first_pass(box: Sandbox) -> None:
    box.faults.add(Fault("smtp.end", "answer", person="Alice@Sandbox.example", skip=1, reply="smtp-quota"))
    await send(box)
    bobs = token(box, BOB)

    def bob(it: Sender) -> None:
        it.login(BOB, bobs)
        it.send(sender=BOB)

    with pytest.raises(smtplib.SMTPDataError, match="SubmissionQuotaExceededException"):
        await send(box)
    await talk(box, bob)
    assert box.post.received[BOB] == 2


async def test_a_slow_server_answers_in_the_end(box: Sandbox) -> None:
    box.faults.add(Fault("smtp.mail", "pass", delay=0.05))
    await send(box)
    assert len(texts(box, BOB)) == 1


@pytest.mark.parametrize(
    ("message", "senders"),
    [
        (b"FROM : a@b\r\n\r\nFrom: c@d\r\n", ("a@b",)),
        (b"Subject: x\r\nFrom: A <a@b>,\r\n\tc@d\r\n\r\n", ("a@b", "c@d")),
        (b"X-From: a@b\r\n\r\n", ()),
        (b"", ()),
        (b"\r\nFrom: a@b\r\n\r\n", ()),
    ],
)
def test_senders_are_read_from_the_header_only(message: bytes, senders: tuple[str, ...]) -> None:
    assert senders_in(message) == senders
