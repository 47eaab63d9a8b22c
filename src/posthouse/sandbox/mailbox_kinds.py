"""What IMAP and POP3 doors do not have in common: their engines and how a fault switch is put into their words."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from posthouse.protocol import imap_server, pop_server
from posthouse.protocol.mail_server import MailServer
from posthouse.sandbox import answers
from posthouse.sandbox.faults import PLACES
from posthouse.sandbox.post import PostOffice


@dataclass(frozen=True, slots=True)
class Kind:
    """`statuses` are the first words of a literal answer as the engine calls them, `goodbye` makes the line that
    takes the place of a greeting, `verb` finds the name of a command at the start of what a client sends."""

    door: str
    engine: Callable[[PostOffice, bool], MailServer]
    verb: re.Pattern[bytes]
    statuses: dict[str, str]
    goodbye: Callable[[str], str]
    refused: str

    def place(self, data: bytes) -> str:
        """Where a fault switch would act on what the client sends, "" in the middle of something."""
        found = self.verb.match(data)
        if found is None:
            return ""
        name = {"stls": "starttls", "authenticate": ""}.get(verb := found[1].decode().lower(), verb)
        place = f"{self.door}.{name}"
        return "" if not name else place if place in PLACES else f"{self.door}.command"

    def forced(self, literal: str) -> tuple[str, str]:
        """Status and text of a literal answer."""
        status, _, text = literal.partition(" ")
        return self.statuses[status], text


def _imap(post: PostOffice, tls_first: bool) -> MailServer:
    policy = imap_server.ServerPolicy(
        mechanisms=post.settings.mechanisms,
        starttls=not tls_first,
        tls=tls_first,
        auth_needs_tls=True,
        login_refusal=answers.IMAP_LOGIN_REFUSED,
        message_limit=post.limits.message_size,
    )
    return imap_server.ImapServer(policy, post.now)


def _pop3(post: PostOffice, tls_first: bool) -> MailServer:
    policy = pop_server.ServerPolicy(
        mechanisms=post.settings.mechanisms,
        starttls=not tls_first,
        tls=tls_first,
        auth_needs_tls=True,
        login_refusal=answers.POP3_LOGIN_REFUSED,
    )
    return pop_server.PopServer(policy)


IMAP = Kind(
    "imap",
    _imap,
    re.compile(rb"\S+ (?:UID )?([A-Za-z]+)", re.IGNORECASE),
    {"OK": "OK", "NO": "NO", "BAD": "BAD", "BYE": "BYE"},
    lambda literal: f"* BYE {literal.partition(' ')[2]}",
    answers.IMAP_REFUSED,
)
POP3 = Kind(
    "pop3",
    _pop3,
    re.compile(rb"(?!AUTH)([A-Za-z]{3,4})(?=[ \r\n])", re.IGNORECASE),
    {"+OK": "OK", "-ERR": "NO"},
    lambda literal: literal,
    answers.POP3_REFUSED,
)
