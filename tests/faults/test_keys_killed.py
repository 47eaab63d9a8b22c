"""`kill -9` of real gateways while keys are changed: nothing that was sealed is lost, on either database."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli.connection import SocketApi
from posthouse.problems import ProblemError
from posthouse.services.key_rotation import KeyRotation
from posthouse.store import data_keys, messages
from posthouse.store.opening import Store, open_store
from tests.contract.making import NOW, add_consent, add_mailboxes, consent, grant_of, mail
from tests.support.house import until
from tests.support.serving import Serving, serving

ROUNDS, VALUES = 4, 300


async def filled(data: Path, url: str) -> None:
    data.mkdir()
    store = await open_store(data, url, {})
    await add_mailboxes(store, "mb_1")
    for number in range(VALUES):
        await add_consent(store, consent(f"gr_{number}", refresh=f"refresh-{number}"))
        body = store.sealer.seal(f"message {number}".encode(), f"message:m{number}")
        new = mail(f"m{number}", body=body)
        await store.database.write(lambda tx, new=new: messages.accept(tx, new, NOW, 4 * NOW))  # type: ignore[misc]
    await store.spool.write("m_large", 0, b"large" * 1000, last=True)
    await store.close()


async def intact(store: Store) -> bool:
    for number in range(VALUES):
        refresh = (await grant_of(store, f"gr_{number}")).refresh_token
        assert refresh is not None
        assert refresh.reveal() == f"refresh-{number}"
    return True


@pytest.fixture(params=["embedded", pytest.param("two nodes", marks=pytest.mark.needs("postgres"))])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, list[Serving]]]:
    """A gateway over the embedded database, or two over PostgreSQL with the same key; not started."""
    url = request.getfixturevalue("postgres") if request.param == "two nodes" else ""
    asyncio.run(filled(tmp_path / "node-0", url))
    with contextlib.ExitStack() as opened:
        made = []
        for number in range(2 if url else 1):
            data, place = tmp_path / f"node-{number}", tmp_path / f"place-{number}"
            place.mkdir()
            data.mkdir(exist_ok=True)
            (data / "key").write_text((tmp_path / "node-0" / "key").read_text())
            more = f'database = "{url}"' if url else ""
            made.append(opened.enter_context(serving(place, data, smtp=(), more=more)))
        yield url, made


def ask(node: Serving, path: str) -> Any:
    return SocketApi(node.data / "control.sock").post(path)


async def test_gateways_that_are_killed_while_the_data_key_is_changed(nodes: tuple[str, list[Serving]]) -> None:
    chance, (url, gateways) = random.Random(7), nodes
    for node in gateways:
        await asyncio.to_thread(node.start, page=True)
    for number in range(ROUNDS):
        victim = gateways[number % len(gateways)]
        with contextlib.suppress(ProblemError):
            await asyncio.to_thread(ask, victim, "/control/sealing/rotate")
        await asyncio.sleep(chance.uniform(0.0, 0.6))
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(victim.start, page=True)
    await asyncio.to_thread(ask, gateways[0], "/control/sealing/rotate")

    async def exchanged() -> bool:
        found = await asyncio.to_thread(SocketApi(gateways[0].data / "control.sock").get, "/control/sealing")
        states = {one["state"]: one["values"] for one in found["keys"]}
        return "coming" not in states and states.get("old") == {}

    await until(exchanged, "everything lying under the new key", seconds=60.0)
    for node in gateways:
        await asyncio.to_thread(node.stop)
    store = await open_store(gateways[0].data, url, {})
    assert await intact(store)
    await finished(store)
    assert await intact(store)
    await store.close()


async def finished(store: Store) -> None:
    """As a command does that is alone with the data: now the former key goes."""
    rotation = KeyRotation(store, "afterwards", lambda: NOW)
    while await rotation.turn(alone=True):
        pass
    assert [key.state for key in (await store.database.read(data_keys.stored)).data_keys] == ["current"]


async def test_a_gateway_that_is_killed_while_the_master_key_is_changed(nodes: tuple[str, list[Serving]]) -> None:
    chance, (url, gateways) = random.Random(8), nodes
    node = gateways[0]
    for _ in range(ROUNDS):
        await asyncio.to_thread(node.start, page=True)
        asking = asyncio.create_task(asyncio.to_thread(change_master, node))
        await asyncio.sleep(chance.uniform(0.0, 0.1))
        await asyncio.to_thread(node.kill)
        await asking
    await asyncio.to_thread(node.start, page=True)
    await asyncio.to_thread(change_master, node)
    await asyncio.to_thread(ask, node, "/control/sealing/finish")
    await asyncio.to_thread(node.stop)
    store = await open_store(node.data, url, {})
    assert len((await store.database.read(data_keys.stored)).masters) == 1
    assert await intact(store)
    await store.close()


def change_master(node: Serving) -> None:
    with contextlib.suppress(ProblemError):
        SocketApi(node.data / "control.sock").post("/control/sealing/master", {"key": ""})
