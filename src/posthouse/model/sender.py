"""Which mailbox sends, and as whom (contract.md, "Which mailbox sends")."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from posthouse.model.device import Device
from posthouse.model.mailbox import Mailbox, fold


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """`sentence` fits the display of a printer."""

    sentence: str


def permitted_senders(mailbox: Mailbox) -> frozenset[str]:
    """Addresses the mailbox may send as, folded."""
    settings = mailbox.settings
    return frozenset(
        fold(a) for a in (mailbox.address, mailbox.account, settings.sender_address, *settings.senders) if a
    )


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


def check_sender(device: Device, mailbox: Mailbox, mail_from: str) -> NotAllowed | None:
    """Whether the device may give this MAIL FROM for this mailbox; the null sender is always allowed."""
    given = fold(mail_from)
    if device.settings.senders and given and not _among(given, device.settings.senders):
        return NotAllowed(f"Sender must be {device.settings.senders[0]}")
    if not mailbox.settings.send:
        return NotAllowed(f"{mailbox.address} does not send")
    if mailbox.settings.sender == "as-given" and given and given not in permitted_senders(mailbox):
        return NotAllowed(f"Sender must be {mailbox.address}")
    return None


def _among(address: str, patterns: Iterable[str]) -> bool:
    domain = "@" + address.rpartition("@")[2]
    return any(fold(pattern) in (address, domain) for pattern in patterns)
