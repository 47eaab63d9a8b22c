"""Builds every part from settings; starts, drains and stops them. Nothing else builds parts."""

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from posthouse.net.channel import Channel
from posthouse.net.http import HttpClient
from posthouse.net.listener import Listener, bound_socket
from posthouse.problems import ProblemError, place_of, problem
from posthouse.protocol.smtp_reply import TOO_MANY_CONNECTIONS
from posthouse.protocol.smtp_server import ServerPolicy
from posthouse.services.alarm import Alarm
from posthouse.services.app_check import AppCheck
from posthouse.services.authorise import Authorise
from posthouse.services.clock import Clock
from posthouse.services.connection_test import ConnectionTest
from posthouse.services.credentials import Credentials
from posthouse.services.device_login import DeviceLogins
from posthouse.services.directory import Directory
from posthouse.services.dispatcher import Dispatcher
from posthouse.services.editing import Editing
from posthouse.services.ending import end
from posthouse.services.following import Following
from posthouse.services.forewarning import Forewarning
from posthouse.services.giving_back import GivingBack
from posthouse.services.going_back import GoingBack
from posthouse.services.key_rotation import KeyRotation
from posthouse.services.master_key_change import MasterKeyChange
from posthouse.services.notices import Notices
from posthouse.services.rates import Rates
from posthouse.services.refused_senders import RefusedSenders
from posthouse.services.reporting import Reporting
from posthouse.services.retention import Retaining
from posthouse.services.sharing import Sharing
from posthouse.services.sign_in import SignIn
from posthouse.services.standing import Standings
from posthouse.services.submission import Door, Submission
from posthouse.services.telling import Telling
from posthouse.services.token_keeper import TokenKeeper
from posthouse.services.trial import Trial
from posthouse.services.watchdog import Watchdog
from posthouse.services.webhook import Webhook
from posthouse.settings import ListenAt, Settings
from posthouse.store import leases, messages
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.store.events import Event
from posthouse.store.lock import DataLock, refuse_network_file_system
from posthouse.store.opening import Store, open_store
from posthouse.store.trouble import at_start
from posthouse.web.parts import Parts

if TYPE_CHECKING:
    from fastapi import FastAPI

DRAIN = 10.0
"""Seconds that conversations get to end when the gateway is stopped."""
SWEEP = 3600.0
LOCK_TRIES, LOCK_PAUSE = 30, 0.1

log = structlog.get_logger("app")


class Gateway:
    """All parts of one gateway over one data directory. `open()` first; then some or all of it is started."""

    def __init__(self, settings: Settings, parts: Parts, http: HttpClient, lock: DataLock) -> None:
        self.settings = settings
        self.parts = parts
        self._http = http
        self._lock = lock
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[Any] = []
        self._web: FastAPI | None = None
        self.smtp_ports: list[int] = []

    @property
    def web(self) -> "FastAPI":
        """Page and API; imported here, since that takes longer than everything else."""
        if self._web is None:
            from posthouse.web.app import build

            self._web = build(self.parts)
        return self._web

    async def start_listeners(self) -> None:
        """Raises ProblemError where a port cannot be had.

        What a crash has left in the spool goes first: later it could not be told from a message that is coming in.
        """
        await self._sweep()
        for place in self.settings.smtp:
            if place.lane or place.proxy:
                log.warning("not yet available", what="lane and proxy in [listen]", at=str(place))
                continue
            door = _smtp_door(self.settings, place, self.parts.submission.hostname)
            tls = _server_context(self.settings) if place.security == "tls" else None

            async def handler(channel: Channel, door: Door = door) -> None:
                await self.parts.submission.serve(channel, door)

            listener = await _listen(place, handler, tls)
            self._listeners.append(listener)
            self.smtp_ports.append(listener.port)
            log.info("listening", protocol="smtp", at=str(replace(place, port=listener.port)), security=place.security)

    async def start_background(self) -> None:
        """Following events, refreshing, dispatching, looking after sign-ins, warning."""
        parts = self.parts
        await parts.following.start()
        await parts.refused_senders.start()
        for name, work in (
            ("following", parts.following.run),
            ("token keeper", parts.keeper.run),
            ("dispatcher", parts.dispatcher.run),
            ("authorisations", parts.authorise.run),
            ("settings that wait", parts.sharing.run),
            ("retired grants", self._sweep_grants),
            ("giving back", parts.authorise.giving_back.run),
            ("forewarning", parts.forewarning.run),
            ("reporting", parts.reporting.run),
            ("watchdog", parts.watchdog.run),
            ("notices", parts.notices.run),
            ("webhook", parts.webhook.run),
            ("alarm", parts.alarm.run),
            ("retention", Retaining(parts.store, parts.clock, self.settings.retention).run),
            ("key rotation", parts.key_rotation.run),
        ):
            self._tasks.append(asyncio.create_task(_watched(name, work), name=name))

    async def _sweep_grants(self) -> None:
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.parts.authorise.giving_back.sweep()
                await self.parts.authorise.forget_ended()
            await asyncio.sleep(SWEEP)

    async def start_web(self) -> None:
        """Page and API on their port and on the control socket."""
        from posthouse.web.serving import WebServer

        submit = _file_socket(self.settings.submit, 0o666) if self.settings.submit else None
        control = _file_socket(self.settings.data / "control.sock", 0o600)
        app = await asyncio.to_thread(lambda: self.web)
        self._servers = [
            WebServer.on_tcp(app, self._web_socket(), self._web_files()),
            WebServer.on_control(app, control),
            *([WebServer.on_submit(app, submit)] if submit else []),
        ]
        for server in self._servers:
            await server.start()
        log.info("listening", protocol="http", at=str(self.settings.web))

    def _web_files(self) -> tuple[Path, Path] | None:
        """Certificate and key, where the page itself speaks TLS."""
        settings = self.settings
        if settings.web.security != "tls" or settings.certificate is None or settings.key is None:
            return None
        return settings.certificate, settings.key

    def _web_socket(self) -> socket.socket:
        place = self.settings.web
        try:
            return bound_socket(place.host, place.port)
        except OSError as cause:
            raise _port_problem(place, cause) from None

    async def _sweep(self) -> None:
        """What a crash has left in the spool belongs to nobody."""
        store = self.parts.store
        swept = await store.spool.sweep(await store.database.read(messages.needing_pieces))
        if swept:
            log.info("spool swept", files=swept)

    async def close(self) -> None:
        """Take no more, let conversations end, write what is not written, give leases back."""
        for server in self._servers:
            await server.stop()
        await asyncio.gather(*(listener.close(DRAIN) for listener in self._listeners))
        await end(self._tasks)
        await self.parts.connection_test.runs.close()
        await self.parts.app_check.runs.close()
        if not await self.parts.keeper.finish():
            log.error("a renewed token could not be written to the database before stopping")
        if self._tasks:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.parts.store.database.write(lambda tx: leases.leave(tx, self.parts.dispatcher.node_id))
        if self._servers:
            for path in (self.settings.data / "control.sock", self.settings.submit):
                path.unlink(missing_ok=True) if path else None
        await self._http.close()
        self.parts.logins.close()
        await self.parts.store.close()
        self._lock.release()


@asynccontextmanager
async def gateway(
    settings: Settings, *, create: bool = False, clock: Clock = time.time, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Gateway]:
    """The parts over a data directory, with nothing started yet. `create` makes the directory. Raises ProblemError."""
    built = await open_gateway(settings, create=create, clock=clock, environment=environment)
    try:
        yield built
    finally:
        await built.close()


async def open_gateway(
    settings: Settings, *, create: bool = False, clock: Clock = time.time, environment: Mapping[str, str] | None = None
) -> Gateway:
    """As `gateway`; whoever calls it closes it."""
    lock = await _take_data(settings, create=create)
    try:
        given = os.environ if environment is None else environment
        store = await open_store(settings.data, settings.database, given, keyring=settings.key_in_keyring)
    except BaseException:
        lock.release()
        raise
    try:
        http = HttpClient()
        parts = _build(settings, store, http, clock)
        await parts.directory.refresh()
    except BaseException:
        await store.close()
        lock.release()
        raise
    return Gateway(settings, parts, http, lock)


def _build(settings: Settings, store: Store, http: HttpClient, clock: Clock) -> Parts:
    hostname = _hostname(settings)
    node_id = _node_id(settings.data)
    directory = Directory(store, settings.notices_mailbox)
    sign_in = SignIn(directory, http, clock)
    keeper = TokenKeeper(store, sign_in, clock, node_id)
    credentials = Credentials(store, directory, keeper)
    trial = Trial(store, directory, clock, hostname)
    dispatcher = Dispatcher(store, directory, credentials, clock, node_id, hostname)
    giving_back = GivingBack(store, sign_in, clock)
    logins = DeviceLogins(directory, store.sealer, clock)
    rates = Rates(store, clock)
    refused_senders = RefusedSenders(store, directory, clock)
    following = Following(store, directory)
    forewarning = Forewarning(store, directory, clock)
    telling = Telling(store, directory, clock, settings, dispatcher.accepted)

    async def forget_token(event: Event) -> None:
        if event.kind.startswith("token."):
            keeper.forget(event.subject)

    directory.on_change(keeper.registrations_changed)
    directory.on_change(dispatcher.configuration_changed)
    following.listen(forget_token)
    following.listen(dispatcher.on_event)
    following.listen(refused_senders.on_event)
    return Parts(
        settings=settings,
        store=store,
        directory=directory,
        keeper=keeper,
        authorise=Authorise(
            store,
            directory,
            sign_in,
            keeper,
            giving_back,
            trial,
            clock,
            settings.external_url,
        ),
        sharing=Sharing(store, directory, sign_in, keeper, trial, clock),
        standings=Standings(store, directory, clock),
        going_back=GoingBack(store, directory, keeper, clock),
        connection_test=ConnectionTest(store, directory, keeper, credentials, clock, hostname),
        app_check=AppCheck(directory, sign_in, clock, settings.external_url),
        credentials=credentials,
        dispatcher=dispatcher,
        submission=Submission(store, directory, logins, rates, clock, hostname, dispatcher.accepted, refused_senders),
        refused_senders=refused_senders,
        rates=rates,
        logins=logins,
        following=following,
        editing=Editing(store, directory, giving_back, following, clock),
        forewarning=forewarning,
        reporting=Reporting(store, directory, clock, hostname, dispatcher.accepted),
        key_rotation=KeyRotation(store, node_id, clock),
        master_key_change=MasterKeyChange(store.keys, node_id),
        watchdog=Watchdog(store, clock, settings.silence),
        notices=Notices(store, directory, clock, forewarning, telling),
        alarm=Alarm(store, telling, credentials, clock, hostname),
        webhook=Webhook(store, http, clock, settings.notices_webhook),
        clock=clock,
    )


async def _take_data(settings: Settings, *, create: bool) -> DataLock:
    """The lock on the data directory; a command that holds it for a moment is waited for. Raises ProblemError."""
    data = settings.data
    if not data.is_dir() and not create:
        raise problem("data.missing", f"No Posthouse data in {data}.", "Start `posthouse serve` first.", status=64)
    if not settings.database:
        with contextlib.suppress(FileNotFoundError):
            refuse_network_file_system(data, Path("/proc/mounts").read_text())
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        return await _locked(data)
    except OSError as cause:
        raise at_start(data, cause) or problem(
            "data.unusable",
            f"{data} cannot be used as data directory: {cause.strerror or cause}.",
            "Let the user that Posthouse runs as write there, or name another directory: data = in posthouse.toml.",
            status=64,
        ) from cause


async def _locked(data: Path) -> DataLock:
    for _ in range(LOCK_TRIES):
        with contextlib.suppress(ProblemError):
            return DataLock(data)
        await asyncio.sleep(LOCK_PAUSE)
    return DataLock(data)


def _node_id(data: Path) -> str:
    """This data directory's name among the nodes; the lock makes sure that only one process bears it."""
    path, made = data / "node", data / "node.new"
    with contextlib.suppress(FileNotFoundError):
        if known := path.read_text().strip():
            return known
    made.write_text(f"node_{secrets.token_hex(8)}\n")
    with made.open() as file:
        os.fsync(file.fileno())
    made.replace(path)
    return path.read_text().strip()


def _hostname(settings: Settings) -> str:
    host = urlsplit(settings.external_url).hostname or ""
    return host if "." in host else socket.gethostname() or "localhost"


def _smtp_door(settings: Settings, place: ListenAt, hostname: str) -> Door:
    policy = ServerPolicy(
        hostname,
        size_limit=settings.message_size,
        starttls=place.security == "starttls",
        tls=place.security == "tls",
        auth_needs_tls=not (place.loopback and place.security == "plain"),
    )
    if place.security != "starttls":
        return Door(policy)
    context = _server_context(settings)

    async def start_tls(channel: Channel) -> None:
        await channel.start_tls(context, server_side=True)

    return Door(policy, start_tls)


def _server_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(str(settings.certificate), str(settings.key))
    except (ssl.SSLError, OSError) as cause:
        raise problem(
            "tls.unusable", f"The certificate or its key cannot be used: {cause}.", "Both have to be PEM files."
        ) from None
    return context


async def _listen(place: ListenAt, handler: Any, tls: ssl.SSLContext | None) -> Listener:
    try:
        full = TOO_MANY_CONNECTIONS.encode()
        return await Listener.open(place.host, place.port, handler, tls=tls, on_crash=_crashed, full=full)
    except OSError as cause:
        raise _port_problem(place, cause) from None


def _port_problem(place: ListenAt, cause: OSError) -> Exception:
    return problem(
        "listen.impossible",
        f"Cannot listen at {place}: {cause.strerror or cause}.",
        "Stop what listens there, or choose another port in [listen].",
        status=75,
    )


def _file_socket(path: Path, mode: int) -> socket.socket:
    """A place to listen at in the file system, for whom `mode` and the directories above let. Raises ProblemError."""
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~mode)
    try:
        if path.is_socket():
            path.unlink()
        listening.bind(str(path))
    except OSError as cause:
        listening.close()
        hint = "Choose a shorter path, in a directory that the gateway may write to."
        raise problem("socket.impossible", f"Cannot make {path}: {cause.strerror or cause}.", hint) from None
    finally:
        os.umask(before)
    listening.setblocking(False)
    return listening


def _crashed(cause: BaseException) -> None:
    log.error("conversation crashed", kind=type(cause).__name__, where=place_of(cause))


async def _watched(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A background part that falls down is a fault of ours: say where, and start it again, the others go on."""
    pause = 1.0
    while True:
        try:
            await work()
            return
        except (DatabaseUnavailable, CommitUnknown) as cause:
            log.warning("background part waits for the database", part=name, cause=str(cause))
            pause = min(pause, 2.5)
        except Exception as cause:
            log.error("background part fell down", part=name, kind=type(cause).__name__, where=place_of(cause))
        await asyncio.sleep(pause)
        pause = min(pause * 2, 30.0)
