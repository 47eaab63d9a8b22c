"""Handing mail in over the API, and the queue."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, select

from posthouse.model.message import MessageState, Recipient
from posthouse.protocol.reading import has_bare_line_end
from posthouse.store import leases, messages, tables
from posthouse.store.database import Transaction
from posthouse.store.messages import Claim
from tests.support.clients import Client, over_socket
from tests.support.house import House, house

SALES, SUPPORT = "sales@example.com", "support@example.com"
TWO = f"""
[[app]]
name = "office"
provider = "microsoft"
client_id = "c0ffee"

[[mailbox]]
address = "{SALES}"
app = "office"
sender_name = "Sales"
default = true

[[mailbox]]
address = "{SUPPORT}"
app = "office"
sender = "as-given"
senders = ["help@example.com"]
"""
LETTER = {"to": ["bob@example.org"], "subject": "Hello", "text": "Hello\n"}
TO_MANY = b"To: " + b",".join(b"r%d@a.b" % number for number in range(10_001)) + b"\n\n"
TEXT = b"From: a@b.example\nTo: bob@example.org\nSubject: Hello\n\nHello\n"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", TWO, background=False) as made:
        yield made


@pytest.fixture
async def api(office: House) -> AsyncIterator[Client]:
    async with over_socket(office) as client:
        yield client


_body = (
    select(tables.body.c.data, tables.message.c.pieces)
    .join(tables.message, tables.message.c.id == tables.body.c.message_id)
    .where(tables.message.c.id == bindparam("wanted"))
)


async def stored(office: House, queue_id: str) -> bytes:
    """The message as it lies on disk, unsealed."""
    store = office.parts.store
    row = await store.database.read(lambda tx: tx.one(_body, wanted=queue_id))
    assert row is not None
    pieces = [piece async for piece in store.spool.read(queue_id, row["pieces"])] if row["pieces"] else []
    return store.sealer.open(row["data"], f"message:{queue_id}") + b"".join(pieces)


async def claim(tx: Transaction, office: House) -> list[Claim]:
    """Begin to hand over what waits for the sales mailbox."""
    await leases.beat(tx, "node")
    taken = await leases.take_free(tx, "node", 100, own=True)
    mailbox = office.parts.directory.now.by_address[SALES].id
    return await messages.claim(tx, mailbox, "node", taken[mailbox], office.clock(), 10)


async def parsed(office: House, queue_id: str) -> EmailMessage:
    return message_from_bytes(await stored(office, queue_id), policy=policy.SMTP)


async def test_a_letter_by_its_parts(office: House, api: Client) -> None:
    letter = {
        "to": ["Bob Brown <bob@example.org>"],
        "cc": ["carol@example.org"],
        "bcc": ["secret@example.org"],
        "subject": "Grüße",
        "text": "Ein Brief\n",
        "html": "<p>Ein Brief</p>",
        "headers": {"X-Ticket": "4711"},
        "attachments": [{"name": "a.txt", "type": "text/plain", "content": b64encode(b"attached").decode()}],
    }
    answer = await api.post("/messages", letter)
    assert answer.status_code == 202
    queue_id = answer.json()["id"]
    assert answer.headers["location"] == f"/api/v1/messages/{queue_id}"

    told = (await api.get(f"/messages/{queue_id}")).json()
    addresses = [one["address"] for one in told["recipients"]]
    assert (told["state"], told["sender"]) == ("queued", SALES)
    assert addresses == ["bob@example.org", "carol@example.org", "secret@example.org"]

    message = await parsed(office, queue_id)
    assert (str(message["Subject"]), str(message["From"]), message["X-Ticket"]) == ("Grüße", f"Sales <{SALES}>", "4711")
    assert str(message["To"]) == "Bob Brown <bob@example.org>"
    assert b"secret@example.org" not in message.as_bytes()
    assert message.get_body(("html",)) is not None
    assert [part.get_content() for part in message.iter_attachments()] == ["attached"]


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "Hello\r\nBcc: victim@example.org"},
        {"to": ["bob@example.org\r\nBcc: victim@example.org"]},
        {"to": ["Bob\r\nBcc: victim@example.org <bob@example.org>"]},
        {"reply_to": "a@b.example\nX-Bad: 1"},
        {"headers": {"X-Good": "fine\nX-Bad: 1"}},
        {"headers": {"X-Bad: 1\r\nX-Worse": "1"}},
        {"headers": {"Bcc": "victim@example.org"}},
        {"headers": {"Content-Type": "text/html"}},
        {"attachments": [{"name": "a\r\nX-Bad: 1", "content": ""}]},
        {"attachments": [{"name": "a", "type": "text/plain\r\nX-Bad: 1", "content": ""}]},
        {"attachments": [{"name": "a", "content": "not base64"}]},
        {"subject": "a\u2028b"},
        {"to": ["not an address"]},
        {"to": []},
        {"text": None},
        {"unknown": 1},
        {"headers": {"References": "<a@b"}, "subject": "\x00"},
    ],
)
async def test_what_would_begin_a_field_of_its_own_is_refused(api: Client, changes: dict[str, Any]) -> None:
    answer = await api.post("/messages", LETTER | changes)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert await api.items("/messages") == []


HIDDEN = ("=?utf-8?q?a=0D=0ABcc:_victim@example.org?=", "=?utf-8?b?DQpCY2M6IHZAYS5iDQoNCg==?=", "=?us-ascii?q?=00?=")
"""Encoded words (RFC 2047) that hold a line end or a NUL: what decodes them writes a field of its own."""
CONTROLS = ("\r", "\n", "\r\n", "\0", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\u2028", "\u2029")
EVIL = (*HIDDEN, *(f"a{control}Bcc: v@example.org" for control in CONTROLS))
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "to": lambda evil: {"to": [f"{evil} <bob@example.org>"]},
    "cc": lambda evil: {"cc": [f'"{evil}" <bob@example.org>']},
    "reply_to": lambda evil: {"reply_to": f'"{evil}" <bob@example.org>'},
    "from": lambda evil: {"from": f'"{evil}" <{SALES}>'},
    "subject": lambda evil: {"subject": evil},
    "X-Ticket": lambda evil: {"headers": {"X-Ticket": evil}},
    "Message-ID": lambda evil: {"headers": {"Message-ID": f"<{evil}@example.org>"}},
    "In-Reply-To": lambda evil: {"headers": {"In-Reply-To": evil}},
    "Resent-To": lambda evil: {"headers": {"Resent-To": evil}},
    "attachment": lambda evil: {"attachments": [{"name": evil, "content": ""}]},
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("evil", EVIL, ids=ascii)
async def test_no_field_can_hold_another_one(office: House, api: Client, field: str, evil: str) -> None:
    """It is refused with the name of the field, or what is sent has the fields that were asked for."""
    answer = await api.post("/messages", LETTER | FIELDS[field](evil))
    if answer.status_code == 422:
        assert field.replace("_", "-") in answer.json()["detail"].lower().replace("_", "-") or field in answer.text
        return
    assert answer.status_code == 202
    sent = await stored(office, answer.json()["id"])
    header = sent.partition(b"\r\n\r\n")[0]
    assert b"\nbcc" not in header.lower()
    assert b"\0" not in sent
    assert not has_bare_line_end(sent)
    assert b"Hello" in sent.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bcc": ["a\r\n@b.example"]}, "bcc"),
        ({"bcc": ["one@b.example, two@b.example"]}, "bcc"),
        ({"headers": {"Message-ID": "x" * 2000}}, "Message-ID"),
        ({"headers": {"Date": "x", "date": "y"}}, "date"),
        ({"text": "a\0b"}, "text"),
        ({"html": "a\0b"}, "html"),
        ({"attachments": [{"name": "a", "type": "multipart/mixed", "content": ""}]}, "multipart/mixed"),
        ({"attachments": [{"name": "a", "type": "message/partial", "content": ""}]}, "message/partial"),
    ],
)
async def test_what_cannot_be_written_is_named(api: Client, changes: dict[str, Any], named: str) -> None:
    answer = await api.post("/messages", LETTER | changes)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]


async def test_a_line_end_in_half_in_a_header_begins_no_field(api: Client) -> None:
    """A program that takes LF out of what its users type may have left a CR in it."""
    for text in (b"To: bob@example.org\nSubject: a\rBcc: v@example.org\n\nx", b"To: bob@example.org\rSubject: a\r\rx"):
        answer = await api.hand_in(text)
        assert (answer.status_code, answer.json()["id"]) == (422, "message.header")
        assert "CR" in answer.json()["detail"]


@pytest.mark.parametrize("text", [b"Subject: a\0b\n\nx", b"Subject: a\n\nx\r\n\0.\r\n", b"\0"])
async def test_a_nul_is_refused(api: Client, text: bytes) -> None:
    answer = await api.hand_in(text, to=["bob@example.org"])
    assert (answer.status_code, answer.json()["id"]) == (422, "message.nul")
    assert await api.items("/messages") == []


async def test_recipients_in_a_header_may_be_of_any_script_but_not_of_an_unknown_one(api: Client) -> None:
    queue_id = (await api.hand_in("To: Jürgen <jürgen@example.org>\n\nx".encode())).json()["id"]
    assert [one["address"] for one in (await api.get(f"/messages/{queue_id}")).json()["recipients"]] == [
        "jürgen@example.org"
    ]
    for to in ("jürgen@example.org".encode("latin-1"), "ü".encode() * 200 + b"@example.org"):
        assert (await api.hand_in(b"To: " + to + b"\n\nx")).json()["id"] == "message.recipient"
    assert (await api.hand_in(b"Subject: x\n\nx", to=["b\x90@example.org"])).json()["id"] == "message.recipient"


async def test_a_whole_message_takes_its_recipients_from_its_header(office: House, api: Client) -> None:
    to = b"To: Bob <bob@example.org>, carol@example.org\nCc: carol@example.org\n"
    text = to + b"Bcc: x@example.org,\n y@example.org\nSubject: S\n\nB\n"
    queue_id = (await api.hand_in(text)).json()["id"]
    told = (await api.get(f"/messages/{queue_id}")).json()
    assert [one["address"] for one in told["recipients"]] == [
        "bob@example.org",
        "carol@example.org",
        "x@example.org",
        "y@example.org",
    ]
    sent = await stored(office, queue_id)
    assert b"x@example.org" not in sent
    assert b"Subject: S\r\n" in sent
    assert sent.endswith(b"\r\n\r\nB\r\n")


async def test_named_recipients_come_before_those_of_the_header(api: Client) -> None:
    queue_id = (await api.hand_in(TEXT, to=["carol@example.org"])).json()["id"]
    told = (await api.get(f"/messages/{queue_id}")).json()
    assert [one["address"] for one in told["recipients"]] == ["carol@example.org"]


async def test_every_line_ends_with_crlf_wherever_the_pieces_are_cut(office: House, api: Client) -> None:
    """A lone CR or LF must not reach a mail server (RFC 5321 section 2.3.8)."""
    text = b"To: bob@example.org\r\nSubject: S\n\none\rtwo\r\nthree\n.\r\r\nfour\r"

    async def by_octets() -> AsyncIterator[bytes]:
        for octet in text:
            yield bytes([octet])

    headers = {"content-type": "message/rfc822"}
    answer = await api.http.post("/api/v1/messages", content=by_octets(), headers=headers)
    whole = await api.hand_in(text)
    bodies = [(await stored(office, one.json()["id"])).partition(b"\r\n\r\n")[2] for one in (answer, whole)]
    assert bodies == 2 * [b"one\r\ntwo\r\nthree\r\n.\r\n\r\nfour\r\n"]


async def test_a_text_without_header_is_a_message(office: House, api: Client) -> None:
    queue_id = (await api.hand_in(b"cron says hello\n", to=["bob@example.org"])).json()["id"]
    message = await parsed(office, queue_id)
    assert (str(message["From"]), message.get_payload()) == (f"Sales <{SALES}>", "cron says hello\r\n")


async def test_a_line_of_a_mailbox_file_before_the_header_is_dropped(office: House, api: Client) -> None:
    queue_id = (await api.hand_in(b"From joe Thu Jan  1 00:00:00 2026\n" + TEXT)).json()["id"]
    assert str((await parsed(office, queue_id))["Subject"]) == "Hello"


async def test_a_large_message_is_spooled(office: House, api: Client) -> None:
    body = b"0123456789" * 70_000 + b"\r\n"
    queue_id = (await api.hand_in(TEXT + body)).json()["id"]
    assert (await stored(office, queue_id)).endswith(b"\r\n\r\nHello\r\n" + body)
    assert (office.parts.settings.data / "spool" / queue_id).exists()


async def test_a_message_beyond_the_limit_leaves_nothing_behind(office: House, api: Client) -> None:
    answer = await api.hand_in(TEXT + b"x" * 37_000_000)
    assert (answer.status_code, answer.json()["id"]) == (422, "message.too-large")
    assert await api.items("/messages") == []
    assert list((office.parts.settings.data / "spool").iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"To: bob\n\nx", b"Subject: nobody\n\nx", TO_MANY])
async def test_a_message_for_nobody_or_too_many_is_refused(api: Client, text: bytes) -> None:
    assert (await api.hand_in(text)).status_code == 422


async def test_a_header_without_end_is_refused(api: Client) -> None:
    answer = await api.hand_in(b"X: " + b"y" * 300_000)
    assert answer.json()["id"] == "message.header-too-large"


async def test_the_same_key_queues_the_message_once(api: Client) -> None:
    first, second = [await api.hand_in(TEXT, key="job-1") for _ in range(2)]
    other = await api.hand_in(TEXT, key="job-2")
    assert (first.json()["again"], second.json()["again"]) == (False, True)
    assert first.json()["id"] == second.json()["id"]
    assert other.json()["id"] != first.json()["id"]
    assert len(await api.items("/messages")) == 2


async def test_the_same_key_at_the_same_moment_queues_the_message_once(api: Client) -> None:
    answers = await asyncio.gather(*(api.hand_in(TEXT, key="job-1") for _ in range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.json()["again"] for answer in answers].count(False) == 1
    assert len(await api.items("/messages")) == 1


async def test_a_key_does_not_serve_for_another_message(api: Client) -> None:
    await api.hand_in(TEXT, key="job-1")
    answer = await api.hand_in(TEXT + b"more\n", key="job-1")
    assert (answer.status_code, answer.json()["id"]) == (422, "message.key-reused")


async def test_the_mailbox_is_named_or_goes_by_the_sender_or_is_the_default(api: Client) -> None:
    by_name = await api.post("/messages", LETTER | {"mailbox": SUPPORT.upper()})
    by_sender = await api.post("/messages", LETTER | {"from": "Help <help@example.com>"})
    by_default = await api.post("/messages", LETTER | {"from": "somebody@example.net"})
    senders = [
        (await api.get(f"/messages/{one.json()['id']}")).json()["sender"] for one in (by_name, by_sender, by_default)
    ]
    assert senders == [SUPPORT, "help@example.com", SALES]
    assert (await api.post("/messages", LETTER | {"mailbox": "nobody@example.com"})).status_code == 400


@pytest.mark.parametrize("field", [{"from": "eve@example.net"}, {}])
async def test_as_given_takes_only_permitted_senders(api: Client, field: dict[str, str]) -> None:
    """Neither as envelope sender nor in From."""
    text = b"From: eve@example.net\nTo: bob@example.org\n\nx\n"
    answer = await api.hand_in(text, mailbox=SUPPORT, **field)
    assert (answer.status_code, answer.json()["id"]) == (422, "message.sender")
    assert await api.items("/messages") == []


async def test_another_kind_of_body_is_refused(api: Client) -> None:
    answer = await api.http.post("/api/v1/messages", content=b"x", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


async def test_pages_hold_everything_once(office: House, api: Client) -> None:
    made = [(await api.post("/messages", LETTER)).json()["id"] for _ in range(7)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await api.get("/messages", limit=3, **({"cursor": cursor} if cursor else {}))).json()
        seen += [one["id"] for one in page["items"]]
        cursor = page["next"]
        if not cursor:
            break
    assert sorted(seen) == sorted(made)
    assert seen == sorted(seen, reverse=True)


async def test_the_journal_has_pages_and_messages(api: Client) -> None:
    made = [(await api.post("/messages", LETTER)).json()["id"] for _ in range(5)]
    first = (await api.get("/journal", limit=3)).json()
    rest = (await api.get("/journal", limit=3, cursor=first["next"])).json()
    lines = [line["message"] for line in (*first["items"], *rest["items"])]
    assert lines == made[::-1]
    assert rest["next"] is None
    told = (await api.get(f"/messages/{made[0]}")).json()
    by_id, by_message_id = [await api.items("/journal", message=told[key]) for key in ("id", "message_id")]
    assert by_id == by_message_id
    assert [line["kind"] for line in by_id] == ["accepted"]


async def parked(office: House) -> None:
    mailbox = office.parts.directory.now.by_address[SALES]
    await office.parts.store.database.write(lambda tx: messages.park(tx, mailbox.id, office.clock(), "no token"))


async def test_what_is_parked_waits_until_it_is_released(office: House, api: Client) -> None:
    queue_id = (await api.post("/messages", LETTER)).json()["id"]
    for _ in range(2):
        parked = await api.post(f"/messages/{queue_id}/park")
        assert (parked.status_code, parked.json()["state"], parked.json()["held"]) == (200, "parked", True)
    released = (await api.post(f"/messages/{queue_id}/release")).json()
    assert (released["state"], released["held"]) == ("queued", False)


async def test_messages_are_found_by_what_a_person_remembers(office: House, api: Client) -> None:
    queue_id = (await api.post("/messages", LETTER | {"subject": "Invoice 4711"})).json()["id"]
    await api.post("/messages", LETTER)
    found = await api.get("/messages", search="invoice", mailbox=SALES)
    assert [one["id"] for one in found.json()["items"]] == [queue_id]
    lines = (await api.get("/journal", mailbox=SUPPORT)).json()["items"]
    assert lines == []
    assert len((await api.get("/journal", mailbox=SALES)).json()["items"]) == 2


async def test_only_what_is_parked_is_released(office: House, api: Client) -> None:
    queue_id = (await api.post("/messages", LETTER)).json()["id"]
    too_early = await api.post(f"/messages/{queue_id}/release")
    await parked(office)
    shown = (await api.get(f"/messages/{queue_id}")).json()
    released = await api.post(f"/messages/{queue_id}/release")
    assert (too_early.status_code, too_early.json()["id"]) == (409, "message.not-parked")
    assert (shown["state"], shown["cause"], shown["parked_at"] is None) == ("parked", "no token", False)
    assert (released.status_code, released.json()["state"]) == (200, "queued")


async def test_failed_mail_is_tried_again_and_sent_mail_is_not(office: House, api: Client) -> None:
    ids = [(await api.post("/messages", LETTER)).json()["id"] for _ in range(2)]
    await finished(office, ids)
    failed, sent = ids
    assert [one["id"] for one in await api.items("/messages", state="failed")] == [failed]
    again = await api.post(f"/messages/{failed}/retry")
    assert again.json()["state"] == "queued"
    assert [one["state"] for one in again.json()["recipients"]] == ["waiting"]
    assert (await api.post(f"/messages/{sent}/retry")).status_code == 409
    assert (await api.delete(f"/messages/{sent}")).status_code == 204
    assert (await api.get(f"/messages/{sent}")).status_code == 404


async def finished(office: House, ids: list[str]) -> None:
    """The first one failed, the second one sent."""

    async def work(tx: Transaction) -> None:
        for claimed in await claim(tx, office):
            state = MessageState.FAILED if claimed.message.id == ids[0] else MessageState.SENT
            ended = [Recipient(r.address, str(state), "answer") for r in claimed.message.recipients]
            await messages.finish(tx, claimed, office.clock(), state, ended, kind=str(state))

    await office.parts.store.database.write(work)


async def test_a_message_that_is_being_handed_over_is_left_alone(office: House, api: Client) -> None:
    queue_id = (await api.post("/messages", LETTER)).json()["id"]
    await office.parts.store.database.write(lambda tx: claim(tx, office))
    answers = [await api.delete(f"/messages/{queue_id}"), await api.post(f"/messages/{queue_id}/retry")]
    assert [answer.status_code for answer in answers] == [409, 409]
    assert "claimed" in answers[0].json()["detail"]


async def test_removing_a_large_message_frees_the_disk(office: House, api: Client) -> None:
    queue_id = (await api.hand_in(TEXT + b"x" * 100_000)).json()["id"]
    assert (await api.delete(f"/messages/{queue_id}")).status_code == 204
    assert list((office.parts.settings.data / "spool").iterdir()) == []
