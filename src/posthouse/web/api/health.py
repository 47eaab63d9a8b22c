"""/healthz, /readyz and /metrics at the root, for whoever watches over the gateway."""

import ipaddress
import itertools
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from posthouse import __version__
from posthouse.model.forecast import DAY
from posthouse.model.mailbox import PURPOSES
from posthouse.model.message import MessageState
from posthouse.model.token import TokenState
from posthouse.services import storage
from posthouse.services.overview import Overview, overview
from posthouse.store import events
from posthouse.store.database import CommitUnknown, DatabaseUnavailable
from posthouse.web.api.callers import Caller, find_key
from posthouse.web.api.control import is_trusted
from posthouse.web.parts import Parts

routes = APIRouter(include_in_schema=False)
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


@routes.get("/healthz")
async def healthz() -> PlainTextResponse:
    """The process answers."""
    return PlainTextResponse("ok\n")


@routes.get("/readyz")
async def readyz(request: Request) -> PlainTextResponse:
    """The database answers as well, and mail can be kept."""
    parts: Parts = request.app.state.parts
    try:
        await parts.store.database.read(lambda tx: events.value_of(tx, "event"))
    except (DatabaseUnavailable, CommitUnknown):
        return PlainTextResponse("the database does not answer\n", HTTPStatus.SERVICE_UNAVAILABLE)
    if found := storage.problem_of(parts.store):
        return PlainTextResponse(f"{found.id}\n", HTTPStatus.SERVICE_UNAVAILABLE)
    return PlainTextResponse("ready\n")


@routes.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """For this machine itself, or with a key that may read everything. No address stands in it."""
    parts: Parts = request.app.state.parts
    if not (is_trusted(request.scope) or _is_near(request) or await _has_key(parts, request)):
        return PlainTextResponse("This needs a key that may read.\n", HTTPStatus.UNAUTHORIZED)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(await overview(parts.store, parts.directory), parts.clock()))
    return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def _is_near(request: Request) -> bool:
    """From this machine, and not by way of a proxy on it."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def _has_key(parts: Parts, request: Request) -> bool:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    found = await find_key(parts, key.strip()) if scheme.lower() == "bearer" else None
    if found is None or found.mailboxes:
        return False
    return Caller(parts, found.name, frozenset(found.permissions)).may("read")


class _Figures:
    """The numbers of one moment."""

    def __init__(self, seen: Overview, now: float) -> None:
        self._seen = seen
        self._now = now

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        states = Counter(str(view.token.state) for view in seen.mailboxes if view.token)
        yield _by_state("posthouse_mailboxes", "Mailboxes by the state of their token", TokenState, states)
        tokens = Counter(str(view.state) for view in seen.tokens)
        yield _by_state("posthouse_tokens", "Tokens by state", TokenState, tokens)
        yield self._settings()
        yield _by_state("posthouse_messages", "Messages by state", MessageState, Counter(seen.queue))
        failures = sum(view.failures for view in seen.tokens)
        yield GaugeMetricFamily(
            "posthouse_refresh_failures", "Refreshes in a row that failed for now, over all tokens", failures
        )
        yield self._days_left()
        info = GaugeMetricFamily("posthouse_build_info", "The version that runs", labels=["version"])
        info.add_metric([__version__], 1)
        yield info

    def _settings(self) -> Metric:
        found = Counter((one.purpose, str(token.state)) for token in self._seen.tokens for one in token.used_by)
        text, labels = "Settings of mailboxes by the state of the token that they use", ["for", "state"]
        family = GaugeMetricFamily("posthouse_settings", text, labels=labels)
        for purpose, state in itertools.product(PURPOSES, TokenState):
            family.add_metric([purpose, str(state)], found[purpose, str(state)])
        return family

    def _days_left(self) -> Metric:
        """Below nothing since it has ended."""
        family = GaugeMetricFamily("posthouse_days_left", "Days until the first of a kind ends", labels=["what"])
        first: dict[str, float] = {}
        for one in self._seen.forecasts:
            if one.mailboxes:
                first[one.ending.what] = min(one.ending.at, first.get(one.ending.what, one.ending.at))
        for what, at in first.items():
            family.add_metric([what], (at - self._now) / DAY)
        return family


def _by_state(name: str, text: str, states: type[TokenState] | type[MessageState], found: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state in states:
        family.add_metric([str(state)], found[str(state)])
    return family
