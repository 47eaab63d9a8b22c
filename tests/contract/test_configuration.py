"""What an administrator configures, on both databases."""

import pytest
from sqlalchemy import select

from posthouse.model.device import DeviceSettings
from posthouse.model.mailbox import MailboxSettings
from posthouse.secret import Secret
from posthouse.store import configuration
from posthouse.store.configuration import Configuration, encode
from posthouse.store.database import Duplicate, Transaction
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable
from posthouse.store.tables import mailbox
from tests.contract.making import Site, add_mailboxes, together


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def load(store: Store) -> Configuration:
    return await store.database.read(configuration.load)


async def save(store: Store, kind: str, row_id: str, **values: object) -> None:
    await store.database.write(lambda tx: configuration.save(tx, kind, row_id, **values))


async def test_everything_saved_is_loaded_again(store: Store) -> None:
    mailbox_settings = MailboxSettings(sender="as-given", senders=("sales@example.com",), receive="imap")
    device_settings = DeviceSettings(mailboxes=("support@example.com",), networks=("10.0.0.0/8",))
    await save(store, "provider", "pr_1", name="example", document='{"issuer":"https://id.example.com"}')
    await save(store, "app", "ap_1", name="office", provider="example", client_id="c-1", origin="office.toml")
    await save(
        store,
        "mailbox",
        "mb_1",
        address="support@example.com",
        app_id="ap_1",
        account="alice@example.com",
        is_default=1,
        document=encode(mailbox_settings),
    )
    await save(store, "device", "dv_1", name="printer", password_hash="generated:00", document=encode(device_settings))
    loaded = await load(store)
    assert loaded.generation == 4
    assert loaded.providers["example"].document == {"issuer": "https://id.example.com"}
    app, box, device = loaded.apps["ap_1"], loaded.mailboxes["mb_1"], loaded.devices["dv_1"]
    assert (app.name, app.provider, app.client_id, app.sealed_secret) == ("office", "example", "c-1", None)
    assert (app.origin, app.document) == ("office.toml", {})
    assert (box.address, box.account, box.app_id, box.default) == (
        "support@example.com", "alice@example.com", "ap_1", True,
    )  # fmt: skip
    assert (box.settings, box.has_password, box.token_id) == (mailbox_settings, False, None)
    assert (device.name, device.password_hash, device.settings) == ("printer", "generated:00", device_settings)


async def test_a_change_touches_just_the_columns_it_names(store: Store) -> None:
    await save(store, "app", "ap_1", name="office", client_id="c-1", origin="office.toml")
    await save(store, "app", "ap_1", client_id="c-2")
    loaded = await load(store)
    app = loaded.apps["ap_1"]
    assert (app.name, app.client_id, app.origin, app.version) == ("office", "c-2", "office.toml", 1)
    assert loaded.generation == 2


async def test_what_was_removed_is_gone(store: Store) -> None:
    await add_mailboxes(store, "mb_1", "mb_2")
    assert await store.database.write(lambda tx: configuration.remove(tx, "mailbox", "mb_1"))
    assert not await store.database.write(lambda tx: configuration.remove(tx, "mailbox", "mb_1"))
    loaded = await load(store)
    assert set(loaded.mailboxes) == {"mb_2"}
    assert loaded.generation >= 3


async def test_a_second_mailbox_with_the_same_address_is_refused(store: Store) -> None:
    await save(store, "mailbox", "mb_1", address="a@example.com")
    with pytest.raises(Duplicate):
        await save(store, "mailbox", "mb_2", address="a@example.com")
    assert set((await load(store)).mailboxes) == {"mb_1"}


async def test_of_two_nodes_that_make_the_same_mailbox_one_succeeds(site: Site) -> None:
    nodes = await site.nodes(2)

    async def make(store: Store, row_id: str) -> bool:
        try:
            await save(store, "mailbox", row_id, address="a@example.com")
        except Duplicate:
            return False
        return True

    made = await together(make(store, f"mb_{number}") for number, store in enumerate(nodes))
    assert sorted(made) == [False, True]


async def test_every_change_of_every_node_counts(site: Site) -> None:
    nodes = await site.nodes(4)
    await together(add_mailboxes(nodes[number % 4], f"mb_{number}") for number in range(20))
    assert await nodes[0].database.read(configuration.generation) == 20


async def test_a_mailbox_can_be_given_another_token(store: Store) -> None:
    await add_mailboxes(store, "mb_1")
    await store.database.write(lambda tx: configuration.share_token(tx, "mb_1", "tk_1"))
    loaded = await load(store)
    assert (loaded.mailboxes["mb_1"].token_id, loaded.generation) == ("tk_1", 2)


async def test_passwords_and_client_secrets_are_sealed_for_their_row(store: Store) -> None:
    sealer = store.sealer
    sealed = sealer.seal(b"hunter2", "mailbox:mb_1:password")
    await save(store, "mailbox", "mb_1", address="a@example.com", password=sealed)
    await save(store, "mailbox", "mb_2", address="b@example.com", password=sealed)
    await save(store, "app", "ap_1", name="office", secret=sealer.seal(b"s3cret", "app:ap_1:secret"))

    async def password(row_id: str) -> Secret | None:
        return await store.database.read(lambda tx: configuration.mailbox_password(tx, sealer, row_id))

    loaded = await load(store)
    assert loaded.mailboxes["mb_1"].has_password
    assert await password("mb_1") == Secret("hunter2")
    assert configuration.app_secret(sealer, loaded.apps["ap_1"]) == Secret("s3cret")
    assert "s3cret" not in repr(loaded)
    assert repr(sealed) not in repr(loaded)
    with pytest.raises(Unsealable):
        await password("mb_2")
    assert await password("no such mailbox") is None


async def test_a_change_that_fails_half_way_changes_nothing(store: Store) -> None:
    async def work(tx: Transaction) -> None:
        await configuration.save(tx, "mailbox", "mb_1", address="a@example.com")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.database.write(work)
    loaded = await load(store)
    assert (loaded.mailboxes, loaded.generation) == ({}, 0)


async def test_reading_sees_one_moment(site: Site) -> None:
    """Rows and generation belong together however much is being changed."""
    reader, writer = await site.nodes(2)
    done: list[bool] = []

    async def write() -> None:
        for number in range(30):
            await add_mailboxes(writer, f"mb_{number}")
        done.append(True)

    async def read() -> None:
        while not done:
            loaded = await load(reader)
            assert len(loaded.mailboxes) == loaded.generation

    await together([write(), read()])


async def test_a_reading_transaction_cannot_write(store: Store) -> None:
    async def work(tx: Transaction) -> None:
        await configuration.save(tx, "mailbox", "mb_1", address="a@example.com")

    with pytest.raises(Exception, match=r"(?i)read-?\s?only"):
        await store.database.read(work)
    assert await store.database.read(lambda tx: tx.all(select(mailbox.c.id))) == []


async def test_more_mailboxes_than_one_page_are_all_read_by_address(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "_mailboxes", configuration._mailboxes.limit(3))
    addresses = [f"box{number}@example.com" for number in range(10)]
    for number, address in enumerate(reversed(addresses)):
        document = configuration.encode(MailboxSettings(folder="Archive") if number % 2 else MailboxSettings())
        await save(store, "mailbox", f"mb_{number}", address=address, document=document)
    found = (await store.database.read(configuration.load)).mailboxes
    assert [mailbox.address for mailbox in found.values()] == addresses
    assert {mailbox.settings.folder for mailbox in found.values()} == {"INBOX", "Archive"}
