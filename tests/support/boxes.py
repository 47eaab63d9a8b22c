"""The sandbox as the provider of a story: its apply file, and the person in front of its pages."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from posthouse.sandbox.box import Sandbox
from posthouse.sandbox.settings import SandboxSettings
from posthouse.store.authorisations import Authorisation
from tests.support.house import Approve

ALICE, BOB, SUPPORT = "alice@sandbox.example", "bob@sandbox.example", "support@sandbox.example"
PRINTER = "printer"


class Box:
    """A running sandbox and its control door."""

    def __init__(self, sandbox: Sandbox, http: httpx2.AsyncClient) -> None:
        self.sandbox = sandbox
        self._http = http
        self.described: dict[str, Any] = sandbox.describe()

    async def control(self, command: str, **values: Any) -> dict[str, Any]:
        answer = await self._http.post(f"{self.described['control']}/{command}", json=values)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    async def control_state(self) -> dict[str, Any]:
        """Counts, grants and switches, as the control door tells them."""
        return dict((await self._http.get(f"{self.described['control']}/state")).json())

    def approve_as(self, person: str) -> Approve:
        async def approve(begun: Authorisation) -> None:
            await self.control("approve", user_code=begun.user_code, person=person)

        return approve

    def subjects(self, address: str) -> list[str]:
        """Subjects of what lies in somebody's mailbox, in the order of arrival."""
        return [subject_of(text) for text in self.texts(address)]

    def texts(self, address: str) -> list[str]:
        """The messages of somebody's mailbox as they arrived."""
        return [message["text"] for message in self.sandbox.post.list_messages(address)]

    def apply_file(self, *mailboxes: str, more: str = "") -> str:
        known = self.described
        return "\n".join(
            (
                f'[[provider]]\nname = "sandbox"\nissuer = "{known["issuer"]}"\nca_file = "{known["ca_file"]}"',
                f'scopes = ["mail", "offline_access"]\nsmtp = "{known["smtp"]}"\nimap = "{known["imap"]}"',
                '[[app]]\nname = "demo"\nprovider = "sandbox"\nclient_id = "posthouse"',
                *(f'[[mailbox]]\naddress = "{address}"\napp = "demo"' for address in mailboxes),
                f'[[device]]\nname = "{PRINTER}"\nmailboxes = {list(mailboxes)}'.replace("'", '"'),
                more,
            )
        )


def subject_of(message: str) -> str:
    """Of a message in its text form."""
    header = message.partition("\r\n\r\n")[0].split("\r\n")
    return next((line[8:].strip() for line in header if line.lower().startswith("subject:")), "")


@contextlib.asynccontextmanager
async def box(directory: Path, *, clock: Callable[[], float] = time.time, **changes: Any) -> AsyncIterator[Box]:
    settings = replace(SandboxSettings(directory=directory), **changes)
    async with Sandbox(settings, clock) as sandbox:
        key = {"Authorization": f"Bearer {sandbox.control_key.reveal()}"}
        async with httpx2.AsyncClient(headers=key, trust_env=False, verify=False) as http:
            yield Box(sandbox, http)
