"""Which app and account a mailbox signs in with. While one serves, another waits until it has proved itself."""

from collections.abc import Collection
from dataclasses import dataclass

from msgspec.structs import replace

from posthouse.model.mailbox import Former, Mailbox, Switch
from posthouse.model.token import TokenState
from posthouse.store import configuration, events, tokens
from posthouse.store.configuration import encode
from posthouse.store.database import Transaction

KEPT = 7 * 86_400.0
"""Seconds for which one can go back to the way that served before."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a mailbox signs in: an app, an account there and their token, or without an app its password."""

    app_id: str | None
    account: str
    token_id: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """`way` serves from now on; `switch` is wanted and waits for its proof."""

    way: Way
    switch: Switch | None = None


async def choose(
    tx: Transaction, present: Mailbox | None, address: str, wanted: Way, *, own: bool, has_password: bool, now: float
) -> Choice:
    """The way of `present`, or of a new mailbox, when `wanted` is asked for; its token is made when there is none.

    `own`: the token is this mailbox's alone. The token of `wanted` is found here; what stands in it does not count.
    """
    if wanted.app_id is None:
        return Choice(Way(None, address, None))
    token = await tokens.ensure(tx, wanted.app_id, wanted.account, address if own else "main", now)
    wanted = Way(wanted.app_id, wanted.account, token.id)
    old = _way(present) if present else Way(None, address, None)
    if wanted == old or not await serves(tx, old, has_password):
        return Choice(wanted)
    return Choice(old, Switch(app_id=wanted.app_id or "", account=wanted.account, token_id=token.id))


def _way(mailbox: Mailbox) -> Way:
    return Way(mailbox.app_id, mailbox.account, mailbox.token_id)


async def serves(tx: Transaction, way: Way, has_password: bool) -> bool:
    if way.app_id is None:
        return has_password
    token = await tokens.get(tx, way.token_id or "")
    return token is not None and token.serving_grant is not None and token.state is TokenState.ACQUIRED


async def finish_all(tx: Transaction, token_id: str, works_for: Collection[str], now: float) -> None:
    """A token has proved itself for these mailboxes (ids): those of them that waited for it go over to it.

    They are read here, since they may have been changed or removed while it was being proved.
    """
    if await _waiting(tx, token_id, works_for):
        await events.bump(tx, "configuration")
        for mailbox in await _waiting(tx, token_id, works_for):
            await finish(tx, mailbox, now)


async def _waiting(tx: Transaction, token_id: str, works_for: Collection[str]) -> list[Mailbox]:
    mailboxes = (await configuration.load(tx)).mailboxes
    found = [mailbox for mailbox in mailboxes.values() if mailbox.id in works_for]
    return [mailbox for mailbox in found if mailbox.settings.switch and mailbox.settings.switch.token_id == token_id]


async def finish(tx: Transaction, mailbox: Mailbox, now: float) -> bool:
    """The token that was waited for has proved itself: let it serve. False where none was waited for."""
    switch = mailbox.settings.switch
    if switch is None:
        return False
    await _go_over(tx, mailbox, Way(switch.app_id, switch.account, switch.token_id), now)
    return True


async def go_back(tx: Transaction, mailbox: Mailbox, now: float) -> bool:
    """To the way that served before, and lives. False where there is none, or it has ended meanwhile."""
    former = mailbox.settings.former
    if former is None or former.until <= now:
        return False
    way = Way(former.app_id, former.account, former.token_id)
    if not await serves(tx, way, mailbox.has_password):
        return False
    await _go_over(tx, mailbox, way, now)
    return True


async def _go_over(tx: Transaction, mailbox: Mailbox, way: Way, now: float) -> None:
    """What is left is kept for a while, if it still serves."""
    left = _way(mailbox)
    former = None
    if await serves(tx, left, mailbox.has_password):
        former = Former(app_id=left.app_id, account=left.account, token_id=left.token_id, until=now + KEPT)
    document = encode(replace(mailbox.settings, switch=None, former=former))
    columns = {"app_id": way.app_id, "account": way.account, "token_id": way.token_id}
    await configuration.save(tx, "mailbox", mailbox.id, **columns, document=document)
