"""Changing one thing at a time, on both databases: people and nodes at once, and files that own what is changed."""

from typing import Any

import pytest

from posthouse.net.http import HttpClient
from posthouse.problems import ProblemError
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from posthouse.services.directory import Directory
from posthouse.services.editing import COMMAND_LINE, Edited, Editing
from posthouse.services.following import Following
from posthouse.services.giving_back import GivingBack
from posthouse.services.sign_in import SignIn
from posthouse.store.opening import Store
from tests.contract.making import NOW, Site, together
from tests.contract.test_applying import ALL, SECRETS, mailbox, queue

SUPPORT = "support@example.com"


def editing(store: Store) -> Editing:
    directory = Directory(store)
    giving_back = GivingBack(store, SignIn(directory, HttpClient(), lambda: NOW), lambda: NOW)
    return Editing(store, directory, giving_back, Following(store, directory), lambda: NOW)


async def applied(store: Store, text: str = ALL, **options: Any) -> list[str]:
    report = await apply(store, parse(text, "mail.toml", SECRETS), NOW, **options)
    return [*map(str, report.entries), *report.drift]


async def outcome(work: Any) -> str:
    """What was done, or the id of what was wrong."""
    try:
        done: Edited = await work
    except ProblemError as error:
        return error.problems[0].id
    return done.what


async def test_of_two_people_at_once_only_the_first_writes(site: Site) -> None:
    stores = await site.nodes(2)
    await applied(stores[0])
    version = (await mailbox(stores[0])).version
    ended = await together(
        outcome(editing(store).change("mailbox", SUPPORT, {"sender_name": name}, COMMAND_LINE, version=version))
        for store, name in zip(stores, ("Help", "Desk"), strict=True)
    )
    assert sorted(ended) == ["changed", "edit.changed"]
    assert (await mailbox(stores[0])).settings.sender_name in ("Help", "Desk")
    assert (await mailbox(stores[0])).version == version + 1


async def test_of_two_nodes_that_add_the_same_one_does(site: Site) -> None:
    stores = await site.nodes(2)
    await applied(stores[0])
    ended = await together(
        outcome(editing(store).add("device", "Scanner", {"mailboxes": [SUPPORT]}, COMMAND_LINE)) for store in stores
    )
    assert sorted(ended) == ["added", "edit.exists"]


async def test_what_a_file_owns_may_be_changed_and_is_drift(site: Site) -> None:
    store = await site.node()
    await applied(store)
    await editing(store).change("mailbox", SUPPORT, {"sender_name": "Help", "folder": "In"}, COMMAND_LINE)
    assert (await mailbox(store)).origin == "mail.toml"
    told = await applied(store, dry_run=True)
    assert f"The mailbox {SUPPORT}: sender_name was changed elsewhere since." in told
    assert not any("folder" in line for line in told), "the file does not name it"
    assert (await mailbox(store)).settings.sender_name == "Help"
    await applied(store)
    assert (await mailbox(store)).settings.sender_name == "Support"
    assert (await mailbox(store)).settings.folder == "In"


async def test_what_was_made_otherwise_is_nobodys_and_no_file_prunes_it(site: Site) -> None:
    store = await site.node()
    await applied(store)
    await editing(store).add("mailbox", "sales@example.com", {"app": "office"}, COMMAND_LINE)
    assert (await mailbox(store, "sales@example.com")).origin == ""
    assert not any("sales" in line for line in await applied(store, prune=True))
    assert (await mailbox(store, "sales@example.com")).origin == ""


async def test_a_mailbox_with_mail_goes_only_when_it_is_said_what_becomes_of_it(site: Site) -> None:
    store = await site.node()
    await applied(store, ALL.replace('mailboxes = ["support@example.com"]', 'mailboxes = ["old@example.net"]'))
    await queue(store, SUPPORT, "q1", "q2")
    one = editing(store)
    with pytest.raises(ProblemError, match="2 messages wait"):
        await one.remove("mailbox", SUPPORT, COMMAND_LINE)
    with pytest.raises(ProblemError, match="2 messages wait"):
        await one.change("mailbox", SUPPORT, {"send": False}, COMMAND_LINE)
    assert await outcome(one.remove("mailbox", SUPPORT, COMMAND_LINE, discard=1)) == "apply.mail-waits"
    assert await outcome(one.remove("mailbox", SUPPORT, COMMAND_LINE, move_to="old@example.net")) == "removed"
    assert await outcome(one.remove("mailbox", SUPPORT, COMMAND_LINE)) == "edit.gone"


async def test_a_password_goes_to_no_other_server(site: Site) -> None:
    store = await site.node()
    await applied(store)
    one, old = editing(store), "old@example.net"
    assert await outcome(one.change("mailbox", old, {"smtp": "evil.example:465 tls"}, COMMAND_LINE)) == (
        "edit.secret-again"
    )
    same_host = {"smtp": "smtp.example.net:587 starttls"}
    assert await outcome(one.change("mailbox", old, same_host, COMMAND_LINE)) == "changed"
    both = {"smtp": "new.example.net:465 tls", "password": "another"}
    assert await outcome(one.change("mailbox", old, both, COMMAND_LINE)) == "changed"


async def test_taking_a_key_away_brings_its_default_back(site: Site) -> None:
    store = await site.node()
    await applied(store)
    one = editing(store)
    await one.change("mailbox", SUPPORT, {"timeout": 90, "sender_address": "x@example.com"}, COMMAND_LINE)
    assert (await mailbox(store)).settings.timeout == 90
    done = await one.change("mailbox", SUPPORT, {"timeout": None, "sender_address": None}, COMMAND_LINE)
    assert set(done.changed) == {"timeout", "sender_address"}
    kept = (await mailbox(store)).settings
    assert (kept.timeout, kept.sender_address, kept.sender_name) == (30, "", "Support")
