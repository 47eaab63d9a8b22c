"""Conversations with the client engine, with a server written out by hand and with our own server engine."""

import base64
import random
from collections.abc import Callable

import pytest

from posthouse.protocol import smtp_reply as replies
from posthouse.protocol import smtp_server
from posthouse.protocol.smtp_client import (
    Answered,
    Authenticated,
    AuthRefused,
    Disconnected,
    EnvelopeAnswered,
    Event,
    MessageAnswered,
    ProtocolError,
    Ready,
    Refused,
    ServerClosing,
    SmtpClient,
    Stage,
    StartTls,
)
from posthouse.protocol.smtp_reply import Reply
from posthouse.protocol.smtp_server import ServerPolicy, SmtpServer
from posthouse.secret import Secret

OK, NO = Reply(250, "2.1.0", "OK"), Reply(550, "5.1.1", "No")
PIPELINING = b"250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 1000\r\n"
LOCK_STEP = b"250-mx\r\n250 8BITMIME\r\n"


def hear(client: SmtpClient, data: bytes) -> list[Event]:
    client.receive_data(data)
    events: list[Event] = []
    while (event := client.next_event()) is not None:
        events.append(event)
    return events


def ready(offer: bytes = PIPELINING) -> SmtpClient:
    """A client that has been greeted and may send."""
    client = SmtpClient("me.example", tls=True, server="mx.example", port=587)
    assert hear(client, b"220 mx\r\n" + offer) == [Ready()]
    client.data_to_send()
    return client


def in_body(offer: bytes = PIPELINING) -> SmtpClient:
    client = ready(offer)
    client.send_envelope("a@b.c", ["d@e.f"])
    [event] = hear(client, b"250 OK\r\n250 OK\r\n354 Go\r\n")
    assert isinstance(event, EnvelopeAnswered)
    client.data_to_send()
    return client


def enveloped(client: SmtpClient, answers: bytes, recipients: list[str]) -> EnvelopeAnswered:
    client.send_envelope("a@b.c", recipients)
    [event] = hear(client, answers)
    assert isinstance(event, EnvelopeAnswered)
    return event


# Greeting


def test_the_greeting_is_answered_by_ehlo_and_the_offer_is_read() -> None:
    client = SmtpClient("me.example", tls=True)
    assert hear(client, b"220-mx\r\n220 hello\r\n") == []
    assert client.data_to_send() == b"EHLO me.example\r\n"
    offer = b"250-mx\r\n250-size 1000\r\n250-AUTH LOGIN xoauth2\r\n250-AUTH=PLAIN\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n"
    assert hear(client, offer) == [Ready()]
    assert (client.size_limit, client.auth_mechanisms) == (1000, ("LOGIN", "XOAUTH2", "PLAIN"))
    assert (client.chunking, client.smtputf8, client.eight_bit, client.pipelining) == (True, True, False, False)


@pytest.mark.parametrize("said", [b"SIZE", b"SIZE 0", b"SIZE lots", b"SIZE " + b"9" * 50, b"NOTHING"])
def test_a_size_that_is_not_told_is_no_limit(said: bytes) -> None:
    assert ready(b"250-mx\r\n250 " + said + b"\r\n").size_limit == 0


def test_a_server_without_ehlo_is_greeted_by_helo() -> None:
    client = SmtpClient("me", tls=True)
    hear(client, b"220 mx\r\n500 What?\r\n")
    assert client.data_to_send() == b"EHLO me\r\nHELO me\r\n"
    assert hear(client, b"250 mx\r\n") == [Ready()]


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"554 5.7.1 No mail from you\r\n", Reply(554, "5.7.1", "No mail from you")),
        (b"220 mx\r\n450 4.3.2 Later\r\n", Reply(450, "4.3.2", "Later")),
        (b"220 mx\r\n500 no\r\n500 no\r\n", Reply(500, "", "no")),
    ],
)
def test_a_server_that_refuses_us_is_understood(said: bytes, reply: Reply) -> None:
    client = SmtpClient("me", tls=True)
    [event] = hear(client, said)
    assert isinstance(event, Refused)
    assert event.reply == reply
    assert client.closed


# STARTTLS


def test_tls_comes_before_anything_else() -> None:
    client = SmtpClient("me", want_starttls=True)
    assert hear(client, b"220 mx\r\n250-mx\r\n250-AUTH LOGIN\r\n250 STARTTLS\r\n") == []
    assert client.data_to_send() == b"EHLO me\r\nSTARTTLS\r\n"
    assert hear(client, b"220 go\r\n") == [StartTls()]
    client.tls_started()
    assert client.tls
    assert not client.extensions
    assert client.data_to_send() == b"EHLO me\r\n"
    assert hear(client, b"250-mx\r\n250 AUTH XOAUTH2\r\n") == [Ready()]
    assert client.auth_mechanisms == ("XOAUTH2",)


def test_without_the_offer_nothing_is_sent_in_the_clear() -> None:
    client = SmtpClient("me", want_starttls=True)
    assert hear(client, b"220 mx\r\n250 mx\r\n") == [Refused("STARTTLS not offered")]
    assert client.data_to_send() == b"EHLO me\r\n"
    with pytest.raises(RuntimeError):
        client.authenticate("PLAIN", "me", Secret("x"))


def test_a_refused_starttls_ends_it() -> None:
    client = SmtpClient("me", want_starttls=True)
    [event] = hear(client, b"220 mx\r\n250-mx\r\n250 STARTTLS\r\n454 4.7.0 Not now\r\n")
    assert event == Refused("The server refuses STARTTLS", Reply(454, "4.7.0", "Not now"))


def test_octets_slipped_in_before_the_handshake_are_not_believed() -> None:
    client = SmtpClient("me", want_starttls=True)
    [event] = hear(client, b"220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n250 AUTH PLAIN\r\n")
    assert isinstance(event, ProtocolError)


# AUTH


def responses_of(client: SmtpClient) -> bytes:
    word = client.data_to_send().removesuffix(b"\r\n").split(b" ")[-1]
    return base64.b64decode(word)


def test_a_short_response_goes_with_the_command() -> None:
    client = ready()
    client.authenticate("XOAUTH2", "u@example.com", Secret("token"))
    sent = client.data_to_send()
    assert sent.startswith(b"AUTH XOAUTH2 ")
    assert base64.b64decode(sent.split()[2]) == b"user=u@example.com\1auth=Bearer token\1\1"
    assert hear(client, b"235 2.7.0 Welcome\r\n") == [Authenticated(Reply(235, "2.7.0", "Welcome"))]


def test_a_long_token_waits_for_334() -> None:
    client = ready()
    client.authenticate("OAUTHBEARER", "u", Secret("t" * 2000))
    assert client.data_to_send() == b"AUTH OAUTHBEARER\r\n"
    assert hear(client, b"334 \r\n") == []
    assert b"host=mx.example\1port=587\1auth=Bearer " + b"t" * 2000 in responses_of(client)


@pytest.mark.parametrize("length", range(320, 360))
def test_no_command_is_longer_than_a_server_must_take(length: int) -> None:
    client = ready()
    client.authenticate("XOAUTH2", "u", Secret("t" * length))
    assert len(client.data_to_send()) <= 512


def test_login_answers_two_questions() -> None:
    client = ready()
    client.authenticate("LOGIN", "me", Secret("secret"))
    assert client.data_to_send() == b"AUTH LOGIN\r\n"
    hear(client, b"334 VXNlcm5hbWU6\r\n")
    assert responses_of(client) == b"me"
    hear(client, b"334 UGFzc3dvcmQ6\r\n")
    assert responses_of(client) == b"secret"
    assert hear(client, b"235 OK\r\n") == [Authenticated(Reply(235, "", "OK"))]


@pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", b"\r\n"), ("OAUTHBEARER", b"AQ==\r\n")])
def test_the_challenge_before_a_refusal_is_answered_and_kept(mechanism: str, answer: bytes) -> None:
    client = ready()
    client.authenticate(mechanism, "u", Secret("token"))
    client.data_to_send()
    told = '{"status":"400","schemes":"Bearer"}'
    assert hear(client, b"334 " + base64.b64encode(told.encode()) + b"\r\n") == []
    assert client.data_to_send() == answer
    assert hear(client, b"535-5.7.8 Not\r\n535 5.7.8 accepted\r\n") == [
        AuthRefused(Reply(535, "5.7.8", "Not\naccepted"), told)
    ]


def test_another_try_may_follow_a_refusal() -> None:
    client = ready()
    client.authenticate("PLAIN", "me", Secret("wrong"))
    hear(client, b"535 5.7.3 Authentication unsuccessful\r\n")
    client.data_to_send()
    client.authenticate("PLAIN", "me", Secret("right"))
    assert responses_of(client) == b"\0me\0right"


def test_challenges_without_end_are_an_error() -> None:
    client = ready()
    client.authenticate("XOAUTH2", "u", Secret("t"))
    [event] = hear(client, b"334 \r\n" * 10)
    assert event == ProtocolError("challenges without end", Stage.AUTHENTICATING)


# Envelopes


def test_with_pipelining_the_envelope_is_one_write() -> None:
    client = ready()
    client.send_envelope("a@b.c", ["d@e.f", "g@h.i"], 500, eight_bit=True)
    assert client.data_to_send() == (
        b"MAIL FROM:<a@b.c> SIZE=500 BODY=8BITMIME\r\nRCPT TO:<d@e.f>\r\nRCPT TO:<g@h.i>\r\nDATA\r\n"
    )
    [event] = hear(client, b"250 2.1.0 OK\r\n250 2.1.0 OK\r\n550 5.1.1 No\r\n354 Go\r\n")
    assert event == EnvelopeAnswered(OK, (OK, NO), True)


def test_without_pipelining_each_answer_is_waited_for() -> None:
    client = ready(LOCK_STEP)
    client.send_envelope("", ["d@e.f", "g@h.i"], 500, eight_bit=True)
    assert client.data_to_send() == b"MAIL FROM:<> BODY=8BITMIME\r\n"
    hear(client, b"250 2.1.0 OK\r\n")
    assert client.data_to_send() == b"RCPT TO:<d@e.f>\r\n"
    hear(client, b"550 5.1.1 No\r\n")
    assert client.data_to_send() == b"RCPT TO:<g@h.i>\r\n"
    hear(client, b"250 2.1.0 OK\r\n")
    assert client.data_to_send() == b"DATA\r\n"
    assert hear(client, b"354 Go\r\n") == [EnvelopeAnswered(OK, (NO, OK), True)]


@pytest.mark.parametrize("offer", [PIPELINING, LOCK_STEP])
def test_a_refused_sender_is_the_answer_for_every_recipient(offer: bytes) -> None:
    answers = b"550 5.1.1 No\r\n" + (b"503 first MAIL\r\n" * 3 if offer is PIPELINING else b"")
    client = ready(offer)
    assert enveloped(client, answers, ["d@e.f", "g@h.i"]) == EnvelopeAnswered(NO, (NO, NO), False)
    client.data_to_send()
    client.send_envelope("a@b.c", ["d@e.f"])
    assert client.data_to_send().startswith(b"MAIL")


@pytest.mark.parametrize("offer", [PIPELINING, LOCK_STEP])
def test_when_no_recipient_is_left_the_next_envelope_begins_anew(offer: bytes) -> None:
    client = ready(offer)
    answers = b"250 2.1.0 OK\r\n550 5.1.1 No\r\n" + (b"554 nobody\r\n" if offer is PIPELINING else b"")
    assert enveloped(client, answers, ["d@e.f"]) == EnvelopeAnswered(OK, (NO,), False)
    client.data_to_send()
    client.send_envelope("a@b.c", ["g@h.i"])
    assert client.data_to_send().startswith(b"RSET\r\n")
    [event] = hear(client, b"250 reset\r\n250 2.1.0 OK\r\n250 2.1.0 OK\r\n354 Go\r\n")
    assert event == EnvelopeAnswered(OK, (OK,), True)


def test_a_server_that_wants_data_for_nobody_gets_an_empty_message() -> None:
    client = ready()
    client.send_envelope("a@b.c", ["d@e.f"])
    client.data_to_send()
    assert hear(client, b"250 2.1.0 OK\r\n550 5.1.1 No\r\n354 Go\r\n") == []
    assert client.data_to_send() == b".\r\n"
    assert hear(client, b"554 nobody\r\n") == [EnvelopeAnswered(OK, (NO,), False)]
    client.send_envelope("a@b.c", ["d@e.f"])
    assert client.data_to_send().startswith(b"MAIL")


@pytest.mark.parametrize("offer", [PIPELINING, LOCK_STEP])
def test_refused_data_is_told_apart(offer: bytes) -> None:
    busy = Reply(451, "4.3.2", "Busy")
    client = ready(offer)
    answers = b"250 2.1.0 OK\r\n250 2.1.0 OK\r\n451 4.3.2 Busy\r\n"
    assert enveloped(client, answers, ["d@e.f"]) == EnvelopeAnswered(OK, (OK,), False, busy)
    with pytest.raises(RuntimeError):
        client.send_body(b"x")


@pytest.mark.parametrize(
    ("sender", "recipients"),
    [
        ("a@b.c", []),
        ("a@b.c>\r\nRCPT TO:<evil@b", ["d@e.f"]),
        ("a@b.c", ["d@e.f", "g h@i"]),
        ("jürgen@b.c", ["d@e.f"]),
        ("a@b.c", ["d" * 400 + "@e.f"]),
    ],
)
def test_an_address_that_cannot_be_sent_is_our_mistake(sender: str, recipients: list[str]) -> None:
    client = ready()
    with pytest.raises(ValueError, match=r"address|recipient"):
        client.send_envelope(sender, recipients)
    assert client.data_to_send() == b""


def test_other_scripts_are_sent_with_smtputf8() -> None:
    client = ready()
    client.send_envelope("jürgen@b.c", ["우편@예시"], smtputf8=True)
    assert client.data_to_send().startswith("MAIL FROM:<jürgen@b.c> SMTPUTF8\r\nRCPT TO:<우편@예시>".encode())


# Bodies


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a.\r\n..b\r\n", b"a.\r\n...b\r\n.\r\n"),
        (b"\r\n\r\n", b"\r\n\r\n.\r\n"),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_dots_are_doubled_wherever_the_message_is_cut(body: bytes, sent: bytes, step: int) -> None:
    client = in_body()
    for at in range(0, len(body), step):
        client.send_body(body[at : at + step])
    client.end_body()
    assert client.data_to_send() == sent
    assert hear(client, b"250 2.1.0 OK\r\n") == [MessageAnswered(OK)]


def test_a_body_cut_inside_its_last_line_end_is_completed() -> None:
    client = in_body()
    client.send_body(b"a\r")
    client.end_body()
    assert client.data_to_send() == b"a\r\n.\r\n"


@pytest.mark.parametrize("parts", [[b"a\nb"], [b"a\rb"], [b"a\r", b"b"], [b"a", b"\n"], [b"\n.\n"]])
def test_a_bare_line_end_never_leaves_us(parts: list[bytes]) -> None:
    client = in_body()
    for part in parts[:-1]:
        client.send_body(part)
    with pytest.raises(ValueError, match="CRLF"):
        client.send_body(parts[-1])


def test_dots_are_doubled_also_in_what_was_checked_before() -> None:
    client = in_body()
    client.send_body(b"a\r", checked=True)
    client.send_body(b"\n.b\r\n", checked=True)
    client.end_body()
    assert client.data_to_send() == b"a\r\n..b\r\n.\r\n"


def test_body_and_next_envelope_are_one_write() -> None:
    client = in_body()
    client.send_body(b"one\r\n")
    client.end_body()
    client.send_envelope("a@b.c", ["g@h.i"])
    assert client.stage is Stage.BODY_SENT
    assert client.data_to_send() == b"one\r\n.\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<g@h.i>\r\nDATA\r\n"
    assert hear(client, b"250 2.1.0 OK\r\n250 2.1.0 OK\r\n250 2.1.0 OK\r\n354 Go\r\n") == [
        MessageAnswered(OK),
        EnvelopeAnswered(OK, (OK,), True),
    ]
    client.send_body(b"two\r\n")
    client.end_body()
    assert hear(client, b"550 5.1.1 No\r\n") == [MessageAnswered(NO)]


def test_without_pipelining_the_next_envelope_has_to_wait() -> None:
    client = in_body(LOCK_STEP)
    client.end_body()
    with pytest.raises(RuntimeError):
        client.send_envelope("a@b.c", ["g@h.i"])


# Small commands and ends


def test_reset_noop_and_quit_are_answered() -> None:
    client = ready()
    for command, call in (("RSET", client.reset), ("NOOP", client.noop), ("QUIT", client.quit)):
        call()
        assert client.data_to_send() == command.encode() + b"\r\n"
        assert hear(client, b"250 2.1.0 OK\r\n") == [Answered(command, OK)]
    assert client.closed


CALLS: list[Callable[[SmtpClient], None]] = [
    SmtpClient.tls_started,
    SmtpClient.end_body,
    lambda client: client.send_body(b"x"),
    lambda client: client.authenticate("PLAIN", "me", Secret("x")),
    lambda client: client.send_envelope("a@b.c", ["d@e.f"]),
    SmtpClient.noop,
    SmtpClient.quit,
]


@pytest.mark.parametrize("call", CALLS)
def test_a_driver_out_of_turn_is_told_so(call: Callable[[SmtpClient], None]) -> None:
    with pytest.raises(RuntimeError, match="out of turn"):
        call(SmtpClient("me"))


def bye() -> Reply:
    return Reply(421, "4.3.2", "Bye")


@pytest.mark.parametrize(
    ("client", "stage"),
    [(SmtpClient("me"), Stage.GREETING), (ready(), Stage.READY)],
)
def test_421_at_any_point_closes(client: SmtpClient, stage: Stage) -> None:
    assert hear(client, b"421 4.3.2 Bye\r\n") == [ServerClosing(bye(), stage)]
    assert hear(client, b"250 OK\r\n") == []


def test_421_in_an_envelope_closes() -> None:
    client = ready()
    client.send_envelope("a@b.c", ["d@e.f"])
    assert hear(client, b"250 OK\r\n421 4.3.2 Bye\r\n") == [ServerClosing(bye(), Stage.ENVELOPE)]


def test_421_to_a_message_is_its_answer() -> None:
    client = in_body()
    client.end_body()
    [answer, closing] = hear(client, b"421 4.3.2 Bye\r\n")
    assert answer == MessageAnswered(bye())
    assert isinstance(closing, ServerClosing)


def test_a_refusal_in_the_middle_of_a_message_is_its_answer() -> None:
    client = in_body()
    client.send_body(b"half")
    too_large = Reply(552, "5.3.4", "Too large")
    assert hear(client, b"552 5.3.4 Too large\r\n") == [
        MessageAnswered(too_large),
        ServerClosing(too_large, Stage.BODY),
    ]


def test_a_lost_connection_says_how_far_it_had_come() -> None:
    assert hear(SmtpClient("me"), b"") == [Disconnected(Stage.GREETING)]
    assert hear(ready(), b"") == [Disconnected(Stage.READY)]
    client = in_body()
    client.send_body(b"half")
    assert hear(client, b"") == [Disconnected(Stage.BODY)]


@pytest.mark.parametrize("next_too", [True, False])
@pytest.mark.parametrize("ending", [b"", b"* nonsense\r\n"])
def test_a_connection_lost_after_the_body_leaves_the_outcome_unknown(ending: bytes, next_too: bool) -> None:
    client = in_body()
    client.end_body()
    if next_too:
        client.send_envelope("a@b.c", ["d@e.f"])
    [event] = hear(client, ending)
    assert isinstance(event, Disconnected | ProtocolError)
    assert event.stage is Stage.BODY_SENT


def test_an_answered_message_is_not_unknown_when_the_connection_is_lost_later() -> None:
    client = in_body()
    client.end_body()
    client.send_envelope("a@b.c", ["d@e.f"])
    client.receive_data(b"250 2.1.0 OK\r\n")
    assert hear(client, b"") == [MessageAnswered(OK), Disconnected(Stage.ENVELOPE)]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"* OK IMAP\r\n",
        b"\x16\x03\x01\r\n",
        b"x" * 5000,
        b"250-x\r\n" * 200,
        b"250 OK\r\n250 OK\r\n250 OK\r\n",
        b"354 Go\r\n",
    ],
)
def test_nonsense_ends_the_conversation(nonsense: bytes) -> None:
    client = ready()
    client.noop()
    client.receive_data(nonsense)
    events = [client.next_event(), client.next_event()]
    assert any(isinstance(event, ProtocolError) for event in events)
    assert client.closed
    assert hear(client, b"250 OK\r\n" * 1000) == []
    assert len(client._buffer) == 0


# The three tests of every engine


def conversation(client: SmtpClient, server_says: bytes, step: int) -> tuple[list[Event], bytes]:
    """A driver that does the next thing at each event; the server's words do not depend on ours."""
    events, sent = [], b""
    for at in range(0, len(server_says), step):
        client.receive_data(server_says[at : at + step])
        while (event := client.next_event()) is not None:
            events.append(event)
            react(client, event)
            sent += client.data_to_send()
    client.receive_data(b"")
    while (event := client.next_event()) is not None:
        events.append(event)
    return events, sent + client.data_to_send()


def react(client: SmtpClient, event: Event) -> None:
    match event:
        case StartTls():
            client.tls_started()
        case Ready():
            client.authenticate("XOAUTH2", "u", Secret("t" * 600))
        case Authenticated():
            client.send_envelope("a@b.c", ["d@e.f", "g@h.i"])
        case EnvelopeAnswered(go_ahead=True):
            client.send_body(b"text\r\n.\r\n")
            client.end_body()
        case MessageAnswered() if not client.closed:
            client.quit()
        case AuthRefused() | EnvelopeAnswered() if not client.closed:
            client.quit()


def test_octet_by_octet_is_the_same_as_at_once() -> None:
    said = (
        b"220 mx\r\n" + PIPELINING + b"334 \r\n235 2.7.0 OK\r\n250 OK\r\n250 OK\r\n550 5.1.1 No\r\n354 Go\r\n"
        b"250-2.0.0 Queued\r\n250 2.0.0 as 1\r\n221 Bye\r\n"
    )
    whole = conversation(SmtpClient("me", tls=True), said, len(said))
    assert conversation(SmtpClient("me", tls=True), said, 1) == whole
    assert whole[0][-1] == Answered("QUIT", Reply(221, "", "Bye"))


SERVER_WORDS = (
    b"220 mx", b"220 go", b"250 OK", b"250-mx\r\n250-STARTTLS\r\n250 AUTH XOAUTH2", PIPELINING, b"250", b"235 OK",
    b"334 ", b"334 e30=", b"354 Go", b"421 bye", b"450 4.2.0 later", b"535 5.7.8 no", b"550 no", b"554-a\r\n554 b",
    b"250-", b"\r\n", b"", b"\xff", b"x" * 4000, b"250 OK", b"250 OK", b"220 mx", b"250 OK", b"354 Go",
)  # fmt: skip


def test_random_servers_never_raise_and_the_end_comes_once() -> None:
    for seed in range(3000):
        dice = random.Random(seed)
        words = b"".join(dice.choice(SERVER_WORDS) + b"\r\n" for _ in range(dice.randint(1, 20)))
        words = dice.choice((b"", b"220 mx\r\n", b"220 mx\r\n" + PIPELINING)) + words
        client = SmtpClient("me", tls=dice.random() < 0.5, want_starttls=True)
        events, _ = conversation(client, words, dice.choice((1000, 7)))
        last = (Refused, ServerClosing, Disconnected, ProtocolError)
        assert sum(isinstance(event, last) or event_is_quit(event) for event in events) == 1
        assert client.closed


def event_is_quit(event: Event) -> bool:
    return isinstance(event, Answered) and event.command == "QUIT"


# Client engine against server engine

TOKEN = Secret("good-token")


class Server:
    """Our server engine with a driver that takes everything from who has the token."""

    def __init__(self, policy: ServerPolicy) -> None:
        self.engine = SmtpServer(policy)
        self.messages: list[bytes] = []
        self._parts: list[bytes] = []

    def answer(self, data: bytes) -> bytes:
        self.engine.receive_data(data)
        while (event := self.engine.next_event()) is not None:
            self._decide(event)
        return self.engine.data_to_send()

    def _decide(self, event: smtp_server.Event) -> None:
        match event:
            case smtp_server.StartTls():
                self.engine.reply(replies.READY_FOR_TLS)
            case smtp_server.Authenticate(credentials) if credentials.secret == TOKEN:
                self.engine.reply(replies.AUTHENTICATED)
            case smtp_server.Authenticate(credentials):
                oauth = credentials.mechanism in ("XOAUTH2", "OAUTHBEARER")
                self.engine.reply(replies.WRONG_PASSWORD, '{"status":"401"}' if oauth else "")
            case smtp_server.MailFrom():
                self.engine.reply(replies.SENDER_OK)
            case smtp_server.RcptTo(address):
                self.engine.reply(NO if address.startswith("no") else replies.RECIPIENT_OK)
            case smtp_server.DataBegun():
                self.engine.reply(replies.GO_AHEAD)
            case smtp_server.BodyChunk(data):
                self._parts.append(data)
            case smtp_server.BodyEnd():
                self.messages.append(b"".join(self._parts))
                self._parts = []
                self.engine.reply(replies.OK)


class Pipe:
    """Both ends and what is between them."""

    def __init__(self, mechanism: str, *, secret: Secret = TOKEN, step: int = 1000) -> None:
        mechanisms = ("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER")
        self.server = Server(ServerPolicy("gw", starttls=True, auth_mechanisms=mechanisms))
        self.client = SmtpClient("me", want_starttls=True)
        self._step = step
        self._to_client = self.server.engine.data_to_send()
        assert isinstance(self.event(), StartTls)
        self.server.engine.tls_started()
        self.client.tls_started()
        assert isinstance(self.event(), Ready)
        self.client.authenticate(mechanism, "me@example.com", secret)

    def event(self) -> Event:
        """The client's next event."""
        while (event := self.client.next_event()) is None:
            data = self.client.data_to_send()
            for at in range(0, len(data), self._step):
                self._to_client += self.server.answer(data[at : at + self._step])
            heard, self._to_client = self._to_client[: self._step], self._to_client[self._step :]
            assert heard, "both ends wait for each other"
            self.client.receive_data(heard)
        return event


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("step", [1, 1000])
def test_our_client_hands_messages_to_our_server(mechanism: str, step: int) -> None:
    pipe = Pipe(mechanism, step=step)
    assert isinstance(pipe.event(), Authenticated)
    pipe.client.send_envelope("a@example.com", ["b@example.com", "no@example.com"], 100)
    for text in (b".one\r\n.\r\n", b"", b"three"):
        envelope = pipe.event()
        assert isinstance(envelope, EnvelopeAnswered)
        assert envelope.go_ahead
        pipe.client.send_body(text)
        pipe.client.end_body()
        pipe.client.send_envelope("a@example.com", ["b@example.com"])
        assert pipe.event() == MessageAnswered(replies.OK)
    assert pipe.server.messages == [b".one\r\n.\r\n", b"", b"three\r\n"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"])
def test_a_wrong_token_is_refused_with_its_reason(mechanism: str) -> None:
    pipe = Pipe(mechanism, secret=Secret("bad"))
    challenge = '{"status":"401"}' if "AUTH" in mechanism else ""
    assert pipe.event() == AuthRefused(replies.WRONG_PASSWORD, challenge)
    pipe.client.quit()
    assert pipe.event() == Answered("QUIT", smtp_server.BYE)


def test_a_token_of_any_length_gets_through() -> None:
    for length in (1, 330, 345, 350, 3000):
        pipe = Pipe("XOAUTH2", secret=Secret("x" * length))
        assert isinstance(pipe.event(), AuthRefused)


# By chunks (RFC 3030)

CHUNKING = b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"


def in_chunks(*recipients: str) -> SmtpClient:
    client = ready(CHUNKING)
    client.send_envelope("a@b.c", recipients or ["d@e.f"])
    return client


def test_a_small_message_is_one_last_chunk_and_dots_stay_as_they_are() -> None:
    client = in_chunks()
    assert client.data_to_send() == b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\n"
    assert hear(client, b"250 OK\r\n250 OK\r\n") == [
        EnvelopeAnswered(Reply(250, "", "OK"), (Reply(250, "", "OK"),), go_ahead=True)
    ]
    client.send_body(b".a\r\n..b")
    assert client.data_to_send() == b""
    client.end_body()
    assert client.data_to_send() == b"BDAT 9 LAST\r\n.a\r\n..b\r\n"
    assert client.stage is Stage.BODY_SENT
    assert hear(client, b"250 2.0.0 Taken\r\n") == [MessageAnswered(Reply(250, "2.0.0", "Taken"))]
    client.send_envelope("a@b.c", ["d@e.f"])
    assert client.data_to_send().startswith(b"MAIL FROM:<a@b.c>\r\n")


def test_a_large_message_goes_chunk_by_chunk_and_is_answered_at_its_end() -> None:
    client = in_chunks()
    hear(client, b"250 OK\r\n250 OK\r\n")
    client.data_to_send()
    for part in (b"one\r\n", b"two\r", b"\nthree\r\n"):
        client.send_body(part)
    assert client.data_to_send() == b"BDAT 5\r\none\r\nBDAT 4\r\ntwo\r"
    assert hear(client, b"250 OK\r\n") == []
    client.end_body()
    assert client.data_to_send() == b"BDAT 8 LAST\r\n\nthree\r\n"
    assert hear(client, b"250 OK\r\n") == []
    assert hear(client, b"250 Taken\r\n") == [MessageAnswered(Reply(250, "", "Taken"))]


def test_the_next_envelope_may_follow_the_last_chunk() -> None:
    client = in_chunks()
    hear(client, b"250 OK\r\n250 OK\r\n")
    client.send_body(b"one\r\n")
    client.end_body()
    client.send_envelope("a@b.c", ["g@h.i"])
    taken, answered = hear(client, b"250 Taken\r\n250 OK\r\n250 OK\r\n")
    assert taken == MessageAnswered(Reply(250, "", "Taken"))
    assert isinstance(answered, EnvelopeAnswered)
    assert answered.go_ahead


def test_a_chunk_that_is_refused_ends_message_and_connection() -> None:
    for sent_all in (False, True):
        client = in_chunks()
        hear(client, b"250 OK\r\n250 OK\r\n")
        for part in (b"one\r\n", b"two\r\n"):
            client.send_body(part)
        if sent_all:
            client.end_body()
        first, last = hear(client, b"552 5.3.4 Too large\r\n503 No mail\r\n")
        assert first == MessageAnswered(Reply(552, "5.3.4", "Too large"))
        assert isinstance(last, ServerClosing)
        assert client.closed


def test_without_recipients_there_is_no_chunk_and_the_sender_is_taken_back() -> None:
    client = in_chunks("d@e.f", "g@h.i")
    client.data_to_send()
    [answered] = hear(client, b"250 OK\r\n550 5.1.1 No\r\n550 5.1.1 No\r\n")
    assert answered == EnvelopeAnswered(Reply(250, "", "OK"), (NO, NO), go_ahead=False)
    client.send_envelope("a@b.c", ["j@k.l"])
    assert client.data_to_send().startswith(b"RSET\r\nMAIL FROM")


def test_data_is_used_where_chunks_are_not_wanted_or_would_cost_round_trips() -> None:
    unwanted = SmtpClient("me.example", tls=True, want_chunking=False)
    assert hear(unwanted, b"220 mx\r\n" + CHUNKING) == [Ready()]
    assert (unwanted.chunking, unwanted.by_chunks) == (True, False)
    assert not ready(b"250-mx\r\n250 CHUNKING\r\n").by_chunks


def test_a_server_that_goes_after_the_last_chunk_leaves_the_outcome_unknown() -> None:
    client = in_chunks()
    hear(client, b"250 OK\r\n250 OK\r\n")
    client.send_body(b"one\r\n")
    client.send_body(b"two\r\n")
    client.end_body()
    client.receive_data(b"250 OK\r\n")
    assert client.next_event() is None
    client.receive_data(b"")
    assert client.next_event() == Disconnected(Stage.BODY_SENT)
