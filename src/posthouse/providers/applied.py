"""Providers from apply files: a `[[provider]]` table becomes a `Provider`, all its mistakes told at once."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from posthouse.model.endpoint import Endpoint, parse_endpoint
from posthouse.model.sizes import parse_size
from posthouse.problems import Problem, ProblemError
from posthouse.providers.provider import PROTOCOLS, Limits, Provider, Scopes, built_in, keeps_token
from posthouse.providers.urls import why_unusable

URLS = (
    "issuer",
    "authorize_url",
    "token_url",
    "device_url",
    "revoke_url",
    "introspection_url",
    "userinfo_url",
    "jwks_url",
)
"""Where people are sent to sign in, and where secrets and tokens go."""
COUNTS = tuple(name for name in Limits.__struct_fields__ if name != "size")
"""Limits that are whole numbers."""
KEYS = frozenset({"name", "title", "ca_file", "scopes", "limits", "own_redirect", *URLS, *PROTOCOLS})
IDENTITY_SCOPES = ("openid", "email", "profile")


def from_apply(table: Mapping[str, object], where: str = "provider") -> Provider:
    """The provider a `[[provider]]` table describes; with a built-in's name, that one with changes.

    Raises `ProblemError` with every problem found; `where` is the beginning of each problem's place.
    """
    reading = _Reading(table, where)
    name = reading.text("name")
    base = built_in().get(name, Provider(name=name, title=name, offered_scopes=IDENTITY_SCOPES))
    changes = _changes(reading)
    reading.refuse_others(KEYS)
    provider = replace(base, **changes)
    _check_whole(provider, reading)
    if reading.problems:
        raise ProblemError(*reading.problems)
    return provider


@dataclass(slots=True)
class _Reading:
    """A table being read: values that make sense are returned, the others become problems."""

    table: Mapping[str, object]
    where: str
    problems: list[Problem] = field(default_factory=list)

    def complain(self, id: str, key: str, sentence: str, hint: str = "") -> None:
        self.problems.append(Problem(f"provider.{id}", sentence, hint, f"{self.where}.{key}"))

    def text(self, key: str) -> str:
        value = self.table.get(key, "")
        if isinstance(value, str) and len(value) <= 4096:
            return value.strip()
        self.complain("text", key, f"{key} has to be a text.")
        return ""

    def flag(self, key: str) -> bool:
        if not isinstance(value := self.table[key], bool):
            self.complain("flag", key, f"{key} has to be true or false, without quotes.")
        return bool(value)

    def url(self, key: str) -> str:
        url = self.text(key)
        wrong = why_unusable(url.replace("{tenant}", "tenant")) if url else ""
        if wrong:
            self.complain("url", key, f"{key} {wrong}.", "Sign-in addresses begin with https://.")
        return url

    def scopes(self, key: str) -> tuple[str, ...]:
        value = self.table.get(key, [])
        if isinstance(value, list) and all(isinstance(scope, str) and _is_scope(scope) for scope in value):
            return tuple(value)
        self.complain("scopes", key, "scopes has to be a list of words.", 'For example ["mail", "offline_access"].')
        return ()

    def parsed(self, key: str, parse: Callable[[Any, str], Any]) -> Any:
        """What `parse` makes of the value; its problems become ours."""
        try:
            return parse(self.table[key], f"{self.where}.{key}")
        except ProblemError as error:
            self.problems.extend(error.problems)
            return None

    def count(self, key: str) -> int | None:
        value = self.table[key]
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9:
            return value
        self.complain("count", key, f"{key} has to be a whole number above 0.")
        return None

    def refuse_others(self, known: Collection[str]) -> None:
        for key in sorted(set(self.table) - set(known)):
            self.complain("unknown-key", key, f"{key} is not a setting here.", f"Known: {', '.join(sorted(known))}.")


def _changes(reading: _Reading) -> dict[str, Any]:
    table = reading.table
    changes: dict[str, Any] = {key: reading.url(key) for key in URLS if key in table}
    changes |= {key: reading.text(key) for key in ("title", "ca_file") if key in table}
    changes |= {key: reading.flag(key) for key in ("own_redirect",) if key in table}
    changes |= {key: reading.parsed(key, _server) for key in PROTOCOLS if key in table}
    if "scopes" in table:
        scopes = reading.scopes("scopes")
        changes |= {"delegated": Scopes(scopes, scopes, scopes), "app_only": Scopes(scopes, scopes, scopes)}
    if "limits" in table:
        changes["limits"] = _limits(reading)
    return changes


def _server(value: object, where: str) -> Endpoint:
    if not isinstance(value, str):
        raise ProblemError(Problem("endpoint.unreadable", "A server address is a text.", "", where))
    return parse_endpoint(value, where)


def _limits(reading: _Reading) -> Limits:
    table = reading.table["limits"]
    if not isinstance(table, Mapping):
        reading.complain("limits", "limits", "limits has to be a table.", "Write [provider.limits].")
        return Limits()
    inner = _Reading(table, f"{reading.where}.limits", reading.problems)
    inner.refuse_others({*COUNTS, "size"})
    counts = {key: inner.count(key) for key in COUNTS if key in table}
    return Limits(**counts, size=inner.parsed("size", parse_size) if "size" in table else None)


def _check_whole(provider: Provider, reading: _Reading) -> None:
    if not reading.table.get("name"):
        reading.complain("name", "name", "A provider needs a name.")
    if not any(provider.endpoint(protocol) for protocol in PROTOCOLS) and not reading.problems:
        reading.complain("servers", "smtp", "No mail server is named.", "Give smtp, imap or pop3.")
    for protocol in PROTOCOLS if provider.has_oauth else ():
        server = provider.endpoint(protocol)
        if server is not None and not keeps_token(provider, server):
            hint = "Write starttls or tls: whoever sees a token can use it."
            reading.complain("clear", protocol, f"{server} would be sent tokens in the clear.", hint)
    if provider.issuer:
        return
    begins = provider.authorize_url or provider.device_url
    if bool(begins) != bool(provider.token_url):
        hint = "Give issuer for discovery, or token_url and authorize_url or device_url."
        reading.complain("sign-in", "issuer", "The sign-in is named only in part.", hint)


def _is_scope(text: str) -> bool:
    """RFC 6749 section 3.3."""
    return 0 < len(text) <= 300 and all("!" <= c <= "~" and c not in '"\\' for c in text)
