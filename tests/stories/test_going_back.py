"""Stories of people who want back what served before."""

from pathlib import Path

import pytest

from posthouse.problems import ProblemError
from posthouse.services.going_back import Earlier
from posthouse.services.token_keeper import NoToken
from tests.support.boxes import ALICE, BOB, PRINTER, SUPPORT, Box, box
from tests.support.house import House, house

DAY = 86_400.0


async def earlier(gateway: House, address: str) -> Earlier | None:
    await gateway.parts.directory.refresh()
    return await gateway.parts.going_back.earlier(gateway.parts.directory.now.by_address[address])


async def go_back(gateway: House, address: str) -> None:
    await gateway.parts.going_back.go(gateway.parts.directory.now.by_address[address])
    await gateway.parts.directory.refresh()


async def account(gateway: House, address: str) -> str:
    await gateway.parts.directory.refresh()
    return gateway.parts.directory.now.by_address[address].account


async def switched(gateway: House, provider: Box, first: str = BOB, second: str = ALICE) -> None:
    """Support's mailbox, from one account to another."""
    await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{first}"')
    await gateway.by_device(SUPPORT, provider.approve_as(first))
    await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{second}"')
    assert await earlier(gateway, SUPPORT) is None
    assert (await gateway.by_device(SUPPORT, provider.approve_as(second))).state == "done"
    await gateway.parts.directory.refresh()


async def test_a_switch_of_accounts_is_undone_and_done_again_within_a_week(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(SUPPORT), background=False) as gateway,
    ):
        await switched(gateway, provider)
        await gateway.parts.authorise.giving_back.sweep()
        found = await earlier(gateway, SUPPORT)
        assert found is not None
        assert (found.kind, found.who) == ("account", BOB)
        await go_back(gateway, SUPPORT)
        assert await account(gateway, SUPPORT) == BOB
        again = await earlier(gateway, SUPPORT)
        assert again is not None
        assert again.who == ALICE
        await go_back(gateway, SUPPORT)
        assert await account(gateway, SUPPORT) == ALICE


async def test_mail_leaves_by_the_account_one_went_back_to(tmp_path: Path) -> None:
    """Bob may not send for the mailbox."""
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(SUPPORT)) as gateway:
        await switched(gateway, provider, ALICE, BOB)
        await go_back(gateway, SUPPORT)
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Back"), "sent")


async def test_after_a_week_the_account_that_was_left_is_given_back(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(SUPPORT), background=False) as gateway,
    ):
        await switched(gateway, provider)
        gateway.clock.forward(8 * DAY)
        assert await earlier(gateway, SUPPORT) is None
        with pytest.raises(ProblemError, match="nothing to go back to"):
            await go_back(gateway, SUPPORT)
        await gateway.parts.authorise.giving_back.sweep()
        grants = (await provider.control_state())["grants"]
        assert [known["ended"] for known in grants if known["person"] == BOB] == ["revoked by the client"]


async def test_an_account_whose_token_died_meanwhile_cannot_be_gone_back_to(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(SUPPORT), background=False) as gateway,
    ):
        await switched(gateway, provider)
        await provider.control("revoke", person=BOB)
        gateway.clock.forward(7200)
        former = gateway.parts.directory.now.by_address[SUPPORT].settings.former
        assert former is not None
        with pytest.raises(NoToken):
            await gateway.parts.keeper.access_token(former.token_id or "")
        assert await earlier(gateway, SUPPORT) is None
        assert await account(gateway, SUPPORT) == ALICE


async def test_an_earlier_consent_serves_again_where_it_lives(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        first = (await gateway.token(ALICE)).serving_grant
        assert await earlier(gateway, ALICE) is None
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        second = (await gateway.token(ALICE)).serving_grant
        await go_back(gateway, ALICE)
        token = await gateway.token(ALICE)
        assert (token.serving_grant, token.state) == (first, "acquired")
        await go_back(gateway, ALICE)
        assert (await gateway.token(ALICE)).serving_grant == second


async def test_an_earlier_consent_that_is_dead_leaves_everything_as_it_is(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        await provider.control("revoke", person=ALICE)
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        serving = (await gateway.token(ALICE)).serving_grant
        with pytest.raises(ProblemError, match="cannot serve any more"):
            await go_back(gateway, ALICE)
        token = await gateway.token(ALICE)
        assert (token.serving_grant, token.state) == (serving, "acquired")
