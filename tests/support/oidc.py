"""The certified oidc-provider as a process of its own, and the door that its script has for tests."""

import contextlib
import json
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posthouse.secret import Secret
from tests.support.needs import OIDC, node
from tests.support.processes import Running, kept_running, private_directory, start, until_ready

SCOPES = ("mail", "offline_access", "openid", "email", "profile")


@dataclass(frozen=True, slots=True)
class Client:
    """A client that provider.mjs knows; `method` is how it authenticates at the token endpoint."""

    id: str
    secret: Secret | None
    method: str


PUBLIC = Client("posthouse-public", None, "none")
CONFIDENTIAL = Client("posthouse-secret", Secret("secret-of-the-tests"), "client_secret_basic")
POSTING = Client("posthouse-post", Secret("secret-of-the-tests"), "client_secret_post")
MAIL_SERVER = Client("mail-server", Secret("secret-of-the-mail-server"), "client_secret_basic")


@dataclass(frozen=True, slots=True)
class Provider:
    """Where it is; its door is asked over plain HTTP on loopback."""

    issuer: str
    log: Path

    @property
    def introspection(self) -> str:
        return f"{self.issuer}/token/introspection"

    def reset(self) -> None:
        """Forget every session, grant, token, count and fault."""
        self._door("/reset", {})

    def revoke(self, person: str) -> int:
        """End all grants of a person; how many there were."""
        return int(self._door("/revoke", {"person": person})["revoked"])

    def register(self, client_id: str, **metadata: object) -> None:
        """One more client until the next reset; `metadata` as in RFC 7591 section 2."""
        self._door("/client", {"client_id": client_id, **metadata})

    def lifetime(self, seconds: int) -> None:
        """Access tokens issued from now on live this long."""
        self._door("/lifetime", {"seconds": seconds})

    def fail(self, times: int, status: int = 503) -> None:
        """Answer the next token requests with a status, without looking at them."""
        self._door("/fail", {"times": times, "status": status})

    def lose_answers(self, times: int = 1) -> None:
        """Do what the next token requests ask, and cut the connection instead of answering."""
        self._door("/fail", {"times": times, "lose": True})

    def requests(self) -> dict[str, int]:
        """How often each grant type was asked for at the token endpoint and reached it."""
        return dict(self._door("")["requests"])

    def refusals(self) -> dict[str, int]:
        """How often the token endpoint answered with each error."""
        return dict(self._door("")["refusals"])

    def grants(self) -> int:
        """How many grants live."""
        return int(self._door("")["grants"])

    def _door(self, path: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.issuer}/door{path}", data, timeout=10) as answer:
            return dict(json.load(answer))


@contextlib.contextmanager
def provider() -> Iterator[Provider]:
    with private_directory("oidc") as private, socket.create_server(("127.0.0.1", 0)) as listening:
        running_at = Provider(f"http://127.0.0.1:{listening.getsockname()[1]}", private / "oidc.log")
        with kept_running(lambda: launch(running_at, listening)):
            listening.close()
            yield running_at


def launch(provider: Provider, listening: socket.socket) -> Running:
    program = node()
    assert program
    words = (program, OIDC / "provider.mjs", str(listening.fileno()))
    running = start("oidc-provider", words, provider.log, pass_fds=[listening.fileno()])
    return until_ready(running, lambda: discovered(provider))


def discovered(provider: Provider) -> bool:
    address = f"{provider.issuer}/.well-known/openid-configuration"
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
