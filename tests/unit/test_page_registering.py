"""The app registration assistant: its page, its door of the API, its command."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from posthouse.locales import LANGUAGES
from posthouse.web.api import alone
from tests.support.house import House, house
from tests.support.visitors import administrator

FILE = """
[[app]]
name = "microsoft"
provider = "microsoft"
client_id = "11111111-2222-3333-4444-555555555555"
tenant = "example.com"
[[mailbox]]
address = "sales@example.com"
app = "microsoft"
"""
REDIRECT = "http://localhost:8480/oauth/callback"


async def asked(home: House, path: str) -> tuple[int, dict[str, object]]:
    import httpx2

    transport = httpx2.ASGITransport(app=alone(home.parts))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get(f"/api/v1{path}")
    return answer.status_code, dict(answer.json())


async def test_the_way_from_the_mailboxes_to_the_form(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:
        await person.look("/")
        assert 'href="/register"' in person.shown
        await person.look("/register")
        assert 'href="/register/microsoft"' in person.shown
        await person.look("/register/microsoft?way=browser&send=on&receive=imap&mailboxes=a@example.com")
        text = person.text()
        assert REDIRECT in text
        assert "IMAP.AccessAsUser.All" in text
        assert "Set-CASMailbox -Identity 'a@example.com'" in text
        assert "Script for PowerShell" in text
        assert 'href="/apps/new?provider=microsoft"' in person.shown


async def test_a_script_is_shown_as_text_and_nothing_else(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:
        await person.look("/register/microsoft?mailboxes=a%26b@example.com&tenant=x.example")
        assert "a&amp;b@example.com" in person.shown
        assert "a&b@example.com" not in person.shown
        answer = await person.look("/register/microsoft?mailboxes=%3Cscript%3E@example.com")
        assert answer.status_code == 409
        assert "<script>@" not in person.shown


async def test_a_provider_without_oauth_says_so(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:
        await person.look("/register/icloud")
        assert "iCloud Mail offers no OAuth for mail. Use an app password" in person.text()
        assert "/apps/new" not in person.shown
        assert (await person.look("/register/nobody")).status_code == 404


@pytest.mark.parametrize("language", LANGUAGES)
async def test_every_step_speaks_the_readers_language(tmp_path: Path, language: str) -> None:
    async with (
        house(tmp_path / "data", background=False) as home,
        administrator(home, language=language) as person,
    ):
        await person.look("/register/google?way=app")
        assert ("Give the app registration to Posthouse." in person.text()) == (language == "en")
        assert "https://mail.google.com/" in person.text()


async def test_an_app_that_is_there_is_filled_in(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home:
        status, guide = await asked(home, "/providers/microsoft/guide?app=microsoft&way=app&receive=imap")
        assert status == 200
        assert guide["scopes"] == ["https://outlook.office365.com/.default"]
        assert guide["permissions"] == ["IMAP.AccessAsApp"]
        text = json.dumps(guide)
        assert "11111111-2222-3333-4444-555555555555" in text
        assert "-TenantId 'example.com'" in text
        assert "'sales@example.com'" in text
        _, other = await asked(home, "/providers/microsoft/guide")
        assert 'name = \\"microsoft-2\\"' in json.dumps(other)
        assert "11111111" not in json.dumps(other)


async def test_the_api_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home:
        assert (await asked(home, "/providers/nobody/guide"))[0] == 404
        assert (await asked(home, "/providers/google/guide?app=nobody"))[0] == 400
        assert (await asked(home, "/providers/google/guide?way=telepathy"))[0] == 422
        status, problem = await asked(home, "/providers/microsoft/guide?mailbox=a%0Ab@example.com")
        assert status == 400
        assert problem["id"] == "guide.address"


async def test_the_command_works_before_there_is_anything(tmp_path: Path) -> None:
    config = tmp_path / "posthouse.toml"
    config.write_text(f'external_url = "https://mail.example.com"\ndata = "{tmp_path / "data"}"\n')

    async def run(*words: str) -> tuple[int | None, str]:
        command = (sys.executable, "-m", "posthouse.cli", "app", "guide", *words, "--config", str(config))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    status, steps = await run("yandex", "--send", "--receive", "imap")
    assert status == 0
    assert "https://mail.example.com/oauth/callback\n" in steps
    assert "mail:smtp\n" in steps
    assert "mail:imap_full\n" in steps
    assert not (tmp_path / "data").exists()
    async with house(tmp_path / "data", FILE, background=False):
        pass
    status, script = await run("microsoft", "--way", "device", "--shell", "az", "--app", "microsoft")
    assert status == 0
    assert script.startswith("#!/bin/sh\n")
    assert "client_id=11111111-2222-3333-4444-555555555555\n" in script
    assert (await run("nobody"))[0] == 64
    assert (await run("google", "--shell", "az"))[0] == 1
