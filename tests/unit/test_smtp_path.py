import pytest

from posthouse.protocol.smtp_path import BadPath, parse_path


@pytest.mark.parametrize(
    ("argument", "address", "parameters"),
    [
        ("<a@b.example>", "a@b.example", {}),
        (" <a@b.example>", "a@b.example", {}),
        ("a@b.example", "a@b.example", {}),
        ("<>", "", {}),
        ("<> SIZE=1", "", {"SIZE": "1"}),
        ("<a@b> size=10  body=8bitmime SMTPUTF8", "a@b", {"SIZE": "10", "BODY": "8bitmime", "SMTPUTF8": ""}),
        ("a@b SIZE=10", "a@b", {"SIZE": "10"}),
        ("<@one,@two:a@b>", "a@b", {}),
        ("<printer>", "printer", {}),
        ("<jürgen@b>", "jürgen@b", {}),
        ('<"a.b"@c>', '"a.b"@c', {}),
    ],
)
def test_what_devices_send_is_understood(argument: str, address: str, parameters: dict[str, str]) -> None:
    path = parse_path(argument)
    assert (path.address, path.parameters) == (address, parameters)


@pytest.mark.parametrize(
    "argument",
    ["", "<a@b", "a@b>", "<a b@c>", "<a@b>x", "<a@b><c@d>", "<a\tb@c>", "<a@>", "<@b>", "<<a@b>>", "<a\u2028@b>"],
)
def test_what_could_be_read_in_two_ways_is_refused(argument: str) -> None:
    with pytest.raises(BadPath):
        parse_path(argument)


def test_the_length_counts_in_octets() -> None:
    assert parse_path(f"<{'x' * 310}@b.example>").address
    with pytest.raises(BadPath, match="too long"):
        parse_path(f"<{'ü' * 160}@b.example>")


def test_the_number_of_parameters_has_a_limit() -> None:
    with pytest.raises(BadPath, match="too many"):
        parse_path("<a@b>" + " X=1" * 21)
