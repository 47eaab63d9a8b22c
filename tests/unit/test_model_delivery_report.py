"""The delivery report, read as mail programs read it."""

from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.model.delivery_report import HEADER_BACK, Undelivered, delivery_report, may_be_reported
from posthouse.model.message import Recipient

ACCEPTED, FAILED = datetime(2026, 11, 2, 10, tzinfo=UTC), datetime(2026, 11, 2, 10, 5, tzinfo=UTC)
HEADER = b"From: scan@example.com\r\nTo: bob@example.org\r\nSubject: Scan 7\r\nX-Job: 42\r\n\r\n"
UNDELIVERED = Undelivered(
    id="1abc",
    sender="scan@example.com",
    subject="Scan 7",
    recipients=(
        Recipient("bob@example.org", "sent", "250 2.0.0 OK"),
        Recipient("nobody@example.org", "failed", "550 5.1.1 No such user"),
        Recipient("slow@example.org", "failed", "451 4.3.0 Later"),
    ),
    cause="the recipient does not exist",
    accepted_at=ACCEPTED,
    failed_at=FAILED,
    header=HEADER,
)


def reported(about: Undelivered) -> EmailMessage:
    octets = delivery_report(
        about, reporter="scan@example.com", hostname="gate.example.com", message_id="<r@x.example>"
    )
    assert octets.count(b"\n") == octets.count(b"\r\n")
    assert octets.count(b"\r") == octets.count(b"\r\n")
    message = message_from_bytes(octets, policy=default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def parts(message: EmailMessage) -> list[Message]:
    return list(message.get_payload())


def groups(message: EmailMessage) -> list[Message]:
    return list(parts(message)[1].get_payload())


def test_it_is_a_report_to_the_sender_that_answers_no_one() -> None:
    report = reported(UNDELIVERED)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert (report["to"], report["subject"]) == ("scan@example.com", "Not delivered: Scan 7")
    assert report["auto-submitted"] == "auto-replied"


@pytest.mark.parametrize(
    "subject",
    [
        "=?utf-8?q?a=0D=0ABcc:_victim@example.org?=",
        "=?utf-8?b?DQpCY2M6IHZAYS5iDQoNCg==?=",
        "=?utf-8?q?=3D=3Futf-8=3Fq=3F=0ABcc:_v@a.b=3F=3D?=",
        "=?us-ascii?q?=00?= =?no-such?q?x?= =?utf-8?b?!?=",
        "a\x0bBcc: v\x85Bcc: v\u2028Bcc: v",
    ],
)
def test_a_subject_cannot_begin_a_field_of_the_report(subject: str) -> None:
    """Of what was sent, subjects are kept as they were: in encoded words, which may hold anything."""
    assert reported(replace(UNDELIVERED, subject=subject)).keys() == reported(UNDELIVERED).keys()


def test_a_subject_in_encoded_words_is_read() -> None:
    assert reported(replace(UNDELIVERED, subject="=?utf-8?q?Gr=C3=BC=C3=9Fe?="))["subject"] == "Not delivered: Grüße"


def test_people_read_who_did_not_get_it_why_and_that_it_is_kept() -> None:
    text = parts(reported(UNDELIVERED))[0].get_content()  # type: ignore[attr-defined]
    assert "did not reach 2 recipients" in text
    assert "nobody@example.org\n    550 5.1.1 No such user" in text.replace("\r\n", "\n")
    assert "the recipient does not exist" in text
    assert "delivered to the other one" in text
    assert "1abc" in text
    assert "bob@example.org" not in text


def test_programs_read_a_group_for_each_recipient_that_failed() -> None:
    whole, nobody, slow = groups(reported(UNDELIVERED))
    assert whole["reporting-mta"] == "dns; gate.example.com"
    assert [group["final-recipient"] for group in (nobody, slow)] == [
        "rfc822; nobody@example.org",
        "rfc822; slow@example.org",
    ]
    assert (nobody["action"], nobody["status"]) == ("failed", "5.1.1")
    assert nobody["diagnostic-code"] == "smtp; 550 5.1.1 No such user"
    assert slow["status"] == "4.3.0"


@pytest.mark.parametrize(
    ("answer", "status"),
    [("", "4.4.7"), ("550 no code", "5.0.0"), ("450 later", "4.4.7"), ("552-5.3.4 Large", "5.3.4")],
)
def test_there_is_a_status_where_the_server_named_none(answer: str, status: str) -> None:
    about = replace(UNDELIVERED, recipients=(Recipient("a@example.org", "failed", answer),))
    assert groups(reported(about))[1]["status"] == status


def test_the_header_goes_back_and_nothing_else() -> None:
    back = parts(reported(replace(UNDELIVERED, header=HEADER + b"secret body\r\n")))[2]
    assert back.get_content_type() == "text/rfc822-headers"
    assert "X-Job: 42" in back.get_content()  # type: ignore[attr-defined]
    assert "secret body" not in back.get_content()  # type: ignore[attr-defined]


def test_a_long_header_is_cut_where_a_line_ends() -> None:
    header = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 100) for number in range(1000)) + b"\r\n"
    back = parts(reported(replace(UNDELIVERED, header=header)))[2].get_content()  # type: ignore[attr-defined]
    assert len(back) <= HEADER_BACK
    assert back.endswith("x" * 100 + "\r\n")


def test_an_address_in_another_script_is_reported_as_such() -> None:
    about = replace(UNDELIVERED, recipients=(Recipient("박@example.kr", "failed", "550 5.1.1 No"),))
    assert groups(reported(about))[1]["final-recipient"] == "utf-8; \\x{BC15}@example.kr"


@pytest.mark.parametrize(
    ("sender", "header", "may"),
    [
        ("scan@example.com", HEADER, True),
        ("", HEADER, False),
        ("scan@example.com", b"Content-Type: multipart/report; report-type=x\r\n\r\n", False),
        ("scan@example.com", b"A: b\r\ncontent-type:\r\n Multipart/Report;\r\n boundary=x\r\n\r\n", False),
        ("scan@example.com", b"Content-Type: multipart/mixed\r\n\r\n", True),
    ],
)
def test_nobody_and_reports_are_not_reported_to(sender: str, header: bytes, may: bool) -> None:
    assert may_be_reported(sender, header) is may


def test_a_report_is_not_reported() -> None:
    octets = delivery_report(
        UNDELIVERED, reporter="a@x.example", hostname="gate.example.com", message_id="<r@x.example>"
    )
    assert not may_be_reported("a@x.example", octets[: octets.find(b"\r\n\r\n") + 4])


@given(subject=st.text(max_size=80), answer=st.text(max_size=80), cause=st.text(max_size=80), header=st.binary())
def test_whatever_a_server_or_a_device_said_it_can_be_told(
    subject: str, answer: str, cause: str, header: bytes
) -> None:
    recipients = (Recipient("a@example.org", "failed", answer),)
    about = replace(UNDELIVERED, subject=subject, recipients=recipients, cause=cause, header=header)
    assert len(parts(reported(about))) == 3
