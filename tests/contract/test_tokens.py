"""Tokens and grants, on both databases."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import bindparam, select, update

from posthouse.model.token import Grant, Token, TokenState
from posthouse.secret import Secret
from posthouse.store import configuration, events, tokens
from posthouse.store.database import Transaction
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable
from posthouse.store.tables import grant
from posthouse.store.tokens import Lease, SettingResult
from tests.contract.making import NOW, Site, add_consent, consent, grant_of, together

_sealed = select(grant.c.sealed, grant.c.previous).where(grant.c.id == bindparam("row_id"))
_put = update(grant).where(grant.c.id == bindparam("row_id")).values(sealed=bindparam("new"))
_put_previous = update(grant).where(grant.c.id == bindparam("row_id")).values(previous=bindparam("new"))


@pytest.fixture
async def store(site: Site) -> Store:
    return await site.node()


async def ensure(store: Store, name: str = "main") -> Token:
    return await store.database.write(lambda tx: tokens.ensure(tx, "ap_1", "alice@example.com", name, NOW))


async def all_tokens(store: Store) -> list[Token]:
    return await store.database.read(tokens.everything)


async def current(store: Store, token_id: str) -> Token:
    found = await store.database.read(lambda tx: tokens.get(tx, token_id))
    assert found is not None
    return found


async def set_state(store: Store, token_id: str, state: TokenState, now: float = NOW, reason: str = "") -> bool:
    return await store.database.write(lambda tx: tokens.set_state(tx, token_id, state, now, reason))


async def event_kinds(store: Store) -> list[str]:
    return [event.kind for event in await store.database.read(lambda tx: events.after(tx, 0))]


async def point(store: Store, seen: Token, serving: str | None, pending: str | None = None) -> bool:
    return await store.database.write(
        lambda tx: tokens.point(tx, seen, serving=serving, pending=pending, pinned=("https://id", "alice"))
    )


async def lease(
    store: Store, owner: str, *, serial: int = 1, seconds: float = 90.0, request: float = 30.0, grant_id: str = "gr_1"
) -> Lease | None:
    seen = replace(consent(grant_id), serial=serial, failures=9)
    return await store.database.write(lambda tx: tokens.lease(tx, store.sealer, seen, owner, seconds, request))


async def leased(store: Store, owner: str, *, serial: int = 1, seconds: float = 90.0) -> Lease:
    got = await lease(store, owner, serial=serial, seconds=seconds)
    assert got is not None
    return got


async def rotate(
    store: Store,
    old: Grant,
    *,
    refresh: str | None = "refresh-2",
    now: float = NOW + 60,
    refresh_ends_at: float = 0.0,
) -> Grant | None:
    return await store.database.write(
        lambda tx: tokens.rotate(
            tx,
            store.sealer,
            old,
            access_token=Secret(f"access-{old.serial + 1}"),
            refresh_token=Secret(refresh) if refresh else None,
            scopes=(),
            now=now,
            expires_at=now + 3600,
            next_refresh_at=now + 2880,
            refresh_ends_at=refresh_ends_at,
        )
    )


async def postpone(store: Store, old: Grant, *, answered: bool, next_at: float = NOW + 5) -> None:
    await store.database.write(lambda tx: tokens.postpone(tx, old, "503 busy", next_at, answered=answered))


async def remove(store: Store, token_id: str) -> None:
    await store.database.write(lambda tx: tokens.remove(tx, token_id))


async def remove_grant(store: Store, grant_id: str = "gr_1") -> bool:
    return await store.database.write(lambda tx: tokens.remove_grant(tx, grant_id))


async def due(store: Store, now: float, at_most: int = 10, *, apart: Sequence[str] = ()) -> list[str]:
    found = await store.database.read(lambda tx: tokens.due(tx, now, at_most, apart=apart))
    return [grant_id for grant_id, _ in found]


# Tokens


async def test_a_new_token_is_not_acquired(store: Store) -> None:
    token = await ensure(store)
    assert (token.state, token.reason, token.since) == (TokenState.NOT_ACQUIRED, "", NOW)
    assert (token.serving_grant, token.pending_grant, token.pinned) == (None, None, None)
    assert await ensure(store) == token == await current(store, token.id)
    assert (await ensure(store, "notices")).id != token.id


async def test_many_who_ensure_a_token_at_once_get_the_same(site: Site) -> None:
    nodes = await site.nodes(4)
    for name in ("main", "smtp", "notices"):
        made = await together(ensure(store, name) for store in nodes * 3)
        assert len({token.id for token in made}) == 1
    assert [token.name for token in await all_tokens(nodes[0])] == ["main", "notices", "smtp"]


async def test_a_change_of_state_is_told_once(store: Store) -> None:
    token = await ensure(store)
    assert await set_state(store, token.id, TokenState.INVALID, NOW + 1, "revoked")
    assert not await set_state(store, token.id, TokenState.INVALID, NOW + 2, "revoked")
    (event,) = await store.database.read(lambda tx: events.after(tx, 0))
    assert (event.kind, event.subject, event.at) == ("token.invalid", token.id, NOW + 1)
    assert event.document == {"reason": "revoked", "detail": "", "account": "alice@example.com"}
    changed = await current(store, token.id)
    assert (changed.state, changed.reason, changed.since) == (TokenState.INVALID, "revoked", NOW + 1)


async def test_a_state_that_many_report_at_once_is_told_once(site: Site) -> None:
    nodes = await site.nodes(4)
    token = await ensure(nodes[0])
    for number, state in enumerate((TokenState.INVALID, TokenState.ACQUIRED, TokenState.INVALID)):
        changed = await together(set_state(store, token.id, state, NOW + number, "x") for store in nodes * 2)
        assert changed.count(True) == 1
    assert await event_kinds(nodes[0]) == ["token.invalid", "token.acquired", "token.invalid"]


async def test_another_reason_is_told_but_does_not_change_since_when(store: Store) -> None:
    token = await ensure(store)
    await set_state(store, token.id, TokenState.INVALID, NOW + 1, "expired")
    assert await set_state(store, token.id, TokenState.INVALID, NOW + 9, "revoked")
    changed = await current(store, token.id)
    assert (changed.reason, changed.since) == ("revoked", NOW + 1)
    assert not await set_state(store, "no such token", TokenState.INVALID)


async def test_tokens_that_need_somebody_are_found_by_account_and_by_reason(store: Store) -> None:
    made = [await ensure(store, name) for name in ("one", "two", "three")]
    await set_state(store, made[0].id, TokenState.INVALID, reason="revoked")
    await set_state(store, made[1].id, TokenState.INVALID, reason="client_changed")
    await set_state(store, made[2].id, TokenState.ACQUIRED)
    assert [token.name for token in await store.database.read(tokens.invalid)] == ["one", "two"]
    found = await store.database.read(lambda tx: tokens.invalid_for(tx, "client_changed"))
    assert [token.name for token in found] == ["two"]


async def test_tokens_that_no_mailbox_names_are_found(store: Store) -> None:
    named, other = await ensure(store, "named"), await ensure(store, "other")
    await store.database.write(
        lambda tx: configuration.save(tx, "mailbox", "mb_1", address="alice@example.com", token_id=named.id)
    )
    await store.database.write(lambda tx: configuration.save(tx, "mailbox", "mb_2", address="bob@example.com"))
    assert [token.id for token in await store.database.read(tokens.not_shared)] == [other.id]


async def test_the_pointer_moves_only_from_where_it_was_seen(store: Store) -> None:
    seen = await ensure(store)
    assert await point(store, seen, "gr_1", "gr_2")
    moved = await current(store, seen.id)
    assert (moved.serving_grant, moved.pending_grant, moved.pinned) == ("gr_1", "gr_2", ("https://id", "alice"))
    assert not await point(store, seen, "gr_3")
    assert await current(store, seen.id) == moved


async def test_of_many_who_move_the_pointer_at_once_one_succeeds(site: Site) -> None:
    nodes = await site.nodes(4)
    seen = await ensure(nodes[0])
    moved = await together(point(store, seen, f"gr_{number}") for number, store in enumerate(nodes))
    assert moved.count(True) == 1
    assert (await current(nodes[0], seen.id)).serving_grant == f"gr_{moved.index(True)}"


async def test_a_deleted_token_takes_its_grants_with_it(store: Store) -> None:
    token = await ensure(store)
    await add_consent(store, consent("gr_1", token.id))
    await add_consent(store, consent("gr_2", token.id))
    await add_consent(store, consent("gr_3", "another"))
    await remove(store, token.id)
    assert await all_tokens(store) == []
    assert await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, "gr_1")) is None
    assert (await grant_of(store, "gr_3")).token_id == "another"


async def test_a_state_can_be_told_again(store: Store) -> None:
    token = await ensure(store)
    await set_state(store, token.id, TokenState.ACQUIRED, NOW + 1)
    assert await store.database.write(
        lambda tx: tokens.set_state(tx, token.id, TokenState.ACQUIRED, NOW + 9, again=True)
    )
    assert await event_kinds(store) == ["token.acquired", "token.acquired"]
    assert (await current(store, token.id)).since == NOW + 1


# Grants


async def test_a_grant_that_is_taken_is_gone_and_many_who_take_it_get_it_once(site: Site) -> None:
    nodes = await site.nodes(4)
    await add_consent(nodes[0], consent())
    taken = await together(
        store.database.write(lambda tx, of=store: tokens.take_grant(tx, of.sealer, "gr_1"))  # type: ignore[misc]
        for store in nodes
    )
    assert [grant for grant in taken if grant is not None] == [consent()]


async def test_all_grants_of_a_token_are_taken_also_those_that_cannot_be_opened(store: Store) -> None:
    for name, of in (("gr_1", "tk_1"), ("gr_2", "tk_1"), ("gr_3", "another")):
        await add_consent(store, consent(name, of))
    await store.database.write(lambda tx: tx.run(_put, row_id="gr_1", new=b"spoilt"))
    taken = await store.database.write(lambda tx: tokens.take_grants(tx, store.sealer, "tk_1"))
    assert [grant.id for grant in taken] == ["gr_2"]
    assert await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, "gr_1")) is None
    assert (await grant_of(store, "gr_3")).token_id == "another"


async def test_grants_that_another_took_the_place_of_are_retired_after_a_while(store: Store) -> None:
    token = await ensure(store)
    for name in ("gr_1", "gr_2", "gr_3"):
        await add_consent(store, consent(name, token.id))
    await point(store, token, "gr_1", "gr_2")
    assert await store.database.read(lambda tx: tokens.retired(tx, NOW)) == []
    assert await store.database.read(lambda tx: tokens.retired(tx, NOW + 1)) == [("gr_3", token.id)]


async def test_a_grant_is_read_as_it_was_given(store: Store) -> None:
    given = consent()
    await add_consent(store, given)
    assert await grant_of(store) == given
    assert await store.database.read(lambda tx: tokens.grants_of(tx, store.sealer, "tk_1")) == [given]


async def test_to_whom_a_consent_was_given_is_kept_over_a_rotation(store: Store) -> None:
    await add_consent(store, replace(consent(), given_to="us at https://id.example.com"))
    assert await rotate(store, (await leased(store, "one")).grant)
    assert (await grant_of(store)).given_to == "us at https://id.example.com"


async def test_a_grant_need_not_have_a_refresh_token(store: Store) -> None:
    given = replace(consent(), refresh_token=None)
    await add_consent(store, given)
    assert await grant_of(store) == given


async def test_who_consented_can_be_written_down_later(store: Store) -> None:
    await add_consent(store, consent())
    await store.database.write(lambda tx: tokens.identify(tx, "gr_1", "https://other", "bob-id", "bob@example.com"))
    found = await grant_of(store)
    assert (found.issuer, found.subject, found.person) == ("https://other", "bob-id", "bob@example.com")


async def test_a_removed_grant_is_gone(store: Store) -> None:
    await add_consent(store, consent())
    assert await remove_grant(store)
    assert not await remove_grant(store)
    assert await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, "gr_1")) is None


async def test_no_secret_of_a_grant_lies_open_in_its_row(store: Store) -> None:
    await add_consent(store, consent())
    await rotate(store, await grant_of(store))
    row = await store.database.read(lambda tx: tx.one(_sealed, row_id="gr_1"))
    assert row is not None
    octets = row["sealed"] + row["previous"]
    assert not any(word in octets for word in (b"access-", b"refresh-"))
    assert "access-" not in repr(await grant_of(store))


async def test_rows_swapped_between_grants_cannot_be_opened(store: Store) -> None:
    await add_consent(store, consent("gr_1"))
    await add_consent(store, consent("gr_2"))
    row = await store.database.read(lambda tx: tx.one(_sealed, row_id="gr_2"))
    assert row is not None
    await store.database.write(lambda tx: tx.run(_put, row_id="gr_1", new=row["sealed"]))
    with pytest.raises(Unsealable):
        await grant_of(store, "gr_1")
    assert (await grant_of(store, "gr_2")).access_token == Secret("access-1")


async def test_an_old_row_cannot_be_put_back_after_a_rotation(store: Store) -> None:
    await add_consent(store, consent())
    row = await store.database.read(lambda tx: tx.one(_sealed, row_id="gr_1"))
    assert row is not None
    await rotate(store, await grant_of(store))
    await store.database.write(lambda tx: tx.run(_put, row_id="gr_1", new=row["sealed"]))
    with pytest.raises(Unsealable):
        await grant_of(store)


async def test_a_token_cannot_be_put_in_the_place_of_the_previous_one(store: Store) -> None:
    await add_consent(store, consent())
    await rotate(store, await grant_of(store))
    row = await store.database.read(lambda tx: tx.one(_sealed, row_id="gr_1"))
    assert row is not None
    await store.database.write(lambda tx: tx.run(_put_previous, row_id="gr_1", new=row["sealed"]))
    with pytest.raises(Unsealable):
        await grant_of(store)


# Refresh leases


async def test_a_lease_is_exclusive_and_writes_down_the_intent(store: Store) -> None:
    await add_consent(store, consent())
    got = await leased(store, "one")
    assert (got.grant.serial, got.grant.refresh_token, got.epoch) == (1, Secret("refresh-1"), 1)
    found = await grant_of(store)
    assert (found.intent_serial, found.answer_was_lost) == (1, True)
    assert found.intent_at == pytest.approx(got.until - 90.0)
    assert await lease(store, "two") is None
    assert await lease(store, "one") is None


async def test_a_lease_tells_whether_an_earlier_answer_was_lost(store: Store) -> None:
    await add_consent(store, consent())
    assert not (await leased(store, "one", seconds=-1)).grant.answer_was_lost
    assert (await leased(store, "two", seconds=-1)).grant.answer_was_lost


async def test_a_lease_is_for_the_serial_it_was_asked_for(store: Store) -> None:
    await add_consent(store, consent(serial=4))
    assert await lease(store, "one", serial=3) is None
    assert await lease(store, "one", serial=4, grant_id="no such grant") is None
    assert (await leased(store, "one", serial=4)).grant.serial == 4


async def test_a_lease_that_ran_out_is_taken_by_another(store: Store) -> None:
    await add_consent(store, consent())
    await leased(store, "one", seconds=-1)
    assert (await leased(store, "two")).epoch == 2


async def test_a_restarted_process_takes_its_own_lease_over_when_its_request_is_over(store: Store) -> None:
    await add_consent(store, consent())
    await leased(store, "one")
    assert await lease(store, "two", request=0.0) is None
    assert await lease(store, "one", request=30.0) is None
    taken = await lease(store, "one", request=0.0)
    assert taken is not None
    assert taken.epoch == 2


@pytest.mark.parametrize("count", [2, 4])
async def test_of_many_who_lease_at_once_exactly_one_holds_each_serial(site: Site, count: int) -> None:
    nodes = await site.nodes(count)
    await add_consent(nodes[0], consent())
    holders: Counter[int] = Counter()

    async def refresh(store: Store, owner: str) -> None:
        """As a process does that wants serial 10."""
        while (seen := await grant_of(store)).serial < 10:
            got = await lease(store, owner, serial=seen.serial)
            if got is not None:
                holders[got.grant.serial] += 1
                assert await rotate(store, got.grant, refresh=f"refresh-{got.grant.serial + 1}")

    await together(refresh(store, f"{number}-{turn}") for number, store in enumerate(nodes) for turn in (0, 1))
    assert holders == Counter(range(1, 10))
    found = await grant_of(nodes[0])
    assert (found.refresh_token, found.previous_refresh_token) == (Secret("refresh-10"), Secret("refresh-9"))


# Answers


async def test_a_rotation_is_written_whole(store: Store) -> None:
    await add_consent(store, consent())
    await postpone(store, (await leased(store, "one")).grant, answered=True)
    old = (await leased(store, "one")).grant
    assert await rotate(store, old)
    found = await grant_of(store)
    assert (found.serial, found.access_token, found.refresh_token) == (2, Secret("access-2"), Secret("refresh-2"))
    assert found.previous_refresh_token == Secret("refresh-1")
    assert (found.access_expires_at, found.next_refresh_at, found.refreshed_at) == (NOW + 3660, NOW + 2940, NOW + 60)
    assert (found.failures, found.last_error, found.intent_serial) == (0, "", None)
    assert found.scopes == ("mail", "offline_access")
    assert (await leased(store, "two", serial=2)).grant.serial == 2


async def test_an_answer_without_a_refresh_token_keeps_the_old_one(store: Store) -> None:
    await add_consent(store, consent())
    assert await rotate(store, await grant_of(store), refresh=None)
    assert (await grant_of(store)).refresh_token == Secret("refresh-1")


async def test_an_answer_is_not_written_over_another_serial(store: Store) -> None:
    await add_consent(store, consent())
    old = await grant_of(store)
    assert await rotate(store, old)
    rotated = await grant_of(store)
    assert not await rotate(store, old, refresh="refresh-late")
    assert await grant_of(store) == rotated


async def test_an_answer_for_a_removed_grant_is_refused(store: Store) -> None:
    await add_consent(store, consent())
    old = (await leased(store, "one")).grant
    await remove_grant(store)
    assert not await rotate(store, old)


async def test_the_serial_counts_and_not_the_lease(store: Store) -> None:
    """An answer that comes after its lease ran out is the newest truth all the same."""
    await add_consent(store, consent())
    late = (await leased(store, "one", seconds=-1)).grant
    await leased(store, "two")
    assert await rotate(store, late)
    assert (await grant_of(store)).refresh_token == Secret("refresh-2")


async def test_a_temporary_failure_changes_no_secret_and_frees_the_lease(store: Store) -> None:
    await add_consent(store, consent())
    await postpone(store, (await leased(store, "one")).grant, answered=True, next_at=NOW + 5)
    found = await grant_of(store)
    assert (found.refresh_token, found.serial, found.failures) == (Secret("refresh-1"), 1, 1)
    assert (found.last_error, found.next_refresh_at, found.answer_was_lost) == ("503 busy", NOW + 5, False)
    assert (await leased(store, "two")).grant.failures == 1


async def test_who_has_not_seen_a_failure_is_not_given_the_lease(store: Store) -> None:
    """Several waited for the one who asked and failed: they must not ask at once themselves."""
    await add_consent(store, consent())
    seen = await grant_of(store)
    await postpone(store, (await leased(store, "one")).grant, answered=True)
    assert await store.database.write(lambda tx: tokens.lease(tx, store.sealer, seen, "two", 60, 30)) is None
    assert not (await grant_of(store)).answer_was_lost
    assert await lease(store, "two") is not None


async def test_a_request_without_an_answer_stays_written_down(store: Store) -> None:
    await add_consent(store, consent())
    await postpone(store, (await leased(store, "one")).grant, answered=False)
    assert (await grant_of(store)).answer_was_lost
    await postpone(store, (await leased(store, "one")).grant, answered=True)
    assert (await grant_of(store)).answer_was_lost


async def test_a_failure_of_an_earlier_holder_does_not_free_the_lease_of_the_present_one(store: Store) -> None:
    await add_consent(store, consent())
    late = (await leased(store, "one", seconds=-1)).grant
    await leased(store, "two")
    await postpone(store, late, answered=True)
    assert await lease(store, "three") is None
    found = await grant_of(store)
    assert (found.failures, found.answer_was_lost) == (0, True)


# What is due


async def test_serving_grants_of_acquired_tokens_are_refreshed_the_most_urgent_first(store: Store) -> None:
    for number, next_at in (("1", NOW + 300), ("2", NOW + 100), ("3", NOW + 200), ("4", 0.0), ("5", NOW + 900)):
        token = await ensure(store, number)
        await add_consent(store, replace(consent(f"gr_{number}", token.id), next_refresh_at=next_at))
        await point(store, token, f"gr_{number}")
        await set_state(store, token.id, TokenState.ACQUIRED)
    await add_consent(store, replace(consent("gr_pending", token.id), next_refresh_at=NOW))
    assert await due(store, NOW + 300) == ["gr_2", "gr_3", "gr_1"]
    assert await due(store, NOW + 300, at_most=1) == ["gr_2"]
    third = next(token for token in await all_tokens(store) if token.name == "3")
    await set_state(store, third.id, TokenState.NOT_ACQUIRED)
    assert await due(store, NOW + 300) == ["gr_2", "gr_1"]


async def test_what_is_due_at_other_providers_is_found_behind_any_number_that_is_due_at_one(store: Store) -> None:
    providers = {"ap_1": "hangs", "ap_2": "hangs", "ap_3": "hangs too", "ap_4": "well"}

    async def work(tx: Transaction) -> None:
        for number, (app_id, provider) in enumerate(providers.items()):
            await configuration.save(tx, "app", app_id, name=app_id, provider=provider)
            token = await tokens.ensure(tx, app_id, "alice@example.com", "main", NOW)
            grant_id = f"gr_{app_id}"
            await tokens.add_grant(tx, store.sealer, replace(consent(grant_id, token.id), next_refresh_at=NOW + number))
            await tokens.point(tx, token, serving=grant_id, pending=None, pinned=None)
            await tokens.set_state(tx, token.id, TokenState.ACQUIRED, NOW)

    await store.database.write(work)
    found = await store.database.read(lambda tx: tokens.due(tx, NOW + 9, 2))
    assert found == [("gr_ap_1", "ap_1"), ("gr_ap_2", "ap_2")]
    assert await due(store, NOW + 9, at_most=2, apart=["hangs"]) == ["gr_ap_3", "gr_ap_4"]
    assert await due(store, NOW + 9, at_most=2, apart=["hangs", "hangs too"]) == ["gr_ap_4"]
    assert await due(store, NOW + 9, apart=["hangs too", "hang", "s"]) == ["gr_ap_1", "gr_ap_2", "gr_ap_4"]


async def test_of_invalid_tokens_only_those_worth_another_try_are_due(store: Store) -> None:
    for number, next_at in (("1", 0.0), ("2", NOW + 100)):
        token = await ensure(store, number)
        await add_consent(store, replace(consent(f"gr_{number}", token.id), next_refresh_at=next_at))
        await point(store, token, f"gr_{number}")
        await set_state(store, token.id, TokenState.INVALID)
    assert await due(store, NOW + 99) == []
    assert await due(store, NOW + 100) == ["gr_2"]
    await store.database.write(lambda tx: tokens.wake(tx, "gr_1", NOW))
    assert await due(store, NOW + 100) == ["gr_1", "gr_2"]


# How protocols fared


async def test_the_last_result_of_each_protocol_is_kept(store: Store) -> None:
    async def work(tx: Transaction) -> None:
        await tokens.set_result(tx, "mb_1", "smtp", "refused", NOW, "535 5.7.3", "SMTP AUTH is off")
        await tokens.set_result(tx, "mb_1", "imap", "proved", NOW)

    await store.database.write(work)
    await store.database.write(lambda tx: tokens.set_result(tx, "mb_1", "smtp", "proved", NOW + 1))
    assert await store.database.read(lambda tx: tokens.results(tx, ["mb_1", "mb_2"])) == {
        ("mb_1", "smtp"): SettingResult("mb_1", "smtp", "proved", "", "", NOW + 1),
        ("mb_1", "imap"): SettingResult("mb_1", "imap", "proved", "", "", NOW),
    }


async def test_results_may_be_written_by_several_at_once(site: Site) -> None:
    nodes = await site.nodes(4)
    await together(
        store.database.write(lambda tx: tokens.set_result(tx, "mb_1", "smtp", "proved", NOW)) for store in nodes
    )
    assert len(await nodes[0].database.read(lambda tx: tokens.results(tx, ["mb_1"]))) == 1


async def test_the_first_and_the_latest_end_that_the_provider_named_are_kept(store: Store) -> None:
    async def answered(ends_at: float) -> tuple[float, float]:
        old = await grant_of(store)
        assert await rotate(store, old, refresh_ends_at=ends_at)
        after = await grant_of(store)
        return after.told_end, after.latest_end

    await add_consent(store, replace(consent(), told_end=NOW + 100, latest_end=NOW + 100))
    assert await answered(NOW + 150) == (NOW + 100, NOW + 150)
    assert await answered(0.0) == (NOW + 100, NOW + 150)
    await remove_grant(store)
    await add_consent(store, consent())
    assert await answered(0.0) == (0.0, 0.0)
    assert await answered(NOW + 200) == (NOW + 200, NOW + 200)


async def test_states_are_followed_from_where_one_has_read(store: Store) -> None:
    first, second = await ensure(store, "one"), await ensure(store, "two")
    await set_state(store, first.id, TokenState.ACQUIRED)
    assert await store.database.read(tokens.states) == {
        first.id: TokenState.ACQUIRED,
        second.id: TokenState.NOT_ACQUIRED,
    }
    position = await store.database.read(lambda tx: events.value_of(tx, "event"))
    assert await store.database.read(lambda tx: tokens.state_changes(tx, position)) == {}
    await set_state(store, first.id, TokenState.INVALID, reason="revoked")
    await set_state(store, second.id, TokenState.WAITING)
    await set_state(store, second.id, TokenState.ACQUIRED)
    await store.database.write(lambda tx: events.record(tx, NOW, "token.expiring", first.id))
    assert await store.database.read(lambda tx: tokens.state_changes(tx, position)) == {
        first.id: TokenState.INVALID,
        second.id: TokenState.ACQUIRED,
    }
    assert await store.database.read(tokens.counts) == {"invalid": 1, "acquired": 1}


async def test_some_tokens_are_read_however_many_are_asked_for(store: Store) -> None:
    made = [await ensure(store, f"n{number:03}") for number in range(120)]
    wanted = [one.id for one in made] + ["tk_unknown", made[0].id]
    found = await store.database.read(lambda tx: tokens.some(tx, wanted))
    assert sorted(one.name for one in found) == [one.name for one in made]
    assert await store.database.read(lambda tx: tokens.some(tx, [])) == []
    ids = sorted(one.id for one in made)
    assert [one.id for one in await store.database.read(lambda tx: tokens.page(tx, ids[99]))] == ids[100:]
