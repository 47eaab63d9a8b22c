import pytest

from posthouse.protocol.reading import Buffer
from posthouse.protocol.smtp_reply import LINES_LIMIT, BadReply, Reply, ReplyReader


def read(data: bytes) -> Reply | None:
    buffer = Buffer()
    buffer.feed(data)
    return ReplyReader(buffer).next()


@pytest.mark.parametrize(
    ("reply", "sent"),
    [
        (Reply(250, "2.0.0", "OK"), b"250 2.0.0 OK\r\n"),
        (Reply(250, "", "a\nb\nc"), b"250-a\r\n250-b\r\n250 c\r\n"),
        (Reply(550, "5.1.1", "who\nis this"), b"550-5.1.1 who\r\n550 5.1.1 is this\r\n"),
        (Reply(354), b"354 \r\n"),
        (Reply(550, "", "a\r\nQUIT\x00 ü"), b"550-a?\r\n550 QUIT? ?\r\n"),
    ],
)
def test_a_reply_is_sent_line_by_line_and_no_text_can_break_out(reply: Reply, sent: bytes) -> None:
    assert reply.encode() == sent


def test_a_long_text_is_cut_to_what_a_client_must_take() -> None:
    sent = Reply(250, "2.0.0", "x" * 9999).encode()
    assert len(sent) <= 512
    assert sent.endswith(b"x\r\n")


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"250 OK\r\n", Reply(250, "", "OK")),
        (b"250\r\n", Reply(250)),
        (b"250 2.1.0 Sender OK\n", Reply(250, "2.1.0", "Sender OK")),
        (b"250-a\r\n250-SIZE 10\r\n250 b\r\n", Reply(250, "", "a\nSIZE 10\nb")),
        (b"534-5.7.9 Log in\r\n534 5.7.9 with care\r\n", Reply(534, "5.7.9", "Log in\nwith care")),
        (b"550-5.7.1 Once\r\n550 only\r\n", Reply(550, "5.7.1", "Once\nonly")),
        (b"550 4.7.1 not its class\r\n", Reply(550, "", "4.7.1 not its class")),
        (b"550 5.7.1\r\n", Reply(550, "5.7.1", "")),
        (b"334 \r\n", Reply(334)),
        (b"250 2.0.0 a\0b\rc\x1b[31m\tQUIT\r\n", Reply(250, "2.0.0", "a?b?c?[31m\tQUIT")),
        (b"550 \xc2\x85 \xe2\x80\xa8 \xc3\xbc \xff\r\n", Reply(550, "", "? ? ü \ufffd")),
        (b"250-a", None),
        (b"250-a\r\n", None),
    ],
)
def test_replies_are_read_with_their_enhanced_code(sent: bytes, reply: Reply | None) -> None:
    assert read(sent) == reply


def test_a_reply_reads_as_one_line() -> None:
    assert str(Reply(535, "5.7.139", "Authentication unsuccessful,\nuser disabled")) == (
        "535 5.7.139 Authentication unsuccessful, user disabled"
    )
    assert str(Reply(250)) == "250"


@pytest.mark.parametrize(
    ("code", "meaning"), [(250, "accepted"), (354, "accepted"), (450, "temporary"), (554, "permanent")]
)
def test_a_reply_knows_its_class(code: int, meaning: str) -> None:
    reply = Reply(code)
    known = {word for word in ("accepted", "temporary", "permanent") if getattr(reply, word)}
    assert known == {meaning}


@pytest.mark.parametrize(
    "data",
    [
        b"* OK IMAP4rev1\r\n",
        b"\r\n",
        b"25\r\n",
        b"2500 OK\r\n",
        b"199 OK\r\n",
        b"600 OK\r\n",
        b"\xff\xfe\r\n",
        b"250-a\r\n251 b\r\n",
        b"250 " + b"x" * 5000,
        b"250-x\r\n" * (LINES_LIMIT + 2),
    ],
)
def test_what_is_no_reply_or_has_no_end_is_bad(data: bytes) -> None:
    with pytest.raises(BadReply):
        read(data)
