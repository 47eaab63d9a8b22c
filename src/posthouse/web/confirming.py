"""Whether somebody who is signed in has shown so lately: asked before stored secrets may go to another server."""

from typing import cast

from posthouse.secret import Secret
from posthouse.services.editing import Rights
from posthouse.store import people
from posthouse.store.sealing import fingerprint
from posthouse.web.passwords import Busy, Passwords
from posthouse.web.visits import Visit

FRESH = 600.0
"""Seconds after a sign-in."""
FIELD = "confirmation"
"""The field of a form that holds the visitor's own password once more."""


async def rights(visit: Visit) -> Rights:
    """What the page allows this visitor. A right password in the form counts as a sign-in."""
    if visit.person is None or visit.person.role != "administrator" or visit.session is None:
        return Rights()
    wanted = fingerprint(visit.session.reveal())
    opened = await visit.parts.store.database.read(lambda tx: people.opened_at(tx, wanted))
    if visit.now - opened <= FRESH:
        return Rights(redirect=True)
    if not await _is_right(visit):
        return Rights()
    await visit.parts.store.database.write(lambda tx: people.renew_session(tx, wanted, visit.now))
    return Rights(redirect=True)


async def _is_right(visit: Visit) -> bool:
    given = visit.form.get(FIELD, "")
    passwords = cast(Passwords, visit.request.app.state.passwords)
    if not given or visit.person is None or passwords.wait(visit.address) > 0:
        return False
    try:
        return await passwords.check(visit.person.password_hash, Secret(given), visit.address)
    except Busy:
        return False
