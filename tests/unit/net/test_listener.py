"""Listening, on both event loops."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from posthouse.net import listener as listeners
from posthouse.net.channel import Channel
from posthouse.net.listener import Handler, Listener, bound_socket

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[..., Awaitable[Listener]]
Dial = Callable[..., Awaitable[Stream]]


@pytest.fixture
async def listen() -> AsyncIterator[Open]:
    made: list[Listener] = []

    async def make(handler: Handler, **options: Any) -> Listener:
        made.append(await Listener.open("127.0.0.1", 0, handler, **options))
        return made[-1]

    yield make
    for listener in made:
        await listener.close()


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    made: list[asyncio.StreamWriter] = []

    async def make(listener: Listener, **options: Any) -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, **options)
        made.append(writer)
        return reader, writer

    yield make
    for writer in made:
        writer.close()
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def echo(channel: Channel) -> None:
    while data := await channel.read():
        channel.write(data)
        await channel.drain()


async def hold(channel: Channel) -> None:
    channel.write(b"220 ready\r\n")
    await asyncio.Event().wait()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still came before the connection was closed."""
    data = b""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65_536):
                data += part
    return data


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_every_connection_has_a_conversation_of_its_own(listen: Open, dial: Dial) -> None:
    listener = await listen(echo)
    streams = [await dial(listener) for _ in range(5)]
    for number, (_, writer) in enumerate(streams):
        writer.write(b"%d" % number)
    assert [await reader.readexactly(1) for reader, _ in streams] == [b"0", b"1", b"2", b"3", b"4"]
    assert listener.connections == 5
    for _, writer in streams:
        writer.close()
    await until(lambda: listener.connections == 0)


async def test_the_system_chooses_a_port_and_the_listener_tells_it(listen: Open) -> None:
    listener = await listen(echo)
    assert listener.host == "127.0.0.1"
    assert listener.port > 0


async def test_a_port_that_is_taken_is_refused(listen: Open) -> None:
    listener = await listen(echo)
    with pytest.raises(OSError, match=r"(?i)in use"):
        await Listener.open("127.0.0.1", listener.port, echo)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_address_of_the_other_family_is_kept_to_that_family() -> None:
    try:
        listening = bound_socket("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert listening.family == socket.AF_INET6
    assert listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    listening.close()


# Limits


async def test_connections_past_the_limit_are_told_so_and_closed(listen: Open, dial: Dial) -> None:
    listener = await listen(hold, limit=2, full=b"421 full\r\n")
    first, second = [await dial(listener) for _ in range(2)]
    assert await first[0].readline() == await second[0].readline() == b"220 ready\r\n"
    third, _ = await dial(listener)
    assert await ended(third) == b"421 full\r\n"
    assert listener.connections == 2


async def test_room_is_made_when_a_conversation_ends(listen: Open, dial: Dial) -> None:
    listener = await listen(echo, limit=1)
    first = await dial(listener)
    await until(lambda: listener.connections == 1)
    assert await ended((await dial(listener))[0]) == b""
    first[1].close()
    await until(lambda: listener.connections == 0)
    reader, writer = await dial(listener)
    writer.write(b"room")
    assert await reader.readexactly(4) == b"room"


async def test_one_address_cannot_take_every_place(listen: Open, dial: Dial) -> None:
    listener = await listen(hold, limit=10, limit_per_peer=2)
    for _ in range(2):
        reader, _ = await dial(listener)
        assert await reader.readline() == b"220 ready\r\n"
    assert await ended((await dial(listener))[0]) == b""
    elsewhere, _ = await dial(listener, local_addr=("127.0.0.2", 0))
    assert await elsewhere.readline() == b"220 ready\r\n"


# TLS from the first octet


async def test_tls_from_the_first_octet(
    listen: Open, dial: Dial, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    seen: list[bool] = []

    async def handler(channel: Channel) -> None:
        seen.append(channel.tls)
        await echo(channel)

    listener = await listen(handler, tls=contexts[0])
    for _ in range(10):
        reader, writer = await dial(listener, ssl=contexts[1], server_hostname="localhost")
        writer.write(b"in private")
        assert await reader.readexactly(10) == b"in private"
    assert seen == [True] * 10


async def test_whoever_does_not_finish_the_handshake_takes_a_place_too(
    listen: Open, dial: Dial, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    listener = await listen(hold, tls=contexts[0], limit=2)
    silent = [await dial(listener) for _ in range(2)]
    await until(lambda: listener.connections == 2)
    assert await ended((await dial(listener))[0]) == b""
    for _, writer in silent:
        writer.transport.abort()
    await until(lambda: listener.connections == 0)
    reader, _ = await dial(listener, ssl=contexts[1], server_hostname="localhost")
    assert await reader.readline() == b"220 ready\r\n"


async def test_whoever_takes_too_long_for_the_handshake_is_cut_off(
    listen: Open, dial: Dial, contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "HANDSHAKE", 0.02)
    crashes: list[BaseException] = []
    listener = await listen(hold, tls=contexts[0], on_crash=crashes.append)
    silent, _ = await dial(listener)
    assert await ended(silent) == b""
    chatty, writer = await dial(listener)
    writer.write(b"EHLO me\r\n" * 50)
    await ended(chatty)
    await until(lambda: listener.connections == 0)
    assert crashes == []


# Ends


async def test_what_was_written_last_still_arrives(listen: Open, dial: Dial) -> None:
    async def farewell(channel: Channel) -> None:
        channel.write(b"x" * 4_000_000 + b"221 bye\r\n")

    reader, _ = await dial(await listen(farewell))
    assert (await ended(reader)).endswith(b"221 bye\r\n")


async def test_a_peer_that_does_not_take_the_last_words_keeps_its_place_only_for_a_while(
    listen: Open, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "LINGER", 0.02)

    async def farewell(channel: Channel) -> None:
        channel.write(b"x" * 8_000_000)

    listener = await listen(farewell)
    _, writer = await dial(listener, limit=1024)
    await until(lambda: listener.connections == 1)
    await until(lambda: listener.connections == 0)
    writer.close()


async def test_a_crash_is_reported_and_closes_only_its_own_connection(listen: Open, dial: Dial) -> None:
    crashes: list[BaseException] = []

    async def fragile(channel: Channel) -> None:
        if await channel.read() == b"crash":
            raise KeyError("a fault of ours")
        channel.write(b"still here")

    listener = await listen(fragile, on_crash=crashes.append)
    (first, to_first), (second, to_second) = [await dial(listener) for _ in range(2)]
    to_first.write(b"crash")
    assert await ended(first) == b""
    await until(lambda: crashes)
    assert [type(crash) for crash in crashes] == [KeyError]
    to_second.write(b"go on")
    assert await ended(second) == b"still here"


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), ssl.SSLError("bad record")])
async def test_what_peers_do_is_no_crash(listen: Open, dial: Dial, error: Exception) -> None:
    crashes: list[BaseException] = []

    async def handler(channel: Channel) -> None:
        raise error

    listener = await listen(handler, on_crash=crashes.append)
    assert await ended((await dial(listener))[0]) == b""
    await until(lambda: listener.connections == 0)
    assert crashes == []


# Closing


async def test_running_conversations_may_end_while_it_closes(listen: Open, dial: Dial) -> None:
    listener = await listen(echo)
    reader, writer = await dial(listener)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    closing = asyncio.create_task(listener.close(drain=5))
    await asyncio.sleep(0)
    writer.write(b"two")
    assert await reader.readexactly(3) == b"two"
    writer.close()
    await closing
    assert listener.connections == 0


async def test_conversations_that_do_not_end_in_time_are_ended(listen: Open, dial: Dial) -> None:
    crashes: list[BaseException] = []
    listener = await listen(hold, on_crash=crashes.append)
    reader, _ = await dial(listener)
    assert await reader.readline() == b"220 ready\r\n"
    await listener.close(drain=0.02)
    assert await ended(reader) == b""
    assert (listener.connections, crashes) == (0, [])


async def test_nobody_is_let_in_while_it_closes(listen: Open, dial: Dial) -> None:
    listener = await listen(hold)
    reader, _ = await dial(listener)
    await reader.readline()
    closing = asyncio.create_task(listener.close(drain=0.1))
    await asyncio.sleep(0)
    with contextlib.suppress(ConnectionError):
        late, _ = await dial(listener)
        assert await ended(late) == b""
    await closing
    with pytest.raises(ConnectionError):
        await dial(listener)


async def test_closing_does_not_wait_for_a_conversation_that_will_not_stop(
    listen: Open, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "LINGER", 0.02)
    stop = asyncio.Event()

    async def stubborn(channel: Channel) -> None:
        while not stop.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await stop.wait()

    listener = await listen(stubborn)
    await dial(listener)
    await until(lambda: listener.connections == 1)
    async with asyncio.timeout(5):
        await listener.close()
    stop.set()
    await until(lambda: listener.connections == 0)


async def test_it_may_be_closed_twice(listen: Open) -> None:
    listener = await listen(echo)
    await listener.close()
    await listener.close()
