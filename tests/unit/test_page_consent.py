"""From the button to the provider and back, as a browser goes it, with the sandbox as the provider."""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest

from posthouse.oauth.code import parameters_of
from tests.support.boxes import ALICE, BOB, Box, box
from tests.support.house import House, house
from tests.support.visitors import SAME_SITE, Visitor, administrator, visitor


@dataclass(slots=True)
class Scene:
    provider: Box
    home: House
    person: Visitor

    async def begin(self, method: str = "browser") -> str:
        """Press Get token; where the browser is sent."""
        mailbox = self.home.parts.directory.now.by_address[ALICE]
        answer = await self.person.press(f"/mailboxes/{mailbox.id}/authorisations", method=method)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    async def go(self, start: str, *, browser: Visitor | None = None) -> str:
        """Press the button of the start page; the provider's address."""
        answer = await (browser or self.person).press(path_of(start))
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    async def consent(self, url: str, person: str = ALICE) -> str:
        """The provider's answer: where it sends the browser back to."""
        return str((await self.provider.control("approve", url=url, person=person))["url"])

    async def come_back(self, callback: str, *, browser: Visitor | None = None) -> httpx2.Response:
        """What the browser shows in the end."""
        visitor = browser or self.person
        answer = await visitor.look(path_of(callback))
        return await visitor.look(answer.headers["location"]) if answer.status_code == 303 else answer


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


@contextlib.asynccontextmanager
async def scene(tmp_path: Path, of_provider: str = "") -> AsyncIterator[Scene]:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", _with(provider.apply_file(ALICE), of_provider), background=False) as home,
        administrator(home) as person,
    ):
        yield Scene(provider, home, person)


def _with(text: str, of_provider: str) -> str:
    return text.replace("[[provider]]", f"[[provider]]\n{of_provider}")


async def test_get_token_in_the_browser(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        start = await play.begin()
        await play.person.look(path_of(start))
        assert f"Sign in to sandbox Sign in as {ALICE}" in play.person.text()
        callback = await play.consent(await play.go(start))
        answer = await play.come_back(callback)
        assert answer.status_code == 200
        assert answer.url.path.startswith("/oauth/result/")
        assert "code=" not in str(answer.url)
        assert "authenticated" in play.person.text()
        assert "The token was acquired and has proved itself." in play.person.text()
        assert (await play.home.token(ALICE)).state == "acquired"


async def test_looking_at_the_start_page_uses_nothing_up_and_the_button_works_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner:
        start = await play.begin()
        for _ in range(3):
            assert (await owner.look(path_of(start))).status_code == 200
        assert [name for name in owner.http.cookies if name.startswith("posthouse_sign_in")] == []
        await play.go(start, browser=owner)
        assert (await owner.look(path_of(start))).status_code == 409
        assert "has been used or has expired" in owner.text()
        assert (await owner.press(path_of(start))).status_code == 409


async def test_the_start_page_lets_its_form_end_at_the_provider_and_others_do_not(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        leaves = (await play.person.look(path_of(await play.begin()))).headers["content-security-policy"]
        stays = (await play.person.look("/")).headers["content-security-policy"]
        assert "form-action 'self' https:" in leaves
        assert "form-action 'self' http://localhost:8480;" in stays


async def test_the_mailbox_owner_needs_no_account_here(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home, language="da") as owner:
        callback = await play.consent(await play.go(await play.begin(), browser=owner))
        assert (await play.come_back(callback, browser=owner)).status_code == 200
        assert "godkendt" in owner.text()
        assert "Du kan lukke denne side." in owner.text()
        assert "Log ud" not in owner.text()


async def test_the_wrong_person_is_told_both_names_and_what_to_do(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        callback = await play.consent(await play.go(await play.begin()), BOB)
        await play.come_back(callback)
        assert f"{BOB} signed in, expected was {ALICE}." in play.person.text()
        assert "use a private window" in play.person.text()
        assert "refused" in play.person.text()
        assert (await play.home.token(ALICE)).state == "not_acquired"


async def test_an_answer_in_another_browser_is_refused_and_the_right_one_still_works(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as thief:
        callback = await play.consent(await play.go(await play.begin()))
        answer = await play.come_back(callback, browser=thief)
        assert answer.status_code == 409
        assert "does not belong to a sign-in that was begun in this browser" in thief.text()
        assert "finish it in the same browser" in thief.text()
        assert (await play.come_back(callback)).status_code == 200
        assert (await play.home.token(ALICE)).state == "acquired"


async def test_the_outcome_is_shown_to_that_browser_and_to_administrators_only(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner, visitor(play.home) as stranger:
        callback = await play.consent(await play.go(await play.begin(), browser=owner))
        result = (await play.come_back(callback, browser=owner)).url.path
        for path in (result, f"{result}/progress"):
            assert (await owner.look(path)).status_code == 200
            assert (await play.person.look(path)).status_code == 200
            assert (await stranger.look(path)).status_code == 404


async def test_the_same_answer_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        callback = await play.consent(await play.go(await play.begin()))
        await play.come_back(callback)
        assert (await play.come_back(callback)).status_code == 409
        assert (await play.home.token(ALICE)).state == "acquired"


@pytest.mark.parametrize("name", ["state", "code"])
async def test_an_answer_that_says_something_twice_is_refused(tmp_path: Path, name: str) -> None:
    async with scene(tmp_path) as play:
        callback = await play.consent(await play.go(await play.begin()))
        again = dict(parse_qsl(urlsplit(callback).query))[name]
        assert (await play.come_back(f"{callback}&{name}={again}")).status_code == 409
        assert (await play.home.token(ALICE)).state == "waiting_for_authentication"
        assert (await play.come_back(callback)).status_code == 200


async def test_a_refusal_at_the_provider_is_shown_with_the_providers_words(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        url = await play.go(await play.begin())
        state = dict(parse_qsl(urlsplit(url).query))["state"]
        issuer = play.provider.described["issuer"]
        await play.come_back(f"/oauth/callback?error=access_denied&state={state}&iss={issuer}")
        assert "refused" in play.person.text()
        assert "access_denied" in play.person.text()


async def test_get_token_with_a_device_code(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        page = await play.begin("device")
        await play.person.look(page)
        text = play.person.text()
        code = re.search(r"Code: (\S+)", text)
        assert code is not None
        assert f"Open the link, type the code, and sign in as {ALICE}" in text
        assert f'href="{play.provider.described["issuer"]}/device"' in play.person.shown
        attempt = page.rpartition("/")[2]
        progress = await play.person.look(f"{page}/progress")
        assert 'hx-trigger="every' in progress.text
        assert "<html" not in progress.text
        await play.provider.control("approve", user_code=code[1], person=ALICE)
        await play.home.followed(await play.home.authorisation(attempt))
        progress = await play.person.look(f"{page}/progress")
        assert "authenticated" in progress.text
        assert "hx-trigger" not in progress.text


async def test_without_javascript_the_page_asks_again_by_itself_until_it_is_over(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        page = await play.begin("device")
        refresh = '<noscript><meta http-equiv="refresh"'
        assert refresh in (await play.person.look(page)).text
        await play.person.press(f"/authorisations/{page.rpartition('/')[2]}/cancel")
        assert refresh not in (await play.person.look(page)).text


async def test_an_attempt_can_be_cancelled(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        page = await play.begin("device")
        await play.person.look(page)
        answer = await play.person.press(f"/authorisations/{page.rpartition('/')[2]}/cancel")
        await play.person.look(answer.headers["location"].partition("#")[0])
        assert "Authorisation with a device code: the sign-in was cancelled" in play.person.text()
        assert "Token status not acquired" in play.person.text()


def anonymous(provider: Box) -> str:
    """An apply file that knows where tokens come from and nowhere to ask who signed in."""
    issuer = provider.described["issuer"]
    urls = f'token_url = "{issuer}/token"\nauthorize_url = "{issuer}/authorize"\n# issuer ='
    return provider.apply_file(ALICE).replace("issuer =", urls, 1)


async def test_a_person_the_provider_does_not_name_is_confirmed_by_the_administrator(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", openid=False) as provider,
        house(tmp_path / "data", anonymous(provider), background=False) as home,
        administrator(home) as person,
    ):
        play = Scene(provider, home, person)
        await play.come_back(await play.consent(await play.go(await play.begin())))
        assert f"The provider does not say who signed in. Was it {ALICE}?" in person.text()
        found = re.search(r"/authorisations/(\w+)/confirm", person.shown)
        assert found is not None
        assert (await home.token(ALICE)).state == "waiting_for_authentication"
        answer = await person.press(found[0])
        await person.look(answer.headers["location"])
        assert "authenticated" in person.text()


async def test_a_provider_that_is_away_is_a_sentence_and_a_step(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        await play.provider.sandbox.close()
        mailbox = play.home.parts.directory.now.by_address[ALICE]
        answer = await play.person.press(f"/mailboxes/{mailbox.id}/authorisations", method="device")
        assert answer.status_code == 503
        assert "Check the network, then try again." in answer.text


async def test_the_code_of_another_provider_is_not_sent_to_this_one(tmp_path: Path) -> None:
    """Mix-up: a provider passes our request on to an honest one, whose answer comes to the path registered there."""
    async with scene(tmp_path, "own_redirect = true") as play:
        callback = await play.consent(await play.go(await play.begin()))
        honest = callback.replace("/oauth/callback/sandbox", "/oauth/callback")
        assert honest != callback
        await play.come_back(re.sub(r"&iss=[^&]+", "", honest))
        assert "where another provider answers" in play.person.text()
        assert (await play.provider.control_state())["grants"] == []


async def test_a_page_that_an_answer_leads_to_has_no_code_in_it(tmp_path: Path) -> None:
    """Neither in its text nor in a link: the address of the callback is the only place."""
    async with scene(tmp_path) as play, visitor(play.home) as stranger:
        callback = await play.consent(await play.go(await play.begin()))
        answer = await stranger.look(path_of(callback))
        assert answer.status_code == 409
        brought = parameters_of(callback)
        assert brought["code"] not in answer.text
        assert brought["state"] not in answer.text
        assert answer.headers["referrer-policy"] == "same-origin"


async def test_the_redirect_url_is_ours_whatever_the_request_says(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        start = path_of(await play.begin())
        forged = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "http", "forwarded": "host=evil.example"}
        answer = await play.person.http.post(start, headers={**SAME_SITE, **forged})
        asked = parameters_of(answer.headers["location"])
        assert asked["redirect_uri"] == "http://localhost:8480/oauth/callback"


async def test_the_browser_is_sent_on_without_what_it_sent_to_us(tmp_path: Path) -> None:
    """303 and never 307: a browser repeats neither the form nor anything else of the request."""
    async with scene(tmp_path) as play:
        answer = await play.person.press(path_of(await play.begin()))
        assert answer.status_code == 303
        callback = await play.consent(answer.headers["location"])
        answer = await play.person.look(path_of(callback))
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/oauth/result/")


async def test_two_sign_ins_in_one_browser_do_not_disturb_one_another(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB), background=False) as home,
        administrator(home) as person,
    ):
        play, callbacks = Scene(provider, home, person), []
        for address in (ALICE, BOB):
            mailbox = home.parts.directory.now.by_address[address]
            start = (await person.press(f"/mailboxes/{mailbox.id}/authorisations", method="browser")).headers[
                "location"
            ]
            callbacks.append(await play.consent(await play.go(start), address))
        for callback in callbacks:
            await play.come_back(callback)
            assert "The token was acquired and has proved itself." in person.text()


async def test_an_administrator_may_switch_to_the_account_that_signed_in_by_mistake(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, administrator(play.home, "limited", ["tokens"]) as helper:
        await play.come_back(await play.consent(await play.go(await play.begin()), BOB))
        found = re.search(r"/authorisations/(\w+)/switch", play.person.shown)
        assert found is not None
        await helper.look(f"/authorisations/{found[1]}")
        assert "Switch to this account" not in helper.text()
        assert (await helper.press(found[0])).status_code == 403
        await play.person.look(found[0])
        assert f"From now on, let {ALICE} sign in as {BOB} instead of {ALICE}?" in play.person.text()
        start = str((await play.person.press(found[0])).headers["location"])
        await play.person.look(path_of(start))
        assert f"Sign in as {BOB}" in play.person.text()
        await play.come_back(await play.consent(await play.go(start), BOB))
        await play.home.parts.directory.refresh()
        assert play.home.parts.directory.now.by_address[ALICE].account == BOB
