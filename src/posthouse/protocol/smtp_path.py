"""The arguments of MAIL and RCPT: an address and parameters, read leniently (RFC 5321 section 4.1.2)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

ADDRESS_LIMIT = 320
PARAMETERS_LIMIT = 20

_ARGUMENT = re.compile(r" *(?:<([^<>]*)>|([^ <>]+))(?: +(.*))?", re.DOTALL)
_ROUTE = re.compile(r"@[^:]*:")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f<>\u2028\u2029]")


class BadPath(Exception):
    """What is wrong with the address or the parameters, as a fixed phrase."""


@dataclass(frozen=True, slots=True)
class Path:
    """`address` without its brackets, empty for `<>`; `parameters` by name in upper case."""

    address: str
    parameters: Mapping[str, str]


def parse_path(argument: str) -> Path:
    """Reads what follows `FROM:` or `TO:`; devices put a blank before the address or leave out `<>`.

    A source route is dropped (RFC 5321 appendix C). Raises BadPath.
    """
    found = _ARGUMENT.fullmatch(argument)
    if not found:
        raise BadPath("an address in <> is expected")
    address = found[1] if found[1] is not None else found[2]
    if address.startswith("@"):
        address = _ROUTE.sub("", address, count=1)
    if address:
        check_address(address)
    return Path(address, _parameters(found[3]))


def check_address(address: str) -> None:
    """Whether the address can be put on a line between `<` and `>`. Raises BadPath."""
    if len(address if address.isascii() else address.encode()) > ADDRESS_LIMIT:
        raise BadPath("the address is too long")
    if _UNSAFE.search(address):
        raise BadPath("the address has a blank or another character that may not stand there")
    if address.startswith("@") or address.endswith("@"):
        raise BadPath("the address is not complete")


def _parameters(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    words = text.split()
    if len(words) > PARAMETERS_LIMIT:
        raise BadPath("there are too many parameters")
    pairs = (word.partition("=") for word in words)
    return {name.upper(): value for name, _, value in pairs}
