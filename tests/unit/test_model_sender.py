"""Which mailbox sends, and as whom: the table of the contract."""

import pytest

from posthouse.model.device import Device, DeviceSettings
from posthouse.model.mailbox import Mailbox, MailboxSettings
from posthouse.model.sender import (
    Learnt,
    NotAllowed,
    check_given,
    check_sender,
    choose_mailbox,
    permitted_senders,
    refused_address,
    sender_doubt,
)


def mailbox(address: str, *, account: str = "", **settings: object) -> Mailbox:
    return Mailbox(
        id=f"mb_{address}",
        address=address,
        app_id="ap_1",
        account=account or address,
        token_id=None,
        has_password=False,
        default=False,
        origin="",
        version=0,
        settings=MailboxSettings(**settings),  # type: ignore[arg-type]
    )


def nobody(_mailbox_id: str, _address: str) -> bool:
    """Refuses no sender."""
    return False


def device(*mailboxes: str, senders: tuple[str, ...] = ()) -> Device:
    return Device("dv_1", "printer", "", 0, settings=DeviceSettings(mailboxes=mailboxes, senders=senders))


SUPPORT = mailbox(
    "support@example.com",
    account="alice@example.com",
    sender_address="help@example.com",
    senders=("Sales@Example.com",),
)
ALARM = mailbox("alarm@example.com")
PRIVATE = mailbox("private@example.com")
ALL = {each.address: each for each in (SUPPORT, ALARM, PRIVATE)}
PRINTER = device("support@example.com", "alarm@example.com")


def chosen(named: str, mail_from: str, by: Device = PRINTER) -> str:
    found = choose_mailbox(by, named, mail_from, ALL)
    return found.sentence if isinstance(found, NotAllowed) else found.address


def test_permitted_senders_are_the_mailboxs_own_addresses() -> None:
    assert permitted_senders(SUPPORT) == {
        "support@example.com", "alice@example.com", "help@example.com", "sales@example.com",
    }  # fmt: skip
    assert permitted_senders(ALARM) == {"alarm@example.com"}


@pytest.mark.parametrize(
    ("named", "mail_from", "expected"),
    [
        ("alarm@example.com", "support@example.com", "alarm@example.com"),
        ("Alarm@Example.COM", "", "alarm@example.com"),
        ("", "alarm@example.com", "alarm@example.com"),
        ("", "ALARM@EXAMPLE.COM", "alarm@example.com"),
        ("", "sales@example.com", "support@example.com"),
        ("", "help@example.com", "support@example.com"),
        ("", "alice@example.com", "support@example.com"),
        ("", "scanner@printers.example", "support@example.com"),
        ("", "private@example.com", "support@example.com"),
        ("", "", "support@example.com"),
    ],
)
def test_the_login_decides_then_the_sender_then_the_first_mailbox(named: str, mail_from: str, expected: str) -> None:
    assert chosen(named, mail_from) == expected


def test_a_mailbox_that_is_not_the_devices_is_refused_even_by_name() -> None:
    assert "may not use that mailbox" in chosen("private@example.com", "")
    assert "may not use that mailbox" in chosen("nobody@example.com", "support@example.com")


def test_a_device_without_a_mailbox_is_told_so() -> None:
    assert "no mailbox" in chosen("", "support@example.com", device())
    assert "no mailbox" in chosen("", "support@example.com", device("gone@example.com"))


def test_mailboxes_that_are_gone_are_passed_over() -> None:
    assert chosen("", "", device("gone@example.com", "alarm@example.com")) == "alarm@example.com"


AS_GIVEN = mailbox("support@example.com", sender="as-given", senders=("sales@example.com",))
SILENT = mailbox("archive@example.com", send=False, receive="imap")


@pytest.mark.parametrize(
    ("box", "mail_from", "allowed"),
    [
        (SUPPORT, "anybody@printers.example", True),
        (SUPPORT, "", True),
        (AS_GIVEN, "support@example.com", True),
        (AS_GIVEN, "Sales@example.com", True),
        (AS_GIVEN, "", True),
        (AS_GIVEN, "boss@example.com", False),
        (AS_GIVEN, "support@example.com.attacker.example", False),
        (SILENT, "archive@example.com", False),
        (SILENT, "", False),
    ],
)
def test_a_sender_as_given_has_to_be_permitted_and_any_other_is_replaced(
    box: Mailbox, mail_from: str, allowed: bool
) -> None:
    assert (check_sender(device(box.address), box, mail_from, nobody) is None) is allowed


@pytest.mark.parametrize(
    ("mail_from", "allowed"),
    [
        ("scan@example.com", True),
        ("SCAN@Example.com", True),
        ("anybody@printers.example", True),
        ("anybody@sub.printers.example", False),
        ("other@example.com", False),
        ("", True),
    ],
)
def test_a_device_may_be_kept_to_its_senders_by_address_or_domain(mail_from: str, allowed: bool) -> None:
    kept = device("support@example.com", senders=("scan@example.com", "@Printers.example"))
    assert (check_sender(kept, SUPPORT, mail_from, nobody) is None) is allowed


def test_a_refusal_names_the_right_sender_in_few_words() -> None:
    refused = check_sender(device("support@example.com"), AS_GIVEN, "boss@example.com", nobody)
    assert refused == NotAllowed("Sender must be support@example.com")
    kept = device("support@example.com", senders=("scan@example.com",))
    assert check_sender(kept, SUPPORT, "boss@example.com", nobody) == NotAllowed("Sender must be scan@example.com")


def test_what_the_provider_refused_is_refused_where_it_would_be_used() -> None:
    def refuses(mailbox_id: str, address: str) -> bool:
        return (mailbox_id, address) == (AS_GIVEN.id, "Sales@example.com")

    known = NotAllowed("Provider refuses sender Sales@example.com")
    assert check_given("From", AS_GIVEN, "Sales@example.com", refuses) == known
    assert check_sender(device("support@example.com"), AS_GIVEN, "Sales@example.com", refuses) == known
    assert check_given("From", AS_GIVEN, "support@example.com", refuses) is None
    assert check_given("From", AS_GIVEN, "boss@example.com", refuses) == NotAllowed("From must be support@example.com")
    assert check_given("From", SUPPORT, "Sales@example.com", lambda *_: True) is None


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("554 5.2.252 SendAsDenied; alice@example.com not allowed to send as Sales@example.com; STOREDRV", "sales"),
        ("554 5.2.252 SendAsDenied; alice@example.com not allowed to send as <sales@example.com>", "sales"),
        ("554 5.2.252 SendAsDenied; alice@example.com not allowed to send as stranger@example.com", "help"),
        ("550 5.7.60 SMTP; Client does not have permissions to send as this sender", "help"),
    ],
)
def test_a_refusal_means_whom_it_names_if_the_mailbox_may_send_as_that(answer: str, meant: str) -> None:
    assert refused_address(answer, "Help@example.com", SUPPORT) == f"{meant}@example.com"


@pytest.mark.parametrize(
    ("settings", "learnt", "doubt"),
    [
        ({}, "", ""),
        ({}, "refused", "refused"),
        ({"sender_address": "Help@example.com"}, "", "unproved"),
        ({"sender_address": "help@example.com"}, "allowed", ""),
        ({"sender_address": "help@example.com"}, "refused", "refused"),
        ({"sender_address": "Alice@example.com"}, "", ""),
        ({"sender_address": "help@example.com", "sender": "as-given"}, "refused", ""),
        ({"sender_address": "help@example.com", "send": False}, "refused", ""),
    ],
)
def test_a_sender_is_doubted_that_was_refused_or_never_proved(
    settings: dict[str, object], learnt: str, doubt: str
) -> None:
    box = mailbox("support@example.com", account="alice@example.com", **settings)
    address = str(settings.get("sender_address", box.address)).lower()
    known = [Learnt(address, learnt, "", 1.0)] if learnt else []  # type: ignore[arg-type]
    assert sender_doubt(box, known) == doubt
