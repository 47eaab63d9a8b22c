"""The gateway with nothing of ours around it: a certified OpenID provider, Postfix for submission, Dovecot for mail."""

import asyncio
from pathlib import Path

import pytest

from posthouse.model.token import Grant
from posthouse.oauth.code import parameters_of
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.store import tokens
from posthouse.store.authorisations import Authorisation
from tests.stories.test_authorising import start_page
from tests.support.dovecot import Server as Dovecot
from tests.support.house import House, house, until
from tests.support.oidc import PUBLIC, Provider
from tests.support.postfix import Server as Postfix
from tests.support.sign_in import approve_device, sign_in

ALICE, BOB = "alice@example.test", "bob@example.test"
PRINTER = "printer"
REFRESHES = 200


def apply_file(oidc: Provider, dovecot: Dovecot, postfix: Postfix, *, submission: str = "starttls") -> str:
    port = postfix.submission if submission == "starttls" else postfix.submissions
    return f"""
[[provider]]
name = "example"
issuer = "{oidc.issuer}"
ca_file = "{postfix.authority}"
scopes = ["mail", "offline_access"]
smtp = "localhost:{port} {submission}"
imap = "localhost:{dovecot.imaps} tls"
pop3 = "localhost:{dovecot.pop3s} tls"

[[app]]
name = "office"
provider = "example"
client_id = "{PUBLIC.id}"

[[mailbox]]
address = "{ALICE}"
app = "office"
receive = "imap"

[[device]]
name = "{PRINTER}"
mailboxes = ["{ALICE}"]
"""


async def approve(begun: Authorisation) -> None:
    await approve_device(begun.verification_uri_complete, ALICE)


async def until_arrived(dovecot: Dovecot, person: str, *subjects: str) -> None:
    """Postfix answers before it delivers, so this may take a moment."""

    async def there() -> bool:
        inbox = await asyncio.to_thread(dovecot.inbox, person)
        lines = [line for message in inbox for line in message.splitlines()]
        found = [subject for subject in subjects for line in lines if line == f"Subject: {subject}".encode()]
        return sorted(found) == sorted(subjects)

    await until(there, f"{len(subjects)} messages in the inbox of {person}")


@pytest.mark.parametrize("submission", ["starttls", "tls"])
async def test_a_device_sends_through_postfix_after_a_device_code(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, submission: str
) -> None:
    text = apply_file(oidc, dovecot, postfix, submission=submission)
    async with house(tmp_path / "data", text) as gateway:
        assert (await gateway.by_device(ALICE, approve)).state == "done"
        queue_id = await gateway.send(PRINTER, BOB, "From a printer")
        await gateway.until_message(queue_id, "sent")
        await until_arrived(dovecot, "bob", "From a printer")


async def test_a_person_signs_in_with_a_browser_and_mail_goes(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix
) -> None:
    async with house(tmp_path / "data", apply_file(oidc, dovecot, postfix)) as gateway:
        redirect = await start_page(gateway, ALICE)
        back = await sign_in(redirect.url.reveal(), ALICE)
        attempt = await gateway.parts.authorise.callback(parameters_of(back), redirect.cookie)
        assert (attempt.state, attempt.detail) == ("done", "")
        await gateway.until_message(await gateway.send(PRINTER, BOB, "By browser"), "sent")
        await until_arrived(dovecot, "bob", "By browser")


async def test_the_wrong_person_is_refused(tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix) -> None:
    async with house(tmp_path / "data", apply_file(oidc, dovecot, postfix)) as gateway:
        redirect = await start_page(gateway, ALICE)
        back = await sign_in(redirect.url.reveal(), BOB)
        attempt = await gateway.parts.authorise.callback(parameters_of(back), redirect.cookie)
        assert (attempt.state, attempt.reason) == ("refused", "wrong_person")
        assert ALICE in attempt.detail
        assert BOB in attempt.detail


async def test_twenty_messages_survive_a_revocation(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix
) -> None:
    async with house(tmp_path / "data", apply_file(oidc, dovecot, postfix)) as gateway:
        await gateway.by_device(ALICE, approve)
        oidc.revoke(ALICE)
        subjects = [f"Scan {number}" for number in range(20)]
        queue_ids = [await gateway.send(PRINTER, BOB, subject) for subject in subjects]
        for queue_id in queue_ids:
            await gateway.until_message(queue_id, "parked")
        assert (await gateway.token(ALICE)).state == "invalid"
        await gateway.by_device(ALICE, approve)
        for queue_id in queue_ids:
            assert (await gateway.until_message(queue_id, "sent")).attempts == 1
        await until_arrived(dovecot, "bob", *subjects)


async def test_two_gateways_on_one_database_refresh_one_token_200_times(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, postgres: str
) -> None:
    """The provider revokes the whole grant when an old refresh token comes back: it must never see one."""
    text = apply_file(oidc, dovecot, postfix)
    key = {"POSTHOUSE_KEY": "A" * 43}
    async with (
        house(tmp_path / "one", text, database=postgres, background=False, environment=key) as one,
        house(tmp_path / "two", database=postgres, background=False, environment=key) as two,
    ):
        await one.by_device(ALICE, approve)
        before = oidc.requests().get("refresh_token", 0)
        for _ in range(REFRESHES):
            grant = await serving_grant(one)
            both = await asyncio.gather(refreshed(one.parts.keeper, grant), refreshed(two.parts.keeper, grant))
            assert [fresh.serial for fresh in both] == [grant.serial + 1] * 2
        assert oidc.requests()["refresh_token"] - before == REFRESHES
        assert oidc.refusals() == {}
        assert oidc.grants() == 1
        assert (await two.token(ALICE)).state == "acquired"


async def serving_grant(gateway: House) -> Grant:
    token = await gateway.token(ALICE)
    store = gateway.parts.store
    found = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, token.serving_grant or ""))
    assert found is not None
    return found


async def refreshed(keeper: TokenKeeper, grant: Grant) -> Grant:
    try:
        return await keeper.refresh(grant)
    except NoToken as problem:
        raise AssertionError(problem.sentence) from None
