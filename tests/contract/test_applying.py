"""Applying files, on both databases: everything or nothing, once and for all, and nobody else's work undone."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from posthouse.model.device import Device
from posthouse.model.mailbox import Mailbox
from posthouse.model.token import TokenState
from posthouse.problems import ProblemError
from posthouse.secret import Secret
from posthouse.services import apply_record, switching
from posthouse.services.apply_file import parse
from posthouse.services.apply_record import no_longer_wanted
from posthouse.services.apply_report import Report
from posthouse.services.applying import apply
from posthouse.services.device_login import fits, password_key
from posthouse.store import applied, configuration, events, journal, messages, tokens
from posthouse.store.configuration import Configuration, StoredApp, encode
from posthouse.store.database import Transaction
from posthouse.store.opening import Store
from tests.contract.making import DEADLINE, NOW, Site, consent, mail, together

OFFICE = """
[[provider]]
name = "example"
issuer = "https://id.example.com"
scopes = ["mail"]
smtp = "mail.example.com:587 starttls"
imap = "mail.example.com:993 tls"
[provider.limits]
connections = 3

[[app]]
name = "office"
provider = "example"
client_id = "1234"
client_secret = { env = "OFFICE_SECRET" }
"""
SUPPORT = """
[[mailbox]]
address = "support@example.com"
app = "office"
sender_name = "Support"
"""
OLD = """
[[mailbox]]
address = "old@example.net"
password = { env = "OLD_PASSWORD" }
smtp = "smtp.example.net:465 tls"
"""
PRINTER = """
[[device]]
name = "printer"
mailboxes = ["support@example.com"]
"""
SCANNER = """
[[device]]
name = "scanner"
mailboxes = ["support@example.com"]
password = { env = "SCANNER_PASSWORD" }
"""
ALL = OFFICE + SUPPORT + OLD + PRINTER
WITH_CHOSEN = ALL + SCANNER
SECRETS = {"OFFICE_SECRET": "CANARY-office", "OLD_PASSWORD": "CANARY-old", "SCANNER_PASSWORD": "CANARY-scanner"}


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def run(
    store: Store, text: str, source: str = "mail.toml", *, secrets: dict[str, str] = SECRETS, **options: Any
) -> Report:
    return await apply(store, parse(text, source, secrets), NOW, **options)


async def refused(store: Store, text: str, *, secrets: dict[str, str] = SECRETS, **options: Any) -> list[str]:
    before = await everything(store)
    with pytest.raises(ProblemError) as caught:
        await run(store, text, secrets=secrets, **options)
    assert await everything(store) == before
    assert "CANARY" not in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


async def everything(store: Store) -> Configuration:
    return await store.database.read(configuration.load)


async def mailbox(store: Store, address: str = "support@example.com") -> Mailbox:
    return next(one for one in (await everything(store)).mailboxes.values() if one.address == address)


async def device(store: Store, name: str) -> Device:
    return next(one for one in (await everything(store)).devices.values() if one.name == name)


async def app(store: Store, name: str = "office") -> StoredApp:
    return next(one for one in (await everything(store)).apps.values() if one.name == name)


async def edit(store: Store, kind: str, row_id: str, **columns: Any) -> None:
    """What the page does."""
    await store.database.write(lambda tx: configuration.save(tx, kind, row_id, **columns))


async def acquire(store: Store, token_id: str | None, grant_id: str = "gr_1") -> str:
    """The token serves from now on."""
    assert token_id is not None

    async def work(tx: Transaction) -> None:
        await tokens.add_grant(tx, store.sealer, consent(grant_id, token_id))
        token = await tokens.get(tx, token_id)
        assert token is not None
        await tokens.point(tx, token, serving=grant_id, pending=None, pinned=None)
        await tokens.set_state(tx, token_id, TokenState.ACQUIRED, NOW)

    await store.database.write(work)
    return token_id


async def token_state(store: Store, token_id: str | None) -> tuple[str, str]:
    token = await store.database.read(lambda tx: tokens.get(tx, token_id or ""))
    return (str(token.state), token.reason) if token else ("gone", "")


async def queue(store: Store, address: str, *queue_ids: str) -> None:
    to = (await mailbox(store, address)).id

    async def work(tx: Transaction) -> None:
        for queue_id in queue_ids:
            await messages.accept(tx, mail(queue_id, mailbox=to), NOW, DEADLINE)

    await store.database.write(work)


async def waiting(store: Store, address: str) -> dict[str, int]:
    wanted = (await mailbox(store, address)).id
    return (await store.database.read(lambda tx: messages.counts_of(tx, [wanted]))).get(wanted, {})


async def test_everything_that_a_file_wants_is_there(store: Store) -> None:
    report = await run(store, ALL)
    assert [report.names("added", kind) for kind in ("provider", "app", "mailbox", "device")] == [
        ["example"],
        ["office"],
        ["support@example.com", "old@example.net"],
        ["printer"],
    ]
    office, support, old = await app(store), await mailbox(store), await mailbox(store, "old@example.net")
    assert (office.provider, office.client_id, office.origin) == ("example", "1234", "mail.toml")
    assert configuration.app_secret(store.sealer, office) == Secret("CANARY-office")
    assert (support.app_id, support.account, support.settings.sender_name) == (office.id, support.address, "Support")
    assert await token_state(store, support.token_id) == ("not_acquired", "")
    assert (old.app_id, old.token_id, old.account) == (None, None, old.address)
    password = await store.database.read(lambda tx: configuration.mailbox_password(tx, store.sealer, old.id))
    assert password == Secret("CANARY-old")


async def test_devices_log_in_with_the_passwords_of_the_file_and_of_the_report(store: Store) -> None:
    report = await run(store, WITH_CHOSEN)
    key = password_key(store.sealer)
    assert list(report.generated) == ["printer"]
    assert fits((await device(store, "printer")).password_hash, key, report.generated["printer"])
    assert fits((await device(store, "scanner")).password_hash, key, Secret("CANARY-scanner"))
    assert not fits((await device(store, "scanner")).password_hash, key, report.generated["printer"])


async def test_a_second_time_changes_nothing(store: Store) -> None:
    await run(store, WITH_CHOSEN)
    before = await everything(store)
    report = await run(store, WITH_CHOSEN)
    assert await everything(store) == before
    assert not report.changed
    assert len(report.entries) == 6
    assert report.generated == {}
    assert report.drift == []


async def test_what_changed_is_named_and_the_rest_is_left_alone(store: Store) -> None:
    await run(store, WITH_CHOSEN)
    text = WITH_CHOSEN.replace("connections = 3", "connections = 4").replace('"Support"', '"Help"')
    report = await run(store, text, secrets=SECRETS | {"SCANNER_PASSWORD": "another one", "OLD_PASSWORD": "another"})
    assert [str(entry) for entry in report.entries if entry.what != "unchanged"] == [
        "~ provider example changed: limits.connections",
        "~ mailbox support@example.com changed: sender_name",
        "~ mailbox old@example.net changed: password",
        "~ device scanner changed: password",
    ]
    assert (await everything(store)).providers["example"].document["limits"] == {"connections": 4}


async def test_an_empty_server_is_the_providers_again(store: Store) -> None:
    own = 'app = "office"\nsmtp = "mail.example.com:465 tls"'
    await run(store, OFFICE + SUPPORT.replace('app = "office"', own))
    report = await run(store, OFFICE + SUPPORT.replace('app = "office"', 'app = "office"\nsmtp = ""'))
    assert [entry.keys for entry in report.entries if entry.keys] == [("smtp",)]


async def test_keys_left_out_keep_their_value(store: Store) -> None:
    await run(store, ALL)
    report = await run(
        store,
        """
        [[provider]]
        name = "example"
        smtp = "smtp.example.com:465 tls"
        [[app]]
        name = "office"
        tenant = "common"
        [[mailbox]]
        address = "support@example.com"
        receive = "imap"
        [[mailbox]]
        address = "old@example.net"
        sender_name = "Old"
        [[device]]
        name = "Printer"
        rate = "60/h"
        """,
        secrets={},
    )
    assert [entry.keys for entry in report.entries] == [
        ("smtp",),
        ("tenant",),
        ("receive",),
        ("sender_name",),
        ("rate",),
    ]
    stored = await everything(store)
    assert stored.providers["example"].document["issuer"] == "https://id.example.com"
    assert stored.providers["example"].document["limits"] == {"connections": 3}
    assert (await app(store)).sealed_secret is not None
    assert (await app(store)).document == {"tenant": "common"}
    assert (await mailbox(store)).settings.sender_name == "Support"
    assert (await mailbox(store, "old@example.net")).has_password
    assert (await device(store, "printer")).settings.mailboxes == ("support@example.com",)


async def test_all_problems_at_once_and_nothing_written(store: Store) -> None:
    text = ALL.replace('"office"\nsender', '"ofice"\nsender').replace("connections = 3", "connections = 0")
    told = await refused(store, text + '[[device]]\nname = "fax"\ncolour = 1\nmailboxes = ["gone@example.com"]')
    assert [re.sub(r"^mail\.toml:\d+: ", "", line).partition(".")[0] for line in told] == [
        "connections has to be a whole number above 0",
        "There is no app ofice",
        "colour is not a setting of a device",
        "There is no mailbox gone@example",
    ]
    assert (await everything(store)).generation == 0


async def test_a_mailbox_of_the_store_will_do(store: Store) -> None:
    await run(store, OFFICE + SUPPORT)
    report = await run(store, PRINTER, "printers.toml")
    assert report.names("added", "device") == ["printer"]
    assert (await device(store, "printer")).origin == "printers.toml"


async def test_a_missing_secret_keeps_the_stored_one(store: Store) -> None:
    assert len(await refused(store, WITH_CHOSEN, secrets={})) == 3
    await run(store, WITH_CHOSEN)
    before = await everything(store)
    report = await run(store, WITH_CHOSEN, secrets={})
    assert await everything(store) == before
    assert [note for note in report.notes if "is kept" in note] == [
        "office: the environment variable OFFICE_SECRET is not set; the stored client_secret is kept.",
        "old@example.net: the environment variable OLD_PASSWORD is not set; the stored password is kept.",
        "scanner: the environment variable SCANNER_PASSWORD is not set; the stored password is kept.",
    ]
    assert not (await run(store, WITH_CHOSEN)).changed


async def test_a_dry_run_tells_and_does_nothing(store: Store) -> None:
    before = await everything(store)
    report = await run(store, ALL, dry_run=True)
    assert await everything(store) == before
    assert await store.database.read(lambda tx: applied.recall(tx, "mail.toml")) == {}
    assert report.names("added", "device") == ["printer"]
    assert report.generated == {}
    assert list(report.lines())[-1] == "mail.toml: 5 would change."


async def test_edits_elsewhere_are_drift(store: Store) -> None:
    await run(store, ALL)
    support = await mailbox(store)
    await edit(store, "mailbox", support.id, document='{"sender_name": "Sales", "folder": "Other"}')
    await edit(store, "app", support.app_id or "", secret=None)
    dry = await run(store, ALL, dry_run=True)
    assert dry.drift == [
        "The app office: client_secret was changed elsewhere since.",
        "The mailbox support@example.com: sender_name was changed elsewhere since.",
    ]
    assert (await mailbox(store)).settings.sender_name == "Sales"
    await run(store, ALL)
    assert (await mailbox(store)).settings.sender_name == "Support"
    assert (await mailbox(store)).settings.folder == "Other"
    assert (await run(store, ALL)).drift == []


async def test_a_change_of_the_file_is_no_drift(store: Store) -> None:
    await run(store, ALL)
    assert (await run(store, ALL.replace('"Support"', '"Help"'))).drift == []


async def test_what_was_removed_elsewhere_is_made_again(store: Store) -> None:
    await run(store, ALL)
    printer = await device(store, "printer")
    await store.database.write(lambda tx: configuration.remove(tx, "device", printer.id))
    report = await run(store, ALL)
    assert report.drift == ["The device printer was removed since; it is made again."]
    assert list(report.generated) == ["printer"]


async def test_another_client_ends_its_tokens(store: Store) -> None:
    await run(store, ALL)
    token = await acquire(store, (await mailbox(store)).token_id)
    await run(store, ALL, secrets=SECRETS | {"OFFICE_SECRET": "renewed"})
    assert await token_state(store, token) == ("acquired", "")
    await run(store, ALL.replace('"1234"', '"5678"'))
    assert await token_state(store, token) == ("invalid", "client_changed")
    assert (await app(store)).client_id == "5678"
    told = [event.kind for event in await store.database.read(lambda tx: events.after(tx, 0))]
    assert told[-1] == "token.invalid"


SWITCHED = SUPPORT + 'signs_in_as = "Alice@example.com"\n'


async def test_another_account_waits_until_its_token_has_proved_itself(store: Store) -> None:
    await run(store, OFFICE + SUPPORT)
    old = await acquire(store, (await mailbox(store)).token_id)
    report = await run(store, OFFICE + SWITCHED)
    support = await mailbox(store)
    assert (support.account, support.token_id) == ("support@example.com", old)
    assert support.settings.switch is not None
    assert support.settings.switch.account == "alice@example.com"
    assert "until its new token has proved itself" in report.notes[0]
    assert not (await run(store, OFFICE + SWITCHED)).changed

    assert await store.database.write(lambda tx: switching.finish(tx, support, NOW))
    after = await mailbox(store)
    assert (after.account, after.token_id) == ("alice@example.com", support.settings.switch.token_id)
    assert after.settings == replace(support.settings, switch=None, former=after.settings.former)
    assert after.settings.former is not None
    assert (after.settings.former.account, after.settings.former.token_id) == ("support@example.com", old)
    assert not (await run(store, OFFICE + SWITCHED)).changed
    assert not await store.database.write(lambda tx: switching.finish(tx, after, NOW))


async def test_a_switch_that_is_taken_back(store: Store) -> None:
    await run(store, OFFICE + SUPPORT)
    old = await acquire(store, (await mailbox(store)).token_id)
    await run(store, OFFICE + SWITCHED)
    wanted = (await mailbox(store)).settings.switch
    assert wanted is not None
    await run(store, OFFICE + SUPPORT + 'signs_in_as = "support@example.com"\n')
    support = await mailbox(store)
    assert (support.token_id, support.settings.switch) == (old, None)
    assert await token_state(store, wanted.token_id) == ("gone", "")


@pytest.mark.parametrize("change", ['"office"\n', '"office"\ntoken = "own"\n'])
async def test_where_nothing_serves_nothing_is_waited_for(store: Store, change: str) -> None:
    await run(store, OFFICE + SUPPORT)
    old = (await mailbox(store)).token_id
    await run(store, OFFICE + SWITCHED.replace('"office"\n', change))
    support = await mailbox(store)
    assert (support.account, support.settings.switch) == ("alice@example.com", None)
    assert support.token_id != old
    assert await token_state(store, old) == ("gone", "")


async def test_mailboxes_share_a_token_unless_they_want_their_own(store: Store) -> None:
    second, third = (SWITCHED.replace("support@", f"{name}@") for name in ("second", "third"))
    await run(store, OFFICE + SWITCHED + second + third + 'token = "own"\n')
    names = ("support", "second", "third")
    first, other, own = [(await mailbox(store, f"{name}@example.com")).token_id for name in names]
    assert first == other
    assert own != first


async def test_the_password_serves_until_the_token_has_proved_itself(store: Store) -> None:
    await run(store, OLD)
    await run(store, OFFICE + OLD + 'app = "office"\n')
    old = await mailbox(store, "old@example.net")
    assert (old.app_id, old.token_id, old.has_password) == (None, None, True)
    assert old.settings.switch is not None
    assert old.settings.switch.app_id == (await app(store)).id
    assert await token_state(store, old.settings.switch.token_id) == ("not_acquired", "")
    assert await store.database.write(lambda tx: switching.finish(tx, old, NOW))
    assert (await mailbox(store, "old@example.net")).app_id == (await app(store)).id


async def test_back_to_the_password(store: Store) -> None:
    text = OFFICE + OLD + 'app = "office"\n'
    await run(store, text)
    switching_mailbox = await mailbox(store, "old@example.net")
    await store.database.write(lambda tx: switching.finish(tx, switching_mailbox, NOW))
    token = await acquire(store, (await mailbox(store, "old@example.net")).token_id)
    report = await run(store, OFFICE + OLD + 'app = ""\n')
    old = await mailbox(store, "old@example.net")
    assert (old.app_id, old.token_id, old.has_password) == (None, None, True)
    assert report.unused_tokens == [token]
    assert await token_state(store, token) == ("acquired", "")


async def test_one_default(store: Store) -> None:
    await run(store, OFFICE + SUPPORT + "default = true\n" + OLD)
    report = await run(store, OLD + "default = true\n", "other.toml")
    assert [str(entry) for entry in report.entries] == [
        "~ mailbox old@example.net changed: default",
        "~ mailbox support@example.com changed: default",
    ]
    defaults = [one.address for one in (await everything(store)).mailboxes.values() if one.default]
    assert defaults == ["old@example.net"]


async def test_an_open_lane_has_no_password(store: Store) -> None:
    lane = 'lane = "open"\nnetworks = ["10.0.0.0/8"]\n'
    report = await run(store, OFFICE + SUPPORT + PRINTER + lane)
    assert report.generated == {}
    assert (await device(store, "printer")).password_hash == ""
    closed = await run(store, PRINTER + 'lane = ""\n')
    assert list(closed.generated) == ["printer"]


async def test_the_fence_of_an_open_lane_may_lie_in_the_store(store: Store) -> None:
    await run(store, OFFICE + SUPPORT + PRINTER + 'networks = ["10.0.0.0/8"]')
    await run(store, '[[device]]\nname = "printer"\nlane = "open"')
    assert (await device(store, "printer")).settings.lane == "open"
    told = await refused(store, '[[device]]\nname = "printer"\nnetworks = []')
    assert "An open lane without networks would let everybody send." in told[0]


async def test_prune_removes_what_the_file_made_and_only_that(store: Store) -> None:
    await edit(store, "device", "dv_page", name="fax", document='{"mailboxes": ["support@example.com"]}')
    fax = '[[device]]\nname = "fax"\nrate = "1/m"\n'
    await run(store, OFFICE + SUPPORT + PRINTER + fax)
    await run(store, '[[device]]\nname = "other"\nmailboxes = ["support@example.com"]', "other.toml")
    shorter = OFFICE + SUPPORT
    kept = await run(store, shorter)
    assert not kept.changed
    assert kept.notes == ["The device printer is no longer in the file; --prune removes it."]
    assert (await device(store, "fax")).origin == "mail.toml"
    report = await run(store, shorter, prune=True)
    assert [str(entry) for entry in report.entries if entry.what != "unchanged"] == ["- device printer removed"]
    left = {one.name: one.origin for one in (await everything(store)).devices.values()}
    assert left == {"fax": "", "other": "other.toml"}
    assert not (await run(store, shorter, prune=True)).changed


async def test_prune_takes_everything_in_the_right_order(store: Store) -> None:
    await run(store, ALL)
    token = (await mailbox(store)).token_id
    report = await run(store, "", prune=True)
    assert [entry.kind for entry in report.entries] == ["device", "mailbox", "mailbox", "app", "provider"]
    left = await everything(store)
    assert [left.providers, left.apps, left.mailboxes, left.devices] == [{}, {}, {}, {}]
    assert await token_state(store, token) == ("gone", "")


async def test_a_broken_file_prunes_nothing(store: Store) -> None:
    await run(store, ALL)
    assert len(await refused(store, "[[device]]\nname =", prune=True)) == 1


async def test_what_others_use_cannot_be_pruned(store: Store) -> None:
    await run(store, OFFICE + SUPPORT)
    await run(store, PRINTER, "printers.toml")
    assert await refused(store, OFFICE, prune=True) == [
        "mail.toml: The mailbox support@example.com cannot be removed: the device printer still uses it. "
        "Change or remove the device first."
    ]


async def test_waiting_mail_stands_in_the_way(store: Store) -> None:
    await run(store, OFFICE + SUPPORT + OLD)
    await queue(store, "old@example.net", "q1", "q2", "q3")
    old_id = (await mailbox(store, "old@example.net")).id
    await store.database.write(lambda tx: messages.park(tx, old_id, NOW, "no token"))
    shorter = OFFICE + SUPPORT
    told = await refused(store, shorter, prune=True)
    assert len(told) == 1
    assert "3 messages wait for old@example.net" in told[0]
    assert "--discard 3" in told[0]
    assert await refused(store, shorter, prune=True, discard=2) == told
    assert await refused(store, OFFICE + SUPPORT + OLD + "send = false\n") == told
    assert (
        "no mailbox gone@example.com"
        in (await refused(store, shorter, prune=True, move_to="gone@example.com", discard=0))[0]
    )
    assert "no mailbox old@example.net" in (await refused(store, shorter, prune=True, move_to="old@example.net"))[0]
    assert "only one" in (await refused(store, shorter, prune=True, move_to="support@example.com", discard=3))[0]


async def test_waiting_mail_is_moved(store: Store) -> None:
    await run(store, OFFICE + SUPPORT + OLD)
    await queue(store, "old@example.net", "q1", "q2")
    old_id = (await mailbox(store, "old@example.net")).id
    await store.database.write(lambda tx: messages.park(tx, old_id, NOW, "no token"))
    await run(store, OFFICE + SUPPORT, prune=True, move_to="Support@example.com", dry_run=True)
    assert await waiting(store, "old@example.net") == {"parked": 2}
    await run(store, OFFICE + SUPPORT, prune=True, move_to="Support@example.com")
    assert await waiting(store, "support@example.com") == {"queued": 2}
    kinds = [line.kind for line in await store.database.read(lambda tx: journal.of_message(tx, "q1"))]
    assert kinds == ["accepted", "parked", "released", "moved"]


async def test_waiting_mail_is_moved_to_a_mailbox_of_the_same_file(store: Store) -> None:
    await run(store, OLD)
    await queue(store, "old@example.net", "q1")
    await run(store, OFFICE + SUPPORT, prune=True, move_to="support@example.com")
    assert await waiting(store, "support@example.com") == {"queued": 1}


async def test_waiting_mail_is_discarded_when_its_number_is_said(store: Store) -> None:
    await run(store, OFFICE + SUPPORT + OLD)
    await queue(store, "old@example.net", "q1", "q2")
    await store.spool.write("q1", 0, b"a large body", last=True)
    await run(store, OFFICE + SUPPORT + OLD + "send = false\n", discard=2)
    assert await waiting(store, "old@example.net") == {}
    assert await store.database.read(lambda tx: messages.one(tx, "q1")) is None
    assert await store.spool.sweep(set()) == 0


async def test_a_mailbox_that_sends_no_more_already_is_left_alone(store: Store) -> None:
    silent = OFFICE + SUPPORT + "send = false\n"
    await run(store, silent)
    await queue(store, "support@example.com", "q1")
    assert not (await run(store, silent)).changed


async def test_two_at_once_make_everything_once(site: Site) -> None:
    first, second = await site.nodes(2)
    reports = await together([run(first, ALL), run(second, ALL)])
    stored = await everything(first)
    assert [len(rows) for rows in (stored.providers, stored.apps, stored.mailboxes, stored.devices)] == [1, 1, 2, 1]
    assert sorted(len(report.names("added", "mailbox")) for report in reports) == [0, 2]
    (password,) = [report.generated["printer"] for report in reports if report.generated]
    assert fits((await device(first, "printer")).password_hash, password_key(first.sealer), password)


@pytest.mark.needs("postgres")
async def test_an_edit_in_the_same_moment_is_not_lost(
    prepared_postgres: str, site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = await site_of(prepared_postgres).nodes(2)
    await run(store, OFFICE + SUPPORT)
    support, edited, loaded = await mailbox(store), asyncio.Event(), asyncio.Event()

    async def edit_slowly(tx: Transaction) -> None:
        await configuration.save(tx, "mailbox", support.id, document='{"sender_name": "Support", "folder": "Other"}')
        edited.set()
        await loaded.wait()

    def tell(*arguments: Any) -> Any:
        loaded.set()
        return no_longer_wanted(*arguments)

    monkeypatch.setattr(apply_record, "no_longer_wanted", tell)
    editing = asyncio.create_task(other.database.write(edit_slowly))
    await edited.wait()
    await run(store, OFFICE + SUPPORT.replace('"Support"', '"Help"'))
    await editing
    settings = (await mailbox(store)).settings
    assert (settings.sender_name, settings.folder) == ("Help", "Other")


async def test_no_secret_in_what_is_told(store: Store) -> None:
    report = await run(store, ALL)
    printed = report.generated["printer"].reveal()
    told = "\n".join([*report.lines(), repr(report)])
    assert "support@example.com" in told
    assert "CANARY" not in told
    assert printed not in told
    remembered = encode(await store.database.read(lambda tx: applied.recall(tx, "mail.toml")))
    assert "sender_name" in remembered
    assert "CANARY" not in remembered
    assert printed not in remembered


async def test_destinations_are_accepted_for_later(store: Store) -> None:
    text = OFFICE + SUPPORT + 'destination = "desk"\n[[destination]]\nname = "desk"\nmaildir = "/var/mail/desk"\n'
    report = await run(store, text)
    assert report.notes == ["Destinations are not yet available; the rest was applied."]
    assert (await mailbox(store)).settings.destination == "desk"


async def test_a_built_in_provider_with_changes(store: Store) -> None:
    text = '[[provider]]\nname = "microsoft"\n[provider.limits]\nconnections = 1\n'
    assert (await run(store, text)).names("added", "provider") == ["microsoft"]
    await run(store, '[[app]]\nname = "tenant"\nprovider = "microsoft"\nclient_id = "1"', "app.toml")
    assert (await run(store, "", prune=True)).names("removed", "provider") == ["microsoft"]
