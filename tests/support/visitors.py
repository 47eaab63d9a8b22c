"""People in front of our own page: a browser without a window, what it shows, and how they signed in."""

import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from html import unescape

import httpx2

from posthouse.secret import Secret
from posthouse.store import people
from posthouse.store.database import Transaction
from posthouse.store.ids import new_id
from posthouse.store.people import Administrator
from posthouse.store.sealing import fingerprint
from posthouse.web.passwords import hash_password
from posthouse.web.visits import SESSION
from tests.support.house import House

HOME = "http://localhost:8480"
SAME_SITE = {"origin": HOME, "sec-fetch-site": "same-origin"}


@dataclass(slots=True)
class Visitor:
    """Presses buttons as a browser does: with the token that the last page had in its forms."""

    http: httpx2.AsyncClient
    shown: str = ""

    async def look(self, path: str, **headers: str) -> httpx2.Response:
        answer = await self.http.get(path, headers=headers)
        if answer.headers.get("content-type", "").startswith("text/html"):
            self.shown = answer.text
        return answer

    async def press(self, path: str, *, token: str | None = None, **fields: str) -> httpx2.Response:
        given = self.form_token if token is None else token
        return await self.http.post(path, data={"token": given, **fields}, headers=SAME_SITE)

    @property
    def form_token(self) -> str:
        found = re.search(r'name="token" value="(\w+)"', self.shown)
        return found[1] if found else ""

    def text(self) -> str:
        """The last page as it is read: without tags."""
        return readable(self.shown)


def readable(page: str) -> str:
    body = page[page.find("<body") :]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


@contextlib.asynccontextmanager
async def visitor(house: House, *, language: str = "en", address: str = "192.0.2.7") -> AsyncIterator[Visitor]:
    """A stranger."""
    transport = httpx2.ASGITransport(app=house.gateway.web, client=(address, 40000), raise_app_exceptions=False)
    headers = {"accept-language": language}
    async with httpx2.AsyncClient(transport=transport, base_url=HOME, headers=headers) as http:
        yield Visitor(http)


@contextlib.asynccontextmanager
async def administrator(
    house: House, role: str = "administrator", permissions: Sequence[str] = (), *, language: str = "en"
) -> AsyncIterator[Visitor]:
    """Somebody who is signed in."""
    session = secrets.token_urlsafe(32)
    person = await add_person(house, role=role, permissions=permissions)

    async def work(tx: Transaction) -> None:
        now = house.clock()
        await people.open_session(tx, fingerprint(session), person.id, now, now + 3600)

    await house.parts.store.database.write(work)
    async with visitor(house, language=language) as made:
        made.http.cookies.set(SESSION, session, domain="localhost.local")
        await made.look("/outbox")
        yield made


async def add_person(
    house: House,
    name: str = "",
    *,
    role: str = "administrator",
    permissions: Sequence[str] = (),
    password: str = "",
) -> Administrator:
    hashed = hash_password(Secret(password)) if password else ""
    person = Administrator(new_id("ad"), name or new_id("person"), role, tuple(permissions), hashed)
    await house.parts.store.database.write(lambda tx: people.add(tx, person, house.clock()))
    return person
