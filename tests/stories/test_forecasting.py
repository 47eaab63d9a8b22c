"""Stories of things that are about to end: told in time, everywhere, once, and no more when it was mended."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli import status as status_command
from posthouse.model.forecast import DAY, HOUR
from posthouse.model.token import TokenState
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from posthouse.services.token_keeper import NoToken
from posthouse.store import tokens
from tests.support.boxes import ALICE, BOB, SUPPORT, Box, box
from tests.support.clients import Client, make_key, over_network, over_socket
from tests.support.house import Hands, House, house, until
from tests.support.visitors import administrator


def day(clock: Hands, days: float) -> str:
    return datetime.fromtimestamp(clock() + days * DAY, UTC).date().isoformat()


def office(expires: str, *, secret: str = "a secret for trying out") -> str:
    """Alice's mailbox and support's, on an app registration with a secret; `expires` as it is written in TOML."""
    return f"""
[[app]]
name = "office"
provider = "sandbox"
client_id = "posthouse-office"
client_secret = "{secret}"
secret_expires = {expires}
[[mailbox]]
address = "{ALICE}"
app = "office"
[[mailbox]]
address = "{SUPPORT}"
app = "office"
signs_in_as = "{ALICE}"
"""


async def told(client: Client) -> list[dict[str, Any]]:
    return [event["document"] for event in await client.items("/events") if event["kind"] == "token.expiring"]


async def warnings(client: Client) -> list[dict[str, Any]]:
    return list((await client.get("/status")).json()["warnings"])


async def pages(home: House) -> tuple[str, str]:
    """The list of mailboxes and alice's page, as they are read. It is a warning, so there is no banner."""
    async with administrator(home) as person:
        await person.look("/")
        noted = person.text()
        await person.look(f"/mailboxes/{home.parts.directory.now.by_address[ALICE].id}")
        assert "Please re-authorise" not in noted + person.text()
        return noted, person.text()


async def test_a_client_secret_that_ends_is_told_until_it_is_renewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Hands()
    last = day(clock, 20)
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(BOB, more=office(last)), background=False, clock=clock) as home,
        over_socket(home) as api,
    ):
        assert await home.parts.forewarning.look() == 1
        (warning,) = await warnings(api)
        assert (warning["what"], warning["name"], warning["days_left"], warning["next_step"]) == (
            "client_secret",
            "office",
            20,
            "renew_secret",
        )
        assert (warning["ends_at"], warning["mailboxes"]) == (f"{last}T00:00:00Z", [ALICE, SUPPORT])

        clock.forward(6 * DAY)
        assert await home.parts.forewarning.look() == 1
        assert await home.parts.forewarning.look() == 0
        assert [event["days_left"] for event in await told(api)] == [20, 14]

        status_command._tell((await api.get("/status")).json())
        line = f"! office: client secret ends in 14 days, on {last} ({ALICE}, {SUPPORT}). Make a new client secret"
        assert line in capsys.readouterr().out
        noted, of_alice = await pages(home)
        assert f"Ends soon office : client secret, {last} (in 14 days). Make a new client secret" in noted
        assert f"Ends: client secret {last} in 14 days Then the provider renews no token" in of_alice
        (token,) = await api.items(f"/mailboxes/{ALICE}/tokens")
        assert [ending["what"] for ending in token["forecast"]] == ["client_secret"]
        text = (await api.http.get("/metrics")).text
        assert 'posthouse_days_left{what="client_secret"} 13.' in text

        later = day(clock, 700)
        await home.apply(provider.apply_file(BOB, more=office(later)))
        assert await warnings(api) == []
        assert await home.parts.forewarning.look() == 0
        noted, of_alice = await pages(home)
        assert "Ends soon" not in noted
        assert f"Ends: client secret {later} in 700 days" in of_alice
        assert "Then the provider renews no token" not in of_alice


async def test_a_secret_that_has_ended_is_said_to_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Hands()
    text = office(day(clock, -3))
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(BOB, more=text), background=False, clock=clock) as home,
        over_socket(home) as api,
        administrator(home) as person,
    ):
        status_command._tell((await api.get("/status")).json())
        assert f"! office: client secret has ended on {day(clock, -3)} (" in capsys.readouterr().out
        await person.look("/")
        assert "(it is over)" in person.text()


async def test_a_secret_without_a_date_any_more_ends_no_more(tmp_path: Path) -> None:
    clock = Hands()
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(BOB, more=office(day(clock, 5))), background=False) as home,
        over_socket(home) as api,
    ):
        assert len(await warnings(api)) == 1
        await home.apply(provider.apply_file(BOB, more=office('""')))
        assert await warnings(api) == []


async def test_a_new_secret_with_the_old_date_is_asked_about(tmp_path: Path) -> None:
    last = day(Hands(), 5)
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(BOB, more=office(last)), background=False) as home,
    ):

        async def notes(text: str) -> list[str]:
            wanted = parse(provider.apply_file(BOB, more=text), "mail.toml", {})
            return (await apply(home.parts.store, wanted, home.clock(), dry_run=True)).notes

        assert await notes(office(last)) == []
        assert await notes(office(last, secret="new")) == [
            f"The client_secret of office is new: does it still end on {last}?"
        ]
        assert await notes(office(day(Hands(), 500), secret="new")) == []


async def test_a_running_gateway_tells_it_by_itself(tmp_path: Path) -> None:
    clock = Hands()
    text = office(day(clock, 2))
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(BOB, more=text), clock=clock) as home,
        over_socket(home) as api,
    ):

        async def is_told() -> bool:
            return bool(await told(api))

        await until(is_told, "the warning")
        assert [event["days_left"] for event in await told(api)] == [2]


async def test_a_key_for_one_mailbox_is_told_of_no_other(tmp_path: Path) -> None:
    clock = Hands()
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(BOB, more=office(day(clock, 2))), background=False) as home,
    ):
        await home.parts.forewarning.look()
        support = await make_key(home, "read", mailboxes=[SUPPORT])
        bob = await make_key(home, "read", mailboxes=[BOB], name="bob")
        async with over_network(home, support) as client:
            (warning,) = await warnings(client)
            assert (warning["mailboxes"], warning["count"]) == ([SUPPORT], 1)
            assert [(event["mailboxes"], event["count"]) for event in await told(client)] == [([SUPPORT], 1)]
        async with over_network(home, bob) as client:
            assert (await warnings(client), await told(client)) == ([], [])


async def renew(home: House, address: str) -> None:
    token = await home.token(address)
    await home.parts.keeper.access_token(token.id, newer_than=await serial(home, address))


async def serial(home: House, address: str) -> int:
    token = await home.token(address)
    store = home.parts.store
    grant = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, token.serving_grant or ""))
    assert grant is not None
    return grant.serial


async def forecast(api: Client) -> list[str]:
    (token,) = await api.items(f"/mailboxes/{ALICE}/tokens")
    return [ending["what"] for ending in token["forecast"]]


async def test_a_permission_for_a_time_is_told_and_a_new_one_begins_anew(tmp_path: Path) -> None:
    clock = Hands()
    async with (
        box(tmp_path / "box", clock=clock, consent_lifetime=20 * DAY) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False, clock=clock) as home,
        over_socket(home) as api,
    ):
        assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        assert await forecast(api) == []

        await pass_days(home, 1)
        assert await forecast(api) == ["consent"]
        await pass_days(home, 7)
        assert await home.parts.forewarning.look() == 1
        assert [(event["what"], event["name"], event["days_left"]) for event in await told(api)] == [
            ("consent", ALICE, 12)
        ]
        noted, of_alice = await pages(home)
        assert f"{ALICE} : permission, " in noted
        assert "Ends: permission" in of_alice
        assert "Re-authorise before." in of_alice

        assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        await pass_days(home, 1)
        assert await home.parts.forewarning.look() == 1
        assert [event["days_left"] for event in await told(api)] == [12, 19]

        clock.forward(20 * DAY)
        with pytest.raises(NoToken):
            await renew(home, ALICE)
        assert (await home.token(ALICE)).state is TokenState.INVALID
        assert (await forecast(api), await warnings(api)) == ([], [])


async def pass_days(home: House, days: int) -> None:
    """With a renewal each day."""
    for _ in range(days):
        home.clock.forward(DAY)
        await renew(home, ALICE)


async def test_a_token_in_the_test_mode_of_google_ends_after_a_week(tmp_path: Path) -> None:
    clock = Hands()
    async with (
        box(tmp_path / "box", clock=clock, consent_lifetime=7 * DAY) as provider,
        house(tmp_path / "data", google(provider), background=False, clock=clock) as home,
        over_socket(home) as api,
    ):
        assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        (warning,) = await warnings(api)
        assert (warning["what"], warning["days_left"], warning["next_step"]) == ("test_mode", 7, "publish_app")


async def test_test_mode_is_believed_where_the_file_says_so(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", google(provider), background=False) as home,
        over_socket(home) as api,
    ):
        assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        assert await warnings(api) == []
        await home.apply(google(provider).replace('client_id = "posthouse"', 'client_id = "posthouse"\ntesting = true'))
        (warning,) = await warnings(api)
        assert (warning["what"], warning["mailboxes"]) == ("test_mode", [ALICE])


def google(provider: Box) -> str:
    """The sandbox in Google's place, with what is known of Google's lifetimes."""
    issuer = provider.sandbox.issuer
    urls = {"authorize_url": "authorize", "token_url": "token", "device_url": "device_authorization"}
    lines = [f'{key} = "{issuer}/{path}"' for key, path in urls.items()]
    lines += [f'jwks_url = "{issuer}/jwks"', f'revoke_url = "{issuer}/revoke"', f'userinfo_url = "{issuer}/userinfo"']
    text = provider.apply_file(ALICE).replace('name = "sandbox"', "\n".join(('name = "google"', *lines)))
    return text.replace('provider = "sandbox"', 'provider = "google"')


async def test_a_token_that_cannot_be_renewed_for_long_idles_to_its_end(tmp_path: Path) -> None:
    clock = Hands()
    async with (
        box(tmp_path / "box", clock=clock) as provider,
        house(tmp_path / "data", google(provider), background=False, clock=clock) as home,
        over_socket(home) as api,
    ):
        assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        clock.forward(130 * DAY)
        assert await warnings(api) == []
        await provider.control("faults", place="token", action="answer", status=503, times=1)
        with pytest.raises(NoToken):
            await renew(home, ALICE)
        (warning,) = await warnings(api)
        assert (warning["what"], warning["days_left"], warning["next_step"]) == ("idle", 50, "mend_renewal")

        clock.forward(HOUR)
        await renew(home, ALICE)
        assert await warnings(api) == []
