"""A message out of its parts, for programs that would rather not write MIME themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import getaddresses

from posthouse.model.headers import is_one_field
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
        named = (("to", self.to), ("cc", self.cc), ("bcc", self.bcc))
        return tuple(dict.fromkeys(address_of(text, key) for key, texts in named for text in texts))


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
        _put(message, "From", _written(letter.sender, "from"))
    for name, key, addresses in (
        ("To", "to", letter.to),
        ("Cc", "cc", letter.cc),
        ("Reply-To", "reply_to", (letter.reply_to,)),
    ):
        if any(addresses):
            _put(message, name, ", ".join(_written(text, key) for text in addresses))
    _put(message, "Subject", _clean(letter.subject, "subject"))
    for name, value in letter.headers.items():
        if name.lower() in RESERVED or name.lower().startswith(("content-", "dkim-", "arc-")):
            raise _unusable(f"The field {name} cannot be given here.")
        _put(message, name, _clean(value, name))


def _put(message: EmailMessage, name: str, value: str) -> None:
    """Raises ProblemError for what would not be one field of that name."""
    try:
        message[name] = value
        written = message.policy.fold(*message.policy.header_store_parse(name, value))
    except (ValueError, LookupError, TypeError, AttributeError, MessageError):
        written = ""
    if not is_one_field(written):
        raise _unusable(f"{name} cannot be written: it holds hidden line ends, or is too long for a line.")


def _write_body(message: EmailMessage, letter: Letter) -> None:
    if letter.text is None and letter.html is None:
        raise _unusable("The message has neither text nor html.")
    for what, text in (("text", letter.text), ("html", letter.html)):
        if text is not None and "\0" in text:
            raise _unusable(f"There is a NUL character in {what}.")
    if letter.text is not None:
        message.set_content(letter.text)
        if letter.html is not None:
            message.add_alternative(letter.html, subtype="html")
    else:
        message.set_content(letter.html, subtype="html")
    for attachment in letter.attachments:
        _attach(message, attachment)


def _attach(message: EmailMessage, attachment: Attachment) -> None:
    main, _, sub = attachment.type.partition("/")
    if main == "multipart" or (main == "message" and sub.lower() not in ("rfc822", "global")):
        raise _unusable(f"An attachment cannot be of the type {attachment.type}.")
    name = _clean(attachment.name, "the name of an attachment")
    message.add_attachment(attachment.octets, maintype=main, subtype=sub, filename=name)
    part = list(message.iter_attachments())[-1]
    if not all(is_one_field(part.policy.fold(field, value)) for field, value in part.items()):
        raise _unusable("The name of an attachment cannot be written: it holds hidden line ends, or is too long.")


def address_of(text: str, key: str) -> str:
    """The bare address. `key` is where it was given. Raises ProblemError."""
    return _parsed(text, key)[1]


def _parsed(text: str, key: str) -> tuple[str, str]:
    clean = _clean(text, key).strip()
    found = [("", clean)] if is_address(clean) else getaddresses([clean])
    if len(found) != 1 or not is_address(found[0][1]):
        raise _unusable(f"{clean[:254]!r} in {key} is not one e-mail address.")
    return found[0]


def _written(text: str, key: str) -> str:
    name, address = _parsed(text, key)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{address}>' if name else address


def _clean(text: str, what: str) -> str:
    """Line ends and other control characters would begin a field of their own."""
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter in "\u2028\u2029" for letter in text):
        raise _unusable(f"There are control characters in {what[:80]}.")
    return text


def _unusable(sentence: str) -> Exception:
    return problem("message.unusable", sentence, status=65)
