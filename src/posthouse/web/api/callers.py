"""Who calls, and what the key allows. Keys are made with `posthouse admin key`; the control socket needs none."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from posthouse.model.mailbox import Mailbox
from posthouse.services.editing import COMMAND_LINE, NETWORK, Rights
from posthouse.store import people
from posthouse.store.people import ApiKey
from posthouse.store.sealing import fingerprint
from posthouse.web.api.control import is_submitter, is_trusted
from posthouse.web.api.problems import not_found
from posthouse.web.parts import Parts

PERMISSIONS = ("read", "send", "receive", "manage")
_bearer = HTTPBearer(auto_error=False, description="A key made with `posthouse admin key`.")


@dataclass(frozen=True, slots=True)
class Caller:
    """`mailboxes` are the addresses the key is limited to; empty for all of them."""

    parts: Parts
    name: str
    permissions: frozenset[str] = frozenset(PERMISSIONS)
    mailboxes: frozenset[str] = frozenset()
    rights: Rights = NETWORK

    def may(self, permission: str) -> bool:
        """Whoever may manage may read as well."""
        return permission in self.permissions or (permission == "read" and "manage" in self.permissions)

    def sees(self, address: str) -> bool:
        return not self.mailboxes or address in self.mailboxes

    def sees_id(self, mailbox_id: str) -> bool:
        """A key for all mailboxes sees also what belongs to a mailbox that is gone."""
        mailbox = self.parts.directory.now.mailboxes.get(mailbox_id)
        return not self.mailboxes or (mailbox is not None and mailbox.address in self.mailboxes)

    def mailboxes_seen(self) -> list[Mailbox]:
        """By address."""
        snapshot = self.parts.directory.now
        if not self.mailboxes:
            return snapshot.ordered
        found = (snapshot.by_address.get(address) for address in sorted(self.mailboxes))
        return [mailbox for mailbox in found if mailbox is not None]

    def mailbox(self, name: str) -> Mailbox:
        """By id or address. Raises HTTPException 404, also for one the key is not meant for."""
        found = self.parts.directory.now.mailbox(name)
        if found is None or not self.sees(found.address):
            raise not_found("mailbox", name)
        return found

    def must_see_all(self) -> None:
        if self.mailboxes:
            raise HTTPException(HTTPStatus.FORBIDDEN, "This key is limited to some mailboxes.")


async def _caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Caller:
    parts: Parts = request.app.state.parts
    await parts.directory.refresh()
    if is_trusted(request.scope):
        return Caller(parts, "control", rights=COMMAND_LINE)
    if is_submitter(request.scope):
        return Caller(parts, "send", frozenset({"send"}))
    found = await find_key(parts, given.credentials) if given else None
    if found is None:
        challenge = {"WWW-Authenticate": 'Bearer realm="posthouse"'}
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "This needs a key: Authorization: Bearer …", challenge)
    return Caller(parts, found.name, frozenset(found.permissions), frozenset(found.mailboxes))


async def find_key(parts: Parts, key: str) -> ApiKey | None:
    return await parts.store.database.read(lambda tx: people.key(tx, fingerprint(key)))


def may(permission: str) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency: the caller, who has this permission."""

    async def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if not caller.may(permission):
            raise HTTPException(HTTPStatus.FORBIDDEN, f"This key may not {permission}.")
        return caller

    return check


Reader = Annotated[Caller, Depends(may("read"))]
Sender = Annotated[Caller, Depends(may("send"))]
Receiver = Annotated[Caller, Depends(may("receive"))]
Manager = Annotated[Caller, Depends(may("manage"))]
