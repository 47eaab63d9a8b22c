import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.model.mailbox import Apart, Former, Mailbox, MailboxSettings, Purpose, User, Way, fold, is_address


@pytest.mark.parametrize(
    ("settings", "protocols"),
    [
        (MailboxSettings(), ("smtp",)),
        (MailboxSettings(receive="imap"), ("smtp", "imap")),
        (MailboxSettings(send=False, receive="pop3"), ("pop3",)),
        (MailboxSettings(send=False), ()),
    ],
)
def test_a_token_has_to_prove_itself_for_what_is_used(settings: MailboxSettings, protocols: tuple[str, ...]) -> None:
    assert settings.enabled() == protocols


@pytest.mark.parametrize("text", ["a@b", "first.last+tag@example.com", "jürgen@example.org", "o'brien@example.com"])
def test_addresses(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b c", "<a@b>", "a@b,c@d", "a;b@c", 'a"b@c', "a@b\r\nX: y",
        "a@b\0", "a@b\n", "x" * 250 + "@example.com",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    assert not is_address(text)


@given(st.text(max_size=40))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_folding_ignores_case_and_blanks_around() -> None:
    assert fold("  Support@Example.COM ") == "support@example.com"


def test_settings_are_stored_without_what_is_left_out_and_refuse_what_is_unknown() -> None:
    settings = MailboxSettings(sender_name="Support", senders=("sales@example.com",))
    text = msgspec.json.encode(settings)
    assert text == b'{"sender_name":"Support","senders":["sales@example.com"]}'
    assert msgspec.json.decode(text, type=MailboxSettings) == settings
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"sendername":"Support"}', type=MailboxSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"sender":"anyhow"}', type=MailboxSettings)


@pytest.mark.parametrize(
    ("settings", "purpose", "own"),
    [
        (MailboxSettings(), "sending", False),
        (MailboxSettings(sending_token="own"), "sending", True),
        (MailboxSettings(receive="imap"), "receiving", False),
        (MailboxSettings(receive="pop3"), "receiving", True),
        (MailboxSettings(receive="pop3", receiving_token="shared"), "receiving", False),
        (MailboxSettings(receive="pop3", send=False), "receiving", False),
        (MailboxSettings(receive="pop3", send=False, receiving_token="own"), "receiving", True),
        (MailboxSettings(), "notices", False),
    ],
)
def test_a_setting_shares_unless_told_otherwise(settings: MailboxSettings, purpose: Purpose, own: bool) -> None:
    assert settings.owns(purpose) is own


SHARED, OWN, NEXT = (Way(app_id="ap_1", account="a@b", token_id=token_id) for token_id in ("tk_1", "tk_2", "tk_3"))
LEFT = Former(app_id=None, account="a@b", token_id="tk_4", until=100.0)
TOLD_APART = MailboxSettings(
    receive="imap", apart={"receiving": Apart(way=OWN, switch=NEXT)}, formers={"receiving": LEFT}
)
MAILBOX = Mailbox("mb_1", "a@b", "ap_1", "a@b", "tk_1", False, False, "", 0, TOLD_APART)


def test_a_setting_that_is_told_apart_sees_its_own_way() -> None:
    receiving = MAILBOX.for_setting("receiving")
    assert (receiving.way, receiving.switched.way, receiving.settings.former) == (OWN, NEXT, LEFT)
    assert receiving.for_setting("receiving") == receiving
    assert MAILBOX.for_setting("sending") is MAILBOX
    assert MAILBOX.for_setting(None).way == SHARED


def test_a_token_is_in_use_as_long_as_one_may_go_back_to_it() -> None:
    assert MAILBOX.tokens_in_use(99.0) == {"tk_1", "tk_2", "tk_3", "tk_4"}
    assert MAILBOX.tokens_in_use(100.0) == {"tk_1", "tk_2", "tk_3"}


def test_settings_that_share_a_token_prove_a_protocol_once() -> None:
    assert User(MAILBOX, ("sending", "receiving", "notices")).protocols() == ("smtp", "imap")


def test_what_is_told_apart_is_stored_with_the_mailbox() -> None:
    assert msgspec.json.decode(msgspec.json.encode(TOLD_APART), type=MailboxSettings) == TOLD_APART
