"""A gateway as a user has it: `posthouse serve` over a data directory with a provider, a token, a mailbox, a device."""

import asyncio
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from measure import Process, free_port, greeting_at, wait_for_file
from trustme import CA, KeyType

from posthouse.app import Gateway, gateway
from posthouse.model.device import DeviceSettings
from posthouse.secret import Secret
from posthouse.services.device_login import generate_password
from posthouse.settings import read_settings
from posthouse.store import tokens
from posthouse.store.configuration import encode, save, share_token
from posthouse.store.database import Transaction

MAILBOX, FAR_MAILBOX = "alice@sandbox.example", "bob@sandbox.example"
DEVICE, FAR_DEVICE = "bench", "far"
PROGRAM = (sys.executable, "-m", "posthouse.cli")
SETTINGS = """\
data = "{data}"
[listen]
web = "127.0.0.1:{web}"
smtp = ["127.0.0.1:{plain} plain", "127.0.0.1:{tls} starttls"]
[tls]
certificate = "{directory}/server.pem"
key = "{directory}/server.key"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything of one benchmark lies. `plain` and `tls` are the gateway's ports."""

    directory: Path
    plain: int
    tls: int

    @property
    def settings(self) -> Path:
        return self.directory / "posthouse.toml"

    @property
    def authority(self) -> Path:
        return self.directory / "ca.pem"


def make_place(directory: Path) -> Place:
    """Certificates with RSA keys of 2048 bits for both sides, and posthouse.toml."""
    authority = CA(key_type=KeyType.RSA)
    certificate = authority.issue_cert("localhost", "127.0.0.1", key_type=KeyType.RSA)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate.private_key_pem.write_to_path(directory / "server.key")
    certificate.cert_chain_pems[0].write_to_path(directory / "server.pem")
    place = Place(directory, free_port(), free_port())
    place.settings.write_text(
        SETTINGS.format(data=directory / "data", web=free_port(), plain=place.plain, tls=place.tls, directory=directory)
    )
    return place


@contextmanager
def sandbox(directory: Path) -> Iterator[dict[str, str]]:
    """The provider's sign-in as a process of its own."""
    process = Process(*PROGRAM, "sandbox", "--directory", directory / "sandbox", log=directory / "sandbox.log")
    try:
        yield json.loads(wait_for_file(directory / "sandbox" / "sandbox.json", process))
    finally:
        process.stop()


@dataclass(frozen=True, slots=True)
class Way:
    """A mailbox, its device, and where its provider takes mail, over so many connections."""

    name: str
    mailbox: str
    port: int
    connections: int


async def furnish(place: Place, box: dict[str, str], ways: tuple[Way, ...]) -> Secret:
    """Configure what is to be served and get tokens by the device flow; the password of all devices."""
    settings = read_settings(place.settings, {})
    async with gateway(settings, create=True, environment={}) as running:
        parts, password = running.parts, generate_password()
        for way in ways:
            rows = _rows(place, box["issuer"], way, parts.logins.hash_generated(password))
            await parts.store.database.write(lambda tx, way=way, rows=rows: _save(tx, way, rows))  # type: ignore[misc]
        await parts.directory.refresh()
        async with asyncio.timeout(30):
            for way in ways:
                await _get_token(running, box, way.mailbox)
        return password


def _rows(place: Place, issuer: str, way: Way, password_hash: str) -> dict[str, dict[str, Any]]:
    provider = {
        "name": way.name,
        "issuer": issuer,
        "ca_file": str(place.authority),
        "scopes": ["mail", "offline_access"],
        "smtp": f"127.0.0.1:{way.port} starttls",
        "limits": {"connections": way.connections},
    }
    return {
        "provider": {"name": way.name, "document": encode(provider)},
        "app": {"name": way.name, "provider": way.name, "client_id": "posthouse"},
        "mailbox": {"address": way.mailbox, "account": way.mailbox, "app_id": f"app {way.name}"},
        "device": {
            "name": way.name,
            "document": encode(DeviceSettings(mailboxes=(way.mailbox,))),
            "password_hash": password_hash,
        },
    }


async def _save(tx: Transaction, way: Way, rows: dict[str, dict[str, Any]]) -> None:
    for kind, values in rows.items():
        await save(tx, kind, f"{kind} {way.name}", **values)
    token = await tokens.ensure(tx, f"app {way.name}", way.mailbox, "main", await tx.now())
    await share_token(tx, f"mailbox {way.name}", token.id)


async def _get_token(running: Gateway, box: dict[str, str], address: str) -> None:
    parts = running.parts
    begun = await parts.authorise.begin(parts.directory.now.by_address[address], "device")
    key = Path(box["control_key_file"]).read_text().strip()
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        body = {"user_code": begun.authorisation.user_code, "person": address}
        (await client.post(f"{box['control']}/approve", json=body)).raise_for_status()
    while not await _acquired(running, address):
        await parts.authorise.look_after()
        await parts.directory.refresh()
        await asyncio.sleep(0.1)


async def _acquired(running: Gateway, address: str) -> bool:
    parts = running.parts
    token_id = parts.directory.now.by_address[address].token_id or ""
    token = await parts.store.database.read(lambda tx: tokens.get(tx, token_id))
    return token is not None and token.state == "acquired"


class Serving:
    """The running gateway. `greeted` is the time from its start to the first 220."""

    def __init__(self, place: Place, command: str = "") -> None:
        program = shlex.split(command) or PROGRAM
        caches = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(place.directory / "pycache")}
        log = place.directory / "gateway.log"
        self.process = Process(*program, "serve", "--config", place.settings, log=log, environment=caches)
        self.greeted = greeting_at(place.plain, self.process) - self.process.began
