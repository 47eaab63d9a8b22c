"""Makes notices of events, and ends them when what they are about is mended.

An event and the reader's new place are one commit, so that neither another node nor a `kill -9` makes two notices of
it, or none. What a notice is about ends when it is no longer so, however that came about.
"""

import asyncio
import contextlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

import structlog

from posthouse.model.mailbox import Mailbox
from posthouse.model.notice import ONCE, WHAT, About, Notice
from posthouse.model.token import TokenState
from posthouse.services import reporting
from posthouse.services.clock import Clock
from posthouse.services.directory import Directory
from posthouse.services.forewarning import Forewarning
from posthouse.services.telling import DEVICE, Telling
from posthouse.services.watchdog import DISK, PARKED, SILENT, STUCK
from posthouse.store import authorisations, events, messages, notices, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.events import Event
from posthouse.store.opening import Store

READER = "notices"
POLL = 1.0
MENDED_POLL, EXPIRING_POLL = 5.0, 600.0
"""Seconds between two looks whether something is mended."""
TOO_OLD = 86_400.0
"""Seconds after which an event is no news any more."""
LONGEST_CAUSE = 200

log = structlog.get_logger("notices")


@dataclass(frozen=True, slots=True)
class _Found:
    """What is to be noted of an event; `news` as in `notices.happened`."""

    topic: str
    cause: str
    about: tuple[About, ...]
    news: bool = False


@dataclass(slots=True)
class Notices:
    store: Store
    directory: Directory
    clock: Clock
    forewarning: Forewarning
    telling: Telling
    _mended_at: float = 0.0
    _expiring_at: float = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
                await self.look()
            await asyncio.sleep(POLL)

    async def look(self) -> None:
        """Note what has happened and what is mended, and tell what is due."""
        await self._read_events()
        if self.clock() >= self._mended_at + MENDED_POLL:
            self._mended_at = self.clock()
            await self.mend()
        await self.telling.look()

    async def _read_events(self) -> None:
        database = self.store.database
        position = await database.read(lambda tx: events.position_of(tx, READER))
        while found := await database.read(lambda tx, after=position: events.after(tx, after)):  # type: ignore[misc]
            await self.directory.refresh()
            for event in found:
                if event.kind in WHAT and event.at > self.clock() - TOO_OLD:
                    await self._note(event)
            position = found[-1].id
            await database.write(lambda tx, to=position: events.move(tx, READER, to))  # type: ignore[misc]

    async def _note(self, event: Event) -> None:
        async def work(tx: Transaction) -> None:
            if await events.move(tx, READER, event.id):
                found = await self._found(tx, event)
                for about in found.about if found else ():
                    assert found is not None  # noqa: S101
                    topic = f"{event.kind} {found.topic}"
                    await notices.happened(tx, event.at, event.kind, topic, found.cause, about, news=found.news)

        await self.store.database.write(work, long=True)

    async def _found(self, tx: Transaction, event: Event) -> _Found | None:
        """None for what deserves no notice."""
        match event.kind:
            case "token.invalid":
                return await self._token_invalid(tx, event)
            case "token.expiring":
                return await self._expires(tx, event)
            case "message.failed":
                return await self._message_failed(tx, event)
            case "message.parked":
                return await self._message_parked(tx, event)
            case "disk.full":
                return _Found("", "", (About(event.subject, event.subject, event.at),))
        return self._of_mailbox(event)

    async def _token_invalid(self, tx: Transaction, event: Event) -> _Found | None:
        """All mailboxes that log in with it. With one cause, an app registration's tokens are one notice."""
        token = await tokens.get(tx, event.subject)
        if token is None or token.state is not TokenState.INVALID:
            return None
        users = self.directory.now.uses_now(token.id)
        about = tuple(About(user.mailbox.id, user.mailbox.address, event.at) for user in users)
        return _Found(f"{token.app_id} {token.reason}", token.reason, about)

    async def _expires(self, tx: Transaction, event: Event) -> _Found:
        token = await tokens.get(tx, event.subject)
        what, name = str(event.document["what"]), str(event.document["name"])
        return _Found(
            f"{what} {token.app_id if token else event.subject}",
            what,
            (About(event.subject, name, event.at),),
            news=True,
        )

    async def _message_failed(self, tx: Transaction, event: Event) -> _Found | None:
        """Not for a notice or a delivery report: that would go on in a circle."""
        failed = await messages.one(tx, event.subject)
        if failed is None or failed.device in (DEVICE, reporting.DEVICE):
            return None
        return self._about(failed.mailbox_id, event, failed.mailbox_id, failed.cause or failed.answer, news=True)

    async def _message_parked(self, tx: Transaction, event: Event) -> _Found | None:
        """A token that is invalid has its own notice; what waits for days is told besides."""
        mailbox = self.directory.now.mailboxes.get(event.subject)
        token = await tokens.get(tx, mailbox.token_id or "") if mailbox else None
        days = event.document.get("days")
        if days is None and token is not None and token.state is not TokenState.NOT_ACQUIRED:
            return None
        cause = "" if days is None else "for 1 day" if days == 1 else f"for {days} days"
        return self._about(event.subject, event, _fold(mailbox), cause, news=days is not None)

    def _of_mailbox(self, event: Event) -> _Found | None:
        mailbox = self.directory.now.mailboxes.get(event.subject)
        return self._about(event.subject, event, _fold(mailbox), str(event.document.get("cause", "")))

    def _about(self, mailbox_id: str, event: Event, topic: str, cause: str, *, news: bool = False) -> _Found | None:
        mailbox = self.directory.now.mailboxes.get(mailbox_id)
        if mailbox is None:
            return None
        return _Found(topic, _one_line(cause), (About(mailbox.id, mailbox.address, event.at),), news)

    async def acknowledge(self, notice_id: str, person: str) -> Notice | None:
        """The notice of which `person` has taken note; None where there is none."""
        now = self.clock()

        async def work(tx: Transaction) -> Notice | None:
            found = await notices.one(tx, notice_id)
            if found is not None:
                await notices.acknowledge(tx, notice_id, person, now, end=found.kind in ONCE)
            return await notices.one(tx, notice_id)

        return await self.store.database.write(work)

    # What is mended

    async def mend(self) -> int:
        """End what is no longer so; how many."""
        going_on = await self.store.database.read(notices.going_on)
        if all(notice.kind in ONCE for notice in going_on):
            return 0
        await self.directory.refresh()
        standing = await self.store.database.read(self._standing)
        if self.clock() >= self._expiring_at + EXPIRING_POLL:
            self._expiring_at = self.clock()
            standing["token.expiring"] = await self.forewarning.standing()
        over = [pair for pair in _of_kinds(going_on, standing) if pair[1] not in standing[pair[0].kind]]
        now = self.clock()

        async def work(tx: Transaction) -> None:
            for notice, subject in over:
                await notices.mend(tx, notice, subject, now)

        if over:
            await self.store.database.write(work, long=True)
            log.info("notices mended", count=len(over))
        return len(over)

    async def _standing(self, tx: Transaction) -> dict[str, set[str]]:
        """The subjects of which it is still so, by kind of notice."""
        snapshot = self.directory.now
        invalid = [token.id for token in await tokens.invalid(tx)]
        episodes = await notices.episodes(tx)
        unverified = [one for one in await authorisations.open_ones(tx, self.store.sealer) if one.state == "unverified"]
        parked = {subject for subject, what in episodes if what == PARKED} | {*await messages.parked_since(tx)}
        return {
            "token.invalid": {user.mailbox.id for one in invalid for user in snapshot.uses_now(one)},
            "message.parked": parked & snapshot.mailboxes.keys(),
            "queue.stuck": {subject for subject, what in episodes if what == STUCK},
            "mailbox.silent": {subject for subject, what in episodes if what == SILENT},
            "disk.full": {subject for subject, what in episodes if what == DISK},
            "authorisation.waiting": {one.mailbox_id for one in unverified},
        }


def _of_kinds(going_on: Iterable[Notice], kinds: Container[str]) -> Iterator[tuple[Notice, str]]:
    """What those notices are about."""
    for notice in going_on:
        if notice.kind in kinds:
            yield from ((notice, one.subject) for one in notice.concerned)


def _fold(mailbox: Mailbox | None) -> str:
    """What stops all mailboxes of an app registration is one notice."""
    return (mailbox.app_id or mailbox.id) if mailbox else ""


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:LONGEST_CAUSE]
