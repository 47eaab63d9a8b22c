"""The POP3 server engine: dialogues in memory, limits, random conversations, and poplib as a judge over loopback."""

import asyncio
import base64
import poplib
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from posthouse.protocol.maildrop import MailStore
from posthouse.protocol.pop_server import Authenticate, Ended, Event, PopServer, ServerPolicy, StartTls
from posthouse.protocol.sasl import oauthbearer, xoauth2
from posthouse.secret import Secret

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
MESSAGE = b"Subject: Dots\r\n\r\n.one\r\n..two\r\n.\r\nend\r\n"
SMALL = b"Subject: Small\r\n\r\nhi\r\n"


def store_of(*bodies: bytes) -> MailStore:
    store = MailStore()
    for body in bodies:
        store.deliver(body, NOW)
    return store


class Talk:
    def __init__(self, policy: ServerPolicy | None = None, *bodies: bytes) -> None:
        self.engine = PopServer(policy or ServerPolicy())
        self.store = store_of(*bodies)
        self.decide: Callable[[PopServer, Authenticate], None] = lambda engine, _: engine.accept(self.store)
        self.events: list[Event] = []
        self.greeting = self.drive()

    def says(self, *lines: bytes) -> bytes:
        return self.sends(b"".join(line + b"\r\n" for line in lines))

    def sends(self, data: bytes) -> bytes:
        self.engine.receive_data(data)
        return self.drive()

    def drive(self) -> bytes:
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, Authenticate):
                self.decide(self.engine, event)
        return self.engine.data_to_send()


def opened(*bodies: bytes) -> Talk:
    talk = Talk(None, *bodies)
    talk.says(b"AUTH XOAUTH2")
    assert talk.says(xoauth2("ann@example.test", Secret("tok")).reveal().encode()).startswith(b"+OK")
    return talk


def test_offers_nothing_but_oauth() -> None:
    talk = Talk()
    assert talk.greeting.startswith(b"+OK ")
    said = talk.says(b"CAPA")
    assert b"\r\nSASL XOAUTH2 OAUTHBEARER\r\n" in said
    assert b"\r\nUSER\r\n" not in said
    assert talk.says(b"auth") == b"+OK Mechanisms follow.\r\nXOAUTH2\r\nOAUTHBEARER\r\n.\r\n"


@pytest.mark.parametrize(("mechanism", "make"), [("XOAUTH2", xoauth2), ("OAUTHBEARER", oauthbearer)])
def test_signs_in_with_a_token(mechanism: str, make: Callable[[str, Secret], Secret]) -> None:
    talk = Talk()
    assert talk.says(b"AUTH " + mechanism.encode()) == b"+ \r\n"
    assert talk.says(make("ann@example.test", Secret("x" * 3000)).reveal().encode()).startswith(b"+OK")
    (event,) = talk.events
    assert isinstance(event, Authenticate)
    assert (event.credentials.user, event.credentials.secret) == ("ann@example.test", Secret("x" * 3000))
    assert talk.engine.user == "ann@example.test"


def test_a_token_in_the_command_itself_is_too_long() -> None:
    talk = Talk()
    assert talk.says(b"AUTH XOAUTH2 " + b"x" * 400) == b"-ERR Protocol error. Connection is closed. 10\r\n"
    assert isinstance(talk.events[-1], Ended)


def test_refusal_comes_after_the_challenge_is_answered() -> None:
    talk = Talk()
    talk.decide = lambda engine, _: engine.refuse("Invalid", code="AUTH", challenge='{"status":"401"}')
    talk.says(b"AUTH XOAUTH2")
    said = talk.says(xoauth2("ann", Secret("old")).reveal().encode())
    assert base64.b64decode(said.removeprefix(b"+ ")) == b'{"status":"401"}'
    assert talk.says(b"") == b"-ERR [AUTH] Invalid\r\n"
    assert talk.says(b"STAT").startswith(b"-ERR")


def test_exchange_can_be_cancelled_and_garbage_is_refused() -> None:
    talk = Talk()
    talk.says(b"AUTH XOAUTH2")
    assert talk.says(b"*") == b"-ERR AUTH cancelled.\r\n"
    talk.says(b"AUTH XOAUTH2")
    assert talk.says(b"!!!").startswith(b"-ERR")
    assert talk.says(b"AUTH PLAIN").startswith(b"-ERR")
    assert talk.events == []


def test_password_login_is_refused_in_the_words_of_the_policy() -> None:
    talk = Talk()
    assert talk.says(b"USER ann") == b"+OK Password?\r\n"
    assert talk.says(b"PASS secret") == b"-ERR [AUTH] Logon failure: unknown user name or bad password.\r\n"
    assert talk.events == []


def test_password_login_can_be_asked_for() -> None:
    talk = Talk(ServerPolicy(login_refusal=None))
    assert talk.says(b"PASS early").startswith(b"-ERR")
    talk.says(b"USER ann")
    assert talk.says(b"PASS a secret").startswith(b"+OK")
    (event,) = talk.events
    assert isinstance(event, Authenticate)
    assert event.credentials.secret == Secret("a secret")


def test_commands_sent_before_the_handshake_are_dropped() -> None:
    talk = Talk(ServerPolicy(starttls=True, auth_needs_tls=True))
    capa = talk.says(b"CAPA")
    assert b"STLS" in capa
    assert b"SASL" not in capa
    assert talk.says(b"AUTH XOAUTH2").startswith(b"-ERR")
    assert talk.says(b"STLS", b"CAPA") == b"+OK Begin TLS now.\r\n"
    assert isinstance(talk.events[-1], StartTls)
    talk.engine.tls_started()
    assert talk.drive() == b""
    capa = talk.says(b"CAPA")
    assert b"SASL" in capa
    assert b"STLS" not in capa


def test_lists_and_retrieves() -> None:
    talk = opened(MESSAGE, SMALL)
    assert talk.says(b"STAT") == b"+OK 2 %d\r\n" % (len(MESSAGE) + len(SMALL))
    assert talk.says(b"LIST") == b"+OK\r\n1 %d\r\n2 %d\r\n.\r\n" % (len(MESSAGE), len(SMALL))
    assert talk.says(b"LIST 2") == b"+OK 2 %d\r\n" % len(SMALL)
    assert talk.says(b"UIDL") == b"+OK\r\n1 1-1\r\n2 1-2\r\n.\r\n"
    retrieved = b"Subject: Dots\r\n\r\n..one\r\n...two\r\n..\r\nend\r\n.\r\n"
    assert talk.says(b"RETR 1") == b"+OK %d octets\r\n" % len(MESSAGE) + retrieved
    assert talk.says(b"TOP 1 1") == b"+OK\r\nSubject: Dots\r\n\r\n..one\r\n.\r\n"
    assert talk.says(b"TOP 2 0") == b"+OK\r\nSubject: Small\r\n\r\n.\r\n"
    assert talk.says(b"NOOP").startswith(b"+OK")


def test_deletes_at_quit() -> None:
    talk = opened(MESSAGE, SMALL)
    assert talk.says(b"DELE 1").startswith(b"+OK")
    assert talk.says(b"RETR 1").startswith(b"-ERR")
    assert talk.says(b"STAT") == b"+OK 1 %d\r\n" % len(SMALL)
    assert list(talk.store.folder("INBOX").messages) == [1, 2]
    assert talk.says(b"QUIT").startswith(b"+OK")
    assert list(talk.store.folder("INBOX").messages) == [2]
    assert isinstance(talk.events[-1], Ended)


def test_nothing_is_deleted_without_quit_or_after_reset() -> None:
    talk = opened(MESSAGE)
    talk.says(b"DELE 1")
    talk.sends(b"")
    assert isinstance(talk.events[-1], Ended)
    assert len(talk.store.folder("INBOX").messages) == 1
    talk = opened(MESSAGE)
    talk.says(b"DELE 1", b"RSET", b"QUIT")
    assert len(talk.store.folder("INBOX").messages) == 1


def test_what_arrives_later_waits_for_the_next_session() -> None:
    talk = opened(MESSAGE)
    talk.store.deliver(SMALL, NOW)
    assert talk.says(b"STAT") == b"+OK 1 %d\r\n" % len(MESSAGE)


@pytest.mark.parametrize(
    "command", [b"RETR", b"RETR 9", b"RETR 0", b"RETR x", b"TOP 1", b"DELE", b"LIST 7", b"XYZ", b"", b"STLS", b"USER a"]
)
def test_wrong_commands_are_refused(command: bytes) -> None:
    assert opened(MESSAGE).says(command).startswith(b"-ERR")


def test_faults() -> None:
    talk = opened(MESSAGE)
    talk.engine.answer_next("NO", "Server busy.", "SYS/TEMP")
    assert talk.says(b"DELE 1", b"STAT").startswith(b"-ERR [SYS/TEMP] Server busy.\r\n+OK 1 ")
    talk.engine.bye("Shutting down.")
    assert talk.drive() == b"-ERR Shutting down.\r\n"
    assert isinstance(talk.events[-1], Ended)
    talk = Talk()
    talk.decide = lambda engine, _: engine.accept(talk.store, connected=False)
    talk.says(b"AUTH XOAUTH2", xoauth2("a", Secret("t")).reveal().encode())
    assert talk.says(b"STAT") == b"-ERR User is authenticated but not connected.\r\n"


def test_every_limit_is_answered() -> None:
    for poured in (b"x" * 300, b"AUTH XOAUTH2\r\n" + b"x" * 13_000, b"nonsense\r\n" * 30, b"AUTH NO\r\n" * 30):
        talk = Talk()
        assert re.search(rb"-ERR [^\r]+\r\n\Z", talk.sends(poured))
        assert isinstance(talk.events[-1], Ended)


def test_a_client_that_pours_while_the_driver_decides_is_sent_away() -> None:
    engine = PopServer(ServerPolicy())
    engine.receive_data(b"AUTH XOAUTH2\r\n" + xoauth2("a", Secret("t")).reveal().encode() + b"\r\n")
    assert isinstance(engine.next_event(), Authenticate)
    for _ in range(50):
        engine.receive_data(b"x" * 10_000)
    engine.accept(store_of())
    assert isinstance(engine.next_event(), Ended)


CONVERSATION = (
    b"CAPA\r\nAUTH OAUTHBEARER\r\n"
    + oauthbearer("ann", Secret("t")).reveal().encode()
    + b"\r\nSTAT\r\nuidl\r\nRETR 1\r\nTOP 2 1\r\nDELE 2\r\nRETR 2\r\nQUIT\r\n"
)


def test_whole_and_byte_by_byte_are_the_same() -> None:
    whole, pieces = Talk(None, MESSAGE, SMALL), Talk(None, MESSAGE, SMALL)
    said = whole.sends(CONVERSATION)
    assert said == b"".join(pieces.sends(CONVERSATION[at : at + 1]) for at in range(len(CONVERSATION)))
    assert [str(event) for event in whole.events] == [str(event) for event in pieces.events]
    assert said.endswith(b"-ERR There is no such message.\r\n+OK Goodbye.\r\n")


WORDS = (
    b"CAPA AUTH XOAUTH2 PLAIN USER PASS STAT LIST UIDL RETR TOP DELE RSET NOOP QUIT STLS 1 2 0 9 x * = \xff \x00"
).split()


def test_random_conversations_never_raise() -> None:
    dice = random.Random(4)
    for number in range(2000):
        talk = opened(MESSAGE, SMALL) if number % 2 else Talk(ServerPolicy(login_refusal=None), SMALL)
        for _ in range(10):
            talk.sends(b" ".join(dice.choices(WORDS, k=dice.randint(0, 3))) + dice.choice((b"\r\n", b"\n", b" ")))
        talk.sends(b"")
        assert isinstance(talk.events[-1], Ended)


# poplib as a judge


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, store: MailStore) -> None:
    engine = PopServer(ServerPolicy())
    while True:
        event = engine.next_event()
        writer.write(engine.data_to_send())
        if isinstance(event, Authenticate):
            known = event.credentials.secret == Secret("good")
            engine.accept(store) if known else engine.refuse("Invalid", challenge='{"status":"401"}')
        elif isinstance(event, Ended):
            break
        elif event is None:
            engine.receive_data(await reader.read(4096))
    writer.close()
    await writer.wait_closed()


class Client(poplib.POP3):
    """poplib knows no AUTH; its own words carry one."""

    def authenticate(self, token: str) -> bytes:
        said: bytes = self._shortcmd("AUTH XOAUTH2")  # type: ignore[attr-defined]
        assert said == b"+ "
        answer: bytes = self._shortcmd(xoauth2("a", Secret(token)).reveal())  # type: ignore[attr-defined]
        return answer

    def empty_line(self) -> bytes:
        answer: bytes = self._shortcmd("")  # type: ignore[attr-defined]
        return answer


def poplib_reads(port: int) -> list[object]:
    client = Client("127.0.0.1", port, timeout=10)
    try:
        told: list[object] = [client.capa()["SASL"]]
        client.user("a")
        with pytest.raises(poplib.error_proto, match="Logon failure"):
            client.pass_("secret")
        assert client.authenticate("bad").startswith(b"+ ")
        with pytest.raises(poplib.error_proto, match="Invalid"):
            client.empty_line()
        client.authenticate("good")
        told += [client.stat(), client.list()[1], client.uidl(1), client.retr(1)[1], client.top(2, 0)[1]]
        client.dele(1)
        client.quit()
    finally:
        client.close()
    return told


async def test_poplib_understands_it() -> None:
    store = store_of(MESSAGE, SMALL)
    done: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        done.append(task)
        await serve(reader, writer, store)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    told = await asyncio.to_thread(poplib_reads, server.sockets[0].getsockname()[1])
    server.close()
    await asyncio.gather(*done)
    assert told == [
        ["XOAUTH2", "OAUTHBEARER"],
        (2, len(MESSAGE) + len(SMALL)),
        [b"1 %d" % len(MESSAGE), b"2 %d" % len(SMALL)],
        b"+OK 1 1-1",
        MESSAGE.split(b"\r\n")[:-1],
        [b"Subject: Small", b""],
    ]
    assert list(store.folder("INBOX").messages) == [2]
