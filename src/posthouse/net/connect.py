"""Connecting to a server: what can go wrong is told apart, since the person who mends it has to know."""

import asyncio
import socket
import ssl
from functools import cache
from pathlib import Path

import truststore

from posthouse.model.endpoint import Endpoint
from posthouse.net.channel import Channel


class ConnectFailed(Exception):
    """`stage`: name, connect, tls or time. `text` says what happened."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(text)
        self.stage = stage
        self.text = text


@cache
def client_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Trusts what the operating system trusts and, besides, the authorities in `ca_file`."""
    if ca_file is None:
        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=str(ca_file))
    return context


async def connect(endpoint: Endpoint, context: ssl.SSLContext, timeout: float) -> Channel:
    """Connect, with TLS from the first octet where the endpoint says so. Raises ConnectFailed."""
    tls = context if endpoint.tls == "tls" else None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            _, channel = await loop.create_connection(
                Channel, endpoint.host, endpoint.port, ssl=tls, server_hostname=endpoint.host if tls else None
            )
    except TimeoutError:
        raise ConnectFailed("time", f"{endpoint.host} port {endpoint.port} did not answer in time") from None
    except socket.gaierror as cause:
        raise ConnectFailed("name", f"the name {endpoint.host} was not found: {cause.strerror or cause}") from None
    except ssl.SSLError as cause:
        raise ConnectFailed("tls", tls_sentence(endpoint, cause)) from None
    except OSError as cause:
        raise ConnectFailed("connect", f"{endpoint.host} port {endpoint.port}: {cause.strerror or cause}") from None
    return channel


async def upgrade(channel: Channel, endpoint: Endpoint, context: ssl.SSLContext, timeout: float) -> None:
    """STARTTLS has been agreed on: do the handshake. Raises ConnectFailed."""
    try:
        await channel.start_tls(context, hostname=endpoint.host, timeout=timeout)
    except ssl.SSLError as cause:
        raise ConnectFailed("tls", tls_sentence(endpoint, cause)) from None
    except TimeoutError:
        raise ConnectFailed("time", f"{endpoint.host} did not finish the TLS handshake in time") from None
    except OSError as cause:
        raise ConnectFailed("tls", f"{endpoint.host} broke off the TLS handshake: {cause}") from None


def tls_sentence(endpoint: Endpoint, cause: ssl.SSLError) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {endpoint.host} is not trusted: {cause.verify_message}"
    return f"TLS with {endpoint.host} failed: {cause.reason or cause}"
