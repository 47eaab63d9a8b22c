"""What the tests of the store have in common: nodes, mailboxes and mail to put into it."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from posthouse.model.message import Envelope, MessageState, NewMessage, Recipient
from posthouse.model.token import Grant
from posthouse.secret import Secret
from posthouse.store import configuration, leases, messages, tokens
from posthouse.store.database import Transaction
from posthouse.store.ids import new_message_id
from posthouse.store.messages import Claim, Summary
from posthouse.store.opening import Store, open_store

T = TypeVar("T")
NOW = 1_800_000_000.0
DEADLINE = NOW + 5 * 86_400


@dataclass
class Site:
    """A database, and the nodes that work on it."""

    data: Path
    url: str
    _opened: list[Store] = field(default_factory=list)

    async def node(self) -> Store:
        """The store as one more node sees it; all have the embedded database in common."""
        if not self._opened or self.url:
            self._opened.append(await open_store(self.data, self.url, {}))
        return self._opened[-1]

    async def nodes(self, count: int) -> list[Store]:
        return [await self.node() for _ in range(count)]

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*work))


def mail(
    queue_id: str = "", *, mailbox: str = "mb_1", to: Iterable[str] = ("bob@example.org",), body: bytes = b"sealed"
) -> NewMessage:
    return NewMessage(
        id=queue_id or new_message_id(NOW),
        mailbox_id=mailbox,
        device="printer",
        envelope=Envelope("scan@example.com", tuple(to), smtputf8=True),
        message_id=f"<{queue_id}@example.com>",
        subject="Scanned pages",
        size=2_000,
        body=body,
    )


async def add_mailboxes(store: Store, *ids: str) -> None:
    async def work(tx: Transaction) -> None:
        for mailbox in ids:
            await configuration.save(tx, "mailbox", mailbox, address=f"{mailbox}@example.com", document="{}")

    await store.database.write(work)


async def take(
    store: Store,
    node: str = "node-1",
    *,
    own: bool = False,
    at_most: int = 1000,
    leaders: Mapping[str, str] = leases.NOBODY,
) -> dict[str, int]:
    async def work(tx: Transaction) -> dict[str, int]:
        await leases.beat(tx, node)
        return await leases.take_free(tx, node, at_most, own=own, leaders=leaders)

    return await store.database.write(work)


async def held_mailbox(store: Store) -> int:
    """Make the mailbox mb_1 and take it for node-1: its epoch."""
    await add_mailboxes(store, "mb_1")
    return (await take(store))["mb_1"]


async def accept(
    store: Store,
    *queue_ids: str,
    to: Iterable[str] = ("bob@example.org",),
    mailbox: str = "mb_1",
    now: float = NOW,
) -> None:
    async def work(tx: Transaction) -> None:
        for queue_id in queue_ids:
            await messages.accept(tx, mail(queue_id, mailbox=mailbox, to=to), now, DEADLINE)

    await store.database.write(work)


async def claim(store: Store, epoch: int, *, at_most: int = 10, now: float = NOW) -> list[Claim]:
    return await store.database.write(lambda tx: messages.claim(tx, "mb_1", "node-1", epoch, now, at_most))


async def claim_one(store: Store, epoch: int) -> Claim:
    (claimed,) = await claim(store, epoch, at_most=1)
    return claimed


async def hand_over(store: Store, claimed: Claim) -> bool:
    return await store.database.write(lambda tx: messages.hand_over(tx, claimed))


async def finish(
    store: Store,
    claimed: Claim,
    state: MessageState,
    *recipients: Recipient,
    kind: str = "sent",
    now: float = NOW + 10,
) -> None:
    ended = recipients or tuple(Recipient(r.address, "sent", "250 OK") for r in claimed.message.recipients)
    await store.database.write(
        lambda tx: messages.finish(
            tx,
            claimed,
            now,
            state,
            ended,
            kind=kind,
            answer="the server's answer",
            next_at=NOW + 70,
            taken=int(kind == "sent"),
        )
    )


async def shown(store: Store, queue_id: str) -> Summary:
    found = await store.database.read(lambda tx: messages.one(tx, queue_id))
    assert found is not None
    return found


def consent(grant_id: str = "gr_1", token_id: str = "tk_1", *, serial: int = 1, refresh: str = "refresh-1") -> Grant:
    return Grant(
        id=grant_id,
        token_id=token_id,
        serial=serial,
        access_token=Secret("access-1"),
        refresh_token=Secret(refresh),
        previous_refresh_token=None,
        access_expires_at=NOW + 3600,
        next_refresh_at=NOW + 2880,
        obtained_at=NOW,
        refreshed_at=NOW,
        failures=0,
        last_error="",
        scopes=("mail", "offline_access"),
        issuer="https://id.example.com",
        subject="alice",
        person="alice@example.com",
    )


async def add_consent(store: Store, grant: Grant) -> None:
    await store.database.write(lambda tx: tokens.add_grant(tx, store.sealer, grant))


async def grant_of(store: Store, grant_id: str = "gr_1") -> Grant:
    found = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, grant_id))
    assert found is not None
    return found
