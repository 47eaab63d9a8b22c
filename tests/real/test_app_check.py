"""The check of an app registration against the certified provider: what it refuses, and that nothing is left there."""

from pathlib import Path

import pytest

from posthouse.services import app_check
from posthouse.services.steps import Step
from tests.support.house import house
from tests.support.oidc import POSTING, PUBLIC, Provider

OURS = "http://localhost:8480/oauth/callback"
ELSEWHERE = "https://mail.example.com"


def apply_file(oidc: Provider, client_id: str, secret: str = "") -> str:
    return f"""
[[provider]]
name = "example"
issuer = "{oidc.issuer}"
scopes = ["mail", "offline_access"]
smtp = "localhost:587 starttls"
[[app]]
name = "office"
provider = "example"
client_id = "{client_id}"
{f'client_secret = "{secret}"' if secret else ""}
"""


async def checked(directory: Path, text: str, external_url: str = "http://localhost:8480") -> dict[str, Step]:
    async with house(directory / "data", text, background=False, external_url=external_url) as home:
        app = home.parts.directory.now.apps_by_name["office"]
        return {step.name: step async for step in home.parts.app_check.steps(app.id)}


def states(steps: dict[str, Step]) -> list[str]:
    return [steps[name].state for name in app_check.STEPS]


async def test_a_public_client_that_is_well(tmp_path: Path, oidc: Provider) -> None:
    steps = await checked(tmp_path, apply_file(oidc, PUBLIC.id))
    assert states(steps) == ["passed"] * 4
    assert steps["browser"].sentence == app_check.KNOWN
    assert steps["client"].sentence == app_check.PUBLIC
    assert oidc.grants() == 0


async def test_a_client_id_that_is_wrong(tmp_path: Path, oidc: Provider) -> None:
    steps = await checked(tmp_path, apply_file(oidc, "posthouse-pubilc"))
    assert states(steps) == ["passed", "failed", "failed", "failed"]
    assert steps["browser"].cause == "The provider does not know the client id."
    assert "invalid_client" in steps["client"].answer


async def test_a_redirect_url_that_is_not_registered(tmp_path: Path, oidc: Provider) -> None:
    steps = await checked(tmp_path, apply_file(oidc, PUBLIC.id), ELSEWHERE)
    assert states(steps) == ["passed", "failed", "passed", "passed"]
    assert steps["browser"].cause == "The redirect URL is not registered for this app."
    assert steps["browser"].sentence == f"Register exactly this redirect URL: {ELSEWHERE}/oauth/callback"


@pytest.mark.parametrize(("wrong", "state"), [(False, "passed"), (True, "failed")])
async def test_the_secret_is_told_from_the_token(tmp_path: Path, oidc: Provider, wrong: bool, state: str) -> None:
    assert POSTING.secret is not None
    secret = "not-the-secret" if wrong else POSTING.secret.reveal()
    steps = await checked(tmp_path, apply_file(oidc, POSTING.id, secret))
    assert steps["client"].state == state
    assert ("invalid_client" in steps["client"].answer) == wrong
    assert "not-the-secret" not in repr(steps)


async def test_an_issuer_that_is_written_wrong(tmp_path: Path, oidc: Provider) -> None:
    text = apply_file(oidc, PUBLIC.id).replace(oidc.issuer, f"{oidc.issuer}/realm")
    steps = await checked(tmp_path, text)
    assert steps["discovery"].state == "failed"
    assert states(steps)[1:] == ["skipped"] * 3
