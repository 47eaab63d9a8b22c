"""The only place that speaks HTTP as a client: one request of the flows, one bounded answer.

httpx2 is loaded with the first request, since listeners have to be up before it is needed.
"""

import asyncio
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from posthouse.model.outcome import Unreachable
from posthouse.net.connect import client_context
from posthouse.oauth.message import MAX_ANSWER, Answer, Request

if TYPE_CHECKING:
    import httpx2


class HttpClient:
    """Keeps connections to the providers, but no cookies; follows no redirects; `proxy` and the rest as the
    environment says. Each server has connections of its own, so that one that hangs takes none from another.
    """

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], httpx2.AsyncClient] = {}

    async def ask(self, request: Request, *, deadline: float, ca_file: str = "") -> Answer | Unreachable:
        """Send `request` and read the answer within `deadline` seconds, from connect to the last octet."""
        content = request.body() if request.method == "POST" else None
        headers = request.header_texts()
        if content is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        return await self._ask(request.method, request.url, headers, content, deadline, ca_file)

    async def post(self, url: str, headers: dict[str, str], content: bytes, *, deadline: float) -> Answer | Unreachable:
        """Post `content` and read the answer, as `ask` does."""
        return await self._ask("POST", url, headers, content, deadline)

    async def _ask(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None, deadline: float, ca_file: str = ""
    ) -> Answer | Unreachable:
        import httpx2

        sent = False
        try:
            async with asyncio.timeout(deadline):
                client = self._client(ca_file, urlsplit(url).netloc)
                sent = True
                async with client.stream(method, url, headers=headers, content=content) as response:
                    return Answer(response.status_code, dict(response.headers), await _bounded(response))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as cause:
            return Unreachable(f"no connection: {_plain(cause)}")
        except TimeoutError:
            return Unreachable("no answer in time", outcome_unknown=sent)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as cause:
            return Unreachable(f"no answer: {_plain(cause)}", outcome_unknown=sent)

    def _client(self, ca_file: str, server: str) -> "httpx2.AsyncClient":
        import httpx2

        if (ca_file, server) not in self._clients:
            context = client_context(Path(ca_file) if ca_file else None)
            limits = httpx2.Limits(max_connections=200, max_keepalive_connections=100)
            self._clients[ca_file, server] = httpx2.AsyncClient(
                verify=context, follow_redirects=False, timeout=None, limits=limits, cookies=_no_cookies()
            )
        return self._clients[ca_file, server]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()


def _no_cookies() -> CookieJar:
    """One that keeps nothing: what a server says to one account must not come back with another."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


async def _bounded(response: "httpx2.Response") -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            break
    return bytes(body[: MAX_ANSWER + 1])


def _plain(cause: Exception) -> str:
    return (str(cause) or type(cause).__name__)[:200]
