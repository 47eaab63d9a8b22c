"""The header of a message on its way out."""

import contextlib
import time
from datetime import UTC, datetime

import pytest

from posthouse.model.headers import HEADER_LIMIT, BadHeader, Head, SenderChange, complete, date_text, split

NOW = datetime(2026, 11, 22, 9, 8, 7, 654321, tzinfo=UTC)
FULL = b"Date: yesterday\r\nMessage-ID: <1@printer>\r\n"
OFFICE = SenderChange("office@example.com", "")


def done(head: bytes, change: SenderChange | None = None) -> Head:
    return complete(
        head + b"\r\n", received="by gateway; now", new_message_id="<new@example.com>", now=NOW, change=change
    )


def lines(head: bytes, change: SenderChange | None = None) -> list[str]:
    octets = done(head, change).octets
    assert octets.endswith(b"\r\n\r\n")
    return octets.decode().split("\r\n")[:-2]


# Where the header ends


@pytest.mark.parametrize(
    ("data", "end"),
    [(b"A: b\r\n\r\nbody", 8), (b"\r\nbody", 2), (b"A: b\r\n", -1), (b"", -1), (b"A: b\r\n\r", -1)],
)
def test_the_header_ends_with_the_first_empty_line(data: bytes, end: int) -> None:
    assert split(data) == split(bytearray(data)) == end


# What is added


def test_a_complete_header_gets_a_received_line_and_stays_as_it_is() -> None:
    given = b"from: Bob <bob@example.com>\r\nSubject: a\r\n\tfolded one\r\n" + FULL
    assert done(given).octets == b"Received: by gateway; now\r\n" + given + b"\r\n"


def test_what_a_careless_device_leaves_out_is_added() -> None:
    assert lines(b"From: bob@example.com\r\n") == [
        "Received: by gateway; now",
        "Date: Sun, 22 Nov 2026 09:08:07 +0000",
        "Message-ID: <new@example.com>",
        "From: bob@example.com",
    ]


def test_a_message_without_any_header_gets_the_mailbox_as_sender() -> None:
    assert lines(b"", OFFICE)[3:] == ["From: office@example.com"]


def test_the_date_changes_with_the_second() -> None:
    assert date_text(NOW) == "Sun, 22 Nov 2026 09:08:07 +0000"
    assert date_text(NOW.replace(second=8, microsecond=0)) == "Sun, 22 Nov 2026 09:08:08 +0000"


# What is read


def test_message_id_subject_and_sender_are_read_wherever_and_however_they_stand() -> None:
    head = done(
        b"SUBJECT :\r\n A scan\r\n of pages\r\nMessage-id:<1@x>\r\nSubject: second\r\nFROM: <Bob@Example.com>\r\n"
    )
    assert (head.message_id, head.subject, head.sender) == ("<1@x>", "A scan of pages", "Bob@Example.com")


@pytest.mark.parametrize(
    ("text", "sender"),
    [
        (b"bob@example.com", "bob@example.com"),
        (b"<bob@example.com>", "bob@example.com"),
        (b"Bob  B. <bob@example.com>", "bob@example.com"),
        (b'"B., Bob" <bob@example.com>', "bob@example.com"),
        (b"bob@example.com (Bob)", "bob@example.com"),
        (b"bob@example.com, eve@example.com", "bob@example.com"),
        (b"Bob\r\n <bob@example.com>", "bob@example.com"),
        ("Jürgen <jürgen@example.com>".encode(), "jürgen@example.com"),
        (b"<>", ""),
        (b"", ""),
        (b"printer", "printer"),
    ],
)
def test_the_address_in_from(text: bytes, sender: str) -> None:
    assert done(b"From: " + text + b"\r\n" + FULL).sender == sender


@pytest.mark.parametrize(
    "head",
    [b"no header\r\n", b"From: a@b.c\r\nno header\r\n", b" folded\r\nFrom: a@b.c\r\n", b": a\r\n", b"Fr om: a@b.c\r\n"],
)
def test_what_is_no_header_is_refused(head: bytes) -> None:
    with pytest.raises(BadHeader, match="does not begin with a header"):
        done(head)


def test_without_from_and_without_a_sender_to_put_in_it_is_refused() -> None:
    with pytest.raises(BadHeader, match="no From"):
        done(b"Fromage: brie\r\n")


# In the mailbox's name


def test_the_sender_is_changed_and_the_one_that_stood_there_gets_the_answers() -> None:
    given = (
        b"Sender: root@printer\r\nFrom: Scanner\r\n <scan@printer.example>\r\nTo: a@b.c\r\nfrom: second@x.y\r\n" + FULL
    )
    assert lines(given, OFFICE) == [
        "Received: by gateway; now",
        "From: Scanner <office@example.com>",
        "Reply-To: scan@printer.example",
        "To: a@b.c",
        "Date: yesterday",
        "Message-ID: <1@printer>",
    ]


def test_answers_go_where_the_device_wants_them() -> None:
    changed = lines(b"From: scan@printer.example\r\nReply-To: help@example.com\r\n" + FULL, OFFICE)
    assert changed[1:3] == ["From: office@example.com", "Reply-To: help@example.com"]


def test_nothing_is_changed_where_the_sender_is_right_already() -> None:
    given = b"From: Office <OFFICE@example.com>\r\n" + FULL
    assert done(given, OFFICE).octets == b"Received: by gateway; now\r\n" + given + b"\r\n"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Support", "Support <office@example.com>"),
        ("J. Doe, Sales", '"J. Doe, Sales" <office@example.com>'),
        ('5" tape', '"5\\" tape" <office@example.com>'),
        ("Zoë", "=?utf-8?q?Zo=C3=AB?= <office@example.com>"),
    ],
)
def test_the_senders_name_is_written_as_it_has_to_be(name: str, written: str) -> None:
    changed = lines(b"From: Office <office@example.com>\r\n" + FULL, SenderChange("office@example.com", name))
    assert changed[1] == f"From: {written}"
    assert not any(line.startswith("Reply-To") for line in changed)


def test_a_sender_beyond_ascii_is_written_as_it_is() -> None:
    changed = lines(b"From: a@b.c\r\n" + FULL, SenderChange("büro@example.com", "Büro"))
    assert changed[1] == "From: =?utf-8?b?QsO8cm8=?= <büro@example.com>"


@pytest.mark.parametrize(
    "head",
    [
        b"a" * HEADER_LIMIT,
        b"A:" + b"\r\n " * (HEADER_LIMIT // 3),
        b"A: b\r\n" * (HEADER_LIMIT // 6) + b"bad\r\n",
        b"From: " + b'"' * HEADER_LIMIT + b"\r\n",
        b"From: " + b"a " * (HEADER_LIMIT // 2) + b"<\r\n",
        b"From: " + b"a" * HEADER_LIMIT + b"@\r\n",
        b"From: <" + b"a@" * (HEADER_LIMIT // 2) + b"\r\n",
    ],
)
def test_no_header_takes_long_to_read(head: bytes) -> None:
    began = time.process_time()
    with contextlib.suppress(BadHeader):
        done(head, OFFICE)
    assert time.process_time() - began < 1
