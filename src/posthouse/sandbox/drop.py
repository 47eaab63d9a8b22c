"""Where the mail of one address lies: bounded, and able to wake whoever watches it."""

import asyncio
from datetime import datetime

from posthouse.protocol.maildrop import Folder, MailStore

FOLDERS = ("Archive", "Drafts", "Sent", "Trash")


class Drop:
    """At most `most_messages` and `most_octets` in INBOX; the oldest goes first.

    `validity` is the first UIDVALIDITY; each life of a sandbox needs a higher one, as UIDs begin anew.
    """

    def __init__(self, validity: int, most_messages: int, most_octets: int) -> None:
        self.store = MailStore(FOLDERS)
        for number, folder in enumerate(self.store):
            folder.uidvalidity = validity + number
        self.watchers: set[asyncio.Event] = set()
        self._most_messages = most_messages
        self._most_octets = most_octets
        self._octets = 0

    @property
    def inbox(self) -> Folder:
        return self.store.folder("INBOX")

    def deliver(self, body: bytes, date: datetime) -> None:
        self.store.deliver(body, date)
        self._octets += len(body)
        inbox = self.inbox
        if len(inbox.messages) > self._most_messages:
            self.store.expunge(inbox, [next(iter(inbox.messages))])
        if self._octets > self._most_octets:
            self._make_room(inbox)
        self.changed()

    def _make_room(self, inbox: Folder) -> None:
        """`_octets` only ever grows; what clients have deleted since is found here."""
        sizes = {uid: len(message.body) for uid, message in inbox.messages.items()}
        self._octets = sum(sizes.values())
        for uid, size in sizes.items():
            if self._octets <= self._most_octets:
                return
            self.store.expunge(inbox, [uid])
            self._octets -= size

    def empty(self) -> None:
        for folder in self.store:
            self.store.expunge(folder, tuple(folder.messages))
        self._octets = 0
        self.changed()

    def changed(self) -> None:
        """Wake those who wait for news."""
        for watcher in self.watchers:
            watcher.set()
