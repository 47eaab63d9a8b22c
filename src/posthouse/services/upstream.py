"""A conversation with the provider's submission server, from connecting to being logged in, and message by message."""

import re
import ssl
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from msgspec.structs import replace

from posthouse.model.delivery import Part
from posthouse.model.endpoint import Endpoint
from posthouse.model.message import QueuedMessage
from posthouse.net.channel import Channel, ChannelClosed
from posthouse.net.connect import ConnectFailed, client_context, connect, upgrade
from posthouse.net.drive import flush, next_event
from posthouse.protocol.sasl import pick_mechanism
from posthouse.protocol.smtp_client import (
    Answered,
    Authenticated,
    AuthRefused,
    Disconnected,
    EnvelopeAnswered,
    Event,
    MessageAnswered,
    ProtocolError,
    Ready,
    Refused,
    ServerClosing,
    SmtpClient,
    Stage,
    StartTls,
)
from posthouse.protocol.smtp_reply import Reply
from posthouse.secret import Secret

E = TypeVar("E", bound=Event)
_WORD = re.compile(r"[^\s\"',;:<>()\[\]{}]+")
_NO_LETTER = re.compile(r"[^A-Za-z0-9+/]")
PATIENCE = 4.0
"""A server that sends its octets one by one gets so many times as long for a whole answer as for its next octet."""
GOODBYE = 1.0
"""Seconds that the other side has to take part in closing."""
_NO_SUCH_COMMAND = frozenset((500, 502, 503, 504))
"""Answers to BDAT of a server that offers CHUNKING and does not know it."""
TAKING = 180.0
"""Seconds for a piece of a message to be taken (RFC 5321 section 4.5.3.2.5), however slow the line: 1.4 KB a second."""
BODY_TIMEOUT = 600.0
"""Seconds to wait for the verdict after the end of a message (RFC 5321 section 4.5.3.2.6)."""


@dataclass(frozen=True, slots=True)
class Login:
    """`mechanisms` are the ones that fit the secret, the best first."""

    user: str
    secret: Secret = field(repr=False)
    mechanisms: tuple[str, ...]


class UpstreamFailed(Exception):
    """`stage`: name, connect, tls, time, greeting, login, chunking or lost. `reply`: what the server said, if it did.

    `unknown`: the end of a message had been sent and was not answered, so nobody knows whether it was taken.
    """

    def __init__(
        self, stage: str, text: str, *, reply: Reply | None = None, challenge: str = "", unknown: bool = False
    ) -> None:
        super().__init__(text)
        self.stage = stage
        self.text = text
        self.reply = reply
        self.challenge = challenge
        self.unknown = unknown

    def without(self, secret: Secret) -> "UpstreamFailed":
        """The same, where the server says back what it was told: that must not come into a log."""
        reply = self.reply and replace(self.reply, text=_hidden(secret, self.reply.text))
        text, challenge = _hidden(secret, self.text), _hidden(secret, self.challenge)
        return UpstreamFailed(self.stage, text, reply=reply, challenge=challenge, unknown=self.unknown)


def _hidden(secret: Secret, text: str) -> str:
    return _WORD.sub(lambda word: "…" if _shows(secret, word[0]) else word[0], text)


def _shows(secret: Secret, word: str) -> bool:
    """Also in Base64, as in an AUTH command."""
    plain = secret.reveal()
    return bool(plain) and (plain in word or plain.encode() in _decoded(word))


def _decoded(word: str) -> bytes:
    """What is Base64 in a word, as far as it is; the rest of it is nonsense."""
    letters = _NO_LETTER.sub("", word)
    whole = letters[: len(letters) - (len(letters) % 4 == 1)]
    return b64decode(whole + "=" * (-len(whole) % 4))


@dataclass(slots=True)
class SmtpSession:
    """A logged-in connection. `serial` is that of the access token it was opened with, `messages` what it carried."""

    channel: Channel
    engine: SmtpClient
    timeout: float
    serial: int | None = None
    opened_at: float = 0.0
    messages: int = 0

    @property
    def usable(self) -> bool:
        return self.engine.idle and not self.channel.ended

    @property
    def pipelining(self) -> bool:
        """The envelope of a message may follow the end of the one before at once."""
        return self.engine.pipelining and not self.engine.closed

    @property
    def _sent(self) -> bool:
        return self.engine.stage is Stage.BODY_SENT

    async def expect(self, kind: type[E], timeout: float | None = None) -> E:
        """The next event, which has to be of this kind. Raises UpstreamFailed."""
        try:
            wait = timeout or self.timeout
            event = await next_event(self.engine, self.channel, wait, wait * PATIENCE)
        except TimeoutError:
            raise UpstreamFailed("time", "the server did not answer in time", unknown=self._sent) from None
        except ChannelClosed:
            raise UpstreamFailed("lost", "the connection was lost", unknown=self._sent) from None
        if isinstance(event, kind):
            return event
        raise _failure(cast(Event, event))

    async def noop(self) -> Reply:
        """One cheap command after the login. Raises UpstreamFailed."""
        self.engine.noop()
        return (await self.expect(Answered)).reply

    def begin(self, message: QueuedMessage, part: Part) -> None:
        """Ask for a message to be taken for some recipients, also while the answer to the last one is awaited.

        Nothing is written before `push()` or the next wait. Raises ValueError where the server cannot take it.
        """
        recipients = [message.recipients[place].address for place in part.places]
        self.engine.send_envelope(
            message.sender, recipients, message.size, smtputf8=message.smtputf8, eight_bit=message.eight_bit
        )

    def push(self) -> None:
        """Write what the engine has to say."""
        self.channel.write(self.engine.data_to_send())

    async def answered(self) -> EnvelopeAnswered:
        """Whether the message may come. Raises UpstreamFailed."""
        return await self.expect(EnvelopeAnswered)

    async def body(self, parts: AsyncGenerator[bytes]) -> Reply | None:
        """Send the message and its end; or the server's refusal, where that comes before the end.

        The lines of the first part are checked; those that follow were when they were sealed and laid aside, and no
        others can be opened. Raises UpstreamFailed, and ValueError for lines that do not end in CRLF.
        """
        async with aclosing(parts):
            return await self._send(parts)

    async def _send(self, parts: AsyncIterator[bytes]) -> Reply | None:
        waiting = False
        async for part in parts:
            if waiting and (refusal := await self._taken()) is not None:
                return refusal
            self.engine.send_body(part, checked=waiting)
            waiting = True
        if (refusal := self._interruption()) is None:
            self.engine.end_body()
        return refusal

    def _interruption(self) -> Reply | None:
        """A refusal in the middle of the message. Raises UpstreamFailed for anything else: nobody has the message."""
        if said := self.channel.arrived():
            self.engine.receive_data(said)
        event = self.engine.next_event()
        if event is None:
            return None
        if isinstance(event, MessageAnswered):
            return event.reply
        raise _failure(event)

    async def _taken(self) -> Reply | None:
        """Wait until what was written is taken, or refused; a server that goes may have said why.

        Raises UpstreamFailed.
        """
        lost: UpstreamFailed | None = None
        try:
            await flush(self.engine, self.channel, max(self.timeout, TAKING))
        except TimeoutError:
            lost = UpstreamFailed("time", "the server did not take the message in time")
        except ChannelClosed:
            lost = UpstreamFailed("lost", "the connection was lost")
        refusal = self._interruption()
        if refusal is None and lost is not None:
            raise lost
        return refusal

    async def verdict(self) -> Reply:
        """What the server says to the message whose end was sent. Raises UpstreamFailed."""
        answer = await self.expect(MessageAnswered, BODY_TIMEOUT)
        if self.engine.by_chunks and answer.reply.code in _NO_SUCH_COMMAND:
            raise UpstreamFailed("chunking", str(answer.reply), reply=answer.reply)
        self.messages += 1
        return answer.reply

    def close(self) -> None:
        """Say goodbye without waiting for the answer; in mid-conversation, forget what is not taken."""
        if not self.usable:
            self.channel.abort()
            return
        self.engine.quit()
        self.channel.write(self.engine.data_to_send())
        self.channel.close()


async def open_smtp(
    endpoint: Endpoint,
    login: Login,
    *,
    hostname: str,
    ca_file: str = "",
    timeout: float = 30.0,
    chunking: bool = True,
) -> SmtpSession:
    """Connect, start TLS, log in. Without `chunking` messages go by DATA in any case. Raises UpstreamFailed."""
    async with connected(endpoint, login, ca_file, timeout) as (channel, context):
        engine = SmtpClient(
            hostname,
            tls=endpoint.tls == "tls",
            want_starttls=endpoint.tls == "starttls",
            server=endpoint.host,
            port=endpoint.port,
            want_chunking=chunking,
        )
        session = SmtpSession(channel, engine, timeout)
        await _prepare(session, endpoint, context, login)
        return session


@asynccontextmanager
async def connected(
    endpoint: Endpoint, login: Login, ca_file: str, timeout: float
) -> AsyncIterator[tuple[Channel, ssl.SSLContext]]:
    """A connection that is cut where what follows fails; the failure says nothing of the login's secret.

    Raises UpstreamFailed.
    """
    context = client_context(Path(ca_file) if ca_file else None)
    try:
        channel = await connect(endpoint, context, timeout)
    except ConnectFailed as failed:
        raise UpstreamFailed(failed.stage, failed.text) from None
    try:
        yield channel, context
    except UpstreamFailed as failed:
        channel.abort()
        raise failed.without(login.secret) from None
    except BaseException:
        channel.abort()
        raise


async def secure(channel: Channel, endpoint: Endpoint, context: ssl.SSLContext, timeout: float) -> None:
    """STARTTLS has been agreed on: the handshake. Raises UpstreamFailed."""
    try:
        await upgrade(channel, endpoint, context, timeout)
    except ConnectFailed as failed:
        raise UpstreamFailed(failed.stage, failed.text) from None


async def _prepare(session: SmtpSession, endpoint: Endpoint, context: ssl.SSLContext, login: Login) -> None:
    if endpoint.tls == "starttls":
        await session.expect(StartTls)
        await secure(session.channel, endpoint, context, session.timeout)
        session.engine.tls_started()
    await session.expect(Ready)
    mechanism = pick_mechanism(session.engine.auth_mechanisms, login.mechanisms)
    if mechanism is None:
        offered = " ".join(session.engine.auth_mechanisms) or "no login at all"
        raise UpstreamFailed("login", f"{endpoint.host} offers {offered}, needed is {' or '.join(login.mechanisms)}")
    session.engine.authenticate(mechanism, login.user, login.secret)
    await session.expect(Authenticated)


def _failure(event: Event) -> UpstreamFailed:
    match event:
        case AuthRefused(reply, challenge):
            return UpstreamFailed("login", str(reply), reply=reply, challenge=challenge)
        case Refused(text, reply):
            return UpstreamFailed("greeting", str(reply) if reply else text, reply=reply)
        case ServerClosing(reply, _):
            return UpstreamFailed("lost", str(reply), reply=reply)
        case Disconnected(stage):
            unknown = stage is Stage.BODY_SENT
            return UpstreamFailed("lost", f"the server broke off while {stage.value}", unknown=unknown)
        case ProtocolError(text, stage):
            return UpstreamFailed("lost", text, unknown=stage is Stage.BODY_SENT)
    return UpstreamFailed("lost", f"unexpected: {type(event).__name__}")
