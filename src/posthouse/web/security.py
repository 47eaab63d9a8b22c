"""Who may do what on the page, and what every answer says to keep others out.

Three things stand in front of a write: where the request comes from (`Guard`), a form that was made for this very
session, and the role of whoever sends it (`Require`). Every page route that changes something has a `Require`.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posthouse.secret import Secret
from posthouse.settings import LOOPBACK, Settings
from posthouse.store.people import Administrator
from posthouse.store.sealing import Sealer

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
ROLES = ("administrator", "limited", "auditor")
PERMISSIONS = ("tokens", "queue", "settings")
"""What a limited administrator may be allowed: get and delete tokens; try again and remove queued mail; make, change
and remove mailboxes and what belongs to them."""
PROBES = ("/healthz", "/readyz")
"""Asked by machines under whatever name they know; they tell nothing about anybody."""


def may(person: Administrator, permission: str) -> bool:
    """An empty permission is what everybody who is signed in may do."""
    if person.role == "administrator" or not permission:
        return True
    return person.role == "limited" and permission in person.permissions


def form_token(sealer: Sealer, session: Secret) -> str:
    """What forms carry: it fits one session only, and nothing can be learnt from it about the session."""
    return hmac.digest(sealer.derive("forms of the page"), session.reveal().encode(), "sha256").hex()


def fits(sealer: Sealer, session: Secret, given: str) -> bool:
    return hmac.compare_digest(form_token(sealer, session).encode(), given.encode())


@dataclass(frozen=True, slots=True)
class Origins:
    """Names under which we may be asked."""

    external: str

    def knows(self, host: str) -> bool:
        """Whether a Host header is ours: external_url's, or a loopback name with any port."""
        return _trimmed(host) == self.external or _is_loopback(host)


def origins(settings: Settings) -> Origins:
    return Origins(_trimmed(urlsplit(settings.external_url).netloc))


def _trimmed(host: str) -> str:
    return host.lower().removesuffix(":80").removesuffix(":443")


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in LOOPBACK or _is_loopback_number(name)


def _is_loopback_number(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "127" and len(parts) == 4 and all(part.isdecimal() for part in parts)


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that another site made it send this (Fetch Metadata; RFC 6454 section 7)."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and _trimmed(urlsplit(origin).netloc) != _trimmed(headers.get("host", ""))


def content_policy(settings: Settings, *, leaves: bool = False) -> str:
    """`leaves`: the form of this page ends at the provider, by way of redirects that nobody knows beforehand."""
    external = urlsplit(settings.external_url)
    targets = "'self' https: http:" if leaves else f"'self' {external.scheme}://{external.netloc}"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        f"form-action {targets}; frame-ancestors 'none'; base-uri 'none'"
    )


class Guard:
    """In front of everything: refuses foreign names and foreign sites, and adds what protects a page."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._origins = origins(settings)
        self._defaults = {
            "content-security-policy": content_policy(settings),
            "x-frame-options": "DENY",
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "cache-control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def protect(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"].startswith("/static/"):
                    headers["cache-control"] = "no-cache"
                for name, value in self._defaults.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, protect)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        if not self._origins.knows(headers.get("host", "")) and scope["path"] not in PROBES:
            sentence = "This address is not the one in external_url, so it is not answered."
            return PlainTextResponse(f"{sentence}\n", HTTPStatus.MISDIRECTED_REQUEST)
        if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
            return PlainTextResponse("No address of ours has a NUL in it.\n", HTTPStatus.BAD_REQUEST)
        if scope["method"] not in SAFE_METHODS and is_foreign(headers):
            return PlainTextResponse("This was sent by another site, so nothing was done.\n", HTTPStatus.FORBIDDEN)
        return None
