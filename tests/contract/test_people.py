"""Administrators, sessions, sign-in links and API keys, on both databases."""

import pytest

from posthouse.services.entrance import sign_in_link
from posthouse.store import people
from posthouse.store.database import Duplicate
from posthouse.store.opening import Store
from posthouse.store.people import Administrator, ApiKey
from posthouse.store.sealing import fingerprint
from tests.contract.making import NOW, Site, together

ANNA = Administrator("ad_1", "anna", "administrator", (), "argon2…")
KEY = ApiKey("ke_1", "help desk", ("read", "send"), ("support@example.com",), NOW)


@pytest.fixture
async def store(site: Site) -> Store:
    found = await site.node()
    await found.database.write(lambda tx: people.add(tx, ANNA, NOW))
    return found


async def by_name(store: Store, name: str = "anna") -> Administrator | None:
    return await store.database.read(lambda tx: people.by_name(tx, name))


async def of_session(store: Store, hash_: str = "s1", now: float = NOW) -> Administrator | None:
    return await store.database.read(lambda tx: people.of_session(tx, hash_, now))


async def open_session(store: Store, hash_: str = "s1", now: float = NOW) -> None:
    await store.database.write(lambda tx: people.open_session(tx, hash_, "ad_1", now, now + 3600))


async def use_link(store: Store, now: float = NOW) -> str | None:
    return await store.database.write(lambda tx: people.use_link(tx, "link", now))


async def make_link(store: Store) -> None:
    await store.database.write(lambda tx: people.make_link(tx, "link", "ad_1", NOW + 600))


async def find_key(store: Store, hash_: str) -> ApiKey | None:
    return await store.database.read(lambda tx: people.key(tx, hash_))


async def test_an_administrator_is_found_by_name(store: Store) -> None:
    assert await by_name(store) == ANNA
    assert await by_name(store, "berta") is None
    assert await store.database.read(people.administrators) == [ANNA]
    assert "argon2" not in repr(ANNA)


async def test_a_name_is_given_once(store: Store) -> None:
    with pytest.raises(Duplicate):
        await store.database.write(lambda tx: people.add(tx, Administrator("ad_2", "anna", "auditor", (), ""), NOW))


async def test_a_role_can_be_changed(store: Store) -> None:
    await store.database.write(lambda tx: people.set_role(tx, "ad_1", "limited", ("sending", "devices")))
    found = await by_name(store)
    assert found is not None
    assert (found.role, found.permissions) == ("limited", ("sending", "devices"))


async def test_a_session_lasts_until_it_expires(store: Store) -> None:
    await open_session(store)
    assert await of_session(store, now=NOW + 3599) == ANNA
    assert await of_session(store, now=NOW + 3600) is None
    assert await of_session(store, "s2") is None


async def test_signing_out_ends_one_session(store: Store) -> None:
    await open_session(store, "s1")
    await open_session(store, "s2")
    await store.database.write(lambda tx: people.close_session(tx, "s1"))
    assert await of_session(store, "s1") is None
    assert await of_session(store, "s2") == ANNA


async def test_a_new_session_clears_away_those_that_expired(store: Store) -> None:
    await open_session(store, "s1")
    await open_session(store, "s2", NOW + 7200)
    assert await of_session(store, "s1", NOW) is None
    assert await of_session(store, "s2", NOW + 7200) == ANNA


async def test_a_new_password_ends_every_session(store: Store) -> None:
    await open_session(store)
    await store.database.write(lambda tx: people.set_password(tx, "ad_1", "argon2 again"))
    found = await by_name(store)
    assert found is not None
    assert found.password_hash == "argon2 again"
    assert await of_session(store) is None


async def test_a_removed_administrator_is_signed_out(store: Store) -> None:
    await open_session(store)
    await make_link(store)
    await store.database.write(lambda tx: people.remove(tx, "ad_1"))
    assert await by_name(store) is None
    assert await of_session(store) is None
    assert await use_link(store) is None


async def test_a_sign_in_link_is_worth_nothing_when_it_has_expired(store: Store) -> None:
    await make_link(store)
    assert await use_link(store, NOW + 600) is None


async def test_a_sign_in_link_works_once(store: Store) -> None:
    await make_link(store)
    assert await use_link(store, NOW + 599) == "ad_1"
    assert await use_link(store, NOW + 599) is None


async def test_a_link_used_many_times_at_once_works_once(site: Site, store: Store) -> None:
    await make_link(store)
    nodes = [store, *await site.nodes(3)]
    assert sorted(await together(use_link(each) for each in nodes * 2), key=str) == [None] * 7 + ["ad_1"]


async def test_a_key_is_found_by_its_hash_until_it_is_removed(store: Store) -> None:
    await store.database.write(lambda tx: people.add_key(tx, KEY, "hash-1"))
    assert await find_key(store, "hash-1") == KEY
    assert await find_key(store, "hash-2") is None
    assert await store.database.read(people.keys) == [KEY]
    assert await store.database.write(lambda tx: people.remove_key(tx, "help desk"))
    assert not await store.database.write(lambda tx: people.remove_key(tx, "help desk"))
    assert await find_key(store, "hash-1") is None


async def test_nodes_that_start_together_make_one_first_administrator_and_all_get_a_link(site: Site) -> None:
    nodes = await site.nodes(4)
    links = await together(sign_in_link(store, lambda: NOW, "http://localhost") for store in nodes)
    [first] = await nodes[0].database.read(people.administrators)
    for link in links:
        used = fingerprint(link.reveal().rpartition("/")[2])
        assert await nodes[0].database.write(lambda tx, of=used: people.use_link(tx, of, NOW)) == first.id  # type: ignore[misc]
