"""Everything at a glance."""

from collections import Counter
from collections.abc import Iterator

from fastapi import APIRouter

from posthouse import __version__
from posthouse.model.token import TokenState
from posthouse.services import storage
from posthouse.services.overview import Overview, overview
from posthouse.store import notices
from posthouse.store.opening import Store
from posthouse.web.api import shapes
from posthouse.web.api.callers import Caller, Reader

routes = APIRouter(tags=["status"])


@routes.get("/status")
async def status(caller: Reader) -> shapes.Status:
    parts = caller.parts
    everything = await overview(parts.store, parts.directory)
    seen = [view for view in everything.mailboxes if caller.sees(view.mailbox.address)]
    states = Counter({str(state): 0 for state in TokenState})
    states.update({token.id: str(token.state) for view in seen for token in view.tokens}.values())
    queue: Counter[str] = Counter({"queued": 0, "parked": 0, "sent": 0, "failed": 0})
    for view in seen:
        queue.update(view.queue)
    return shapes.Status(
        version=__version__,
        external_url=parts.settings.external_url,
        database="embedded" if parts.store.database.embedded else "postgresql",
        mailboxes=len(seen),
        tokens=dict(states),
        queue=dict(queue),
        attention=[shapes.mailbox(view) for view in seen if view.needs_reauthorising],
        warnings=list(_warnings(caller, everything)),
        trouble=_trouble(parts.store),
        notices=0 if caller.mailboxes else await parts.store.database.read(notices.count_open),
    )


def _trouble(store: Store) -> shapes.Trouble | None:
    found = storage.problem_of(store)
    return shapes.Trouble(id=found.id, detail=found.sentence, hint=found.hint) if found else None


def _warnings(caller: Caller, everything: Overview) -> Iterator[shapes.Warned]:
    """A key for some mailboxes is told what stops those, and is not told the others' names."""
    now = caller.parts.clock()
    for found in everything.warnings(now):
        mailboxes = [address for address in found.mailboxes if caller.sees(address)]
        if mailboxes:
            yield shapes.warned(found, now, mailboxes)
