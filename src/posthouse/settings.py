"""posthouse.toml and the environment, read into frozen settings; every mistake is reported at once."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from posthouse.model.mailbox import is_address
from posthouse.model.sizes import parse_size
from posthouse.problems import Problem, ProblemError, problem

Security = Literal["plain", "starttls", "tls"]
PLACES = (Path("posthouse.toml"), Path("/etc/posthouse/posthouse.toml"))
_LISTEN = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>\d{1,5})(?P<words>(?:\s+\w+)*)")
_SPAN = re.compile(r"([1-9]\d{0,3})\s*([mh])")
_DAYS = re.compile(r"([1-9]\d{0,4})\s*d")
MINUTE, DAY = 60.0, 86_400.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECURITIES = ("tls", "starttls", "plain")
_OVERRIDES = {
    "": ("external_url", "data", "database", "administrator", "trusted_proxies", "log_level", "message_size"),
    "listen": ("web", "smtp", "imap", "pop3", "submit"),
    "tls": ("certificate", "key"),
    "notices": ("mailbox", "webhook", "silence"),
    "retention": ("sent", "failed", "journal"),
}
"""What POSTHOUSE_… variables may say: POSTHOUSE_DATA, POSTHOUSE_LISTEN_SMTP and so on."""
MESSAGE_SIZE = 36_700_160
"""Octets of a message where nothing else is said."""
MESSAGE_SIZES = (64 * 1024, 1024**3)
_LISTS = ("trusted_proxies", "web", "smtp", "imap", "pop3")


@dataclass(frozen=True, slots=True)
class ListenAt:
    """`lane`: devices without a login are let in, fenced by their networks. `proxy`: PROXY protocol is read."""

    host: str
    port: int
    security: Security = "plain"
    lane: bool = False
    proxy: bool = False

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" or _is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds for which what is over is kept; 0 is for ever. `journal` holds for events as well."""

    sent: float = 90 * DAY
    failed: float = 0.0
    journal: float = 365 * DAY


@dataclass(frozen=True, slots=True)
class Settings:
    """The process. `external_url` is never empty; `database` is empty for the embedded one.

    `silence`: seconds without a success, although mail was due, after which it is told.
    """

    data: Path
    external_url: str
    database: str = field(default="", repr=False)
    administrator: str = ""
    trusted_proxies: tuple[str, ...] = ()
    web: ListenAt = ListenAt("127.0.0.1", 8480)
    smtp: tuple[ListenAt, ...] = (ListenAt("127.0.0.1", 1587),)
    imap: tuple[ListenAt, ...] = (ListenAt("127.0.0.1", 1993),)
    pop3: tuple[ListenAt, ...] = (ListenAt("127.0.0.1", 1995),)
    submit: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    notices_mailbox: str = ""
    notices_webhook: str = field(default="", repr=False)
    silence: float = 30 * MINUTE
    retention: Retention = field(default_factory=Retention)
    log_level: str = "info"
    key_in_keyring: bool = False
    message_size: int = MESSAGE_SIZE
    source: Path | None = None

    @property
    def secure_cookies(self) -> bool:
        return self.external_url.startswith("https://")


def find_file(option: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The configuration file: --config, POSTHOUSE_CONFIG, then the usual places. Raises ProblemError."""
    named = option or (Path(environment["POSTHOUSE_CONFIG"]) if environment.get("POSTHOUSE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise problem("config.missing", f"There is no configuration file {named}.", status=64)
        return named
    return next((place for place in PLACES if place.is_file()), None)


def read_settings(option: Path | None, environment: Mapping[str, str]) -> Settings:
    """Settings from the file that is found and from POSTHOUSE_… variables, which win. Raises ProblemError."""
    path = find_file(option, environment)
    table = _parse(path) if path else {}
    reading = _Reading(table, str(path or "environment"))
    settings = _read(reading, path, environment)
    if reading.problems:
        raise ProblemError(*reading.problems, status=64)
    return settings


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise problem("config.unreadable", f"{path} is not valid TOML: {cause}.", status=64) from None
    except OSError as cause:
        raise problem("config.unreadable", f"{path} cannot be read: {cause.strerror}.", status=64) from None


def _read(reading: "_Reading", path: Path | None, environment: Mapping[str, str]) -> Settings:
    reading.override(environment)
    sections = [name for name in _OVERRIDES if name]
    reading.refuse_unknown({*_OVERRIDES[""], "key", *sections})
    listen, tls, notices, retention = (reading.section(name) for name in sections)
    for section in (listen, tls, notices, retention):
        section.refuse_unknown(set(_OVERRIDES[section.prefix.rstrip(".")]))
    web = _web(listen)
    settings = Settings(
        data=_data(reading, path),
        external_url=_external_url(reading, web),
        database=_database(reading),
        administrator=_address(reading, "administrator"),
        trusted_proxies=_trusted_proxies(reading),
        web=web,
        smtp=listen.places("smtp", (ListenAt("127.0.0.1", 1587),)),
        imap=listen.places("imap", (ListenAt("127.0.0.1", 1993),)),
        pop3=listen.places("pop3", (ListenAt("127.0.0.1", 1995),)),
        submit=Path(listen.text("submit")) if listen.text("submit") else None,
        certificate=tls.path("certificate"),
        key=tls.path("key"),
        notices_mailbox=_address(notices, "mailbox"),
        notices_webhook=_webhook(notices),
        silence=_silence(notices),
        retention=_retention(retention),
        log_level=_log_level(reading),
        key_in_keyring=_key_in_keyring(reading),
        message_size=_message_size(reading),
        source=path,
    )
    _check_tls(reading, settings)
    return settings


def _data(reading: "_Reading", path: Path | None) -> Path:
    if named := reading.text("data"):
        return Path(named)
    in_etc = path is not None and path.resolve().is_relative_to("/etc")
    return Path("/var/lib/posthouse") if in_etc else Path("posthouse-data")


def _external_url(reading: "_Reading", web: ListenAt) -> str:
    url = reading.text("external_url").rstrip("/")
    if not url:
        return f"{'https' if web.security == 'tls' else 'http'}://localhost:{web.port}"
    if not _is_web_address(url) or "?" in url or "#" in url:
        reading.complain("external_url", "This is not an address of a page.", 'Write "https://mail.example.com".')
    return url


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    plain = url.isascii() and not any(c <= " " for c in url) and parts.username is None
    return parts.scheme in ("http", "https") and bool(host) and plain


def _webhook(notices: "_Reading") -> str:
    url = notices.text("webhook")
    if url and not _is_web_address(url):
        notices.complain("webhook", "This is not an address to post to.", 'Write "https://chat.example.com/hook".')
    return url


def _silence(notices: "_Reading") -> float:
    written = notices.text("silence").strip()
    found = _SPAN.fullmatch(written or "30m")
    if found is None:
        notices.complain("silence", f"{written!r} is not a time to wait.", 'Write "30m", or "2h".')
        return 30 * MINUTE
    return float(found[1]) * (60 * MINUTE if found[2] == "h" else MINUTE)


def _retention(reading: "_Reading") -> Retention:
    usual = Retention()
    return Retention(
        sent=_days(reading, "sent", usual.sent),
        failed=_days(reading, "failed", usual.failed),
        journal=_days(reading, "journal", usual.journal),
    )


def _days(reading: "_Reading", key: str, usual: float) -> float:
    written = reading.text(key).strip()
    if written in ("", "forever"):
        return 0.0 if written else usual
    found = _DAYS.fullmatch(written)
    if found is None:
        reading.complain(key, f"{written!r} is not a number of days.", 'Write "90d", or "forever".')
        return usual
    return float(found[1]) * DAY


def _web(listen: "_Reading") -> ListenAt:
    places = listen.places("web", (ListenAt("127.0.0.1", 8480),))
    if len(places) > 1:
        listen.complain("web", "Page and API listen at one place only.", "Name one.")
    if places[0].security == "starttls":
        listen.complain("web", "A page knows no starttls.", "Write tls, or plain behind a proxy.")
    return places[0]


def _trusted_proxies(reading: "_Reading") -> tuple[str, ...]:
    proxies = tuple(reading.texts("trusted_proxies"))
    for proxy in proxies:
        try:
            ip_network(proxy, strict=False)
        except ValueError:
            hint = 'Write "10.0.0.5" or "10.0.0.0/24".'
            reading.complain("trusted_proxies", f"{proxy!r} is not an IP address or network.", hint)
    return proxies


def _message_size(reading: "_Reading") -> int:
    written = reading.text("message_size")
    try:
        size = parse_size(written) if written else MESSAGE_SIZE
    except ProblemError as wrong:
        reading.complain("message_size", wrong.problems[0].sentence, wrong.problems[0].hint)
        return MESSAGE_SIZE
    if not MESSAGE_SIZES[0] <= size <= MESSAGE_SIZES[1]:
        reading.complain("message_size", "The largest message has to lie between 64 KB and 1 GB.", 'Write "100 MB".')
    return size


def _database(reading: "_Reading") -> str:
    url = reading.text("database")
    if url and not url.startswith(("postgresql://", "postgres://")):
        reading.complain(
            "database", "Only postgresql:// addresses are understood.", "Leave it out for the embedded one."
        )
    return url


def _address(reading: "_Reading", key: str) -> str:
    address = reading.text(key)
    if address and not is_address(address):
        reading.complain(key, f"{address!r} is not an e-mail address.")
    return address


def _log_level(reading: "_Reading") -> str:
    level = reading.text("log_level") or "info"
    if level not in ("debug", "info", "warning", "error"):
        reading.complain("log_level", f"{level!r} is not a level.", "Write debug, info, warning or error.")
    return level


def _key_in_keyring(reading: "_Reading") -> bool:
    """The key itself never stands in this file; POSTHOUSE_KEY, which may hold it, is read where it is needed."""
    where = reading.text("key")
    if where not in ("", "keyring"):
        reading.complain("key", "This names the place of the master key, and is not the key.", 'Write "keyring".')
    return where == "keyring"


def _check_tls(reading: "_Reading", settings: Settings) -> None:
    if (settings.certificate is None) != (settings.key is None):
        reading.complain("tls", "certificate and key belong together: one of them is missing.")
    has_tls = bool(reading.section("tls").text("certificate"))
    if settings.web.security == "plain" and not settings.web.loopback and not settings.trusted_proxies:
        reading.complain(
            "listen.web",
            f"{settings.web} would show the page in the clear over the network.",
            "Write tls behind it, or name the proxy that speaks TLS for it in trusted_proxies.",
        )
    if settings.web.security == "tls" and not has_tls:
        reading.complain("listen.web", f"{settings.web} offers TLS, but there is no certificate.", "Add [tls].")
    for name in ("smtp", "imap", "pop3"):
        for place in getattr(settings, name):
            if place.security != "plain" and not has_tls:
                reading.complain(f"listen.{name}", f"{place} offers TLS, but there is no certificate.", "Add [tls].")
            if place.security == "plain" and not place.loopback and not place.lane:
                reading.complain(
                    f"listen.{name}",
                    f"{place} would take passwords in the clear over the network.",
                    "Write starttls or tls behind it, or lane for devices that cannot.",
                )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(slots=True)
class _Reading:
    table: dict[str, Any]
    source: str
    problems: list[Problem] = field(default_factory=list)
    prefix: str = ""

    def complain(self, key: str, sentence: str, hint: str = "") -> None:
        self.problems.append(Problem("config.wrong", sentence, hint, f"{self.source}, {self.prefix}{key}"))

    def override(self, environment: Mapping[str, str]) -> None:
        """Take what the environment says in place of the file; several values are separated by commas."""
        for section, names in _OVERRIDES.items():
            for name in names:
                value = environment.get("_".join(part for part in ("POSTHOUSE", section, name) if part).upper())
                if value is not None and (value or section):
                    self._put(section, name, value)

    def _put(self, section: str, name: str, value: str) -> None:
        table = self.table.setdefault(section, {}) if section else self.table
        if isinstance(table, dict):
            several = [part.strip() for part in value.split(",") if part.strip()]
            table[name] = several if name in _LISTS else value

    def section(self, name: str) -> "_Reading":
        found = self.table.get(name, {})
        if not isinstance(found, dict):
            self.complain(name, f"[{name}] has to be a table.")
            found = {}
        return _Reading(found, self.source, self.problems, f"{name}.")

    def refuse_unknown(self, known: set[str]) -> None:
        for key in self.table:
            if key not in known:
                hint = f"Known here: {', '.join(sorted(known))}."
                sentence = f"{self.prefix}{key} is not a setting."
                self.problems.append(Problem("config.unknown", sentence, hint, self.source))

    def text(self, key: str) -> str:
        value = self.table.get(key, "")
        if not isinstance(value, str):
            self.complain(key, f"{key} has to be text in quotes.")
            return ""
        return value

    def texts(self, key: str) -> list[str]:
        value = self.table.get(key, [])
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.complain(key, f'{key} has to be text, or a list such as ["…"].')
            return []
        return value

    def path(self, key: str) -> Path | None:
        text = self.text(key)
        if text and not Path(text).is_file():
            self.complain(key, f"There is no file {text}.")
            return None
        return Path(text) if text else None

    def places(self, key: str, default: tuple[ListenAt, ...]) -> tuple[ListenAt, ...]:
        if key not in self.table:
            return default
        found = [place for text in self.texts(key) if (place := self._place(key, text)) is not None]
        return tuple(found) if found or key != "web" else default

    def _place(self, key: str, text: str) -> ListenAt | None:
        match = _LISTEN.fullmatch(text.strip())
        words = set((match["words"] or "").split()) if match else set()
        securities = words & set(_SECURITIES)
        unknown = words - {*_SECURITIES, "lane", "proxy"}
        if match is None or unknown or len(securities) > 1 or int(match["port"]) > 65535:
            self.complain(key, f"{text!r} is not a place to listen at.", 'Write "127.0.0.1:1587 plain".')
            return None
        security = next(iter(securities), "plain")
        return ListenAt(
            match["six"] or match["host"],
            int(match["port"]),
            cast(Security, security),
            "lane" in words,
            "proxy" in words,
        )
