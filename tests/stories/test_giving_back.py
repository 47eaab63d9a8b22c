"""Stories of consents that are given back at the provider: surely, and without taking another one along."""

import asyncio
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock

import msgspec
import pytest

from posthouse.providers.provider import built_in
from posthouse.services.sign_in import KEEP, Registration, SignIn
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
        given = await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert given.how == "revoked"
        assert await ended(provider) == ["revoked by the client"] * 2


async def test_what_the_provider_could_not_take_is_given_back_later(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="revoke", action="answer", status=503, times=2)
        given = await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert given.how == "waiting"
        assert "lives on there" in given.why
        view = (await gateway.view(ALICE)).tokens[0]
        assert view.giving_back is not None
        assert "it is tried again by itself" in view.giving_back.answer
        try_again = gateway.parts.authorise.giving_back.try_again
        assert await try_again() == 0, "not at once"
        for pause in (61, 121):
            assert await ended(provider) == [""]
            gateway.clock.forward(pause)
            assert await try_again() == 1
        assert await ended(provider) == ["revoked by the client"]
        view = (await gateway.view(ALICE)).tokens[0]
        assert view.giving_back is None


async def test_a_provider_that_does_not_describe_itself_for_now_is_asked_again(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        gateway.clock.forward(KEEP + 1)
        body = '{"error": "invalid_request"}'
        await provider.control("faults", place="discovery", action="answer", status=400, body=body, times=2)
        given = await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert given.how == "waiting"
        gateway.clock.forward(61)
        assert await gateway.parts.authorise.giving_back.try_again() == 1
        assert await ended(provider) == ["revoked by the client"]


async def test_two_nodes_do_not_give_the_same_back_twice(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("faults", place="revoke", action="answer", status=429, times=1)
        giving_back = gateway.parts.authorise.giving_back
        assert (await giving_back.delete_token((await gateway.token(ALICE)).id)).how == "waiting"
        gateway.clock.forward(61)
        assert sorted(await asyncio.gather(giving_back.try_again(), giving_back.try_again())) == [0, 1]
        assert await ended(provider) == ["revoked by the client"]


async def test_a_refused_client_is_said_and_the_token_dies_once_it_is_mended(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        wrong = {"place": "revoke", "action": "answer", "status": 401, "body": '{"error": "invalid_client"}'}
        await provider.control("faults", **wrong, times=1)
        given = await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert given.how == "waiting"
        assert "invalid_client" in given.why
        gateway.clock.forward(61)
        await gateway.parts.authorise.giving_back.try_again()
        assert await ended(provider) == ["revoked by the client"]


async def test_a_provider_that_cannot_revoke_such_tokens_is_asked_once(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        answer = {"action": "answer", "status": 400, "body": '{"error": "unsupported_token_type"}'}
        await provider.control("faults", place="revoke", **answer, times=1)
        given = await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert given.how == "impossible"
        assert "Remove the app's permission" in given.why
        gateway.clock.forward(61)
        assert await gateway.parts.authorise.giving_back.try_again() == 0


async def test_where_there_is_no_door_the_page_of_the_account_is_named(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        registration = await gateway.parts.authorise.sign_in.registration((await gateway.token(ALICE)).app_id)
        assert isinstance(registration, Registration)
        doorless = replace(
            registration,
            endpoints=replace(registration.endpoints, revoke_url=""),
            provider=msgspec.structs.replace(registration.provider, account_url="https://account.example/apps"),
        )
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SignIn, "registration", AsyncMock(return_value=doorless))
            given = await gateway.parts.authorise.delete_token((await gateway.token(ALICE)).id)
        assert (given.how, given.page) == ("impossible", "https://account.example/apps")


@pytest.mark.parametrize("name", ["microsoft", "outlook", "google"])
def test_the_large_providers_have_a_page_of_the_account(name: str) -> None:
    assert built_in()[name].account_url.startswith("https://")


async def test_a_crash_between_forgetting_and_giving_back_leaves_no_living_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    async def crash(*_: object, **__: object) -> None:
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
            gateway.clock.forward(120)
            await gateway.parts.authorise.giving_back.try_again()
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
        hits = (await provider.control_state())["hits"]
        assert await gateway.parts.authorise.giving_back.try_again() == 0
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
