"""/healthz, /readyz and /metrics at the root, for whoever watches over the gateway."""

import ipaddress
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
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
from posthouse.services import forecast, storage
from posthouse.services.forecast import Forecast
from posthouse.services.standing import Standing
from posthouse.store import events, messages, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.web.api.callers import Caller, find_key
from posthouse.web.api.control import is_trusted
from posthouse.web.parts import Parts

routes = APIRouter(include_in_schema=False)
FORESEEN = 10 * 366 * DAY
"""Seconds within which an end has a number of days."""
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
    registry.register(await _figures(parts))
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


async def _figures(parts: Parts) -> "_Figures":
    standing, now, database = await parts.standings.look(), parts.clock(), parts.store.database
    ends = await forecast.near(parts.store, standing.snapshot, now + FORESEEN)
    queue, known, failures = await database.read(_counted)
    unused = standing.tokens[TokenState.NOT_ACQUIRED]
    return _Figures(standing, Counter(queue), Counter(known | {TokenState.NOT_ACQUIRED: unused}), failures, ends, now)


async def _counted(tx: Transaction) -> tuple[dict[str, int], dict[str, int], int]:
    return await messages.totals(tx), await tokens.counts(tx), await tokens.failures(tx)


@dataclass(frozen=True, slots=True, eq=False)
class _Figures:
    """The numbers of one moment. However many mailboxes there are, the series are the same few."""

    standing: Standing
    queue: Counter[str]
    tokens: Counter[str]
    failures: int
    ends: list[Forecast]
    now: float

    def collect(self) -> Iterator[Metric]:
        states = Counter(self.standing.counts)
        yield _by_state("posthouse_mailboxes", "Mailboxes by the state of their token", TokenState, states)
        yield _by_state("posthouse_tokens", "Tokens by state", TokenState, self.tokens)
        yield self._settings()
        yield _by_state("posthouse_messages", "Messages by state", MessageState, self.queue)
        yield GaugeMetricFamily(
            "posthouse_refresh_failures", "Refreshes in a row that failed for now, over all tokens", self.failures
        )
        yield self._days_left()
        info = GaugeMetricFamily("posthouse_build_info", "The version that runs", labels=["version"])
        info.add_metric([__version__], 1)
        yield info

    def _settings(self) -> Metric:
        text, labels = "Settings of mailboxes by the state of the token that they use", ["for", "state"]
        family = GaugeMetricFamily("posthouse_settings", text, labels=labels)
        for purpose, state in itertools.product(PURPOSES, TokenState):
            family.add_metric([purpose, str(state)], self.standing.settings[purpose, state])
        return family

    def _days_left(self) -> Metric:
        """Below nothing since it has ended."""
        family = GaugeMetricFamily("posthouse_days_left", "Days until the first of a kind ends", labels=["what"])
        first: dict[str, float] = {}
        for one in self.ends:
            first[one.ending.what] = min(one.ending.at, first.get(one.ending.what, one.ending.at))
        for what, at in first.items():
            family.add_metric([what], (at - self.now) / DAY)
        return family


def _by_state(name: str, text: str, states: type[TokenState] | type[MessageState], found: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state in states:
        family.add_metric([str(state)], found[str(state)])
    return family
