"""Stories of the gateway as it is started: a page over TLS, a door that waits, a door that is not there yet."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from posthouse.app import gateway
from posthouse.problems import ProblemError
from posthouse.settings import ListenAt, Settings
from posthouse.store.lock import DataLock
from tests.support.certificates import Certificates
from tests.support.processes import free_ports


def settings_at(data: Path) -> Settings:
    [port] = free_ports(1)
    return Settings(
        data=data,
        external_url=f"http://localhost:{port}",
        web=ListenAt("127.0.0.1", port),
        smtp=(ListenAt("127.0.0.1", 0),),
        imap=(),
        pop3=(),
    )


async def test_the_page_speaks_tls_where_it_is_told_to(tmp_path: Path, certificates: Certificates) -> None:
    plain = settings_at(tmp_path / "data")
    settings = replace(
        plain,
        external_url=plain.external_url.replace("http://", "https://"),
        web=replace(plain.web, security="tls"),
        certificate=certificates.chain,
        key=certificates.key,
    )
    async with gateway(settings, create=True, environment={}) as running:
        await running.start_web()
        context = ssl.create_default_context(cafile=str(certificates.authority))
        async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
            assert (await http.get(f"{settings.external_url}/healthz")).status_code == 200


async def test_a_command_that_holds_the_data_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    held = DataLock(tmp_path)

    asyncio.get_running_loop().call_later(0.2, held.release)
    async with gateway(settings, create=True, environment={}) as running:
        assert running.parts.directory.now.mailboxes == {}


async def test_a_lane_is_not_opened_before_it_can_be_fenced(tmp_path: Path) -> None:
    settings = replace(settings_at(tmp_path / "data"), smtp=(ListenAt("127.0.0.1", 0, lane=True),))
    async with gateway(settings, create=True, environment={}) as running:
        await running.start_listeners()
        assert running.smtp_ports == []


async def test_a_lost_key_is_asked_for_and_not_made_anew(tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "data")
    async with gateway(settings, create=True, environment={}):
        pass
    key = settings.data / "key"
    kept = key.read_text()
    key.unlink()
    with pytest.raises(ProblemError, match="a key that is not here"):
        async with gateway(settings, environment={}):
            pass
    assert not key.exists()
    key.write_text(kept)
    async with gateway(settings, environment={}) as running:
        assert running.parts.directory.now.mailboxes == {}
