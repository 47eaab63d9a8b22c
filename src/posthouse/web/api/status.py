"""Everything at a glance."""

from collections import Counter
from collections.abc import Sequence

from fastapi import APIRouter

from posthouse import __version__
from posthouse.model.mailbox import Mailbox
from posthouse.model.message import MessageState
from posthouse.model.token import TokenState
from posthouse.services import forecast, storage
from posthouse.services.directory import Snapshot
from posthouse.services.overview import view_mailboxes
from posthouse.services.standing import Standing
from posthouse.store import messages, notices
from posthouse.store.opening import Store
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Reader

routes = APIRouter(tags=["status"])
MOST_ATTENTION = MOST_WARNINGS = 100
"""Mailboxes and warnings that are told; the rest are in the lists of mailboxes and tokens."""


@routes.get("/status")
async def status(caller: Reader) -> shapes.Status:
    parts = caller.parts
    standing = await parts.standings.look()
    seen = caller.mailboxes_seen()
    states = _states(caller, standing, seen)
    broken = [mailbox for mailbox in standing.by_state[TokenState.INVALID] if caller.sees(mailbox.address)]
    return shapes.Status(
        version=__version__,
        external_url=parts.settings.external_url,
        database="embedded" if parts.store.database.embedded else "postgresql",
        mailboxes=len(seen),
        tokens={str(state): states[state] for state in TokenState},
        queue={str(state): 0 for state in MessageState} | await _queue(caller, seen),
        attention=[
            shapes.mailbox(view)
            for view in await view_mailboxes(parts.store, standing.snapshot, broken[:MOST_ATTENTION])
        ],
        attention_count=len(broken),
        warnings=await _warnings(caller, standing.snapshot),
        trouble=_trouble(parts.store),
        notices=0 if caller.mailboxes else await parts.store.database.read(notices.count_open),
    )


def _trouble(store: Store) -> shapes.Trouble | None:
    found = storage.problem_of(store)
    return shapes.Trouble(id=found.id, detail=found.sentence, hint=found.hint) if found else None


def _states(caller: Caller, standing: Standing, seen: Sequence[Mailbox]) -> Counter[TokenState]:
    """Of the tokens that the mailboxes use or wait for, each once."""
    if not caller.mailboxes:
        return standing.tokens
    ids = {way.token_id for mailbox in seen for way in mailbox.ways() if way.token_id in standing.states}
    return Counter(standing.states[token_id] for token_id in ids if token_id)


async def _queue(caller: Caller, seen: Sequence[Mailbox]) -> dict[str, int]:
    database = caller.parts.store.database
    if not caller.mailboxes:
        return await database.read(messages.totals)
    ids = [mailbox.id for mailbox in seen]
    counted: Counter[str] = Counter()
    for of_mailbox in (await database.read(lambda tx: messages.counts_of(tx, ids))).values():
        counted.update(of_mailbox)
    return dict(counted)


async def _warnings(caller: Caller, snapshot: Snapshot) -> list[shapes.Warned]:
    """A key for some mailboxes is told what stops those, and is not told the others' names."""
    now = caller.parts.clock()
    told = []
    for found in await forecast.warned(caller.parts.store, snapshot, now):
        mailboxes = [address for address in found.mailboxes if caller.sees(address)]
        if mailboxes:
            told.append(shapes.warned(found, now, mailboxes))
    return told[:MOST_WARNINGS]
