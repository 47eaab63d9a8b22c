"""Queued mail on the page."""

from pathlib import Path

from posthouse.model.message import Envelope, MessageState, NewMessage, Recipient
from posthouse.store import leases, messages
from posthouse.store.database import Transaction
from posthouse.store.ids import new_message_id
from tests.support.house import House, house
from tests.support.visitors import administrator

FILE = """
[[mailbox]]
address = "sales@example.com"
password = "hunter-2-hunter"
smtp = "smtp.example.com:465 tls"
"""


async def accept(home: House, subject: str = "An <invoice>", to: tuple[str, ...] = ("bob@example.org",)) -> str:
    """Queue a message, as a device does; its id."""
    mailbox = home.parts.directory.now.by_address["sales@example.com"]
    queue_id = new_message_id(home.clock())
    new = NewMessage(
        queue_id, mailbox.id, "printer", Envelope("scan@example.com", to), "<1@example.com>", subject, 48_200, b"sealed"
    )
    now = home.clock()
    await home.parts.store.database.write(lambda tx: messages.accept(tx, new, now, now + 86_400))
    return queue_id


async def fail(home: House) -> None:
    """Everything queued is refused for good."""
    mailbox = home.parts.directory.now.by_address["sales@example.com"]
    now = home.clock() + 1

    async def work(tx: Transaction) -> None:
        await leases.beat(tx, "node-1")
        epoch = (await leases.take_free(tx, "node-1", 10))[mailbox.id]
        for claim in await messages.claim(tx, mailbox.id, "node-1", epoch, now, 10):
            refused = [Recipient(r.address, "failed", "550 5.1.1 No such person") for r in claim.message.recipients]
            await messages.finish(
                tx,
                claim,
                now,
                MessageState.FAILED,
                refused,
                kind="failed",
                answer="550 5.1.1 No such person",
                cause="The recipient does not exist.",
            )

    await home.parts.store.database.write(work)


async def test_an_empty_outbox_says_so(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await person.look("/outbox")
        assert "There is no message here." in person.text()


async def test_the_outbox_shows_what_is_queued_and_why_something_failed(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await accept(home, "First", ("bob@example.org", "carol@example.org"))
        await fail(home)
        await accept(home)
        await person.look("/outbox")
        text = person.text()
        assert "all queued (1) parked (0) sent (0) failed (1)" in text
        assert "sales@example.com bob@example.org +1 First failed The recipient does not exist." in text
        assert "sales@example.com bob@example.org An <invoice> queued –" in text


async def test_a_state_filters_the_outbox_and_nonsense_does_not(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await accept(home, "First")
        await fail(home)
        await accept(home, "Second")
        await person.look("/outbox?state=failed")
        assert "First" in person.text()
        assert "Second" not in person.text()
        await person.look("/outbox?state=nonsense")
        assert "First" in person.text()
        assert "Second" in person.text()


async def test_the_outbox_is_searched_and_narrowed_and_the_links_keep_what_was_asked(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        await accept(home, "Invoice 4711")
        await accept(home, "Letter", ("carol@example.org",))
        await person.look("/outbox?search=carol@")
        assert "Letter" in person.text()
        assert "Invoice" not in person.text()
        assert 'href="/outbox?state=failed&amp;search=carol%40"' in person.shown
        mailbox = home.parts.directory.now.by_address["sales@example.com"].id
        await person.look(f"/outbox?mailbox={mailbox}&search=<nothing>")
        assert "There is no message here." in person.text()
        assert 'name="mailbox" value="sales@example.com"' in person.shown
        await person.look("/outbox?mailbox=sales@example.com")
        assert "Letter" in person.text()
        await person.look("/outbox?mailbox=nobody@example.com")
        assert "There is no mailbox nobody@example.com." in person.text()
        assert "<nothing>" not in person.shown


async def test_the_outbox_looks_again_by_itself_but_not_on_older_pages(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        queue_id = await accept(home, "First")
        await person.look("/outbox?state=queued")
        assert 'hx-get="/outbox?state=queued" hx-trigger="every 5s"' in person.shown
        await person.look(f"/outbox?before={queue_id}")
        assert "every 5s" not in person.shown


async def test_a_message_is_kept_back_until_it_is_released(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        queue_id = await accept(home)
        await person.look(f"/outbox/{queue_id}")
        answer = await person.press(f"/outbox/{queue_id}/park")
        await person.look(answer.headers["location"])
        assert "The message is kept back until somebody releases it." in person.text()
        assert "parked by a person" in person.text()
        assert "Keep back" not in person.text()
        await home.parts.dispatcher.release((await home.message(queue_id)).mailbox_id)
        assert (await home.message(queue_id)).state is MessageState.PARKED
        await person.press(f"/outbox/{queue_id}/retry")
        assert (await home.message(queue_id)).state is MessageState.QUEUED


async def test_who_may_not_touch_the_queue_keeps_nothing_back(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home, "auditor") as person:
        queue_id = await accept(home)
        await person.look(f"/outbox/{queue_id}")
        assert "Keep back" not in person.text()
        assert (await person.press(f"/outbox/{queue_id}/park")).status_code == 403
        assert (await home.message(queue_id)).state is MessageState.QUEUED


async def test_a_message_shows_recipients_answers_and_journal(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        queue_id = await accept(home, to=("bob@example.org", "carol@example.org"))
        await fail(home)
        await person.look(f"/outbox/{queue_id}")
        text = person.text()
        assert "State failed Cause The recipient does not exist. Last answer 550 5.1.1 No such person" in text
        assert "carol@example.org failed 550 5.1.1 No such person" in text
        assert "Size 48 kB" in text
        assert text.index("accepted") < text.rindex("failed")


async def test_what_failed_is_tried_again_on_request(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        queue_id = await accept(home)
        await fail(home)
        answer = await person.press(f"/outbox/{queue_id}/retry")
        await person.look(answer.headers["location"])
        assert "Another attempt was asked for." in person.text()
        shown = await home.message(queue_id)
        assert shown.state is MessageState.QUEUED
        assert [recipient.state for recipient in shown.recipients] == ["waiting"]


async def test_removing_asks_first_and_then_forgets(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        queue_id = await accept(home)
        await person.look(f"/outbox/{queue_id}/remove")
        assert "Remove “An <invoice>”?" in person.text()
        assert (await home.message(queue_id)).state is MessageState.QUEUED
        answer = await person.press(f"/outbox/{queue_id}/remove")
        await person.look(answer.headers["location"])
        assert "The message was removed." in person.text()
        assert (await person.look(f"/outbox/{queue_id}")).status_code == 404


async def test_older_messages_are_a_page_further(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        for number in range(201):
            home.clock.forward(0.01)
            await accept(home, f"Number {number:03}")
        await person.look("/outbox?state=queued")
        assert "Number 200" in person.text()
        assert "Number 000" not in person.text()
        older = person.shown.partition('href="/outbox?state=queued&amp;before=')[2].partition('"')[0]
        await person.look(f"/outbox?state=queued&before={older}")
        assert "Number 000" in person.text()
        assert "Older messages" not in person.text()
