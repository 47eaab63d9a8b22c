"""The page in a real Chromium: what a person does, with the sandbox as the provider in the other tab."""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from posthouse.net.listener import bound_socket
from posthouse.services.entrance import sign_in_link
from posthouse.web.serving import WebServer
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box
from tests.support.house import House, house

PHONE = {"width": 390, "height": 844}


@dataclass(slots=True)
class Desk:
    """A person at a browser, signed in, in front of a gateway that runs."""

    provider: Box
    home: House
    context: BrowserContext
    page: Page
    url: str
    complaints: list[str]

    async def open_mailbox(self, address: str = ALICE) -> None:
        await self.page.goto(self.url)
        await self.page.get_by_role("link", name=address, exact=True).click()
        await expect(self.page.get_by_role("heading", level=1)).to_contain_text(address)

    async def token_status(self, word: str) -> None:
        await expect(self.page.locator("#token dl .state").first).to_have_text(word)


@contextlib.asynccontextmanager
async def desk(tmp_path: Path, browser: Browser, *, javascript: bool = True) -> AsyncIterator[Desk]:
    listening = bound_socket("127.0.0.1", 0)
    url = f"http://localhost:{listening.getsockname()[1]}"
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), external_url=url) as home,
        contextlib.AsyncExitStack() as stack,
    ):
        server = WebServer.on_tcp(home.gateway.web, listening)
        await server.start()
        stack.push_async_callback(server.stop)
        context = await browser.new_context(java_script_enabled=javascript, locale="en-GB")
        stack.push_async_callback(context.close)
        page = await context.new_page()
        made = Desk(provider, home, context, page, url, [])
        page.on("console", lambda said: made.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: made.complaints.append(str(error)))
        await page.goto((await sign_in_link(home.parts.store, home.clock, url)).reveal())
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Mailboxes")).to_be_visible()
        yield made


async def choose(page: Page, person: str) -> None:
    """What a person does at the provider."""
    await page.get_by_role("button", name=person).click()


async def test_signing_in_by_link_and_getting_a_token_in_the_browser(tmp_path: Path, chromium: Browser) -> None:
    async with desk(tmp_path, chromium) as person:
        queue_id = await person.home.send(PRINTER, BOB, "Scanned")
        await person.home.until_message(queue_id, "parked")
        await person.open_mailbox()
        await person.token_status("not acquired")
        await person.page.get_by_role("button", name="Get token").click()
        await person.page.get_by_role("button", name=f"Sign in as {ALICE}").click()
        await choose(person.page, ALICE)
        await expect(person.page.locator("#progress .state")).to_have_text("authenticated")
        assert "code=" not in person.page.url
        await person.page.get_by_role("link", name="To the mailbox").last.click()
        await person.token_status("acquired")
        await person.home.until_message(queue_id, "sent")
        assert person.complaints == []


async def test_the_wrong_person_reads_both_names(tmp_path: Path, chromium: Browser) -> None:
    async with desk(tmp_path, chromium) as person:
        await person.open_mailbox()
        await person.page.get_by_role("button", name="Get token").click()
        await person.page.get_by_role("button", name=f"Sign in as {ALICE}").click()
        await choose(person.page, BOB)
        await expect(person.page.locator("#progress")).to_contain_text(f"{BOB} signed in, expected was {ALICE}.")


@pytest.mark.parametrize("javascript", [True, False])
async def test_a_device_code_is_followed_until_it_is_done(tmp_path: Path, chromium: Browser, javascript: bool) -> None:
    async with desk(tmp_path, chromium, javascript=javascript) as person:
        await person.open_mailbox()
        await person.page.get_by_label("with a device code").check()
        await person.page.get_by_role("button", name="Get token").click()
        code = await person.page.locator(".code code").inner_text()
        await person.provider.control("approve", user_code=code, person=ALICE)
        await expect(person.page.locator("#progress .state")).to_have_text("authenticated", timeout=15_000)
        assert person.complaints == []


async def test_the_banner_comes_and_goes_by_itself(tmp_path: Path, chromium: Browser) -> None:
    async with desk(tmp_path, chromium) as person:
        await person.home.by_device(ALICE, person.provider.approve_as(ALICE))
        await person.provider.control("revoke", person=ALICE)
        await person.open_mailbox()
        await person.page.get_by_role("button", name="Renew the token now").click()
        banner = person.page.get_by_role("alert")
        await expect(banner).to_contain_text("Please re-authorise your e-mail settings")
        await banner.get_by_role("link", name="Re-authorise").click()
        await person.page.get_by_role("button", name="Re-authorise").click()
        await person.page.get_by_role("button", name=f"Sign in as {ALICE}").click()
        await choose(person.page, ALICE)
        await expect(person.page.locator("#progress .state")).to_have_text("authenticated")
        await person.open_mailbox()
        await expect(person.page.get_by_role("alert")).to_have_count(0)


async def test_by_keyboard_alone(tmp_path: Path, chromium: Browser) -> None:
    async with desk(tmp_path, chromium) as person:
        await person.page.goto(person.url)
        await person.page.keyboard.press("Tab")
        await expect(person.page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await person.page.keyboard.press("Enter")
        await person.page.keyboard.press("Tab")
        await expect(person.page.get_by_role("link", name=ALICE, exact=True)).to_be_focused()
        await person.page.keyboard.press("Enter")
        await expect(person.page.get_by_role("heading", level=1)).to_contain_text(ALICE)


@pytest.mark.parametrize("language", ["en", "ko", "el", "da"])
async def test_a_phone_shows_every_page_without_scrolling_sideways(
    tmp_path: Path, chromium: Browser, language: str
) -> None:
    async with desk(tmp_path, chromium) as person:
        queue_id = await person.home.send(PRINTER, BOB, "Scanned pages of the second quarter, all of them")
        await person.page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
        mailbox = person.home.parts.directory.now.by_address[ALICE].id
        for path in ("/", f"/mailboxes/{mailbox}", "/outbox", f"/outbox/{queue_id}", "/nothing"):
            await person.page.goto(f"{person.url}{path}?lang={language}")
            width = await person.page.evaluate("document.documentElement.scrollWidth")
            assert (path, width) == (path, PHONE["width"])


@pytest.mark.parametrize("javascript", [True, False])
async def test_a_changed_server_is_tried_and_the_sentence_names_it(
    tmp_path: Path, chromium: Browser, javascript: bool
) -> None:
    async with desk(tmp_path, chromium, javascript=javascript) as person:
        await person.home.by_device(ALICE, person.provider.approve_as(ALICE))
        await person.open_mailbox()
        await person.page.get_by_role("button", name="Change the settings").click()
        await person.page.get_by_label("Primary server").fill("localhost")
        await person.page.locator("#smtp_port").fill("9")
        await person.page.locator("#smtp_tls").select_option("starttls")
        await person.page.get_by_role("button", name="Save").click()
        steps = person.page.locator("#steps")
        await expect(steps).to_contain_text("nothing answers at localhost, port 9.", timeout=15_000)
        assert person.complaints == []


async def test_a_printer_is_added_and_removed_with_the_keyboard_on_a_phone(tmp_path: Path, chromium: Browser) -> None:
    async with desk(tmp_path, chromium) as person:
        page = person.page
        await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        await page.get_by_role("link", name="Devices").click()
        await page.get_by_role("button", name="Add a device").click()
        await page.get_by_label("Name", exact=True).fill("scanner")
        await page.get_by_label("Mailboxes", exact=True).fill(ALICE)
        await page.get_by_label("Name", exact=True).press("Enter")
        await expect(page.locator(".code code")).to_have_text(re.compile(r"^[a-z0-9]{12,}$"))
        await page.get_by_role("button", name="To the devices").click()
        await page.get_by_role("link", name="scanner").click()
        await expect(page.get_by_role("button", name="Save")).to_be_visible()
        await page.wait_for_load_state()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_role("button", name="Remove").press("Enter")
        await page.get_by_role("button", name="Remove").press("Enter")
        await expect(page.get_by_role("status")).to_have_text("Removed.")
        await expect(page.get_by_role("link", name="scanner")).to_have_count(0)
        assert person.complaints == []


async def test_what_is_chosen_shows_what_it_sets_and_a_mailbox_is_found_while_typing(
    tmp_path: Path, chromium: Browser
) -> None:
    async with desk(tmp_path, chromium) as person:
        await person.home.apply('[[app]]\nname = "ms"\nprovider = "microsoft"\nclient_id = "1"\n')
        page = person.page
        await page.goto(f"{person.url}/mailboxes/new")
        await page.locator("#address").fill("new@example.com")
        await page.locator("#timeout").fill("44")
        await page.locator("#app").select_option("ms")
        await expect(page.locator("#smtp_port")).to_be_disabled()
        await expect(page.locator("#smtp_port")).to_have_value("587")
        await expect(page.locator("#smtp_tls")).to_have_value("STARTTLS")
        await expect(page.locator("#field-password")).to_contain_text("not used with OAuth 2.0")
        await page.locator("#sender").select_option("as-given")
        await expect(page.locator("#field-sender_name")).to_contain_text("not used where the sender is as given")
        assert [await page.locator(f"#{name}").input_value() for name in ("address", "timeout")] == [
            "new@example.com",
            "44",
        ], "what was typed stays"
        await page.goto(f"{person.url}/outbox")
        await page.locator("#mailbox").press_sequentially(ALICE[:3])
        await expect(page.locator("#mailbox-found option")).to_have_attribute("value", ALICE)
        assert person.complaints == []
