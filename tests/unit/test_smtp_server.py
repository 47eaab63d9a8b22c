"""Conversations with the server engine. `Conversation` is the driver: it answers decisions and writes all down."""

import base64
import random
import smtplib
from collections.abc import Callable, Iterable

import pytest

from posthouse.protocol import smtp_reply as replies
from posthouse.protocol import smtp_server as smtp
from posthouse.protocol.sasl import Credentials
from posthouse.protocol.smtp_reply import Reply
from posthouse.protocol.smtp_server import (
    Authenticate,
    BodyChunk,
    BodyEnd,
    DataBegun,
    Ended,
    Ending,
    Event,
    Greeted,
    MailFrom,
    RcptTo,
    Reset,
    ServerPolicy,
    SmtpServer,
    StartTls,
)
from posthouse.secret import Secret

OPEN = ServerPolicy("gw.example", auth_required=False, auth_needs_tls=False)
LOGIN = ServerPolicy("gw.example", auth_needs_tls=False)
SECURE = ServerPolicy("gw.example", starttls=True)
OAUTH = ServerPolicy("gw.example", auth_needs_tls=False, auth_mechanisms=("XOAUTH2", "OAUTHBEARER"))

ENVELOPE = b"EHLO me\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"

Decide = Callable[[Event], Reply | None]


def willing(event: Event) -> Reply | None:
    """Takes everything; the only password is "secret"."""
    match event:
        case StartTls():
            return replies.READY_FOR_TLS
        case Authenticate(credentials):
            right = credentials.secret == Secret("secret")
            return replies.AUTHENTICATED if right else replies.WRONG_PASSWORD
        case MailFrom():
            return replies.SENDER_OK
        case RcptTo():
            return replies.RECIPIENT_OK
        case DataBegun():
            return replies.GO_AHEAD
        case BodyEnd():
            return Reply(250, "2.0.0", "Queued")
    return None


class Conversation:
    def __init__(self, policy: ServerPolicy = OPEN, decide: Decide = willing) -> None:
        self.server = SmtpServer(policy)
        self.decide = decide
        self.events: list[Event] = []
        self.sent = self.server.data_to_send()

    def say(self, data: bytes) -> bytes:
        """What the server answers."""
        self.server.receive_data(data)
        while (event := self.server.next_event()) is not None:
            self._note(event)
            if reply := self.decide(event):
                self.server.reply(reply)
        answer = self.server.data_to_send()
        self.sent += answer
        return answer

    def _note(self, event: Event) -> None:
        last = self.events[-1] if self.events else None
        if isinstance(event, BodyChunk) and isinstance(last, BodyChunk):
            self.events[-1] = BodyChunk(last.data + event.data)
        else:
            self.events.append(event)

    @property
    def body(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, BodyChunk))

    @property
    def ending(self) -> Ending | None:
        last = self.events[-1] if self.events else None
        return last.reason if isinstance(last, Ended) else None


def after(*said: bytes, policy: ServerPolicy = OPEN) -> bytes:
    """The answer to the last of the things said."""
    conversation = Conversation(policy)
    return [conversation.say(words) for words in said][-1]


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


# A message


def test_a_message_goes_through_step_by_step() -> None:
    c = Conversation()
    assert c.sent == b"220 gw.example ESMTP Posthouse\r\n"
    assert c.say(b"EHLO me.example\r\n").startswith(b"250-gw.example\r\n250-PIPELINING\r\n250-SIZE 36700160\r\n")
    assert c.say(b"MAIL FROM:<a@example.com> SIZE=12 BODY=8BITMIME\r\n") == b"250 2.1.0 Sender OK\r\n"
    assert c.say(b"RCPT TO:<b@example.com>\r\n") == b"250 2.1.5 Recipient OK\r\n"
    assert c.say(b"DATA\r\n") == b"354 End with CRLF.CRLF\r\n"
    assert c.say(b"Subject: x\r\n\r\nText\r\n.\r\n") == b"250 2.0.0 Queued\r\n"
    assert c.say(b"QUIT\r\n") == b"221 2.0.0 Goodbye\r\n"
    assert c.events == [
        Greeted("me.example", True),
        MailFrom("a@example.com", 12, False, "8BITMIME", {"SIZE": "12", "BODY": "8BITMIME"}),
        RcptTo("b@example.com", {}),
        DataBegun(),
        BodyChunk(b"Subject: x\r\n\r\nText\r\n"),
        BodyEnd(20),
        Ended(Ending.QUIT),
    ]


def test_a_second_message_follows_on_the_same_connection() -> None:
    c = Conversation()
    c.say(ENVELOPE + b"one\r\n.\r\n")
    answer = c.say(b"MAIL FROM:<>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n")
    assert answer.count(b"250 ") == 2
    assert c.say(b"two\r\n.\r\n").startswith(b"250")
    assert [event for event in c.events if isinstance(event, BodyEnd)] == [BodyEnd(5), BodyEnd(5)]


def test_nothing_is_read_while_a_decision_is_pending() -> None:
    server = SmtpServer(OPEN)
    server.receive_data(b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
    assert isinstance(server.next_event(), Greeted)
    assert isinstance(server.next_event(), MailFrom)
    server.data_to_send()
    assert server.next_event() is None
    assert server.data_to_send() == b""
    server.reply(Reply(550, "5.7.1", "Not you"))
    assert server.next_event() is None
    assert server.data_to_send() == b"550 5.7.1 Not you\r\n503 5.5.1 MAIL comes first\r\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda server: server.reply(replies.OK),
        lambda server: server.tls_started(),
    ],
)
def test_a_driver_out_of_turn_is_told_so(call: Callable[[SmtpServer], None]) -> None:
    with pytest.raises(RuntimeError):
        call(SmtpServer(OPEN))


@pytest.mark.parametrize("refused", [MailFrom, RcptTo, DataBegun, BodyEnd])
def test_a_refusal_of_the_driver_holds(refused: type[Event]) -> None:
    def decide(event: Event) -> Reply | None:
        return replies.STORAGE_FULL if isinstance(event, refused) else willing(event)

    c = Conversation(decide=decide)
    assert b"452 4.3.1" in c.say(ENVELOPE + b"text\r\n.\r\n")
    assert b"250 2.0.0 Queued" not in c.sent
    assert (BodyEnd(6) in c.events) == (refused is BodyEnd)


def test_one_good_recipient_is_enough() -> None:
    def decide(event: Event) -> Reply | None:
        wrong = isinstance(event, RcptTo) and event.address.startswith("wrong")
        return Reply(550, "5.1.1", "Unknown") if wrong else willing(event)

    c = Conversation(decide=decide)
    c.say(b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<wrong@b.c>\r\nRCPT TO:<right@b.c>\r\n")
    assert c.say(b"DATA\r\n").startswith(b"354")


def test_a_421_of_the_driver_closes() -> None:
    c = Conversation(decide=lambda event: replies.SHUTTING_DOWN if isinstance(event, MailFrom) else None)
    assert c.say(b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nNOOP\r\n").endswith(replies.SHUTTING_DOWN.encode())
    assert c.ending is Ending.REFUSED


def test_a_driver_can_close_at_any_time_but_once() -> None:
    c = Conversation()
    c.server.close()
    c.server.close()
    assert c.say(b"NOOP\r\n") == replies.TIMED_OUT.encode()
    assert c.events == [Ended(Ending.REFUSED)]


def test_a_client_that_goes_away_ends_the_conversation_once() -> None:
    c = Conversation()
    c.say(ENVELOPE + b"half a mess")
    c.say(b"")
    c.say(b"")
    assert c.events[-1] == Ended(Ending.LOST)
    assert c.events.count(Ended(Ending.LOST)) == 1
    assert not any(isinstance(event, BodyEnd) for event in c.events)


# Greeting, commands, order


def test_extensions_follow_the_state() -> None:
    plain, secure = Conversation(SECURE), Conversation(ServerPolicy("gw", tls=True, starttls=True))
    before, after_tls = plain.say(b"EHLO me\r\n"), secure.say(b"EHLO me\r\n")
    assert b"STARTTLS" in before
    assert b"AUTH" not in before
    assert b"STARTTLS" not in after_tls
    assert b"250-AUTH PLAIN LOGIN\r\n" in after_tls
    for word in (b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"PIPELINING"):
        assert word in before


def test_helo_has_no_extensions() -> None:
    c = Conversation()
    assert c.say(b"helo Printer 2nd floor\r\n") == b"250 gw.example\r\n"
    assert c.events == [Greeted("Printer 2nd floor", False)]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"MAIL FROM:<a@b>\r\n", b"503 5.5.1"),
        (b"EHLO me\r\nRCPT TO:<a@b>\r\n", b"503 5.5.1"),
        (b"EHLO me\r\nDATA\r\n", b"503 5.5.1"),
        (b"EHLO me\r\nMAIL FROM:<a@b>\r\nDATA\r\n", b"554 5.5.1"),
        (b"EHLO me\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n", b"503 5.5.1"),
        (b"EHLO me\r\nMAIL FROM:<a@b>\r\nAUTH PLAIN\r\n", b"503 5.5.1"),
        (b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA now\r\n", b"501 5.5.4"),
        (b"EHLO me\r\nMAIL FROM:<a@b>\r\nRSET\r\nRCPT TO:<a@b>\r\n", b"503 5.5.1"),
        (b"EHLO me\r\nMAIL FROM:<a@b>\r\nEHLO me\r\nRCPT TO:<a@b>\r\n", b"503 5.5.1"),
        (b"NOOP of any kind\r\n", b"250 2.0.0"),
        (b"RSET\r\n", b"250 2.0.0"),
        (b"VRFY a@b\r\n", b"252 2.5.0"),
        (b"EXPN staff\r\n", b"502 5.5.1"),
        (b"HELP\r\n", b"214 2.0.0"),
        (b"BDAT 10 LAST\r\n", b"502 5.5.1"),
        (b"\r\n", b"500 5.5.1"),
        (b"XYZZY\r\n", b"500 5.5.1"),
        (b"NOOP\x00\r\n", b"500 5.5.2"),
        (b"NOOP\rQUIT\r\n", b"500 5.5.2"),
        (b"NOOP \xff\r\n", b"500 5.5.2"),
        (b"STARTTLS\r\n", b"502 5.5.1"),
    ],
)
def test_each_command_has_its_answer(said: bytes, answer: bytes) -> None:
    last_line = after(said).splitlines()[-1]
    assert last_line.startswith(answer)


@pytest.mark.parametrize(
    ("command", "address"),
    [
        (b"MAIL FROM: <a@example.com>\r\n", "a@example.com"),
        (b"mail from:a@example.com\r\n", "a@example.com"),
        (b"Mail From:<a@example.com>\n", "a@example.com"),
        (b"MAIL FROM:<>\r\n", ""),
        (b"MAIL FROM:<printer>\r\n", "printer"),
    ],
)
def test_what_printers_say_is_understood(command: bytes, address: str) -> None:
    c = Conversation()
    c.say(b"EHLO me\n")
    assert c.say(command) == b"250 2.1.0 Sender OK\r\n"
    assert c.events[-1] == MailFrom(address, 0, False, "7BIT", {})


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"MAIL <a@b>", b"501 5.1.7"),
        (b"MAIL FROM:", b"501 5.1.7"),
        (b"MAIL FROM:<a b@c>", b"501 5.1.7"),
        (b"MAIL FROM:<" + b"x" * 400 + b"@b>", b"501 5.1.7"),
        (b"MAIL FROM:<a@b> SIZE=many", b"501 5.5.4"),
        (b"MAIL FROM:<a@b> SIZE=" + b"9" * 30, b"501 5.5.4"),
        (b"MAIL FROM:<a@b> BODY=BINARYMIME", b"501 5.5.4"),
        (b"MAIL FROM:<a@b> RET=HDRS", b"555 5.5.4"),
        (b"MAIL FROM:<a@b> SIZE=36700161", b"552 5.3.4"),
        ("MAIL FROM:<jürgen@b>".encode(), b"553 5.6.7"),
    ],
)
def test_a_wrong_sender_is_refused_with_its_reason(command: bytes, answer: bytes) -> None:
    assert after(b"EHLO me\r\n", command + b"\r\n").startswith(answer)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"RCPT <a@b>", b"501 5.1.3"),
        (b"RCPT TO:<>", b"501 5.1.3"),
        (b"RCPT TO:<printer>", b"501 5.1.3"),
        (b"RCPT TO:<a@b> NOTIFY=NEVER", b"555 5.5.4"),
        ("RCPT TO:<jürgen@b>".encode(), b"553 5.6.7"),
    ],
)
def test_a_wrong_recipient_is_refused_with_its_reason(command: bytes, answer: bytes) -> None:
    assert after(b"EHLO me\r\nMAIL FROM:<a@b>\r\n", command + b"\r\n").startswith(answer)


def test_other_scripts_need_smtputf8() -> None:
    c = Conversation()
    c.say("EHLO me\r\nMAIL FROM:<δοκιμή@παράδειγμα> SMTPUTF8\r\nRCPT TO:<우편@예시>\r\n".encode())
    assert c.events[-1] == RcptTo("우편@예시", {})


@pytest.mark.parametrize("verb", [b"GET", b"POST", b"CONNECT", b"OPTIONS"])
def test_a_browser_is_cut_off_at_once(verb: bytes) -> None:
    c = Conversation()
    answer = c.say(verb + b" / HTTP/1.1\r\nHost: x\r\n\r\nEHLO me\r\nMAIL FROM:<a@b>\r\n")
    assert answer.startswith(b"421 ")
    assert c.events == [Ended(Ending.NOT_SMTP)]


@pytest.mark.parametrize("hello", [b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x01\n\x00\x01\x00"])
def test_a_tls_handshake_on_a_plain_port_is_recognised(hello: bytes) -> None:
    c = Conversation()
    assert c.say(hello) == b""
    assert c.events == [Ended(Ending.TLS_TOO_EARLY)]


# STARTTLS


def test_what_was_said_before_tls_is_dropped() -> None:
    c = Conversation(SECURE)
    c.say(b"EHLO evil\r\n")
    answer = c.say(b"STARTTLS\r\nEHLO me\r\nMAIL FROM:<evil@b>\r\n")
    assert answer == b"220 2.0.0 Ready for TLS\r\n"
    assert c.say(b"MAIL FROM:<evil@b>\r\n") == b""
    c.server.tls_started()
    assert c.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    assert c.server.tls
    assert c.server.greeted is None
    assert c.say(b"MAIL FROM:<a@b>\r\n").startswith(b"503 5.5.1 Say EHLO first")
    assert b"STARTTLS" not in c.say(b"EHLO me\r\n")
    assert c.say(b"STARTTLS\r\n").startswith(b"503")


def test_starttls_can_be_refused_and_the_conversation_goes_on() -> None:
    c = Conversation(SECURE, lambda _: replies.TLS_UNAVAILABLE)
    assert c.say(b"STARTTLS\r\nNOOP\r\n") == replies.TLS_UNAVAILABLE.encode() + b"250 2.0.0 OK\r\n"


def test_starttls_has_no_parameters() -> None:
    assert after(b"STARTTLS now\r\n", policy=SECURE).startswith(b"501 5.5.4")


def test_a_client_that_goes_away_during_the_handshake_has_gone() -> None:
    c = Conversation(SECURE)
    c.say(b"STARTTLS\r\n")
    c.say(b"")
    assert c.ending is Ending.LOST


# AUTH


def test_mail_needs_a_login() -> None:
    assert after(b"EHLO me\r\n", b"MAIL FROM:<a@b>\r\n", policy=LOGIN).startswith(b"530 5.7.0 Auth")
    assert after(b"EHLO me\r\n", b"MAIL FROM:<a@b>\r\n", policy=SECURE).startswith(b"530 5.7.0 STARTTLS")


@pytest.mark.parametrize(
    "lines",
    [
        [b"AUTH PLAIN " + b64(b"\0me\0secret")],
        [b"auth plain", b64(b"\0me\0secret")],
        [b"AUTH LOGIN", b64(b"me"), b64(b"secret")],
        [b"AUTH LOGIN " + b64(b"me"), b64(b"secret")],
    ],
)
def test_every_form_of_login_works(lines: list[bytes]) -> None:
    c = Conversation(LOGIN)
    c.say(b"EHLO me\r\n")
    answers = [c.say(line + b"\r\n") for line in lines]
    assert answers[-1] == b"235 2.7.0 Authenticated\r\n"
    assert all(answer.startswith(b"334 ") for answer in answers[:-1])
    assert c.server.authenticated == "me"
    assert c.say(b"MAIL FROM:<a@b>\r\n").startswith(b"250")


def test_a_token_longer_than_a_command_may_be_is_taken() -> None:
    token = b"t" * 8000
    c = Conversation(OAUTH, lambda event: replies.AUTHENTICATED if isinstance(event, Authenticate) else None)
    c.say(b"EHLO me\r\n")
    answer = c.say(b"AUTH XOAUTH2 " + b64(b"user=u\1auth=Bearer " + token + b"\1\1") + b"\r\n")
    assert answer.startswith(b"235")
    assert c.events[-1] == Authenticate(Credentials("XOAUTH2", "u", Secret(token.decode())))


def test_a_refused_token_can_be_explained_before_the_refusal() -> None:
    server = SmtpServer(OAUTH)
    server.receive_data(b"EHLO me\r\nAUTH XOAUTH2 " + b64(b"user=u\1auth=Bearer t\1\1") + b"\r\n")
    server.next_event()
    server.next_event()
    server.data_to_send()
    server.reply(replies.WRONG_PASSWORD, '{"status":"401"}')
    assert server.data_to_send() == b"334 " + b64(b'{"status":"401"}') + b"\r\n"
    server.receive_data(b"\r\nNOOP\r\n")
    assert server.next_event() is None
    assert server.data_to_send() == replies.WRONG_PASSWORD.encode() + b"250 2.0.0 OK\r\n"
    assert server.authenticated is None


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"AUTH PLAIN " + b64(b"\0me\0wrong"), b"535 5.7.8"),
        (b"AUTH PLAIN " + b64(b"me"), b"501 5.5.2"),
        (b"AUTH PLAIN !!", b"501 5.5.2"),
        (b"AUTH PLAIN\r\n*", b"501 5.7.0"),
        (b"AUTH CRAM-MD5", b"504 5.5.4"),
        (b"AUTH", b"504 5.5.4"),
        (b"AUTH PLAIN\r\n" + b"x" * 13000, b"500 5.5.6"),
        (b"AUTH PLAIN " + b"x" * 13000, b"500 5.5.2"),
    ],
)
def test_a_failed_login_says_why_and_leaves_the_client_a_stranger(said: bytes, answer: bytes) -> None:
    c = Conversation(LOGIN)
    c.say(b"EHLO me\r\n")
    assert c.say(said + b"\r\n").splitlines()[-1].startswith(answer)
    assert c.server.authenticated is None
    assert c.say(b"AUTH PLAIN " + b64(b"\0me\0secret") + b"\r\n").startswith(b"235")


@pytest.mark.parametrize(
    ("policy", "said", "answer"),
    [
        (SECURE, b"EHLO me\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\n", b"538 5.7.11"),
        (LOGIN, b"AUTH PLAIN AG1lAHNlY3JldA==\r\n", b"503 5.5.1"),
        (LOGIN, b"EHLO me\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\n", b"503 5.5.1"),
        (ServerPolicy("gw", auth_mechanisms=()), b"EHLO me\r\nAUTH PLAIN\r\n", b"502 5.5.1"),
    ],
)
def test_auth_out_of_place_is_refused(policy: ServerPolicy, said: bytes, answer: bytes) -> None:
    assert after(said, policy=policy).splitlines()[-1].startswith(answer)


def test_no_secret_is_shown() -> None:
    c = Conversation(LOGIN)
    c.say(b"EHLO me\r\nAUTH PLAIN " + b64(b"\0me\0canary") + b"\r\n")
    assert isinstance(c.events[-1], Authenticate)
    assert "canary" not in repr(c.events)
    assert "canary" not in repr(BodyChunk(b"canary"))


# DATA


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (b".\r\n", b""),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
        (b"x" * 70_000 + b"\r\n.\r\n", b"x" * 70_000 + b"\r\n"),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 100_000])
def test_dots_are_taken_off(sent: bytes, body: bytes, step: int) -> None:
    if step == 1 and len(sent) > 10_000:
        step = 1000
    c = Conversation()
    c.say(ENVELOPE)
    answers = [c.say(sent[at : at + step]) for at in range(0, len(sent), step)]
    assert answers[-1] == b"250 2.0.0 Queued\r\n"
    assert c.body == body
    assert c.events[-1] == BodyEnd(len(body))


FALSE_ENDS = {
    "LF.LF": b"\n.\n",
    "CR.CR": b"\r.\r",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CRLF.CR": b"\r\n.\r",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.NUL.CRLF": b"\r\n.\0\r\n",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CR LF apart": b"\r.\n",
    "LF": b"\n",
    "CR": b"\r",
    "NUL": b"\0",
}


@pytest.mark.parametrize("false_end", FALSE_ENDS.values(), ids=FALSE_ENDS.keys())
@pytest.mark.parametrize("step", [1, 2, 100_000])
def test_nothing_can_be_smuggled_through_a_false_end(false_end: bytes, step: int) -> None:
    c = Conversation()
    c.say(ENVELOPE)
    text = b"one" + false_end + b"MAIL FROM:<evil@b>\r\nRCPT TO:<c@d>\r\nDATA\r\ntwo"
    for at in range(0, len(text), step):
        assert c.say(text[at : at + step]) == b""
    assert c.say(b"\r\n.\r\n") == b"550 5.6.0 The message has line ends other than CRLF, or a NUL\r\n"
    assert c.events[-1] == Reset(smtp.BARE_LINE_END)
    assert not any(isinstance(event, BodyEnd) for event in c.events)
    assert sum(isinstance(event, MailFrom) for event in c.events) == 1
    assert c.say(b"MAIL FROM:<a@b>\r\n").startswith(b"250")


def test_a_message_that_is_too_large_is_swallowed_and_refused_at_its_end() -> None:
    c = Conversation(ServerPolicy("gw", auth_required=False, size_limit=1000))
    c.say(ENVELOPE)
    for _ in range(100):
        assert c.say(b"x" * 98 + b"\r\n") == b""
        assert len(c.server._buffer) < 200
    assert len(c.body) <= 1000
    assert c.say(b".\r\n") == replies.TOO_LARGE.encode()
    assert c.events[-1] == Reset(replies.TOO_LARGE)


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    c = Conversation(ServerPolicy("gw", auth_required=False, size_limit=100))
    c.say(ENVELOPE)
    assert c.say(b"x" * 98 + b"\r\n.\r\n").startswith(b"250")


def test_a_message_without_end_is_cut_off() -> None:
    c = Conversation(ServerPolicy("gw", auth_required=False, size_limit=1000))
    c.say(ENVELOPE)
    for _ in range(20):
        c.say(b"x" * 65536)
        assert len(c.server._buffer) <= smtp.PARTIAL_LINE
    assert c.ending is Ending.TOO_MUCH


# Limits


def test_a_long_command_is_refused_and_the_next_one_heard() -> None:
    c = Conversation()
    assert c.say(b"NOOP " + b"x" * 2100 + b"\r\nNOOP\r\n") == b"500 5.5.2 The line is too long\r\n250 2.0.0 OK\r\n"
    assert c.say(b"NOOP " + b"x" * 20_000) == b""
    assert len(c.server._buffer) == 0
    assert c.say(b"\r\nNOOP\r\n") == b"500 5.5.2 The line is too long\r\n250 2.0.0 OK\r\n"


def test_a_line_without_end_is_cut_off() -> None:
    c = Conversation()
    for _ in range(20):
        c.say(b"x" * 65536)
        assert len(c.server._buffer) <= 12288
    assert c.ending is Ending.TOO_MUCH


def test_too_many_errors_end_the_conversation() -> None:
    c = Conversation()
    answer = c.say(b"WRONG\r\n" * 50)
    assert answer.count(b"500 ") == 10
    assert answer.endswith(b"421 4.7.0 Too many errors\r\n")
    assert c.ending is Ending.TOO_MANY_ERRORS


def test_guessing_passwords_ends_the_conversation() -> None:
    c = Conversation(LOGIN)
    c.say(b"EHLO me\r\n")
    answer = c.say((b"AUTH PLAIN " + b64(b"\0me\0guess") + b"\r\n") * 50)
    assert answer.count(b"535 ") == 10
    assert c.ending is Ending.TOO_MANY_ERRORS


def test_commands_without_a_message_have_a_limit_and_a_message_starts_anew() -> None:
    c = Conversation()
    for _ in range(3):
        c.say(b"NOOP\r\n" * 190 + ENVELOPE + b".\r\n")
    assert c.ending is None
    assert c.say(b"NOOP\r\n" * 201).endswith(b"421 4.7.0 Too many commands without a message\r\n")
    assert c.ending is Ending.TOO_MANY_COMMANDS


def test_recipients_past_the_limit_are_refused_and_the_others_served() -> None:
    c = Conversation(ServerPolicy("gw", auth_required=False, max_recipients=3))
    c.say(b"EHLO me\r\nMAIL FROM:<a@b>\r\n")
    answer = c.say(b"RCPT TO:<c@d>\r\n" * 20)
    assert answer.count(b"250 ") == 3
    assert answer.count(b"452 4.5.3") == 17
    assert c.say(b"DATA\r\n").startswith(b"354")


def test_recipients_without_end_end_the_conversation() -> None:
    c = Conversation(ServerPolicy("gw", auth_required=False, max_recipients=3))
    c.say(b"EHLO me\r\nMAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 60)
    assert c.ending is Ending.TOO_MANY_ERRORS


# A client that was written elsewhere


class Wire:
    """What smtplib takes for a connection, with our engine at the other end."""

    def __init__(self, policy: ServerPolicy) -> None:
        self.conversation = Conversation(policy)
        self._unread = self.conversation.sent

    def sendall(self, data: bytes) -> None:
        self._unread += self.conversation.say(data)

    def makefile(self, mode: str) -> "Wire":
        return self

    def readline(self, limit: int) -> bytes:
        line, end, self._unread = self._unread.partition(b"\n")
        return line + end

    def close(self) -> None:
        self._unread = b""


def smtplib_on(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> smtplib.SMTP:
    monkeypatch.setattr(smtplib.SMTP, "_get_socket", lambda *_: wire)
    return smtplib.SMTP("gw.example", local_hostname="me.example")


@pytest.mark.parametrize("form", ["auth_plain", "auth_login"])
@pytest.mark.parametrize("at_once", [True, False])
def test_smtplib_logs_in_and_sends(form: str, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(LOGIN)
    client = smtplib_on(wire, monkeypatch)
    client.ehlo()
    client.user, client.password = "me", "secret"
    client.auth(form.removeprefix("auth_").upper(), getattr(client, form), initial_response_ok=at_once)
    refused = client.sendmail("a@example.com", ["b@example.com"], "Subject: x\n\n.dots\n", ["BODY=8BITMIME"])
    assert refused == {}
    assert wire.conversation.body == b"Subject: x\r\n\r\n.dots\r\n"
    assert client.quit()[0] == 221


def test_smtplib_understands_our_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    client = smtplib_on(Wire(LOGIN), monkeypatch)
    with pytest.raises(smtplib.SMTPAuthenticationError, match="User name or password is wrong"):
        client.login("me", "wrong")
    with pytest.raises(smtplib.SMTPSenderRefused, match="Authentication comes first"):
        client.sendmail("a@example.com", ["b@example.com"], "x")


# The three tests of every engine

WHOLE = (
    b"EHLO me\r\nAUTH LOGIN\r\nbWU=\r\nc2VjcmV0\r\nMAIL FROM: <a@b.c> SIZE=9\r\nRCPT TO:<d@e.f>\r\nDATA\r\n"
    b"a\r\n..b\r\n\r\n.\r\nNONSENSE\r\nNOOP " + b"x" * 13000 + b"\r\nMAIL FROM:<>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n"
    b"smug\n.\r\ngle\r\n.\r\nRSET\r\nHELO me\r\nQUIT\r\nNOOP\r\n"
)


def test_octet_by_octet_is_the_same_as_at_once() -> None:
    whole, bit_by_bit = Conversation(LOGIN), Conversation(LOGIN)
    whole.say(WHOLE)
    for at in range(len(WHOLE)):
        bit_by_bit.say(WHOLE[at : at + 1])
    assert whole.sent == bit_by_bit.sent
    assert whole.events == bit_by_bit.events
    assert whole.ending is Ending.QUIT


WORDS = (
    b"EHLO me", b"HELO", b"STARTTLS", b"AUTH PLAIN", b"AUTH LOGIN", b"AUTH PLAIN AG1lAHNlY3JldA==", b"bWU=", b"*",
    b"MAIL FROM:<a@b>", b"MAIL FROM:<> SIZE=5", b"RCPT TO:<c@d>", b"DATA", b".", b"..", b"RSET", b"NOOP", b"QUIT",
    b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\0", b"\xff", b"\x16", b" ", b"x" * 3000, b"x" * 13000,
)  # fmt: skip


def random_words(dice: random.Random) -> Iterable[bytes]:
    for _ in range(dice.randint(1, 25)):
        yield dice.choice(WORDS)
        if dice.random() < 0.7:
            yield b"\r\n"


def random_decision(dice: random.Random) -> Decide:
    def decide(event: Event) -> Reply | None:
        reply = willing(event)
        return dice.choice((reply, reply, reply, replies.LOCAL_ERROR, Reply(550, "5.7.1", "No"))) if reply else None

    return decide


def test_random_conversations_never_raise_and_nothing_piles_up() -> None:
    for seed in range(3000):
        dice = random.Random(seed)
        policy = dice.choice((OPEN, LOGIN, SECURE))
        c = Conversation(policy, random_decision(dice))
        for word in random_words(dice):
            c.say(word)
            assert len(c.server._buffer) <= 12288 + len(word)
            if not c.server.tls and c.sent.endswith(b"Ready for TLS\r\n"):
                c.server.tls_started()
        c.say(b"")
        assert sum(isinstance(event, Ended) for event in c.events) == 1
        assert all(line[:3].isdigit() for line in c.sent.splitlines())


# Chunks (RFC 3030)

CHUNKS = ServerPolicy("gw", auth_required=False, chunking=True, size_limit=100)
MAIL = b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\n"


def test_chunks_make_a_message_wherever_they_are_cut() -> None:
    c = Conversation(CHUNKS)
    assert b"250-CHUNKING" in c.say(MAIL)
    assert c.say(b"BDAT 5\r\n.\r\n.\r").startswith(b"250 ")
    assert c.say(b"BDAT 4 LAST\r\n\n.\r\n").startswith(b"250 ")
    assert c.body == b".\r\n.\r\n.\r\n"


@pytest.mark.parametrize("false_end", FALSE_ENDS.values(), ids=FALSE_ENDS.keys())
@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("step", [1, 2, 100_000])
def test_chunks_smuggle_nothing_either(false_end: bytes, size: int, step: int) -> None:
    """Octets other than text would need BINARYMIME (RFC 3030 section 3), which is not offered."""
    c = Conversation(CHUNKS)
    c.say(MAIL)
    text = b"one" + false_end + b"two"
    cuts = [text[at : at + size] for at in range(0, len(text), size)]
    said = b"".join(b"BDAT %d\r\n%s" % (len(cut), cut) for cut in cuts) + b"BDAT 0 LAST\r\n"
    answers = b"".join(c.say(said[at : at + step]) for at in range(0, len(said), step))
    assert smtp.BARE_LINE_END.encode() in answers
    assert not any(isinstance(event, BodyEnd) for event in c.events)
    assert c.say(MAIL + b"BDAT 3 LAST\r\na\r\n").endswith(b"250 2.0.0 Queued\r\n")


def test_a_message_by_chunks_may_not_end_in_half_a_line_end() -> None:
    c = Conversation(CHUNKS)
    c.say(MAIL)
    assert c.say(b"BDAT 2\r\na\rBDAT 0 LAST\r\n").endswith(smtp.BARE_LINE_END.encode())


def test_an_empty_last_chunk_ends_a_message() -> None:
    c = Conversation(CHUNKS)
    c.say(MAIL)
    assert c.say(b"BDAT 2\r\nab").startswith(b"250 ")
    assert c.say(b"BDAT 0 LAST\r\n").startswith(b"250 ")
    assert c.body == b"ab"


@pytest.mark.parametrize("said", [b"EHLO me\r\n", b"EHLO me\r\nMAIL FROM:<a@b.c>\r\n"])
def test_a_chunk_out_of_turn_is_swallowed_and_refused(said: bytes) -> None:
    c = Conversation(CHUNKS)
    c.say(said)
    assert c.say(b"BDAT 6 LAST\r\nQUIT\r\n").startswith((b"503 ", b"554 "))
    assert c.say(MAIL + b"BDAT 2 LAST\r\nab").endswith(b"250 2.0.0 Queued\r\n")


def test_a_message_that_comes_in_chunks_is_neither_for_others_nor_by_data_as_well() -> None:
    """RFC 3030 section 2."""
    c = Conversation(CHUNKS)
    c.say(MAIL + b"BDAT 3\r\na\r\n")
    assert c.say(b"RCPT TO:<x@y.z>\r\n").startswith(b"503 ")
    assert c.say(b"DATA\r\n").startswith(b"503 ")
    assert c.say(b"BDAT 3 LAST\r\nb\r\n").startswith(b"250 ")
    assert c.body == b"a\r\nb\r\n"


def test_chunks_that_are_too_large_together_are_refused() -> None:
    c = Conversation(CHUNKS)
    c.say(MAIL)
    assert c.say(b"BDAT 60\r\n" + b"x" * 60).startswith(b"250 ")
    assert c.say(b"BDAT 60 LAST\r\n" + b"x" * 60).startswith(b"552 ")
    assert c.body != b"x" * 120


def test_where_chunks_are_not_offered_nothing_in_them_is_obeyed() -> None:
    c = Conversation()
    answer = c.say(MAIL)
    assert b"CHUNKING" not in answer
    smuggled = b"RSET\r\n" + MAIL + b"DATA\r\nevil\r\n.\r\n"
    assert c.say(b"BDAT %d LAST\r\n" % len(smuggled) + smuggled).startswith(b"502 ")
    assert not any(isinstance(event, BodyEnd) for event in c.events)
    assert c.ending is Ending.REFUSED
