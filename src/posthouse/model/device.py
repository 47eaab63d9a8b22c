"""A device: a printer, program or person with a local password of its own."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from posthouse.model.message import DEADLINE


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`deadline`: seconds in which its mail has to be delivered, else it fails."""

    mailboxes: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ("smtp",)
    networks: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    rate: str = ""
    ordered: bool = False
    lane: Literal["", "open"] = ""
    deadline: float = DEADLINE


@dataclass(frozen=True, slots=True)
class Device:
    """`password_hash` says how to check the password, never what it is. `mailboxes` are addresses, folded."""

    id: str
    name: str
    origin: str
    version: int
    password_hash: str = field(repr=False, default="")
    settings: DeviceSettings = field(default_factory=DeviceSettings)

    def admits(self, peer: str) -> bool:
        """Whether it may come from this IP address; a device without networks may come from anywhere."""
        return not self.settings.networks or is_among(peer, self.settings.networks)


def is_among(peer: str, networks: Iterable[str]) -> bool:
    """Whether an IP address lies in one of the networks; one mapped into IPv6 counts as what it is."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(network, strict=False) for network in networks)


def login_names(login: str) -> tuple[str, str]:
    """Device name and mailbox address out of `device`, `device\\mailbox` or `user@domain` (mailbox only)."""
    device, backslash, mailbox = login.partition("\\")
    if backslash:
        return device, mailbox
    return ("", login) if "@" in login else (login, "")
