"""The app registration assistant: a guide with everything filled in that this gateway knows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

from posthouse.model.mailbox import Protocol
from posthouse.problems import problem
from posthouse.providers.guide import Guide, guide
from posthouse.providers.registration import MOST_MAILBOXES, Credential, Way, Wish, redirect_url_of, ways_of
from posthouse.services.directory import Snapshot
from posthouse.store.configuration import StoredApp


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person says of the registration; `way` "" is the first that is open, `app` one that we have already."""

    way: Way | Literal[""] = ""
    credential: Credential | Literal[""] = ""
    send: bool = False
    receive: Literal["imap", "pop3", ""] = ""
    mailboxes: tuple[str, ...] = ()
    tenant: str = ""
    app: str = ""


def app_guide(snapshot: Snapshot, external_url: str, provider: str, asked: Asked) -> Guide:
    """Raises ProblemError where there is no such provider or app, or for values that cannot be meant."""
    found = snapshot.providers.get(provider)
    if found is None:
        raise problem("provider.unknown", f"There is no provider {provider[:100]}.", status=64)
    app = _app(snapshot, asked.app)
    open_ways = ways_of(found)
    return guide(
        found,
        Wish(
            redirect_url=redirect_url_of(found, "", external_url),
            way=asked.way or (open_ways[0] if open_ways else "browser"),
            protocols=tuple(_protocols(asked)),
            credential=asked.credential,
            mailboxes=asked.mailboxes or _mailboxes(snapshot, app, asked.way),
            tenant=asked.tenant or (str(app.document.get("tenant", "")) if app else ""),
            client_id=app.client_id if app else "",
            name=app.name if app else free_name(snapshot, provider),
        ),
    )


def free_name(snapshot: Snapshot, wanted: str) -> str:
    """A name that no app registration has: applying it must not change another one."""
    if wanted not in snapshot.apps_by_name:
        return wanted
    return next(name for number in count(2) if (name := f"{wanted}-{number}") not in snapshot.apps_by_name)


def _app(snapshot: Snapshot, name: str) -> StoredApp | None:
    """By id or name."""
    found = snapshot.configuration.apps.get(name) or snapshot.apps_by_name.get(name)
    if name and found is None:
        raise problem("app.unknown", f"There is no app registration {name[:100]}.", status=64)
    return found


def _mailboxes(snapshot: Snapshot, app: StoredApp | None, way: str) -> tuple[str, ...]:
    """Of an app that is there already; where a person signs in also that account's own, which SMTP logs in as."""
    used = [mailbox for mailbox in snapshot.mailboxes.values() if app and mailbox.app_id == app.id]
    accounts = [mailbox.account for mailbox in used] if way != "app" else []
    return tuple(dict.fromkeys([*(mailbox.address for mailbox in used), *accounts]))[:MOST_MAILBOXES]


def _protocols(asked: Asked) -> Iterator[Protocol]:
    if asked.send or not asked.receive:
        yield "smtp"
    if asked.receive:
        yield asked.receive
