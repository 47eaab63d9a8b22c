"""A mailbox and its settings, as an administrator gives them."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

ADDRESS = re.compile(r"[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f]+@[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f]+")
"""What is taken for an address: one @, no blanks, quotes or control characters."""

Protocol = Literal["smtp", "imap", "pop3"]


class Switch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another way to sign in that is wanted, and takes over when its token has proved itself."""

    app_id: str
    account: str
    token_id: str


class Former(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The way to sign in that served before; without an app it is the password. It is kept `until` (since 1970)."""

    app_id: str | None
    account: str
    token_id: str | None
    until: float


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
    receive: Literal["", "imap", "pop3"] = ""
    folder: str = "INBOX"
    check_interval: float = 60.0
    after_fetch: str = "keep"
    destination: str = ""
    token: Literal["shared", "own"] = "shared"  # noqa: S105 - a word of the contract
    also_known_as: tuple[str, ...] = ()
    switch: Switch | None = None
    former: Former | None = None

    def enabled(self) -> tuple[Protocol, ...]:
        """The protocols this mailbox uses: the ones a token has to prove itself for."""
        sending: tuple[Protocol, ...] = ("smtp",) if self.send else ()
        return (*sending, self.receive) if self.receive else sending


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
    def switched(self) -> "Mailbox":
        """This mailbox as it will be once the switch that waits has proved itself; itself where none waits."""
        switch = self.settings.switch
        if switch is None:
            return self
        return replace(self, app_id=switch.app_id, account=switch.account, token_id=switch.token_id)

    def tokens_in_use(self, now: float) -> set[str]:
        """Tokens that serve it, are to serve it, or may yet serve it again."""
        former = self.settings.former
        kept = former.token_id if former is not None and former.until > now else None
        return {token for token in (self.token_id, self.switched.token_id, kept) if token is not None}

    @property
    def expected_names(self) -> tuple[str, ...]:
        """Names under which the right person may sign in, case-folded."""
        return tuple(name.casefold() for name in (self.account, *self.settings.also_known_as))


def fold(address: str) -> str:
    """The form in which addresses are compared and stored."""
    return address.strip().casefold()


def is_address(text: str) -> bool:
    return len(text) <= 254 and ADDRESS.fullmatch(text) is not None
