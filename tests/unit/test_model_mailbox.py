import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.model.mailbox import MailboxSettings, fold, is_address


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
