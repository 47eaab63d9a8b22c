"""A mailbox and its settings, as an administrator gives them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import msgspec
import msgspec.structs

_LETTERS = r"[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff]+"
ADDRESS = re.compile(f"{_LETTERS}@{_LETTERS}")
"""What is taken for an address: one @, no blanks, quotes or control characters."""

Protocol = Literal["smtp", "imap", "pop3"]
Purpose = Literal["sending", "receiving", "notices"]
"""What a setting of a mailbox is for; `notices` are the gateway's own, where they leave by this mailbox."""
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
Share = Literal["", "shared", "own"]
"""Whether a setting shares the mailbox's token; empty is the usual, as `MailboxSettings.owns` has it."""


class Way(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to sign in: an app, an account there and their token, or without an app with the password."""

    app_id: str | None
    account: str
    token_id: str | None


class Former(Way, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The way that served before. It is kept `until` (since 1970)."""

    until: float

    @property
    def way(self) -> Way:
        return Way(app_id=self.app_id, account=self.account, token_id=self.token_id)


class Apart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A setting that does not sign in as its mailbox does, by wish or since what the mailbox uses was refused for it.

    `switch` is what it waits for, `refused` what a server said when that was tried.
    """

    way: Way
    switch: Way | None = None
    refused: str = ""


class MailboxSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Sending and receiving settings. Empty text means: what the provider says."""

    method: str = ""
    smtp_user: str = ""
    imap_user: str = ""
    pop3_user: str = ""
    smtp: str = ""
    imap: str = ""
    pop3: str = ""
    timeout: float = 30.0
    send: bool = True
    sender: Literal["automatic", "as-given"] = "automatic"
    sender_name: str = ""
    sender_address: str = ""
    senders: tuple[str, ...] = ()
    ordered: bool = False
    receive: Literal["", "imap", "pop3"] = ""
    folder: str = "INBOX"
    check_interval: float = 60.0
    after_fetch: str = "keep"
    destination: str = ""
    token: Literal["shared", "own"] = "shared"  # noqa: S105 - a word of the contract
    sending_token: Share = ""
    receiving_token: Share = ""
    notices_token: Share = ""
    also_known_as: tuple[str, ...] = ()
    switch: Way | None = None
    former: Former | None = None
    apart: dict[Purpose, Apart] = {}
    formers: dict[Purpose, Former] = {}

    def enabled(self) -> tuple[Protocol, ...]:
        """The protocols this mailbox uses: the ones a token has to prove itself for."""
        sending: tuple[Protocol, ...] = ("smtp",) if self.send else ()
        return (*sending, self.receive) if self.receive else sending

    def protocol(self, purpose: Purpose) -> Protocol | None:
        """What a setting speaks; None where the mailbox does not use it."""
        if purpose == "receiving":
            return self.receive or None
        return "smtp" if self.send or purpose == "notices" else None

    def owns(self, purpose: Purpose) -> bool:
        """Whether a setting is to have a token of its own. Beside sending, POP3 has one unless told otherwise."""
        wish: Share = getattr(self, f"{purpose}_token")
        return wish == "own" or (not wish and purpose == "receiving" and self.receive == "pop3" and self.send)

    def purposes(self) -> tuple[Purpose, ...]:
        """The settings that need a token. A mailbox that neither sends nor receives keeps one as if it did send."""
        used = {"sending": self.send, "receiving": bool(self.receive), "notices": self.owns("notices")}
        return tuple(purpose for purpose in PURPOSES if used[purpose]) or ("sending",)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """`account` signs in; it is the address itself for a mailbox account. `app_id` is None with a password."""

    id: str
    address: str
    app_id: str | None
    account: str
    token_id: str | None
    has_password: bool
    default: bool
    origin: str
    version: int
    settings: MailboxSettings = field(default_factory=MailboxSettings)

    @property
    def way(self) -> Way:
        return Way(app_id=self.app_id, account=self.account, token_id=self.token_id)

    def by_way(self, way: Way) -> "Mailbox":
        return replace(self, app_id=way.app_id, account=way.account, token_id=way.token_id)

    def with_settings(self, settings: MailboxSettings) -> "Mailbox":
        return replace(self, settings=settings)

    @property
    def switched(self) -> "Mailbox":
        """This mailbox as it will be once the switch that waits has proved itself; itself where none waits."""
        switch = self.settings.switch
        return self if switch is None else self.by_way(switch)

    def for_setting(self, purpose: Purpose | None) -> "Mailbox":
        """This mailbox as a setting sees it: with the way, the switch and the former way that are the setting's."""
        apart = self.settings.apart.get(purpose) if purpose else None
        if purpose is None or apart is None:
            return self
        former = self.settings.formers.get(purpose)
        settings = msgspec.structs.replace(self.settings, switch=apart.switch, former=former)
        return replace(self.by_way(apart.way), settings=settings)

    def ways(self) -> Iterator[Way]:
        """All ways that serve some setting of it, or are to serve it."""
        yield self.way
        if self.settings.switch is not None:
            yield self.settings.switch
        for apart in self.settings.apart.values():
            yield apart.way
            if apart.switch is not None:
                yield apart.switch

    def tokens_in_use(self, now: float) -> set[str]:
        """Tokens that serve it, are to serve it, or may yet serve it again."""
        left = (self.settings.former, *self.settings.formers.values())
        kept = [former for former in left if former is not None and former.until > now]
        return {way.token_id for way in (*self.ways(), *kept) if way.token_id is not None}

    @property
    def expected_names(self) -> tuple[str, ...]:
        """Names under which the right person may sign in, case-folded."""
        return tuple(name.casefold() for name in (self.account, *self.settings.also_known_as))


@dataclass(frozen=True, slots=True)
class User:
    """The settings of a mailbox that use one token; `mailbox` as they see it."""

    mailbox: Mailbox
    purposes: tuple[Purpose, ...]

    def protocols(self) -> tuple[Protocol, ...]:
        """Each once."""
        spoken = (self.mailbox.settings.protocol(purpose) for purpose in self.purposes)
        return tuple(dict.fromkeys(protocol for protocol in spoken if protocol is not None))


def purpose_of(protocol: Protocol) -> Purpose:
    """Which setting of a mailbox speaks it, where it is not the gateway's notices."""
    return "sending" if protocol == "smtp" else "receiving"


def fold(address: str) -> str:
    """The form in which addresses are compared and stored."""
    return address.strip().casefold()


def is_address(text: str) -> bool:
    """At most 254 octets (RFC 5321 section 4.5.3.1.3, with its brackets)."""
    return len(text) <= 254 and ADDRESS.fullmatch(text) is not None and len(text.encode()) <= 254
