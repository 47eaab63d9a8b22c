"""The values of an apply file: checked at the door, and brought into the form that is stored and compared."""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from ipaddress import ip_network
from typing import Any

from posthouse.model.endpoint import parse_endpoint
from posthouse.model.mailbox import fold, is_address
from posthouse.problems import ProblemError

LONGEST = 1000
MOST = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DURATION = re.compile(r"(\d{1,6})\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE = re.compile(r"([1-9]\d{0,6})/([smhd])")
_DOMAIN = re.compile(r"@[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f]+")

Read = Callable[[str, object], Any]
"""Key and value in, the stored form out: text, number, truth value or list of texts. Raises `Wrong`."""


class Wrong(Exception):
    """What is wrong with a value, in one sentence, and how to write it."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint


def text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{key} has to be text in quotes.")
    if len(value) > LONGEST:
        raise Wrong(f"{key} is longer than {LONGEST} characters.")
    if has_control(value):
        raise Wrong(f"{key} may hold no line breaks or control characters.")
    return value.strip()


def has_control(value: str) -> bool:
    return _CONTROL.search(value) is not None


def needed_text(key: str, value: object) -> str:
    read = text(key, value)
    if not read:
        raise Wrong(f"{key} is empty.")
    return read


def device_name(key: str, value: object) -> str:
    name = needed_text(key, value)
    if "@" in name or "\\" in name:
        raise Wrong(f"{key} may hold neither @ nor a backslash.", 'Devices log in with it, as in "printer-2nd-floor".')
    return name


def flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{key} has to be true or false, without quotes.")
    return value


def word(*words: str) -> Read:
    def read(key: str, value: object) -> str:
        if value not in words:
            raise Wrong(f"{key} is not one of the words known here.", f"Write {_either(words)}.")
        return str(value)

    return read


def words(*known: str) -> Read:
    def read(key: str, value: object) -> list[str]:
        found = texts(key, value)
        if not found or set(found) - set(known):
            raise Wrong(f"{key} has to be a list of {_either(known)}.")
        return found

    return read


def texts(key: str, value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > MOST or not all(isinstance(item, str) for item in value):
        raise Wrong(f'{key} has to be a list of texts, such as ["…"].')
    return list(dict.fromkeys(needed_text(key, item) for item in value))


def address(key: str, value: object) -> str:
    read = needed_text(key, value)
    if not is_address(read):
        raise Wrong(f"{key}: {read[:80]!r} is not an e-mail address.")
    return fold(read)


def address_or_nothing(key: str, value: object) -> str:
    return "" if value == "" else address(key, value)


def addresses(key: str, value: object) -> list[str]:
    return list(dict.fromkeys(address(key, item) for item in texts(key, value)))


def senders(key: str, value: object) -> list[str]:
    """Addresses, and whole domains written `@example.com`."""
    return [fold(item) if _DOMAIN.fullmatch(item) else address(key, item) for item in texts(key, value)]


def folded(key: str, value: object) -> str:
    return fold(needed_text(key, value))


def folded_texts(key: str, value: object) -> list[str]:
    return [fold(item) for item in texts(key, value)]


def server(key: str, value: object) -> str:
    """Empty for the provider's own."""
    written = text(key, value)
    try:
        return str(parse_endpoint(written)) if written else ""
    except ProblemError as error:
        raise Wrong(f"{key}: {error.problems[0].sentence}", error.problems[0].hint) from None


def duration(shortest: float, longest: float) -> Read:
    def read(key: str, value: object) -> float:
        written = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if written is None:
            raise Wrong(f"{key} is not a time.", 'Write "30s", "1m", "2h" or "1d".')
        seconds = float(written[1]) * _SECONDS[written[2]]
        if not shortest <= seconds <= longest:
            raise Wrong(f"{key} has to lie between {spoken(shortest)} and {spoken(longest)}.")
        return seconds

    return read


def rate(key: str, value: object) -> str:
    """Empty for no limit."""
    written = text(key, value)
    if written and not _RATE.fullmatch(written):
        raise Wrong(f"{key} is not a rate.", 'Write "60/h" for sixty messages an hour; s, m, h and d are known.')
    return written


def networks(key: str, value: object) -> list[str]:
    found = []
    for item in texts(key, value):
        try:
            found.append(str(ip_network(item, strict=False)))
        except ValueError:
            raise Wrong(f"{key}: {item[:80]!r} is not a network.", 'Write "10.0.0.0/8" or "192.168.1.20".') from None
    return found


def after_fetch(key: str, value: object) -> str:
    written = text(key, value)
    if written not in ("keep", "delete") and not (written.startswith("move:") and written[5:].strip()):
        raise Wrong(f"{key} is not one of the words known here.", 'Write "keep", "delete" or "move:Archive".')
    return written


def day(key: str, value: object) -> str:
    """As 2027-05-01."""
    try:
        found = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, date):
        raise Wrong(f"{key} is not a date.", "Write 2027-05-01, without quotes.")
    return (found.date() if isinstance(found, datetime) else found).isoformat()


def day_or_nothing(key: str, value: object) -> str:
    return "" if value == "" else day(key, value)


def _either(known: tuple[str, ...]) -> str:
    quoted = [f'"{item}"' for item in known if item]
    return ", ".join(quoted[:-1]) + f" or {quoted[-1]}" if len(quoted) > 1 else quoted[0]


def spoken(seconds: float) -> str:
    """As `duration` reads it."""
    unit, size = next((unit, size) for unit, size in reversed(_SECONDS.items()) if seconds % size == 0)
    return f"{seconds / size:.0f}{unit}"


MAILBOX_SETTINGS: Mapping[str, Read] = {
    "method": word("browser", "device", "paste", "app", "link"),
    "smtp_user": text,
    "imap_user": text,
    "pop3_user": text,
    "smtp": server,
    "imap": server,
    "pop3": server,
    "timeout": duration(1, 600),
    "send": flag,
    "sender": word("automatic", "as-given"),
    "sender_name": text,
    "sender_address": address_or_nothing,
    "senders": addresses,
    "ordered": flag,
    "receive": word("imap", "pop3", ""),
    "folder": needed_text,
    "check_interval": duration(5, 86_400),
    "after_fetch": after_fetch,
    "destination": text,
    "token": word("shared", "own"),
    "sending_token": word("shared", "own", ""),
    "receiving_token": word("shared", "own", ""),
    "notices_token": word("shared", "own", ""),
    "also_known_as": folded_texts,
}
DEVICE_SETTINGS: Mapping[str, Read] = {
    "mailboxes": addresses,
    "protocols": words("smtp", "imap", "pop3"),
    "networks": networks,
    "senders": senders,
    "rate": rate,
    "ordered": flag,
    "lane": word("open", ""),
    "deadline": duration(60, 30 * 86_400),
}
VALUES: Mapping[str, Mapping[str, Read]] = {
    "app": {
        "provider": needed_text,
        "client_id": needed_text,
        "secret_expires": day_or_nothing,
        "tenant": text,
        "testing": flag,
    },
    "mailbox": {"app": text, "signs_in_as": folded, "default": flag, **MAILBOX_SETTINGS},
    "device": DEVICE_SETTINGS,
    "destination": dict.fromkeys(("webhook", "maildir", "lmtp", "smtp", "command"), lambda _, value: value),
}
"""What each kind of item may hold besides its name and its secret. Providers are read by their own room."""

NAMES: Mapping[str, tuple[str, Read]] = {
    "provider": ("name", needed_text),
    "app": ("name", needed_text),
    "mailbox": ("address", address),
    "device": ("name", device_name),
    "destination": ("name", needed_text),
}
SECRETS: Mapping[str, str] = {"app": "client_secret", "mailbox": "password", "device": "password"}
