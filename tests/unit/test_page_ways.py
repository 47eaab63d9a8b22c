"""Ways to a token that need no browser of the administrator's: the owner's link, and a pasted address."""

import re
from pathlib import Path

from tests.support.boxes import ALICE, BOB
from tests.support.visitors import visitor
from tests.unit.test_page_consent import Scene, path_of, scene

DAY = 86_400.0


async def test_an_owner_finishes_with_a_link_and_without_an_account_here(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner:
        page = await play.begin("link")
        await play.person.look(page)
        assert f"Waiting for {ALICE} to open the link" in play.person.text()
        link = re.search(r'value="(http://localhost:8480/authorise/[^"]+)"', play.person.shown)
        assert link is not None

        await owner.look(path_of(link[1]))
        assert "This link is for you alone" in owner.text()
        callback = await play.consent(await play.go(link[1], browser=owner))
        await play.come_back(callback, browser=owner)
        assert "You can close this page." in owner.text()

        await play.person.look(page)
        assert "The token was acquired and has proved itself." in play.person.text()
        assert link[1] not in play.person.shown
        assert (await owner.look(path_of(link[1]))).status_code == 409


async def test_an_owner_who_gave_up_half_way_may_open_the_link_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner, visitor(play.home) as elsewhere:
        link = await link_of(play)
        half_way = await play.consent(await play.go(link, browser=owner))
        callback = await play.consent(await play.go(link, browser=elsewhere))
        assert (await play.come_back(half_way, browser=owner)).status_code == 409
        await play.come_back(callback, browser=elsewhere)
        assert (await play.home.token(ALICE)).state == "acquired"


async def test_an_owner_may_sign_in_with_a_code_on_another_device(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner:
        link = await link_of(play)
        await owner.look(path_of(link))
        assert "Sign in on another device, with a code" in owner.text()
        answer = await owner.press(path_of(link), way="code")
        result = answer.headers["location"]
        await owner.look(result)
        code = re.search(r"Code: (\S+)", owner.text())
        assert code is not None
        await play.provider.control("approve", user_code=code[1], person=ALICE)
        await play.home.followed(await play.home.authorisation(result.rpartition("/")[2]))
        await owner.look(result)
        assert "You can close this page." in owner.text()


async def test_a_code_that_ran_out_does_not_end_the_link(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner:
        link = await link_of(play)
        answer = await owner.press(path_of(link), way="code")
        attempt = answer.headers["location"].rpartition("/")[2]
        await play.provider.control(
            "faults", place="token", action="answer", status=400, error="expired_token", times=1
        )
        play.home.clock.forward(1000)
        await play.home.parts.authorise.look_after()
        assert (await play.home.authorisation(attempt)).state == "started"
        callback = await play.consent(await play.go(link, browser=owner))
        await play.come_back(callback, browser=owner)
        assert (await play.home.token(ALICE)).state == "acquired"


async def test_a_link_is_for_the_expected_person_only(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner:
        callback = await play.consent(await play.go(await link_of(play), browser=owner), BOB)
        await play.come_back(callback, browser=owner)
        assert f"{BOB} signed in, expected was {ALICE}." in owner.text()
        assert (await play.home.token(ALICE)).state == "not_acquired"


async def test_a_link_works_for_days_and_not_for_ever(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner:
        link = await link_of(play)
        play.home.clock.forward(2 * DAY)
        assert (await owner.look(path_of(link))).status_code == 200
        play.home.clock.forward(2 * DAY)
        assert (await owner.look(path_of(link))).status_code == 409
        await play.home.parts.authorise.look_after()
        assert (await play.home.token(ALICE)).state == "not_acquired"


async def test_a_pasted_address_finishes_a_sign_in_of_any_browser(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        page = await play.begin("paste")
        assert '<meta http-equiv="refresh"' not in (await play.person.look(page)).text
        provider = re.search(r'href="([^"]+code_challenge[^"]+)"', play.person.shown)
        assert provider is not None
        callback = await play.consent(provider[1].replace("&amp;", "&"))
        answer = await play.person.press(f"{page}/paste", address=f"  {callback}\n")
        assert answer.status_code == 303
        await play.person.look(answer.headers["location"])
        assert "The token was acquired and has proved itself." in play.person.text()


async def test_the_address_of_something_else_is_told_apart_and_the_right_one_still_works(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        page = await play.begin("paste")
        await play.person.look(page)
        provider = re.search(r'href="([^"]+code_challenge[^"]+)"', play.person.shown)
        assert provider is not None
        callback = await play.consent(provider[1].replace("&amp;", "&"))
        for wrong in ("", "https://www.example.com/", callback.replace("state=", "state=x"), "x" * 20_000):
            answer = await play.person.press(f"{page}/paste", address=wrong)
            assert answer.status_code == 409
            assert "does not answer this sign-in" in answer.text
        assert (await play.person.press(f"{page}/paste", address=callback)).status_code == 303
        assert (await play.person.press(f"{page}/paste", address=callback)).status_code == 409
        assert (await play.home.token(ALICE)).state == "acquired"


async def test_a_browser_that_does_reach_us_is_told_to_copy_the_address(tmp_path: Path) -> None:
    async with scene(tmp_path) as play, visitor(play.home) as owner:
        page = await play.begin("paste")
        await play.person.look(page)
        provider = re.search(r'href="([^"]+code_challenge[^"]+)"', play.person.shown)
        assert provider is not None
        callback = await play.consent(provider[1].replace("&amp;", "&"))
        assert (await owner.look(path_of(callback))).status_code == 409
        assert "Copy the whole address of this page" in owner.text()
        assert (await play.person.press(f"{page}/paste", address=callback)).status_code == 303


async def link_of(play: Scene) -> str:
    await play.person.look(await play.begin("link"))
    link = re.search(r'value="(http://localhost:8480/authorise/[^"]+)"', play.person.shown)
    assert link is not None
    return link[1]


async def test_a_closed_way_proposes_the_others(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        page = await play.begin("device")
        await play.provider.control(
            "faults", place="token", action="answer", status=400, error="unauthorized_client", times=1
        )
        play.home.clock.forward(10)
        await play.home.parts.authorise.look_after()
        await play.person.look(page)
        assert "Another one may be open" in play.person.text()
        ways = re.findall(r'name="method" value="(\w+)"', play.person.shown)
        assert ways == ["browser", "link", "paste"]
        assert (await play.begin("browser")).startswith("http://localhost:8480/authorise/")


async def test_a_provider_that_gives_no_device_codes_for_this_says_which_way_is_open(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        fault = {"action": "answer", "status": 400, "error": "unauthorized_client", "times": 1}
        await play.provider.control("faults", place="device_authorization", **fault)
        mailbox = play.home.parts.directory.now.by_address[ALICE]
        answer = await play.person.press(f"/mailboxes/{mailbox.id}/authorisations", method="device")
        assert answer.status_code == 409
        assert "Sign in with the browser instead" in answer.text
