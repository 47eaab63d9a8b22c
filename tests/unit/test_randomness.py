import os

import pytest

from posthouse.store.randomness import MOST, random_octets


@pytest.mark.parametrize("count", [0, 1, 7, 12, MOST])
def test_as_many_octets_as_are_asked_for(count: int) -> None:
    assert len(random_octets(count)) == count


def test_nothing_comes_twice() -> None:
    assert len({random_octets(12) for _ in range(5000)}) == 5000


def test_a_child_does_not_get_what_its_parent_gets() -> None:
    random_octets(MOST)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_octets(MOST))
        os._exit(0)
    os.waitpid(child, 0)
    given = os.read(reading, MOST)
    os.close(reading)
    os.close(writing)
    assert len(given) == MOST
    assert given not in {random_octets(MOST) for _ in range(512)}
