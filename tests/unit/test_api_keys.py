"""Who may do what over the API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clients import Client, make_key, over_network, over_socket
from tests.support.house import House, house

TWO = """
[[app]]
name = "office"
provider = "microsoft"
client_id = "c0ffee"
client_secret = "a very secret secret"

[[mailbox]]
address = "sales@example.com"
app = "office"
default = true

[[mailbox]]
address = "support@example.com"
app = "office"
receive = "imap"

[[device]]
name = "printer"
mailboxes = ["support@example.com"]
"""
LETTER = {"to": ["bob@example.org"], "subject": "Hello", "text": "Hello\n"}


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", TWO, background=False) as made:
        yield made


@pytest.mark.parametrize(
    "path", ["/status", "/mailboxes", "/tokens", "/messages", "/journal", "/events", "/administrators"]
)
async def test_without_a_key_nothing_is_told(office: House, path: str) -> None:
    async with over_network(office) as stranger:
        answer = await stranger.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_wrong_key_is_as_good_as_none(office: House) -> None:
    async with over_network(office, "ph_wrong") as stranger:
        assert (await stranger.get("/status")).status_code == 401


async def test_a_reader_may_not_write(office: House) -> None:
    key = await make_key(office, "read")
    async with over_network(office, key) as reader:
        assert (await reader.get("/mailboxes")).status_code == 200
        refused = [
            await reader.post("/messages", LETTER),
            await reader.post("/mailboxes/sales@example.com/authorisations", {}),
            await reader.delete("/tokens/tk_x"),
            await reader.post("/messages/x/retry"),
            await reader.delete("/messages/x"),
            await reader.get("/received"),
        ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)


async def test_a_sender_may_only_send(office: House) -> None:
    key = await make_key(office, "send")
    async with over_network(office, key) as sender:
        assert (await sender.post("/messages", LETTER)).status_code == 202
        assert (await sender.get("/messages")).status_code == 403


async def test_a_manager_may_read(office: House) -> None:
    key = await make_key(office, "manage")
    async with over_network(office, key) as manager:
        assert (await manager.get("/mailboxes")).status_code == 200
        assert (await manager.post("/messages", LETTER)).status_code == 403


async def test_a_key_that_was_taken_back_opens_nothing(office: House) -> None:
    key = await make_key(office, "read")
    async with over_socket(office) as inside:
        assert (await inside.delete("/control/keys/program")).status_code == 204
        assert (await inside.delete("/control/keys/program")).status_code == 404
    async with over_network(office, key) as reader:
        assert (await reader.get("/status")).status_code == 401


async def test_keys_are_listed_without_what_they_are(office: House) -> None:
    key = await make_key(office, "manage", "read", mailboxes=["SALES@example.com"])
    async with over_socket(office) as inside:
        listed = await inside.get("/control/keys")
        again = await inside.post("/control/keys", {"name": "program", "permissions": ["read"]})
        unknown = await inside.post("/control/keys", {"name": "two", "permissions": ["read"], "mailboxes": ["x@y"]})
    (one,) = listed.json()["items"]
    assert (one["permissions"], one["mailboxes"]) == (["read", "manage"], ["sales@example.com"])
    assert key not in listed.text
    assert (again.status_code, unknown.status_code) == (409, 404)


@pytest.fixture
async def limited(office: House) -> AsyncIterator[Client]:
    """A program that may do everything, for one mailbox."""
    key = await make_key(office, "read", "send", "manage", mailboxes=["support@example.com"])
    async with over_socket(office) as inside:
        await inside.post("/messages", LETTER | {"mailbox": "sales@example.com"})
        await inside.post("/messages", LETTER | {"mailbox": "support@example.com"})
    async with over_network(office, key) as client:
        yield client


async def test_a_limited_key_sees_only_its_mailboxes(limited: Client) -> None:
    assert [one["address"] for one in await limited.items("/mailboxes")] == ["support@example.com"]
    assert (await limited.get("/mailboxes/sales@example.com")).status_code == 404
    assert [one["account"] for one in await limited.items("/tokens")] == ["support@example.com"]
    assert len(await limited.items("/messages")) == 1
    assert len(await limited.items("/journal")) == 1
    assert [one["name"] for one in await limited.items("/devices")] == ["printer"]
    assert (await limited.get("/administrators")).status_code == 403
    status = (await limited.get("/status")).json()
    assert (status["mailboxes"], status["queue"]["queued"]) == (1, 1)


async def test_a_limited_key_touches_nothing_of_others(office: House, limited: Client) -> None:
    async with over_socket(office) as inside:
        all_tokens = await inside.items("/tokens")
        (foreign,) = await inside.items("/messages", mailbox="sales@example.com")
        (line,) = await inside.items("/journal", message=foreign["id"])
    other = next(one["id"] for one in all_tokens if one["account"] == "sales@example.com")
    tried = [
        await limited.get(f"/tokens/{other}"),
        await limited.delete(f"/tokens/{other}"),
        await limited.get(f"/messages/{foreign['id']}"),
        await limited.delete(f"/messages/{foreign['id']}"),
        await limited.post(f"/messages/{foreign['id']}/retry"),
        await limited.get("/messages", mailbox="sales@example.com"),
        await limited.post("/mailboxes/sales@example.com/authorisations", {}),
    ]
    assert [answer.status_code for answer in tried] == [404] * len(tried)
    assert line["message"] == foreign["id"]
    assert await limited.items("/journal", message=foreign["id"]) == []


async def test_a_limited_key_does_not_send_by_another_mailbox(limited: Client) -> None:
    """The default mailbox is not for it; its only one is."""
    refused = await limited.post("/messages", LETTER | {"mailbox": "sales@example.com"})
    own = await limited.post("/messages", LETTER)
    assert (refused.status_code, own.status_code) == (400, 202)
    sent = (await limited.get(f"/messages/{own.json()['id']}")).json()
    assert sent["sender"] == "support@example.com"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/control/token/sales@example.com"),
        ("GET", "/control/keys"),
        ("POST", "/control/keys"),
        ("POST", "/control/apply"),
        ("POST", "/control/sign-in-link"),
        ("POST", "/control/administrators"),
        ("DELETE", "/control/administrators/admin"),
    ],
)
async def test_what_is_for_the_socket_is_not_on_the_network(office: House, method: str, path: str) -> None:
    """Not even with a key that may do everything, nor by saying so in a header."""
    key = await make_key(office, "read", "send", "receive", "manage")
    async with over_network(office, key, peer=("127.0.0.1", 1)) as client:
        answer = await client.http.request(
            method, f"/api/v1{path}", json={"name": "x", "permissions": ["read"]}, headers={"x-control": "True"}
        )
    assert answer.status_code == 404


async def test_a_page_session_opens_no_api(office: House) -> None:
    async with over_network(office) as browser:
        browser.http.cookies.set("posthouse_session", "whatever")
        assert (await browser.get("/status")).status_code == 401


async def test_no_secret_of_the_configuration_is_told(office: House) -> None:
    async with over_socket(office) as inside:
        texts = [(await inside.get(path)).text for path in ("/apps", "/devices", "/providers", "/mailboxes", "/status")]
    password = office.passwords["printer"].reveal()
    assert not any("a very secret secret" in text or password in text for text in texts)
    assert '"has_secret":true' in texts[0]
