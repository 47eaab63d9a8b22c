"""Keeping tokens fresh, against a sign-in server whose every answer the test gives. Time stands still unless moved."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qs

import pytest

from posthouse.model.outcome import Unreachable
from posthouse.model.token import Grant, Token, TokenState
from posthouse.net.http import HttpClient
from posthouse.oauth.message import Answer, Request
from posthouse.problems import problem
from posthouse.secret import Secret
from posthouse.services import token_keeper, turns
from posthouse.services.apply_file import parse
from posthouse.services.applying import apply
from posthouse.services.directory import Directory
from posthouse.services.giving_back import GivingBack
from posthouse.services.sign_in import Registration, SignIn
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.store import events, tokens
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.opening import Store, open_store
from posthouse.store.sealing import Unsealable

NOW = 1_800_000_000.0
ALICE = "alice@example.com"
FILE = """
[[provider]]
name = "office"
token_url = "https://id.example.com/token"
device_url = "https://id.example.com/device"
revoke_url = "https://id.example.com/revoke"
scopes = ["mail"]
smtp = "mail.example.com:587 starttls"
[[app]]
name = "desk"
provider = "office"
client_id = "us"
client_secret = "first"
[[mailbox]]
address = "alice@example.com"
app = "desk"
"""


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Server(HttpClient):
    """Answers token requests with `answers`, one after the other and the last one for ever; waits for `gate` before."""

    answers: list[Answer | Unreachable] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    revoking: list[Answer] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def ask(self, request: Request, *, deadline: float, ca_file: str = "") -> Answer | Unreachable:
        form = {name: values[0] for name, values in parse_qs(request.body().decode()).items()}
        if request.url.endswith("/revoke"):
            self.revoked.append(form["token"])
            return self.revoking.pop(0) if self.revoking else Answer(200)
        self.asked.append(form)
        await self.gate.wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def close(self) -> None: ...


def answer(status: int, **members: object) -> Answer:
    return Answer(status, {}, json.dumps(members).encode())


def granted(number: int, *, lifetime: int = 3600) -> Answer:
    return answer(200, access_token=f"access-{number}", refresh_token=f"refresh-{number}", expires_in=lifetime)


BUSY = answer(503)
DEAD = answer(400, error="invalid_grant", error_description="The token was revoked.")
WRONG_CLIENT = answer(401, error="invalid_client")
WRONG_SCOPE = answer(400, error="invalid_scope", error_description="There is no such scope.")


@dataclass
class Desk:
    """One mailbox with one token, and the keeper under test."""

    store: Store
    directory: Directory
    server: Server
    time: Time
    keeper: TokenKeeper
    token_id: str

    async def access(self, newer_than: int | None = None) -> str:
        return (await self.keeper.access_token(self.token_id, newer_than=newer_than)).secret.reveal()

    async def token(self) -> Token:
        found = await self.store.database.read(lambda tx: tokens.get(tx, self.token_id))
        assert found is not None
        return found

    async def grant(self) -> Grant:
        return await self.grant_named("gr_1")

    async def grant_named(self, grant_id: str) -> Grant:
        found = await self.store.database.read(lambda tx: tokens.get_grant(tx, self.store.sealer, grant_id))
        assert found is not None
        return found

    async def many(self, count: int, *, app: str = "", first: int = 0, **changes: Any) -> None:
        """Tokens of other accounts, all due."""

        async def work(tx: Transaction) -> None:
            of = app or (await tokens.get(tx, self.token_id)).app_id  # type: ignore[union-attr]
            if not first:
                await tokens.remove_grant(tx, "gr_1")
            for number in range(first, first + count):
                token = await tokens.ensure(tx, of, f"box{number}@example.com", "main", NOW)
                await tokens.add_grant(tx, self.store.sealer, consent(token.id, id=f"gr_{number}", **changes))
                await tokens.point(tx, token, serving=f"gr_{number}", pending=None, pinned=None)
                await tokens.set_state(tx, token.id, TokenState.ACQUIRED, NOW)

        await self.store.database.write(work)

    async def serve(self, grant: Grant) -> None:
        """Let this consent serve the token."""

        async def work(tx: Transaction) -> None:
            await tokens.remove_grant(tx, grant.id)
            await tokens.add_grant(tx, self.store.sealer, grant)
            seen = await tokens.get(tx, self.token_id)
            assert seen is not None
            await tokens.point(tx, seen, serving=grant.id, pending=None, pinned=None)
            await tokens.set_state(tx, self.token_id, TokenState.ACQUIRED, self.time())

        await self.store.database.write(work)

    async def apply(self, text: str) -> None:
        await apply(self.store, parse(text, "mail.toml", {}), self.time())
        await self.directory.refresh()

    def another_node(self, name: str) -> TokenKeeper:
        return TokenKeeper(self.store, SignIn(self.directory, self.server, self.time), self.time, name)


def consent(token_id: str, **changes: Any) -> Grant:
    """Of an hour ago: the access token has just ended."""
    made = Grant(
        id="gr_1",
        token_id=token_id,
        serial=1,
        access_token=Secret("access-1"),
        refresh_token=Secret("refresh-1"),
        previous_refresh_token=None,
        access_expires_at=NOW,
        next_refresh_at=NOW - 720,
        obtained_at=NOW - 3600,
        refreshed_at=NOW - 3600,
        failures=0,
        last_error="",
        scopes=("mail",),
        issuer="",
        subject="",
        person="",
    )
    return replace(made, **changes)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await open_store(tmp_path, "", {})
    directory, server, time = Directory(store), Server(answers=[granted(2)]), Time()
    keeper = TokenKeeper(store, SignIn(directory, server, time), time, "node-1")
    made = Desk(store, directory, server, time, keeper, "")
    await made.apply(FILE)
    made.token_id = directory.now.by_address[ALICE].token_id or ""
    await made.serve(consent(made.token_id))
    yield made
    await keeper.finish(5.0)
    await store.close()


@pytest.fixture
async def background(desk: Desk) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Call it to let the background work begin; it ends with the test."""
    running: list[asyncio.Task[None]] = []

    async def begin() -> None:
        running.append(asyncio.create_task(desk.keeper.run()))

    yield begin
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def until(reached: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            now = reached()
            if now if isinstance(now, bool) else await now:
                return
            await asyncio.sleep(0.005)


async def is_state(desk: Desk, state: TokenState) -> bool:
    return (await desk.token()).state is state


# One request at a time, and none too many


async def test_a_token_that_is_good_for_a_minute_is_handed_out_without_a_question(desk: Desk) -> None:
    await desk.serve(consent(desk.token_id, access_expires_at=NOW + 61, refreshed_at=NOW))
    assert await desk.access() == "access-1"
    assert desk.server.asked == []


async def test_after_a_refresh_the_one_before_is_not_handed_out_although_it_lives(desk: Desk) -> None:
    await desk.serve(consent(desk.token_id, access_expires_at=NOW + 600, refreshed_at=NOW))
    assert await desk.access() == "access-1"
    await desk.keeper.refresh(await desk.grant())
    assert await desk.access() == "access-2"


async def test_a_crowd_that_wants_a_token_asks_once(desk: Desk) -> None:
    got = await asyncio.gather(*(desk.access() for _ in range(50)))
    assert set(got) == {"access-2"}
    assert len(desk.server.asked) == 1


async def test_a_crowd_that_gets_no_answer_has_asked_once(desk: Desk) -> None:
    desk.server.answers = [BUSY]
    failed = await asyncio.gather(*(desk.access() for _ in range(20)), return_exceptions=True)
    assert {type(problem) for problem in failed} == {NoToken}
    assert len(desk.server.asked) == 1


async def test_after_a_failure_the_next_question_waits_for_its_time(desk: Desk) -> None:
    desk.server.answers = [Answer(429, {"retry-after": "120"}), granted(2)]
    for _ in range(3):
        with pytest.raises(NoToken) as problem:
            await desk.access()
        assert problem.value.temporary
    assert len(desk.server.asked) == 1
    desk.time.now += 121
    assert await desk.access() == "access-2"


async def test_of_those_who_come_while_a_question_fails_none_asks_beside_another(desk: Desk) -> None:
    """The refresh token may be used once: two requests with it at a time would kill the grant."""
    under_way, most = 0, 0
    gate = asyncio.Event()

    async def ask(request: Request, *, deadline: float, ca_file: str = "") -> Answer | Unreachable:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await gate.wait()
        await asyncio.sleep(0.02)
        under_way -= 1
        return BUSY

    desk.server.ask = ask  # type: ignore[method-assign]
    grant = await desk.grant()
    first = [asyncio.create_task(desk.keeper.refresh(grant)) for _ in range(2)]
    await until(lambda: under_way == 1)
    gate.set()
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    later = [asyncio.create_task(desk.keeper.refresh(grant)) for _ in range(2)]
    await asyncio.gather(*first, *later, return_exceptions=True)
    assert most == 1


async def test_a_node_that_waited_for_another_ones_failure_does_not_ask_at_once_itself(desk: Desk) -> None:
    desk.server.answers = [BUSY]
    desk.server.gate.clear()
    grant = await desk.grant()
    both = [asyncio.create_task(keeper.refresh(grant)) for keeper in (desk.keeper, desk.another_node("node-2"))]
    await until(lambda: len(desk.server.asked) == 1)
    desk.server.gate.set()
    failed = await asyncio.gather(*both, return_exceptions=True)
    assert {type(problem) for problem in failed} == {NoToken}
    assert len(desk.server.asked) == 1


async def test_a_process_started_again_does_not_ask_while_its_former_request_may_be_under_way(desk: Desk) -> None:
    """Killed and started again: the provider may still be about to answer what was sent before."""
    desk.server.gate.clear()
    grant = await desk.grant()
    killed = asyncio.create_task(desk.keeper.refresh(grant))
    await until(lambda: len(desk.server.asked) == 1)
    started_again = asyncio.create_task(desk.another_node("node-1").refresh(grant))
    await asyncio.sleep(0.1)
    assert len(desk.server.asked) == 1
    desk.server.gate.set()
    assert (await killed).serial == (await started_again).serial == 2
    assert len(desk.server.asked) == 1


async def test_nothing_is_sent_with_a_lease_that_took_too_long(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes it over reckons with the request being over by then."""
    with monkeypatch.context() as slow:
        slow.setattr(token_keeper, "PROMPT", -1.0)
        with pytest.raises(NoToken) as problem:
            await desk.access()
    assert problem.value.temporary
    assert desk.server.asked == []
    assert not (await desk.grant()).answer_was_lost
    desk.time.now += 6
    assert await desk.access() == "access-2"


async def test_where_to_ask_is_found_out_before_the_lease_is_taken(desk: Desk) -> None:
    """Discovery takes as long as it takes; a lease does not wait for it."""
    discovery = answer(
        200,
        issuer="https://id.example.com",
        token_endpoint="https://id.example.com/token",
        authorization_endpoint="https://id.example.com/authorize",
    )
    text = FILE.replace('token_url = "https://id.example.com/token"', 'issuer = "https://id.example.com"')
    await desk.apply(text.replace('device_url = "https://id.example.com/device"', 'token_url = ""\ndevice_url = ""'))
    desk.server.answers = [discovery, granted(2)]
    desk.server.gate.clear()
    waiting = asyncio.create_task(desk.access())
    await until(lambda: len(desk.server.asked) == 1)
    assert (await desk.grant()).lease_epoch == 0
    desk.server.gate.set()
    assert await waiting == "access-2"


async def test_tokens_got_at_one_time_do_not_come_due_at_one_time(desk: Desk) -> None:
    """Forty consents of the same second are renewed over a good part of an hour, and each in good time."""
    due = []
    for number in range(40):
        desk.server.answers = [granted(2)]
        await desk.serve(consent(desk.token_id, id=f"gr_{number}"))
        due.append((await desk.keeper.refresh(await desk.grant_named(f"gr_{number}"))).next_refresh_at - NOW)
    assert 1900 < min(due) < 2100
    assert 2700 < max(due) <= 2880
    assert len({at // 120 for at in due}) >= 7


async def test_what_is_due_is_refreshed_without_a_rest_in_between(
    desk: Desk, background: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rest of hours everything is due at once: more than fits into one look."""
    monkeypatch.setattr(token_keeper, "POLL", 60.0)
    many = token_keeper.LOOK + 30
    await desk.many(many)
    await background()
    await until(lambda: len(desk.server.asked) == many)


OTHER = """
[[provider]]
name = "hangs"
token_url = "https://hangs.example.net/token"
device_url = "https://hangs.example.net/device"
scopes = ["mail"]
smtp = "mail.example.net:587 starttls"
[[app]]
name = "there"
provider = "hangs"
client_id = "us"
"""


@dataclass
class Hanging(Server):
    """One of the providers takes every connection, and answers nothing until it is `well`."""

    well: asyncio.Event = field(default_factory=asyncio.Event)
    deadline: float = 20.0
    hanging: int = 0
    most: int = 0

    async def ask(self, request: Request, *, deadline: float, ca_file: str = "") -> Answer | Unreachable:
        if "hangs" not in request.url or self.well.is_set():
            return await super().ask(request, deadline=deadline)
        self.hanging += 1
        self.most = max(self.most, self.hanging)
        await asyncio.wait([asyncio.create_task(self.well.wait())], timeout=self.deadline)
        self.hanging -= 1
        return Unreachable("no answer in time", outcome_unknown=True)


@pytest.fixture
async def two_providers(desk: Desk, background: Callable[[], Awaitable[None]]) -> Desk:
    """A thousand tokens due at one that hangs, and fifty later ones at one that is well."""
    desk.server = Hanging(answers=[granted(2)])
    desk.keeper.sign_in = SignIn(desk.directory, desk.server, desk.time)
    await desk.apply(FILE + OTHER)
    apps = {app.name: app.id for app in desk.directory.now.configuration.apps.values()}
    await desk.many(1000, app=apps["there"])
    await desk.many(50, app=apps["desk"], first=1000, next_refresh_at=NOW - 1)
    return desk


async def test_a_provider_that_hangs_holds_up_no_token_of_another(
    two_providers: Desk, background: Callable[[], Awaitable[None]]
) -> None:
    """Fifty are refreshed before the hanging one has let a single request go."""
    desk = two_providers
    assert isinstance(desk.server, Hanging)
    await background()
    await until(lambda: len(desk.server.asked) == 50)
    assert {desk.server.hanging, desk.server.most} == {turns.EACH}
    desk.server.well.set()


async def test_a_provider_that_hangs_is_asked_little_and_when_it_comes_back_everything(
    two_providers: Desk, background: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keeper, "POLL", 0.01)
    desk, server = two_providers, two_providers.server
    assert isinstance(server, Hanging)
    server.deadline = 0.1
    await background()
    await until(lambda: server.most == turns.EACH)
    await until(lambda: 0 < server.hanging <= turns.PROBES)
    server.most = 0
    await until(lambda: server.most > 0)
    server.well.set()
    await until(lambda: len(server.asked) > 900 and not server.hanging)
    assert server.most <= turns.PROBES
    desk.time.now += 120
    await until(lambda: len(server.asked) == 1050)


async def test_a_token_with_a_short_life_is_used_for_half_of_it(desk: Desk) -> None:
    desk.server.answers = [granted(2, lifetime=30), granted(3, lifetime=30)]
    assert {await desk.access() for _ in range(5)} == {"access-2"}
    desk.time.now += 10
    assert await desk.access() == "access-2"
    assert len(desk.server.asked) == 1
    desk.time.now += 10
    assert await desk.access() == "access-3"


async def test_in_the_background_a_short_life_does_not_lead_to_a_question_every_second(desk: Desk) -> None:
    desk.server.answers = [granted(2, lifetime=2)]
    await desk.access()
    assert (await desk.grant()).next_refresh_at >= NOW + 30


async def test_a_refused_token_is_replaced_once_for_all_who_were_refused(desk: Desk) -> None:
    await desk.serve(consent(desk.token_id, access_expires_at=NOW + 3000, refreshed_at=NOW))
    assert await desk.access() == "access-1"
    assert {*await asyncio.gather(*(desk.access(newer_than=1) for _ in range(5)))} == {"access-2"}
    assert len(desk.server.asked) == 1


async def test_a_token_that_still_lives_serves_while_the_server_is_busy(desk: Desk) -> None:
    await desk.serve(consent(desk.token_id, access_expires_at=NOW + 50))
    desk.server.answers = [BUSY]
    assert [await desk.access() for _ in range(3)] == ["access-1"] * 3
    assert len(desk.server.asked) == 1


async def test_a_token_from_the_future_is_not_believed(desk: Desk) -> None:
    """The clock was put back: nobody knows how long the token lives."""
    await desk.serve(consent(desk.token_id, refreshed_at=NOW + 86_400, access_expires_at=NOW + 90_000))
    assert await desk.access() == "access-2"
    assert await desk.access() == "access-2"
    assert len(desk.server.asked) == 1


async def test_access_tokens_of_a_hundred_thousand_mailboxes_are_not_all_kept_at_hand(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keeper, "KEPT", 3)
    await desk.many(5)
    for token in await desk.store.database.read(tokens.everything):
        if token.serving_grant != "gr_1":
            await desk.keeper.access_token(token.id)
            await desk.keeper.access_token(token.id)
    assert len(desk.keeper._cache) == 3


# No answer is lost


async def test_whoever_stops_waiting_does_not_lose_the_answer(desk: Desk) -> None:
    desk.server.gate.clear()
    waiting = asyncio.create_task(desk.access())
    await until(lambda: len(desk.server.asked) == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    desk.server.gate.set()
    assert await desk.access() == "access-2"
    assert [form["refresh_token"] for form in desk.server.asked] == ["refresh-1"]


async def test_stopping_waits_for_the_answer_that_is_under_way(
    desk: Desk, background: Callable[[], Awaitable[None]]
) -> None:
    desk.server.gate.clear()
    await background()
    await until(lambda: len(desk.server.asked) == 1)
    stopping = asyncio.create_task(desk.keeper.finish(5.0))
    await asyncio.sleep(0.02)
    assert not stopping.done()
    desk.server.gate.set()
    assert await stopping
    assert (await desk.grant()).refresh_token == Secret("refresh-2")


@pytest.mark.parametrize("trouble", [DatabaseUnavailable, CommitUnknown, RuntimeError])
async def test_an_answer_that_could_not_be_written_is_written_before_anything_else_is_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, trouble: type[Exception]
) -> None:
    desk.server.gate.clear()
    waiting = asyncio.create_task(desk.access())
    await until(lambda: len(desk.server.asked) == 1)

    async def refuse(work: object) -> None:
        raise trouble("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(desk.store.database, "write", refuse)
        desk.server.gate.set()
        with pytest.raises((NoToken, RuntimeError)):
            await waiting
        with pytest.raises((NoToken, RuntimeError)):
            await desk.access()
    assert await desk.access() == "access-2"
    assert len(desk.server.asked) == 1


async def test_an_answer_whose_commit_was_not_heard_of_is_neither_lost_nor_given_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = desk.store.database.write
    desk.server.gate.clear()
    waiting = asyncio.create_task(desk.access())
    await until(lambda: len(desk.server.asked) == 1)

    async def not_heard(work: Any, **words: Any) -> None:
        await write(work, **words)
        raise CommitUnknown("the connection was lost")

    with monkeypatch.context() as broken:
        broken.setattr(desk.store.database, "write", not_heard)
        desk.server.gate.set()
        with pytest.raises(NoToken):
            await waiting
    assert await desk.access() == "access-2"
    assert await desk.keeper.finish(1.0)
    assert (len(desk.server.asked), desk.server.revoked) == (1, [])


async def test_a_token_that_is_removed_while_it_is_refreshed_dies_at_the_provider(desk: Desk) -> None:
    desk.server.gate.clear()
    waiting = asyncio.create_task(desk.access())
    await until(lambda: len(desk.server.asked) == 1)
    await desk.store.database.write(lambda tx: tokens.remove(tx, desk.token_id))
    desk.server.gate.set()
    with pytest.raises(NoToken) as problem:
        await waiting
    assert not problem.value.temporary
    assert desk.server.revoked == ["refresh-2"]


async def test_it_dies_there_later_where_the_provider_cannot_take_it_at_once(desk: Desk) -> None:
    desk.server.revoking = [BUSY]
    await test_a_token_that_is_removed_while_it_is_refreshed_dies_at_the_provider(desk)
    desk.time.now += 61
    await GivingBack(desk.store, desk.keeper.sign_in, desk.time).try_again()
    assert desk.server.revoked == ["refresh-2", "refresh-2"]


async def test_a_token_that_was_removed_before_its_answer_could_be_written_dies_at_the_provider_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.server.gate.clear()
    waiting = asyncio.create_task(desk.access())
    await until(lambda: len(desk.server.asked) == 1)

    async def refuse(work: object) -> None:
        raise DatabaseUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(desk.store.database, "write", refuse)
        desk.server.gate.set()
        with pytest.raises(NoToken):
            await waiting
    await desk.store.database.write(lambda tx: tokens.remove(tx, desk.token_id))
    assert await desk.keeper.finish(1.0)
    assert desk.server.revoked == ["refresh-2"]


# What a refusal means


async def test_a_dead_grant_makes_the_token_invalid_and_is_not_asked_for_again(desk: Desk) -> None:
    desk.server.answers = [DEAD]
    for _ in range(2):
        with pytest.raises(NoToken) as problem:
            await desk.access()
        assert (problem.value.temporary, problem.value.state) == (False, TokenState.INVALID)
    token = await desk.token()
    assert (token.state, token.reason) == (TokenState.INVALID, "revoked")
    assert len(desk.server.asked) == 1


async def test_a_refused_request_takes_nothing_from_a_token_that_still_lives(desk: Desk) -> None:
    await desk.serve(consent(desk.token_id, access_expires_at=NOW + 50))
    desk.server.answers = [WRONG_SCOPE]
    assert await desk.access() == "access-1"
    assert (await desk.token()).state is TokenState.ACQUIRED
    assert "invalid_scope" in (await desk.grant()).last_error


async def test_a_refused_request_is_made_again_later_and_the_token_comes_back(
    desk: Desk, background: Callable[[], Awaitable[None]]
) -> None:
    desk.server.answers = [WRONG_SCOPE, granted(2)]
    with pytest.raises(NoToken, match="invalid_scope"):
        await desk.access()
    assert (await desk.token()).state is TokenState.INVALID
    desk.time.now += 3601
    await background()
    await until(lambda: is_state(desk, TokenState.ACQUIRED))
    assert await desk.access() == "access-2"


async def test_a_refused_registration_is_tried_again_when_its_secret_has_been_corrected(
    desk: Desk, background: Callable[[], Awaitable[None]]
) -> None:
    desk.server.answers = [WRONG_CLIENT]
    desk.directory.on_change(desk.keeper.registrations_changed)
    await background()
    await until(lambda: is_state(desk, TokenState.INVALID))
    assert (await desk.token()).reason == "client_changed"
    asked = len(desk.server.asked)

    await desk.apply('[[device]]\nname = "printer"\nmailboxes = ["alice@example.com"]')
    desk.time.now += 86_400
    await asyncio.sleep(1.1)
    assert len(desk.server.asked) == asked

    desk.server.answers = [granted(2)]
    await desk.apply(FILE.replace('"first"', '"second"'))
    await until(lambda: is_state(desk, TokenState.ACQUIRED))
    assert desk.server.asked[-1]["client_secret"] == "second"
    assert await desk.access() == "access-2"


async def test_a_secret_that_was_corrected_while_the_gateway_stood_still_is_tried_at_its_start(
    desk: Desk, background: Callable[[], Awaitable[None]]
) -> None:
    desk.server.answers = [WRONG_CLIENT, granted(2)]
    with pytest.raises(NoToken):
        await desk.access()
    desk.keeper = desk.another_node("node-1")
    await background()
    await until(lambda: is_state(desk, TokenState.ACQUIRED))


async def test_a_client_that_was_changed_and_changed_back_leaves_nothing_broken(
    desk: Desk, background: Callable[[], Awaitable[None]]
) -> None:
    await desk.serve(consent(desk.token_id, next_refresh_at=NOW + 2000))
    desk.directory.on_change(desk.keeper.registrations_changed)
    await background()
    await desk.apply(FILE.replace('"us"', '"somebody else"'))
    assert (await desk.token()).state is TokenState.INVALID
    await desk.apply(FILE)
    await until(lambda: is_state(desk, TokenState.ACQUIRED))


async def test_a_consent_given_to_one_client_is_never_shown_in_the_name_of_another(desk: Desk) -> None:
    await desk.serve(consent(desk.token_id, given_to="us at https://id.example.com/token"))
    await desk.apply(FILE.replace('"us"', '"somebody else"'))
    grant = await desk.grant()
    with pytest.raises(NoToken, match="another app registration"):
        await desk.keeper.refresh(grant)
    assert desk.server.asked == []
    await desk.apply(FILE)
    assert (await desk.keeper.refresh(await desk.grant())).serial == 2
    assert (await desk.grant()).given_to == grant.given_to


async def test_a_token_that_cannot_be_renewed_serves_to_its_end_and_then_says_so(
    desk: Desk, background: Callable[[], Awaitable[None]]
) -> None:
    await desk.serve(consent(desk.token_id, refresh_token=None, access_expires_at=NOW + 10, next_refresh_at=NOW + 10))
    assert await desk.access() == "access-1"
    assert await desk.access(newer_than=1) == "access-1"
    assert (await desk.token()).state is TokenState.ACQUIRED
    desk.time.now += 11
    await background()
    await until(lambda: is_state(desk, TokenState.INVALID))
    assert (await desk.token()).reason == "expired"
    assert desk.server.asked == []


async def test_a_stored_token_that_cannot_be_opened_is_nothing_that_a_new_sign_in_is_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise Unsealable("another key")

    monkeypatch.setattr(type(desk.store.sealer), "open", refuse)
    with pytest.raises(NoToken) as problem:
        await desk.access()
    assert problem.value.temporary
    assert (await desk.token()).state is TokenState.ACQUIRED


async def test_a_provider_whose_data_make_no_sense_is_a_failure_like_any_other(desk: Desk) -> None:
    desk.server.answers = [answer(200, issuer="https://somebody.else", token_endpoint="https://somebody.else/t")]
    text = FILE.replace('token_url = "https://id.example.com/token"', 'issuer = "https://id.example.com"')
    await desk.apply(text.replace('device_url = "https://id.example.com/device"', 'token_url = ""\ndevice_url = ""'))
    with pytest.raises(NoToken, match=r"somebody\.else") as problem:
        await desk.access()
    assert problem.value.temporary
    assert (await desk.grant()).failures == 1


async def test_a_change_of_state_is_told(desk: Desk) -> None:
    desk.server.answers = [DEAD]
    with pytest.raises(NoToken):
        await desk.access()
    told = await desk.store.database.read(lambda tx: events.after(tx, 0))
    assert [event.kind for event in told] == ["token.acquired", "token.invalid"]


async def test_a_fault_of_ours_is_logged_and_counts_as_a_failure_that_may_have_lost_an_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fall(*_: object, **__: object) -> Answer:
        raise KeyError("refresh-1")

    log = Mock()
    monkeypatch.setattr(token_keeper, "log", log)
    monkeypatch.setattr(desk.server, "ask", fall)
    assert await desk.keeper._refresh_in_background("gr_1") is None
    grant, logged = await desk.grant(), str(log.error.mock_calls)
    assert (grant.failures, grant.answer_was_lost) == (1, True)
    assert grant.next_refresh_at > NOW
    assert "token refresh fell down" in logged
    assert "KeyError" in logged
    assert "refresh-1" not in logged


async def test_a_fault_of_ours_before_the_request_counts_as_a_failure_that_lost_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fall(_: object, app_id: str) -> None:
        raise KeyError(app_id)

    monkeypatch.setattr(SignIn, "registration", fall)
    assert await desk.keeper._refresh_in_background("gr_1") is None
    grant = await desk.grant()
    assert (grant.failures, grant.answer_was_lost) == (1, False)
    assert grant.next_refresh_at > NOW


async def test_an_answer_that_cannot_be_written_for_a_fault_of_ours_is_kept_and_holds_up_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = TokenKeeper._write

    async def fall(*_: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(TokenKeeper, "_write", fall)
    assert await desk.keeper._refresh_in_background("gr_1") is None
    await desk.keeper._write_unsaved()
    monkeypatch.setattr(TokenKeeper, "_write", write)
    await desk.keeper._write_unsaved()
    assert (await desk.grant()).serial == 2
    assert len(desk.server.asked) == 1


async def test_a_provider_that_was_not_asked_has_not_been_silent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreadable(_: object, app_id: str) -> None:
        raise problem("app.secret", "The client secret cannot be read.")

    monkeypatch.setattr(SignIn, "registration", unreadable)
    assert await desk.keeper._refresh_in_background("gr_1") is None
    assert (await desk.grant()).failures == 1


async def test_whoever_gives_back_late_does_not_shorten_the_pause_of_another(desk: Desk) -> None:
    giving_back = GivingBack(desk.store, desk.keeper.sign_in, desk.time)
    desk.server.revoking = [answer(503)] * 4
    app_id, stranger = (await desk.token()).app_id, replace(await desk.grant(), token_id="tk_other", subject="nobody")
    late = await desk.store.database.write(lambda tx: giving_back.forget(tx, app_id, [stranger]))
    for _ in range(2):
        desk.time.now += 3600
        assert await giving_back.try_again() == 1
    await giving_back.revoke(late)
    desk.time.now += 200
    assert await giving_back.try_again() == 0
    desk.time.now += 50
    assert await giving_back.try_again() == 1


async def test_keys_are_fetched_again_after_the_clock_was_put_back(desk: Desk) -> None:
    registration = await desk.keeper.sign_in.registration((await desk.token()).app_id)
    assert isinstance(registration, Registration)
    endpoints = replace(registration.endpoints, jwks_url="https://id.example.com/keys")
    registration = replace(registration, endpoints=endpoints)
    desk.server.answers = [answer(200, keys=[{"kty": "RSA", "kid": "1"}])]
    await desk.keeper.sign_in.keys(registration)
    desk.time.now -= 86_400
    await desk.keeper.sign_in.keys(registration, fresh=True)
    assert len(desk.server.asked) == 2
