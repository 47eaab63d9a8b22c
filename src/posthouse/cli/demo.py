"""`posthouse demo`: the whole job once, on this machine, with a provider in a box, and then as long as you like."""

import asyncio
import contextlib
import json
import os
import smtplib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.options import common
from posthouse.cli.running import configure_log, run, stop_on_signals
from posthouse.cli.sandbox import limits_option
from posthouse.problems import problem
from posthouse.secret import Secret
from posthouse.settings import ListenAt, Settings

if TYPE_CHECKING:
    from posthouse.app import Gateway

PATIENCE = 30.0
MAILBOX = "alice@sandbox.example"
RECIPIENT = "alice@sandbox.example"
DEVICE = "printer-2nd-floor"
PACED = ("connections", "messages_per_minute", "recipients_per_day", "recipients_per_message")
APPLY = """\
[[provider]]
name = "sandbox"
issuer = "{issuer}"
ca_file = "{ca_file}"
scopes = ["mail", "offline_access"]
smtp = "{smtp}"
imap = "{imap}"
pop3 = "{pop3}"
{limits}
[[app]]
name = "demo"
provider = "sandbox"
client_id = "posthouse"

[[mailbox]]
address = "{mailbox}"
app = "demo"
receive = "imap"
default = true

[[device]]
name = "{device}"
mailboxes = ["{mailbox}"]
"""


@click.command(epilog="Example:  posthouse demo --limits exchange")
@common
@click.option("--once", is_flag=True, help="End after the first message has arrived.")
@limits_option
def demo(config: Path | None, debug: bool, once: bool, limits: str | None) -> int:
    """Try the gateway on this machine: a provider in a box, a token by OAuth, a message from a password-only client.

    Everything lies in a temporary directory and is thrown away at the end.
    """
    configure_log("warning", debug=debug)
    return run(_demo(once, limits))


class _Story:
    """Prints one line for each step with the time it took."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def tell(self, text: str) -> None:
        now = time.monotonic()
        click.echo(f"{now - self._last:7.2f} s  {text}")
        self._last = now

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


async def _demo(once: bool, limits: str | None) -> int:
    stop = stop_on_signals()
    story = _Story()
    with tempfile.TemporaryDirectory(prefix="posthouse-demo-") as place:
        async with _sandbox(Path(place) / "sandbox", limits) as box:
            story.tell(f"a provider in a box is up: {box['issuer']}")
            async with _gateway(Path(place) / "data", box, limits) as (gateway, password):
                await _tell_story(story, gateway, password, box)
                if not once:
                    await _stay(gateway, password, stop)
    return 0


async def _tell_story(story: _Story, gateway: "Gateway", password: Secret, box: dict[str, Any]) -> None:
    port = gateway.smtp_ports[0]
    story.tell(f"the gateway is up: SMTP on 127.0.0.1:{port}")
    user_code = await _get_token(gateway, box)
    story.tell(f"{MAILBOX} signed in with device code {user_code}; the token is proved over SMTP and IMAP")
    subject = f"Scan from {DEVICE}, {time.strftime('%H:%M:%S')}"
    answer = await asyncio.to_thread(_send, port, password, subject)
    story.tell(f"{DEVICE} sent a message with its own password; the gateway: {answer}")
    queue_id = answer.rpartition(" ")[2]
    await _until_sent(gateway, queue_id)
    story.tell("delivered to the provider with STARTTLS and XOAUTH2")
    await _read_back(gateway, subject)
    story.tell("read back from the provider over IMAP with the token: it has arrived")
    click.echo(f"\nIt works: {story.seconds:.1f} s from nothing to a delivered message.")


@asynccontextmanager
async def _sandbox(directory: Path, limits: str | None) -> AsyncIterator[dict[str, Any]]:
    """The provider in a box as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "posthouse.cli",
        "sandbox",
        "--directory",
        str(directory),
        *(("--limits", limits) if limits else ()),
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield await _description(directory / "sandbox.json", process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _description(path: Path, process: asyncio.subprocess.Process) -> dict[str, Any]:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and process.returncode is None:
        if path.exists():
            described: dict[str, Any] = json.loads(path.read_text())
            return described
        await asyncio.sleep(0.02)
    raise problem("demo.sandbox", "The provider in a box did not start.", "Try: posthouse sandbox --debug", status=70)


@asynccontextmanager
async def _gateway(data: Path, box: dict[str, Any], limits: str | None) -> "AsyncIterator[tuple[Gateway, Secret]]":
    from posthouse.app import gateway
    from posthouse.services.apply_file import parse
    from posthouse.services.applying import apply

    web = _free_port(8480)
    settings = Settings(
        data=data,
        external_url=f"http://localhost:{web}",
        web=ListenAt("127.0.0.1", web),
        smtp=(ListenAt("127.0.0.1", _free_port(1587)),),
    )
    async with gateway(settings, create=True) as running:
        parts = running.parts
        text = APPLY.format(**{name: box[name] for name in ("issuer", "ca_file", "smtp", "imap", "pop3")},
                            mailbox=MAILBOX, device=DEVICE, limits=_limits_table(limits))  # fmt: skip
        report = await apply(parts.store, parse(text, "demo.toml", os.environ), parts.clock())
        await running.start_listeners()
        await running.start_background()
        await running.start_web()
        yield running, report.generated[DEVICE]


def _limits_table(limits: str | None) -> str:
    """What the gateway has to know of a strict sandbox."""
    from posthouse.sandbox.settings import STRICT

    known = STRICT[limits] if limits else {}
    told = [f"{key} = {known[key]}\n" for key in PACED if key in known]
    return "\n[provider.limits]\n" + "".join(told) if told else ""


async def _get_token(gateway: "Gateway", box: dict[str, Any]) -> str:
    parts = gateway.parts
    mailbox = parts.directory.now.by_address[MAILBOX]
    begun = await parts.authorise.begin(mailbox, "device")
    await _approve(box, begun.authorisation.user_code)
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        token = gateway.parts.directory.now.mailboxes[mailbox.id].token_id or ""
        await parts.authorise.look_after()
        if await _acquired(gateway, token):
            return begun.authorisation.user_code
        await asyncio.sleep(0.05)
    raise problem("demo.token", "No token was acquired.", "Run it again with --debug.", status=70)


async def _acquired(gateway: "Gateway", token_id: str) -> bool:
    from posthouse.store import tokens

    token = await gateway.parts.store.database.read(lambda tx: tokens.get(tx, token_id))
    return token is not None and token.state == "acquired"


async def _approve(box: dict[str, Any], user_code: str) -> None:
    """What a person does in a browser: type the code, choose the account, allow."""
    import httpx2

    key = await asyncio.to_thread(Path(box["control_key_file"]).read_text)
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key.strip()}"}) as client:
        answer = await client.post(f"{box['control']}/approve", json={"user_code": user_code, "person": MAILBOX})
        answer.raise_for_status()


def _send(port: int, password: Secret, subject: str) -> str:
    """A client that knows only SMTP and a password: Python's own."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = f"scanner@{DEVICE}.example", RECIPIENT, subject
    message.set_content("A page of text, scanned just now.\n")
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo()
        client.login(DEVICE, password.reveal())
        client.mail(str(message["From"]))
        client.rcpt(RECIPIENT)
        code, answer = client.data(message.as_bytes(policy=SMTP))
    if code != 250:
        raise problem("demo.send", f"The gateway answered {code} {answer.decode()}.", status=70)
    return answer.decode()


async def _until_sent(gateway: "Gateway", queue_id: str) -> None:
    from posthouse.store import messages

    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        summary = await gateway.parts.store.database.read(lambda tx: messages.one(tx, queue_id))
        if summary is not None and summary.state == "sent":
            return
        await asyncio.sleep(0.01)
    last = f" Last answer: {summary.answer}" if summary else ""
    raise problem("demo.delivery", f"The message was not delivered in time.{last}", status=70)


async def _read_back(gateway: "Gateway", subject: str) -> None:
    from posthouse.protocol.imap_responses import Fetched
    from posthouse.services.imap_session import open_imap

    parts = gateway.parts
    way = await parts.credentials.way(parts.directory.now.by_address[RECIPIENT], "imap")
    session = await open_imap(way.endpoint, way.login, ca_file=way.ca_file)
    try:
        session.engine.select("INBOX", read_only=True)
        await session.succeed()
        session.engine.uid_fetch("1:*", "(UID BODY.PEEK[HEADER])")
        fetched = [event for event in await session.succeed() if isinstance(event, Fetched)]
    finally:
        await session.close()
    if not any(subject.encode() in part for event in fetched for part in event.sections.values()):
        raise problem("demo.read-back", "The message is not in the mailbox.", status=70)


async def _stay(gateway: "Gateway", password: Secret, stop: asyncio.Event) -> None:
    from posthouse.services.entrance import sign_in_link

    parts = gateway.parts
    link = await sign_in_link(parts.store, parts.clock, gateway.settings.external_url)
    click.echo(f"\nThe page (this link signs you in once):\n  {link.reveal()}")
    click.echo("Send something yourself:")
    click.echo(f"  server 127.0.0.1, port {gateway.smtp_ports[0]}, user {DEVICE}, password {password.reveal()}")
    click.echo("  any sender; recipients alice@sandbox.example, bob@sandbox.example\n\nCtrl-C ends it.")
    await stop.wait()


def _free_port(wanted: int) -> int:
    """The usual port where it is free, else one that the system chooses."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("127.0.0.1", port))
            return int(trial.getsockname()[1])
    return wanted
