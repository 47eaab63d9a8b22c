"""A logged-in IMAP conversation with a provider: enough to prove a token and to read mail back."""

import ssl
from dataclasses import dataclass

from posthouse.model.endpoint import Endpoint
from posthouse.net.channel import Channel, ChannelClosed
from posthouse.net.drive import next_event
from posthouse.protocol import sasl
from posthouse.protocol.imap_client import ImapClient, State
from posthouse.protocol.imap_responses import Bye, Completed, Disconnected, Event, Greeting, ProtocolError, Status
from posthouse.services.upstream import GOODBYE, Login, UpstreamFailed, connected, secure


@dataclass(slots=True)
class ImapSession:
    channel: Channel
    engine: ImapClient
    timeout: float

    async def finish(self) -> tuple[Completed, list[Event]]:
        """The end of the command that was just said, and what came before it. Raises UpstreamFailed."""
        heard: list[Event] = []
        while True:
            event = await self._next()
            match event:
                case Completed():
                    return event, heard
                case Disconnected() | ProtocolError():
                    raise UpstreamFailed("lost", _last_words(event, heard))
            heard.append(event)

    async def succeed(self) -> list[Event]:
        """As `finish`, for a command that has to work. Raises UpstreamFailed with the server's words."""
        completed, heard = await self.finish()
        condition = completed.condition
        if condition.status is not Status.OK:
            words = f"{condition.status} {condition.text}"
            raise UpstreamFailed("command", words, challenge=completed.challenge)
        return heard

    async def greeting(self) -> None:
        event = await self._next()
        if not isinstance(event, Greeting):
            raise UpstreamFailed("greeting", _last_words(event, []))
        if self.engine.state is not State.NOT_AUTHENTICATED:
            raise UpstreamFailed("greeting", f"{event.condition.status} {event.condition.text}")

    async def close(self) -> None:
        self.engine.logout()
        self.channel.write(self.engine.data_to_send())
        self.channel.close()
        await self.channel.wait_closed(GOODBYE)

    async def _next(self) -> Event:
        try:
            return await next_event(self.engine, self.channel, self.timeout)
        except TimeoutError:
            raise UpstreamFailed("time", "the server did not answer in time") from None
        except ChannelClosed:
            raise UpstreamFailed("lost", "the server broke off") from None


async def open_imap(endpoint: Endpoint, login: Login, *, ca_file: str = "", timeout: float = 30.0) -> ImapSession:
    """Connect, start TLS, log in. Raises UpstreamFailed; stage `login` where the server refused the user."""
    async with connected(endpoint, login, ca_file, timeout) as (channel, context):
        session = ImapSession(channel, ImapClient(), timeout)
        await session.greeting()
        if endpoint.tls == "starttls":
            await _start_tls(session, endpoint, context)
        await _log_in(session, endpoint, login)
        return session


async def _start_tls(session: ImapSession, endpoint: Endpoint, context: ssl.SSLContext) -> None:
    session.engine.starttls()
    await session.succeed()
    await secure(session.channel, endpoint, context, session.timeout)
    session.engine.tls_started()


async def _log_in(session: ImapSession, endpoint: Endpoint, login: Login) -> None:
    engine = session.engine
    if not engine.capabilities:
        engine.capability()
        await session.succeed()
    offered = [name.removeprefix("AUTH=") for name in engine.capabilities if name.startswith("AUTH=")]
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


def _last_words(event: Event, heard: list[Event]) -> str:
    goodbye = next((said.condition.text for said in heard if isinstance(said, Bye)), "")
    if goodbye:
        return goodbye
    return event.text if isinstance(event, ProtocolError) else "the server broke off"
