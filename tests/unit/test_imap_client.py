"""The IMAP client engine: dialogues in memory, limits, random servers, and our own server at the other end."""

import base64
import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from posthouse.protocol.imap_client import INITIAL_RESPONSE_LIMIT, ImapClient, Limits, OpenFolder, State
from posthouse.protocol.imap_responses import (
    Bye,
    Capabilities,
    Completed,
    Condition,
    Disconnected,
    Event,
    Exists,
    Expunged,
    Fetched,
    FolderStatus,
    Found,
    Greeting,
    Idling,
    Listed,
    Notice,
    Other,
    ProtocolError,
    Status,
)
from posthouse.protocol.imap_server import Authenticate, ImapServer, ServerPolicy, StartTls
from posthouse.protocol.imap_syntax import NumberSet, decode_name, encode_name, read_set, write_sets
from posthouse.protocol.maildrop import MailStore
from posthouse.protocol.sasl import oauthbearer, plain, xoauth2
from posthouse.secret import Secret

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
TOKEN = Secret("tok-12345")


class Talk:
    """A server's end: `hears` gives the events that its lines cause."""

    def __init__(self, greeting: bytes = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] hello") -> None:
        self.client = ImapClient(Limits(line=2000, literals=5000))
        self.greeting = self.hears(greeting)

    def hears(self, *lines: bytes) -> list[Event]:
        return self.receives(b"".join(line + b"\r\n" for line in lines))

    def receives(self, data: bytes) -> list[Event]:
        self.client.receive_data(data)
        return self.events()

    def events(self) -> list[Event]:
        return list(iter(self.client.next_event, None))

    def says(self) -> bytes:
        return self.client.data_to_send()


def authenticated() -> Talk:
    talk = Talk(b"* PREAUTH [CAPABILITY IMAP4rev1 IDLE UIDPLUS MOVE] hello")
    assert talk.client.state is State.AUTHENTICATED
    return talk


def opened() -> Talk:
    talk = authenticated()
    talk.client.select("INBOX")
    talk.hears(b"* 3 EXISTS", b"* OK [UIDVALIDITY 7] ok", b"* OK [UIDNEXT 12] ok", b"P1 OK [READ-WRITE] done")
    talk.says()
    return talk


def completed(command: str, status: str = "OK", text: str = "done", code: str = "", argument: str = "") -> Completed:
    return Completed(command, Condition(Status(status), text, code, argument))


# Greeting and signing in


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (b"* OK hi", State.NOT_AUTHENTICATED),
        (b"* PREAUTH hi", State.AUTHENTICATED),
        (b"* BYE busy", State.NOT_AUTHENTICATED),
    ],
)
def test_greetings(line: bytes, state: State) -> None:
    talk = Talk(line)
    (event,) = talk.greeting
    assert isinstance(event, Greeting)
    assert event.condition.status == line.split()[1].decode()
    assert talk.client.state is state


def test_nothing_can_be_said_before_the_greeting() -> None:
    with pytest.raises(RuntimeError):
        ImapClient().noop()


def test_a_server_of_another_kind_is_a_protocol_error() -> None:
    for line in (b"220 smtp.example.test ESMTP", b"+OK POP3", b"* NO no", b"\x16\x03\x01"):
        talk = Talk(line)
        assert isinstance(talk.greeting[0], ProtocolError)
        assert talk.client.state is State.ENDED


def test_a_token_is_sent_at_once_where_that_is_offered() -> None:
    talk = Talk()
    response = xoauth2("ann@example.test", TOKEN)
    talk.client.authenticate("XOAUTH2", response)
    assert talk.says() == b"P1 AUTHENTICATE XOAUTH2 " + response.reveal().encode() + b"\r\n"
    assert talk.hears(b"P1 OK [CAPABILITY IMAP4rev1 MOVE] done") == [
        completed("AUTHENTICATE", code="CAPABILITY", argument="IMAP4rev1 MOVE")
    ]
    assert talk.client.state is State.AUTHENTICATED
    assert talk.client.can("MOVE")
    assert not talk.client.can("SASL-IR")


@pytest.mark.parametrize(
    ("greeting", "token"),
    [(b"* OK hi", TOKEN), (b"* OK [CAPABILITY SASL-IR] hi", Secret("x" * INITIAL_RESPONSE_LIMIT))],
)
def test_a_token_waits_without_initial_response_or_when_long(greeting: bytes, token: Secret) -> None:
    talk = Talk(greeting)
    response = oauthbearer("ann@example.test", token)
    talk.client.authenticate("OAUTHBEARER", response)
    assert talk.says() == b"P1 AUTHENTICATE OAUTHBEARER\r\n"
    assert talk.hears(b"+ ") == []
    assert talk.says() == response.reveal().encode() + b"\r\n"
    assert talk.hears(b"P1 OK done") == [completed("AUTHENTICATE")]


@pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", b"\r\n"), ("OAUTHBEARER", b"AQ==\r\n")])
def test_the_challenge_before_a_refusal_is_answered_and_kept(mechanism: str, answer: bytes) -> None:
    talk = Talk()
    talk.client.authenticate(mechanism, xoauth2("ann@example.test", TOKEN))
    talk.says()
    assert talk.hears(b"+ " + base64.b64encode(b'{"status":"400"}')) == []
    assert talk.says() == answer
    (event,) = talk.hears(b"P1 NO [ALERT] Too many simultaneous connections. (Failure)")
    refusal = Condition(Status.NO, "Too many simultaneous connections. (Failure)", "ALERT")
    assert event == Completed("AUTHENTICATE", refusal, '{"status":"400"}')
    assert talk.client.state is State.NOT_AUTHENTICATED


def test_an_exchange_that_never_ends_is_a_protocol_error() -> None:
    talk = Talk()
    talk.client.authenticate("PLAIN", plain("ann", TOKEN))
    assert isinstance(talk.hears(*[b"+ eA=="] * 10)[-1], ProtocolError)


def test_login_quotes_or_sends_literals() -> None:
    talk = Talk()
    talk.client.login("ann", Secret('se"cret\\'))
    assert talk.says() == b'P1 LOGIN "ann" "se\\"cret\\\\"\r\n'
    talk.hears(b"P1 NO [AUTHENTICATIONFAILED] no")
    talk.client.login("anné", Secret("ø"))
    assert talk.says() == b"P2 LOGIN {5}\r\n"
    talk.hears(b"+ go")
    assert talk.says() == "anné {2}\r\n".encode()
    talk.hears(b"+ go")
    assert talk.says() == "ø\r\n".encode()


def test_a_refused_literal_is_not_sent() -> None:
    talk = Talk()
    talk.client.login("ann", Secret("ø"))
    talk.says()
    assert talk.hears(b"P1 NO LOGIN failed.")[0] == completed("LOGIN", "NO", "LOGIN failed.")
    assert isinstance(talk.hears(b"+ go")[0], ProtocolError)
    assert talk.says() == b""


def test_literals_go_at_once_where_the_server_takes_them() -> None:
    talk = Talk(b"* OK [CAPABILITY LITERAL+] hi")
    talk.client.login("ann", Secret("ø"))
    assert talk.says() == b'P1 LOGIN "ann" {2+}\r\n' + "ø\r\n".encode()


def test_what_came_before_tls_is_forgotten() -> None:
    talk = Talk(b"* OK [CAPABILITY STARTTLS AUTH=PLAIN] hi")
    talk.client.starttls()
    assert talk.says() == b"P1 STARTTLS\r\n"
    assert talk.hears(b"P1 OK go", b"* CAPABILITY EVIL", b"P2 OK evil") == [completed("STARTTLS", text="go")]
    with pytest.raises(RuntimeError):
        talk.client.capability()
    talk.client.tls_started()
    assert talk.events() == []
    assert talk.client.capabilities == frozenset()
    talk.client.capability()
    assert talk.hears(b"* CAPABILITY IMAP4rev1 auth=xoauth2", b"P2 OK done")[0] == Capabilities(
        frozenset({"IMAP4REV1", "AUTH=XOAUTH2"})
    )


def test_secrets_do_not_show() -> None:
    talk = Talk(b"* OK hi")
    talk.client.authenticate("XOAUTH2", xoauth2("ann", TOKEN))
    shown = f"{talk.client!r} {vars(talk.client)}"
    talk.says()
    assert xoauth2("ann", TOKEN).reveal() not in shown


# Folders and messages


def test_opening_a_folder_tells_what_it_holds() -> None:
    talk = authenticated()
    talk.client.select("Arkiv æøå")
    assert talk.says() == b'P1 SELECT "Arkiv &AOYA+ADl-"\r\n'
    talk.hears(b"* FLAGS (\\Seen)", b"* 3 EXISTS", b"* 0 RECENT", b"* OK [UNSEEN 1]", b"* OK [UIDVALIDITY 7] ok")
    events = talk.hears(b"* OK [UIDNEXT 12] ok", b"P1 OK [READ-ONLY] done")
    assert events[-1] == completed("SELECT", code="READ-ONLY")
    assert talk.client.folder == OpenFolder("Arkiv æøå", True, 3, 7, 12)
    talk.client.select("Gone")
    talk.hears(b"P2 NO no such folder")
    assert talk.client.folder is None
    with pytest.raises(RuntimeError):
        talk.client.expunge()


def test_news_keep_the_count() -> None:
    talk = opened()
    assert talk.hears(b"* 5 EXISTS", b"* 2 EXPUNGE") == [Exists(5), Expunged(2)]
    assert talk.client.folder is not None
    assert talk.client.folder.exists == 4


def test_a_message_comes_whole() -> None:
    talk = opened()
    talk.client.uid_fetch("9")
    assert talk.says() == b"P2 UID FETCH 9 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])\r\n"
    body = b"Subject: {3}\r\n\r\n* 1 EXISTS\r\n)"
    (event, *rest) = talk.receives(
        b'* 2 FETCH (FLAGS (\\Seen $x) INTERNALDATE "17-Jul-1996 02:44:25 +0000" BODY[] {%d}\r\n' % len(body)
        + body
        + b' UID 9 RFC822.SIZE 33 MODSEQ (5) BODY[HEADER.FIELDS ("X Y" Z)]<0> "h" BODY[2] NIL)\r\nP2 OK done\r\n'
    )
    assert isinstance(event, Fetched)
    assert (event.number, event.uid, event.flags) == (2, 9, frozenset({"\\Seen", "$x"}))
    assert event.body == body
    assert event.sections['BODY[HEADER.FIELDS ("X Y" Z)]<0>'] == b"h"
    assert "BODY[2]" not in event.sections
    assert event.internal_date == datetime(1996, 7, 17, 2, 44, 25, tzinfo=UTC)
    assert event.size == 33
    assert event.other == {"MODSEQ": ("5",)}
    assert rest == [completed("UID FETCH")]
    assert "Subject" not in repr(event)


def test_untagged_answers_are_read() -> None:
    talk = authenticated()
    assert talk.hears(
        b'* LIST (\\HasNoChildren \\Sent) "/" "Gesendete &- gel&APY-scht"',
        b"* LIST (\\Noselect) NIL {5}\r\nA (B)",
        b"* STATUS INBOX (MESSAGES 3 UIDNEXT 12)",
        b"* SEARCH 4 8 15",
        b"* SEARCH",
        b"* OK [ALERT] Your password expires {5}",
        b"* NO careful",
        b"* ENABLED CONDSTORE",
        b"* 3 RECENT",
        b"* BYE [UNAVAILABLE] Connection closed. 14",
    ) == [
        Listed("Gesendete & gelöscht", "/", frozenset({"\\hasnochildren", "\\sent"})),
        Listed("A (B)", "", frozenset({"\\noselect"})),
        FolderStatus("INBOX", {"MESSAGES": 3, "UIDNEXT": 12}),
        Found((4, 8, 15)),
        Found(()),
        Notice(Condition(Status.OK, "Your password expires {5}", "ALERT")),
        Notice(Condition(Status.NO, "careful")),
        Other("ENABLED", ("CONDSTORE",)),
        Other("RECENT", ("3",)),
        Bye(Condition(Status.BYE, "Connection closed. 14", "UNAVAILABLE")),
    ]


@pytest.mark.parametrize(
    ("say", "line"),
    [
        (lambda client: client.uid_search("UNSEEN SINCE 1-Jan-2026"), b"UID SEARCH UNSEEN SINCE 1-Jan-2026"),
        (
            lambda client: client.uid_store("1:3", "+FLAGS.SILENT", ["\\Deleted"]),
            b"UID STORE 1:3 +FLAGS.SILENT (\\Deleted)",
        ),
        (lambda client: client.uid_move("4", "Done"), b'UID MOVE 4 "Done"'),
        (lambda client: client.uid_copy("4", "A&B"), b'UID COPY 4 "A&-B"'),
        (lambda client: client.expunge(), b"EXPUNGE"),
        (lambda client: client.uid_expunge("4,9"), b"UID EXPUNGE 4,9"),
        (lambda client: client.close_folder(), b"CLOSE"),
        (lambda client: client.unselect(), b"UNSELECT"),
        (lambda client: client.noop(), b"NOOP"),
        (lambda client: client.logout(), b"LOGOUT"),
        (lambda client: client.list_folders(), b'LIST "" "*"'),
        (lambda client: client.folder_status("INBOX", ["UIDNEXT"]), b'STATUS "INBOX" (UIDNEXT)'),
        (lambda client: client.select("INBOX", read_only=True), b'EXAMINE "INBOX"'),
        (lambda client: client.create("New"), b'CREATE "New"'),
    ],
)
def test_commands(say: Callable[[ImapClient], None], line: bytes) -> None:
    talk = opened()
    say(talk.client)
    assert talk.says() == b"P2 " + line + b"\r\n"
    name = " ".join(line.decode().split()[: 2 if line.startswith(b"UID") else 1])
    assert talk.hears(b"P2 BAD User is authenticated but not connected.") == [
        completed(name, "BAD", "User is authenticated but not connected.")
    ]
    assert not talk.client.busy


def test_words_that_would_begin_another_line_are_refused() -> None:
    talk = opened()
    with pytest.raises(ValueError, match="line break"):
        talk.client.uid_fetch("1\r\nP9 LOGOUT")
    with pytest.raises(ValueError, match="line break"):
        talk.client.uid_search("ALL\n")
    assert talk.says() == b""


def test_credentials_that_would_begin_another_line_are_refused() -> None:
    talk = Talk()
    with pytest.raises(ValueError, match="line break"):
        talk.client.authenticate("PLAIN\r\nP9 NOOP", plain("ann", TOKEN))
    with pytest.raises(ValueError, match="NUL"):
        talk.client.login("a\0b", TOKEN)
    assert talk.says() == b""


def test_one_command_at_a_time() -> None:
    talk = authenticated()
    talk.client.noop()
    with pytest.raises(RuntimeError, match="NOOP has not ended"):
        talk.client.noop()


def test_idle_ends_when_told() -> None:
    talk = opened()
    talk.client.idle()
    assert talk.says() == b"P2 IDLE\r\n"
    assert talk.hears(b"+ idling", b"* 4 EXISTS") == [Idling(), Exists(4)]
    talk.client.done()
    talk.client.done()
    assert talk.says() == b"DONE\r\n"
    assert talk.hears(b"P2 OK done") == [completed("IDLE")]
    talk.client.done()
    assert talk.says() == b""


def test_done_before_the_server_agreed_waits_for_it() -> None:
    talk = opened()
    talk.client.idle()
    talk.says()
    talk.client.done()
    talk.client.done()
    assert talk.says() == b""
    talk.hears(b"+ idling")
    assert talk.says() == b"DONE\r\n"


def test_the_end_of_the_connection_names_the_command() -> None:
    talk = opened()
    talk.client.uid_fetch("1")
    talk.receives(b"* 1 FETCH (UID 1 BODY[] {50}\r\nhalf")
    assert talk.receives(b"") == [Disconnected("UID FETCH")]
    assert talk.client.state is State.ENDED
    with pytest.raises(RuntimeError):
        talk.client.noop()


# Limits


@pytest.mark.parametrize(
    "data",
    [
        b"* " + b"x" * 3000,
        b"* 1 FETCH (BODY[] {5001}\r\n",
        b"* 1 FETCH (BODY[] {9999999999}\r\n",
        b"* 1 FETCH (A {3000}\r\n" + b"x" * 3000 + b" B {3000}\r\n",
        b"* LIST " + b"{0}\r\n" * 1000,
        b"* X " + b"(" * 40 + b")" * 40 + b"\r\n",
        b"* 1 FETCH (\r\n",
        b"* 1 FETCH ())\r\n",
        b"* 1 FETCH UID\r\n",
        b"* 1 FETCH (UID)\r\n",
        b"* 1 FETCH (UID x)\r\n",
        b"* 1 FETCH (UID 5 INTERNALDATE now)\r\n",
        b"* SEARCH " + b"9" * 30 + b"\r\n",
        b"* OK [UIDNEXT x] hm\r\n",
        b'* LIST () "/\r\n',
        b"P2 MAYBE done\r\n",
        b"P9 OK done\r\n",
        b"+ go on\r\n",
        b"\r\n",
    ],
)
def test_what_is_too_much_or_wrong_is_a_protocol_error(data: bytes) -> None:
    talk = opened()
    talk.client.noop()
    events = talk.receives(data)
    assert isinstance(events[-1], ProtocolError)
    assert talk.client.state is State.ENDED
    assert talk.receives(b"P2 OK done\r\n") == []


# Cut in pieces, and at random

SERVER = (
    b"* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n* 3 EXISTS\r\n"
    b'* 1 FETCH (BODY[] {12}\r\nhello {3}\r\n! FLAGS (\\Seen) ENVELOPE ("a" (("b" NIL "c" "d"))))\r\n'
    b"* LIST () {1}\r\n/ {5}\r\nINBOX\r\n* SEARCH 1 2\r\n+ eA==\r\nP1 NO [X y] no\r\n* BYE bye\r\n"
)


def test_whole_and_byte_by_byte_are_the_same() -> None:
    seen: list[tuple[list[Event], bytes]] = []
    for step in (len(SERVER), 1):
        client = ImapClient()
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
    assert len(seen[0][0]) == 7
    assert seen[0][1].endswith(b"\r\n\r\n")


PIECES = (
    b"* |P1 |P2 |+ |OK |NO |BAD |BYE |1 |2 |FETCH |EXISTS|EXPUNGE|LIST |SEARCH |STATUS |CAPABILITY |(|)|() |UID |"
    b'BODY[] |BODY[HEADER.FIELDS (A)] |FLAGS |{3}\r\n|{0}\r\n|{|abc|"|"x" |\\|NIL |[ALERT] |[UIDNEXT 5] |'
    b"[|]|\r\n|\r\n|\n|\x00|\xff|\xc2\xb2 "
).split(b"|")


def test_random_servers_never_make_it_raise() -> None:
    dice = random.Random(3)
    ended = 0
    for _ in range(3000):
        talk = Talk()
        dice.choice(
            (
                lambda client: client.authenticate("XOAUTH2", xoauth2("a", TOKEN)),
                lambda client: client.login("ø", TOKEN),
                lambda client: client.capability(),
            )
        )(talk.client)
        for _ in range(12):
            talk.receives(b"".join(dice.choices(PIECES, k=4)) or b"x")
        last = talk.receives(b"")
        ended += bool(last) or talk.client.state in (State.ENDED, State.STARTING_TLS)
    assert ended == 3000


# Our server at the other end


class Pipe:
    def __init__(self, policy: ServerPolicy, store: MailStore) -> None:
        self.client = ImapClient()
        self.server = ImapServer(policy, lambda: NOW)
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

    def ok(self) -> list[Event]:
        *news, last = self.until_done()
        assert isinstance(last, Completed)
        assert last.ok, last
        return news


def test_client_and_server_read_mail_together() -> None:
    store = MailStore(["Done"])
    for number in range(3):
        store.deliver(b"Subject: %d\r\n\r\nbody\r\n" % number, NOW)
    pipe = Pipe(ServerPolicy(starttls=True, auth_needs_tls=True), store)
    pipe.until_done()
    pipe.client.starttls()
    pipe.ok()
    pipe.client.tls_started()
    pipe.client.capability()
    pipe.ok()
    pipe.client.authenticate("OAUTHBEARER", oauthbearer("ann@example.test", Secret("old")))
    (refusal,) = pipe.until_done()
    assert isinstance(refusal, Completed)
    assert (refusal.condition.status, refusal.challenge) == (Status.NO, '{"status":"401"}')
    pipe.client.authenticate("XOAUTH2", xoauth2("ann@example.test", TOKEN))
    pipe.ok()
    pipe.client.select("INBOX")
    pipe.ok()
    assert pipe.client.folder == OpenFolder("INBOX", False, 3, 1, 4)
    pipe.client.uid_search("UNSEEN")
    assert pipe.ok() == [Found((1, 2, 3))]
    pipe.client.uid_fetch("1:3")
    fetched = [event for event in pipe.ok() if isinstance(event, Fetched)]
    assert [event.body for event in fetched] == [b"Subject: %d\r\n\r\nbody\r\n" % number for number in range(3)]
    pipe.client.uid_move("1", "Done")
    assert Expunged(1) in pipe.ok()
    pipe.client.uid_store("2", "+FLAGS.SILENT", ["\\Deleted"])
    pipe.ok()
    pipe.client.uid_expunge("2")
    assert pipe.ok() == [Expunged(1)]
    pipe.client.append("Done", b"Subject: new\r\n\r\n", flags=["\\Seen"], date=NOW)
    pipe.ok()
    assert len(store.folder("Done").messages) == 2
    pipe.client.idle()
    assert pipe.until_done() == [Idling()]
    store.deliver(b"late\r\n", NOW)
    pipe.server.poll()
    assert pipe.until_done() == [Exists(2)]
    pipe.client.done()
    pipe.ok()
    pipe.client.logout()
    assert isinstance(pipe.ok()[0], Bye)


# Words


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("INBOX", "INBOX"),
        ("받은 편지함", "&vBvHQA- &07jJwNVo-"),
        ("Slettet & væk", "Slettet &- v&AOY-k"),
        ("a😀b", "a&2D3eAA-b"),
    ],
)
def test_names_of_folders_travel(name: str, wire: str) -> None:
    assert encode_name(name) == wire
    assert decode_name(wire) == name


def test_names_that_are_not_encoded_properly_stay() -> None:
    for wire in ("a&b", "&!!-", "&2D0-", "&AA-"):
        assert decode_name(wire) == wire


def test_sets_stay_short_and_lose_nothing() -> None:
    assert list(write_sets([5, 1, 2, 3, 9, 9])) == ["1:3,5,9"]
    odd = range(1, 4001, 2)
    lines = list(write_sets(odd, room=100))
    assert max(map(len, lines)) <= 100
    assert [n for line in lines for n in map(int, line.split(","))] == list(odd)


def test_sets_are_read() -> None:
    assert read_set("3,1:2,9:*", 7) == NumberSet(((1, 3), (7, 9)))
    assert 8 in read_set("9:*", 7)
    assert 4 not in read_set("1:3,5", 7)
