"""The POP3 client engine: dialogues in memory, limits, random servers, and our own server at the other end."""

import base64
import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from posthouse.protocol.maildrop import MailStore
from posthouse.protocol.pop_client import (
    Capabilities,
    Completed,
    Disconnected,
    Event,
    Greeting,
    Identified,
    Listed,
    MailboxSize,
    MessageChunk,
    PopClient,
    ProtocolError,
    Reply,
    State,
)
from posthouse.protocol.pop_lines import LONG_LINE, with_dots
from posthouse.protocol.pop_server import Authenticate, PopServer, ServerPolicy, StartTls
from posthouse.protocol.sasl import oauthbearer, xoauth2
from posthouse.secret import Secret

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
TOKEN = Secret("tok-12345")


class Talk:
    """A server's end: `hears` gives the events that its lines cause."""

    def __init__(self, greeting: bytes = b"+OK hello") -> None:
        self.client = PopClient()
        self.greeting = self.hears(greeting)

    def hears(self, *lines: bytes) -> list[Event]:
        return self.receives(b"".join(line + b"\r\n" for line in lines))

    def receives(self, data: bytes) -> list[Event]:
        self.client.receive_data(data)
        return list(iter(self.client.next_event, None))

    def says(self) -> bytes:
        return self.client.data_to_send()


def opened(*, pipelining: bool = False) -> Talk:
    talk = Talk()
    talk.client.login("ann", Secret("secret"))
    talk.hears(b"+OK", b"+OK")
    if pipelining:
        talk.client.capa()
        talk.hears(b"+OK", b"PIPELINING", b".")
    talk.says()
    return talk


def ok(command: str, text: str = "", number: int = 0) -> Completed:
    return Completed(command, Reply(True, text), number)


def test_greetings() -> None:
    assert Talk(b"+OK hello").greeting == [Greeting(Reply(True, "hello"))]
    assert Talk(b"-ERR [SYS/TEMP] busy").greeting == [Greeting(Reply(False, "busy", "SYS/TEMP"))]
    assert Talk(b"-ERR a\0b\x1b[31m").greeting == [Greeting(Reply(False, "a?b?[31m"))]
    for line in (b"* OK IMAP", b"220 SMTP", b"\x16\x03"):
        assert isinstance(Talk(line).greeting[0], ProtocolError)


def test_capabilities_are_read() -> None:
    talk = Talk()
    talk.client.capa()
    assert talk.says() == b"CAPA\r\n"
    (told, done) = talk.hears(b"+OK", b"TOP", b"sasl PLAIN XOAUTH2", b"EXPIRE 60", b".")
    assert told == Capabilities({"TOP": (), "SASL": ("PLAIN", "XOAUTH2"), "EXPIRE": ("60",)})
    assert done == ok("CAPA")
    talk.client.capa()
    assert talk.hears(b"-ERR what?") == [Completed("CAPA", Reply(False, "what?"))]


@pytest.mark.parametrize(("mechanism", "make"), [("XOAUTH2", xoauth2), ("OAUTHBEARER", oauthbearer)])
def test_a_token_always_waits_for_its_turn(mechanism: str, make: Callable[[str, Secret], Secret]) -> None:
    talk = Talk()
    response = make("ann@example.test", Secret("x" * 3000))
    talk.client.authenticate(mechanism, response)
    assert talk.says() == f"AUTH {mechanism}\r\n".encode()
    assert talk.hears(b"+ ") == []
    assert talk.says() == response.reveal().encode() + b"\r\n"
    assert talk.hears(b"+OK welcome") == [ok("AUTH", "welcome")]
    assert talk.client.state is State.TRANSACTION


@pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", b"\r\n"), ("OAUTHBEARER", b"AQ==\r\n")])
def test_the_challenge_before_a_refusal_is_answered_and_kept(mechanism: str, answer: bytes) -> None:
    talk = Talk()
    talk.client.authenticate(mechanism, xoauth2("ann", TOKEN))
    talk.hears(b"+")
    talk.says()
    assert talk.hears(b"+ " + base64.b64encode(b'{"status":"400"}')) == []
    assert talk.says() == answer
    refusal = Reply(False, "Authentication failure: unknown user name or bad password.", "AUTH")
    said = talk.hears(b"-ERR [AUTH] Authentication failure: unknown user name or bad password.")
    assert said == [Completed("AUTH", refusal, challenge='{"status":"400"}')]
    assert talk.client.state is State.AUTHORIZATION


def test_password_follows_the_name() -> None:
    talk = Talk()
    talk.client.login("ann", Secret("my secret"))
    assert talk.says() == b"USER ann\r\n"
    assert talk.hears(b"+OK") == []
    assert talk.says() == b"PASS my secret\r\n"
    assert talk.hears(b"-ERR [IN-USE] locked") == [Completed("PASS", Reply(False, "locked", "IN-USE"))]
    talk.client.login("bob", Secret("x"))
    assert talk.hears(b"-ERR no") == [Completed("USER", Reply(False, "no"))]
    assert talk.says() == b"USER bob\r\n"


def test_what_came_before_tls_is_forgotten() -> None:
    talk = Talk()
    talk.client.stls()
    assert talk.hears(b"+OK go", b"+OK evil") == [ok("STLS", "go")]
    with pytest.raises(RuntimeError):
        talk.client.capa()
    talk.client.tls_started()
    talk.client.capa()
    assert talk.hears(b"+OK", b".") == [Capabilities({}), ok("CAPA")]


def test_the_mailbox_is_listed() -> None:
    talk = opened()
    talk.client.stat()
    assert talk.hears(b"+OK 2 320 octets") == [MailboxSize(2, 320), ok("STAT", "2 320 octets")]
    talk.client.list_sizes()
    assert talk.hears(b"+OK", b"1 120", b"2 200 more", b".") == [Listed(1, 120), Listed(2, 200), ok("LIST")]
    talk.client.list_uids()
    assert talk.hears(b"+OK", b"1 whq", b"2 QhdP", b".") == [Identified(1, "whq"), Identified(2, "QhdP"), ok("UIDL")]
    assert talk.says() == b"STAT\r\nLIST\r\nUIDL\r\n"


def test_a_message_comes_in_chunks_without_its_dots() -> None:
    talk = opened()
    talk.client.retrieve(1)
    assert talk.says() == b"RETR 1\r\n"
    first = talk.receives(b"+OK 50 octets\r\nSubject: x\r\n\r\n..one\r\n...two\r\n. odd\r\nha")
    assert first == [MessageChunk(1, b"Subject: x\r\n\r\n.one\r\n..two\r\n odd\r\n")]
    assert talk.receives(b"lf\r\n.") == [MessageChunk(1, b"half\r\n")]
    assert talk.receives(b"\r\n") == [ok("RETR", "50 octets", 1)]
    assert "Subject" not in repr(first)


def test_messages_without_text_or_with_the_longest_lines_come_whole() -> None:
    for message in (b"", b".\r\n", b"\r\n", b".." + b"x" * LONG_LINE * 2 + b"\r\n.y\r\n"):
        talk = opened()
        talk.client.retrieve(1)
        wire = b"+OK\r\n" + with_dots(message)
        events = [event for at in range(0, len(wire), 50_000) for event in talk.receives(wire[at : at + 50_000])]
        assert events[-1] == ok("RETR", "", 1)
        assert b"".join(event.data for event in events if isinstance(event, MessageChunk)) == message


@pytest.mark.parametrize(
    ("say", "line", "event"),
    [
        (lambda client: client.top(3, 5), b"TOP 3 5", Completed("TOP", Reply(False, "no"), 3)),
        (lambda client: client.delete(3), b"DELE 3", Completed("DELE", Reply(False, "no"), 3)),
        (lambda client: client.retrieve(3), b"RETR 3", Completed("RETR", Reply(False, "no"), 3)),
        (lambda client: client.reset(), b"RSET", Completed("RSET", Reply(False, "no"))),
        (lambda client: client.noop(), b"NOOP", Completed("NOOP", Reply(False, "no"))),
        (lambda client: client.quit(), b"QUIT", Completed("QUIT", Reply(False, "no"))),
    ],
)
def test_commands(say: Callable[[PopClient], None], line: bytes, event: Completed) -> None:
    talk = opened()
    say(talk.client)
    assert talk.says() == line + b"\r\n"
    assert talk.hears(b"-ERR no") == [event]


def test_messages_are_asked_for_ahead_where_that_is_offered() -> None:
    talk = opened(pipelining=True)
    for number in (1, 2, 3):
        talk.client.retrieve(number)
    talk.client.delete(1)
    assert talk.says() == b"RETR 1\r\nRETR 2\r\nRETR 3\r\nDELE 1\r\n"
    assert talk.hears(b"+OK", b"a", b".", b"-ERR gone", b"+OK", b"c", b".", b"+OK") == [
        MessageChunk(1, b"a\r\n"),
        ok("RETR", "", 1),
        Completed("RETR", Reply(False, "gone"), 2),
        MessageChunk(3, b"c\r\n"),
        ok("RETR", "", 3),
        ok("DELE", "", 1),
    ]


def test_without_pipelining_one_command_at_a_time() -> None:
    talk = opened()
    talk.client.retrieve(1)
    with pytest.raises(RuntimeError, match="RETR has not ended"):
        talk.client.retrieve(2)


def test_wrong_calls_raise() -> None:
    talk = Talk()
    with pytest.raises(RuntimeError):
        talk.client.retrieve(1)
    with pytest.raises(RuntimeError):
        talk.client.tls_started()
    with pytest.raises(ValueError, match="line break"):
        talk.client.login("ann", Secret("x\r\nDELE 1"))
    assert talk.says() == b""


def test_the_end_of_the_connection_names_the_command() -> None:
    talk = opened()
    talk.client.retrieve(1)
    talk.receives(b"+OK\r\nhalf a mess")
    assert talk.receives(b"") == [Disconnected("RETR")]
    with pytest.raises(RuntimeError):
        talk.client.noop()


@pytest.mark.parametrize(
    "answer",
    [
        b"+" * 9000,
        b"250 OK\r\n",
        b"+ go on\r\n",
        b"\r\n",
        b"+OKAY\r\n",
        b"+OK\r\nx y\r\n",
        b"+OK\r\n1\r\n",
        b"+OK\r\n1 " + b"i" * 71 + b"\r\n",
        b"+OK\r\n1 ab\x00\r\n",
        b"+OK\r\n" + b"9" * 20 + b" x\r\n",
    ],
)
def test_what_is_too_much_or_wrong_is_a_protocol_error(answer: bytes) -> None:
    talk = opened()
    talk.client.list_uids()
    assert isinstance(talk.receives(answer)[-1], ProtocolError)
    assert talk.client.state is State.ENDED


def test_too_many_capabilities_or_challenges_are_a_protocol_error() -> None:
    talk = Talk()
    talk.client.capa()
    assert isinstance(talk.hears(b"+OK", *[b"X%d" % n for n in range(200)])[-1], ProtocolError)
    talk = Talk()
    talk.client.authenticate("XOAUTH2", xoauth2("a", TOKEN))
    assert isinstance(talk.hears(*[b"+ eA=="] * 10)[-1], ProtocolError)


def test_an_answer_nobody_asked_for_is_a_protocol_error() -> None:
    assert isinstance(opened().hears(b"+OK again")[0], ProtocolError)


def test_secrets_do_not_show() -> None:
    talk = Talk()
    talk.client.login("ann", Secret("s3cret"))
    assert "s3cret" not in f"{talk.client!r} {vars(talk.client)}"


SERVER = b"+OK hi\r\n+\r\n+ eA==\r\n-ERR [AUTH] no\r\n"


def test_whole_and_byte_by_byte_are_the_same() -> None:
    seen: list[tuple[list[Event], bytes]] = []
    for step in (len(SERVER), 1):
        client = PopClient()
        events: list[Event] = []
        said = b""
        for at in range(0, len(SERVER), step):
            client.receive_data(SERVER[at : at + step])
            while (event := client.next_event()) is not None:
                events.append(event)
                if isinstance(event, Greeting):
                    client.authenticate("XOAUTH2", xoauth2("ann", TOKEN))
            said += client.data_to_send()
        seen.append((events, said))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 2


def test_a_message_is_the_same_however_it_is_cut() -> None:
    message = b".a\r\n\r\n..\r\n.\r\nb.\r\n.\r\n"
    wire = b"+OK\r\n" + with_dots(message) + b"-ERR no\r\n"
    for step in range(1, len(wire) + 1):
        talk = opened(pipelining=True)
        talk.client.retrieve(1)
        talk.client.retrieve(2)
        events = [event for at in range(0, len(wire), step) for event in talk.receives(wire[at : at + step])]
        assert b"".join(event.data for event in events if isinstance(event, MessageChunk)) == message
        assert events[-1] == Completed("RETR", Reply(False, "no"), 2)


PIECES = b"+OK |-ERR |+ |+|.|1 |2 |abc|\r\n|\r\n|\r\n|\n|.\r\n|[AUTH]|\x00|\xff|eA==|SASL X".split(b"|")


def test_random_servers_never_make_it_raise() -> None:
    dice = random.Random(5)
    ended = 0
    for number in range(3000):
        talk = opened(pipelining=True) if number % 2 else Talk()
        client = talk.client
        if number % 2:
            dice.choice((client.list_uids, client.list_sizes, client.stat, client.noop))()
            client.retrieve(2)
        else:
            authenticate = partial(client.authenticate, "XOAUTH2", xoauth2("a", TOKEN))
            dice.choice((client.capa, client.stls, authenticate))()
        for _ in range(12):
            talk.receives(b"".join(dice.choices(PIECES, k=3)) or b"x")
        last = talk.receives(b"")
        ended += bool(last) or client.state in (State.ENDED, State.STARTING_TLS)
    assert ended == 3000


# Our server at the other end


class Pipe:
    def __init__(self, store: MailStore) -> None:
        self.client = PopClient()
        self.server = PopServer(ServerPolicy(starttls=True, auth_needs_tls=True))
        self.store = store

    def until_done(self) -> list[Event]:
        """Carry octets both ways until neither side has any."""
        events: list[Event] = []
        moved = True
        while moved:
            self.serve()
            answer = self.server.data_to_send()
            if answer:
                self.client.receive_data(answer)
            events += iter(self.client.next_event, None)
            question = self.client.data_to_send()
            if question:
                self.server.receive_data(question)
            moved = bool(answer or question)
        return events

    def serve(self) -> None:
        for event in iter(self.server.next_event, None):
            if isinstance(event, Authenticate):
                good = event.credentials.secret == TOKEN
                self.server.accept(self.store) if good else self.server.refuse(challenge='{"status":"401"}')
            elif isinstance(event, StartTls):
                self.client.receive_data(self.server.data_to_send())
                self.server.tls_started()


def test_client_and_server_read_mail_together() -> None:
    store = MailStore()
    for number in range(3):
        store.deliver(b"Subject: %d\r\n\r\n.dot\r\n" % number, NOW)
    pipe = Pipe(store)
    pipe.until_done()
    pipe.client.stls()
    pipe.until_done()
    pipe.client.tls_started()
    pipe.client.authenticate("OAUTHBEARER", oauthbearer("ann", Secret("old")))
    (refusal,) = pipe.until_done()
    assert isinstance(refusal, Completed)
    assert (refusal.ok, refusal.challenge) == (False, '{"status":"401"}')
    pipe.client.authenticate("XOAUTH2", xoauth2("ann", TOKEN))
    pipe.until_done()
    pipe.client.capa()
    pipe.until_done()
    pipe.client.list_uids()
    uids = [event.uid for event in pipe.until_done() if isinstance(event, Identified)]
    assert uids == ["1-1", "1-2", "1-3"]
    for number in (1, 2, 3):
        pipe.client.retrieve(number)
    chunks = [event.data for event in pipe.until_done() if isinstance(event, MessageChunk)]
    assert b"".join(chunks) == b"".join(b"Subject: %d\r\n\r\n.dot\r\n" % number for number in range(3))
    pipe.client.delete(1)
    pipe.client.delete(3)
    pipe.client.quit()
    assert all(event.ok for event in pipe.until_done() if isinstance(event, Completed))
    assert list(store.folder("INBOX").messages) == [2]
