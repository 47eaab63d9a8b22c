"""A gateway in this process, with the hands of its clock in the test's reach, and the people and devices around it."""

import asyncio
import contextlib
import smtplib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

from posthouse.app import Gateway, gateway
from posthouse.model.token import Token
from posthouse.secret import Secret
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from posthouse.services.overview import MailboxView, view_mailbox
from posthouse.settings import ListenAt, Settings
from posthouse.store import journal, messages, tokens
from posthouse.store.authorisations import Authorisation
from posthouse.store.messages import Summary
from posthouse.web.parts import Parts

SECONDS = 15.0
Approve = Callable[[Authorisation], Awaitable[None]]


@dataclass(slots=True)
class Hands:
    """A clock that goes by itself and can be put forward."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def forward(self, seconds: float) -> None:
        self.ahead += seconds


@dataclass(slots=True)
class House:
    gateway: Gateway
    clock: Hands
    passwords: dict[str, Secret] = field(default_factory=dict)

    @property
    def parts(self) -> Parts:
        return self.gateway.parts

    async def apply(self, text: str, *, prune: bool = False) -> None:
        wanted = parse(text, "mail.toml", {})
        report = await apply(self.parts.store, wanted, self.clock(), prune=prune)
        self.passwords |= report.generated
        await self.parts.directory.refresh()

    async def view(self, address: str) -> MailboxView:
        """The mailbox as every door shows it."""
        await self.parts.directory.refresh()
        snapshot = self.parts.directory.now
        return await view_mailbox(self.parts.store, snapshot, snapshot.by_address[address])

    async def token(self, address: str) -> Token:
        mailbox = self.parts.directory.now.by_address[address]
        found = await self.parts.store.database.read(lambda tx: tokens.get(tx, mailbox.token_id or ""))
        assert found is not None
        return found

    async def by_device(self, address: str, approve: Approve) -> Authorisation:
        """Authorise by device code, with `approve` doing what the person does; the attempt when it is over."""
        begun = await self.parts.authorise.begin(self.parts.directory.now.by_address[address], "device")
        await approve(begun.authorisation)
        return await self.followed(begun.authorisation)

    async def followed(self, begun: Authorisation) -> Authorisation:
        """The attempt as it stands once nothing more happens by itself."""
        for _ in range(20):
            current = await self.authorisation(begun.id)
            if current.state in ("done", "refused", "expired", "unverified"):
                return current
            self.clock.forward(max(0.0, current.poll_at - self.clock()) + 0.01)
            await self.parts.authorise.look_after()
        return current

    async def authorisation(self, row_id: str) -> Authorisation:
        from posthouse.store import authorisations

        sealer = self.parts.store.sealer
        found = await self.parts.store.database.read(lambda tx: authorisations.get(tx, sealer, row_id))
        assert found is not None
        return found

    async def send(self, device: str, to: str | Sequence[str], subject: str, *, body: str = "A page.\n") -> str:
        """Hand a message over as a device does; its queue id. Raises smtplib.SMTPException."""
        recipients = [to] if isinstance(to, str) else list(to)
        port, password = self.gateway.smtp_ports[0], self.passwords[device]
        return await asyncio.to_thread(send, port, device, password, recipients, subject, body)

    async def message(self, queue_id: str) -> Summary:
        found = await self.parts.store.database.read(lambda tx: messages.one(tx, queue_id))
        assert found is not None
        return found

    async def lines(self, about: str) -> list[str]:
        """The kinds of the journal's lines about a message, in order."""
        return [line.kind for line in await self.parts.store.database.read(lambda tx: journal.of_message(tx, about))]

    async def until_message(self, queue_id: str, state: str) -> Summary:
        async def reached() -> bool:
            return (await self.message(queue_id)).state == state

        await until(reached, f"{queue_id} being {state}")
        return await self.message(queue_id)


async def until(reached: Callable[[], Awaitable[bool]], what: str, *, seconds: float = SECONDS) -> None:
    """Wait for something that happens by itself; fails after so many seconds."""
    give_up = time.monotonic() + seconds
    while not await reached():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


def send(port: int, device: str, password: Secret, to: Sequence[str], subject: str, body: str) -> str:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "scanner@printer.example", ", ".join(to), subject
    message.set_content(body)
    with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as client:
        client.login(device, password.reveal())
        client.mail("scanner@printer.example")
        for recipient in to:
            code, answer = client.rcpt(recipient)
            assert code == 250, answer
        code, answer = client.data(message.as_bytes(policy=SMTP))
    assert code == 250, answer
    return answer.decode().rpartition(" ")[2]


@contextlib.asynccontextmanager
async def house(
    data: Path,
    text: str = "",
    *,
    database: str = "",
    background: bool = True,
    external_url: str = "http://localhost:8480",
    environment: Mapping[str, str] | None = None,
    clock: Hands | None = None,
    **changes: Any,
) -> AsyncIterator[House]:
    """A gateway with what the apply file `text` says; SMTP on a port that the system chose."""
    clock = clock or Hands()
    settings = Settings(
        data=data, external_url=external_url, database=database, smtp=(ListenAt("127.0.0.1", 0),), imap=(), pop3=()
    )
    settings = replace(settings, **changes)
    async with gateway(settings, create=True, clock=clock, environment=environment or {}) as running:
        made = House(running, clock)
        if text:
            await made.apply(text)
        if background:
            await running.start_listeners()
            await running.start_background()
        yield made
