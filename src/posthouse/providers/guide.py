"""How to register an app at a provider: the steps with every known value filled in, and scripts where there are any.

The steps are data: `guides/*.toml`, in the order in which they are done, with the script templates beside them. A
provider's own data file names its guide under `[registering]`.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from posthouse.providers.provider import PROTOCOLS, Protocol, Provider, scopes_for
from posthouse.providers.registration import (
    BORROWED_WAYS,
    CREDENTIALS,
    WAYS,
    WITH_REDIRECT,
    Credential,
    Sentence,
    Way,
    Wish,
    client_warnings,
    closed,
    credentials_of,
    redirect_warnings,
    ways_of,
)
from posthouse.providers.scripts import rendered, toml

Kind = Literal["organisation", "personal"]
"""Whose mailboxes they are, where that makes a difference."""
APPLY = "https://senders.yahooinc.com/developer/developer-access-mail-form/"
EXCHANGE = "00000002-0000-0ff1-ce00-000000000000"
GRAPH = "00000003-0000-0000-c000-000000000000"
"""What Office 365 Exchange Online and Microsoft Graph are called in every directory."""
SWITCHES = {
    "smtp": "-SmtpClientAuthenticationDisabled $false",
    "imap": "-ImapEnabled $true",
    "pop3": "-PopEnabled $true",
}
CREDENTIAL_LINES: dict[Credential, tuple[str, ...]] = {
    "none": (),
    "secret": ('client_secret = { file = "posthouse-secret.txt" }', 'secret_expires = ""'),
    "certificate": (
        'private_key = { file = "posthouse-key.pem" }',
        'certificate = { file = "posthouse-certificate.pem" }',
    ),
    "service_account": ('service_account = { file = "posthouse-key.json" }',),
}
MAKE_CERTIFICATE = (
    "openssl req -x509 -newkey rsa:3072 -sha256 -nodes -days 365 -subj /CN=Posthouse"
    " -keyout posthouse-key.pem -out posthouse-certificate.pem"
)


@dataclass(frozen=True, slots=True)
class Step:
    """`lines` are to be copied as they stand."""

    sentence: Sentence
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """Ready to be run; `title` is the program that runs it, `name` a name for the file."""

    title: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Borrowed:
    """Somebody else's public registration, for who cannot have one of their own; `lines` go into an apply file."""

    name: str
    title: str
    warning: Sentence
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Guide:
    """`closed` says why this way is not open; then there are no steps. `redirect_url` is "" where the way needs none.

    `public_client`: whether the registration is one, which at Microsoft is a switch of its own.
    """

    provider: str
    title: str
    way: Way
    ways: tuple[Way, ...]
    credential: Credential
    credentials: tuple[Credential, ...]
    closed: Sentence | None = None
    warnings: tuple[Sentence, ...] = ()
    redirect_url: str = ""
    scopes: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    public_client: bool = False
    steps: tuple[Step, ...] = ()
    scripts: tuple[Script, ...] = ()
    borrowed: tuple[Borrowed, ...] = ()


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For which ways and so on it is meant (left out: all), and which values it shows."""

    text: str
    ways: tuple[Way, ...] = WAYS
    credentials: tuple[Credential, ...] = CREDENTIALS
    protocols: tuple[Protocol, ...] = PROTOCOLS
    kinds: tuple[Kind, ...] = ("organisation", "personal")
    show: tuple[str, ...] = ()


class _Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    file: str


class _Pages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: tuple[_Step, ...]
    script: tuple[_Script, ...] = ()


def guide(provider: Provider, wish: Wish) -> Guide:
    """What to do at this provider for this wish; a credential that it does not take gives way to the usual one."""
    credentials = credentials_of(provider, wish.way)
    usual: Credential = credentials[0] if credentials else "none"
    credential = next((one for one in credentials if one == wish.credential), usual)
    made = Guide(provider.name, provider.title, wish.way, ways_of(provider), credential, credentials)
    reason = closed(provider, wish.way)
    return replace(made, closed=reason) if reason else _filled(made, provider, wish)


def _filled(made: Guide, provider: Provider, wish: Wish) -> Guide:
    app_only, pages = made.way == "app", _pages(provider.registering.guide)
    scopes = scopes_for(provider, wish.protocols, app_only=app_only, offered=provider.offered_scopes)
    made = replace(
        made,
        warnings=redirect_warnings(provider, wish.way, wish.redirect_url),
        redirect_url=wish.redirect_url if wish.way in WITH_REDIRECT else "",
        scopes=scopes,
        permissions=_permissions(provider, wish, scopes),
        public_client=made.credential == "none",
    )
    known = _values(made, provider, wish)
    kind: Kind = "organisation" if provider.registering.exchange else "personal"
    steps = (step for step in pages.step if _is_meant(step, made, wish, kind))
    return replace(
        made,
        steps=tuple(_step(step, made, known) for step in steps),
        borrowed=tuple(_borrowed(provider, wish)),
        scripts=tuple(Script(one.title, one.file, rendered(one.file, known)) for one in pages.script),
    )


def _borrowed(provider: Provider, wish: Wish) -> Iterator[Borrowed]:
    """Nobody comes back to us from a redirect URL of theirs, so it is for a device code or a pasted address only."""
    if wish.way not in BORROWED_WAYS:
        return
    for name, known in provider.known_clients.items():
        app = ("[[app]]", f"name = {toml(wish.name or provider.name)}", f"provider = {toml(provider.name)}")
        (warning,) = client_warnings(provider, name)
        yield Borrowed(name, known.title, warning, (*app, f"client_id = {toml(name)}"))


def _permissions(provider: Provider, wish: Wish, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """What the provider's own pages call it: at Microsoft a scope's last part, or a role, elsewhere the scope."""
    if not provider.registering.audience:
        return scopes
    if wish.way != "app":
        return tuple(scope.rpartition("/")[2] for scope in scopes)
    roles = provider.registering.app_permissions
    named = [name for protocol in wish.protocols for name in getattr(roles, protocol)]
    return tuple(dict.fromkeys(named)) or scopes


def _is_meant(step: _Step, made: Guide, wish: Wish, kind: Kind) -> bool:
    return (
        made.way in step.ways
        and made.credential in step.credentials
        and not set(step.protocols).isdisjoint(wish.protocols)
        and kind in step.kinds
    )


def _step(step: _Step, made: Guide, known: dict[str, Any]) -> Step:
    holes = {name: known[name] for name in ("portal", "application") if f"%({name})s" in step.text}
    return Step(Sentence(step.text, holes), tuple(line for name in step.show for line in _lines(name, made, known)))


def _values(made: Guide, provider: Provider, wish: Wish) -> dict[str, Any]:
    """Everything that steps and scripts may name."""
    registering = provider.registering
    return {
        "application": APPLY,
        "name": wish.name or provider.name,
        "display_name": f"Posthouse ({urlsplit(wish.redirect_url).hostname}, {made.provider}{_suffix(made)})",
        "title": provider.title,
        "provider": provider.name,
        "portal": registering.portal,
        "audience": registering.audience,
        "cloud": registering.cloud,
        "graph": registering.graph,
        "exchange": registering.exchange,
        "organisation": bool(registering.exchange),
        "app_only": made.way == "app",
        "credential": made.credential,
        "public_client": made.public_client,
        "redirect_url": made.redirect_url,
        "permissions": made.permissions,
        "resources": _resources(made, organisation=bool(registering.exchange)),
        "mailboxes": wish.mailboxes,
        "tenant": wish.tenant,
        "client_id": wish.client_id,
        "switches": [SWITCHES[protocol] for protocol in wish.protocols],
    }


def _resources(made: Guide, *, organisation: bool) -> tuple[str, ...]:
    """Whose permissions are asked for at Microsoft: for an organisation both, since both list those for mail."""
    if made.way == "app":
        return (EXCHANGE,)
    return (EXCHANGE, GRAPH) if organisation else (GRAPH,)


def _suffix(made: Guide) -> str:
    """The app itself has a registration of its own: its rights and a person's do not belong together."""
    return ", app only" if made.way == "app" else ""


def _lines(name: str, made: Guide, known: dict[str, Any]) -> tuple[str, ...]:
    """What a step shows under `name`."""
    match name:
        case "redirect_url":
            return (known[name],)
        case "scopes":
            return made.scopes
        case "permissions":
            return made.permissions
        case "make_certificate":
            return (MAKE_CERTIFICATE,)
        case "apply_file":
            return _apply_file(made, known)
    return tuple(rendered(f"{name}.txt", known).splitlines())


def _apply_file(made: Guide, known: dict[str, Any]) -> tuple[str, ...]:
    """An item for an apply file; only what the provider gives out in the end is still empty."""
    client = () if made.credential == "service_account" else (f"client_id = {toml(known['client_id'])}",)
    tenant = (f"tenant = {toml(known['tenant'])}",) if known["organisation"] else ()
    named = (f"name = {toml(known['name'])}", f"provider = {toml(known['provider'])}")
    return ("[[app]]", *named, *client, *tenant, *CREDENTIAL_LINES[made.credential])


@cache
def _pages(name: str) -> _Pages:
    text = files("posthouse.providers").joinpath("guides", f"{name}.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _Pages)
