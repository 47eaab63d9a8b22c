"""SASL mechanisms, both sides, as SMTP, IMAP and POP3 share them (RFC 4422).

The client side makes responses, the server side reads them. Everything that crosses the wire is in base64
without its line end; the words around it ("334 ", "+ ", "AUTH", "AUTHENTICATE") belong to the engines.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from posthouse.secret import Secret

RESPONSE_LIMIT = 12288
"""Octets of one line of an exchange (RFC 4954 section 4)."""

NUL = "\0"
CTRL_A = "\1"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPED_NAME = re.compile(r"(?:[^=,]|=2C|=3D)*")


class BadExchange(Exception):
    """The peer's response is none of its mechanism. The text is a fixed phrase without secrets."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client says it is and how it proves it: a password or, for the OAuth mechanisms, an access token.

    `user` may be empty with OAUTHBEARER, where the token alone can name the account (RFC 7628 section 3.1).
    """

    mechanism: str
    user: str
    secret: Secret = field(repr=False)
    authzid: str = ""


# Client side


def plain(user: str, password: Secret) -> Secret:
    """The PLAIN response in base64 (RFC 4616 section 2)."""
    return _encoded(f"\0{_without(user, NUL)}\0{_without(password.reveal(), NUL)}")


def xoauth2(user: str, token: Secret) -> Secret:
    """The XOAUTH2 response in base64 (Google's "XOAUTH2 Protocol" page; Microsoft documents the same)."""
    return _encoded(f"user={_without(user, CTRL_A)}\1auth=Bearer {_without(token.reveal(), CTRL_A)}\1\1")


def oauthbearer(user: str, token: Secret, host: str = "", port: int = 0) -> Secret:
    """The OAUTHBEARER response in base64 (RFC 7628 section 3.1), the name escaped (RFC 5801 section 4)."""
    name = _without(user, CTRL_A).replace("=", "=3D").replace(",", "=2C")
    server = (f"host={host}\1" if host else "") + (f"port={port}\1" if port else "")
    return _encoded(f"n,a={name},\1{server}auth=Bearer {_without(token.reveal(), CTRL_A)}\1\1")


def responses(mechanism: str, user: str, secret: Secret, host: str = "", port: int = 0) -> tuple[Secret, ...]:
    """What a client says, response by response: two for LOGIN, one for the others. Raises KeyError."""
    if mechanism == "LOGIN":
        return _encoded(user), _encoded(secret.reveal())
    if mechanism == "OAUTHBEARER":
        return (oauthbearer(user, secret, host, port),)
    return ({"PLAIN": plain, "XOAUTH2": xoauth2}[mechanism](user, secret),)


def answer_to_challenge(mechanism: str) -> bytes:
    """What to send after a challenge that nothing is left to say to.

    Such a challenge tells why an OAuth response was refused; the refusal follows once it is answered. XOAUTH2
    wants an empty line, OAUTHBEARER a lone 0x01 (RFC 7628 section 3.2.3); others are cancelled.
    """
    return {"XOAUTH2": b"", "OAUTHBEARER": b"AQ=="}.get(mechanism, b"*")


def read_challenge(challenge: bytes) -> str:
    """The text of a challenge, mostly JSON, for people and the error catalogue; no base64: as it is."""
    try:
        octets = _octets(challenge)
    except BadExchange:
        octets = challenge
    return octets.decode(errors="replace")


def pick_mechanism(offered: Iterable[str], allowed: tuple[str, ...] = ("XOAUTH2", "OAUTHBEARER")) -> str | None:
    """The first of `allowed` that the server offers, or None."""
    names = {name.upper() for name in offered}
    return next((name for name in allowed if name in names), None)


# Server side


def decode_plain(message: bytes) -> Credentials:
    """Raises BadExchange."""
    parts = _text(message).split(NUL)
    if len(parts) != 3:
        raise BadExchange("a PLAIN response has three parts")
    authzid, user, password = parts
    return _login("PLAIN", user, password, authzid)


def decode_login(user: bytes, password: bytes) -> Credentials:
    """Raises BadExchange."""
    return _login("LOGIN", _text(user), _text(password))


def decode_xoauth2(message: bytes) -> Credentials:
    """Raises BadExchange."""
    fields = _fields(_text(message))
    user = fields.get("user", "")
    if not user:
        raise BadExchange("the response names no user")
    return Credentials("XOAUTH2", _name(user), _bearer(fields))


def decode_oauthbearer(message: bytes) -> Credentials:
    """Raises BadExchange. Channel binding is refused, as the mechanism has none (RFC 7628 section 3.1)."""
    header, _, rest = _text(message).partition(CTRL_A)
    match header.split(","):
        case ["n" | "y", who, ""] if who == "" or who.startswith("a="):
            name = _unescaped(who.removeprefix("a="))
        case _:
            raise BadExchange("the response does not begin with a proper header")
    return Credentials("OAUTHBEARER", _name(name), _bearer(_fields(rest)))


def challenge(text: str) -> bytes:
    """A challenge in base64, such as the JSON that tells why a token was refused (RFC 7628 section 3.2.2)."""
    return base64.b64encode(text.encode())


class OneResponse:
    """A server's side of a mechanism where a single response carries everything."""

    __slots__ = ("_decode",)

    def __init__(self, decode: Callable[[bytes], Credentials]) -> None:
        self._decode = decode

    def start(self, initial: bytes | None) -> bytes | Credentials:
        """A challenge to send, or what the client said. `initial` is None when nothing was said yet."""
        return b"" if initial is None else self.next(_initial(initial))

    def next(self, response: bytes) -> bytes | Credentials:
        """As `start`, with the client's next line. Both raise BadExchange."""
        return self._decode(_octets(response))


class LoginExchange:
    """A server's side of LOGIN: name and password are asked for one by one."""

    __slots__ = ("_user",)

    def __init__(self) -> None:
        self._user: bytes | None = None

    def start(self, initial: bytes | None) -> bytes | Credentials:
        """The first challenge; a client may send the name at once."""
        return b"VXNlcm5hbWU6" if initial is None else self.next(_initial(initial))

    def next(self, response: bytes) -> bytes | Credentials:
        """The second challenge, then what the client said. Raises BadExchange."""
        if self._user is None:
            self._user = _octets(response)
            return b"UGFzc3dvcmQ6"
        return decode_login(self._user, _octets(response))


Exchange = OneResponse | LoginExchange

_EXCHANGES: dict[str, Callable[[], Exchange]] = {
    "PLAIN": lambda: OneResponse(decode_plain),
    "LOGIN": LoginExchange,
    "XOAUTH2": lambda: OneResponse(decode_xoauth2),
    "OAUTHBEARER": lambda: OneResponse(decode_oauthbearer),
}


def exchange(mechanism: str) -> Exchange:
    """A server's side of one exchange. Raises KeyError for a mechanism that is not in `known_mechanisms`."""
    return _EXCHANGES[mechanism]()


known_mechanisms = frozenset(_EXCHANGES)


# Shared


def _encoded(message: str) -> Secret:
    return Secret(base64.b64encode(message.encode()).decode())


def _without(text: str, separator: str) -> str:
    if separator in text:
        raise ValueError("the separator of the mechanism stands in a name or secret")
    return text


def _initial(response: bytes) -> bytes:
    """`=` stands for an initial response that is there and empty (RFC 4954 section 4)."""
    return b"" if response == b"=" else response


def _octets(response: bytes) -> bytes:
    try:
        return binascii.a2b_base64(response, strict_mode=True)
    except binascii.Error:
        raise BadExchange("the response is not in base64") from None


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise BadExchange("the response is not in UTF-8") from None


def _name(user: str) -> str:
    if _CONTROLS.search(user):
        raise BadExchange("the user name has control characters")
    return user


def _login(mechanism: str, user: str, password: str, authzid: str = "") -> Credentials:
    if not user:
        raise BadExchange("the response names no user")
    if not password:
        raise BadExchange("the response has no password")
    return Credentials(mechanism, _name(user), Secret(password), _name(authzid))


def _fields(message: str) -> dict[str, str]:
    """The pieces `name=value` between the octets 0x01, which also end the message twice."""
    if not message.endswith(CTRL_A * 2):
        raise BadExchange("the response does not end as it should")
    pieces = (piece.partition("=") for piece in message[:-2].split(CTRL_A))
    return {name: value for name, _, value in pieces}


def _bearer(fields: dict[str, str]) -> Secret:
    scheme, _, token = fields.get("auth", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise BadExchange("the response has no bearer token")
    return Secret(token.strip())


def _unescaped(name: str) -> str:
    if not _ESCAPED_NAME.fullmatch(name):
        raise BadExchange("the name is not escaped properly")
    return name.replace("=2C", ",").replace("=3D", "=")
