"""Which mailbox sends, and as whom (contract.md, "Which mailbox sends")."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from posthouse.model.device import Device
from posthouse.model.mailbox import Mailbox, fold

SenderState = Literal["allowed", "refused"]
REFUSED_FOR = 3600.0
"""Seconds for which a device is told of a refusal at once; what it sends later asks the provider again."""
_NAMED = re.compile(r"not allowed to send as <?([^\s<>;,]{3,254})", re.IGNORECASE)


class Learnt(Struct, frozen=True):
    """What a provider said of an address as sender for one mailbox. `answer`: its words, where it refused."""

    address: str
    state: SenderState
    answer: str
    since: float


def refused_address(answer: str, sender: str, mailbox: Mailbox) -> str:
    """Whom a refusal means: the address it names (the one in From may differ from the envelope's), else the sender.

    An address that the mailbox has no business with is not believed.
    """
    named = _NAMED.search(answer)
    address = fold(named[1]) if named else ""
    return address if address in permitted_senders(mailbox) else fold(sender)


class NotAllowed(Struct, frozen=True):
    """`sentence` fits the display of a printer."""

    sentence: str


def permitted_senders(mailbox: Mailbox) -> frozenset[str]:
    """Addresses the mailbox may send as, folded."""
    settings = mailbox.settings
    return frozenset(
        fold(a) for a in (mailbox.address, mailbox.account, settings.sender_address, *settings.senders) if a
    )


def sender_doubt(mailbox: Mailbox, learnt: Iterable[Learnt]) -> Literal["", "unproved", "refused"]:
    """What is against the sender that an automatic mailbox writes into its mail.

    Unproved: it is neither the mailbox nor who signs in, and the provider has not taken it yet.
    """
    if not mailbox.settings.send or mailbox.settings.sender != "automatic":
        return ""
    sender = fold(mailbox.settings.sender_address or mailbox.address)
    state = next((one.state for one in learnt if one.address == sender), "")
    if state == "refused":
        return "refused"
    return "" if state or sender in (mailbox.address, fold(mailbox.account)) else "unproved"


def choose_mailbox(
    device: Device, named: str, mail_from: str, mailboxes: Mapping[str, Mailbox]
) -> Mailbox | NotAllowed:
    """The mailbox by the login (`named`, an address or empty), else by MAIL FROM, else the device's first.

    `mailboxes` holds all of them by folded address.
    """
    allowed = [mailboxes[address] for address in device.settings.mailboxes if address in mailboxes]
    if named:
        return next(
            (m for m in allowed if m.address == fold(named)), NotAllowed("This device may not use that mailbox")
        )
    by_sender = next((m for m in allowed if fold(mail_from) in permitted_senders(m)), None)
    if by_sender is not None:
        return by_sender
    return allowed[0] if allowed else NotAllowed("This device has no mailbox")


Refuses = Callable[[str, str], bool]
"""Whether a provider refused an address as sender a moment ago: id of the mailbox, address."""


def check_sender(device: Device, mailbox: Mailbox, mail_from: str, refuses: Refuses) -> NotAllowed | None:
    """Whether the device may give this MAIL FROM for this mailbox; the null sender is always allowed."""
    given = fold(mail_from)
    if device.settings.senders and given and not _among(given, device.settings.senders):
        return NotAllowed(f"Sender must be {device.settings.senders[0]}")
    if not mailbox.settings.send:
        return NotAllowed(f"{mailbox.address} does not send")
    return check_given("Sender", mailbox, mail_from, refuses)


def check_given(place: str, mailbox: Mailbox, address: str, refuses: Refuses) -> NotAllowed | None:
    """Whether the address may be the sender; `place` is where it stands. One that will be replaced always may."""
    if mailbox.settings.sender != "as-given" or not address:
        return None
    if fold(address) not in permitted_senders(mailbox):
        return NotAllowed(f"{place} must be {mailbox.address}")
    return NotAllowed(f"Provider refuses sender {address}") if refuses(mailbox.id, address) else None


def _among(address: str, patterns: Iterable[str]) -> bool:
    domain = "@" + address.rpartition("@")[2]
    return any(fold(pattern) in (address, domain) for pattern in patterns)
