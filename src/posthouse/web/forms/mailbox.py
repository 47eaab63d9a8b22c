"""The form of a mailbox: how it signs in, its sending and its receiving settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posthouse.model.endpoint import Endpoint, parse_endpoint
from posthouse.model.mailbox import Mailbox
from posthouse.providers.provider import Protocol, Provider, keeps_token
from posthouse.services.directory import Snapshot
from posthouse.web import forms
from posthouse.web.forms import N_, Field, Section, Values

NOT_USED = N_("not used with OAuth 2.0")
KEPT = N_("not used with OAuth 2.0, kept")
_SENDING, _RECEIVING = "part-2", "part-3"
NOT_USED_AS_GIVEN = N_("not used where the sender is as given")


def shown(mailbox: Mailbox, snapshot: Snapshot) -> dict[str, str]:
    """What the form begins with. A way to sign in that waits for its proof is the one that is shown."""
    settings, wanted = mailbox.settings, mailbox.switched
    app = snapshot.app_of(wanted)
    receive = settings.receive or "imap"
    after, _, folder = settings.after_fetch.partition(":")
    return {
        "address": mailbox.address,
        "app": app.name if app else "",
        "signs_in_as": wanted.account if wanted.account != mailbox.address else "",
        "default": forms.ticked(mailbox.default),
        "token_kind": settings.token,
        "method": settings.method,
        "send": forms.ticked(settings.send),
        **forms.server_values("smtp", settings.smtp),
        **{key: getattr(settings, key) for key in ("smtp_user", "sender", "sender_name", "sender_address")},
        "timeout": f"{settings.timeout:.0f}",
        "ordered": forms.ticked(settings.ordered),
        "senders": forms.joined(settings.senders),
        "also_known_as": forms.joined(settings.also_known_as),
        "receive": settings.receive,
        **forms.server_values("receiving", getattr(settings, receive)),
        "receiving_user": getattr(settings, f"{receive}_user"),
        "folder": settings.folder,
        "check_interval": f"{settings.check_interval:.0f}",
        "after_fetch": after,
        "move_to_folder": folder,
    }


NEW = {
    "send": forms.ON,
    "sender": "automatic",
    "timeout": "30",
    "token_kind": "shared",
    "folder": "INBOX",
    "check_interval": "60",
    "after_fetch": "keep",
}


def read(form: Values) -> dict[str, Any]:
    """The table of an apply file. Receiving servers are those of the protocol that is chosen."""
    app, receive = form.get("app", ""), form.get("receive", "")
    table = forms.texts(form, "app", "smtp_user", "sender", "sender_name", "sender_address", "receive")
    table |= forms.flags(form, "send", "default", "ordered") | forms.lines(form, "senders", "also_known_as")
    table |= forms.seconds(form, "timeout", "check_interval") | forms.secrets(form, "password")
    table |= forms.endpoint(form, "smtp", "smtp") | {"token": form.get("token_kind") or None}
    table |= {"method": form.get("method") or None, "folder": form.get("folder", "").strip() or None}
    if app:
        table["signs_in_as"] = form.get("signs_in_as", "").strip() or None
    if receive in ("imap", "pop3"):
        table |= forms.endpoint(form, "receiving", receive)
        table[f"{receive}_user"] = form.get("receiving_user", "").strip()
    after = form.get("after_fetch", "keep")
    table["after_fetch"] = f"move:{form.get('move_to_folder', '').strip()}" if after == "move" else after
    return table


def chosen(mailbox: Mailbox | None, form: Values) -> dict[str, str]:
    """The receiving server of the protocol that was just chosen, as it is stored for that."""
    receive = form.get("receive", "")
    if form.get("redraw") != "receive" or receive not in ("imap", "pop3"):
        return {}
    server, user = (getattr(mailbox.settings, key) if mailbox else "" for key in (receive, f"{receive}_user"))
    return {**forms.server_values("receiving", server), "receiving_user": user}


@dataclass(frozen=True, slots=True)
class Sketch:
    """What the form has to know of the mailbox that it is for: None where it is new."""

    snapshot: Snapshot
    mailbox: Mailbox | None
    app: str

    @property
    def has_oauth(self) -> bool:
        return bool(self.app)

    def usual(self, protocol: Protocol) -> Endpoint | None:
        provider = self._provider
        return provider.endpoint(protocol) if provider else None

    def kept(self, protocol: Protocol) -> str:
        return getattr(self.mailbox.settings, protocol) if self.mailbox else ""

    def fixed(self, protocol: Protocol) -> bool:
        """Microsoft's servers are what they are; elsewhere a token is shown to no other server than the provider's."""
        provider, kept = self._provider, self.kept(protocol)
        if provider is None:
            return False
        return provider.family == "microsoft" or bool(kept and not keeps_token(provider, parse_endpoint(kept)))

    @property
    def _provider(self) -> Provider | None:
        app = self.snapshot.apps_by_name.get(self.app)
        return self.snapshot.providers.get(app.provider) if app else None


def sections(sketch: Sketch, values: Values) -> Sequence[Section]:
    return [_sign_in(sketch), _sending(sketch, values), _receiving(sketch, values), _further()]


def _sign_in(sketch: Sketch) -> Section:
    return Section(
        N_("Sign-in"),
        [
            Field("address", N_("E-mail address"), needed=True),
            _app(sketch),
            Field(
                "signs_in_as",
                N_("Account name"),
                hint=N_("Who signs in, where that is not the address itself: as for a shared mailbox."),
            ),
            _password(sketch),
        ],
    )


def _app(sketch: Sketch) -> Field:
    apps = sketch.snapshot.apps_by_name.values()
    named = sorted((app.name, f"{app.name} ({_title(sketch, app.provider)})") for app in apps)
    return Field(
        "app",
        N_("App registration"),
        "choice",
        choices=[("", N_("none: it signs in with a password")), *named],
        hint=N_("With an app registration it signs in by OAuth 2.0."),
        redraws=(_SENDING, _RECEIVING, "field-password"),
    )


def _password(sketch: Sketch) -> Field:
    stored = sketch.mailbox is not None and sketch.mailbox.has_password
    hint = N_("Leave it empty to keep the one that is stored.") if stored else ""
    unused = (KEPT if stored else NOT_USED) if sketch.has_oauth else ""
    return Field("password", N_("Password"), "secret", hint=hint, unused=unused)


def _title(sketch: Sketch, provider: str) -> str:
    found = sketch.snapshot.providers.get(provider)
    return (found.title if found else "") or provider


def _sending(sketch: Sketch, values: Values) -> Section:
    unused = NOT_USED_AS_GIVEN if values.get("sender") == "as-given" else ""
    return Section(
        N_("Sending settings"),
        [
            Field("send", N_("This mailbox sends"), "flag"),
            *forms.server_fields(
                "smtp", ("smtp",), sketch.usual("smtp"), fixed=sketch.fixed("smtp"), kept=sketch.kept("smtp")
            ),
            Field("smtp_user", N_("User name"), hint=_EMPTY_USER),
            Field("timeout", N_("Timeout in seconds"), "number"),
            Field("sender", N_("Sender"), "choice", choices=_SENDERS, redraws=(_SENDING,)),
            Field("sender_name", N_("Sender name"), unused=unused),
            Field("sender_address", N_("Sender address"), hint=N_("Left empty: the address of the mailbox."),
                  unused=unused),
            Field("senders", N_("Further senders"), "lines", hint=_LINES),
            Field("ordered", N_("One message at a time"), "flag", hint=forms.ORDERED),
        ],
    )  # fmt: skip


def _receiving(sketch: Sketch, values: Values) -> Section:
    receive = values.get("receive", "")
    protocol: Protocol = "pop3" if receive == "pop3" else "imap"
    usual, kept = sketch.usual(protocol), sketch.kept(protocol)
    after = [("keep", N_("stays on the server")), ("delete", N_("is deleted from the server")),
             ("move", N_("is moved to a folder"))]  # fmt: skip
    return Section(
        N_("Receiving settings"),
        [
            Field("receive", N_("Protocol"), "choice", choices=_PROTOCOLS, redraws=(_RECEIVING,)),
            *forms.server_fields("receiving", ("imap", "pop3"), usual, fixed=sketch.fixed(protocol), kept=kept),
            Field("receiving_user", N_("User name"), hint=_EMPTY_USER, keys=("imap_user", "pop3_user")),
            Field("folder", N_("Folder"), unused=N_("not used with POP3") if receive == "pop3" else ""),
            Field("check_interval", N_("Check interval in seconds"), "number"),
            Field("after_fetch", N_("After fetching, a message"), "choice", choices=after),
            Field("move_to_folder", N_("Folder to move it to")),
        ],
    )


def _further() -> Section:
    methods = [("", N_("the usual one of the provider")), ("browser", N_("in the browser")),
               ("device", N_("with a device code")), ("link", N_("with a link for the owner")),
               ("paste", N_("with a pasted address")), ("app", N_("as the app itself, nobody signs in"))]  # fmt: skip
    tokens = [("shared", N_("shared with mailboxes of the same account")), ("own", N_("of its own"))]
    return Section(
        N_("Further settings"),
        [
            Field("default", N_("default mailbox"), "flag", hint=N_("It sends what comes without a mailbox.")),
            Field("method", N_("Way to get a token"), "choice", choices=methods),
            Field("token_kind", N_("Token"), "choice", choices=tokens, keys=("token",)),
            Field(
                "also_known_as",
                N_("Further names of the account"),
                "lines",
                hint=N_("Names under which the right person may sign in. One on each line."),
            ),
        ],
        folded=True,
    )


_EMPTY_USER = N_("Left empty: as the provider wants it.")
_LINES = N_("One on each line.")
_SENDERS = [("automatic", N_("set automatically")), ("as-given", N_("as given, where permitted"))]
_PROTOCOLS = [("", N_("none: it does not receive")), ("imap", "IMAP"), ("pop3", "POP3")]
