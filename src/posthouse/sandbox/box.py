"""The sandbox as a whole: built from settings in one place, started and stopped in order."""

import asyncio
import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from joserfc.jwk import RSAKey

from posthouse.net.listener import Handler, Listener, bound_socket
from posthouse.sandbox.certificates import AUTHORITY, server_context, write_private
from posthouse.sandbox.control import Control
from posthouse.sandbox.faults import Faults
from posthouse.sandbox.grants import Ledger, Rules
from posthouse.sandbox.identity import signing_key
from posthouse.sandbox.mailbox_door import MailboxDoor
from posthouse.sandbox.mailbox_kinds import IMAP, POP3
from posthouse.sandbox.pages import page
from posthouse.sandbox.post import Limits, PostOffice
from posthouse.sandbox.provider import Provider
from posthouse.sandbox.serving import HttpServer
from posthouse.sandbox.settings import SandboxSettings
from posthouse.sandbox.signin import SignIn
from posthouse.sandbox.smtp import SmtpDoor
from posthouse.sandbox.token_endpoint import Seen
from posthouse.secret import Secret

DESCRIPTION = "sandbox.json"
MOST_CONNECTIONS = 20_000
CONTROL_KEY = "control.key"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the doors really are. smtp, imap and pop3 begin plain and offer STARTTLS; the others are TLS."""

    http: int
    control: int
    smtp: int
    smtps: int
    imap: int
    imaps: int
    pop3: int
    pop3s: int


class Sandbox:
    """A provider in a box: `async with Sandbox(settings) as box`. `clock` gives seconds since 1970.

    Raises OSError when a port is taken or the directory cannot be written.
    """

    def __init__(self, settings: SandboxSettings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.faults = Faults()
        self.ledger = Ledger(_rules(settings))
        self.post = PostOffice(settings, self.ledger, _limits(settings), clock)
        self.control_key = Secret(secrets.token_urlsafe(32))
        self._clock = clock
        self._closing = asyncio.Event()
        self._described = False
        self._sockets: list[socket.socket] = []
        self._servers: list[HttpServer] = []
        self._listeners: list[Listener] = []

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut all conversations and give the ports back."""
        self._closing.set()
        await asyncio.gather(*(server.stop() for server in self._servers))
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        for listening in self._sockets:
            listening.close()
        for opened in (self._servers, self._listeners, self._sockets):
            opened.clear()
        if self._described:
            (self.settings.directory / DESCRIPTION).unlink(missing_ok=True)

    async def _start(self) -> None:
        directory = self.settings.directory
        directory.mkdir(parents=True, exist_ok=True)
        context, key = await asyncio.to_thread(_keys, directory, self.settings.host)
        http, control = self._bound(self.settings.http_port), self._bound(self.settings.control_port)
        self.issuer = f"http://localhost:{http.getsockname()[1]}"
        self.control_url = f"http://localhost:{control.getsockname()[1]}/control"
        self.signin = SignIn(self.issuer, self.settings, self.ledger, self._clock)
        seen = Seen()
        provider = Provider(self.signin, key, self.faults, seen, self._closing, self._home)
        commands = Control(self.signin, self.post, self.faults, seen)
        self._servers = [
            HttpServer(provider.application(), http),
            HttpServer(commands.application(self.control_key), control),
        ]
        self.ports = await self._open_mail(context, http.getsockname()[1], control.getsockname()[1])
        await asyncio.gather(*(server.start() for server in self._servers))
        write_private(directory / CONTROL_KEY, self.control_key.reveal().encode())
        write_private(directory / DESCRIPTION, json.dumps(self.describe(), indent=2).encode())
        self._described = True

    def _bound(self, port: int) -> socket.socket:
        self._sockets.append(bound_socket(self.settings.host, port))
        return self._sockets[-1]

    async def _open_mail(self, context: ssl.SSLContext, http: int, control: int) -> Ports:
        settings = self.settings
        self.post.issuer = self.issuer
        smtp, smtps = (SmtpDoor(self.post, self.faults, context, tls_first) for tls_first in (False, True))
        imap, imaps, pop3, pop3s = (
            MailboxDoor(kind, self.post, self.faults, context, tls_first)
            for kind in (IMAP, POP3)
            for tls_first in (False, True)
        )
        return Ports(
            http,
            control,
            await self._listen(settings.smtp_port, smtp.serve),
            await self._listen(settings.smtps_port, smtps.serve, context),
            await self._listen(settings.imap_port, imap.serve),
            await self._listen(settings.imaps_port, imaps.serve, context),
            await self._listen(settings.pop3_port, pop3.serve),
            await self._listen(settings.pop3s_port, pop3s.serve, context),
        )

    async def _listen(self, port: int, handler: Handler, tls: ssl.SSLContext | None = None) -> int:
        most = MOST_CONNECTIONS
        listener = await Listener.open(self.settings.host, port, handler, tls=tls, limit=most, limit_per_peer=most)
        self._listeners.append(listener)
        return listener.port

    @property
    def ca_file(self) -> Path:
        """The authority to trust when talking to the mail doors."""
        return self.settings.directory / AUTHORITY

    def describe(self) -> dict[str, Any]:
        """What `sandbox.json` says: all addresses, files, names; no secret."""
        ports = self.ports
        return {
            "issuer": self.issuer,
            "control": self.control_url,
            "control_key_file": str((self.settings.directory / CONTROL_KEY).resolve()),
            "ca_file": str(self.ca_file.resolve()),
            "smtp": f"localhost:{ports.smtp} starttls",
            "smtps": f"localhost:{ports.smtps} tls",
            "imap": f"localhost:{ports.imap} starttls",
            "imaps": f"localhost:{ports.imaps} tls",
            "pop3": f"localhost:{ports.pop3} starttls",
            "pop3s": f"localhost:{ports.pop3s} tls",
            "ports": asdict(ports),
            "people": [person.address for person in self.settings.people],
            "shared": list(self.settings.shared),
            "public_clients": [client.id for client in self.settings.clients if client.secret is None],
            "confidential_clients": [client.id for client in self.settings.clients if client.secret],
        }

    def _home(self) -> Any:
        shown = ("issuer", "smtp", "smtps", "imap", "imaps", "pop3", "pop3s", "ca_file")
        description = self.describe()
        addresses = [(name, description[name]) for name in shown]
        people = [*(person.address for person in self.settings.people), *self.settings.shared]
        mailboxes = [(address, self.post.received[address.lower()]) for address in people[:100]]
        return page("home", "A provider in a box", addresses=addresses, mailboxes=mailboxes)


async def run(settings: SandboxSettings, ready: Callable[[Sandbox], None]) -> None:
    """Run until cancelled; `ready` is called once all doors are open."""
    async with Sandbox(settings) as box:
        ready(box)
        await asyncio.Event().wait()


def _keys(directory: Path, host: str) -> tuple[ssl.SSLContext, RSAKey]:
    return server_context(directory, host), signing_key(directory)


def _rules(settings: SandboxSettings) -> Rules:
    return Rules(
        settings.rotate,
        settings.punish_reuse,
        settings.old_tokens_serve,
        settings.access_token_lifetime,
        settings.code_lifetime,
        settings.device_lifetime,
        settings.device_interval,
        settings.consent_lifetime,
        settings.revoke_all,
    )


def _limits(settings: SandboxSettings) -> Limits:
    return Limits(
        settings.connections,
        settings.reading_connections,
        settings.messages_per_minute,
        settings.message_size,
        settings.challenge,
        settings.recipients_per_day,
        settings.recipients_per_message,
    )
