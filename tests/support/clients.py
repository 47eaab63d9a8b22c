"""Programs in front of the REST API: over the control socket's door, or over the network with a key."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2

from posthouse.web.api.control import trusted
from tests.support.house import House

HOME = "http://localhost:8480"
FAR = ("192.0.2.7", 40000)


class Client:
    """Paths are those under /api/v1."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http

    async def get(self, path: str, **query: Any) -> httpx2.Response:
        return await self.http.get(f"/api/v1{path}", params=query)

    async def post(self, path: str, body: Any = None, **query: Any) -> httpx2.Response:
        return await self.http.post(f"/api/v1{path}", json=body, params=query)

    async def delete(self, path: str, **query: Any) -> httpx2.Response:
        return await self.http.delete(f"/api/v1{path}", params=query)

    async def hand_in(self, text: bytes, key: str = "", **query: Any) -> httpx2.Response:
        headers = {"content-type": "message/rfc822"} | ({"idempotency-key": key} if key else {})
        return await self.http.post("/api/v1/messages", content=text, headers=headers, params=query)

    async def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        answer = await self.get(path, **query)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])


@contextlib.asynccontextmanager
async def over_socket(house: House) -> AsyncIterator[Client]:
    """Whoever can open the control socket."""
    transport = httpx2.ASGITransport(app=trusted(house.gateway.web), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield Client(http)


@contextlib.asynccontextmanager
async def over_network(house: House, key: str = "", *, peer: tuple[str, int] = FAR) -> AsyncIterator[Client]:
    transport = httpx2.ASGITransport(app=house.gateway.web, client=peer, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(transport=transport, base_url=HOME, headers=headers) as http:
        yield Client(http)


async def make_key(house: House, *permissions: str, mailboxes: Sequence[str] = (), name: str = "program") -> str:
    async with over_socket(house) as client:
        body = {"name": name, "permissions": permissions, "mailboxes": mailboxes}
        answer = await client.post("/control/keys", body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])
