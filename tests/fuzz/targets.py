"""What is fuzzed: each target plays octets that a peer could send, whole or in steps, and tells what came of them.

A target takes every decision from the octets themselves, so that an input that was found once can be played for ever.
It raises where something happens that may not happen.
"""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from posthouse.model.headers import BadHeader, Head, SenderChange, complete, split
from posthouse.model.outcome import Granted, Refused, Unreachable
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.message import MAX_ANSWER, Answer
from posthouse.protocol import (
    imap_client,
    imap_responses,
    imap_server,
    mail_server,
    pop_client,
    pop_server,
    smtp_client,
    smtp_server,
)
from posthouse.protocol import smtp_reply as replies
from posthouse.protocol.maildrop import MailStore
from posthouse.protocol.reading import has_bare_line_end
from posthouse.protocol.sasl import xoauth2
from posthouse.protocol.smtp_reply import Reply
from posthouse.secret import Secret

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TOKEN = Secret("token" * 10)
LONG = (b"x" * 3000, b"y" * 13_000)
ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b" ", b"")


@dataclass(frozen=True, slots=True)
class Target:
    """`openings` lead in, `words` are what a conversation is made of. `play(octets, step)` feeds `step` at once."""

    name: str
    openings: tuple[bytes, ...]
    words: tuple[bytes, ...]
    play: Callable[[bytes, int], object]
    ends: tuple[bytes, ...] = ENDS


def pieces(octets: bytes, step: int) -> Iterable[bytes]:
    return (octets[at : at + step] for at in range(0, len(octets), step))


# SMTP, the server's side

SMTP_POLICIES = (
    smtp_server.ServerPolicy("gw.example", auth_needs_tls=False, size_limit=5000, max_recipients=3),
    smtp_server.ServerPolicy("gw.example", starttls=True),
    smtp_server.ServerPolicy("gw.example", auth_required=False, auth_needs_tls=False, auth_mechanisms=("XOAUTH2",)),
)

SMTP_CHUNKS = smtp_server.ServerPolicy("gw.example", auth_required=False, chunking=True, size_limit=500)


def smtp_policy(octets: bytes) -> smtp_server.ServerPolicy:
    """The first octet chooses it."""
    if octets.startswith(b"d"):
        return SMTP_CHUNKS
    return SMTP_POLICIES[octets[0] % len(SMTP_POLICIES)] if octets else SMTP_POLICIES[0]


def play_smtp_server(octets: bytes, step: int) -> object:
    """Where a TLS handshake seems to begin, the conversation is over. No message that is taken smuggles another one."""
    octets = octets[: octets.find(b"\n\x16") + 2] if b"\n\x16" in octets else octets
    server = smtp_server.SmtpServer(smtp_policy(octets))
    said, body, taken, told = [server.data_to_send()], bytearray(), [], []
    for piece in (*pieces(octets[1:], step), b""):
        server.receive_data(piece)
        while (event := server.next_event()) is not None:
            if isinstance(event, smtp_server.BodyChunk):
                body += event.data
                continue
            told.append(repr(event))
            if isinstance(event, smtp_server.BodyEnd):
                taken.append(bytes(body))
                assert event.size == len(body)
                assert not has_bare_line_end(taken[-1])
                assert b"\0" not in body
            body.clear()
            if (reply := smtp_decision(event)) is not None:
                server.reply(reply)
            said.append(server.data_to_send())
            if isinstance(event, smtp_server.StartTls):
                return b"".join(said), told
        said.append(server.data_to_send())
    assert told[-1].startswith("Ended(")
    assert all(line[:3].isdigit() for line in b"".join(said).splitlines())
    return b"".join(said), taken, told


def smtp_decision(event: smtp_server.Event) -> Reply | None:
    match event:
        case smtp_server.StartTls():
            return replies.READY_FOR_TLS
        case smtp_server.Authenticate(credentials):
            return replies.AUTHENTICATED if credentials.secret == Secret("secret") else replies.WRONG_PASSWORD
        case smtp_server.MailFrom(address):
            return Reply(550, "5.7.1", "No") if "no" in address else replies.SENDER_OK
        case smtp_server.RcptTo(address):
            return Reply(550, "5.1.1", "No") if "no" in address else replies.RECIPIENT_OK
        case smtp_server.DataBegun():
            return replies.GO_AHEAD
        case smtp_server.BodyEnd(size):
            return replies.LOCAL_ERROR if size % 7 == 0 else Reply(250, "2.0.0", "Queued")
    return None


PLAIN = base64.b64encode(b"\0me\0secret")
SMTP_SERVER = Target(
    "smtp-server",
    (
        b"aEHLO me\r\nAUTH PLAIN " + PLAIN + b"\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
        b"aEHLO me\r\nAUTH LOGIN\r\n",
        b"bEHLO me\r\n",
        b"cHELO me\r\nMAIL FROM:<>\r\n",
        b"cEHLO me\r\nAUTH XOAUTH2\r\n",
        b"dEHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
        b"dEHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 9\r\nSubject: ",
    ),
    (
        b"EHLO me", b"HELO", b"STARTTLS", b"AUTH PLAIN", b"AUTH LOGIN", b"AUTH PLAIN " + PLAIN, b"bWU=", b"c2VjcmV0",
        b"*", b"MAIL FROM:<a@b>", b"MAIL FROM:<> SIZE=5 BODY=8BITMIME SMTPUTF8", b"RCPT TO:<c@d>", b"RCPT TO:<no@d>",
        b"DATA", b".", b"..", b"...", b"RSET", b"NOOP", b"QUIT", b"VRFY x", b"\0", b"\xff", b"\x16\x03\x01", b"GET /",
        b"Subject: x", b"", b"\xc3\xa6", b"MAIL FROM:<\"a b\"@c>", b"RCPT TO:<@x,@y:z@w>",
        b"BDAT 0 LAST", b"BDAT 5", b"BDAT 7 LAST", b"BDAT 12", b"BDAT 3\r\na\r\n", b"BDAT 1\r\n\r",
        b"BDAT 2 LAST\r\n\n.", b"BDAT 501", b"BDAT -1", b"BDAT 9999999999999", b"BDAT", *LONG,
    ),
    play_smtp_server,
)  # fmt: skip


# SMTP, the client's side


def play_smtp_client(octets: bytes, step: int) -> object:
    secured = bool(octets) and octets[0] % 2 == 0
    client = smtp_client.SmtpClient("me", tls=secured, want_starttls=not secured)
    said, told = bytearray(), []
    for piece in (*pieces(octets[1:], step), b""):
        client.receive_data(piece)
        while (event := client.next_event()) is not None:
            told.append(repr(event))
            if isinstance(event, smtp_client.StartTls):
                return said + client.data_to_send(), told
            smtp_next(client, event)
        said += client.data_to_send()
    assert client.closed
    return bytes(said), told


def smtp_next(client: smtp_client.SmtpClient, event: smtp_client.Event) -> None:
    """What a dispatcher does at each event."""
    match event:
        case smtp_client.Ready():
            client.authenticate("XOAUTH2", "u", TOKEN)
        case smtp_client.Authenticated():
            client.send_envelope("a@b.c", ["d@e.f", "g@h.i"])
        case smtp_client.EnvelopeAnswered(go_ahead=True):
            client.send_body(b"text\r\n.\r")
            client.send_body(b"\nmore")
            client.end_body()
        case smtp_client.MessageAnswered() if not client.closed:
            client.send_envelope("a@b.c", ["d@e.f"])
        case smtp_client.AuthRefused() | smtp_client.EnvelopeAnswered() if not client.closed:
            client.quit()


OFFER = b"250-mx\r\n250-AUTH XOAUTH2 PLAIN\r\n250 PIPELINING\r\n"
OFFER_CHUNKS = OFFER.replace(b"250 PIPELINING", b"250-PIPELINING\r\n250 CHUNKING")
SMTP_CLIENT = Target(
    "smtp-client",
    (
        b"b220 mx\r\n" + OFFER + b"235 in\r\n250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n",
        b"b220 mx\r\n" + OFFER,
        b"b220 mx\r\n" + OFFER_CHUNKS + b"235 in\r\n250 ok\r\n250 ok\r\n550 no\r\n",
        b"b220 mx\r\n" + OFFER_CHUNKS + b"235 in\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 chunk\r\n",
        b"a220 mx\r\n250 STARTTLS\r\n",
    ),
    (
        b"220 mx", b"250 OK", b"250-a", b"250 STARTTLS", b"250", b"235 2.7.0 in", b"334 ", b"334 e30=", b"354 go",
        b"421 bye", b"450 4.2.0 later", b"535 5.7.8 no", b"550-a", b"550 no", b"999 x", b"25", b"", b"\xff", b"\0",
        b"2.1.0", b"250\t", b"250-PIPELINING", b"250 8BITMIME", b"250 CHUNKING", b"500 what", *LONG,
    ),
    play_smtp_client,
)  # fmt: skip


# IMAP and POP3, the servers


def with_mail() -> MailStore:
    store = MailStore(("Sent", "Archive"))
    for number in range(2):
        store.deliver(b"Subject: %d\r\n\r\nbody\r\n.\r\n" % number, NOW)
    return store


def play_mail_server(server: Any, octets: bytes, step: int) -> object:
    said, told = bytearray(server.data_to_send()), []
    for piece in (*pieces(octets, step), b""):
        server.receive_data(piece)
        while (event := server.next_event()) is not None:
            told.append(repr(event))
            if isinstance(event, mail_server.StartTls):
                return said + server.data_to_send(), told
            if isinstance(event, mail_server.Authenticate):
                server.accept(with_mail())
        said += server.data_to_send()
    assert told[-1].startswith("Ended(")
    return bytes(said), told


def play_imap_server(octets: bytes, step: int) -> object:
    policy = imap_server.ServerPolicy(starttls=True, literal_limit=2000, message_limit=20_000)
    return play_mail_server(imap_server.ImapServer(policy, lambda: NOW), octets, step)


def play_pop_server(octets: bytes, step: int) -> object:
    return play_mail_server(pop_server.PopServer(pop_server.ServerPolicy(starttls=True)), octets, step)


XOAUTH2 = xoauth2("me", TOKEN).reveal().encode()
IMAP_SERVER = Target(
    "imap-server",
    (b"1 AUTHENTICATE XOAUTH2 " + XOAUTH2 + b"\r\n2 SELECT INBOX\r\n", b"1 AUTHENTICATE XOAUTH2\r\n", b""),
    tuple(
        b"A1 |B2 |UID |FETCH |STORE |SEARCH |SELECT INBOX|LIST |STATUS |APPEND |COPY |MOVE |EXPUNGE|CLOSE|IDLE|DONE|"
        b"NOOP|LOGIN |AUTHENTICATE |XOAUTH2|1 |1:* |* |2:4,1 |ALL |OR |NOT |SINCE |1-Jan-2026 |BODY[] |BODY[1.2] |"
        b"BODY[HEADER.FIELDS (A)]<0.5> |ENVELOPE |BODYSTRUCTURE |+FLAGS |(\\Seen) |( |) |\" |\"x\" |{3}\r\n|{3+}\r\n|"
        b"{99999999999}\r\n|NIL |~ |% |& |&AOY- |\x00 |\xff |abc|STARTTLS|LOGOUT|CREATE x|RENAME x y".split(b"|")
    ),
    play_imap_server,
)  # fmt: skip
POP_SERVER = Target(
    "pop-server",
    (b"AUTH XOAUTH2\r\n" + XOAUTH2 + b"\r\n", b"AUTH XOAUTH2\r\n", b""),
    tuple(b"CAPA|AUTH |XOAUTH2|USER |PASS |STAT|LIST|LIST 1|UIDL|RETR 1|TOP 1 0|DELE 2|RSET|NOOP|QUIT|STLS|1 |0 |\xff|"
          b"\x00|99999999999|=|*".split(b"|")) + LONG,
    play_pop_server,
)  # fmt: skip


# IMAP and POP3, the clients


def play_imap_client(octets: bytes, step: int) -> object:
    """A literal comes in the parts in which it arrives: only what is said counts, and how it ends."""
    client = imap_client.ImapClient(imap_client.Limits(line=2000, literals=5000))
    told, said = [], bytearray()
    for piece in (*pieces(octets, step), b""):
        client.receive_data(piece)
        while (event := client.next_event()) is not None:
            told.append(repr(event))
            if isinstance(event, imap_responses.Greeting) and client.state is imap_client.State.NOT_AUTHENTICATED:
                client.authenticate("XOAUTH2", xoauth2("me", TOKEN))
            elif isinstance(event, imap_responses.Completed) and client.state is imap_client.State.AUTHENTICATED:
                client.select("INBOX")
            elif isinstance(event, imap_responses.Completed) and client.state is imap_client.State.SELECTED:
                client.noop()
        said += client.data_to_send()
    assert client.state is imap_client.State.ENDED
    return bytes(said), told


def play_pop_client(octets: bytes, step: int) -> object:
    client = pop_client.PopClient()
    told, said = [], bytearray()
    for piece in (*pieces(octets, step), b""):
        client.receive_data(piece)
        while (event := client.next_event()) is not None:
            if isinstance(event, pop_client.MessageChunk):
                continue
            told.append(repr(event))
            if isinstance(event, pop_client.Greeting) and client.state is pop_client.State.AUTHORIZATION:
                client.login("me", Secret("secret"))
            elif isinstance(event, pop_client.Completed) and client.state is pop_client.State.TRANSACTION:
                (client.retrieve if len(told) % 2 else client.noop)(*([1] if len(told) % 2 else []))
        said += client.data_to_send()
    assert client.state is pop_client.State.ENDED
    return bytes(said), told


IMAP_CLIENT = Target(
    "imap-client",
    (
        b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] hello\r\nP1 OK in\r\n",
        b"* PREAUTH hello\r\n",
        b"* OK hello\r\n+ \r\n",
        b"",
    ),
    tuple(
        b"* |P1 |P2 |P3 |+ |OK |NO |BAD |BYE |1 |2 |FETCH |EXISTS|EXPUNGE|LIST |SEARCH |STATUS |CAPABILITY |(|)|UID |"
        b"BODY[] |FLAGS |{3}\r\n|{0}\r\n|{|abc|\"|\"x\" |\\|NIL |[ALERT] |[UIDNEXT 5] |[|]|\x00|\xff".split(b"|")
    ) + LONG,
    play_imap_client,
)  # fmt: skip
POP_CLIENT = Target(
    "pop-client",
    (b"+OK hello\r\n+OK\r\n+OK\r\n", b"+OK hello\r\n", b""),
    tuple(b"+OK |-ERR |+ |+|.|..|1 |2 |abc|[AUTH]|\x00|\xff|eA==|SASL X|1 120".split(b"|")) + LONG,
    play_pop_client,
)  # fmt: skip


# What is no conversation


def play_token_answer(octets: bytes, _: int) -> object:
    """The first octet chooses the status."""
    status = (200, 400, 401, 429, 500, 302)[octets[0] % 6] if octets else 200
    outcome = read_token_answer(
        Answer(status, {}, octets[1:] * (1 if octets[:1] != b"z" else MAX_ANSWER)), hide=(TOKEN,)
    )
    assert isinstance(outcome, Granted | Refused | Unreachable)
    assert TOKEN.reveal() not in repr(outcome)
    return outcome


def play_header(octets: bytes, _: int) -> object:
    """What goes on to the provider is one header, whatever stood in the device's."""
    end = split(octets)
    if end < 0 or octets[:end].count(b"\n") != octets[:end].count(b"\r\n") or b"\0" in octets[:end]:
        return None
    change = None if octets[:1] in b"abcde" else SenderChange("me@example.org", "Me, myself")
    try:
        head: Head = complete(octets[:end], received="by me", new_message_id="<1@x>", now=NOW, change=change)
    except BadHeader:
        return None
    assert split(head.octets) == len(head.octets)
    assert head.octets.count(b"\n") == head.octets.count(b"\r\n")
    assert "\n" not in head.subject + head.message_id + head.sender
    return head


TOKEN_ANSWER = Target(
    "token-answer",
    (b'a{"access_token":"x"', b'b{"error":"invalid_grant"', b"a"),
    (
        b"{", b"}", b"[", b"]", b",", b":", b'"', b'"access_token":', b'"refresh_token":', b'"expires_in":',
        b'"error":', b'"error_description":', b'"scope":', b"3600", b"-1", b"1e999", b"null", b"true", b'"\\u0000"',
        b'"\\ud800"', b"\xff", b'"AADSTS50173"', b'"a b"', b'{"a":', b"[[[[", b'"error":{"code":1}',
        b'"%s"' % TOKEN.reveal().encode(),
    ),
    play_token_answer,
    (b"", b" ", b","),
)  # fmt: skip
HEADER = Target(
    "header",
    (b"From: a@b\r\n", b"Subject: x\r\n", b""),
    (
        b"From: ", b"from :", b"<a@b>", b"\"a, b\" <c@d>", b"Sender: ", b"Reply-To: ", b"Message-ID: ", b"Date: ",
        b"Subject: ", b"=?utf-8?q?a=0D=0AX:_y?=", b"=?utf-8?b?DQpYOiB5?=", b" folded", b"\tfolded", b"(((", b"\"",
        b":;,", b"\xff", b"\xc3\xa6", b"x" * 2000, b"\r\n", b"\r\n\r\n", b"To: g:a,b;", b"From:\r\n", b"\x0b", b"\x1f",
        b"\xc2\x85", b"\xe2\x80\xa8",
    ),
    play_header,
    (b"\r\n", b"", b"\r\n "),
)  # fmt: skip
TARGETS = (
    SMTP_SERVER, SMTP_CLIENT, IMAP_SERVER, IMAP_CLIENT, POP_SERVER, POP_CLIENT, TOKEN_ANSWER, HEADER,
)  # fmt: skip
