import pytest

from posthouse.model.device import Device, DeviceSettings, login_names


def device(*networks: str) -> Device:
    return Device("dv_1", "printer", "", 0, settings=DeviceSettings(networks=networks))


@pytest.mark.parametrize(
    ("login", "names"),
    [
        ("printer", ("printer", "")),
        (r"printer\support@example.com", ("printer", "support@example.com")),
        ("support@example.com", ("", "support@example.com")),
        (r"printer\support", ("printer", "support")),
        ("printer\\", ("printer", "")),
        (r"\support@example.com", ("", "support@example.com")),
        (r"printer\a\b", ("printer", r"a\b")),
        ("", ("", "")),
    ],
)
def test_a_login_names_a_device_or_a_mailbox_or_both(login: str, names: tuple[str, str]) -> None:
    assert login_names(login) == names


@pytest.mark.parametrize(
    ("peer", "admitted"),
    [
        ("10.1.2.3", True),
        ("192.168.7.9", True),
        ("192.168.7.10", False),
        ("11.0.0.1", False),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.0.0.1", False),
        ("", False),
        ("printer.example.com", False),
    ],
)
def test_a_device_with_networks_comes_from_one_of_them(peer: str, admitted: bool) -> None:
    assert device("10.0.0.0/8", "192.168.7.9", "2001:db8::/32").admits(peer) is admitted


def test_a_device_without_networks_comes_from_anywhere() -> None:
    assert device().admits("203.0.113.9")
    assert device().admits("")


def test_a_network_may_be_given_by_an_address_in_it() -> None:
    assert device("10.1.2.3/8").admits("10.200.0.1")


def test_the_hash_of_a_password_is_not_shown() -> None:
    assert "c0ffee" not in repr(Device("dv_1", "printer", "", 0, password_hash="generated:c0ffee"))
