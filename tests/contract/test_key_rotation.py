"""Changing the data key and the master key while everything goes on, on both databases and with two nodes."""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import LargeBinary, select, update

from posthouse.problems import ProblemError
from posthouse.secret import Secret
from posthouse.services.key_rotation import KeyRotation
from posthouse.services.master_key_change import MasterKeyChange
from posthouse.store import authorisations, configuration, data_keys, leases, leaving, messages, sealed, tokens
from posthouse.store.authorisations import Authorisation
from posthouse.store.database import Database, T, Transaction, Work
from posthouse.store.leaving import Leaving
from posthouse.store.opening import Store, open_store
from posthouse.store.sealed import SEALED
from posthouse.store.sealing import key_id_of
from posthouse.store.spool import INLINE
from posthouse.store.tables import metadata
from posthouse.store.trouble import LastWrite
from tests.contract.making import NOW, Site, add_consent, consent, grant_of, mail

LARGE = os.urandom(INLINE * 9)


@dataclass
class Node:
    """A gateway as far as keys go: it beats, and does what there is to do."""

    store: Store
    name: str = "node-1"
    now: float = NOW
    quiet: float = 600.0
    rotation: KeyRotation = field(init=False)

    def __post_init__(self) -> None:
        self.rotation = KeyRotation(self.store, self.name, lambda: self.now, self.quiet)

    async def beat(self) -> None:
        keys = self.store.keys
        await self.store.database.write(lambda tx: leases.beat(tx, self.name, keys.generation, keys.master_id))

    async def work(self, *, alone: bool = False) -> None:
        for _ in range(200):
            if not await self.rotation.turn(alone=alone):
                return
        pytest.fail("it works on and on")

    async def states(self) -> list[str]:
        return [key.state for key in (await self.store.database.read(data_keys.stored)).data_keys]


async def node_of(site: Site, name: str = "node-1") -> Node:
    made = Node(await site.node(), name)
    await made.beat()
    return made


LEAVING = Leaving(
    "gr_gone", "app_1", "tk_1", "https://id", "alice", NOW, Secret("refresh-gone"), ends_at=NOW, next_at=NOW
)


async def filled(store: Store) -> None:
    """One of everything that lies sealed."""

    async def work(tx: Transaction) -> None:
        sealer = store.sealer
        password = sealer.seal(b"mailbox password", "mailbox:mb_1:password")
        secret = sealer.seal(b"client secret", "app:app_1:secret")
        await configuration.save(tx, "mailbox", "mb_1", address="a@example.com", document="{}", password=password)
        await configuration.save(tx, "app", "app_1", name="office", document="{}", secret=secret)
        await tokens.add_grant(tx, sealer, consent())
        await leaving.add(tx, sealer, LEAVING)
        await authorisations.add(tx, sealer, sign_in(), start_hash="start")
        small = sealer.seal(b"a small message", "message:m1")
        await messages.accept(tx, mail("m1", body=small), NOW, NOW + 1000)

    await store.database.write(work)
    await rotated(store, "access-2", "refresh-2")
    for number, start in enumerate(range(0, len(LARGE), 256 * 1024)):
        await store.spool.write("m2", number, LARGE[start : start + 256 * 1024], last=number == 2)
    large = structs.replace(mail("m2", body=store.sealer.seal(b"head", "message:m2")), pieces=3)
    await store.database.write(lambda tx: messages.accept(tx, large, NOW, NOW + 1000))


def sign_in() -> Authorisation:
    return Authorisation(
        id="au_1", mailbox_id="mb_1", token_id="tk_1", method="device", state="started", reason="", detail="",
        cookie_hash="", user_code="", verification_uri="", verification_uri_complete="", created_at=NOW,
        expires_at=NOW + 900, poll_at=0.0, poll_interval=5.0, grant_id=None, version=0,
        secrets={"device_code": "device code"},
    )  # fmt: skip


async def rotated(store: Store, access: str, refresh: str) -> bool:
    old = await grant_of(store)
    fresh = await store.database.write(
        lambda tx: tokens.rotate(
            tx, store.sealer, old, access_token=Secret(access), refresh_token=Secret(refresh), scopes=(), now=NOW,
            expires_at=NOW + 3600, next_refresh_at=NOW + 2880,
        )
    )  # fmt: skip
    return fresh is not None


async def everything(store: Store) -> dict[str, Any]:
    """All of it in the clear, by way of the functions that the gateway itself reads it with."""
    database, sealer = store.database, store.sealer
    loaded = await database.read(configuration.load)
    grant = await grant_of(store)
    attempt = await database.read(lambda tx: authorisations.get(tx, sealer, "au_1"))
    bodies = {row["message_id"]: row["data"] for row in await database.read(lambda tx: tx.all(_bodies))}
    return {
        "password": await database.read(lambda tx: configuration.mailbox_password(tx, sealer, "mb_1")),
        "secret": configuration.app_secret(sealer, loaded.apps["app_1"]),
        "tokens": (grant.access_token, grant.refresh_token, grant.previous_refresh_token, grant.serial),
        "attempt": attempt.secrets if attempt else None,
        "bodies": {name: sealer.open(body, f"message:{name}") for name, body in bodies.items()},
        "large": b"".join([piece async for piece in store.spool.read("m2", 3)]),
        "leaving": [one.secret for one in await database.write(lambda tx: leaving.take_due(tx, sealer, NOW, NOW, 9))],
        "derived": sealer.derive("device passwords"),
    }


_bodies = select(metadata.tables["body"].c.message_id, metadata.tables["body"].c.data)


async def raw(store: Store) -> list[bytes]:
    """Every sealed value, as it lies there."""
    found = []
    for of in SEALED:
        rows = await store.database.read(lambda tx, of=of: tx.all(_raw[of.what]))  # type: ignore[misc]
        found += [bytes(row[of.column.name]) for row in rows if row[of.column.name] is not None]
    return found


_raw = {of.what: select(of.column) for of in SEALED}


def test_every_column_of_octets_is_known_to_be_sealed() -> None:
    octets = {
        column for table in metadata.tables.values() for column in table.columns if isinstance(column.type, LargeBinary)
    }
    wrapped = metadata.tables["sealing_wrap"].c.wrapped
    assert {of.column for of in SEALED} == octets - {wrapped}


async def test_a_value_is_bound_to_its_row_and_column(site: Site) -> None:
    store = await site.node()
    await filled(store)
    for of in SEALED:
        page = await store.database.read(lambda tx, of=of: sealed.under(tx, of, _current(store), None))  # type: ignore[misc]
        for row in page.rows:
            if row["value"] is not None:
                elsewhere = {name: f"{value}0" if name != "value" else value for name, value in dict(row).items()}
                exchanges, unreadable = sealed.seal_anew(of, [elsewhere], store.sealer)
                assert (exchanges, unreadable) == ([], 1), of.what


def _current(store: Store) -> str:
    return key_id_of(store.sealer.seal(b"", ""))


async def test_everything_gets_under_the_new_key_and_says_what_it_said(site: Site) -> None:
    node = await node_of(site)
    await filled(node.store)
    before, old = await everything(node.store), _current(node.store)
    await node.rotation.begin()
    assert await node.states() == ["current", "coming"] or await node.states() == ["coming", "current"]
    await node.beat()
    await node.work()
    assert sorted(await node.states()) == ["current", "old"]
    assert _current(node.store) != old
    assert {key_id_of(value) for value in await raw(node.store)} == {_current(node.store)}
    assert old not in {key for counts in (await node.rotation.survey()).values() for key in counts}
    assert await everything(node.store) == before


async def test_the_old_key_goes_when_nothing_can_be_on_its_way_any_more(site: Site) -> None:
    node = await node_of(site)
    await filled(node.store)
    before, old = await everything(node.store), _current(node.store)
    on_its_way = node.store.sealer.seal(b"late", "message:late")
    await node.rotation.begin()
    await node.beat()
    await node.work()
    await node.beat()
    await node.work()
    late = mail("late", body=on_its_way)
    await node.store.database.write(lambda tx: messages.accept(tx, late, NOW, NOW + 1000))
    node.now += 601
    await node.work()
    assert await node.states() == ["current"]
    again = await reopened(site)
    assert old not in {key_id for key_id, _ in (await again.database.read(data_keys.stored)).wraps}
    assert await everything(again) == before | {"bodies": before["bodies"] | {"late": b"late"}}


async def reopened(site: Site) -> Store:
    await site.close()
    site._opened.clear()
    return await site.node()


async def test_a_command_that_is_alone_need_not_wait(site: Site) -> None:
    node = Node(await site.node())
    await filled(node.store)
    before = await everything(node.store)
    await node.rotation.begin()
    await node.work(alone=True)
    assert await node.states() == ["current"]
    assert await everything(node.store) == before


async def test_a_change_that_is_begun_twice_is_one_change(site: Site) -> None:
    node = await node_of(site)
    await node.rotation.begin()
    await node.rotation.begin()
    assert len(await node.states()) == 2


async def test_a_token_that_is_rotated_meanwhile_is_never_written_over(site: Site) -> None:
    node = await node_of(site)
    await filled(node.store)
    old = _current(node.store)
    await node.rotation.begin()
    await node.beat()
    await node.rotation.turn()
    of = next(of for of in SEALED if of.what == "tokens")
    page = await node.store.database.read(lambda tx: sealed.under(tx, of, old, None))
    exchanges, _ = sealed.seal_anew(of, page.rows, node.store.sealer)
    assert await rotated(node.store, "access-3", "refresh-3")
    assert await node.store.database.write(lambda tx: sealed.exchange(tx, of, exchanges)) == 0
    await node.work()
    grant = await grant_of(node.store)
    assert (grant.refresh_token, grant.previous_refresh_token) == (Secret("refresh-3"), Secret("refresh-2"))


async def test_tokens_are_rotated_by_the_hundred_while_everything_is_sealed_anew(site: Site) -> None:
    node = await node_of(site)
    ids = [f"gr_{number}" for number in range(250)]
    for grant_id in ids:
        await add_consent(node.store, consent(grant_id))
    await node.rotation.begin()
    await node.beat()

    async def rotate(grant_id: str) -> None:
        for number in range(2, 5):
            old = await grant_of(node.store, grant_id)
            new = Secret(f"refresh-{number} of {grant_id}")
            assert await node.store.database.write(
                lambda tx, old=old, new=new: tokens.rotate(  # type: ignore[misc]
                    tx, node.store.sealer, old, access_token=new, refresh_token=new, scopes=(), now=NOW,
                    expires_at=NOW, next_refresh_at=NOW,
                )
            )  # fmt: skip
            await asyncio.sleep(0)

    await asyncio.gather(node.work(), *(rotate(grant_id) for grant_id in ids))
    await node.work()
    assert {key_id_of(value) for value in await raw(node.store)} == {_current(node.store)}
    for grant_id in ids:
        assert (await grant_of(node.store, grant_id)).refresh_token == Secret(f"refresh-4 of {grant_id}")


# Killed


class Killed(Exception):
    pass


@dataclass
class Fragile:
    """A database in front of another one that dies before or after its nth write."""

    real: Database
    writes_left: int
    after: bool

    embedded: bool = False
    fared: LastWrite = field(default_factory=LastWrite)

    async def read(self, work: Work[T]) -> T:
        return await self.real.read(work)

    async def write(self, work: Work[T], *, long: bool = False) -> T:
        self.writes_left -= 1
        if self.writes_left == 0 and not self.after:
            raise Killed
        result = await self.real.write(work, long=long)
        if self.writes_left == 0:
            raise Killed
        return result

    async def close(self) -> None:
        await self.real.close()


async def until_killed(step: Callable[[], Awaitable[object]]) -> bool:
    try:
        await step()
    except Killed:
        return True
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before a commit", "after a commit"])
async def test_a_change_of_the_data_key_that_is_killed_at_any_step_is_gone_on_with(site: Site, after: bool) -> None:
    store = await site.node()
    await filled(store)
    before, first = await everything(store), _current(store)
    killed, count = True, 0
    while killed:
        count += 1
        fragile = Fragile(store.database, count, after, store.database.embedded)
        store.keys.database = fragile
        node = Node(replace(store, database=fragile))

        async def change(node: Node = node) -> None:
            await node.rotation.begin()
            await node.work(alone=True)

        killed = await until_killed(change)
        store = await reopened(site)
        assert await everything(store) == before
        await Node(store).work(alone=True)
        assert await everything(store) == before
        assert len((await store.database.read(data_keys.stored)).data_keys) == 1
    assert count > 8
    assert _current(store) != first


# Two nodes


@pytest.fixture
async def pair(prepared_postgres: str, site_of: Callable[[str], Site]) -> tuple[Node, Node]:
    site = site_of(prepared_postgres)
    return await node_of(site, "node-1"), await node_of(site, "node-2")


async def test_nothing_is_sealed_with_a_key_that_a_running_node_does_not_know(pair: tuple[Node, Node]) -> None:
    one, other = pair
    old = _current(one.store)
    await one.rotation.begin()
    await one.beat()
    await one.work()
    assert _current(one.store) == old
    await other.store.keys.load()
    await other.beat()
    await one.work()
    new = _current(one.store)
    assert new != old
    await add_consent(one.store, consent())
    assert await grant_of(other.store) == consent()
    await other.store.keys.load()
    assert _current(other.store) == new


async def test_the_old_key_stays_while_a_running_node_may_seal_with_it(pair: tuple[Node, Node]) -> None:
    one, other = pair
    await one.rotation.begin()
    await one.beat()
    await other.store.keys.load()
    await other.beat()
    await one.work()
    await one.beat()
    one.now += 10_000
    await one.work()
    assert sorted(await one.states()) == ["current", "old"]
    await other.store.keys.load()
    await other.beat()
    one.now += 10_000
    await one.work()
    one.now += 10_000
    await one.work()
    assert await one.states() == ["current"]


async def test_two_nodes_do_not_do_the_work_twice(pair: tuple[Node, Node]) -> None:
    one, other = pair
    await filled(one.store)
    await one.rotation.begin()
    await one.beat()
    await other.store.keys.load()
    await other.beat()
    assert await one.rotation.turn()
    assert await one.rotation.turn()
    await other.store.keys.load()
    assert not await other.rotation.turn()


async def test_a_node_that_was_away_puts_back_the_key_it_sealed_with_meanwhile(pair: tuple[Node, Node]) -> None:
    one, away = pair
    await away.store.database.write(lambda tx: leases.leave(tx, away.name))
    await one.rotation.begin()
    await one.beat()
    await one.work(alone=True)
    assert await one.states() == ["current"]
    await add_consent(away.store, consent())
    await away.store.keys.load()
    assert sorted(await away.states()) == ["current", "old"]
    assert await grant_of(away.store) == consent()
    await one.store.keys.load()
    await one.work(alone=True)
    assert await one.states() == ["current"]
    assert await grant_of(one.store) == consent()


# The master key


def key_text() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


async def masters(store: Store) -> list[str]:
    return (await store.database.read(data_keys.stored)).masters


async def test_another_master_key_opens_the_database_and_the_former_one_does_not(tmp_path: Path) -> None:
    site = Site(tmp_path, "")
    store = await site.node()
    await filled(store)
    before, former = await everything(store), (tmp_path / "key").read_text()
    assert await MasterKeyChange(store.keys, "node-1").change()
    now = (tmp_path / "key").read_text()
    assert now != former
    assert await everything(await reopened(site)) == before
    await site.close()
    (tmp_path / "key").write_text(former)
    with pytest.raises(ProblemError, match="does not fit the database"):
        await open_store(tmp_path, "", {})


async def test_the_master_key_can_be_given(tmp_path: Path) -> None:
    site, given = Site(tmp_path, ""), key_text()
    await MasterKeyChange((await site.node()).keys, "node-1").change(given)
    assert (tmp_path / "key").read_text().strip() == given
    with pytest.raises(ProblemError, match="in use already"):
        await MasterKeyChange((await site.node()).keys, "node-1").change(given)
    with pytest.raises(ProblemError, match="does not hold a Posthouse key"):
        await MasterKeyChange((await site.node()).keys, "node-1").change("no key")
    assert (tmp_path / "key").read_text().strip() == given
    await reopened(site)
    await site.close()


STEPS = ("keep_spare", "wrap_with", "swap", "forget_other_masters")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_change_of_the_master_key_that_is_killed_at_any_step_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    site = Site(tmp_path, "")
    store = await site.node()
    await filled(store)
    before, former = await everything(store), store.keys.master_id
    of = type(store.keys) if hasattr(store.keys, step) else type(store.keys.place)
    real = getattr(of, step)

    def die(*words: Any) -> Any:
        if after:
            pending = real(*words)
            if asyncio.iscoroutine(pending):

                async def finish() -> None:
                    await pending
                    raise Killed

                return finish()
        raise Killed

    monkeypatch.setattr(of, step, die)
    with pytest.raises(Killed):
        await MasterKeyChange(store.keys, "node-1").change()
    monkeypatch.undo()
    store = await reopened(site)
    assert await everything(store) == before
    if await masters(store) == [former] or len(await masters(store)) == 2:
        assert await MasterKeyChange(store.keys, "node-1").change()
    store = await reopened(site)
    assert await everything(store) == before
    assert await masters(store) == [store.keys.master_id] != [former]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("key")) == ["key"]
    await site.close()


async def test_a_given_key_and_the_new_one_both_open_it_until_the_change_is_finished(site: Site) -> None:
    former, new = {"POSTHOUSE_KEY": key_text()}, {"POSTHOUSE_KEY": key_text()}
    store = await open_store(site.data, site.url, former)
    await add_consent(store, consent())
    with pytest.raises(ProblemError, match="which Posthouse cannot change"):
        await MasterKeyChange(store.keys, "node-1").change()
    assert not await MasterKeyChange(store.keys, "node-1").change(new["POSTHOUSE_KEY"])
    with pytest.raises(ProblemError, match="another one still opens the database"):
        await Node(store).rotation.begin()
    await store.close()
    for environment in (former, new):
        store = await open_store(site.data, site.url, environment)
        assert await grant_of(store) == consent()
        await store.close()
    store = await open_store(site.data, site.url, new)
    assert await MasterKeyChange(store.keys, "node-1").finish()
    assert not await MasterKeyChange(store.keys, "node-1").finish()
    await Node(store).rotation.begin()
    assert await grant_of(store) == consent()
    await store.close()
    with pytest.raises(ProblemError, match="does not fit the database"):
        await open_store(site.data, site.url, former)


async def test_the_former_master_key_stays_while_a_running_node_has_it(pair: tuple[Node, Node]) -> None:
    one, other = pair
    assert not await MasterKeyChange(one.store.keys, "node-1").change()
    with pytest.raises(ProblemError, match="node-2 still runs with another master key"):
        await MasterKeyChange(one.store.keys, "node-1").finish()
    await add_consent(other.store, consent())
    assert await grant_of(one.store) == consent()
    await other.store.database.write(lambda tx: leases.leave(tx, other.name))
    assert await MasterKeyChange(one.store.keys, "node-1").finish()


async def test_a_node_whose_master_key_was_forgotten_goes_on_with_what_it_has(pair: tuple[Node, Node]) -> None:
    one, asleep = pair
    await add_consent(one.store, consent())
    await asleep.store.database.write(lambda tx: leases.leave(tx, asleep.name))
    await MasterKeyChange(one.store.keys, "node-1").change()
    await MasterKeyChange(one.store.keys, "node-1").finish()
    await asleep.store.keys.load()
    assert await grant_of(asleep.store) == consent()


async def test_what_was_damaged_keeps_the_old_key_and_everything_else_goes_on(site: Site) -> None:
    node = await node_of(site)
    await filled(node.store)
    table = metadata.tables["oauth_grant"]
    damaged = (await raw(node.store))[0][:5] + os.urandom(40)
    spoil = update(table).values(previous=damaged)
    await node.store.database.write(lambda tx: tx.run(spoil))
    old = _current(node.store)
    await node.rotation.begin()
    await node.beat()
    await node.work(alone=True)
    assert node.rotation.unreadable == 1
    assert sorted(await node.states()) == ["current", "old"]
    assert [value for value in await raw(node.store) if key_id_of(value) == old] == [damaged]
