"""The border between engines and connections: keep an engine fed until it has something to say."""

import contextlib
from typing import Generic, Protocol, TypeVar

from posthouse.net.channel import Channel, ChannelClosed

Event_co = TypeVar("Event_co", covariant=True)


class Engine(Protocol, Generic[Event_co]):
    """What every engine of `posthouse.protocol` offers: bytes in, events and bytes out."""

    def receive_data(self, data: bytes) -> None: ...
    def next_event(self) -> Event_co | None: ...
    def data_to_send(self) -> bytes: ...


async def next_event(engine: Engine[Event_co], channel: Channel, timeout: float | None) -> Event_co:
    """The engine's next event. Sends what it has to say before waiting for the peer.

    Waits at most `timeout` seconds for the peer to take them, and to send its next octets. Raises TimeoutError,
    and ChannelClosed where the engine has nothing to say about the end of the connection.
    """
    while (event := engine.next_event()) is None:
        channel.write(engine.data_to_send())
        if channel.clogged:
            with contextlib.suppress(ChannelClosed):
                await channel.drain(timeout)
        data = await channel.read(timeout)
        engine.receive_data(data)
        if not data:
            return _last_event(engine)
    return event


def _last_event(engine: Engine[Event_co]) -> Event_co:
    event = engine.next_event()
    if event is None:
        raise ChannelClosed("the connection was closed")
    return event


async def flush(engine: Engine[object], channel: Channel, timeout: float | None = None) -> None:
    """Send what the engine has to say and wait until it is taken. Raises ChannelClosed, TimeoutError."""
    channel.write(engine.data_to_send())
    await channel.drain(timeout)
