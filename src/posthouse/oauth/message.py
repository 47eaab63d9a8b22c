"""The two things that pass between the flows and whoever does HTTP: a request to make, an answer to read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlencode

from posthouse.secret import Secret

MAX_ANSWER = 1024 * 1024
"""Octets. Whoever does HTTP stops reading a body one octet past this; the readers call such a body too large."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; a POST carries `body()`, made of `form`. Redirects are not followed."""

    method: Literal["GET", "POST"]
    url: str
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    form: Mapping[str, str | Secret] = field(default_factory=dict)

    def header_texts(self) -> dict[str, str]:
        """The headers with their secrets in the open: for the wire only."""
        return {name: _open(value) for name, value in self.headers.items()}

    def body(self) -> bytes:
        """The form as it goes over the wire, secrets in the open; empty for a GET."""
        return urlencode({name: _open(value) for name, value in self.form.items()}).encode("ascii")

    def secrets(self) -> tuple[Secret, ...]:
        """Everything in it that an answer must not bring back into a log."""
        return tuple(value for value in (*self.headers.values(), *self.form.values()) if isinstance(value, Secret))


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; the body is decoded from its transfer and content encodings."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str:
        """The value of a header, its name in any case; "" when there is none."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), "")


def get(url: str, *, bearer: Secret | None = None) -> Request:
    """A request for JSON, with an access token where given (RFC 6750 section 2.1)."""
    headers: dict[str, str | Secret] = {"Accept": "application/json"}
    if bearer is not None:
        headers["Authorization"] = Secret(f"Bearer {bearer.reveal()}")
    return Request("GET", url, headers)


def post(url: str, form: Mapping[str, str | Secret], headers: Mapping[str, str | Secret] | None = None) -> Request:
    usual = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    return Request("POST", url, {**usual, **(headers or {})}, form)


def _open(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value
