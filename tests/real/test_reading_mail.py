"""Our IMAP and POP3 client engines read mail from Dovecot, over STARTTLS and with tokens."""

from email.message import EmailMessage

from posthouse.model.endpoint import Endpoint
from posthouse.net import drive
from posthouse.net.channel import Channel
from posthouse.net.connect import client_context, connect, upgrade
from posthouse.protocol import imap_responses as imap
from posthouse.protocol import pop_client as pop
from posthouse.protocol.imap_client import ImapClient
from posthouse.protocol.sasl import oauthbearer, xoauth2
from posthouse.secret import Secret
from tests.support.dovecot import Server as Dovecot
from tests.support.oidc import Provider
from tests.support.tokens import access_token

ALICE = "alice@example.test"
WAIT = 10.0


def message(subject: str, text: str = ".A line with a dot.\n") -> EmailMessage:
    made = EmailMessage()
    made["Subject"], made["From"], made["To"] = subject, ALICE, ALICE
    made.set_content(text)
    return made


def lines(stored: bytes) -> list[bytes]:
    """Dovecot keeps what it received with other line ends than it sends."""
    return stored.splitlines()


async def connected(dovecot: Dovecot, port: int) -> tuple[Channel, Endpoint]:
    endpoint = Endpoint(dovecot.host, port, "starttls")
    return await connect(endpoint, client_context(dovecot.authority), WAIT), endpoint


async def imap_answers(engine: ImapClient, channel: Channel) -> tuple[imap.Completed, list[imap.Event]]:
    heard: list[imap.Event] = []
    while True:
        event: imap.Event = await drive.next_event(engine, channel, WAIT)
        assert not isinstance(event, imap.ProtocolError | imap.Disconnected), event
        if isinstance(event, imap.Completed):
            return event, heard
        heard.append(event)


async def imap_does(engine: ImapClient, channel: Channel) -> list[imap.Event]:
    completed, heard = await imap_answers(engine, channel)
    assert completed.ok, completed
    return heard


async def test_imap_client(oidc: Provider, dovecot: Dovecot) -> None:
    token = Secret(await access_token(oidc, ALICE))
    for subject in ("one", "two"):
        dovecot.deliver(ALICE, message(subject))
    channel, endpoint = await connected(dovecot, dovecot.imap)
    engine = ImapClient()
    assert isinstance(await drive.next_event(engine, channel, WAIT), imap.Greeting)
    engine.starttls()
    await imap_does(engine, channel)
    await upgrade(channel, endpoint, client_context(dovecot.authority), WAIT)
    engine.tls_started()
    engine.capability()
    await imap_does(engine, channel)
    assert engine.can("AUTH=XOAUTH2")

    engine.authenticate("XOAUTH2", xoauth2(ALICE, Secret("not-a-token")))
    refusal, _ = await imap_answers(engine, channel)
    assert (refusal.ok, refusal.condition.code) == (False, "AUTHENTICATIONFAILED")
    assert '"status":"401"' in refusal.challenge
    engine.authenticate("OAUTHBEARER", oauthbearer(ALICE, token, dovecot.host, dovecot.imap))
    await imap_does(engine, channel)
    assert engine.can("MOVE")

    engine.create("Færdig & læst")
    await imap_does(engine, channel)
    engine.list_folders()
    names = [event.name for event in await imap_does(engine, channel) if isinstance(event, imap.Listed)]
    assert "Færdig & læst" in names
    engine.select("INBOX")
    await imap_does(engine, channel)
    assert engine.folder is not None
    assert engine.folder.exists == 2
    engine.uid_search("UNSEEN")
    found = await imap_does(engine, channel)
    assert imap.Found((1, 2)) in found
    engine.uid_fetch("1:2")
    fetched = [event for event in await imap_does(engine, channel) if isinstance(event, imap.Fetched)]
    assert [lines(one.body or b"") for one in fetched] == [lines(one) for one in dovecot.inbox(ALICE)]
    assert [one.size for one in fetched] == [len(one.body or b"") for one in fetched]

    engine.uid_move("1", "Færdig & læst")
    assert imap.Expunged(1) in await imap_does(engine, channel)
    engine.uid_store("2", "+FLAGS", ["\\Deleted"])
    told = await imap_does(engine, channel)
    assert any(isinstance(event, imap.Fetched) and "\\Deleted" in (event.flags or ()) for event in told)
    engine.uid_expunge("2")
    assert imap.Expunged(1) in await imap_does(engine, channel)
    assert dovecot.inbox(ALICE) == []

    engine.idle()
    assert isinstance(await drive.next_event(engine, channel, WAIT), imap.Idling)
    dovecot.deliver(ALICE, message("three"))
    while not isinstance(event := await drive.next_event(engine, channel, WAIT), imap.Exists):
        assert not isinstance(event, imap.Completed | imap.ProtocolError | imap.Disconnected)
    assert event.count == 1
    engine.done()
    await imap_does(engine, channel)
    engine.append("INBOX", b"Subject: \xc3\xa6\r\n\r\n", flags=["\\Seen"])
    await imap_does(engine, channel)
    engine.folder_status("INBOX")
    status = [event for event in await imap_does(engine, channel) if isinstance(event, imap.FolderStatus)]
    assert (status[0].items["MESSAGES"], status[0].items["UNSEEN"]) == (2, 1)
    engine.logout()
    heard = await imap_does(engine, channel)
    assert any(isinstance(event, imap.Bye) for event in heard)
    assert isinstance(await drive.next_event(engine, channel, WAIT), imap.Disconnected)
    channel.close()


async def pop_does(engine: pop.PopClient, channel: Channel) -> list[pop.Event]:
    heard: list[pop.Event] = []
    while True:
        event: pop.Event = await drive.next_event(engine, channel, WAIT)
        assert not isinstance(event, pop.ProtocolError | pop.Disconnected), event
        heard.append(event)
        if isinstance(event, pop.Completed) and not engine.busy:
            return heard


async def test_pop_client(oidc: Provider, dovecot: Dovecot) -> None:
    token = Secret(await access_token(oidc, ALICE))
    for subject in ("one", "two", "three"):
        dovecot.deliver(ALICE, message(subject, text="..\n.\n" + "x" * 900 + "\n"))
    channel, endpoint = await connected(dovecot, dovecot.pop3)
    engine = pop.PopClient()
    assert isinstance(await drive.next_event(engine, channel, WAIT), pop.Greeting)
    engine.stls()
    await pop_does(engine, channel)
    await upgrade(channel, endpoint, client_context(dovecot.authority), WAIT)
    engine.tls_started()

    engine.authenticate("OAUTHBEARER", oauthbearer(ALICE, Secret("not-a-token"), dovecot.host, dovecot.pop3))
    (refusal,) = await pop_does(engine, channel)
    assert isinstance(refusal, pop.Completed)
    assert not refusal.ok
    assert '"status":"invalid_token"' in refusal.challenge
    engine.authenticate("XOAUTH2", xoauth2(ALICE, token))
    await pop_does(engine, channel)
    engine.capa()
    await pop_does(engine, channel)
    assert "PIPELINING" in engine.capabilities

    engine.stat()
    (size, _) = await pop_does(engine, channel)
    assert isinstance(size, pop.MailboxSize)
    assert size.count == 3
    engine.list_uids()
    uids = {event.uid for event in await pop_does(engine, channel) if isinstance(event, pop.Identified)}
    assert len(uids) == 3
    for number in (1, 2, 3):
        engine.retrieve(number)
    events = await pop_does(engine, channel)
    chunks = [event for event in events if isinstance(event, pop.MessageChunk)]
    whole = [b"".join(one.data for one in chunks if one.number == number) for number in (1, 2, 3)]
    assert [lines(one) for one in whole] == [lines(one) for one in dovecot.inbox(ALICE)]
    engine.delete(1)
    engine.delete(3)
    engine.quit()
    ended = [event.ok for event in await pop_does(engine, channel) if isinstance(event, pop.Completed)]
    assert ended == [True, True, True]
    assert len(dovecot.inbox(ALICE)) == 1
    channel.close()
