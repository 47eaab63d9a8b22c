"""How mailboxes and tokens stand, as every door shows it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.model.message import MessageState
from posthouse.model.token import TokenState
from posthouse.services.overview import Overview, overview
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


async def look(office: House) -> Overview:
    return await overview(office.parts.store, office.parts.directory)


async def test_mailboxes_with_direction_provider_and_servers(office: House) -> None:
    seen = await look(office)
    assert {view.mailbox.address: view.direction for view in seen.mailboxes} == {
        "alice@example.com": "both",
        "support@example.com": "incoming",
        "old@example.net": "outgoing",
    }
    support = seen.mailbox("SUPPORT@example.com")
    old = seen.mailbox("old@example.net")
    assert support is not None
    assert old is not None
    assert support.provider_title == "Microsoft 365"
    (server,) = support.servers
    assert (server.server, server.user, server.state) == (
        "outlook.office365.com:995 tls",
        "support@example.com",
        "untested",
    )
    assert (old.token, old.provider, old.needs_reauthorising) == (None, "", False)
    assert seen.mailbox("nobody@example.com") is None


async def test_a_shared_token_stands_once_and_names_its_users(office: House) -> None:
    (token,) = (await look(office)).tokens
    assert token.addresses == ("alice@example.com", "support@example.com")
    assert (token.state, token.next_step, token.refreshable) == (TokenState.NOT_ACQUIRED, "get_token", False)


async def test_the_banner_comes_and_goes_with_an_invalid_token(office: House) -> None:
    (token,) = (await look(office)).tokens

    async def set_state(state: TokenState, reason: str) -> None:
        work = office.parts.store.database.write
        await work(lambda tx: tokens.set_state(tx, token.id, state, office.clock(), reason))

    await set_state(TokenState.INVALID, "revoked")
    banner = (await look(office)).banner
    assert [view.mailbox.address for view in banner] == ["alice@example.com", "support@example.com"]
    assert all(view.token is not None and view.token.reason == "revoked" for view in banner)
    await set_state(TokenState.ACQUIRED, "")
    assert (await look(office)).banner == ()


async def test_the_last_success_is_the_latest_of_proofs_and_deliveries(office: House) -> None:
    alice = office.parts.directory.now.by_address["alice@example.com"].id
    store, now = office.parts.store, office.clock()
    await store.database.write(lambda tx: tokens.set_result(tx, alice, "imap", "proved", now - 60))
    await store.database.write(lambda tx: tokens.set_result(tx, alice, "smtp", "refused", now, "535", "no"))
    assert await last_success(office) == now - 60
    await deliver(office, alice, now - 30)
    assert await last_success(office) == now - 30


async def last_success(office: House) -> float:
    view = (await look(office)).mailbox("alice@example.com")
    assert view is not None
    return view.last_success


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
    seen = await look(office)
    view = seen.mailbox(alice)
    assert view is not None
    assert (view.queue, seen.queue) == ({"queued": 3}, {"queued": 3})


async def test_the_only_mailbox_is_the_default_one(tmp_path: Path) -> None:
    text = '[[mailbox]]\naddress = "a@example.net"\npassword = "x"\nsmtp = "smtp.example.net:465 tls"'
    async with house(tmp_path / "data", text, background=False) as made:
        (view,) = (await look(made)).mailboxes
    assert view.mailbox.default
