"""Where a mail server listens: host, port and how TLS begins, written `mail.example.com:587 starttls`."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Literal, cast, get_args

from posthouse.problems import Problem, ProblemError

Security = Literal["tls", "starttls", "plain"]

USUAL_SECURITY: dict[int, Security] = {465: "tls", 993: "tls", 995: "tls"}
USUAL_SECURITY |= dict.fromkeys((25, 110, 143, 587), "starttls")

_WRITTEN = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})(?:\s+(?P<tls>\S+))?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`tls` is "tls" (from the first octet, RFC 8314), "starttls" (RFC 3207) or "plain" (no encryption)."""

    host: str
    port: int
    tls: Security

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} {self.tls}"


def parse_endpoint(text: str, where: str = "") -> Endpoint:
    """Reads `HOST:PORT tls|starttls|plain`; the mode may be left out on a mail port. Raises `ProblemError`."""
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise _bad(text, where, "is not a server address.")
    port = int(written["port"])
    if not 0 < port < 65536:
        raise _bad(text, where, "has a port that does not exist.")
    return Endpoint(_host(written, text, where), port, _security(written["tls"], port, text, where))


def _host(written: re.Match[str], text: str, where: str) -> str:
    try:
        if written["six"]:
            return str(IPv6Address(written["six"]))
        host = written["host"].lower().rstrip(".").encode("idna").decode("ascii")
    except (AddressValueError, UnicodeError):
        raise _bad(text, where, "has a host name that cannot exist.") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise _bad(text, where, "has a host name that cannot exist.")
    return host


def _security(word: str | None, port: int, text: str, where: str) -> Security:
    if word is None and port in USUAL_SECURITY:
        return USUAL_SECURITY[port]
    if word not in get_args(Security):
        raise _bad(text, where, "does not say how TLS begins.")
    return cast("Security", word)


def _bad(text: str, where: str, what: str) -> ProblemError:
    hint = "Write it as mail.example.com:587 starttls (or tls, or plain)."
    return ProblemError(Problem("endpoint.unreadable", f"{text[:80]!r} {what}", hint, where))
