"""Mail kept in memory: folders of messages, as the sandbox's IMAP and POP3 servers show them.

Values and rules only. Whoever changes a store counts `changes` up, so that a driver knows when to call `poll()` of the
IMAP connections that are waiting.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

FOLDERS = 500
"""How many folders a store may have."""

NAME = 200
"""How long the name of a folder may be."""

MESSAGES = 100_000
"""How many messages a folder may have."""


class NotPossible(Exception):
    """The store refuses; the text says why in a sentence for the client."""


@dataclass(frozen=True, slots=True)
class Message:
    """`flags` are spelled as `flag` spells them; `date` (with time zone) is when the message arrived."""

    uid: int
    date: datetime
    body: bytes = field(repr=False)
    flags: frozenset[str] = frozenset()


class Folder:
    """Messages by UID, in order. `version` grows with every change."""

    __slots__ = ("messages", "name", "subscribed", "uidnext", "uidvalidity", "version")

    def __init__(self, name: str, uidvalidity: int) -> None:
        self.name = name
        self.uidvalidity = uidvalidity
        self.uidnext = 1
        self.subscribed = True
        self.messages: dict[int, Message] = {}
        self.version = 0


class MailStore:
    """The folders of one mailbox; INBOX is always there and its name is not case-sensitive. `quota` is in octets."""

    def __init__(self, folders: Iterable[str] = (), quota: int = 1 << 30) -> None:
        self.changes = 0
        self.quota = quota
        self.octets = 0
        self._validity = 0
        self._folders: dict[str, Folder] = {}
        for name in ("INBOX", *folders):
            self.create(name)

    def __iter__(self) -> Iterator[Folder]:
        return iter(self._folders.values())

    def find(self, name: str) -> Folder | None:
        return self._folders.get(_spelled(name))

    def folder(self, name: str) -> Folder:
        """Raises NotPossible."""
        found = self.find(name)
        if found is None:
            raise NotPossible(f"Folder {name[:60]} doesn't exist.")
        return found

    def create(self, name: str) -> None:
        """Raises NotPossible."""
        name = _spelled(name.rstrip("/"))
        if not name or len(name) > NAME or not name.isprintable():
            raise NotPossible("This cannot be the name of a folder.")
        if name in self._folders or len(self._folders) >= FOLDERS:
            raise NotPossible("The folder exists already." if name in self._folders else "Too many folders.")
        self._validity += 1
        self._folders[name] = Folder(name, self._validity)
        self.changes += 1

    def delete(self, name: str) -> None:
        """Raises NotPossible."""
        folder = self.folder(name)
        if folder.name == "INBOX":
            raise NotPossible("INBOX cannot be deleted.")
        self.expunge(folder, tuple(folder.messages))
        del self._folders[folder.name]

    def rename(self, name: str, new: str) -> None:
        """Raises NotPossible."""
        folder = self.folder(name)
        if folder.name == "INBOX":
            raise NotPossible("INBOX cannot be renamed.")
        self.create(new)
        made = self._folders.pop(_spelled(new.rstrip("/")))
        del self._folders[folder.name]
        folder.name = made.name
        self._folders[folder.name] = folder

    def deliver(self, body: bytes, date: datetime, flags: Iterable[str] = (), folder: str = "INBOX") -> int:
        """Put a message into a folder; its UID. Raises NotPossible."""
        target = self.folder(folder)
        if len(target.messages) >= MESSAGES or self.octets + len(body) > self.quota:
            raise NotPossible("The mailbox is full.")
        self.octets += len(body)
        uid = target.uidnext
        target.uidnext += 1
        target.messages[uid] = Message(uid, date, body, frozenset(map(flag, flags)))
        self._changed(target)
        return uid

    def set_flags(self, folder: Folder, uid: int, flags: frozenset[str]) -> None:
        """Nothing happens where the message is gone or has these flags."""
        message = folder.messages.get(uid)
        if message is not None and message.flags != flags:
            folder.messages[uid] = replace(message, flags=flags)
            self._changed(folder)

    def expunge(self, folder: Folder, uids: Iterable[int]) -> None:
        """Remove messages; those that are gone already do not matter."""
        for uid in uids:
            message = folder.messages.pop(uid, None)
            if message is not None:
                self.octets -= len(message.body)
                self._changed(folder)

    def copy(self, folder: Folder, uids: Iterable[int], target: Folder) -> list[int]:
        """The new UIDs, in the order of `uids`."""
        messages = [folder.messages[uid] for uid in uids]
        return [self.deliver(one.body, one.date, one.flags, target.name) for one in messages]

    def _changed(self, folder: Folder) -> None:
        folder.version += 1
        self.changes += 1


def flag(name: str) -> str:
    """One spelling for a flag: system flags as `\\Seen`, others as they are."""
    return "\\" + name[1:].capitalize() if name.startswith("\\") else name


def _spelled(name: str) -> str:
    return "INBOX" if name.upper() == "INBOX" else name
