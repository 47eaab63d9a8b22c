"""The list of mailboxes, one mailbox, its token, and the banner."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from posthouse.model.sender import Learnt
from posthouse.model.token import TokenState
from posthouse.services.overview import MailboxView
from posthouse.store import configuration, senders, tokens
from posthouse.store.database import Transaction
from tests.contract.making import NOW, add_consent, consent
from tests.support.boxes import ALICE, SUPPORT, Box, box
from tests.support.house import House, house
from tests.support.visitors import Visitor, administrator

FILE = """
[[app]]
name = "office"
provider = "microsoft"
client_id = "11111111-2222-3333-4444-555555555555"
[[mailbox]]
address = "sales@example.com"
app = "office"
signs_in_as = "robot@example.com"
receive = "imap"
after_fetch = "move:Archive"
sender_name = "Sales & <co>"
default = true
[[mailbox]]
address = "support@example.com"
app = "office"
signs_in_as = "robot@example.com"
[[mailbox]]
address = "old@example.net"
password = "hunter-2-hunter"
smtp = "smtp.example.net:465 tls"
"""
SALES = "sales@example.com"


async def view(home: House, address: str = SALES) -> MailboxView:
    return await home.view(address)


async def token_id(home: House, address: str = SALES) -> str:
    token = (await view(home, address)).token
    assert token is not None
    return token.id


async def set_state(home: House, state: TokenState, reason: str = "", detail: str = "") -> None:
    wanted = await token_id(home)
    await home.parts.store.database.write(lambda tx: tokens.set_state(tx, wanted, state, home.clock(), reason, detail))


async def page_of(home: House, person: Visitor, address: str = SALES) -> str:
    await person.look(f"/mailboxes/{(await view(home, address)).mailbox.id}")
    return person.text()


async def test_the_list_says_how_every_mailbox_stands(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await person.look("/")
        text = person.text()
        assert "sales@example.com default mailbox Microsoft 365 both not acquired – – Get token" in text
        assert "support@example.com Microsoft 365 outgoing only not acquired" in text
        assert "old@example.net – outgoing only password" in text


async def test_without_a_mailbox_the_list_says_how_to_get_one(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:
        await person.look("/")
        assert "There is no mailbox yet." in person.text()
        assert "posthouse apply" in person.text()


async def test_a_mailbox_shows_its_settings_and_where_they_come_from(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        text = await page_of(home, person)
        assert "Primary server smtp.office365.com set by the provider Port number 587 SSL/TLS STARTTLS" in text
        assert "Signs in as robot@example.com shared account" in text
        assert "Shared with support@example.com" in text
        assert "Password not used with OAuth 2.0" in text
        assert "Sender name Sales & <co>" in text
        assert "moved to Archive" in text
        assert "Settings come from mail.toml." in text


async def test_a_mailbox_lists_what_it_may_send_as_and_warns_of_its_sender(tmp_path: Path) -> None:
    file = FILE.replace("sender_name", 'sender_address = "shop@example.com"\nsender_name')
    async with house(tmp_path / "data", file, background=False) as home, administrator(home) as person:
        assert "The sender address differs from robot@example.com, who signs in" in await page_of(home, person)
        assert "Tried as sender" not in person.text()
        answer = "554 5.2.252 SendAsDenied; <b>robot</b>"
        for learnt in (
            Learnt("help@example.com", "allowed", "", home.clock()),
            Learnt("shop@example.com", "refused", answer, home.clock()),
        ):
            await learn(home, learnt)
        text = await page_of(home, person)
        assert "Tried as sender help@example.com allowed by the provider" in text
        assert "shop@example.com refused by the provider" in text
        assert answer in text
        assert "The provider refuses the sender address. Let robot@example.com send as it" in text
        await learn(home, Learnt("shop@example.com", "allowed", "", home.clock()))
        text = await page_of(home, person)
        assert "shop@example.com allowed by the provider" in text
        assert "The provider refuses the sender address" not in text


async def learn(home: House, learnt: Learnt) -> None:
    mailbox_id = (await view(home)).mailbox.id
    await home.parts.store.database.write(lambda tx: senders.learn(tx, mailbox_id, learnt))


async def test_a_mailbox_with_a_password_has_no_token_and_shows_no_password(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        text = await page_of(home, person, "old@example.net")
        assert "Token" not in text
        assert "Authentication method password" in text
        assert "hunter" not in person.shown


async def test_a_password_that_oauth_has_replaced_is_shown_as_kept(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        mailbox = (await view(home)).mailbox
        await home.parts.store.database.write(
            lambda tx: configuration.save(tx, "mailbox", mailbox.id, password=b"sealed")
        )
        assert "Password not used with OAuth 2.0, kept" in await page_of(home, person)


@pytest.mark.parametrize(
    ("state", "reason", "shown"),
    [
        (TokenState.WAITING, "waiting_for_person", "waiting for authentication Reason somebody has to sign in"),
        (TokenState.INVALID, "revoked", "invalid Reason it was revoked at the provider"),
        (TokenState.INVALID, "something new", "invalid Reason something new"),
    ],
)
async def test_a_token_shows_state_reason_and_next_step(
    tmp_path: Path, state: TokenState, reason: str, shown: str
) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await set_state(home, state, reason, "what the provider said")
        text = await page_of(home, person)
        assert f"Token status {shown} what the provider said Since" in text
        assert "Next step" in text


async def test_a_consent_that_serves_is_shown_without_its_tokens(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await give_consent(home)
        text = await page_of(home, person)
        assert "Who signed in alice@example.com" in text
        assert "Permissions mail offline_access" in text
        assert "Renew the token now" in text
        for page in ("/", "/outbox", f"/mailboxes/{(await view(home)).mailbox.id}"):
            await person.look(page)
            assert "access-1" not in person.shown
            assert "refresh-1" not in person.shown


async def give_consent(home: House) -> None:
    wanted = await token_id(home)
    await add_consent(home.parts.store, consent(token_id=wanted))

    async def serve(tx: Transaction) -> None:
        token = await tokens.get(tx, wanted)
        assert token is not None
        await tokens.point(tx, token, serving="gr_1", pending=None, pinned=None)
        await tokens.set_state(tx, wanted, TokenState.ACQUIRED, NOW)

    await home.parts.store.database.write(serve)


async def test_the_banner_is_on_every_page_while_a_token_is_invalid_and_gone_afterwards(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        pages = ("/", "/outbox", "/nothing", f"/mailboxes/{(await view(home)).mailbox.id}")
        await set_state(home, TokenState.INVALID, "password_changed")
        for page in pages:
            await person.look(page)
            assert "Please re-authorise your e-mail settings" in person.text(), page
            line = "sales@example.com, support@example.com : the password of the account was changed. Re-authorise"
            assert line in person.text()
            assert person.shown.count('role="alert"') == (2 if page == "/nothing" else 1)
        await set_state(home, TokenState.ACQUIRED)
        for page in pages:
            await person.look(page)
            assert "Please re-authorise" not in person.text(), page


async def test_deleting_a_token_names_what_uses_it_and_asks_first(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await give_consent(home)
        path = f"/mailboxes/{(await view(home)).mailbox.id}/token/delete"
        await person.look(path)
        assert "Delete the token of robot@example.com?" in person.text()
        assert "sales@example.com: sending sales@example.com: receiving support@example.com: sending" in person.text()
        assert (await home.token(SALES)).state is TokenState.ACQUIRED
        answer = await person.press(path)
        assert answer.status_code == 303
        await person.look(answer.headers["location"])
        assert "The token was deleted" in person.text()
        assert "Token status not acquired" in person.text()


@pytest.mark.parametrize("path", ["/mailboxes/mb_none", "/mailboxes/mb_none/token/delete", "/outbox/none", "/x"])
async def test_what_is_not_there_is_said_so(tmp_path: Path, path: str) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        assert (await person.look(path)).status_code == 404
        assert "There is nothing at this address, or no longer." in person.text()


async def renewed(home: House, person: Visitor) -> str:
    """What the page says after the button was pressed."""
    await page_of(home, person, ALICE)
    answer = await person.press(f"/mailboxes/{(await view(home, ALICE)).mailbox.id}/token/renew")
    await person.look(answer.headers["location"])
    return person.text()


async def acquired(home: House, provider: Box) -> None:
    assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"


async def test_a_token_is_renewed_on_request(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as home,
        administrator(home) as person,
    ):
        await acquired(home, provider)
        before = (await view(home, ALICE)).token
        assert "The token was renewed." in await renewed(home, person)
        after = (await view(home, ALICE)).token
        assert before is not None
        assert after is not None
        assert after.refreshed_at > before.refreshed_at


async def test_a_token_that_is_refused_says_to_delete_it_and_get_it_again(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, SUPPORT), background=False) as home,
        administrator(home) as person,
    ):
        await acquired(home, provider)
        await provider.control("revoke", person=ALICE)
        assert "Token update failed. Delete the token and get it again." in await renewed(home, person)
        assert "Please re-authorise your e-mail settings" in person.text()


async def test_an_invalid_token_is_neither_said_to_renew_itself_nor_to_have_proved_itself(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, SUPPORT), background=False) as home,
        administrator(home) as person,
    ):
        await acquired(home, provider)
        page = f"/mailboxes/{home.parts.directory.now.by_address[ALICE].id}"
        await person.look(page)
        assert "renewed by itself before" in person.text()
        await provider.control("revoke", person=ALICE)
        await renewed(home, person)
        await person.look(page)
        assert "renewed by itself before" not in person.text()
        assert "has proved itself" not in person.text()


async def test_many_things_that_end_are_not_all_listed(tmp_path: Path) -> None:
    apps = [
        f'[[app]]\nname = "app {i:02}"\nprovider = "microsoft"\nclient_id = "{i}"\nsecret_expires = 2020-01-{i:02}\n'
        f'[[mailbox]]\naddress = "m{i}@example.com"\napp = "app {i:02}"\n'
        for i in range(1, 15)
    ]
    async with house(tmp_path / "data", "\n".join(apps), background=False) as home, administrator(home) as person:
        await person.look("/")
        note = person.text().partition("Ends soon")[2].partition("Mailbox Provider")[0]
        assert [f"app {i:02} :" in note for i in range(1, 15)] == [True] * 10 + [False] * 4
        assert "and 4 more" in note


async def test_a_permission_that_ends_leads_to_where_it_is_got_again(tmp_path: Path) -> None:
    text = FILE.replace('provider = "microsoft"', 'provider = "google"\ntesting = true')
    async with house(tmp_path / "data", text, background=False) as home, administrator(home) as person:
        wanted = await token_id(home)
        granted = replace(consent(token_id=wanted), obtained_at=home.clock(), refreshed_at=home.clock())
        await add_consent(home.parts.store, granted)

        async def work(tx: Transaction) -> None:
            token = await tokens.get(tx, wanted)
            assert token is not None
            await tokens.point(tx, token, serving=granted.id, pending=None, pinned=None)

        await home.parts.store.database.write(work)
        await set_state(home, TokenState.ACQUIRED)
        await person.look("/")
        assert f'<a href="/mailboxes/{(await view(home)).mailbox.id}#token">robot@example.com</a>:' in person.shown
        assert "permission of an app in test mode" in person.text()
        assert "Mailboxes that stop then: sales@example.com, support@example.com" in person.text()


async def test_a_setting_gets_its_own_token_after_a_question(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await give_consent(home)
        await page_of(home, person)
        path = re.search(r"/mailboxes/\w+/tokens/receiving", person.shown)
        assert path is not None
        await person.look(path[0])
        assert "sign in once more, for this setting alone?" in person.text()
        version = re.search(r'name="version" value="(\d+)"', person.shown)
        assert version is not None
        answer = await person.press(path[0], share="own", version=version[1])
        await person.look(answer.headers["location"])
        assert "Everything goes on as it is until the new token has proved itself." in person.text()
        assert "Waits for it receiving" in person.text()
        assert "Token for sending, receiving" in person.text()
        late = await person.press(path[0].replace("receiving", "sending"), share="own", version=version[1])
        assert (late.status_code, "was changed by somebody else meanwhile" in late.text) == (409, True)
        await person.look(path[0])
        assert "use the token that the settings of this mailbox share?" in person.text()


async def test_a_password_mailbox_that_is_to_have_a_token_can_get_it_here(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await home.apply('[[mailbox]]\naddress = "old@example.net"\napp = "office"')
        await page_of(home, person, "old@example.net")
        assert "Waits for it sending" in person.text()
        assert "Get token" in person.text()
        assert "Authentication method password" in person.text()
