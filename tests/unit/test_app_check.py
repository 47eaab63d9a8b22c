"""The check of an app registration against the sandbox: what it says where something is wrong; it harms nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from posthouse.sandbox.settings import Client
from posthouse.secret import Secret
from posthouse.services import app_check
from posthouse.services.steps import Step, verdict
from tests.support.boxes import ALICE, Box, box
from tests.support.clients import over_socket
from tests.support.house import House, house, until
from tests.support.visitors import administrator

OURS = "http://localhost:8480/oauth/callback"
RIGHT, WRONG = "the-right-secret", "canary-of-a-wrong-secret"
OFFICE = Client("office-id", Secret(RIGHT))
ONLY_ELSEWHERE = Client("elsewhere", redirect_uris=("https://other.example.com/oauth/callback",))
NO_CODES = Client("no-codes", device_codes=False)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "box", clients=(Client("posthouse"), OFFICE, ONLY_ELSEWHERE, NO_CODES)) as made:
        yield made


@asynccontextmanager
async def with_app(tmp_path: Path, provider: Box, item: str = "", **settings: Any) -> AsyncIterator[House]:
    text = provider.apply_file(ALICE)
    async with house(tmp_path / "data", text, background=False, **settings) as home:
        if item:
            await home.apply(f'[[app]]\nname = "demo"\n{item}')
        yield home


async def checked(home: House, *only: str) -> dict[str, Step]:
    app = home.parts.directory.now.apps_by_name["demo"]
    return {step.name: step async for step in home.parts.app_check.steps(app.id, only)}


def states(steps: dict[str, Step]) -> list[str]:
    return [steps[name].state for name in app_check.STEPS]


async def test_everything_is_well(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider) as home:
        steps = await checked(home)
    assert states(steps) == ["passed"] * 4
    assert steps["browser"].sentence == app_check.KNOWN
    assert steps["device"].sentence == app_check.GIVES_CODES
    assert steps["client"].sentence == app_check.PUBLIC
    assert verdict(list(steps.values())) == "passed"


async def test_nothing_is_left_behind(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider) as home:
        await checked(home)
        assert (await home.token(ALICE)).state == "not_acquired"
    assert (await provider.control_state())["grants"] == []


async def test_a_client_id_that_nobody_knows(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider, 'client_id = "nobody"') as home:
        steps = await checked(home)
    assert states(steps) == ["passed", "failed", "failed", "failed"]
    assert steps["browser"].cause == "The provider does not know the client id."
    assert steps["browser"].fix == "Correct the client id."
    assert "client_id=nobody" in steps["browser"].asked
    assert "invalid_client" in steps["client"].answer
    assert verdict(list(steps.values())) == "failed"


async def test_a_redirect_url_that_is_not_registered(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider, 'client_id = "elsewhere"') as home:
        steps = await checked(home)
    assert states(steps) == ["passed", "failed", "passed", "passed"]
    assert steps["browser"].cause == "The redirect URL is not registered for this app."
    assert steps["browser"].sentence == f"Register exactly this redirect URL: {OURS}"


async def test_our_redirect_url_follows_external_url(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider, external_url="https://mail.example.com") as home:
        step = (await checked(home, "browser"))["browser"]
    assert step.state == "failed"
    assert step.sentence.endswith(": https://mail.example.com/oauth/callback")


async def test_a_provider_with_a_redirect_url_of_its_own(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider, 'client_id = "elsewhere"') as home:
        await home.apply('[[provider]]\nname = "sandbox"\nown_redirect = true')
        step = (await checked(home, "browser"))["browser"]
        assert step.sentence.endswith(f": {OURS}/sandbox")
        async with over_socket(home) as client:
            guide = (await client.get("/providers/sandbox/guide")).json()
            (app,) = await client.items("/apps")
        assert guide["redirect_url"] == app["redirect_url"] == f"{OURS}/sandbox"


async def test_device_codes_that_are_not_allowed(tmp_path: Path, provider: Box) -> None:
    """The provider gives a code, and refuses when it is asked about."""
    async with with_app(tmp_path, provider, 'client_id = "no-codes"') as home:
        steps = await checked(home)
    assert states(steps) == ["passed", "passed", "failed", "passed"]
    assert "unauthorized_client" in steps["device"].answer


async def test_a_right_and_a_wrong_secret(tmp_path: Path, provider: Box) -> None:
    item = f'client_id = "office-id"\nclient_secret = "{RIGHT}"'
    async with with_app(tmp_path, provider, item) as home:
        assert (await checked(home, "client"))["client"].sentence == app_check.TAKEN
        await home.apply(f'[[app]]\nname = "demo"\nclient_secret = "{WRONG}"')
        step = (await checked(home, "client"))["client"]
    assert step.state == "failed"
    assert "invalid_client" in step.answer
    assert "secret" in step.fix
    assert WRONG not in repr(step)


async def test_a_provider_that_is_away_or_ill(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider) as home:
        await provider.control("faults", place="token", action="answer", status=503)
        await provider.control("faults", place="authorize", action="answer", status=200, body="large")
        await provider.control("faults", place="discovery", action="cut")
        await provider.control("faults", place="device_authorization", action="answer", status=200, body="html")
        steps = await checked(home)
    assert steps["discovery"].temporary
    assert steps["browser"].state == "skipped"
    assert verdict(list(steps.values())) == "temporary"


async def test_pages_where_something_else_was_expected(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider) as home:
        await checked(home, "discovery", "browser")
        await provider.control("faults", place="token", action="answer", status=503)
        await provider.control("faults", place="authorize", action="answer", status=200, body="large")
        await provider.control("faults", place="device_authorization", action="answer", status=200, body="html")
        await provider.control(
            "faults", place="discovery", action="answer", status=200, body='{"issuer": "https://x.example"}'
        )
        steps = await checked(home)
    assert "says that it is https://x.example" in steps["discovery"].cause
    assert "octets" in steps["browser"].answer
    assert steps["device"].temporary
    assert steps["client"].temporary


async def test_a_provider_that_never_answers(tmp_path: Path, provider: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_check, "DEADLINE", 0.2)
    async with with_app(tmp_path, provider) as home:
        await provider.control("faults", place="token", action="pass", delay=60)
        step = (await checked(home, "client"))["client"]
    assert step.temporary
    assert step.state == "failed"


async def test_over_the_api(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider, 'client_id = "elsewhere"') as home, over_socket(home) as client:
        answer = await client.post("/apps/demo/check", {"only": ["browser"]})
        assert (await client.post("/apps/nobody/check", {})).status_code == 404
    report = answer.json()
    assert report["app"] == "demo"
    assert report["redirect_url"] == OURS
    assert report["verdict"] == "failed"
    assert [check["name"] for check in report["checks"]] == ["browser"]
    assert f"redirect_uri={OURS}" in report["checks"][0]["asked"]


async def test_on_the_page(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider, 'client_id = "elsewhere"') as home, administrator(home) as person:
        app = home.parts.directory.now.apps_by_name["demo"]
        mailbox = home.parts.directory.now.by_address[ALICE]
        await person.look(f"/mailboxes/{mailbox.id}")
        assert f'href="/apps/{app.id}/check"' in person.shown
        await person.look(f"/apps/{app.id}/check")
        assert OURS in person.text()
        followed = (await person.press(f"/apps/{app.id}/check")).headers["location"]

        async def ended() -> bool:
            run = home.parts.app_check.runs.find(followed.rpartition("/")[2])
            return run is not None and run.ended

        await until(ended, "the end of the check")
        await person.look(followed)
        assert f"Register exactly this redirect URL: {OURS}" in person.text()
        assert "Sign-in page : failed" in person.text()
        assert (await person.look(f"/apps/nobody/check/{followed.rpartition('/')[2]}/progress")).status_code == 404


async def test_an_auditor_sees_it_and_asks_nothing(tmp_path: Path, provider: Box) -> None:
    async with with_app(tmp_path, provider) as home, administrator(home, "auditor") as person:
        app = home.parts.directory.now.apps_by_name["demo"]
        await person.look(f"/apps/{app.id}/check")
        assert "<button>Check</button>" not in person.shown
        assert (await person.press(f"/apps/{app.id}/check")).status_code == 403
