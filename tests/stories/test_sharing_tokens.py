"""Stories of settings that share a token, own one, and change between the two."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from posthouse.app import gateway
from posthouse.model.mailbox import Mailbox, Purpose
from posthouse.model.token import Token
from posthouse.problems import ProblemError
from posthouse.services.overview import MailboxView
from posthouse.services.proving import prove
from posthouse.services.token_keeper import NoToken
from posthouse.settings import Settings
from posthouse.store import tokens
from tests.support.boxes import ALICE, BOB, PRINTER, SUPPORT, Box, box
from tests.support.house import Hands, House, house

DAY = 86_400.0
BOTH_WAYS = f'[[mailbox]]\naddress = "{ALICE}"\nreceive = "imap"'


async def mailbox(home: House, address: str = ALICE) -> Mailbox:
    await home.parts.directory.refresh()
    return home.parts.directory.now.by_address[address]


async def token_for(home: House, purpose: Purpose, address: str = ALICE) -> Token:
    seen = (await mailbox(home, address)).for_setting(purpose)
    found = await home.parts.store.database.read(lambda tx: tokens.get(tx, seen.token_id or ""))
    assert found is not None
    return found


async def signed_in(home: House, provider: Box, purpose: Purpose | None = None, address: str = ALICE) -> str:
    """By device code, for the token of a setting; the state in which it ended."""
    begun = await home.parts.authorise.begin(await mailbox(home, address), "device", purpose)
    await provider.approve_as((await mailbox(home, address)).for_setting(purpose).switched.account)(begun.authorisation)
    ended = await home.followed(begun.authorisation)
    await home.parts.directory.refresh()
    return ended.state


async def choose(home: House, purpose: Purpose, share: Any, address: str = ALICE) -> None:
    await home.parts.sharing.choose(await mailbox(home, address), purpose, share)


async def view(home: House, address: str = ALICE) -> MailboxView:
    return await home.view(address)


async def users(home: House) -> list[tuple[list[str], list[str]]]:
    """What Alice's tokens are used for, and what waits for them."""
    shown = (await view(home)).tokens
    return [([one.purpose for one in token.used_by], [one.purpose for one in token.waiting]) for token in shown]


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "box") as made:
        yield made


@pytest.fixture
async def home(tmp_path: Path, provider: Box) -> AsyncIterator[House]:
    """Alice sends and receives; time stands still but for what a test does."""
    async with house(tmp_path / "data", provider.apply_file(ALICE), background=False) as made:
        await made.apply(BOTH_WAYS)
        yield made


async def test_a_setting_that_gets_its_own_token_uses_the_shared_one_until_that_has_proved_itself(
    home: House, provider: Box
) -> None:
    await signed_in(home, provider)
    shared = await token_for(home, "sending")
    await choose(home, "receiving", "own")
    assert await users(home) == [(["sending", "receiving"], []), ([], ["receiving"])]
    assert (await token_for(home, "receiving")).id == shared.id
    assert await signed_in(home, provider, "receiving") == "done"
    assert await users(home) == [(["sending"], []), (["receiving"], [])]
    own = await token_for(home, "receiving")
    assert (own.state, own.id != shared.id) == ("acquired", True)
    assert (await token_for(home, "sending")).serving_grant == shared.serving_grant


async def test_settings_that_share_a_token_change_together(home: House, provider: Box) -> None:
    await signed_in(home, provider)
    first = (await token_for(home, "receiving")).serving_grant
    await signed_in(home, provider)
    sending, receiving = await token_for(home, "sending"), await token_for(home, "receiving")
    assert sending.serving_grant == receiving.serving_grant != first


async def test_of_two_tokens_one_dies_and_the_other_goes_on(tmp_path: Path, provider: Box) -> None:
    async with house(tmp_path / "data", provider.apply_file(ALICE)) as home:
        await home.apply(BOTH_WAYS)
        await signed_in(home, provider)
        await choose(home, "receiving", "own")
        await signed_in(home, provider, "receiving")
        await home.parts.authorise.delete_token((await token_for(home, "receiving")).id)
        with pytest.raises(NoToken):
            await home.parts.credentials.way(await mailbox(home), "imap")
        await home.until_message(await home.send(PRINTER, BOB, "Still"), "sent")
        seen = await view(home)
        assert (seen.token.state if seen.token else None, seen.next_for) == ("not_acquired", "receiving")


async def test_mail_waits_for_the_token_of_sending_and_for_no_other(tmp_path: Path, provider: Box) -> None:
    async with house(tmp_path / "data", provider.apply_file(ALICE)) as home:
        await home.apply(BOTH_WAYS + '\nsending_token = "own"')
        await signed_in(home, provider)
        waiting = await home.send(PRINTER, BOB, "Later")
        await home.until_message(waiting, "parked")
        await signed_in(home, provider, "sending")
        await home.until_message(waiting, "sent")


async def test_a_setting_that_shares_again_is_tried_at_once_and_can_go_back_for_a_week(
    home: House, provider: Box
) -> None:
    await signed_in(home, provider)
    await choose(home, "receiving", "own")
    await signed_in(home, provider, "receiving")
    own = await token_for(home, "receiving")
    await choose(home, "receiving", "shared")
    assert await users(home) == [(["sending", "receiving"], [])]
    earlier = await home.parts.going_back.earlier(await mailbox(home), "receiving")
    assert earlier is not None
    assert earlier.kind == "own"
    await home.parts.authorise.giving_back.sweep()
    await home.parts.going_back.go(await mailbox(home), "receiving")
    assert (await token_for(home, "receiving")).id == own.id
    assert (await mailbox(home)).settings.owns("receiving")
    again = await home.parts.going_back.earlier(await mailbox(home), "receiving")
    assert again is not None
    assert again.kind == "shared"
    await home.parts.going_back.go(await mailbox(home), "receiving")
    home.clock.forward(8 * DAY)
    await home.parts.authorise.giving_back.sweep()
    assert own.id not in {token.id for token in await home.parts.store.database.read(tokens.everything)}


async def test_a_setting_keeps_its_own_token_while_the_shared_one_is_refused_for_it(home: House, provider: Box) -> None:
    await signed_in(home, provider)
    await choose(home, "receiving", "own")
    await signed_in(home, provider, "receiving")
    own = await token_for(home, "receiving")
    fault = await provider.control("faults", place="imap.auth", action="answer", reply="NO AUTHENTICATE failed.")
    await choose(home, "receiving", "shared")
    assert (await token_for(home, "receiving")).id == own.id
    await home.apply(f'[[mailbox]]\naddress = "{ALICE}"\nsender_name = "Alice"')
    (shared, _) = (await view(home)).tokens
    assert [(one.purpose, "AUTHENTICATE failed" in one.refused) for one in shared.waiting] == [("receiving", True)]
    assert {server.protocol: server.state for server in (await view(home)).servers}["imap"] == "proved"
    assert await home.parts.going_back.earlier(await mailbox(home), "receiving") is None
    provider.sandbox.faults.remove(fault["id"])
    await home.parts.sharing.settle()
    assert (await token_for(home, "receiving")).id == own.id, "it was tried a moment ago"
    home.clock.forward(301)
    await home.parts.sharing.settle()
    assert await users(home) == [(["sending", "receiving"], [])]


async def test_a_new_consent_that_one_protocol_refuses_leaves_it_the_old_one(home: House, provider: Box) -> None:
    await signed_in(home, provider)
    first = (await token_for(home, "receiving")).serving_grant
    fault = await provider.control("faults", place="imap.auth", action="answer", reply="NO AUTHENTICATE failed.")
    assert await signed_in(home, provider) == "done"
    sending, receiving = await token_for(home, "sending"), await token_for(home, "receiving")
    assert sending.serving_grant != first
    assert (receiving.serving_grant, receiving.state) == (first, "acquired")
    home.clock.forward(7200)
    assert (await home.parts.credentials.way(await mailbox(home), "imap")).serial == 1
    provider.sandbox.faults.remove(fault["id"])
    await home.parts.sharing.settle()
    assert await users(home) == [(["sending", "receiving"], [])]


async def test_a_protocol_that_refuses_another_person_keeps_the_one_before(home: House, provider: Box) -> None:
    await home.apply(
        f'[[mailbox]]\naddress = "{SUPPORT}"\napp = "demo"\nsigns_in_as = "{ALICE}"\nreceive = "imap"\n'
        f'imap_user = "{SUPPORT}"'
    )
    assert await signed_in(home, provider, None, SUPPORT) == "done"
    await home.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{BOB}"')
    assert await signed_in(home, provider, None, SUPPORT) == "done"
    found = await mailbox(home, SUPPORT)
    assert (found.for_setting("sending").account, found.for_setting("receiving").account) == (BOB, ALICE)
    await home.parts.going_back.go(found)
    found = await mailbox(home, SUPPORT)
    assert (found.account, found.settings.apart) == (ALICE, {})


async def test_a_setting_that_was_given_its_own_token_in_the_middle_of_a_proof_stays_on_what_it_had(
    home: House, provider: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_in(home, provider)

    async def split_meanwhile(*given: Any, **named: Any) -> Any:
        proof = await prove(*given, **named)
        await choose(home, "receiving", "own")
        return proof

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("posthouse.services.trial.prove", split_meanwhile)
        assert await signed_in(home, provider) == "done"
    assert await users(home) == [(["sending", "receiving"], []), ([], ["receiving"])]
    assert await signed_in(home, provider, "receiving") == "done"
    assert await users(home) == [(["sending"], []), (["receiving"], [])]


async def test_of_two_people_who_change_the_same_mailbox_the_second_is_told(home: House, provider: Box) -> None:
    await signed_in(home, provider)
    seen = await mailbox(home)
    await home.parts.sharing.choose(seen, "receiving", "own", seen=seen.version)
    assert await home.parts.sharing.choose(seen, "receiving", "own", seen=seen.version)
    with pytest.raises(ProblemError, match="changed by somebody else"):
        await home.parts.sharing.choose(seen, "sending", "own", seen=seen.version)


async def test_pop3_beside_sending_has_a_token_of_its_own_unless_told_otherwise(home: House, provider: Box) -> None:
    pop3 = f'[[mailbox]]\naddress = "{BOB}"\napp = "demo"\npop3 = "{provider.described["pop3"]}"\nreceive = "pop3"'
    await home.apply(pop3)
    sending, receiving = await token_for(home, "sending", BOB), await token_for(home, "receiving", BOB)
    assert sending.id != receiving.id
    await home.apply(pop3 + '\nreceiving_token = "shared"')
    assert (await token_for(home, "receiving", BOB)).id == sending.id
    await home.apply(pop3 + '\nreceiving_token = ""\nsend = false')
    assert (await token_for(home, "receiving", BOB)).id == sending.id


async def test_a_token_asks_for_what_the_settings_that_use_it_need(home: House) -> None:
    address = "office@example.com"
    await home.apply(
        '[[app]]\nname = "m365"\nprovider = "microsoft"\nclient_id = "0f0e0d0c-1111-2222-3333-444455556666"\n'
        f'[[mailbox]]\naddress = "{address}"\napp = "m365"\nreceive = "imap"\nreceiving_token = "own"'
    )

    async def asked(purpose: Purpose) -> str:
        begun = await home.parts.authorise.begin(await mailbox(home, address), "paste", purpose)
        return parse_qs(urlsplit(begun.url).query)["scope"][0]

    sending, receiving = await asked("sending"), await asked("receiving")
    assert ("SMTP.Send" in sending, "IMAP" in sending) == (True, False)
    assert ("SMTP.Send" in receiving, "IMAP" in receiving) == (False, True)


async def test_notices_of_the_gateway_leave_by_a_token_of_their_own(tmp_path: Path, provider: Box) -> None:
    settings = Settings(
        data=tmp_path / "data", external_url="http://localhost:8480", notices_mailbox=ALICE, smtp=(), imap=(), pop3=()
    )
    async with gateway(settings, create=True, clock=(clock := Hands()), environment={}) as running:
        home = House(running, clock)
        await home.apply(provider.apply_file(ALICE, BOB))
        await signed_in(home, provider)
        assert await users(home) == [(["sending", "notices"], [])]
        await choose(home, "notices", "own")
        await signed_in(home, provider, "notices")
        await home.parts.authorise.delete_token((await token_for(home, "sending")).id)
        way = await home.parts.credentials.way(await mailbox(home), "smtp", purpose="notices")
        assert way.serial == 0
        with pytest.raises(ProblemError, match="not used for notices"):
            await choose(home, "notices", "own", BOB)


async def test_the_connection_test_renews_each_token_and_tries_what_has_one(home: House, provider: Box) -> None:
    await signed_in(home, provider)
    await choose(home, "receiving", "own")
    await signed_in(home, provider, "receiving")
    await home.parts.authorise.delete_token((await token_for(home, "receiving")).id)
    steps = {step.name: step async for step in home.parts.connection_test.steps(await mailbox(home))}
    assert {name: step.state for name, step in steps.items()} == {
        "token": "failed",
        "smtp": "passed",
        "imap": "skipped",
        "pop3": "unused",
    }
    assert steps["token"].answer == "receiving: There is no token yet."


async def test_another_account_chosen_on_purpose_waits_for_its_proof(home: House, provider: Box) -> None:
    await signed_in(home, provider)
    before = (await token_for(home, "sending")).id
    switched = await home.parts.sharing.switch_account(await mailbox(home), BOB.upper())
    assert (switched.account, switched.switched.account) == (ALICE, BOB)
    assert (await token_for(home, "sending")).id == before


async def test_a_token_that_is_deleted_does_not_take_the_others_of_its_account_along(tmp_path: Path) -> None:
    """At Google whoever revokes one consent ends all that the account has given to the app."""
    async with (
        box(tmp_path / "box", revoke_all=True) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as home,
    ):
        await home.apply(BOTH_WAYS)
        await signed_in(home, provider)
        await choose(home, "receiving", "own")
        await signed_in(home, provider, "receiving")
        await home.parts.authorise.delete_token((await token_for(home, "receiving")).id)
        home.clock.forward(7200)
        assert (await home.parts.credentials.way(await mailbox(home), "smtp")).serial == 1
        await home.parts.authorise.delete_token((await token_for(home, "sending")).id)
        assert {one["ended"] for one in (await provider.control_state())["grants"]} == {"revoked by the client"}
