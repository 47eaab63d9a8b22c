"""The IMAP server engine: dialogues in memory, limits, random conversations, and imaplib as a judge over loopback."""

import asyncio
import base64
import imaplib
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from posthouse.protocol.imap_server import Authenticate, Ended, Event, ImapServer, ServerPolicy, StartTls
from posthouse.protocol.maildrop import MailStore
from posthouse.protocol.sasl import oauthbearer, xoauth2
from posthouse.secret import Secret

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
MESSAGE = (
    b'From: Ann <ann@example.test>\r\nTo: bob@example.test, "C, D" <cd@example.test>\r\nSubject: Report\r\n'
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.test>\r\n\r\nFirst line.\r\nSecond.\r\n"
)
PICTURE = (
    b"From: a@example.test\r\nSubject: Scan\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b1"\r\n\r\npreamble\r\n--b1\r\n'
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nhello\r\n--b1\r\n"
    b"Content-Type: image/png; name=x.png\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment; filename=x.png\r\n\r\niVBORw0K\r\n--b1--\r\nepilogue\r\n"
)
LETTER = b"Subject: Fwd\r\nContent-Type: message/rfc822\r\n\r\n" + MESSAGE


def store_of(*bodies: bytes) -> MailStore:
    store = MailStore(("Sent", "Archive/2026", "Arkiv æøå"))
    for body in bodies:
        store.deliver(body, NOW)
    return store


class Talk:
    """A client's end: `says` gives what the server answers; whoever signs in gets `store`."""

    def __init__(self, policy: ServerPolicy | None = None, store: MailStore | None = None) -> None:
        self.engine = ImapServer(policy or ServerPolicy(), lambda: NOW)
        self.store = store or store_of()
        self.decide: Callable[[ImapServer, Authenticate], None] = lambda engine, _: engine.accept(self.store)
        self.events: list[Event] = []
        self.greeting = self.says(b"")

    def says(self, *lines: bytes) -> bytes:
        data = b"".join(line + b"\r\n" for line in lines if line)
        return self.sends(data)

    def sends(self, data: bytes) -> bytes:
        if data:
            self.engine.receive_data(data)
        return self.drive()

    def drive(self) -> bytes:
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, Authenticate):
                self.decide(self.engine, event)
        return self.engine.data_to_send()

    def signs_in(self) -> "Talk":
        response = xoauth2("ann@example.test", Secret("tok")).reveal().encode()
        assert b"A0 OK" in self.says(b"A0 AUTHENTICATE XOAUTH2 " + response)
        return self


def opened(*bodies: bytes) -> Talk:
    talk = Talk(store=store_of(*bodies)).signs_in()
    assert b"A1 OK [READ-WRITE]" in talk.says(b"A1 SELECT INBOX")
    return talk


# Signing in


def test_offers_nothing_but_oauth() -> None:
    talk = Talk()
    assert talk.greeting.startswith(b"* OK [CAPABILITY IMAP4rev1 SASL-IR ")
    assert b"AUTH=XOAUTH2 AUTH=OAUTHBEARER]" in talk.greeting
    assert b"AUTH=PLAIN" not in talk.greeting


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("at_once", [True, False])
def test_signs_in_with_a_token(mechanism: str, at_once: bool) -> None:
    make = {"XOAUTH2": xoauth2, "OAUTHBEARER": oauthbearer}[mechanism]
    response = make("ann@example.test", Secret("t0ken")).reveal().encode()
    talk = Talk()
    if at_once:
        said = talk.says(b"1 authenticate " + mechanism.encode() + b" " + response)
    else:
        assert talk.says(b"1 AUTHENTICATE " + mechanism.encode()) == b"+ \r\n"
        said = talk.says(response)
    assert said.startswith(b"1 OK [CAPABILITY IMAP4rev1 ")
    (event,) = talk.events
    assert isinstance(event, Authenticate)
    assert (event.credentials.user, event.credentials.secret.reveal()) == ("ann@example.test", "t0ken")
    assert "t0ken" not in repr(event)
    assert talk.engine.user == "ann@example.test"


def test_refusal_comes_after_the_challenge_is_answered() -> None:
    talk = Talk()
    talk.decide = lambda engine, _: engine.refuse("Invalid credentials (Failure)", challenge='{"status":"400"}')
    response = xoauth2("ann@example.test", Secret("old")).reveal().encode()
    said = talk.says(b"1 AUTHENTICATE XOAUTH2 " + response)
    assert base64.b64decode(said.removeprefix(b"+ ")) == b'{"status":"400"}'
    assert talk.sends(b"\r\n") == b"1 NO Invalid credentials (Failure)\r\n"
    assert b"2 BAD" in talk.says(b"2 SELECT INBOX")


def test_password_login_is_refused_in_the_words_of_the_policy() -> None:
    talk = Talk(ServerPolicy(login_refusal="LOGIN failed."))
    assert talk.says(b"1 LOGIN ann@example.test secret") == b"1 NO LOGIN failed.\r\n"
    assert talk.events == []


def test_password_login_can_be_asked_for() -> None:
    talk = Talk(ServerPolicy(login_refusal=None))
    assert b"+ Ready." in talk.says(b"1 LOGIN {3}")
    assert b"1 OK" in talk.says(b'ann "se\\"cret"')
    (event,) = talk.events
    assert isinstance(event, Authenticate)
    assert event.credentials.secret == Secret('se"cret')


def test_exchange_can_be_cancelled_and_garbage_is_refused() -> None:
    talk = Talk()
    talk.says(b"1 AUTHENTICATE XOAUTH2")
    assert talk.says(b"*") == b"1 BAD AUTHENTICATE cancelled.\r\n"
    assert talk.says(b"2 AUTHENTICATE XOAUTH2 !!!").startswith(b"2 BAD")
    assert talk.says(b"3 AUTHENTICATE PLAIN").startswith(b"3 NO [CANNOT]")
    assert talk.events == []


def test_nothing_is_read_while_the_driver_decides() -> None:
    engine = ImapServer(ServerPolicy(), lambda: NOW)
    engine.next_event()
    engine.data_to_send()
    response = xoauth2("a@example.test", Secret("t")).reveal().encode()
    engine.receive_data(b"1 AUTHENTICATE XOAUTH2 " + response + b"\r\n2 NOOP\r\n")
    assert isinstance(engine.next_event(), Authenticate)
    assert engine.next_event() is None
    assert engine.data_to_send() == b""
    engine.accept(store_of())
    assert engine.next_event() is None
    assert re.findall(rb"^(\d) OK", engine.data_to_send(), re.MULTILINE) == [b"1", b"2"]
    with pytest.raises(RuntimeError):
        engine.accept(store_of())


def test_a_client_that_pours_while_the_driver_decides_is_sent_away() -> None:
    engine = ImapServer(ServerPolicy(), lambda: NOW)
    engine.next_event()
    engine.receive_data(b"1 AUTHENTICATE XOAUTH2 " + xoauth2("a", Secret("t")).reveal().encode() + b"\r\n")
    engine.next_event()
    for _ in range(50):
        engine.receive_data(b"x" * 10_000)
    engine.accept(store_of())
    assert isinstance(engine.next_event(), Ended)
    assert b"* BYE" in engine.data_to_send()


def test_commands_sent_before_the_handshake_are_dropped() -> None:
    talk = Talk(ServerPolicy(starttls=True, auth_needs_tls=True))
    assert b"STARTTLS" in talk.greeting
    assert b"AUTH=" not in talk.greeting
    said = talk.says(b"1 STARTTLS", b"2 NOOP")
    assert said == b"1 OK Begin TLS now.\r\n"
    assert isinstance(talk.events[-1], StartTls)
    talk.engine.tls_started()
    assert talk.drive() == b""
    said = talk.says(b"3 CAPABILITY")
    assert b"AUTH=XOAUTH2" in said
    assert b"STARTTLS" not in said


def test_authenticated_but_not_connected() -> None:
    talk = Talk()
    talk.decide = lambda engine, _: engine.accept(talk.store, connected=False)
    talk.signs_in()
    assert talk.says(b"2 SELECT INBOX") == b"2 BAD User is authenticated but not connected.\r\n"
    assert b"3 OK" in talk.says(b"3 LOGOUT")


def test_the_next_answer_can_be_forced() -> None:
    talk = opened(MESSAGE)
    talk.engine.answer_next("NO", "Request is throttled.", "LIMIT")
    assert talk.says(b"2 UID STORE 1 +FLAGS (\\Deleted)") == b"2 NO [LIMIT] Request is throttled.\r\n"
    assert b"FLAGS ()" in talk.says(b"3 FETCH 1 FLAGS")


def test_bye_ends_the_conversation() -> None:
    talk = Talk()
    talk.engine.bye("Connection closed. 14")
    assert talk.drive() == b"* BYE Connection closed. 14\r\n"
    assert isinstance(talk.events[-1], Ended)
    assert talk.says(b"1 NOOP") == b""


# Folders


def test_lists_folders() -> None:
    talk = Talk().signs_in()
    assert talk.says(b'1 LIST "" %').count(b"* LIST") == 3
    assert b'"Arkiv &AOYA+ADl-"' in talk.says(b'2 LIST "" *')
    assert talk.says(b'3 LIST "Archive/" %').count(b"* LIST") == 1
    assert b'* LIST (\\Noselect) "/" ""' in talk.says(b'4 LIST "" ""')
    assert b'* NAMESPACE (("" "/")) NIL NIL' in talk.says(b"5 NAMESPACE")


def test_creates_deletes_and_subscribes_folders() -> None:
    talk = Talk().signs_in()
    assert b"1 OK" in talk.says(b"1 CREATE New")
    assert b"2 NO" in talk.says(b"2 CREATE New")
    assert b"3 OK" in talk.says(b"3 UNSUBSCRIBE New")
    assert b"New" not in talk.says(b'4 LSUB "" *')
    assert b"5 OK" in talk.says(b"5 RENAME New Newer")
    assert b"6 OK" in talk.says(b"6 DELETE Newer")
    assert b"7 NO" in talk.says(b"7 SELECT Newer")
    assert b"8 NO" in talk.says(b"8 DELETE INBOX")


def test_tells_the_status_of_a_folder() -> None:
    talk = Talk(store=store_of(MESSAGE, PICTURE)).signs_in()
    said = talk.says(b"1 STATUS INBOX (MESSAGES UIDNEXT UNSEEN)")
    assert b'* STATUS "INBOX" (MESSAGES 2 UIDNEXT 3 UNSEEN 2)' in said
    assert b"2 BAD" in talk.says(b"2 STATUS INBOX (NONSENSE)")


def test_opens_a_folder() -> None:
    said = Talk(store=store_of(MESSAGE)).signs_in().says(b"1 SELECT inbox")
    for line in (b"* 1 EXISTS", b"* OK [UIDVALIDITY 1]", b"* OK [UIDNEXT 2]", b"1 OK [READ-WRITE]"):
        assert line in said


def test_a_folder_opened_for_reading_is_not_changed() -> None:
    talk = Talk(store=store_of(MESSAGE)).signs_in()
    assert b"1 OK [READ-ONLY]" in talk.says(b"1 EXAMINE INBOX")
    assert b"2 NO" in talk.says(b"2 STORE 1 +FLAGS \\Deleted")
    assert b"3 NO" in talk.says(b"3 EXPUNGE")
    assert b"4 OK" in talk.says(b"4 FETCH 1 BODY[]")
    assert b"FLAGS ()" in talk.says(b"5 FETCH 1 FLAGS")


# Messages


def test_fetches_a_whole_message_and_marks_it_seen() -> None:
    talk = opened(MESSAGE)
    said = talk.says(b"2 UID FETCH 1 BODY[]")
    head = b"* 1 FETCH (UID 1 BODY[] {%d}\r\n" % len(MESSAGE)
    assert said == head + MESSAGE + b" FLAGS (\\Seen))\r\n2 OK FETCH completed.\r\n"
    assert b"\\Seen" not in opened(MESSAGE).says(b"2 FETCH 1 (BODY.PEEK[] FLAGS)")


@pytest.mark.parametrize(
    ("item", "answer"),
    [
        (b"RFC822.SIZE", b"RFC822.SIZE %d" % len(MESSAGE)),
        (b"INTERNALDATE", b'INTERNALDATE "22-Nov-2026 12:00:00 +0000"'),
        (b"BODY.PEEK[HEADER.FIELDS (subject)]", b"BODY[HEADER.FIELDS (SUBJECT)] {19}\r\nSubject: Report\r\n\r\n"),
        (b"BODY.PEEK[TEXT]", b"BODY[TEXT] {22}\r\nFirst line.\r\nSecond.\r\n"),
        (b"BODY.PEEK[TEXT]<6.4>", b'BODY[TEXT]<6> "line"'),
        (b"BODY.PEEK[1]<0.5>", b'BODY[1]<0> "First"'),
        (b"BODY.PEEK[7]", b"BODY[7] NIL"),
        (
            b"ENVELOPE",
            b'ENVELOPE ("Sun, 22 Nov 2026 10:00:00 +0000" "Report" (("Ann" NIL "ann" "example.test")) '
            b'(("Ann" NIL "ann" "example.test")) (("Ann" NIL "ann" "example.test")) '
            b'((NIL NIL "bob" "example.test")("C, D" NIL "cd" "example.test")) NIL NIL NIL "<1@example.test>")',
        ),
        (b"BODY", b'BODY ("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 22 2)'),
    ],
)
def test_fetches_items(item: bytes, answer: bytes) -> None:
    assert b"* 1 FETCH (" + answer + b")\r\n" in opened(MESSAGE).says(b"2 FETCH 1 " + item)


def test_fetches_parts_of_a_multipart() -> None:
    talk = opened(PICTURE, LETTER)
    assert b'BODY[1] "hello")' in talk.says(b"2 FETCH 1 BODY.PEEK[1]")
    assert b'BODY[2] "iVBORw0K")' in talk.says(b"3 FETCH 1 BODY.PEEK[2]")
    assert b"Content-Type: image/png" in talk.says(b"4 FETCH 1 BODY.PEEK[2.MIME]")
    said = talk.says(b"5 FETCH 1 BODYSTRUCTURE")
    assert (
        b'("image" "png" ("name" "x.png") NIL NIL "base64" 8 NIL ("attachment" ("filename" "x.png")) NIL NIL)' in said
    )
    assert b' "mixed" ("boundary" "b1") NIL NIL NIL)' in said
    assert b'("message" "rfc822" NIL NIL NIL "7bit"' in talk.says(b"6 FETCH 2 BODYSTRUCTURE")
    assert b"Subject: Report" in talk.says(b"7 FETCH 2 BODY.PEEK[1.HEADER]")


def test_flags_are_set_added_and_removed() -> None:
    talk = opened(MESSAGE, MESSAGE)
    assert b"* 1 FETCH (FLAGS (\\Flagged \\Seen))" in talk.says(b"2 STORE 1 FLAGS (\\seen \\FLAGGED)")
    assert b"* 1 FETCH (UID 1 FLAGS (\\Flagged))" in talk.says(b"3 UID STORE 1 -FLAGS \\Seen")
    assert talk.says(b"4 STORE 1:2 +FLAGS.SILENT ($Junk)") == b"4 OK STORE completed.\r\n"
    assert b"$Junk \\Flagged" in talk.says(b"5 FETCH 1 FLAGS")


def test_expunge_tells_the_numbers_as_they_move() -> None:
    talk = opened(MESSAGE, MESSAGE, MESSAGE)
    talk.says(b"2 STORE 1,3 +FLAGS.SILENT \\Deleted")
    assert talk.says(b"3 EXPUNGE") == b"* 3 EXPUNGE\r\n* 1 EXPUNGE\r\n3 OK EXPUNGE completed.\r\n"
    assert b"UID 2" in talk.says(b"4 FETCH 1 UID")


def test_uid_expunge_leaves_other_deleted_messages() -> None:
    talk = opened(MESSAGE, MESSAGE)
    talk.says(b"2 STORE 1:2 +FLAGS.SILENT \\Deleted")
    assert talk.says(b"3 UID EXPUNGE 2") == b"* 2 EXPUNGE\r\n3 OK EXPUNGE completed.\r\n"


def test_close_expunges_and_unselect_does_not() -> None:
    for verb, left in ((b"CLOSE", 0), (b"UNSELECT", 1)):
        talk = opened(MESSAGE)
        talk.says(b"2 STORE 1 +FLAGS \\Deleted", b"3 " + verb)
        assert len(talk.store.folder("INBOX").messages) == left
        assert b"4 BAD" in talk.says(b"4 FETCH 1 FLAGS")


def test_copy_and_move_tell_the_new_uids() -> None:
    talk = opened(MESSAGE, PICTURE)
    assert b"2 OK [COPYUID 2 1:2 1:2]" in talk.says(b"2 COPY 1:2 Sent")
    said = talk.says(b"3 UID MOVE 1 Sent")
    assert said == b"* OK [COPYUID 2 1 3] Moved.\r\n* 1 EXPUNGE\r\n3 OK MOVE completed.\r\n"
    assert b"4 NO [TRYCREATE]" in talk.says(b"4 COPY 1 Nowhere")


def test_append_keeps_flags_and_date() -> None:
    talk = opened()
    said = talk.says(b'2 APPEND INBOX (\\Seen) "17-Jul-1996 02:44:25 -0700" {5}')
    assert said == b"+ Ready.\r\n"
    said = talk.says(b"a\r\nbc")
    assert b"* 1 EXISTS" in said
    assert b"2 OK [APPENDUID 1 1]" in said
    said = talk.says(b"3 FETCH 1 (FLAGS INTERNALDATE RFC822.SIZE)")
    assert b'(FLAGS (\\Seen) INTERNALDATE "17-Jul-1996 02:44:25 -0700" RFC822.SIZE 5)' in said
    assert b"4 NO [TRYCREATE]" in talk.says(b"4 APPEND Nowhere {1+}\r\nx")


@pytest.mark.parametrize(
    ("criteria", "found"),
    [
        (b"ALL", b"1 2"),
        (b"UNSEEN", b"1 2"),
        (b"SEEN", b""),
        (b"FROM ann", b"1"),
        (b'SUBJECT "scan"', b"2"),
        (b"HEADER Message-ID <1@example.test>", b"1"),
        (b'TEXT "second"', b"1"),
        (b"BODY hello", b"2"),
        (b"NOT FROM ann", b"2"),
        (b"OR FROM ann SUBJECT scan", b"1 2"),
        (b"(FROM ann SUBJECT scan)", b""),
        (b"SINCE 22-Nov-2026", b"1 2"),
        (b"BEFORE 22-Nov-2026", b""),
        (b"ON 22-Nov-2026 2", b"2"),
        (b"UID 2:*", b"2"),
        (b"UID 9:*", b"2"),
        (b"LARGER 300", b"2"),
        (b"CHARSET UTF-8 SMALLER 300", b"1"),
        (b"UNDELETED UNKEYWORD $Junk", b"1 2"),
    ],
)
def test_searches(criteria: bytes, found: bytes) -> None:
    said = opened(MESSAGE, PICTURE).says(b"2 UID SEARCH " + criteria)
    assert said.startswith((b"* SEARCH " + found).strip() + b"\r\n2 OK")


@pytest.mark.parametrize(
    "command",
    [
        b"SEARCH NONSENSE",
        b"SEARCH",
        b"SEARCH NOT",
        b"SEARCH SINCE yesterday",
        b"FETCH 1 NONSENSE",
        b"FETCH 5 FLAGS",
        b"FETCH 0 FLAGS",
        b"FETCH x FLAGS",
        b"FETCH 1",
        b"FETCH 1 (FLAGS",
        b"FETCH 1 BODY[NONSENSE]",
        b"FETCH 1 BODY[]<0.0>",
        b"FETCH 1 BINARY[1]",
        b"STORE 1 NONSENSE \\Seen",
        b"STORE 1 FLAGS (bad{flag)",
        b"SELECT",
        b"NONSENSE",
        b"APPEND INBOX noliteral",
    ],
)
def test_wrong_commands_are_bad(command: bytes) -> None:
    assert opened(MESSAGE).says(b"2 " + command).startswith(b"2 BAD")


def test_unknown_charset_is_named() -> None:
    assert b"2 NO [BADCHARSET" in opened(MESSAGE).says(b"2 SEARCH CHARSET KOI8-R ALL")


# News


def test_idle_tells_what_others_do() -> None:
    talk = opened(MESSAGE)
    assert talk.says(b"2 IDLE") == b"+ idling\r\n"
    talk.store.deliver(MESSAGE, NOW)
    talk.engine.poll()
    assert talk.engine.data_to_send() == b"* 2 EXISTS\r\n"
    inbox = talk.store.folder("INBOX")
    talk.store.set_flags(inbox, 2, frozenset({"\\Seen"}))
    talk.store.expunge(inbox, [1])
    talk.engine.poll()
    assert talk.engine.data_to_send() == b"* 1 EXPUNGE\r\n* 1 FETCH (UID 2 FLAGS (\\Seen))\r\n"
    assert talk.says(b"DONE") == b"2 OK IDLE completed.\r\n"
    talk.store.deliver(MESSAGE, NOW)
    talk.engine.poll()
    assert talk.engine.data_to_send() == b""
    assert talk.says(b"3 NOOP").startswith(b"* 2 EXISTS")


def test_numbers_do_not_move_during_fetch() -> None:
    talk = opened(MESSAGE, MESSAGE)
    talk.store.expunge(talk.store.folder("INBOX"), [1])
    said = talk.says(b"2 FETCH 1:2 UID")
    assert said == b"* 2 FETCH (UID 2)\r\n2 OK FETCH completed.\r\n"
    assert talk.says(b"3 NOOP") == b"* 1 EXPUNGE\r\n3 OK NOOP completed.\r\n"


# Limits


def test_a_line_without_end_is_answered() -> None:
    talk = Talk()
    assert b"* BYE" in talk.sends(b"1 NOOP " + b"x" * 70_000)
    assert isinstance(talk.events[-1], Ended)


def test_a_large_literal_is_refused_before_it_is_sent() -> None:
    talk = Talk(ServerPolicy(login_refusal=None))
    assert talk.says(b"1 LOGIN {70000}").startswith(b"1 NO [TOOBIG]")
    assert b"2 OK" in talk.says(b"2 NOOP")
    assert b"* BYE [TOOBIG]" in talk.says(b"3 LOGIN {70000+}")


def test_a_large_message_is_refused_and_a_full_mailbox_says_so() -> None:
    talk = Talk(ServerPolicy(message_limit=100_000), MailStore(quota=90_000)).signs_in()
    assert talk.says(b"1 APPEND INBOX {100001}").startswith(b"1 NO [TOOBIG]")
    assert b"+ Ready" in talk.says(b"2 APPEND INBOX {95000}")
    assert b"2 NO" in talk.sends(b"x" * 95_000 + b"\r\n")


def test_bad_commands_and_refused_logins_have_an_end() -> None:
    talk = Talk()
    assert b"* BYE" in talk.says(*[b"nonsense"] * 25)
    talk = Talk()
    assert b"* BYE" in talk.says(*[b"1 LOGIN a b"] * 12)


@pytest.mark.parametrize(
    "command",
    [
        b"SEARCH " + b"NOT " * 2000 + b"ALL",
        b"SEARCH " + b"(" * 2000 + b"ALL" + b")" * 2000,
        b"FETCH 1 (" + b"BODY[] " * 200 + b")",
        b'LIST "" ' + b"*a" * 2000,
        b"STORE 1 FLAGS (" + b" ".join(b"k%d" % n for n in range(200)) + b")",
    ],
)
def test_commands_that_would_cost_much_are_bad(command: bytes) -> None:
    assert opened(MESSAGE).says(b"2 " + command).startswith(b"2 BAD")


def test_messages_that_nest_are_read_to_a_depth() -> None:
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(3000))
    wide = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 5000
    talk = opened(deep, wide)
    assert b"2 OK" in talk.says(b"2 FETCH 1:2 (BODYSTRUCTURE BODY.PEEK[1.1.1.1])")


def test_answers_are_one_line_whatever_a_name_holds() -> None:
    talk = Talk().signs_in()
    said = talk.says(b"1 SELECT {9+}\r\nx\r\n* BYE y")
    assert said.count(b"\r\n") == 1


# The same, cut in pieces; and at random

CONVERSATION = [
    b"1 CAPABILITY",
    b"2 AUTHENTICATE XOAUTH2",
    xoauth2("ann@example.test", Secret("tok")).reveal().encode(),
    b"3 SELECT INBOX",
    b"4 UID FETCH 1:* (FLAGS BODY.PEEK[])",
    b'5 APPEND "Sent" {3}',
    b"a\r\n",
    b"6 UID SEARCH HEADER Subject {4+}\r\nScan",
    b"7 STORE 2 +FLAGS (\\Deleted)",
    b"8 IDLE",
    b"done",
    b"9 EXPUNGE",
    b"10 LOGOUT",
]


def test_whole_and_byte_by_byte_are_the_same() -> None:
    data = b"".join(line + b"\r\n" for line in CONVERSATION)
    whole, pieces = (Talk(store=store_of(MESSAGE, PICTURE)) for _ in range(2))
    said = whole.sends(data)
    assert said == b"".join(pieces.sends(data[at : at + 1]) for at in range(len(data)))
    assert [str(event) for event in whole.events] == [str(event) for event in pieces.events]
    assert b"10 OK" in said
    assert isinstance(whole.events[-1], Ended)


WORDS = (
    b"A1 B2 UID FETCH STORE SEARCH SELECT INBOX LIST LSUB STATUS APPEND COPY MOVE EXPUNGE CLOSE IDLE DONE NOOP "
    b"LOGIN AUTHENTICATE XOAUTH2 CREATE RENAME DELETE ENABLE ID NAMESPACE 1 1:* * 2:4,1 ALL OR NOT FROM SINCE "
    b"1-Jan-2026 1-Feb-0000 BODY[] BODY.PEEK[1.2.HEADER] BODY[HEADER.FIELDS (A)]<0.5> ENVELOPE BODYSTRUCTURE FLAGS "
    b'+FLAGS (\\Seen) \\Deleted ( ) () " "x" "\\" {3} {3+} {99999999999} NIL ~ % & &AOY- &- \x00 \xff \xc2\xb2'
).split(b" ")


def random_line(dice: random.Random) -> bytes:
    words = dice.choices(WORDS, k=dice.randint(0, 6))
    start = [] if dice.random() < 0.2 else [b"A1"]
    return b" ".join(start + words) + dice.choice((b"\r\n", b"\r\n", b"\n", b""))


def test_random_conversations_never_raise() -> None:
    dice = random.Random(1)
    ended = 0
    for _ in range(1500):
        talk = Talk(ServerPolicy(login_refusal=None, bad_commands=200), store_of(MESSAGE, PICTURE, LETTER))
        if dice.random() < 0.8:
            talk.signs_in().says(b"A1 SELECT INBOX")
        for _ in range(8):
            talk.sends(random_line(dice))
        talk.engine.poll()
        talk.engine.receive_data(b"")
        talk.drive()
        ended += isinstance(talk.events[-1], Ended)
    assert ended == 1500


def test_random_messages_never_raise() -> None:
    dice = random.Random(2)
    bits = [
        b"Content-Type: ",
        b"multipart/mixed; boundary=b",
        b"message/rfc822",
        b"\r\n",
        b"\r\n\r\n",
        b"--b",
        b"--b--",
    ]
    bits += [b"From: ", b"<a@b>", b"(((", b'"', b"\\", b":;,", b"@", b"\xff\x00", b"To: g:a,b;", b"; name*0*=x'y'z"]
    for _ in range(1000):
        talk = opened(b"".join(dice.choices(bits, k=dice.randint(0, 25))))
        assert b"2 OK" in talk.says(b"2 FETCH 1 (ENVELOPE BODYSTRUCTURE BODY[1.1] BODY.PEEK[HEADER.FIELDS (FROM)])")


# imaplib as a judge


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, store: MailStore) -> None:
    engine = ImapServer(ServerPolicy(), lambda: NOW)
    while True:
        event = engine.next_event()
        writer.write(engine.data_to_send())
        if isinstance(event, Authenticate):
            known = event.credentials.secret == Secret("good")
            engine.accept(store) if known else engine.refuse(challenge='{"status":"401"}')
        elif isinstance(event, Ended):
            break
        elif event is None:
            engine.receive_data(await reader.read(4096))
    writer.close()
    await writer.wait_closed()


def imaplib_reads(port: int) -> list[object]:
    with imaplib.IMAP4("127.0.0.1", port, timeout=10) as client:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATE failed"):
            client.authenticate("XOAUTH2", lambda challenge: b"" if challenge else b"user=a\1auth=Bearer bad\1\1")
        with pytest.raises(imaplib.IMAP4.error, match="LOGIN failed"):
            client.login("a", "secret")
        client.authenticate("XOAUTH2", lambda _: b"user=a\1auth=Bearer good\1\1")
        told: list[object] = [str(client.select("INBOX"))]
        told.append(client.uid("SEARCH", "UNSEEN"))
        told.append(client.fetch("1", "(UID BODY.PEEK[])"))
        client.append("INBOX", "\\Flagged", imaplib.Time2Internaldate(NOW), PICTURE)
        client.store("1", "+FLAGS", "\\Deleted")
        told.append(client.expunge())
        told.append(client.fetch("1:*", "(FLAGS RFC822.SIZE)"))
        told.append(client.list('""', "Arkiv*"))
        told.append(client.status("Sent", "(MESSAGES)"))
        told.append(client.copy("1", "Sent")[0])
        client.close()
    return told


async def test_imaplib_understands_it() -> None:
    store = store_of(MESSAGE)
    done: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        done.append(task)
        await serve(reader, writer, store)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    told = await asyncio.to_thread(imaplib_reads, server.sockets[0].getsockname()[1])
    server.close()
    await asyncio.gather(*done)
    assert told == [
        "('OK', [b'1'])",
        ("OK", [b"1"]),
        ("OK", [(b"1 (UID 1 BODY[] {%d}" % len(MESSAGE), MESSAGE), b")"]),
        ("OK", [b"1"]),
        ("OK", [b"1 (FLAGS (\\Flagged) RFC822.SIZE %d)" % len(PICTURE)]),
        ("OK", [b'(\\HasNoChildren) "/" "Arkiv &AOYA+ADl-"']),
        ("OK", [b'"Sent" (MESSAGES 0)']),
        "OK",
    ]
