"""`kill -9` on the way from an event to its notice: the administrator is told, and once."""

import asyncio
from pathlib import Path

from posthouse.model.token import TokenState
from posthouse.sandbox.settings import PEOPLE, Person
from posthouse.store import tokens
from tests.support.boxes import ALICE, BOB, Box, box
from tests.support.house import Hands, house, until
from tests.support.serving import Serving, serving

BOSS = "boss@sandbox.example"
TOLD = f'administrator = "{BOSS}"\nnotices = {{ mailbox = "{BOB}" }}\n'
STEPS = ("SELECT position FROM cursor WHERE name = 'notices' AND position > 0", "SELECT id FROM telling")
"""What is there after each step on the way; the gateway is killed as soon as it is."""


async def prepared(data: Path, provider: Box) -> None:
    """A token that became invalid a while ago, and nobody was there to tell it."""
    async with house(data, provider.apply_file(ALICE, BOB), background=False, clock=Hands(-600)) as home:
        for address in (ALICE, BOB):
            assert (await home.by_device(address, provider.approve_as(address))).state == "done"
        token = await home.token(ALICE)
        await home.parts.store.database.write(
            lambda tx: tokens.set_state(tx, token.id, TokenState.INVALID, home.clock(), "revoked")
        )


async def killed_at(gateway: Serving, step: str) -> None:
    async def is_there() -> bool:
        return bool(gateway.rows(step))

    await asyncio.to_thread(gateway.start)
    await until(is_there, step)
    await asyncio.to_thread(gateway.kill)


async def test_no_alarm_is_lost_and_none_comes_twice(tmp_path: Path) -> None:
    async with box(tmp_path / "box", people=(*PEOPLE, Person(BOSS, "Boss"))) as provider:
        await prepared(tmp_path / "data", provider)
        with serving(tmp_path, tmp_path / "data", more=TOLD) as gateway:
            for step in STEPS:
                provider.sandbox.faults.remove()
                await provider.control("faults", place="smtp.connect", action="pass", delay=30)
                await killed_at(gateway, step)
            provider.sandbox.faults.remove()
            await asyncio.to_thread(gateway.start)

            async def is_told() -> bool:
                done = gateway.rows("SELECT id FROM telling WHERE state = 'done'")
                return bool(done) and not gateway.rows("SELECT id FROM message WHERE state = 'queued'")

            await until(is_told, "the notice arriving")
            assert provider.subjects(BOSS) == [f"Posthouse: {ALICE}: the token is invalid, so its mail waits"]
            assert gateway.rows("SELECT count FROM notice") == [(1,)]
