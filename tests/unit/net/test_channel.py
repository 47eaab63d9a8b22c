"""One connection, and an engine driven over it, on both event loops."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from posthouse.net.channel import READ_AHEAD, Channel, ChannelClosed
from posthouse.net.drive import flush, next_event

LARGE = 8 * 1024 * 1024


Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[tuple[Channel, Peer]]]


@pytest.fixture
async def doorway() -> AsyncIterator[tuple[int, "asyncio.Queue[Channel]"]]:
    """A port, and the channels of those who connect to it."""
    opened: asyncio.Queue[Channel] = asyncio.Queue()
    every: list[Channel] = []

    def arrived(channel: Channel) -> None:
        every.append(channel)
        opened.put_nowait(channel)

    server = await asyncio.get_running_loop().create_server(lambda: Channel(arrived), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], opened
    server.close()
    await _aborted(every)


async def _aborted(channels: list[Channel]) -> None:
    for channel in channels:
        channel.abort()
        await channel.wait_closed()


@pytest.fixture
async def connect(doorway: tuple[int, "asyncio.Queue[Channel]"]) -> AsyncIterator[Connect]:
    """Makes connections: our channel, and the peer's streams."""
    port, opened = doorway
    writers: list[asyncio.StreamWriter] = []

    async def make() -> tuple[Channel, Peer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return await opened.get(), (reader, writer)

    yield make
    for writer in writers:
        writer.close()
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def pair(doorway: tuple[int, "asyncio.Queue[Channel]"]) -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a connection: the server's and the client's."""
    port, opened = doorway
    _, client = await asyncio.get_running_loop().create_connection(Channel, "127.0.0.1", port)
    yield await opened.get(), client
    await _aborted([client])


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something has come about, for five seconds at most."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def read_exactly(channel: Channel, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await channel.read(5)
        assert part
        data += part
    return data


# Reading and writing


async def test_octets_go_both_ways_until_the_end(connect: Connect) -> None:
    channel, (reader, writer) = await connect()
    writer.write(b"hello")
    assert await channel.read(5) == b"hello"
    channel.write(b"welcome")
    assert await reader.readexactly(7) == b"welcome"
    writer.close()
    assert await channel.read(5) == b""
    assert channel.ended
    assert await channel.read(5) == b""


async def test_the_peers_address_is_known_and_there_is_no_tls(connect: Connect) -> None:
    channel, _ = await connect()
    assert (channel.peer, channel.tls, channel.certificate, channel.ended) == ("127.0.0.1", False, None, False)


async def test_waiting_for_octets_ends_in_time_and_loses_nothing(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    with pytest.raises(TimeoutError):
        await channel.read(0.01)
    writer.write(b"late")
    assert await channel.read(5) == b"late"


@pytest.mark.parametrize("timeout", [None, 5.0])
async def test_the_patience_of_one_reading_does_not_end_the_next(connect: Connect, timeout: float | None) -> None:
    channel, (_, writer) = await connect()
    first = asyncio.create_task(channel.read(0.02))
    await asyncio.sleep(0)
    writer.write(b"soon")
    assert await first == b"soon"
    reading = asyncio.create_task(channel.read(timeout))
    await asyncio.wait([reading], timeout=0.06)
    assert not reading.done()
    writer.write(b"later")
    assert await reading == b"later"


async def test_a_reader_who_is_cancelled_leaves_the_octets_to_the_next(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    reading = asyncio.create_task(channel.read())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    writer.write(b"for the next")
    assert await channel.read(5) == b"for the next"


async def test_what_arrived_before_the_end_is_still_read(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    writer.write(b"the last words")
    writer.close()
    await until(lambda: channel.ended)
    assert await channel.read() == b"the last words"
    assert await channel.read() == b""


async def test_a_peer_that_has_said_everything_still_gets_its_answer(connect: Connect) -> None:
    """As `printf 'QUIT\\r\\n' | nc` does: half of the connection is closed before the answer comes."""
    channel, (reader, writer) = await connect()
    writer.write(b"QUIT\r\n")
    writer.write_eof()
    await until(lambda: channel.ended)
    assert await channel.read() == b"QUIT\r\n"
    channel.write(b"221 bye\r\n")
    channel.close()
    assert await reader.read() == b"221 bye\r\n"


# Back-pressure


async def test_a_peer_that_is_faster_than_we_are_has_to_wait(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    writer.write(b"x" * LARGE)
    await until(lambda: len(channel._received) > READ_AHEAD)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(channel._received) <= READ_AHEAD + 256 * 1024
    assert writer.transport.get_write_buffer_size() > 0
    assert len(await read_exactly(channel, LARGE)) == LARGE
    writer.write(b"more")
    assert await channel.read(5) == b"more"


async def test_we_wait_for_a_peer_that_is_slower_than_we_are(connect: Connect) -> None:
    channel, (reader, _) = await connect()
    channel.write(b"x" * LARGE)
    with pytest.raises(TimeoutError):
        await channel.drain(0.02)
    draining = asyncio.create_task(channel.drain(5))
    assert len(await reader.readexactly(LARGE)) == LARGE
    await draining
    await channel.drain(0.01)


async def test_waiting_for_a_peer_that_goes_away_ends(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    channel.write(b"x" * LARGE)
    draining = asyncio.create_task(channel.drain(5))
    await asyncio.sleep(0)
    writer.transport.abort()
    with pytest.raises(ChannelClosed):
        await draining
    with pytest.raises(ChannelClosed):
        await channel.drain()
    channel.write(b"nobody hears this")


# Closing


async def test_closing_sends_what_was_written(connect: Connect) -> None:
    channel, (reader, _) = await connect()
    channel.write(b"x" * LARGE)
    channel.close()
    channel.write(b"too late")
    assert len(await reader.read(-1)) == LARGE
    await channel.wait_closed()


async def test_a_peer_that_does_not_take_the_rest_is_cut_off(connect: Connect) -> None:
    channel, (reader, _) = await connect()
    channel.write(b"x" * LARGE)
    channel.close()
    await channel.wait_closed(0.02)
    await channel.wait_closed(5)
    assert len(await _whatever_comes(reader)) < LARGE


async def _whatever_comes(reader: asyncio.StreamReader) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65_536):
            data += part
    return data


async def test_aborting_forgets_what_is_not_sent(connect: Connect) -> None:
    channel, (reader, _) = await connect()
    channel.write(b"x" * LARGE)
    channel.abort()
    await channel.wait_closed()
    assert len(await _whatever_comes(reader)) < LARGE


# TLS


async def both(
    ours: Coroutine[Any, Any, None], theirs: Coroutine[Any, Any, None]
) -> tuple[BaseException | None, BaseException | None]:
    async with asyncio.timeout(5):
        results: tuple[BaseException | None, BaseException | None] = await asyncio.gather(
            ours, theirs, return_exceptions=True
        )
    return results


async def test_a_connection_goes_over_to_tls(connect: Connect, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    channel, (reader, writer) = await connect()
    server, client = contexts
    channel.write(b"220 go ahead\r\n")
    assert await reader.readline() == b"220 go ahead\r\n"
    await both(channel.start_tls(server, server_side=True), writer.start_tls(client, server_hostname="localhost"))
    assert channel.tls
    writer.write(b"in private")
    assert await channel.read(5) == b"in private"
    channel.write(b"x" * LARGE)
    assert len(await reader.readexactly(LARGE)) == LARGE
    channel.close()
    assert await reader.read() == b""


async def test_a_channel_can_be_the_client(
    pair: tuple[Channel, Channel], contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = pair
    await both(server.start_tls(contexts[0], server_side=True), client.start_tls(contexts[1], hostname="localhost"))
    assert client.certificate is not None
    client.write(b"in private")
    assert await server.read(5) == b"in private"


async def test_what_a_server_said_before_the_handshake_is_dropped_too(
    pair: tuple[Channel, Channel], contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = pair
    server.write(b"250-AUTH PLAIN\r\n")
    await until(lambda: client._received)
    await both(server.start_tls(contexts[0], server_side=True), client.start_tls(contexts[1], hostname="localhost"))
    server.write(b"250 in private\r\n")
    assert await client.read(5) == b"250 in private\r\n"


async def test_what_was_said_before_the_handshake_is_dropped(
    connect: Connect, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    channel, (_, writer) = await connect()
    server, client = contexts
    writer.write(b"STARTTLS\r\n")
    assert await channel.read(5) == b"STARTTLS\r\n"
    writer.write(b"MAIL FROM:<injected@attacker.example>\r\n")
    await until(lambda: channel._received)
    await both(channel.start_tls(server, server_side=True), writer.start_tls(client, server_hostname="localhost"))
    writer.write(b"EHLO me\r\n")
    assert await channel.read(5) == b"EHLO me\r\n"


async def test_any_amount_said_before_the_handshake_is_dropped(
    connect: Connect, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    channel, (_, writer) = await connect()
    server, client = contexts
    writer.write(b"x" * (READ_AHEAD + 1))
    await until(lambda: len(channel._received) > READ_AHEAD)
    await both(channel.start_tls(server, server_side=True), writer.start_tls(client, server_hostname="localhost"))
    writer.write(b"y" * LARGE)
    assert await read_exactly(channel, LARGE) == b"y" * LARGE


async def test_octets_that_are_no_handshake_are_refused_and_the_connection_is_closed(
    connect: Connect, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    channel, (_, writer) = await connect()
    upgrading = asyncio.create_task(channel.start_tls(contexts[0], server_side=True))
    await asyncio.sleep(0)
    writer.write(b"MAIL FROM:<injected@attacker.example>\r\n" * 10)
    with pytest.raises(ssl.SSLError):
        await upgrading
    await _is_closed(channel)


async def test_a_peer_that_goes_away_during_the_handshake_is_told_apart(
    connect: Connect, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    channel, (_, writer) = await connect()
    upgrading = asyncio.create_task(channel.start_tls(contexts[0], server_side=True))
    await asyncio.sleep(0)
    writer.transport.abort()
    with pytest.raises(ChannelClosed):
        await upgrading
    await _is_closed(channel)


async def test_a_handshake_that_takes_too_long_is_given_up(
    connect: Connect, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    channel, (reader, _) = await connect()
    with pytest.raises(TimeoutError):
        await channel.start_tls(contexts[0], server_side=True, timeout=0.02)
    await _is_closed(channel)
    assert await _whatever_comes(reader) == b""


async def test_a_certificate_that_is_not_trusted_is_refused(
    pair: tuple[Channel, Channel], contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = pair
    stranger = ssl.create_default_context()
    _, refused = await both(
        server.start_tls(contexts[0], server_side=True), client.start_tls(stranger, hostname="localhost")
    )
    assert isinstance(refused, ssl.SSLCertVerificationError)
    await _is_closed(client)


async def test_a_closed_connection_cannot_go_over_to_tls(
    connect: Connect, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    channel, _ = await connect()
    channel.abort()
    await channel.wait_closed()
    with pytest.raises(ChannelClosed):
        await channel.start_tls(contexts[0], server_side=True)


async def _is_closed(channel: Channel) -> None:
    async with asyncio.timeout(1):
        await channel.wait_closed(30)
        assert await channel.read() == b""
    with pytest.raises(ChannelClosed):
        await channel.drain()


# An engine driven over a channel


class Lines:
    """An engine that answers each line with a long one; its events are the lines."""

    def __init__(self, answer: bytes = b"250 ok\r\n", *, silent_at_the_end: bool = False) -> None:
        self._answer = answer
        self._silent_at_the_end = silent_at_the_end
        self._input = b""
        self._output = bytearray(b"220 ready\r\n")
        self._ended = False

    def receive_data(self, data: bytes) -> None:
        self._input += data
        self._ended = not data

    def next_event(self) -> bytes | None:
        line, newline, rest = self._input.partition(b"\r\n")
        if newline:
            self._input = rest
            self._output += self._answer
            return line
        return b"the end" if self._ended and not self._silent_at_the_end else None

    def data_to_send(self) -> bytes:
        data = bytes(self._output)
        self._output.clear()
        return data


async def test_an_engine_speaks_before_it_waits(connect: Connect) -> None:
    channel, (reader, writer) = await connect()
    engine = Lines()
    event = asyncio.create_task(next_event(engine, channel, 5))
    assert await reader.readline() == b"220 ready\r\n"
    writer.write(b"NO")
    writer.write(b"OP\r\nRSET\r\n")
    assert await event == b"NOOP"
    assert await next_event(engine, channel, 5) == b"RSET"
    await flush(engine, channel)
    assert await reader.readexactly(16) == b"250 ok\r\n" * 2
    writer.close()
    assert await next_event(engine, channel, 5) == b"the end"


async def test_an_engine_waits_no_longer_than_it_may(connect: Connect) -> None:
    channel, _ = await connect()
    with pytest.raises(TimeoutError):
        await next_event(Lines(), channel, 0.01)


async def test_a_peer_that_asks_and_never_listens_is_made_to_wait(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    engine = Lines(b"x" * 1000 + b"\r\n")
    largest = 0

    async def serve() -> None:
        nonlocal largest
        while await next_event(engine, channel, 0.3):
            assert channel._transport is not None
            largest = max(largest, channel._transport.get_write_buffer_size())

    writer.write(b"NOOP\r\n" * 500_000)
    with pytest.raises(TimeoutError):
        await serve()
    assert largest < 64 * 1024 * 1024


async def test_an_engine_with_nothing_to_say_at_the_end_does_not_spin(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    writer.write(b"half a li")
    writer.close()
    async with asyncio.timeout(5):
        with pytest.raises(ChannelClosed):
            await next_event(Lines(silent_at_the_end=True), channel, 5)


async def test_what_came_before_a_connection_broke_is_still_told(connect: Connect) -> None:
    channel, (_, writer) = await connect()
    engine = Lines()
    writer.write(b"QUIT\r\n")
    await until(lambda: channel._received)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
    await until(lambda: channel.ended)
    assert await next_event(engine, channel, 5) == b"QUIT"
    assert await next_event(engine, channel, 5) == b"the end"
