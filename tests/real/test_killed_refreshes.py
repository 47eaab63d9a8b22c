"""`kill -9` among refreshes at a certified provider that revokes a whole grant when an old refresh token comes back."""

import asyncio
import contextlib
import random
import sqlite3
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from posthouse.model.token import TokenState
from posthouse.secret import Secret
from posthouse.store import tokens
from posthouse.store.database import Transaction
from tests.contract.making import consent
from tests.support.house import House, house, until
from tests.support.oidc import PUBLIC, Provider
from tests.support.serving import Serving, serving
from tests.support.tokens import by_device

PEOPLE, ROUNDS, EACH = 24, 8, 5
LOST = 3
"""Answers that the provider does not send, so that there are some of which nobody hears on a fast machine too."""
FILE = """
[[provider]]
name = "example"
issuer = "{issuer}"
scopes = ["mail", "offline_access"]
smtp = "localhost:1 starttls"
[[app]]
name = "office"
provider = "example"
client_id = "{client}"
"""


async def furnish(gateway: House, oidc: Provider, person: str) -> None:
    """Let a person consent, by no code of ours, and put what the provider gave into the database."""
    given = await by_device(oidc, PUBLIC, person)
    token_id = gateway.parts.directory.now.by_address[person].token_id or ""
    store = gateway.parts.store
    made = replace(
        consent(f"gr_{person}", token_id, refresh=given.refresh_token), access_token=Secret(given.access_token)
    )

    async def work(tx: Transaction) -> None:
        await tokens.add_grant(tx, store.sealer, made)
        token = await tokens.get(tx, token_id)
        assert token is not None
        await tokens.point(tx, token, serving=made.id, pending=None, pinned=None)
        await tokens.set_state(tx, token_id, TokenState.ACQUIRED, gateway.clock())

    await store.database.write(work)


def make_due(data: Path, at_most: int = PEOPLE) -> set[str]:
    """With nobody running: the accounts with a request of which nobody knows what became; then some are due again."""
    with contextlib.closing(sqlite3.connect(data / "posthouse.sqlite")) as database, database:
        unheard = "SELECT account FROM token JOIN oauth_grant ON token_id = token.id WHERE intent_serial = serial"
        accounts = {account for (account,) in database.execute(unheard)}
        database.execute(
            "UPDATE oauth_grant SET next_refresh_at = 1, intent_at = intent_at - 60 WHERE token_id IN"
            " (SELECT id FROM token WHERE state = 'acquired' ORDER BY random() LIMIT ?)",
            (at_most,),
        )
    return accounts


async def test_tokens_survive_kill_9_except_where_it_fell_between_sending_and_commit(
    tmp_path: Path, oidc: Provider
) -> None:
    chance, people = random.Random(4), [f"box{number}@example.test" for number in range(PEOPLE)]
    text = FILE.format(issuer=oidc.issuer, client=PUBLIC.id)
    text += "".join(f'[[mailbox]]\naddress = "{person}"\napp = "office"\n' for person in people)
    async with house(tmp_path / "data", text, background=False) as gateway:
        for person in people:
            await furnish(gateway, oidc, person)
    unheard: set[str] = set()
    with serving(tmp_path, tmp_path / "data") as running:
        oidc.lose_answers(LOST)
        for round_ in range(ROUNDS):
            unheard |= make_due(tmp_path / "data", EACH)
            began = time.time()
            await asyncio.to_thread(running.start)
            await until(partial(is_asking, running, began), "the first request")
            await asyncio.sleep(chance.uniform(0.0, 0.3) if round_ % 2 else chance.uniform(0.0, 0.03))
            await asyncio.to_thread(running.kill)
        unheard |= make_due(tmp_path / "data")
        await asyncio.to_thread(running.start)
        await until(lambda: is_settled(running), "every token having been refreshed or refused")
        states = running.rows("SELECT account, state, reason FROM token")
        serials = [serial for (serial,) in running.rows("SELECT serial FROM oauth_grant")]
    lost = {account for account, state, _ in states if state == "invalid"}
    assert lost <= unheard
    assert {reason for _, state, reason in states if state == "invalid"} <= {"answer_lost"}
    assert len(unheard) >= LOST
    assert lost
    assert max(serials) >= 3
    assert oidc.grants() == PEOPLE - len(lost)


async def is_asking(running: Serving, began: float) -> bool:
    return bool(running.rows("SELECT 1 FROM oauth_grant WHERE intent_at > ?", began))


async def is_settled(running: Serving) -> bool:
    return not running.rows("SELECT 1 FROM oauth_grant WHERE next_refresh_at = 1")
