"""Whether mail can be kept at the moment, and if not why: the one cause, and the one step that mends it."""

from posthouse.problems import TEMPORARY, Problem, ProblemError
from posthouse.store import messages
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, NotOnDisk
from posthouse.store.opening import Store
from posthouse.store.trouble import Trouble

RESERVE = 64 * 1024 * 1024
"""Octets of disk that are left free for what was accepted already; with less, mail is not taken."""


def trouble_of(store: Store) -> Trouble | None:
    return Trouble.FULL if store.spool.free() <= RESERVE else store.database.fared.trouble


def problem_of(store: Store) -> Problem | None:
    """None while everything can be written."""
    trouble = trouble_of(store)
    return describe(trouble, store.spool.place) if trouble else None


def refused(store: Store) -> ProblemError:
    """Something could not be written, or read, a moment ago."""
    known = problem_of(store)
    return ProblemError(known or describe(Trouble.AWAY, store.spool.place), status=TEMPORARY)


async def was_accepted(store: Store, message_id: str, unheard: CommitUnknown) -> bool:
    """Whether a message is on disk of whose commit nothing was heard. Raises CommitUnknown where nobody can tell."""
    if isinstance(unheard, NotOnDisk):
        raise unheard
    try:
        return await store.database.read(lambda tx: messages.exists(tx, message_id))
    except DatabaseUnavailable:
        raise unheard from None


def describe(trouble: Trouble, place: str) -> Problem:
    match trouble:
        case Trouble.FULL:
            sentence = f"The disk of {place} is full: mail is refused for now, and none is lost."
            return Problem("disk.full", sentence, "Make space on it: 64 MB have to be free.")
        case Trouble.UNWRITABLE:
            sentence = f"The disk of {place} cannot be written to: mail is refused for now, and none is lost."
            hint = "See in the system's log why, mount it for writing again, then restart Posthouse."
            return Problem("disk.unwritable", sentence, hint)
        case Trouble.LOCKED:
            sentence = "Another program holds the database: mail is refused for now, and none is lost."
            return Problem("database.locked", sentence, "End what has posthouse.sqlite open, such as an sqlite3 shell.")
        case Trouble.AWAY:
            sentence = "The database does not answer: mail is refused for now, and none is lost."
            return Problem(
                "database.unavailable", sentence, "Check that it is running, and `database` in posthouse.toml."
            )
