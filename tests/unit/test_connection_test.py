"""The connection test: what it says about a mailbox whose provider is well, switched off, away, or has revoked."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.services.connection_test import STEPS
from posthouse.services.steps import Step, verdict
from posthouse.store import tokens
from tests.support.boxes import ALICE, Box, box
from tests.support.clients import over_socket
from tests.support.house import House, house, until
from tests.support.visitors import administrator

BOTH = f'[[mailbox]]\naddress = "{ALICE}"\nreceive = "imap"\n'


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "box") as made:
        yield made


@pytest.fixture
async def home(tmp_path: Path, provider: Box) -> AsyncIterator[House]:
    """Alice sends, and receives by IMAP."""
    async with house(tmp_path / "data", provider.apply_file(ALICE), background=False) as made:
        await made.apply(BOTH)
        yield made


async def tested(home: House, *only: str) -> dict[str, Step]:
    await home.parts.directory.refresh()
    mailbox = home.parts.directory.now.by_address[ALICE]
    return {step.name: step async for step in home.parts.connection_test.steps(mailbox, only)}


async def test_everything_is_well(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    steps = await tested(home)
    assert [(name, step.state) for name, step in steps.items()] == [
        ("token", "passed"),
        ("smtp", "passed"),
        ("imap", "passed"),
        ("pop3", "unused"),
    ]
    assert "renewed the token" in steps["token"].sentence
    assert "the folder can be opened" in steps["imap"].sentence
    serving = (await home.token(ALICE)).serving_grant or ""
    grant = await home.parts.store.database.read(lambda tx: tokens.get_grant(tx, home.parts.store.sealer, serving))
    assert grant is not None
    assert grant.serial == 1
    assert verdict(list(steps.values())) == "passed"


async def test_protocols_are_tried_with_the_token_that_was_renewed(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    assert verdict(list((await tested(home)).values())) == "passed"
    await provider.control("expire", person=ALICE)
    assert verdict(list((await tested(home)).values())) == "passed"


async def test_a_protocol_that_is_named_is_tried_although_it_is_not_used(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    """The token was not asked to be good for it."""
    step = (await tested(home, "pop3"))["pop3"]
    assert step.state == "failed"
    assert step.answer


async def test_without_a_token_nothing_is_tried(home: House) -> None:
    steps = await tested(home)
    assert [step.state for step in steps.values()] == ["failed", "skipped", "skipped", "unused"]
    assert steps["token"].answer == "There is no token yet."
    assert verdict(list(steps.values())) == "failed"


async def test_a_token_that_was_revoked_fails_with_the_catalogues_words(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    await provider.control("revoke", person=ALICE)
    for _ in range(2):
        steps = await tested(home)
        assert [step.state for step in steps.values()] == ["failed", "skipped", "skipped", "unused"]
        assert "invalid_grant" in steps["token"].answer
        assert steps["token"].cause
        assert steps["token"].fix
    assert (await home.token(ALICE)).state == "invalid"


async def test_a_switch_that_is_off_is_named_for_the_protocol_it_is_for(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    await provider.control("protocols", protocol="smtp", on=False)
    steps = await tested(home)
    assert [step.state for step in steps.values()] == ["passed", "failed", "passed", "unused"]
    assert "5.7.139" in steps["smtp"].answer
    assert "smtp_auth_disabled" in steps["smtp"].answer
    assert f"does not let {ALICE} in with this token, or not by this protocol" in steps["smtp"].sentence
    assert (await home.token(ALICE)).state == "acquired"


async def test_a_provider_that_is_away_is_temporary_and_destroys_nothing(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    await provider.control("faults", place="token", action="answer", status=503)
    steps = await tested(home)
    assert (steps["token"].state, steps["token"].temporary) == ("failed", True)
    assert verdict(list(steps.values())) == "temporary"
    assert (await home.token(ALICE)).state == "acquired"


async def test_what_was_found_stands_at_the_settings(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    await provider.control("protocols", protocol="imap", on=False)
    await tested(home)
    async with over_socket(home) as api:
        mailbox = (await api.get(f"/mailboxes/{ALICE}")).json()
    assert {server["protocol"]: server["state"] for server in mailbox["servers"]} == {
        "smtp": "proved",
        "imap": "refused",
    }


async def test_over_the_api(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    async with over_socket(home) as api:
        report = (await api.post(f"/mailboxes/{ALICE}/test", {})).json()
        assert (report["mailbox"], report["verdict"]) == (ALICE, "passed")
        assert [check["name"] for check in report["checks"]] == list(STEPS)
        assert report["checks"][2]["evidence"] == "opened INBOX"
        assert (await api.post(f"/mailboxes/{ALICE}/test", {"only": ["telnet"]})).status_code == 422
        assert (await api.post("/mailboxes/nobody@example.com/test", {})).status_code == 404


async def test_on_the_page(home: House, provider: Box) -> None:
    async with administrator(home) as person:
        mailbox = home.parts.directory.now.by_address[ALICE]
        await person.look(f"/mailboxes/{mailbox.id}")
        assert "Test the connection" in person.text()
        answer = await person.press(f"/mailboxes/{mailbox.id}/test")
        address = answer.headers["location"]
        run = home.parts.connection_test.runs.find(address.rpartition("/")[2])
        assert run is not None

        async def over() -> bool:
            return run.ended

        await until(over, "the test being over")
        await person.look(address)
        text = person.text()
        assert "Token : failed There is no token yet." in text
        assert "SMTP : not tried Without a token it cannot be tried." in text
        assert "Test again" in text
        assert re.search(r'role="button"[^>]*>Get token', person.shown)
        assert "http-equiv" not in person.shown
        assert (await person.look(f"/mailboxes/{mailbox.id}/test/ct_none")).headers["location"].endswith(mailbox.id)


async def test_two_who_press_the_button_share_one_test(home: House, provider: Box) -> None:
    await home.by_device(ALICE, provider.approve_as(ALICE))
    await provider.control("faults", place="imap.auth", action="pass", delay=0.3)
    mailbox = home.parts.directory.now.by_address[ALICE]
    async with administrator(home) as person:
        first = (await person.press(f"/mailboxes/{mailbox.id}/test")).headers["location"]
        assert (await person.press(f"/mailboxes/{mailbox.id}/test")).headers["location"] == first
        await person.look(first)
        assert "being tried" in person.text()
        assert 'hx-trigger="every 1s"' in person.shown
        assert '<noscript><meta http-equiv="refresh"' in person.shown
        assert "<html" not in (await person.look(f"{first}/progress")).text
