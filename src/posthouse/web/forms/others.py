"""The forms of app registrations, devices and providers."""

from collections.abc import Sequence
from typing import Any

from posthouse.model.device import Device
from posthouse.providers.provider import PROTOCOLS, Provider
from posthouse.services.directory import Snapshot
from posthouse.store.configuration import StoredApp, StoredProvider
from posthouse.web import forms
from posthouse.web.forms import N_, Field, Section, Values

KEPT = N_("Leave it empty to keep the one that is stored.")
ONE_EACH = N_("One on each line.")


# App registrations


def app_shown(app: StoredApp) -> dict[str, str]:
    known = {key: str(app.document.get(key, "")) for key in ("tenant", "secret_expires")}
    testing = forms.ticked(bool(app.document.get("testing")))
    return {"name": app.name, "provider": app.provider, "client_id": app.client_id, "testing": testing, **known}


def app_read(form: Values) -> dict[str, Any]:
    table = forms.texts(form, "provider", "client_id", "tenant", "secret_expires") | forms.flags(form, "testing")
    return table | forms.secrets(form, "client_secret", "private_key", "certificate", "service_account")


def app_sections(snapshot: Snapshot, app: StoredApp | None) -> Sequence[Section]:
    offered = sorted((one.title or name, name) for name, one in snapshot.providers.items() if one.has_oauth)
    kept = KEPT if app is not None and app.sealed_secret is not None else N_("Left empty: a public client.")
    return [
        Section(
            N_("App registration"),
            [
                Field("name", N_("Name"), needed=True, hint=N_("What it is called here.")),
                Field("provider", N_("Provider"), "choice", choices=[(name, title) for title, name in offered]),
                Field("client_id", N_("Client id"), needed=True),
                Field("tenant", N_("Tenant"), hint=N_("Microsoft: the domain or id of the directory that signs in.")),
                Field("client_secret", N_("Client secret"), "secret", hint=kept),
                Field("secret_expires", N_("The client secret ends on"), "date", hint=N_("You are warned before.")),
                Field("testing", N_("In test mode at Google"), "flag"),
            ],
        ),
        Section(
            N_("In place of a client secret"),
            [
                Field("private_key", N_("Private key"), "long", hint=N_("The text of a PEM file.")),
                Field("certificate", N_("Certificate"), "long", hint=N_("The text of a PEM file.")),
                Field("service_account", N_("Google service account"), "long", hint=N_("The text of its JSON key.")),
            ],
            folded=True,
        ),
    ]


# Devices


def device_shown(device: Device) -> dict[str, str]:
    settings = device.settings
    used = {f"protocol_{one}": forms.ticked(one in settings.protocols) for one in PROTOCOLS}
    several = {key: forms.joined(getattr(settings, key)) for key in ("mailboxes", "networks", "senders")}
    return {
        "name": device.name,
        **several,
        **used,
        "rate": settings.rate,
        "lane": forms.ticked(settings.lane == "open"),
    }


def device_read(form: Values) -> dict[str, Any]:
    table = forms.lines(form, "mailboxes", "networks", "senders") | forms.texts(form, "rate")
    table["protocols"] = [one for one in PROTOCOLS if form.get(f"protocol_{one}") == forms.ON]
    table["lane"] = "open" if form.get("lane") == forms.ON else ""
    table |= forms.secrets(form, "password")
    return table | ({"password": None} if form.get("new_password") == forms.ON else {})


def device_sections(snapshot: Snapshot, device: Device | None) -> Sequence[Section]:
    known = forms.joined(sorted(snapshot.by_address)[:20])
    generated = N_("Left empty: one is made, and shown once.")
    renew = [Field("new_password", N_("Make a new password, and show it once"), "flag")] if device else []
    return [
        Section(
            N_("Device"),
            [
                Field("name", N_("Name"), needed=True, hint=N_("The user name it logs in with.")),
                Field("mailboxes", N_("Mailboxes"), "lines", needed=True, placeholder=known,
                      hint=N_("One on each line; the first is its usual one.")),
                Field("password", N_("Password"), "secret", hint=KEPT if device else generated),
                *renew,
            ],
        ),
        Section(
            N_("What it may do"),
            [
                Field("protocol_smtp", "SMTP", "flag", keys=("protocols",)),
                Field("protocol_imap", "IMAP", "flag"),
                Field("protocol_pop3", "POP3", "flag"),
                Field("networks", N_("Networks"), "lines", placeholder="192.168.1.0/24",
                      hint=N_("Where it may come from, one on each line. Left empty: from everywhere.")),
                Field("senders", N_("Sender addresses"), "lines", placeholder="@example.com",
                      hint=N_("Addresses or @domains that it may give as sender. Left empty: any.")),
                Field("rate", N_("Rate"), placeholder="60/h", hint=N_("Messages in an hour (h) or a minute (m).")),
                Field("lane", N_("Without a login, for old devices"), "flag",
                      hint=N_("Only with networks. This has no effect yet.")),
            ],
        ),
    ]  # fmt: skip


# Providers


URLS = ("issuer", "authorize_url", "token_url", "device_url", "revoke_url", "introspection_url", "userinfo_url",
        "jwks_url")  # fmt: skip
COUNTS = ("connections", "messages_per_minute")


def provider_shown(stored: StoredProvider) -> dict[str, str]:
    document = stored.document
    known = {key: str(document.get(key, "")) for key in ("title", *URLS)}
    servers = [forms.server_values(one, document.get(one, "")) for one in PROTOCOLS]
    limits = {key: str(document.get("limits", {}).get(key, "")) for key in COUNTS}
    together = {key: value for server in servers for key, value in server.items()}
    return {"name": stored.name, **known, **together, **limits, "scopes": forms.joined(document.get("scopes", []))}


def provider_read(form: Values) -> dict[str, Any]:
    """What is empty is as if it had never been given: the built-in's, or nothing."""
    table: dict[str, Any] = forms.texts(form, "title", *URLS)
    for one in PROTOCOLS:
        table |= forms.endpoint(form, one, one)
    table |= forms.lines(form, "scopes")
    table = {key: value or None for key, value in table.items()}
    limits = {key: _count(form[key]) for key in COUNTS if key in form}
    table |= {f"limits.{key}": None for key, value in limits.items() if value is None}
    given = {key: value for key, value in limits.items() if value is not None}
    return table | ({"limits": given} if given else {})


def _count(text: str) -> int | str | None:
    written = text.strip()
    return int(written) if written.isascii() and written.isdigit() and len(written) < 10 else written or None


def provider_sections(base: Provider | None) -> Sequence[Section]:
    """`base` is what the fields say where they are left empty."""
    addresses = [(key, getattr(base, key) if base else "") for key in URLS]
    servers = [
        Section(title, forms.server_fields(one, (one,), base.endpoint(one) if base else None))
        for one, title in zip(PROTOCOLS, (N_("Sending: SMTP"), "IMAP", "POP3"), strict=True)
    ]
    return [
        Section(
            N_("Provider"),
            [
                Field("name", N_("Name"), needed=True),
                Field("title", N_("Title"), hint=N_("What people read."), placeholder=base.title if base else ""),
            ],
        ),
        Section(
            N_("Sign-in"),
            [
                Field(key, _LABELS[key], placeholder=usual, hint=_HINTS.get(key, ""))
                for key, usual in addresses
            ]
            + [Field("scopes", N_("Permissions to ask for"), "lines", hint=ONE_EACH)],
        ),
        *servers,
        Section(
            N_("Limits for each mailbox"),
            [
                Field("connections", N_("Connections at once"), "number", keys=("limits",)),
                Field("messages_per_minute", N_("Messages in a minute"), "number"),
            ],
        ),
    ]  # fmt: skip


_LABELS = {
    "issuer": N_("Issuer"),
    "authorize_url": N_("Authorisation address"),
    "token_url": N_("Token address"),
    "device_url": N_("Device code address"),
    "revoke_url": N_("Revocation address"),
    "introspection_url": N_("Introspection address"),
    "userinfo_url": N_("User information address"),
    "jwks_url": N_("Address of the signing keys"),
}
_HINTS = {"issuer": N_("The other addresses are found by it, where the provider offers discovery.")}
