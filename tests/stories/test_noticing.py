"""The administrator hears what is broken, once, by a way that is not the broken one, and hears when it is mended."""

import asyncio
import json
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Receiver

from posthouse.cli import status as status_command
from posthouse.model.forecast import DAY, HOUR
from posthouse.model.notice import MAILS_AN_HOUR, SETTLE, Notice
from posthouse.model.token import TokenState
from posthouse.sandbox.settings import PEOPLE, Person
from posthouse.services import storage
from posthouse.services.clock import as_datetime
from posthouse.services.notices import Notices
from posthouse.services.telling import DEVICE, NOBODY, PAUSE
from posthouse.services.token_keeper import NoToken
from posthouse.services.watchdog import GRACE, SILENT
from posthouse.services.webhook import Webhook, secret
from posthouse.store import events, messages, notices, tokens
from posthouse.store.database import Transaction
from posthouse.store.messages import Summary, Wanted
from posthouse.store.notices import Telling
from tests.support.boxes import ALICE, BOB, PRINTER, Box
from tests.support.boxes import box as any_box
from tests.support.clients import make_key, over_network, over_socket
from tests.support.hook import Hook, hook
from tests.support.house import Hands, House, house, until
from tests.support.visitors import administrator

BOSS, ALARM = "boss@sandbox.example", "alarm@sandbox.example"
TOLD: dict[str, Any] = {"administrator": BOSS, "notices_mailbox": ALARM}


def box(directory: Path, clock: Hands | None = None) -> AbstractAsyncContextManager[Box]:
    """A provider that knows the administrator and a mailbox for notices, too."""
    return any_box(directory, clock=clock or time.time, people=(*PEOPLE, Person(BOSS, "Boss"), Person(ALARM, "Alarm")))


async def acquired(home: House, provider: Box, *addresses: str) -> None:
    for address in addresses:
        assert (await home.by_device(address, provider.approve_as(address))).state == "done"


async def revoked(home: House, provider: Box, address: str) -> None:
    """The person takes the permission back, and the next renewal finds out."""
    await provider.control("revoke", person=address)
    token, store = await home.token(address), home.parts.store
    grant = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, token.serving_grant or ""))
    assert grant is not None
    with pytest.raises(NoToken):
        await home.parts.keeper.access_token(token.id, newer_than=grant.serial)


async def set_state(home: House, address: str, state: TokenState, reason: str = "") -> None:
    token = await home.token(address)
    await home.parts.store.database.write(lambda tx: tokens.set_state(tx, token.id, state, home.clock(), reason))


async def queued(home: House) -> list[Summary]:
    """Mails about notices, the newest first."""
    return await home.parts.store.database.read(lambda tx: messages.page(tx, wanted=Wanted(device=DEVICE)))


async def texts(home: House) -> list[str]:
    """What those mails say."""
    store, found = home.parts.store, []
    for one in await queued(home):
        sealed = await store.database.read(lambda tx, name=one.id: messages.body_of(tx, name))  # type: ignore[misc]
        found.append(store.sealer.open(sealed or b"", f"message:{one.id}").decode())
    return found


async def going_on(home: House) -> list[Notice]:
    return await home.parts.store.database.read(notices.going_on)


async def tellings(home: House) -> list[Telling]:
    return await home.parts.store.database.read(notices.latest)


async def later(home: House, seconds: float = SETTLE + 1) -> None:
    """Notice, let the time pass, and notice again."""
    await home.parts.notices.look()
    home.clock.forward(seconds)
    await home.parts.notices.look()


def other_node(home: House) -> Notices:
    return replace(home.parts.notices)


async def test_a_name_cannot_begin_a_field_of_a_notice(tmp_path: Path) -> None:
    """An app registration may have any name."""
    text = '[[mailbox]]\naddress = "a@b.example"\npassword = "x"\nsmtp = "127.0.0.1:1 plain"'
    async with house(tmp_path / "data", text, background=False, **TOLD) as home:
        mailbox = home.parts.directory.now.by_address["a@b.example"]
        for title in ("app", "=?utf-8?q?app=0ABcc:_v@b.example?=", "app\u2028Bcc: v@b.example"):
            document = json.dumps({"title": title, "text": "x"})
            telling = Telling("nt_1", "mail", "waiting", document, 0.0, 0.0, 0, 0, 0.0, "", "", "")
            octets = home.parts.notices.telling.mail(telling, mailbox, home.clock()).octets
            fields = [line.partition(b":")[0] for line in octets.partition(b"\r\n\r\n")[0].split(b"\r\n")]
            assert (fields.count(b"Subject"), len(fields)) == (1, 9), octets


async def test_a_token_that_dies_is_told_by_the_mailbox_for_notices_and_so_is_its_return(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, ALARM), **TOLD) as home,
    ):
        await acquired(home, provider, ALICE, ALARM)
        await revoked(home, provider, ALICE)
        await home.parts.notices.look()
        home.clock.forward(SETTLE)

        async def is_told(count: int) -> bool:
            return len(provider.subjects(BOSS)) >= count

        await until(lambda: is_told(1), "the notice arriving")
        [mail] = provider.texts(BOSS)
        mailbox = home.parts.directory.now.by_address[ALICE]
        assert f"Subject: Posthouse: {ALICE}: the token is invalid, so its mail waits" in mail
        assert f"From: Posthouse <{ALARM}>" in mail
        assert f"Re-authorise: http://localhost:8480/mailboxes/{mailbox.id}#token" in mail
        assert "Auto-Submitted: auto-generated" in mail

        await acquired(home, provider, ALICE)
        await home.parts.notices.mend()
        home.clock.forward(SETTLE)
        await until(lambda: is_told(2), "the good news arriving")
        assert provider.subjects(BOSS)[1] == f"Posthouse: {ALICE}: mended"
        assert await going_on(home) == []


async def test_the_broken_mailbox_is_not_the_one_that_tells(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, ALARM), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALICE, ALARM)
        await revoked(home, provider, ALARM)
        await later(home)
        [mail] = await queued(home)
        assert home.parts.directory.now.mailboxes[mail.mailbox_id].address == ALICE
        assert f"{ALARM}, which is for notices, cannot send at the moment." in (await texts(home))[0]


async def by_setting(home: House, provider: Box, address: str) -> None:
    """A token for notices alone."""
    mailbox = home.parts.directory.now.by_address[address]
    begun = await home.parts.authorise.begin(mailbox, "device", purpose="notices")
    await provider.approve_as(address)(begun.authorisation)
    assert (await home.followed(begun.authorisation)).state == "done"
    await home.parts.directory.refresh()


async def test_a_token_for_notices_alone_tells_that_the_other_one_is_broken(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", own_token(provider), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALARM)
        await by_setting(home, provider, ALARM)
        await set_state(home, ALARM, TokenState.INVALID, "revoked")
        await later(home)
        assert await queued(home) == []
        await asyncio.gather(*(replace(home.parts.alarm).look() for _ in range(3)))
        await home.parts.notices.look()
        assert provider.subjects(BOSS) == [f"Posthouse: {ALARM}: the token is invalid, so its mail waits"]
        assert [one.state for one in await tellings(home)] == [notices.DONE]


async def test_where_the_token_for_notices_alone_does_not_help_the_queue_does(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", own_token(provider), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALICE, ALARM)
        await by_setting(home, provider, ALARM)
        await revoked(home, provider, ALICE)
        await acquired(home, provider, BOB)
        await later(home)
        await provider.control("faults", place="smtp.end", action="answer", reply="451 4.3.0 Not now", times=1)
        assert await home.parts.alarm.look() == 0
        assert ["451 4.3.0" in one.answer for one in await tellings(home)] == [True]
        await home.parts.notices.look()
        assert len(await queued(home)) == 1


def own_token(provider: Box) -> str:
    """The mailbox for notices with a token for them alone, and two others."""
    text = provider.apply_file(ALICE, BOB, ALARM)
    return text.replace(f'address = "{ALARM}"\n', f'address = "{ALARM}"\nnotices_token = "own"\n')


async def test_where_no_mailbox_can_send_it_is_said_and_sent_once_one_can(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALICE)
        await revoked(home, provider, ALICE)
        await later(home)
        assert await queued(home) == []
        assert [one.answer for one in await tellings(home)] == [NOBODY]
        async with administrator(home) as person:
            await person.look("/notices")
            assert "no mailbox can send at the moment" in person.text()
        await acquired(home, provider, ALICE)
        home.clock.forward(PAUSE)
        await home.parts.notices.look()
        assert len(await queued(home)) == 1


async def test_a_notice_moves_on_where_the_mailbox_breaks_that_has_it(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB, ALARM), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALICE, BOB, ALARM)
        await revoked(home, provider, ALICE)
        await later(home)
        [first] = await queued(home)
        await revoked(home, provider, ALARM)
        await home.parts.notices.look()
        [mail] = await queued(home)
        assert mail.id != first.id
        assert home.parts.directory.now.mailboxes[mail.mailbox_id].address == BOB


async def test_two_nodes_tell_once_also_when_one_dies_between_event_and_notice(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider:
        async with house(tmp_path / "data", provider.apply_file(ALICE, ALARM), background=False, **TOLD) as home:
            await acquired(home, provider, ALICE, ALARM)
            await revoked(home, provider, ALICE)
        async with house(tmp_path / "data", background=False, clock=home.clock, **TOLD) as home:
            nodes = [other_node(home) for _ in range(4)]
            await asyncio.gather(*(node.look() for node in nodes))
            home.clock.forward(SETTLE + 1)
        async with house(tmp_path / "data", background=False, clock=home.clock, **TOLD) as home:
            nodes = [other_node(home) for _ in range(4)]
            await asyncio.gather(*(node.look() for node in nodes))
            await asyncio.gather(*(node.look() for node in nodes))
            assert [one.count for one in await going_on(home)] == [1]
            assert len(await queued(home)) == 1


def crowd(provider: Box, count: int) -> str:
    """Many mailboxes with one app registration, each with a token of its own, and one that is for notices."""
    addresses = (f"m{number:03}@sandbox.example" for number in range(count))
    boxes = "\n".join(f'[[mailbox]]\naddress = "{address}"\napp = "office"' for address in addresses)
    office = '[[app]]\nname = "office"\nprovider = "sandbox"\nclient_id = "posthouse-office"\nclient_secret = "x"\n'
    return provider.apply_file(ALARM, more=office + boxes)


async def test_a_storm_of_500_is_one_notice(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", crowd(provider, 500), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALARM)
        await break_crowd(home, 0, 100)
        await later(home)
        [notice] = await going_on(home)
        assert (notice.kind, notice.count) == ("token.invalid", 100)
        await break_crowd(home, 100, 500)
        await later(home, 60)
        [mail] = await queued(home)
        assert mail.subject.startswith("Posthouse: 100 mailboxes (m")
        assert mail.subject.endswith(" and 97 more): the token is invalid, so its mail waits")
        home.clock.forward(HOUR)
        await home.parts.notices.look()
        digest, _ = await texts(home)
        assert "500 mailboxes (" in digest
        assert "secret may have expired" in digest
        await home.parts.notices.look()
        assert len(await queued(home)) == 2


async def break_crowd(home: House, first: int, beyond: int) -> None:
    found = home.parts.directory.now.by_address
    addresses = [f"m{number:03}@sandbox.example" for number in range(first, beyond)]

    async def work(tx: Transaction) -> None:
        for address in addresses:
            token_id = found[address].token_id or ""
            await tokens.set_state(tx, token_id, TokenState.INVALID, home.clock(), "client_changed")

    await home.parts.store.database.write(work, long=True)


async def test_what_comes_and_goes_is_counted_and_the_last_word_is_the_truth(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, ALARM), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALICE, ALARM)
        for _ in range(5):
            await set_state(home, ALICE, TokenState.INVALID, "other")
            await later(home)
            await set_state(home, ALICE, TokenState.ACQUIRED)
            await later(home)
        told = len(await queued(home))
        assert told <= 2
        await set_state(home, ALICE, TokenState.INVALID, "other")
        await later(home, HOUR)
        [notice] = await going_on(home)
        assert (notice.count, notice.told_open) == (6, True)
        assert len(await queued(home)) == told + 1


async def test_mails_are_few_however_much_happens(tmp_path: Path) -> None:
    many = [f"m{number:03}@sandbox.example" for number in range(MAILS_AN_HOUR + 5)]
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALARM, *many), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALARM)
        for address in many:
            await fail(home, address)
            await later(home)
        assert len(await queued(home)) == MAILS_AN_HOUR
        home.clock.forward(HOUR)
        await home.parts.notices.look()
        assert (await queued(home))[0].subject == "Posthouse: 5 notices"


async def fail(home: House, address: str) -> None:
    """A message of a mailbox fails."""
    mailbox = home.parts.directory.now.by_address[address]

    async def work(tx: Transaction) -> None:
        from tests.contract.making import mail

        new = mail(f"q{mailbox.id}", mailbox=mailbox.id)
        await messages.accept(tx, new, home.clock(), home.clock() + DAY)
        await events.record(tx, home.clock(), "message.failed", new.id)

    await home.parts.store.database.write(work)


async def test_mail_that_failed_for_good_is_told_until_somebody_takes_note(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, ALARM), **TOLD) as home,
    ):
        await acquired(home, provider, ALICE, ALARM)
        await home.until_message(await home.send(PRINTER, "nobody@sandbox.example", "Lost"), "failed")

        async def is_noted() -> bool:
            return len(await going_on(home)) == 1

        await until(is_noted, "the notice")
        mailbox = home.parts.directory.now.by_address[ALICE]
        async with administrator(home) as person:
            await person.look("/notices")
            assert f"{ALICE} : mail could not be delivered" in person.text()
            assert f"/outbox?state=failed&amp;mailbox={mailbox.id}" in person.shown
            [notice] = await going_on(home)
            answer = await person.press(f"/notices/{notice.id}/acknowledge")
            assert answer.headers["location"] == "/notices?said=noted"
            await person.look("/notices")
            assert "There is nothing that needs you." in person.text()
        assert await going_on(home) == []


async def test_a_notice_that_fails_is_no_reason_for_another(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(
            tmp_path / "data",
            provider.apply_file(ALICE, ALARM),
            administrator="nobody@sandbox.example",
            notices_mailbox=ALARM,
        ) as home,
    ):
        await acquired(home, provider, ALICE, ALARM)
        await revoked(home, provider, ALICE)
        await home.parts.notices.look()
        home.clock.forward(SETTLE)

        async def has_failed() -> bool:
            return [one.state for one in await tellings(home)] == [notices.FAILED]

        await until(has_failed, "the mail failing")
        await later(home, HOUR)
        assert [one.kind for one in await going_on(home)] == ["token.invalid"]
        async with administrator(home) as person:
            await person.look("/notices")
            assert "5.1.1" in person.text()


# The webhook


async def test_a_webhook_that_is_down_for_an_hour_is_told_once_and_can_check_who_calls(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        hook() as chat,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False, notices_webhook=chat.url) as home,
    ):
        await acquired(home, provider, ALICE)
        await revoked(home, provider, ALICE)
        chat.status = 503
        await later(home)
        began = home.clock()
        while home.clock() < began + HOUR:
            await home.parts.webhook.look()
            home.clock.forward(60)
        assert 5 < len(chat.calls) < 15
        assert len({call.headers["webhook-id"] for call in chat.calls}) == 1
        chat.status, before = 200, len(chat.calls)
        for _ in range(20):
            home.clock.forward(600)
            await asyncio.gather(home.parts.webhook.look(), other_webhook(home).look())
        assert len(chat.calls) == before + 1
        said = checked(home, chat)
        assert said["type"] == "token.invalid"
        assert ALICE in said["text"]
        assert said["data"]["notices"][0]["mailboxes"] == [ALICE]


def other_webhook(home: House) -> Webhook:
    return replace(home.parts.webhook)


def checked(home: House, chat: Hook) -> dict[str, Any]:
    """The last call, its signature checked as its receiver does it."""
    call, key = chat.calls[-1], secret(home.parts.store.sealer).reveal()
    at = int(call.headers["webhook-timestamp"])
    signature = Receiver(key).sign(call.headers["webhook-id"], as_datetime(at), call.body)
    assert call.headers["webhook-signature"] == signature
    return dict(json.loads(call.body))


async def test_a_webhook_is_not_followed_elsewhere_and_its_address_is_shown_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        hook() as chat,
        hook() as elsewhere,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False, notices_webhook=chat.url) as home,
        over_socket(home) as api,
    ):
        await acquired(home, provider, ALICE)
        await revoked(home, provider, ALICE)
        chat.status, chat.more = 307, f"location: {elsewhere.url}\r\n"
        await later(home)
        await home.parts.webhook.look()
        assert elsewhere.calls == []
        [telling] = await tellings(home)
        assert (telling.state, telling.answer) == ("waiting", "the answer was 307")
        chat.status = 410
        home.clock.forward(60)
        await home.parts.webhook.look()
        assert [one.state for one in await tellings(home)] == ["failed"]
        async with administrator(home) as person:
            await person.look("/notices")
            shown = person.shown
        shown += (await api.get("/notices")).text + (await api.get("/status")).text + "".join(capfd.readouterr())
        assert chat.url not in shown
        assert str(chat.url.split(":")[2]) not in shown


async def test_the_command_line_learns_the_secret_of_the_webhook_and_the_network_does_not(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, over_socket(home) as api:
        answer = await api.get("/control/notices-secret")
        assert answer.json() == {"secret": secret(home.parts.store.sealer).reveal()}
        async with over_network(home, await make_key(home, "manage")) as manager:
            assert (await manager.get("/control/notices-secret")).status_code == 404


# The watchdog


async def events_of(home: House, kind: str) -> list[dict[str, Any]]:
    found = await home.parts.store.database.read(events.latest)
    return [event.document for event in reversed(found) if event.kind == kind]


async def test_mail_that_does_not_get_away_is_told_once_and_ends_with_the_next_success(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, ALARM), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALICE, ALARM)
        await home.gateway.start_listeners()
        await home.send(PRINTER, BOB, "Waits")
        home.clock.forward(29 * 60)
        assert await home.parts.watchdog.look() == 0
        home.clock.forward(60)
        others = [replace_watchdog(home) for _ in range(3)]
        home.clock.forward(GRACE)
        assert sum(await asyncio.gather(*(one.look() for one in others))) == 1
        assert await home.parts.watchdog.look() == 0
        await later(home)
        [mail] = await queued(home)
        assert mail.subject == f"Posthouse: {ALICE}: mail is due, and none of it has gone out"
        assert home.parts.directory.now.mailboxes[mail.mailbox_id].address == ALARM

        await home.gateway.start_background()

        async def is_over() -> bool:
            await home.parts.watchdog.look()
            return len(await events_of(home, "queue.recovered")) == 1

        await until(is_over, "the mail getting away")
        assert provider.subjects(BOB) == ["Waits"]
        await asyncio.gather(home.parts.watchdog.look(), replace_watchdog(home).look())
        assert len(await events_of(home, "queue.recovered")) == 1
        home.clock.forward(60)
        await home.parts.notices.mend()
        assert await going_on(home) == []


def replace_watchdog(home: House) -> Any:
    from posthouse.services.watchdog import Watchdog

    return Watchdog(home.parts.store, home.clock, home.parts.settings.silence)


async def test_mail_that_a_person_keeps_back_is_not_stuck(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False, **TOLD) as home,
    ):
        await acquired(home, provider, ALICE)
        await home.gateway.start_listeners()
        queue_id = await home.send(PRINTER, BOB, "Kept")
        await home.parts.store.database.write(lambda tx: messages.hold(tx, queue_id, home.clock()))
        for _ in range(9):
            home.clock.forward(DAY)
            assert await home.parts.watchdog.look() == 0


async def test_parked_mail_is_told_after_one_three_and_seven_days(tmp_path: Path) -> None:
    clock = Hands()
    async with (
        box(tmp_path / "box", clock) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, ALARM), background=False, clock=clock, **TOLD) as home,
    ):
        await acquired(home, provider, ALARM)
        await home.gateway.start_listeners()
        await home.send(PRINTER, BOB, "Waits")
        mailbox = home.parts.directory.now.by_address[ALICE]
        park = lambda tx: messages.park(tx, mailbox.id, home.clock(), "There is no token yet.")  # noqa: E731
        await home.parts.store.database.write(park)
        told = []
        for _ in range(9):
            await home.parts.watchdog.look()
            await replace_watchdog(home).look()
            await later(home)
            told.append([event["days"] for event in await events_of(home, "message.parked") if "days" in event])
            home.clock.forward(DAY - 2 * SETTLE)
        assert told[-1] == [1, 3, 7]
        said = [json.loads(one.document)["text"] for one in await tellings(home)]
        parked = [text for text in reversed(said) if f"{ALICE}: mail waits for a token" in text]
        assert ["for 1 day)" in parked[1], "for 3 days" in parked[2], "for 7 days" in parked[3]] == [True] * 3
        assert len(parked) == 4

        await acquired(home, provider, ALICE)
        await home.parts.store.database.write(lambda tx: messages.release(tx, mailbox.id, home.clock()))
        await home.parts.watchdog.look()
        await later(home)
        assert "message.parked" not in {one.kind for one in await going_on(home)}


# Page, API, command line


async def test_notices_stand_in_the_api_and_each_key_sees_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB), background=False) as home,
        over_socket(home) as api,
    ):
        await acquired(home, provider, ALICE)
        await revoked(home, provider, ALICE)
        await home.parts.notices.look()
        [shown] = await api.items("/notices")
        assert (shown["kind"], shown["state"], shown["cause"]) == ("token.invalid", "open", "revoked")
        assert (shown["mailboxes"], shown["count"], shown["next_step"]) == ([ALICE], 1, "Re-authorise")
        status_command._tell((await api.get("/status")).json())
        assert "notices    1, at http://localhost:8480/notices\n" in capsys.readouterr().out
        async with over_network(home, await make_key(home, "read", mailboxes=[BOB])) as reader:
            assert await reader.items("/notices") == []
            assert (await reader.post(f"/notices/{shown['id']}/acknowledge")).status_code == 403
        assert (await api.post(f"/notices/{shown['id']}/acknowledge")).json()["state"] == "acknowledged"
        assert (await api.get("/status")).json()["notices"] == 0
        assert (await api.post("/notices/nt_none/acknowledge")).status_code == 404


@pytest.mark.parametrize(("language", "words"), [("ko", "알림"), ("el", "Ειδοποιήσεις"), ("da", "Meddelelser")])
async def test_the_page_speaks_every_language(tmp_path: Path, language: str, words: str) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as home,
    ):
        await acquired(home, provider, ALICE)
        await revoked(home, provider, ALICE)
        await home.parts.notices.look()
        async with administrator(home, language=language) as person:
            await person.look("/notices")
            assert f"<h1>{words}</h1>" in person.shown
            assert "the token is invalid" not in person.shown
            assert "Re-authorise" not in person.shown


async def test_an_auditor_reads_and_does_not_acknowledge(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as home,
    ):
        await acquired(home, provider, ALICE)
        await revoked(home, provider, ALICE)
        await home.parts.notices.look()
        [notice] = await going_on(home)
        async with administrator(home, "auditor") as person:
            await person.look("/notices")
            assert ALICE in person.text()
            assert "Take note" not in person.text()
            assert (await person.press(f"/notices/{notice.id}/acknowledge")).status_code == 403


async def test_a_disk_that_fills_is_told_with_its_step_and_so_is_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, ALARM), background=False, **TOLD) as home,
        administrator(home) as person,
    ):
        await acquired(home, provider, ALARM)
        with monkeypatch.context() as full:
            full.setattr(storage, "RESERVE", 2**62)
            await asyncio.gather(home.parts.watchdog.look(), replace_watchdog(home).look())
            await later(home)
            assert len(await events_of(home, "disk.full")) == 1
            [notice] = [one for one in await going_on(home) if one.kind == "disk.full"]
            assert [one.name for one in notice.concerned] == [str(tmp_path / "data")]
            await person.look("/notices?lang=da")
            assert "disken" in person.text()
            assert "Gør plads" in person.text()
        said = [json.loads(one.document)["text"] for one in await tellings(home)]
        assert any("the disk is nearly full, so mail is refused" in text and "Make space" in text for text in said)
        await home.parts.watchdog.look()
        home.clock.forward(60)
        await home.parts.notices.mend()
        assert await going_on(home) == []


async def test_what_somebody_else_notices_is_not_ended_by_who_looks_for_mail_that_waits(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home:
        database = home.parts.store.database
        assert await database.write(lambda tx: notices.reach(tx, "mb_1", SILENT, home.clock(), 1))
        await home.parts.watchdog.look()
        assert await database.read(notices.episodes) == {("mb_1", SILENT): 1}
