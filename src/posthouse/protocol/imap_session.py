"""What an IMAP server does for a client that is signed in: folders and messages of one `MailStore`.

`Session.run` carries one command out and says its untagged responses; the wire belongs to `imap_server`. A session
keeps its own numbering of the open folder, so that others may change the store at any time (RFC 3501 section 7.4.1).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from posthouse.protocol.imap_fetch import flags_of, read_plan
from posthouse.protocol.imap_search import UnknownCharset, read_criteria
from posthouse.protocol.imap_syntax import (
    Malformed,
    Value,
    decode_name,
    encode_name,
    list_of,
    nstring,
    octets_of,
    read_date_time,
    read_set,
    text_of,
    write_sets,
)
from posthouse.protocol.mail_server import Answer
from posthouse.protocol.maildrop import Folder, MailStore, Message, NotPossible, flag

PATTERN = 300
"""Octets of a LIST pattern, as matching costs its length times that of the names."""

_FLAG = re.compile(r"\\?[-!#$&'+,./0-9:;<=>?@A-Z^_`a-z|~]{1,100}")
_FLAGS = "\\Answered \\Flagged \\Deleted \\Seen \\Draft"

Values = tuple[Value, ...]


class Session:
    """`say` takes untagged responses without star and line end; `now` tells the date of an APPEND without one."""

    def __init__(self, store: MailStore, say: Callable[[bytes], None], now: Callable[[], datetime]) -> None:
        self.store = store
        self._say = say
        self._now = now
        self._view: _View | None = None

    def knows(self, verb: str) -> bool:
        return verb in _COMMANDS

    def run(self, verb: str, values: Values) -> Answer:
        """Carry out a command that `knows` knows, such as "UID FETCH", with its arguments."""
        try:
            answer = _COMMANDS[verb](self, values)
        except Malformed as fault:
            return Answer("BAD", f"{verb}: {fault}.")
        except NotPossible as refusal:
            return Answer("NO", str(refusal), "TRYCREATE" if verb in _INTO_FOLDER else "")
        except UnknownCharset:
            return Answer("NO", "The character set is not supported.", "BADCHARSET (US-ASCII UTF-8)")
        self.report(expunged=verb not in ("FETCH", "STORE", "SEARCH"))
        return answer

    def report(self, *, expunged: bool = True) -> None:
        """Tell what changed in the open folder. Numbers may not move during some commands (`expunged` false)."""
        if self._view is not None:
            for line in self._view.news(expunged=expunged):
                self._say(line)

    # Folders

    def select(self, values: Values, *, read_only: bool = False) -> Answer:
        (name,) = _arguments(values, 1)
        self._view = None
        folder = self.store.folder(_name(name))
        self._view = _View(folder, read_only)
        unseen = next((n for n, one in self._view.messages() if "\\Seen" not in one.flags), None)
        self._say(f"FLAGS ({_FLAGS})".encode())
        self._say(b"%d EXISTS" % len(folder.messages))
        self._say(b"0 RECENT")
        if unseen is not None:
            self._say(b"OK [UNSEEN %d] First unseen message." % unseen)
        self._say(b"OK [UIDVALIDITY %d] UIDs are valid." % folder.uidvalidity)
        self._say(b"OK [UIDNEXT %d] Predicted next UID." % folder.uidnext)
        permanent = "" if read_only else _FLAGS + " \\*"
        self._say(f"OK [PERMANENTFLAGS ({permanent})] Flags permitted.".encode())
        done = "EXAMINE" if read_only else "SELECT"
        return Answer("OK", f"{done} completed.", "READ-ONLY" if read_only else "READ-WRITE")

    def examine(self, values: Values) -> Answer:
        return self.select(values, read_only=True)

    def list_folders(self, values: Values) -> Answer:
        for name in self._matching(values):
            self._say(b'LIST (\\HasNoChildren) "/" ' + nstring(encode_name(name).encode()))
        return Answer("OK", "LIST completed.")

    def lsub(self, values: Values) -> Answer:
        for name in self._matching(values):
            if self.store.folder(name).subscribed:
                self._say(b'LSUB () "/" ' + nstring(encode_name(name).encode()))
        return Answer("OK", "LSUB completed.")

    def _matching(self, values: Values) -> Iterator[str]:
        reference, pattern = (decode_name(text_of(value)) for value in _arguments(values, 2))
        wanted = reference + pattern
        if len(wanted) > PATTERN:
            raise Malformed("the pattern is too long")
        if not pattern:
            self._say(b'LIST (\\Noselect) "/" ""')
        return (folder.name for folder in self.store if matches(folder.name, wanted))

    def status(self, values: Values) -> Answer:
        name, items = _arguments(values, 2)
        folder = self.store.folder(_name(name))
        words = [text_of(item).upper() for item in list_of(items)]
        if not all(word in _STATUS for word in words):
            raise Malformed("this item is not known")
        told = " ".join(f"{word} {_STATUS[word](folder)}" for word in words)
        self._say(b"STATUS " + nstring(encode_name(folder.name).encode()) + f" ({told})".encode())
        return Answer("OK", "STATUS completed.")

    def create(self, values: Values) -> Answer:
        self.store.create(_name(_arguments(values, 1)[0]))
        return Answer("OK", "CREATE completed.")

    def delete(self, values: Values) -> Answer:
        self.store.delete(_name(_arguments(values, 1)[0]))
        return Answer("OK", "DELETE completed.")

    def rename(self, values: Values) -> Answer:
        old, new = _arguments(values, 2)
        self.store.rename(_name(old), _name(new))
        return Answer("OK", "RENAME completed.")

    def subscribe(self, values: Values, *, wanted: bool = True) -> Answer:
        self.store.folder(_name(_arguments(values, 1)[0])).subscribed = wanted
        return Answer("OK", "Completed.")

    def unsubscribe(self, values: Values) -> Answer:
        return self.subscribe(values, wanted=False)

    def namespace(self, values: Values) -> Answer:
        _arguments(values, 0)
        self._say(b'NAMESPACE (("" "/")) NIL NIL')
        return Answer("OK", "NAMESPACE completed.")

    def enable(self, values: Values) -> Answer:
        self._say(b"ENABLED")
        return Answer("OK", "ENABLE completed.")

    def append(self, values: Values) -> Answer:
        name, *options, message = _arguments(values, 2, 4)
        flags: frozenset[str] = frozenset()
        if options and isinstance(options[0], tuple):
            flags = _flags(options.pop(0))
        date = read_date_time(text_of(options.pop(0))) if options else self._now()
        if options or not isinstance(message, bytes):
            raise Malformed("the arguments are wrong")
        folder = self.store.folder(_name(name))
        uid = self.store.deliver(message, date, flags, folder.name)
        return Answer("OK", "APPEND completed.", f"APPENDUID {folder.uidvalidity} {uid}")

    # The open folder

    def check(self, values: Values) -> Answer:
        _arguments(values, 0)
        self._opened()
        return Answer("OK", "CHECK completed.")

    def close(self, values: Values) -> Answer:
        _arguments(values, 0)
        view = self._opened()
        if not view.read_only:
            self.store.expunge(view.folder, view.deleted())
        self._view = None
        return Answer("OK", "CLOSE completed.")

    def unselect(self, values: Values) -> Answer:
        _arguments(values, 0)
        self._opened()
        self._view = None
        return Answer("OK", "UNSELECT completed.")

    def expunge(self, values: Values) -> Answer:
        _arguments(values, 0)
        view = self._writable()
        self.store.expunge(view.folder, view.deleted())
        return Answer("OK", "EXPUNGE completed.")

    def uid_expunge(self, values: Values) -> Answer:
        view = self._writable()
        uids = {uid for _, uid in view.chosen(_arguments(values, 1)[0], uid=True)}
        self.store.expunge(view.folder, [uid for uid in view.deleted() if uid in uids])
        return Answer("OK", "EXPUNGE completed.")

    def search(self, values: Values, *, uid: bool = False) -> Answer:
        view = self._opened()
        highest_uid = view.uids[-1] if view.uids else 0
        wanted = read_criteria(values, len(view.uids), highest_uid)
        found = [one.uid if uid else number for number, one in view.messages() if wanted(number, one)]
        self._say(b" ".join([b"SEARCH", *(b"%d" % number for number in found)]))
        return Answer("OK", "SEARCH completed.")

    def uid_search(self, values: Values) -> Answer:
        return self.search(values, uid=True)

    def fetch(self, values: Values, *, uid: bool = False) -> Answer:
        view = self._opened()
        numbers, items = _arguments(values, 2)
        plan = read_plan(items, with_uid=uid)
        for number, message in view.read(numbers, uid=uid):
            if plan.marks_seen and not view.read_only:
                self.store.set_flags(view.folder, message.uid, message.flags | {"\\Seen"})
                view.told[message.uid] = message.flags | {"\\Seen"}
            self._say(b"%d FETCH " % number + plan.answer(view.folder.messages[message.uid]))
        return Answer("OK", "FETCH completed.")

    def uid_fetch(self, values: Values) -> Answer:
        return self.fetch(values, uid=True)

    def store_flags(self, values: Values, *, uid: bool = False) -> Answer:
        numbers, change, *given = _arguments(values, 3, 60)
        view = self._writable()
        verb, _, silent = text_of(change).upper().partition(".")
        if verb not in _CHANGES or silent not in ("", "SILENT"):
            raise Malformed("this change is not known")
        flags = _flags(given[0] if isinstance(given[0], tuple) else tuple(given))
        for number, message in view.read(numbers, uid=uid):
            changed = _CHANGES[verb](message.flags, flags)
            self.store.set_flags(view.folder, message.uid, changed)
            view.told[message.uid] = changed
            if not silent:
                self._tell_flags(number, view.folder.messages[message.uid], uid=uid)
        return Answer("OK", "STORE completed.")

    def uid_store(self, values: Values) -> Answer:
        return self.store_flags(values, uid=True)

    def _tell_flags(self, number: int, message: Message, *, uid: bool) -> None:
        own = b"UID %d " % message.uid if uid else b""
        self._say(b"%d FETCH (%b%b)" % (number, own, flags_of(message)))

    def copy(self, values: Values, *, uid: bool = False) -> Answer:
        view = self._opened()
        code = self._copied(view, values, uid=uid)[1]
        return Answer("OK", "COPY completed.", code)

    def uid_copy(self, values: Values) -> Answer:
        return self.copy(values, uid=True)

    def move(self, values: Values, *, uid: bool = False) -> Answer:
        view = self._writable()
        uids, code = self._copied(view, values, uid=uid)
        if code:
            self._say(f"OK [{code}] Moved.".encode())
        self.store.expunge(view.folder, uids)
        return Answer("OK", "MOVE completed.")

    def uid_move(self, values: Values) -> Answer:
        return self.move(values, uid=True)

    def _copied(self, view: "_View", values: Values, *, uid: bool) -> tuple[list[int], str]:
        numbers, name = _arguments(values, 2)
        target = self.store.folder(_name(name))
        uids = [message.uid for _, message in view.read(numbers, uid=uid)]
        if not uids:
            return [], ""
        made = self.store.copy(view.folder, uids, target)
        both = (",".join(write_sets(numbers)) for numbers in (uids, made))
        return uids, f"COPYUID {target.uidvalidity} {' '.join(both)}"

    def _opened(self) -> "_View":
        if self._view is None:
            raise Malformed("no folder is open")
        return self._view

    def _writable(self) -> "_View":
        view = self._opened()
        if view.read_only:
            raise NotPossible("The folder is open for reading only.")
        return view


class _View:
    """The open folder as this client knows it: UIDs in the order of its numbers, and the flags it was told."""

    def __init__(self, folder: Folder, read_only: bool) -> None:
        self.folder = folder
        self.read_only = read_only
        self.uids = list(folder.messages)
        self.told = {uid: message.flags for uid, message in folder.messages.items()}
        self._version = folder.version
        self._open_expunges = False

    def messages(self) -> Iterator[tuple[int, Message]]:
        """Those still there, with their numbers."""
        for number, uid in enumerate(self.uids, 1):
            message = self.folder.messages.get(uid)
            if message is not None:
                yield number, message

    def chosen(self, numbers: Value, *, uid: bool) -> list[tuple[int, int]]:
        """Number and UID of what a set names. Raises Malformed for a number that was never told."""
        highest = (self.uids[-1] if self.uids else 0) if uid else len(self.uids)
        wanted = read_set(numbers, highest)
        if not uid and wanted.ranges[-1][1] > len(self.uids):
            raise Malformed("there is no message of that number")
        return [(n, one) for n, one in enumerate(self.uids, 1) if (one if uid else n) in wanted]

    def read(self, numbers: Value, *, uid: bool) -> list[tuple[int, Message]]:
        """The messages a set names, without those that are gone."""
        there = self.folder.messages
        return [(number, there[one]) for number, one in self.chosen(numbers, uid=uid) if one in there]

    def deleted(self) -> list[int]:
        return [message.uid for _, message in self.messages() if "\\Deleted" in message.flags]

    def news(self, *, expunged: bool) -> Iterator[bytes]:
        """What changed since the client was last told."""
        if self._version == self.folder.version and not (self._open_expunges and expunged):
            return
        self._version = self.folder.version
        self._open_expunges = not expunged
        if expunged:
            yield from self._gone()
        yield from self._arrived()
        yield from self._reflagged()

    def _gone(self) -> Iterator[bytes]:
        for index in range(len(self.uids) - 1, -1, -1):
            if self.uids[index] not in self.folder.messages:
                self.told.pop(self.uids.pop(index), None)
                yield b"%d EXPUNGE" % (index + 1)

    def _arrived(self) -> Iterator[bytes]:
        last = self.uids[-1] if self.uids else 0
        fresh = [uid for uid in self.folder.messages if uid > last]
        self.uids += fresh
        self.told.update((uid, self.folder.messages[uid].flags) for uid in fresh)
        if fresh:
            yield b"%d EXISTS" % len(self.uids)

    def _reflagged(self) -> Iterator[bytes]:
        for number, message in self.messages():
            if self.told[message.uid] != message.flags:
                self.told[message.uid] = message.flags
                yield b"%d FETCH (UID %d %b)" % (number, message.uid, flags_of(message))


def matches(name: str, pattern: str) -> bool:
    """Whether a folder is wanted: `*` stands for anything, `%` for anything without a `/`."""
    reached = {0}
    for sign in pattern:
        if sign in "*%":
            reached = {end for start in reached for end in _onward(name, start, sign == "*")}
        else:
            reached = {at + 1 for at in reached if name[at : at + 1].upper() == sign.upper()}
        if not reached:
            return False
    return len(name) in reached


def _onward(name: str, start: int, over_slashes: bool) -> range:
    slash = -1 if over_slashes else name.find("/", start)
    return range(start, (len(name) if slash < 0 else slash) + 1)


def _arguments(values: Values, least: int, most: int | None = None) -> Values:
    if not least <= len(values) <= (least if most is None else most):
        raise Malformed("the arguments are wrong")
    return values


def _name(value: Value) -> str:
    return decode_name((octets_of(value) or b"NIL").decode(errors="replace"))


def _flags(value: Value) -> frozenset[str]:
    names = [text_of(one) for one in list_of(value)]
    if len(names) > 50 or not all(map(_FLAG.fullmatch, names)):
        raise Malformed("these cannot be flags")
    return frozenset(flag(name) for name in names if name.upper() != "\\RECENT")


def _together(had: frozenset[str], given: frozenset[str]) -> frozenset[str]:
    flags = had | given
    if len(flags) > 100:
        raise NotPossible("The message has too many flags.")
    return flags


_CHANGES: dict[str, Callable[[frozenset[str], frozenset[str]], frozenset[str]]] = {
    "FLAGS": lambda _, given: given,
    "+FLAGS": _together,
    "-FLAGS": lambda had, given: had - given,
}


def _unseen(messages: Iterable[Message]) -> int:
    return sum("\\Seen" not in message.flags for message in messages)


_STATUS: dict[str, Callable[[Folder], int]] = {
    "MESSAGES": lambda folder: len(folder.messages),
    "RECENT": lambda _: 0,
    "SIZE": lambda folder: sum(len(message.body) for message in folder.messages.values()),
    "UIDNEXT": lambda folder: folder.uidnext,
    "UIDVALIDITY": lambda folder: folder.uidvalidity,
    "UNSEEN": lambda folder: _unseen(folder.messages.values()),
}

_INTO_FOLDER = frozenset({"APPEND", "COPY", "MOVE", "UID COPY", "UID MOVE"})

_COMMANDS: dict[str, Callable[[Session, Values], Answer]] = {
    "APPEND": Session.append,
    "CHECK": Session.check,
    "CLOSE": Session.close,
    "COPY": Session.copy,
    "CREATE": Session.create,
    "DELETE": Session.delete,
    "ENABLE": Session.enable,
    "EXAMINE": Session.examine,
    "EXPUNGE": Session.expunge,
    "FETCH": Session.fetch,
    "LIST": Session.list_folders,
    "LSUB": Session.lsub,
    "MOVE": Session.move,
    "NAMESPACE": Session.namespace,
    "RENAME": Session.rename,
    "SEARCH": Session.search,
    "SELECT": Session.select,
    "STATUS": Session.status,
    "STORE": Session.store_flags,
    "SUBSCRIBE": Session.subscribe,
    "UID COPY": Session.uid_copy,
    "UID EXPUNGE": Session.uid_expunge,
    "UID FETCH": Session.uid_fetch,
    "UID MOVE": Session.uid_move,
    "UID SEARCH": Session.uid_search,
    "UID STORE": Session.uid_store,
    "UNSELECT": Session.unselect,
    "UNSUBSCRIBE": Session.unsubscribe,
}
