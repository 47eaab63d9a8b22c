"""Canaries: no secret of a whole story stands in log, journal, events, answers, command line or data directory."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse

from posthouse.oauth.code import parameters_of
from posthouse.sandbox import token_endpoint
from posthouse.secret import Secret
from posthouse.services import apply_file
from tests.faults.clients import client
from tests.faults.liars import Liar, liar
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box
from tests.support.house import send, until
from tests.support.processes import free_ports
from tests.support.serving import Serving, serving

CLIENT_SECRET = "a secret for trying out"
MAILBOX_PASSWORD, DEVICE_PASSWORD = "mailbox-password-canary", "device-password-canary"
WRONG_PASSWORD = "wrong-password-canary"
SMALL, LARGE = "small-body-canary\n", "large-body-canary\n" * 8000
SECRET_MEMBERS = ("access_token", "refresh_token", "id_token", "device_code")
FALLS_DOWN = """
import sys
from posthouse.cli import main
from posthouse.services.device_login import DeviceLogins

check = DeviceLogins.check

async def falls_down(self, login, password, peer, protocol):
    if login == "falls":
        raise RuntimeError(f"with {password.reveal()} in its words")
    return await check(self, login, password, peer, protocol)

DeviceLogins.check = falls_down
sys.argv[0] = "posthouse"
main()
"""


@dataclass(slots=True)
class Story:
    """A gateway in the middle of it; `secrets` is everything that must not be seen, `answers` what the API said."""

    gateway: Serving
    provider: Box
    api: httpx2.AsyncClient
    page: str
    secrets: set[str]
    answers: list[str] = field(default_factory=list)

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = await self.api.request(method, path, **more)
        assert answer.status_code < 500, answer.text
        self.answers.append(answer.text)
        return answer.json() if "json" in answer.headers.get("content-type", "") else None

    async def until_state(self, path: str, state: str) -> None:
        async def reached() -> bool:
            return bool((await self.ask("GET", path))["state"] == state)

        await until(reached, f"{path} being {state}")


@pytest.fixture
def issued(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Whatever the provider hands out from now on."""
    found: set[str] = set()

    def recorded(content: dict[str, Any], *words: Any, **more: Any) -> JSONResponse:
        found.update(str(content[name]) for name in SECRET_MEMBERS if name in content)
        return JSONResponse(content, *words, **more)

    monkeypatch.setattr(token_endpoint, "JSONResponse", recorded)
    return found


@asynccontextmanager
async def begun(tmp_path: Path, issued: set[str]) -> AsyncIterator[Story]:
    [web] = free_ports(1)
    program = (sys.executable, "-c", FALLS_DOWN)
    async with box(tmp_path / "box") as provider:
        with serving(tmp_path, tmp_path / "data", web=f"127.0.0.1:{web}", debug=True, program=program) as gateway:
            await asyncio.to_thread(gateway.start, page=True)
            transport = httpx2.AsyncHTTPTransport(uds=str(gateway.data / "control.sock"))
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as api:
                yield Story(gateway, provider, api, f"http://localhost:{web}", issued)


def applied(provider: Box, echo: int) -> bytes:
    """Two mailboxes: with a token, and with a password at a server that says it back."""
    text = provider.apply_file(ALICE).replace('"posthouse"', f'"posthouse-office"\nclient_secret = "{CLIENT_SECRET}"')
    text = text.replace("[[device]]", f'[[device]]\npassword = "{DEVICE_PASSWORD}"')
    text += f"""
[[mailbox]]
address = "{BOB}"
password = "{MAILBOX_PASSWORD}"
smtp = "127.0.0.1:{echo} plain"

[[device]]
name = "old"
mailboxes = ["{BOB}"]
"""
    return apply_file.encode(apply_file.parse(text, "mail.toml", {}))


async def sign_in_by_device(story: Story) -> None:
    attempt = await story.ask("POST", f"/api/v1/mailboxes/{ALICE}/authorisations", json={"method": "device"})
    await story.provider.control("approve", user_code=attempt["user_code"], person=ALICE)
    await story.until_state(f"/api/v1/authorisations/{attempt['id']}", "done")


async def sign_in_by_browser(story: Story) -> None:
    """The code comes to the page in an address, which no log may have."""
    attempt = await story.api.post(f"/api/v1/mailboxes/{ALICE}/authorisations", json={"method": "browser"})
    url = attempt.json()["url"]
    async with httpx2.AsyncClient(base_url=story.page, trust_env=False, follow_redirects=False) as browser:
        assert (await browser.get(url)).status_code == 200
        away = await browser.post(url, headers={"origin": story.page, "sec-fetch-site": "same-origin"})
        asked = parameters_of(away.headers["location"])
        back = await story.provider.control("approve", url=away.headers["location"], person=ALICE)
        given = parameters_of(back["url"])
        crumb = away.headers["set-cookie"].partition(";")[0]
        cookie = crumb.partition("=")[2]
        story.secrets |= {url.rpartition("/")[2], asked["state"], given["code"], cookie}
        landed = await browser.get(back["url"], headers={"cookie": crumb})
        assert landed.status_code == 303, landed.text
        story.answers.append((await browser.get(landed.headers["location"])).text)
    await story.until_state(f"/api/v1/authorisations/{attempt.json()['id']}", "done")


async def log_in_wrongly(story: Story) -> None:
    """By a wrong password, by one at the wrong place, and by one that brings the conversation down."""
    [port] = story.gateway.smtp_ports
    async with client(port) as somebody:
        assert (await somebody.log_in(PRINTER, Secret(WRONG_PASSWORD))).startswith(b"535 ")
        assert (await somebody.ask(b"AUTH LOGIN " + WRONG_PASSWORD.encode()))[:1] in b"45"
        assert (await somebody.ask(WRONG_PASSWORD.encode()))[:1] in b"45"
    async with client(port) as somebody:
        assert await somebody.log_in("falls", Secret(WRONG_PASSWORD)) == b""

    async def told() -> bool:
        return any("crashed" in line["event"] for line in story.gateway.logged())

    await until(told, "the log telling of the crash")


async def messages_are(story: Story, state: str, how_many: int) -> None:
    async def reached() -> bool:
        return list(story.gateway.states().values()).count(state) == how_many

    await until(reached, f"{how_many} messages being {state}")


async def test_no_secret_is_seen_anywhere_after_a_whole_story(tmp_path: Path, issued: set[str]) -> None:
    async with begun(tmp_path, issued) as story, liar(None) as echo:
        echo.says = {"EHLO": b"250-echo.example\r\n250 AUTH PLAIN LOGIN\r\n", "AUTH": b"535 5.7.8 I got <line>\r\n"}
        report = await story.api.post("/api/v1/control/apply", content=applied(story.provider, echo.port))
        story.secrets |= {generated := report.json()["passwords"]["old"]}
        await sign_in_by_device(story)
        await log_in_wrongly(story)
        await send_all_ways(story, generated, echo)
        await look_everywhere(story)
        story.secrets |= {CLIENT_SECRET, MAILBOX_PASSWORD, DEVICE_PASSWORD, WRONG_PASSWORD, SMALL.strip(), LARGE[:17]}
        story.secrets |= {base64.b64encode(secret.encode()).decode() for secret in story.secrets}
        story.secrets |= {line.split()[-1].decode() for line in echo.heard if line.startswith(b"AUTH")}
        assert len(story.secrets) > 30
        assert seen(story) == []


async def send_all_ways(story: Story, generated: str, echo: Liar) -> None:
    """Well, after a refresh, to a server that says back what it heard, and without a token."""
    [port] = story.gateway.smtp_ports

    async def page(body: str, device: str = PRINTER, password: str = DEVICE_PASSWORD) -> None:
        await asyncio.to_thread(send, port, device, Secret(password), [BOB], "A page", body)

    await page(SMALL)
    await page(LARGE)
    await messages_are(story, "sent", 2)
    await sign_in_by_browser(story)
    await story.provider.control("expire", person=ALICE)
    await page(SMALL)
    await messages_are(story, "sent", 3)
    await page(SMALL, "old", generated)
    await until(lambda: was_refused(story), "the other server being tried")
    await story.provider.control("revoke", person=ALICE)
    await story.provider.control("faults", place="smtp.mail", action="cut", person=ALICE)
    await page(SMALL)
    await messages_are(story, "parked", 1)


async def was_refused(story: Story) -> bool:
    return bool(story.gateway.rows("SELECT id FROM journal WHERE kind = 'delayed'"))


LOOKED_AT = ("status", "mailboxes", "tokens", "messages", "journal", "events", "devices", "apps", "openapi.json")


async def look_everywhere(story: Story) -> None:
    for name in LOOKED_AT:
        found = await story.ask("GET", f"/api/v1/{name}")
        for item in found.get("items", []) if isinstance(found, dict) else []:
            if "id" in item and name in ("mailboxes", "tokens", "messages", "devices", "apps"):
                await story.ask("GET", f"/api/v1/{name}/{item['id']}")
    await story.ask("GET", f"/api/v1/mailboxes/{ALICE}/authorisations")
    await story.ask("GET", "/metrics")


def seen(story: Story) -> list[tuple[str, str]]:
    """Where a secret can be read, and which."""
    return [
        (where, secret) for where, text in places(story).items() for secret in story.secrets if secret.encode() in text
    ]


def places(story: Story) -> dict[str, bytes]:
    """Everything that somebody could read, by where it stands."""
    gateway = story.gateway
    files = [path for path in gateway.data.rglob("*") if path.is_file()]
    found = {str(path.relative_to(gateway.data)): path.read_bytes() for path in files}
    assert b"A page" in found["posthouse.sqlite"] + found["posthouse.sqlite-wal"]
    log = gateway.log.read_bytes()
    line = Path(f"/proc/{gateway.pid}/cmdline").read_bytes()
    return found | {"log": log, "command line": line, "answers": "\n".join(story.answers).encode()}
