"""How mailboxes and tokens stand, as every door shows it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.model.message import MessageState
from posthouse.model.token import TokenState
from posthouse.services.overview import view_mailboxes
from posthouse.store import leases, messages, tokens
from posthouse.store.database import Transaction
from tests.contract.making import mail
from tests.support.house import House, house

TEXT = """
[[app]]
name = "office"
provider = "microsoft"
client_id = "c0ffee"

[[mailbox]]
address = "alice@example.com"
app = "office"
receive = "imap"

[[mailbox]]
address = "support@example.com"
app = "office"
signs_in_as = "alice@example.com"
send = false
receive = "pop3"

[[mailbox]]
address = "old@example.net"
password = "an app password"
smtp = "smtp.example.net:465 tls"
"""


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", TEXT, background=False) as made:
        yield made


async def test_mailboxes_with_direction_provider_and_servers(office: House) -> None:
    snapshot = office.parts.directory.now
    views = await view_mailboxes(office.parts.store, snapshot, snapshot.ordered)
    assert {view.mailbox.address: view.direction for view in views} == {
        "alice@example.com": "both",
        "support@example.com": "incoming",
        "old@example.net": "outgoing",
    }
    _, old, support = views
    assert support.provider_title == "Microsoft 365"
    (server,) = support.servers
    assert (server.server, server.user, server.state) == (
        "outlook.office365.com:995 tls",
        "support@example.com",
        "untested",
    )
    assert (old.token, old.provider, old.needs_reauthorising) == (None, "", False)


async def test_a_shared_token_stands_once_and_names_its_users(office: House) -> None:
    (token,) = (await office.view("support@example.com")).tokens
    assert token.addresses == ("alice@example.com", "support@example.com")
    assert (token.state, token.next_step, token.refreshable) == (TokenState.NOT_ACQUIRED, "get_token", False)


async def test_mailboxes_are_counted_by_what_their_token_needs(office: House) -> None:
    (token,) = (await office.view("alice@example.com")).tokens

    async def set_state(state: TokenState, reason: str) -> None:
        work = office.parts.store.database.write
        await work(lambda tx: tokens.set_state(tx, token.id, state, office.clock(), reason))

    await set_state(TokenState.INVALID, "revoked")
    standing = await office.parts.standings.look()
    assert [mailbox.address for mailbox in standing.attention] == ["alice@example.com", "support@example.com"]
    assert (standing.broken, standing.counts["invalid"], standing.counts["password"]) == ([token.id], 2, 1)
    await set_state(TokenState.ACQUIRED, "")
    standing = await office.parts.standings.look()
    assert (standing.broken, standing.counts["acquired"], standing.attention) == ([], 2, [])
    await office.apply('[[mailbox]]\naddress = "bob@example.com"\napp = "office"\n')
    standing = await office.parts.standings.look()
    assert [mailbox.address for mailbox in standing.attention] == ["bob@example.com"]


async def test_the_last_success_is_the_latest_of_proofs_and_deliveries(office: House) -> None:
    alice = office.parts.directory.now.by_address["alice@example.com"].id
    store, now = office.parts.store, office.clock()
    await store.database.write(lambda tx: tokens.set_result(tx, alice, "imap", "proved", now - 60))
    await store.database.write(lambda tx: tokens.set_result(tx, alice, "smtp", "refused", now, "535", "no"))
    assert await last_success(office) == now - 60
    await deliver(office, alice, now - 30)
    assert await last_success(office) == now - 30


async def last_success(office: House) -> float:
    return (await office.view("alice@example.com")).last_success


async def deliver(office: House, mailbox: str, at: float) -> None:
    async def work(tx: Transaction) -> None:
        await messages.accept(tx, mail(mailbox=mailbox), at, at + 1000)
        await leases.beat(tx, "node")
        taken = await leases.take_free(tx, "node", 10, own=True)
        for claim in await messages.claim(tx, mailbox, "node", taken[mailbox], at, 1):
            await messages.finish(tx, claim, at, MessageState.SENT, claim.message.recipients, kind="sent")

    await office.parts.store.database.write(work)


async def test_the_queue_is_counted_by_mailbox_and_in_all(office: House) -> None:
    alice = office.parts.directory.now.by_address["alice@example.com"].id
    for _ in range(3):
        await office.parts.store.database.write(lambda tx: messages.accept(tx, mail(mailbox=alice), 1.0, 2.0))
    assert (await office.view("alice@example.com")).queue == {"queued": 3}
    assert (await office.view("old@example.net")).queue == {}
    assert await office.parts.store.database.read(messages.totals) == {"queued": 3}


async def test_the_only_mailbox_is_the_default_one(tmp_path: Path) -> None:
    text = '[[mailbox]]\naddress = "a@example.net"\npassword = "x"\nsmtp = "smtp.example.net:465 tls"'
    async with house(tmp_path / "data", text, background=False) as made:
        view = await made.view("a@example.net")
    assert view.mailbox.default
