"""A sandbox from the outside: its own command's coroutine in a process of its own, found by its description."""

import asyncio
import contextlib
import imaplib
import json
import os
import signal
import smtplib
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

ALICE, BOB = "alice@sandbox.example", "bob@sandbox.example"
PROGRAM = """
import asyncio, signal, sys
from pathlib import Path
from posthouse.sandbox import SandboxSettings, run

async def main():
    task = asyncio.create_task(run(SandboxSettings(Path(sys.argv[1])), lambda box: print("ready", flush=True)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.wait([task])
    print("stopped", task.cancelled(), flush=True)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@dataclass(frozen=True)
class Outside:
    """What somebody knows who has read `sandbox.json`."""

    description: dict[str, Any]
    http: httpx2.AsyncClient
    control: httpx2.AsyncClient

    def port(self, door: str) -> int:
        return int(self.description["ports"][door])

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.description["ca_file"])


@contextlib.asynccontextmanager
async def running(directory: Path, loop: str) -> AsyncIterator[Outside]:
    """A sandbox in another process; it ends cleanly at SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(directory), loop, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
        description = json.loads((directory / "sandbox.json").read_text())
        key = {"Authorization": "Bearer " + (directory / "control.key").read_text()}
        async with (
            httpx2.AsyncClient(base_url=description["issuer"], trust_env=False, verify=False) as http,
            httpx2.AsyncClient(base_url=description["control"], trust_env=False, verify=False, headers=key) as control,
        ):
            yield Outside(description, http, control)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.stdout.read() == b"stopped True\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def signed_in(sandbox: Outside, person: str) -> dict[str, Any]:
    """Tokens by the device flow."""
    about = (await sandbox.http.get("/.well-known/openid-configuration")).json()
    asked = {"client_id": "posthouse", "scope": "mail offline_access openid email profile"}
    begun = (await sandbox.http.post(about["device_authorization_endpoint"], data=asked)).json()
    await sandbox.control.post("/approve", json={"user_code": begun["user_code"], "person": person})
    poll = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "client_id": "posthouse",
        "device_code": begun["device_code"],
    }
    answer = await sandbox.http.post(about["token_endpoint"], data=poll)
    assert answer.status_code == 200
    return dict(answer.json())


def xoauth2(user: str, token: str) -> str:
    return f"user={user}\1auth=Bearer {token}\1\1"


def send(sandbox: Outside, token: str) -> None:
    with smtplib.SMTP("localhost", sandbox.port("smtp"), timeout=10) as smtp:
        smtp.starttls(context=sandbox.context())
        smtp.ehlo()
        smtp.auth("XOAUTH2", lambda challenge=None: xoauth2(ALICE, token))
        smtp.sendmail(ALICE, [BOB], f"From: {ALICE}\r\nSubject: the coach\r\n\r\nhas arrived\r\n")


def read(sandbox: Outside, token: str) -> bytes:
    imap = imaplib.IMAP4_SSL("localhost", sandbox.port("imaps"), ssl_context=sandbox.context(), timeout=10)
    try:
        imap.authenticate("XOAUTH2", lambda _: xoauth2(BOB, token).encode())
        imap.select()
        answer = imap.fetch("1", "(BODY.PEEK[])")[1][0]
        assert isinstance(answer, tuple)
        return answer[1]
    finally:
        imap.logout()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_from_consent_to_a_message_read_back(tmp_path: Path, loop: str) -> None:
    async with running(tmp_path, loop) as sandbox:
        alice, bob = await signed_in(sandbox, ALICE), await signed_in(sandbox, BOB)
        await asyncio.to_thread(send, sandbox, alice["access_token"])
        assert b"has arrived" in await asyncio.to_thread(read, sandbox, bob["access_token"])
        state = (await sandbox.control.get("/state")).json()
        assert (state["sent"], state["received"]) == ({ALICE: 1}, {BOB: 1})
    assert not (tmp_path / "sandbox.json").exists()


async def test_of_many_refreshes_at_once_one_wins_and_the_others_are_punished(tmp_path: Path) -> None:
    async with running(tmp_path, "uvloop") as sandbox:
        token = (await signed_in(sandbox, ALICE))["refresh_token"]
        form = {"grant_type": "refresh_token", "client_id": "posthouse", "refresh_token": token}
        answers = await asyncio.gather(*(sandbox.http.post("/token", data=form) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200, *[400] * 19]
        state = (await sandbox.control.get("/state")).json()
        assert (state["reuses"], state["token_requests"]["refresh_token"]) == (19, 20)
        (grant,) = state["grants"]
        assert grant["ended"] == "a refresh token was used twice"


async def test_with_limits_it_is_as_strict_as_exchange_online(tmp_path: Path) -> None:
    place = tmp_path / "box"
    words = ("-m", "posthouse.cli", "sandbox", "--directory", str(place), "--limits", "exchange")
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            while b"Ready" not in await process.stdout.readline():
                pass
        described = json.loads((place / "sandbox.json").read_text())
        offered = await asyncio.to_thread(offered_by, described)
        assert "chunking" in offered
        assert offered["auth"].split() == ["LOGIN", "PLAIN", "XOAUTH2"]
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def offered_by(described: dict[str, Any]) -> dict[str, str]:
    """What its SMTP server says after EHLO."""
    context = ssl.create_default_context(cafile=described["ca_file"])
    with smtplib.SMTP_SSL("localhost", described["ports"]["smtps"], context=context, timeout=30) as server:
        server.ehlo()
        return {name: said.strip() for name, said in server.esmtp_features.items()}
