"""The border between engines and connections: keep an engine fed until it has something to say."""

from typing import Generic, Protocol, TypeVar

from .channel import Channel

Event_co = TypeVar("Event_co", covariant=True)


class Engine(Protocol, Generic[Event_co]):
    """What every engine of `posthouse.protocol` offers: bytes in, events and bytes out."""

    def receive_data(self, data: bytes) -> None: ...
    def next_event(self) -> Event_co | None: ...
    def data_to_send(self) -> bytes: ...


async def next_event(engine: Engine[Event_co], channel: Channel, timeout: float | None) -> Event_co:
    """The engine's next event. Sends what it has to say before waiting for the peer.

    Waits at most `timeout` seconds for the peer's next octets. Raises TimeoutError.
    """
    while (event := engine.next_event()) is None:
        channel.write(engine.data_to_send())
        engine.receive_data(await channel.read(timeout))
    return event


async def flush(engine: Engine[object], channel: Channel, timeout: float | None = None) -> None:
    """Send what the engine has to say and wait until it is taken. Raises ChannelClosed, TimeoutError."""
    channel.write(engine.data_to_send())
    await channel.drain(timeout)
