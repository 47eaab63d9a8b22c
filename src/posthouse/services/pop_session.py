"""A logged-in POP3 conversation with a provider: enough to prove a token."""

import ssl
from dataclasses import dataclass
from typing import cast

from posthouse.model.endpoint import Endpoint
from posthouse.net.channel import Channel, ChannelClosed
from posthouse.net.drive import next_event
from posthouse.protocol import sasl
from posthouse.protocol.pop_client import (
    Completed,
    Disconnected,
    Event,
    Greeting,
    MailboxSize,
    PopClient,
    ProtocolError,
)
from posthouse.services.upstream import GOODBYE, Login, UpstreamFailed, connected, secure


@dataclass(slots=True)
class PopSession:
    channel: Channel
    engine: PopClient
    timeout: float

    async def succeed(self) -> list[Event]:
        """What came before the end of the command, which has to be positive. Raises UpstreamFailed."""
        heard: list[Event] = []
        while not isinstance(event := await self.next(), Completed):
            heard.append(event)
        if not event.ok:
            code = f"[{event.reply.code}] " if event.reply.code else ""
            raise UpstreamFailed("command", f"-ERR {code}{event.reply.text}", challenge=event.challenge)
        return heard

    async def next(self) -> Event:
        try:
            event = cast(Event, await next_event(self.engine, self.channel, self.timeout))
        except TimeoutError:
            raise UpstreamFailed("time", "the server did not answer in time") from None
        except ChannelClosed:
            raise UpstreamFailed("lost", "the server broke off") from None
        if isinstance(event, Disconnected | ProtocolError):
            raise UpstreamFailed("lost", event.text if isinstance(event, ProtocolError) else "the server broke off")
        return event

    async def size(self) -> MailboxSize:
        self.engine.stat()
        return next(event for event in await self.succeed() if isinstance(event, MailboxSize))

    async def close(self) -> None:
        self.engine.quit()
        self.channel.write(self.engine.data_to_send())
        self.channel.close()
        await self.channel.wait_closed(GOODBYE)


async def open_pop(endpoint: Endpoint, login: Login, *, ca_file: str = "", timeout: float = 30.0) -> PopSession:
    """Connect, start TLS, log in. Raises UpstreamFailed; stage `login` where the server refused the user."""
    async with connected(endpoint, login, ca_file, timeout) as (channel, context):
        session = PopSession(channel, PopClient(), timeout)
        greeting = await session.next()
        if not isinstance(greeting, Greeting) or not greeting.reply.ok:
            raise UpstreamFailed("greeting", "the server does not greet")
        if endpoint.tls == "starttls":
            await _start_tls(session, endpoint, context)
        await _log_in(session, endpoint, login)
        return session


async def _start_tls(session: PopSession, endpoint: Endpoint, context: ssl.SSLContext) -> None:
    session.engine.stls()
    await session.succeed()
    await secure(session.channel, endpoint, context, session.timeout)
    session.engine.tls_started()


async def _log_in(session: PopSession, endpoint: Endpoint, login: Login) -> None:
    engine = session.engine
    await _ask_capabilities(session)
    offered = engine.capabilities.get("SASL", ())
    mechanism = sasl.pick_mechanism(offered, login.mechanisms)
    if mechanism in ("XOAUTH2", "OAUTHBEARER"):
        [response] = sasl.responses(mechanism, login.user, login.secret, endpoint.host, endpoint.port)
        engine.authenticate(mechanism, response)
    elif "PLAIN" in login.mechanisms:
        engine.login(login.user, login.secret)
    else:
        raise UpstreamFailed("login", f"{endpoint.host} offers {' '.join(offered) or 'no login'} and no OAuth")
    try:
        await session.succeed()
    except UpstreamFailed as failed:
        stage = "login" if failed.stage == "command" else failed.stage
        raise UpstreamFailed(stage, failed.text, challenge=failed.challenge) from None


async def _ask_capabilities(session: PopSession) -> None:
    """A server that does not know the command (RFC 2449 section 5) still takes a name and a password."""
    session.engine.capa()
    try:
        await session.succeed()
    except UpstreamFailed as failed:
        if failed.stage != "command":
            raise
