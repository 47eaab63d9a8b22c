"""Which setting has which token, changed by several people and nodes at once, on both databases."""

from collections.abc import Awaitable

import pytest

from posthouse.model.mailbox import Mailbox
from posthouse.model.token import TokenState
from posthouse.net.http import HttpClient
from posthouse.problems import ProblemError
from posthouse.services import switching
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from posthouse.services.directory import Directory
from posthouse.services.sharing import Sharing
from posthouse.services.sign_in import SignIn
from posthouse.services.token_keeper import TokenKeeper
from posthouse.services.trial import Trial
from posthouse.store import tokens
from posthouse.store.database import Transaction
from posthouse.store.opening import Store
from tests.contract.making import NOW, Site, consent, together
from tests.contract.test_applying import OFFICE, SUPPORT

ADDRESS = "support@example.com"


def clock() -> float:
    return NOW


async def desk(store: Store) -> Sharing:
    """One node's, with the mailbox before it. Nothing is asked of a provider here."""
    directory = Directory(store)
    sign_in = SignIn(directory, HttpClient(), clock)
    await directory.refresh()
    keeper = TokenKeeper(store, sign_in, clock, "node-1")
    return Sharing(store, directory, sign_in, keeper, Trial(store, directory, clock, "localhost"), clock)


async def prepared(store: Store) -> Mailbox:
    """A mailbox that sends and receives with one acquired token."""
    secrets = {"OFFICE_SECRET": "CANARY-office"}
    await apply(store, parse(OFFICE + SUPPORT + 'receive = "imap"\n', "mail.toml", secrets), NOW)
    mailbox = await stored(store)
    await store.database.write(lambda tx: serve(tx, store, mailbox.token_id or ""))
    return mailbox


async def serve(tx: Transaction, store: Store, token_id: str, grant_id: str = "gr_1") -> None:
    token = await tokens.get(tx, token_id)
    assert token is not None
    await tokens.add_grant(tx, store.sealer, consent(grant_id, token_id))
    await tokens.point(tx, token, serving=grant_id, pending=None, pinned=None)
    await tokens.set_state(tx, token_id, TokenState.ACQUIRED, NOW)


async def stored(store: Store) -> Mailbox:
    directory = Directory(store)
    await directory.refresh()
    return directory.now.by_address[ADDRESS]


async def outcome(work: Awaitable[Mailbox]) -> str:
    try:
        await work
    except ProblemError as refused:
        return refused.problems[0].id
    return "done"


async def test_two_people_give_the_same_setting_its_own_token_and_it_has_one(site: Site) -> None:
    first, second = await site.nodes(2)
    seen = await prepared(first)
    desks = [await desk(first), await desk(second)]
    ended = await together(outcome(one.choose(seen, "receiving", "own", seen=seen.version)) for one in desks)
    assert ended == ["done", "done"]
    known = await first.database.read(tokens.everything)
    assert [token.name for token in known] == ["main", f"{ADDRESS} receiving"]
    after = await stored(first)
    assert after.version == seen.version + 1
    assert after.for_setting("receiving").switched.token_id == known[1].id


async def test_of_two_people_who_change_different_settings_one_is_told_to_look_again(site: Site) -> None:
    first, second = await site.nodes(2)
    seen = await prepared(first)
    ended = await together(
        [
            outcome((await desk(first)).choose(seen, "receiving", "own", seen=seen.version)),
            outcome((await desk(second)).choose(seen, "sending", "own", seen=seen.version)),
        ]
    )
    assert sorted(ended) == ["done", "mailbox.changed"]


async def test_commands_without_a_version_both_hold(site: Site) -> None:
    first, second = await site.nodes(2)
    seen = await prepared(first)
    ended = await together(
        [
            outcome((await desk(first)).choose(seen, "receiving", "own")),
            outcome((await desk(second)).choose(seen, "sending", "own")),
        ]
    )
    assert ended == ["done", "done"]
    after = await stored(first)
    assert set(after.settings.apart) == {"sending", "receiving"}


async def test_a_token_proves_itself_while_a_setting_is_being_split_off(site: Site) -> None:
    """Whichever comes first: what was chosen holds, and nothing goes over to a token that was not proved for it."""
    first, second = await site.nodes(2)
    seen = await prepared(first)

    async def reauthorised() -> Mailbox:
        async def work(tx: Transaction) -> None:
            token = await tokens.get_for_change(tx, seen.token_id or "")
            assert token is not None
            works, kept = {seen.id: ["sending"]}, {(seen.id, "receiving"): "NO AUTHENTICATE failed."}
            await switching.keep_old_consent(tx, token, kept, NOW)  # type: ignore[arg-type]
            await tokens.add_grant(tx, second.sealer, consent("gr_2", token.id))
            await tokens.point(tx, token, serving="gr_2", pending=None, pinned=None)
            await switching.finish_all(tx, token, works, kept, NOW)  # type: ignore[arg-type]

        await second.database.write(work)
        return seen

    split = (await desk(first)).choose(seen, "receiving", "own")
    assert await together([outcome(split), outcome(reauthorised())]) == ["done", "done"]
    after = await stored(first)
    assert after.settings.owns("receiving")
    receiving = after.for_setting("receiving")
    serving = await first.database.read(lambda tx: tokens.get(tx, receiving.token_id or ""))
    assert serving is not None
    assert serving.serving_grant == "gr_1"
    assert after.for_setting("sending").token_id == seen.token_id


async def test_a_token_that_proves_itself_leaves_alone_who_does_not_wait_for_it(site: Site) -> None:
    store = await site.node()
    seen = await prepared(store)
    token = await store.database.read(lambda tx: tokens.get(tx, seen.token_id or ""))
    assert token is not None
    await store.database.write(
        lambda tx: switching.finish_all(tx, token, {seen.id: ["sending", "receiving"], "mb_gone": []}, {}, NOW)
    )
    assert (await stored(store)).version == seen.version


async def test_a_mailbox_that_stops_receiving_leaves_no_token_behind(site: Site) -> None:
    store = await site.node()
    seen = await prepared(store)
    await (await desk(store)).choose(seen, "receiving", "own")
    text = OFFICE + SUPPORT + 'receive = ""\n'
    await apply(store, parse(text, "mail.toml", {"OFFICE_SECRET": "CANARY-office"}), NOW)
    assert (await stored(store)).settings.apart == {}
    assert [token.name for token in await store.database.read(tokens.everything)] == ["main"]


@pytest.mark.parametrize("wish", ["own", "shared"])
async def test_what_a_person_chose_stays_when_the_file_is_applied_again(site: Site, wish: str) -> None:
    """The file does not name it, so it does not own it."""
    store = await site.node()
    seen = await prepared(store)
    await (await desk(store)).choose(seen, "receiving", wish)  # type: ignore[arg-type]
    text = OFFICE + SUPPORT.replace("Support", "Help") + 'receive = "imap"\n'
    await apply(store, parse(text, "mail.toml", {"OFFICE_SECRET": "CANARY-office"}), NOW)
    after = await stored(store)
    assert (after.settings.sender_name[:4], after.settings.owns("receiving")) == ("Help", wish == "own")
