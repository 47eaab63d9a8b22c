"""Logging in at POP3 servers of all ages."""

import asyncio

import pytest

from posthouse.model.endpoint import Endpoint
from posthouse.secret import Secret
from posthouse.services.credentials import PASSWORD_MECHANISMS
from posthouse.services.pop_session import open_pop
from posthouse.services.upstream import Login, UpstreamFailed
from tests.faults.liars import listening

OLD = {b"USER": b"+OK\r\n", b"PASS": b"+OK\r\n", b"STAT": b"+OK 2 320\r\n", b"QUIT": b"+OK\r\n"}


async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One that has never heard of CAPA."""
    writer.write(b"+OK ready\r\n")
    while line := await reader.readline():
        writer.write(OLD.get(line[:4].upper(), b"-ERR what?\r\n"))


async def test_a_server_without_capa_takes_a_password() -> None:
    async with listening(old_server) as port:
        login = Login("alice", Secret("pw"), PASSWORD_MECHANISMS)
        session = await open_pop(Endpoint("127.0.0.1", port, "plain"), login, timeout=5)
        assert (await session.size()).count == 2
        await session.close()


async def test_a_server_without_capa_is_said_to_know_no_oauth() -> None:
    async with listening(old_server) as port:
        login = Login("alice", Secret("token"), ("XOAUTH2",))
        with pytest.raises(UpstreamFailed, match="no OAuth") as failed:
            await open_pop(Endpoint("127.0.0.1", port, "plain"), login, timeout=5)
        assert failed.value.stage == "login"
