"""The delivery status notification that tells a sender what did not arrive, and why (RFC 3464, RFC 6533)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes
from email.charset import QP, Charset
from email.message import Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP
from email.utils import format_datetime

from posthouse.model.headers import plain_words, split
from posthouse.model.message import Recipient

HEADER_BACK = 16 * 1024
"""Octets of the message's header that go back with the report."""
LISTED = 500
"""Recipients that are listed."""

_QUOTED = Charset("utf-8")
_QUOTED.body_encoding = QP
_STATUS = re.compile(r"^[245]\d\d[ -]([245]\.\d{1,3}\.\d{1,3})\b")
_REPORT = re.compile(rb"^content-type[ \t]*:[ \t\r\n]*multipart/report\b", re.IGNORECASE | re.MULTILINE)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A message that failed for some of its recipients. `header` is its own, as it was to be sent."""

    id: str
    sender: str
    subject: str
    recipients: Sequence[Recipient]
    cause: str
    accepted_at: datetime
    failed_at: datetime
    header: bytes

    @property
    def title(self) -> str:
        """What the report is called."""
        subject = plain_words(self.subject)
        return f"Not delivered: {subject}" if subject else "A message was not delivered"

    @property
    def failed(self) -> list[Recipient]:
        return [recipient for recipient in self.recipients if recipient.state == "failed"]


def may_be_reported(sender: str, header: bytes) -> bool:
    """Nobody is told about what nobody sent, and no report is made about a report (RFC 3461 section 6.2)."""
    return bool(sender) and _REPORT.search(header) is None


def delivery_report(about: Undelivered, *, reporter: str, hostname: str, message_id: str) -> bytes:
    """The whole message, ending in CRLF: a text for people, a part for programs, and the header that came back."""
    report = MIMEMultipart("report", policy=SMTP, report_type="delivery-status")
    report["From"] = f"Posthouse <{reporter}>"
    report["To"] = about.sender
    report["Subject"] = about.title
    report["Date"] = format_datetime(about.failed_at)
    report["Message-ID"] = message_id
    report["Auto-Submitted"] = "auto-replied"
    report.attach(_text(_for_people(about), "plain"))
    report.attach(_for_programs(about, hostname))
    report.attach(_header_back(about.header))
    return report.as_bytes()


def _for_people(about: Undelivered) -> str:
    failed = about.failed
    who = "one recipient" if len(failed) == 1 else f"{len(failed)} recipients"
    lines = [f"Your message of {format_datetime(about.accepted_at)} did not reach {who}:", ""]
    for recipient in failed[:LISTED]:
        lines += [f"  {recipient.address}", f"    {_said(recipient, about)}"]
    if about.cause:
        lines += ["", f"What this means: {about.cause}."]
    others = len([recipient for recipient in about.recipients if recipient.state == "sent"])
    if others:
        lines += [
            "",
            f"It was delivered to the other {others}." if others > 1 else "It was delivered to the other one.",
        ]
    lines += ["", f"It is kept in the outbox as {about.id}, where an administrator can send it again.", ""]
    return "\r\n".join(lines)


def _said(recipient: Recipient, about: Undelivered) -> str:
    return _one_line(recipient.answer) or about.cause or "the provider gave no answer until the deadline"


def _for_programs(about: Undelivered, hostname: str) -> Message:
    """Fields of the message as a whole, then a group for each recipient (RFC 3464 section 2.1)."""
    part = MIMEBase("message", "delivery-status", policy=SMTP)
    groups = [
        _group([("Reporting-MTA", f"dns; {hostname}"), ("Arrival-Date", format_datetime(about.accepted_at))]),
        *(_group(_about_recipient(recipient, about)) for recipient in about.failed[:LISTED]),
    ]
    part.set_payload([message_from_bytes(group, policy=SMTP) for group in groups])
    return part


def _group(fields: Sequence[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode()


def _about_recipient(recipient: Recipient, about: Undelivered) -> list[tuple[str, str]]:
    fields = [
        ("Final-Recipient", _typed(recipient.address)),
        ("Action", "failed"),
        ("Status", _status(recipient.answer)),
        ("Last-Attempt-Date", format_datetime(about.failed_at)),
    ]
    if recipient.answer:
        fields.append(("Diagnostic-Code", f"smtp; {_one_line(recipient.answer)}"))
    return fields


def _typed(address: str) -> str:
    """Beyond ASCII in the form for seven bits: `\\x{BC15}@example.kr` (RFC 6533 section 3)."""
    if address.isascii():
        return f"rfc822; {address}"
    return "utf-8; " + "".join(letter if letter.isascii() else f"\\x{{{ord(letter):X}}}" for letter in address)


def _status(answer: str) -> str:
    """The enhanced code of the answer; "delivery time expired" where a temporary one outlived the deadline."""
    found = _STATUS.match(answer)
    if found is None:
        return "5.0.0" if answer.startswith("5") else "4.4.7"
    return found[1]


def _one_line(text: str) -> str:
    return _UNPRINTABLE.sub("?", " ".join(text.split()))[:900]


def _header_back(header: bytes) -> Message:
    end = split(header)
    text = header[: end if end >= 0 else len(header)][:HEADER_BACK]
    whole_lines = text[: text.rfind(b"\r\n") + 2]
    return _text(whole_lines.decode("utf-8", "replace"), "rfc822-headers")


def _text(text: str, kind: str) -> Message:
    """As it stands where it can, so that it can be read with the bare eye."""
    return MIMEText(text, kind, "us-ascii" if text.isascii() else _QUOTED, policy=SMTP)  # type: ignore[arg-type]
