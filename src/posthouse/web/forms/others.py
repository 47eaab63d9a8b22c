"""The forms of app registrations, devices and providers."""

from collections.abc import Sequence
from typing import Any

from posthouse.model.device import Device
from posthouse.model.message import DEADLINE
from posthouse.model.sizes import written_size
from posthouse.providers.applied import URLS
from posthouse.providers.provider import PROTOCOLS, Provider
from posthouse.services.apply_values import spoken
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
        "deadline": spoken(settings.deadline),
        "ordered": forms.ticked(settings.ordered),
        "lane": forms.ticked(settings.lane == "open"),
    }


def device_read(form: Values) -> dict[str, Any]:
    table = forms.lines(form, "mailboxes", "networks", "senders") | forms.texts(form, "rate")
    table["protocols"] = [one for one in PROTOCOLS if form.get(f"protocol_{one}") == forms.ON]
    table["lane"] = "open" if form.get("lane") == forms.ON else ""
    table |= {"deadline": form.get("deadline", "").strip() or None} | forms.flags(form, "ordered")
    table |= forms.secrets(form, "password")
    return table | ({"password": None} if form.get("new_password") == forms.ON else {})


def device_sections(snapshot: Snapshot, device: Device | None) -> Sequence[Section]:
    return [_device(snapshot, device), _permissions()]


def _device(snapshot: Snapshot, device: Device | None) -> Section:
    known = forms.joined(mailbox.address for mailbox in snapshot.ordered[:20])
    generated = N_("Left empty: one is made, and shown once.")
    renew = [Field("new_password", N_("Make a new password, and show it once"), "flag")] if device else []
    return Section(
        N_("Device"),
        [
            Field("name", N_("Name"), needed=True, hint=N_("The user name it logs in with.")),
            Field("mailboxes", N_("Mailboxes"), "lines", needed=True, placeholder=known,
                  hint=N_("One on each line; the first is its usual one.")),
            Field("password", N_("Password"), "secret", hint=KEPT if device else generated),
            *renew,
        ],
    )  # fmt: skip


def _permissions() -> Section:
    return Section(
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
            Field("deadline", N_("Time to deliver in"), placeholder=spoken(DEADLINE),
                  hint=N_("In days (d), hours (h) or minutes (m). What is not sent by then has failed.")),
            Field("ordered", N_("One message at a time"), "flag", hint=forms.ORDERED),
            Field("lane", N_("Without a login, for old devices"), "flag",
                  hint=N_("Only with networks. This has no effect yet.")),
        ],
    )  # fmt: skip


# Providers


def provider_shown(stored: StoredProvider) -> dict[str, str]:
    document = stored.document
    known = {key: str(document.get(key, "")) for key in ("title", *URLS)}
    servers = [forms.server_values(one, document.get(one, "")) for one in PROTOCOLS]
    limits = {key: str(document.get("limits", {}).get(key, "")) for key in LIMITS}
    own = {"own_redirect": forms.ON if document.get("own_redirect") else ""}
    together = {key: value for server in servers for key, value in server.items()}
    return {
        "name": stored.name,
        **known,
        **together,
        **limits,
        **own,
        "scopes": forms.joined(document.get("scopes", [])),
    }


def provider_read(form: Values) -> dict[str, Any]:
    """What is empty is as if it had never been given: the built-in's, or nothing."""
    table: dict[str, Any] = forms.texts(form, "title", *URLS)
    for one in PROTOCOLS:
        table |= forms.endpoint(form, one, one)
    table |= forms.lines(form, "scopes")
    table = {key: value or None for key, value in table.items()}
    table |= {"own_redirect": True if form.get("own_redirect") == forms.ON else None}
    return table | {f"limits.{key}": _count(form[key]) for key in LIMITS if key in form}


def _count(text: str) -> int | str | None:
    written = text.strip()
    return int(written) if written.isascii() and written.isdigit() and len(written) < 10 else written or None


def _usual_limit(base: Provider | None, key: str) -> str:
    found = getattr(base.limits, key) if base else None
    return "" if found is None else written_size(found) if key == "size" else str(found)


def provider_sections(base: Provider | None) -> Sequence[Section]:
    """`base` is what the fields say where they are left empty."""
    title = Field("title", N_("Title"), hint=N_("What people read."), placeholder=base.title if base else "")
    servers = [
        Section(heading, forms.server_fields(one, (one,), base.endpoint(one) if base else None))
        for one, heading in zip(PROTOCOLS, (N_("Sending: SMTP"), "IMAP", "POP3"), strict=True)
    ]
    named = Section(N_("Provider"), [Field("name", N_("Name"), needed=True), title])
    return [named, _provider_sign_in(base), *servers, _limits(base)]


def _provider_sign_in(base: Provider | None) -> Section:
    usual = {key: getattr(base, key) if base else "" for key in URLS}
    return Section(
        N_("Sign-in"),
        [
            *(Field(key, _LABELS[key], placeholder=usual[key], hint=_HINTS.get(key, "")) for key in URLS),
            Field("scopes", N_("Permissions to ask for"), "lines", hint=ONE_EACH),
            Field("own_redirect", N_("Redirect URL of its own"), "flag",
                  hint=N_("Sign-ins come back to an address that no other provider uses. Register it there.")),
        ],
    )  # fmt: skip


def _limits(base: Provider | None) -> Section:
    return Section(
        N_("Limits for each account"),
        [
            Field(key, label, "text" if key == "size" else "number", placeholder=_usual_limit(base, key),
                  hint=_LIMIT_HINTS.get(key, ""), keys=(f"limits.{key}",))
            for key, label in LIMITS.items()
        ],
    )  # fmt: skip


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
LIMITS = {
    "connections": N_("Connections at once"),
    "imap_connections": N_("IMAP connections at once"),
    "messages_per_connection": N_("Messages on one connection"),
    "messages_per_minute": N_("Messages in a minute"),
    "messages_per_day": N_("Messages in a day"),
    "recipients_per_day": N_("Recipients in a day"),
    "recipients_per_message": N_("Recipients of a message"),
    "size": N_("Largest message"),
}
_LIMIT_HINTS = {"imap_connections": N_("This has no effect yet."), "size": N_("Such as 35 MB.")}
_HINTS = {"issuer": N_("The other addresses are found by it, where the provider offers discovery.")}
