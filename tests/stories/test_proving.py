"""Stories of consents that are changed, cancelled, overtaken or in need of patience before they serve."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from posthouse.services.apply_file import encode, parse
from posthouse.services.proving import prove
from posthouse.store import events, tokens
from posthouse.store.authorisations import Authorisation
from posthouse.store.database import Transaction
from posthouse.store.sealing import Sealer, Unsealable
from tests.support.boxes import ALICE, BOB, SUPPORT, Box, box
from tests.support.clients import over_socket
from tests.support.house import House, house, until

HOUR = 3600.0


async def begun(gateway: House, address: str) -> Authorisation:
    made = await gateway.parts.authorise.begin(gateway.parts.directory.now.by_address[address], "device")
    return made.authorisation


async def consented(gateway: House, provider: Box, address: str) -> Authorisation:
    """An attempt that the person has answered, looked after once."""
    made = await begun(gateway, address)
    await provider.approve_as(address)(made)
    gateway.clock.forward(2)
    await gateway.parts.authorise.look_after()
    return await gateway.authorisation(made.id)


async def ended(provider: Box) -> list[str]:
    """Why each grant ended at the provider; "" for those that live."""
    return [known["ended"] for known in (await provider.control_state())["grants"]]


async def grants(gateway: House, address: str) -> list[str]:
    """The newest refresh tokens of all grants of a mailbox's token."""
    token, store = await gateway.token(address), gateway.parts.store
    found = await store.database.read(lambda tx: tokens.grants_of(tx, store.sealer, token.id))
    return [grant.refresh_token.reveal() if grant.refresh_token else "" for grant in found]


async def turn(gateway: House) -> None:
    """The next time that somebody looks after what is under way."""
    gateway.clock.forward(301)
    await gateway.parts.authorise.look_after()


async def test_a_consent_that_waits_for_hours_is_renewed_before_it_is_tried_again(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("protocols", protocol="smtp", on=False)
        attempt = await consented(gateway, provider, ALICE)
        assert attempt.state == "proving"
        await provider.control("expire", person=ALICE)
        gateway.clock.forward(5 * HOUR)
        await provider.control("protocols", protocol="smtp", on=True)
        assert (await gateway.followed(attempt)).state == "done"
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_consent_that_dies_while_it_waits_ends_the_attempt(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("protocols", protocol="smtp", on=False)
        attempt = await consented(gateway, provider, ALICE)
        await provider.control("revoke", person=ALICE)
        gateway.clock.forward(5 * HOUR)
        over = await gateway.followed(attempt)
        assert (over.state, over.reason) == ("refused", "not_proved")
        token = await gateway.token(ALICE)
        assert (token.state, token.pending_grant) == ("not_acquired", None)
        assert await grants(gateway, ALICE) == []


async def test_a_consent_that_could_not_be_proved_in_a_day_is_given_back(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("protocols", protocol="smtp", on=False)
        attempt = await consented(gateway, provider, ALICE)
        gateway.clock.forward(25 * HOUR)
        over = await gateway.followed(attempt)
        assert (over.state, over.reason) == ("refused", "not_proved")
        assert await ended(provider) == ["revoked by the client"]
        assert (await gateway.token(ALICE)).pending_grant is None


async def test_a_consent_that_was_cancelled_while_it_waited_is_given_back_and_never_serves(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("protocols", protocol="smtp", on=False)
        attempt = await consented(gateway, provider, ALICE)
        cancelled = await gateway.parts.authorise.cancel(attempt.id)
        assert cancelled is not None
        assert (cancelled.state, cancelled.reason) == ("refused", "cancelled")
        await provider.control("protocols", protocol="smtp", on=True)
        await turn(gateway)
        token = await gateway.token(ALICE)
        assert (token.state, token.serving_grant, token.pending_grant) == ("not_acquired", None, None)
        assert await ended(provider) == ["revoked by the client"]


async def test_a_consent_that_was_cancelled_in_the_middle_of_its_proof_never_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        attempt = await begun(gateway, ALICE)

        async def cancel_meanwhile(*given: Any, **named: Any) -> Any:
            proof = await prove(*given, **named)
            cancelled = await gateway.parts.authorise.cancel(attempt.id)
            assert cancelled is not None
            assert cancelled.state == "refused"
            return proof

        monkeypatch.setattr("posthouse.services.trial.prove", cancel_meanwhile)
        await provider.approve_as(ALICE)(attempt)
        assert (await gateway.followed(attempt)).reason == "cancelled"
        token = await gateway.token(ALICE)
        assert (token.state, token.serving_grant, token.pending_grant) == ("not_acquired", None, None)
        assert await ended(provider) == ["revoked by the client"]


async def test_a_token_that_was_deleted_in_the_middle_of_a_proof_stays_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):

        async def delete_meanwhile(*given: Any, **named: Any) -> Any:
            proof = await prove(*given, **named)
            await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
            return proof

        monkeypatch.setattr("posthouse.services.trial.prove", delete_meanwhile)
        over = await gateway.by_device(ALICE, provider.approve_as(ALICE))
        assert (over.state, over.reason) == ("refused", "gone")
        token = await gateway.token(ALICE)
        assert (token.state, token.serving_grant) == ("not_acquired", None)
        assert await ended(provider) == ["revoked by the client"]


async def test_an_answer_that_comes_after_the_attempt_was_cancelled_is_given_back(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        attempt = await begun(gateway, ALICE)
        await provider.approve_as(ALICE)(attempt)
        await provider.control("faults", place="token", action="pass", delay=0.3)
        gateway.clock.forward(2)
        looking = asyncio.create_task(gateway.parts.authorise.look_after())

        async def asked() -> bool:
            return bool((await provider.control_state())["hits"])

        await until(asked, "the gateway asking for the token")
        await gateway.parts.authorise.cancel(attempt.id)
        await looking
        assert (await gateway.authorisation(attempt.id)).reason == "cancelled"
        token = await gateway.token(ALICE)
        assert (token.state, token.pending_grant) == ("not_acquired", None)
        assert await ended(provider) == ["revoked by the client"]
        assert await grants(gateway, ALICE) == []


async def test_a_mailbox_that_is_removed_while_its_consent_waits_takes_it_along(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB), background=False) as gateway,
    ):
        token_id = (await gateway.token(ALICE)).id
        await provider.control("protocols", protocol="smtp", on=False)
        attempt = await consented(gateway, provider, ALICE)
        await gateway.apply(provider.apply_file(BOB), prune=True)
        over = await gateway.followed(attempt)
        assert (over.state, over.reason) == ("refused", "gone")
        assert await ended(provider) == ["revoked by the client"]
        store = gateway.parts.store
        assert await store.database.read(lambda tx: tokens.grants_of(tx, store.sealer, token_id)) == []


async def test_a_new_consent_is_used_at_once_although_the_old_one_still_served(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        token_id = (await gateway.token(ALICE)).id
        before = await gateway.parts.keeper.access_token(token_id)
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"

        async def newer() -> bool:
            return (await gateway.parts.keeper.access_token(token_id)).grant_id != before.grant_id

        await until(newer, "the new consent being used")
        told = await gateway.parts.store.database.read(lambda tx: events.after(tx, 0))
        assert [event.kind for event in told].count("token.acquired") == 2


async def test_a_mailbox_that_was_changed_while_its_switch_was_proved_keeps_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(SUPPORT), background=False) as gateway,
    ):
        await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{BOB}"')
        await gateway.by_device(SUPPORT, provider.approve_as(BOB))
        await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{ALICE}"')
        stale = gateway.parts.directory.now

        async def change_meanwhile(*given: Any, **named: Any) -> Any:
            proof = await prove(*given, **named)
            await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsender_name = "Help desk"')
            gateway.parts.directory.now = stale
            return proof

        monkeypatch.setattr("posthouse.services.trial.prove", change_meanwhile)
        assert (await gateway.by_device(SUPPORT, provider.approve_as(ALICE))).state == "done"
        await gateway.parts.directory.refresh()
        mailbox = gateway.parts.directory.now.by_address[SUPPORT]
        assert (mailbox.account, mailbox.settings.sender_name, mailbox.settings.switch) == (ALICE, "Help desk", None)


async def test_a_mailbox_for_which_a_switch_does_not_work_keeps_its_old_way(tmp_path: Path) -> None:
    """Two mailboxes go over to Alice's account, which has rights in one of them only."""
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(BOB, SUPPORT), background=False) as gateway,
    ):
        await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{BOB}"\nreceive = "imap"')
        await gateway.by_device(BOB, provider.approve_as(BOB))
        await gateway.apply(
            "".join(f'[[mailbox]]\naddress = "{one}"\nsigns_in_as = "{ALICE}"\n' for one in (BOB, SUPPORT))
            + 'smtp_user = "nobody@sandbox.example"\nimap_user = "nobody@sandbox.example"\n'
        )
        attempt = await begun(gateway, BOB)
        await provider.approve_as(ALICE)(attempt)
        assert (await gateway.followed(attempt)).state == "done"
        await gateway.parts.directory.refresh()
        now = gateway.parts.directory.now.by_address
        assert (now[BOB].account, now[BOB].settings.switch) == (ALICE, None)
        assert now[SUPPORT].account == BOB
        assert now[SUPPORT].settings.switch is not None


async def test_a_token_that_no_mailbox_uses_any_more_dies_at_the_provider_and_here(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(SUPPORT), background=False) as gateway,
    ):
        await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{BOB}"')
        await gateway.by_device(SUPPORT, provider.approve_as(BOB))
        left = await gateway.token(SUPPORT)
        await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{ALICE}"')
        giving_back = gateway.parts.authorise.giving_back
        assert await giving_back.sweep() == 0
        await gateway.by_device(SUPPORT, provider.approve_as(ALICE))
        assert await giving_back.sweep() == 0
        gateway.clock.forward(8 * 24 * HOUR)
        assert await giving_back.sweep() == 1
        assert sorted(await ended(provider)) == ["", "revoked by the client"]
        known = await gateway.parts.store.database.read(tokens.everything)
        assert left.id not in {token.id for token in known}
        await gateway.parts.directory.refresh()
        assert (await gateway.token(SUPPORT)).state == "acquired"


async def test_a_token_whose_mailbox_leaves_the_file_dies_at_the_provider_soon(
    tmp_path: Path,
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", background=False) as gateway,
        over_socket(gateway) as api,
    ):

        async def apply(*mailboxes: str) -> None:
            text = encode(parse(provider.apply_file(*mailboxes), "mail.toml", {}))
            answer = await api.http.post("/api/v1/control/apply", content=text, params={"prune": True})
            assert answer.status_code == 200, answer.text

        await apply(ALICE, BOB)
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await apply(BOB)
        assert await gateway.parts.authorise.giving_back.try_again() == 1
        assert await ended(provider) == ["revoked by the client"]
        known = await gateway.parts.store.database.read(tokens.everything)
        assert [token.account for token in known] == [BOB]


async def test_a_token_that_cannot_be_opened_any_more_can_be_deleted_and_got_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        token = await gateway.token(ALICE)
        opened = Sealer.open

        def refuse_grants(sealer: Sealer, sealed: bytes, place: str) -> bytes:
            if place.startswith("grant:"):
                raise Unsealable(place)
            return opened(sealer, sealed, place)

        with monkeypatch.context() as spoilt:
            spoilt.setattr(Sealer, "open", refuse_grants)
            assert (await gateway.parts.authorise.delete_token(token.id)).how == "impossible"
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_an_attempt_that_cannot_be_read_does_not_keep_others_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB), background=False) as gateway,
    ):
        spoilt = await begun(gateway, ALICE)
        opened = Sealer.open

        def refuse_one(sealer: Sealer, sealed: bytes, place: str) -> bytes:
            if place == f"authorisation:{spoilt.id}":
                raise Unsealable(place)
            return opened(sealer, sealed, place)

        monkeypatch.setattr(Sealer, "open", refuse_one)
        assert (await gateway.by_device(BOB, provider.approve_as(BOB))).state == "done"
        assert (await gateway.followed(spoilt)).state == "refused"


async def test_a_server_that_dawdles_over_one_proof_does_not_hold_up_another_sign_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE, BOB)) as gateway:
        dawdling, goes_on = asyncio.Event(), asyncio.Event()

        async def dawdle(mailbox: Any, *given: Any, **named: Any) -> Any:
            if mailbox.address == ALICE:
                dawdling.set()
                await goes_on.wait()
            return await prove(mailbox, *given, **named)

        monkeypatch.setattr("posthouse.services.trial.prove", dawdle)
        slow = await begun(gateway, ALICE)
        await provider.approve_as(ALICE)(slow)
        gateway.clock.forward(2)
        await asyncio.wait_for(dawdling.wait(), 10)
        quick = await begun(gateway, BOB)
        await provider.approve_as(BOB)(quick)
        gateway.clock.forward(2)

        async def done() -> bool:
            return (await gateway.authorisation(quick.id)).state == "done"

        await until(done, "the other sign-in being done")
        goes_on.set()


async def test_a_certificate_file_that_has_gone_is_a_reason_to_wait_and_no_fault_of_ours(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        attempt = await begun(gateway, ALICE)
        await provider.approve_as(ALICE)(attempt)

        def refuse(*_: object) -> None:
            raise FileNotFoundError("ca.pem")

        with pytest.MonkeyPatch.context() as trouble:
            trouble.setattr("posthouse.services.upstream.client_context", refuse)
            gateway.clock.forward(2)
            await gateway.parts.authorise.look_after()
        assert (await gateway.authorisation(attempt.id)).state == "proving"
        assert "ca.pem" in (await gateway.token(ALICE)).detail
        assert (await gateway.followed(attempt)).state == "done"


async def test_a_confirmation_that_nobody_gives_ends_the_attempt_after_a_day(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):

        async def nobody_known(*_: object) -> None:
            return None

        with pytest.MonkeyPatch.context() as silent:
            silent.setattr(type(gateway.parts.authorise), "_identify", nobody_known)
            attempt = await consented(gateway, provider, ALICE)
        assert attempt.state == "unverified"
        await turn(gateway)
        assert (await gateway.authorisation(attempt.id)).state == "unverified"
        gateway.clock.forward(25 * HOUR)
        await gateway.parts.authorise.look_after()
        assert (await gateway.authorisation(attempt.id)).state == "expired"
        assert (await gateway.token(ALICE)).state == "not_acquired"
        assert await ended(provider) == ["revoked by the client"]


async def test_of_two_sign_ins_at_once_the_end_of_one_leaves_the_other_waiting(tmp_path: Path) -> None:
    shared = f'[[mailbox]]\naddress = "{SUPPORT}"\napp = "demo"\nsigns_in_as = "{ALICE}"'
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, more=shared), background=False) as gateway,
    ):
        first, second = await begun(gateway, ALICE), await begun(gateway, SUPPORT)
        await gateway.parts.authorise.cancel(first.id)
        assert (await gateway.token(ALICE)).state == "waiting_for_authentication"
        await gateway.parts.authorise.cancel(second.id)
        assert (await gateway.token(ALICE)).state == "not_acquired"


async def test_a_token_deleted_while_it_is_renewed_is_dead_at_the_provider(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        token, store = await gateway.token(ALICE), gateway.parts.store
        await provider.control("faults", place="token", action="pass", delay=0.3)

        async def serving(tx: Transaction) -> Any:
            return await tokens.get_grant(tx, store.sealer, token.serving_grant or "")

        renewing = asyncio.create_task(gateway.parts.keeper.refresh(await store.database.read(serving)))

        async def asked() -> bool:
            return bool((await provider.control_state())["hits"])

        await until(asked, "the gateway asking for a new token")
        await gateway.parts.authorise.delete_token(token.id)
        await asyncio.gather(renewing, return_exceptions=True)
        assert [why for why in await ended(provider) if not why] == []
