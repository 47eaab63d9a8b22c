import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.protocol.reading import Buffer, TooLong, dot_line, has_bare_line_end


def buffer(data: bytes, *, bare_lf: bool = True) -> Buffer:
    made = Buffer(bare_lf=bare_lf)
    made.feed(data)
    return made


def test_lines_come_without_their_end() -> None:
    b = buffer(b"one\r\ntwo\nthree")
    assert [b.line(10), b.line(10), b.line(10)] == [b"one", b"two", None]
    b.feed(b"\r\n")
    assert b.line(10) == b"three"


def test_a_bare_lf_can_be_part_of_a_line() -> None:
    b = buffer(b"one\ntwo\r", bare_lf=False)
    assert b.line(10) is None
    b.feed(b"\n")
    assert b.line(10) == b"one\ntwo"


@pytest.mark.parametrize("data", [b"123456", b"123456\r\n"])
def test_a_line_past_its_limit_is_too_long_with_or_without_its_end(data: bytes) -> None:
    with pytest.raises(TooLong, match="more than 5"):
        buffer(data).line(5)


def test_a_number_of_octets_is_waited_for() -> None:
    b = buffer(b"abc")
    assert b.exactly(4) is None
    b.feed(b"de")
    assert b.exactly(4) == b"abcd"
    assert b.up_to(10) == b"e"
    assert len(b) == 0


def test_what_was_cleared_is_gone() -> None:
    b = buffer(b"half a li")
    assert b.line(20) is None
    b.clear()
    b.feed(b"x\n")
    assert b.line(20) == b"x"


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\x00", b"\r\n")), st.booleans())
def test_lines_are_the_same_however_the_octets_arrive(data: bytes, bare_lf: bool) -> None:
    def lines(parts: list[bytes]) -> list[bytes]:
        b, found = Buffer(bare_lf=bare_lf), []
        for part in parts:
            b.feed(part)
            while (line := b.line(100)) is not None:
                found.append(line)
        return found

    assert lines([data]) == lines([data[i : i + 1] for i in range(len(data))])


@given(st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"text", b"\0", b"."])))
def test_a_line_end_that_is_not_whole_is_found(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert has_bare_line_end(data) is (b"\r" in (rest := data.replace(b"\r\n", b"\0")) or b"\n" in rest)


@given(st.lists(st.sampled_from([b"\r\n", b"text", b".", b" "])))
def test_the_first_line_that_begins_with_a_dot_is_found(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert dot_line(data) == (-1 if (before := data.find(b"\r\n.")) < 0 else before + 2)
