"""Secrets belong to the servers they were given for: who sends them elsewhere has to be allowed to, and to give them
again.

A secret that would go to another sign-in server is forgotten, and consents end; a password that would go to another
mail server has to be given with it. Tokens go with their provider, only where a full administrator has said so.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from posthouse.model.endpoint import parse_endpoint
from posthouse.model.mailbox import Mailbox
from posthouse.problems import Problem, ProblemError
from posthouse.providers.applied import URLS, from_apply
from posthouse.providers.provider import PROTOCOLS, Provider, built_in
from posthouse.services.apply_file import Item, Wanted
from posthouse.services.apply_stored import Stored, unflat
from posthouse.store.configuration import StoredApp

NOT_ALLOWED = "edit.redirect"
"""Id of the problem that an administrator who has just signed in does not have."""
Values = Mapping[str, Any]


def bind(wanted: Wanted, stored: Stored, *, removing: str, may_redirect: bool) -> Wanted:
    """`wanted` with what else has to be forgotten, and with the problems of what goes elsewhere.

    `removing`: the name of what is removed; only a provider that has changed a built-in one matters here.
    """
    problems: list[Problem] = []
    items: list[Item] = []
    for item in wanted.items:
        bound, found = _BINDS[item.kind](item, stored) if item.kind in _BINDS else ([item], [])
        items += bound
        problems += found
    if removing in stored.rows["provider"] and removing in built_in() and not wanted.items:
        items += _apps_of(removing, stored)
        problems += [_redirected(f"The provider {removing}")] if items else []
    if may_redirect:
        problems = [one for one in problems if one.id != NOT_ALLOWED]
    return replace(wanted, items=tuple(items), problems=(*wanted.problems, *problems))


def _redirected(what: str, line: int = 0) -> Problem:
    sentence = f"{what} would send stored secrets elsewhere."
    hint = "An administrator who has just signed in on the page may do this, or the command line."
    return Problem(NOT_ALLOWED, sentence, hint, f":{line}")


# Providers: the secrets of their app registrations, and all tokens


def _bind_provider(item: Item, stored: Stored) -> tuple[list[Item], list[Problem]]:
    before = _provider(item.name, stored.values("provider", item.name), stored)
    after = _provider(item.name, item.over(stored.values("provider", item.name)), stored)
    if before is None or after is None:
        return [item], []
    signs_in = [key for key in (*URLS, "ca_file") if getattr(before, key) != getattr(after, key)]
    hosts = [one for one in PROTOCOLS if _host(after.endpoint(one)) not in ("", _host(before.endpoint(one)))]
    changed = (*signs_in, *hosts)
    problems = [_redirected(f"The provider {item.name}", item.line_of(changed[0]))] if changed else []
    return [item, *(_apps_of(item.name, stored) if signs_in else ())], problems


def _provider(name: str, values: Values, stored: Stored) -> Provider | None:
    """As it stands; None where it makes no sense, which is told elsewhere, or is not there."""
    if not values and name not in built_in():
        return None
    try:
        return from_apply(unflat(name, dict(values)), "") if values else built_in()[name]
    except ProblemError:
        return None


def _apps_of(provider: str, stored: Stored) -> list[Item]:
    found = (row for row in stored.rows["app"].values() if isinstance(row, StoredApp) and row.provider == provider)
    return [Item("app", row.name, 0, {}, {}, removed=("client_secret",), renew=True) for row in found]


# App registrations: their own secret


def _bind_app(item: Item, stored: Stored) -> tuple[list[Item], list[Problem]]:
    before = stored.values("app", item.name).get("provider")
    if before is None or item.over({"provider": before}).get("provider") == before:
        return [item], []
    line = item.line_of("provider")
    problems = [_redirected(f"The app registration {item.name}", line)]
    if stored.has_secret(item) and item.secret is None:
        sentence = "The client_secret was given for another provider."
        problems.append(Problem("edit.secret-again", sentence, "Give the one for this provider.", f":{line}"))
    return [item], problems


# Mailboxes: a password; a token is shown to no server but the provider's anyway


def _bind_mailbox(item: Item, stored: Stored) -> tuple[list[Item], list[Problem]]:
    row = stored.mailbox(item.name)
    before, after = stored.values("mailbox", item.name), item.over(stored.values("mailbox", item.name))
    moved = [one for one in PROTOCOLS if _own(after, one) and _own(after, one) != _own(before, one)]
    if row is None or not moved or item.secret is not None or not stored.has_secret(item):
        return [item], []
    if _signs_in_with_password(row):
        sentence = "The password was given for another server."
        place = f":{item.line_of(moved[0])}"
        return [item], [Problem("edit.secret-again", sentence, "Give it again for this one.", place)]
    return [replace(item, removed=(*item.removed, "password"))], []


def _signs_in_with_password(row: Mailbox) -> bool:
    return row.app_id is None


def _own(values: Values, protocol: str) -> str:
    return _host(parse_endpoint(values[protocol])) if values.get(protocol) else ""


def _host(endpoint: Any) -> str:
    return endpoint.host if endpoint is not None else ""


_BINDS = {"provider": _bind_provider, "app": _bind_app, "mailbox": _bind_mailbox}
