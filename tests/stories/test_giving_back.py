"""Stories of consents that are given back at the provider: surely, and without taking another one along."""

from pathlib import Path

import pytest

from posthouse.services.sign_in import SignIn
from posthouse.store import tokens
from tests.support.boxes import ALICE, BOB, Box, box
from tests.support.house import House, house

DAY = 86_400.0


async def ended(provider: Box) -> list[str]:
    """Why each grant ended at the provider; "" for those that live."""
    return [known["ended"] for known in (await provider.control_state())["grants"]]


async def renewed(gateway: House, address: str) -> None:
    """Ask the provider for a new access token, whatever the old one is worth."""
    token, store = await gateway.token(address), gateway.parts.store
    grant = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, token.serving_grant or ""))
    assert grant is not None
    await gateway.parts.keeper.refresh(grant)


async def test_the_consent_that_was_replaced_a_week_ago_does_not_take_the_new_one_along(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", revoke_all=True) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        for _ in range(2):
            assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        gateway.clock.forward(8 * DAY)
        assert await gateway.parts.authorise.giving_back.sweep() == 1
        await renewed(gateway, ALICE)
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_sign_in_that_is_cancelled_does_not_take_the_token_that_serves_along(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", revoke_all=True) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("protocols", protocol="smtp", on=False)
        begun = await gateway.parts.authorise.begin(gateway.parts.directory.now.by_address[ALICE], "device")
        await provider.approve_as(ALICE)(begun.authorisation)
        gateway.clock.forward(2)
        await gateway.parts.authorise.look_after()
        assert (await gateway.authorisation(begun.authorisation.id)).state == "proving"
        await gateway.parts.authorise.cancel(begun.authorisation.id)
        await renewed(gateway, ALICE)


async def test_the_wrong_person_keeps_the_token_of_their_own_mailbox(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", revoke_all=True) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB), background=False) as gateway,
    ):
        await gateway.by_device(BOB, provider.approve_as(BOB))
        assert (await gateway.by_device(ALICE, provider.approve_as(BOB))).reason == "wrong_person"
        await renewed(gateway, BOB)


async def test_the_last_consent_of_a_person_is_given_back_wherever_it_was(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", revoke_all=True) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        for _ in range(2):
            await gateway.by_device(ALICE, provider.approve_as(ALICE))
        assert await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert await ended(provider) == ["revoked by the client"] * 2


async def test_what_the_provider_could_not_take_is_given_back_later(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="revoke", action="answer", status=503, times=1)
        assert not await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert await ended(provider) == [""]
        await gateway.parts.authorise.giving_back.sweep()
        assert await ended(provider) == ["revoked by the client"]


async def test_a_crash_between_forgetting_and_giving_back_leaves_no_living_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    async def crash(*_: object) -> None:
        raise Crash

    async with box(tmp_path / "box") as provider:
        async with house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway:
            await gateway.by_device(ALICE, provider.approve_as(ALICE))
            token_id = (await gateway.token(ALICE)).id
            with monkeypatch.context() as crashing:
                crashing.setattr(SignIn, "revoke", crash)
                with pytest.raises(Crash):
                    await gateway.parts.authorise.delete_token(token_id)
            assert (await gateway.token(ALICE)).state == "not_acquired"
        assert await ended(provider) == [""]
        async with house(tmp_path / "data", background=False) as gateway:
            await gateway.parts.authorise.giving_back.sweep()
        assert await ended(provider) == ["revoked by the client"]


async def test_what_can_never_be_given_back_is_not_tried_for_ever(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="revoke", action="answer", status=503, times=9)
        await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        gateway.clock.forward(31 * DAY)
        sweep = gateway.parts.authorise.giving_back.sweep
        await sweep()
        hits = (await provider.control_state())["hits"]
        await sweep()
        assert (await provider.control_state())["hits"] == hits


async def test_an_older_consent_that_proves_itself_late_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        mailbox = gateway.parts.directory.now.by_address[ALICE]
        await provider.control("protocols", protocol="smtp", on=False)
        attempts = []
        for _ in range(2):
            begun = (await gateway.parts.authorise.begin(mailbox, "device")).authorisation
            await provider.approve_as(ALICE)(begun)
            gateway.clock.forward(2)
            await gateway.parts.authorise.look_after()
            attempts.append(begun)
        older, newer = attempts
        await provider.control("protocols", protocol="smtp", on=True)
        assert (await gateway.authorisation(older.id)).state == "proving"
        newer_now = await gateway.authorisation(newer.id)
        authorise = gateway.parts.authorise
        assert (await authorise._judge(newer_now)).state == "done"
        serving = (await gateway.token(ALICE)).serving_grant
        over = await gateway.followed(older)
        assert (over.state, over.reason) == ("refused", "overtaken")
        token = await gateway.token(ALICE)
        assert (token.state, token.serving_grant) == ("acquired", serving)
        await renewed(gateway, ALICE)


async def test_attempts_that_ended_months_ago_are_forgotten(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        over = await gateway.by_device(ALICE, provider.approve_as(ALICE))
        assert await gateway.parts.authorise.forget_ended() == 0
        gateway.clock.forward(91 * DAY)
        under_way = await gateway.parts.authorise.begin(gateway.parts.directory.now.by_address[ALICE], "device")
        assert await gateway.parts.authorise.forget_ended() == 1
        with pytest.raises(AssertionError):
            await gateway.authorisation(over.id)
        assert (await gateway.authorisation(under_way.authorisation.id)).state == "started"
