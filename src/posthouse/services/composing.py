"""A message out of its parts, for programs that would rather not write MIME themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import parseaddr

from posthouse.model.mailbox import is_address
from posthouse.problems import problem

RESERVED = frozenset(
    ("from", "sender", "to", "cc", "bcc", "subject", "reply-to", "received", "return-path", "mime-version")
)
"""Fields that have a place of their own, or are not for programs to write."""


@dataclass(frozen=True, slots=True)
class Attachment:
    name: str
    type: str
    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Letter:
    """Addresses are written `a@example.com` or `Name <a@example.com>`; at least one of `text` and `html`."""

    to: tuple[str, ...]
    subject: str = ""
    text: str | None = None
    html: str | None = None
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    sender: str = ""
    reply_to: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()

    @property
    def recipients(self) -> tuple[str, ...]:
        """Bare addresses, each once. Raises ProblemError."""
        return tuple(dict.fromkeys(address_of(text) for text in (*self.to, *self.cc, *self.bcc)))


def compose(letter: Letter) -> bytes:
    """The message with CRLF line ends, without Bcc. Raises ProblemError where a part cannot be used."""
    message = EmailMessage(policy=SMTPUTF8 if _needs_utf8(letter) else SMTP)
    try:
        _write_header(message, letter)
        _write_body(message, letter)
        return message.as_bytes()
    except (ValueError, LookupError, TypeError, AttributeError, MessageError):
        raise _unusable("The parts of the message do not make a message.") from None


def _needs_utf8(letter: Letter) -> bool:
    return not all(address.isascii() for address in (*letter.recipients, letter.reply_to, letter.sender))


def _write_header(message: EmailMessage, letter: Letter) -> None:
    if letter.sender:
        message["From"] = _written(letter.sender)
    for name, addresses in (("To", letter.to), ("Cc", letter.cc), ("Reply-To", (letter.reply_to,))):
        if any(addresses):
            message[name] = ", ".join(_written(text) for text in addresses)
    message["Subject"] = _clean(letter.subject, "subject")
    for name, value in letter.headers.items():
        if name.lower() in RESERVED or name.lower().startswith(("content-", "dkim-", "arc-")):
            raise _unusable(f"The field {name} cannot be given here.")
        message[name] = _clean(value, name)


def _write_body(message: EmailMessage, letter: Letter) -> None:
    if letter.text is None and letter.html is None:
        raise _unusable("The message has neither text nor html.")
    if letter.text is not None:
        message.set_content(letter.text)
        if letter.html is not None:
            message.add_alternative(letter.html, subtype="html")
    else:
        message.set_content(letter.html, subtype="html")
    for attachment in letter.attachments:
        main, _, sub = attachment.type.partition("/")
        name = _clean(attachment.name, "the name of an attachment")
        message.add_attachment(attachment.octets, maintype=main, subtype=sub, filename=name)


def address_of(text: str) -> str:
    """The bare address. Raises ProblemError."""
    return _parsed(text)[1]


def _parsed(text: str) -> tuple[str, str]:
    clean = _clean(text, "an address").strip()
    name, address = ("", clean) if is_address(clean) else parseaddr(clean)
    if not is_address(address):
        raise _unusable(f"{clean[:254]!r} is not an e-mail address.")
    return name, address


def _written(text: str) -> str:
    name, address = _parsed(text)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{address}>' if name else address


def _clean(text: str, what: str) -> str:
    """Line ends and other control characters would begin a field of their own."""
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter in "\u2028\u2029" for letter in text):
        raise _unusable(f"There are control characters in {what[:80]}.")
    return text


def _unusable(sentence: str) -> Exception:
    return problem("message.unusable", sentence, status=65)
