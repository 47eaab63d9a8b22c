"""What will end, of which app registration or token, and which mailboxes that stops."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from posthouse.model.forecast import DAY, DISTANCES, Course, Ending, Ends, Lifetimes, of_date, of_grant
from posthouse.services.directory import Snapshot
from posthouse.store import forecasts
from posthouse.store.configuration import StoredApp
from posthouse.store.forecasts import Serving
from posthouse.store.opening import Store

NAMED = 20
"""Mailboxes that an event or an answer names; of the others it gives the number."""
_DATES = {Ends.CLIENT_SECRET: "secret_expires", Ends.CERTIFICATE: "certificate_expires"}
"""Settings of an app registration that say when something of it ends."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One thing that ends. `subject` is the id of the app registration or token, `name` the registration's name or the
    token's account, `mailboxes` the addresses that stop when nothing is done."""

    subject: str
    name: str
    ending: Ending
    mailboxes: tuple[str, ...]


async def near(store: Store, snapshot: Snapshot, until: float) -> list[Forecast]:
    """What ends by then; of very many tokens those of which it is nearest. Raises DatabaseUnavailable."""
    known = {app_id: lifetimes(snapshot, app_id) for app_id in snapshot.configuration.apps}
    idle = [one.idle_days for one in known.values() if one.idle_days is not None]
    idle_before = until - min(idle) * DAY if idle else -1.0
    testing = [app_id for app_id, one in known.items() if one.testing and one.testing_days is not None]
    found = await store.database.read(lambda tx: forecasts.may_end(tx, until, idle_before, testing))
    apps = (one for app in snapshot.configuration.apps.values() for one in of_app(snapshot, app))
    tokens = (one for each in found for one in of_serving(snapshot, each))
    return [one for one in (*apps, *tokens) if one.mailboxes and one.ending.at <= until]


async def warned(store: Store, snapshot: Snapshot, now: float) -> list[Forecast]:
    """What is near enough to be told, the nearest first. Raises DatabaseUnavailable."""
    return warnings(await near(store, snapshot, now + DISTANCES[0] * DAY), now)


def ends_of_app(app: StoredApp) -> Iterator[Ending]:
    for what, key in _DATES.items():
        ending = of_date(what, str(app.document.get(key, "")))
        if ending is not None:
            yield ending


def of_app(snapshot: Snapshot, app: StoredApp) -> Iterator[Forecast]:
    """A secret or certificate ends once for all mailboxes of its registration."""
    for ending in ends_of_app(app):
        yield Forecast(app.id, app.name, ending, stopped_by(snapshot, app.id))


def of_token(snapshot: Snapshot, token_id: str, app_id: str, account: str, course: Course) -> Iterator[Forecast]:
    """What ends of the grant that serves a token. Without its provider there is nothing to know."""
    for ending in of_grant(course, lifetimes(snapshot, app_id)):
        yield Forecast(token_id, account, ending, stopped_by(snapshot, token_id))


def of_serving(snapshot: Snapshot, serving: Serving) -> Iterator[Forecast]:
    return of_token(snapshot, serving.token_id, serving.app_id, serving.account, serving.course)


def stopped_by(snapshot: Snapshot, subject: str) -> tuple[str, ...]:
    """The mailboxes that stop when this token, or what all tokens of this app registration live on, ends."""
    if subject in snapshot.configuration.apps:
        return tuple(mailbox.address for mailbox in snapshot.users_of_app(subject))
    return tuple(user.mailbox.address for user in snapshot.uses_now(subject))


def lifetimes(snapshot: Snapshot, app_id: str) -> Lifetimes:
    app = snapshot.configuration.apps.get(app_id)
    provider = snapshot.providers.get(app.provider) if app else None
    if app is None or provider is None:
        return Lifetimes()
    known = provider.lifetimes
    testing = app.document.get("testing") is True
    return Lifetimes(known.idle_refresh_token_days, known.testing_refresh_token_days, testing)


def warnings(forecasts: Iterable[Forecast], now: float) -> list[Forecast]:
    """Those that are near enough to be told, the nearest first. What no mailbox uses stops nothing."""
    near = [one for one in forecasts if one.mailboxes and one.ending.distance(now) is not None]
    return sorted(near, key=lambda one: (one.ending, one.name))
