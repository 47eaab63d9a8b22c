"""The border between engines and connections: keep an engine fed until it has something to say."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from posthouse.net.channel import Channel, ChannelClosed

Event_co = TypeVar("Event_co", covariant=True)
Event = TypeVar("Event")


class Engine(Protocol, Generic[Event_co]):
    """What every engine of `posthouse.protocol` offers: bytes in, events and bytes out."""

    def receive_data(self, data: bytes) -> None: ...
    def next_event(self) -> Event_co | None: ...
    def data_to_send(self) -> bytes: ...


async def next_event(
    engine: Engine[Event_co], channel: Channel, timeout: float | None, at_most: float = math.inf
) -> Event_co:
    """The engine's next event. Sends what it has to say before waiting for the peer.

    Waits at most `timeout` seconds for the peer to take them, and to send its next octets, and `at_most` for all of
    them. Raises TimeoutError, and ChannelClosed where the engine has nothing to say about the end of the connection.
    """
    give_up = 0.0
    while (event := engine.next_event()) is None:
        now = asyncio.get_running_loop().time()
        give_up = give_up or now + at_most
        if now > give_up:
            raise TimeoutError
        channel.write(engine.data_to_send())
        if channel.clogged:
            with contextlib.suppress(ChannelClosed):
                await channel.drain(timeout)
        data = await channel.read(timeout)
        engine.receive_data(data)
        if not data:
            return _last_event(engine)
    return event


async def converse(
    engine: Engine[Event],
    channel: Channel,
    timeout: float,
    at_once: Callable[[Event], bool],
    too_late: Callable[[], bool],
) -> Event:
    """The next event that `at_once` has not dealt with (it answers False). It sees each as the octets arrive.

    A peer that goes on sending when it is `too_late` is left. For a task that is cancelled only when its conversation
    ends. Limits and errors are those of `next_event`, and whatever `at_once` raises.
    """
    left: list[Event] = []

    def take(data: bytes) -> bool:
        if too_late():
            raise TimeoutError
        engine.receive_data(data)
        return respond()

    def respond() -> bool:
        while (event := engine.next_event()) is not None:
            if not at_once(event):
                left.append(event)
                return True
        channel.write(engine.data_to_send())
        return channel.clogged

    respond()
    while not left:
        if channel.clogged:
            with contextlib.suppress(ChannelClosed):
                await channel.drain(timeout)
        if not await channel.feed(take, timeout) and not left:
            raise ChannelClosed("the connection was closed")
    return left[0]


def _last_event(engine: Engine[Event_co]) -> Event_co:
    event = engine.next_event()
    if event is None:
        raise ChannelClosed("the connection was closed")
    return event


async def flush(engine: Engine[object], channel: Channel, timeout: float | None = None) -> None:
    """Send what the engine has to say and wait until it is taken. Raises ChannelClosed, TimeoutError."""
    channel.write(engine.data_to_send())
    await channel.drain(timeout)
