"""One thing made, changed or removed, over the API: all mistakes at once, secrets that stay where they belong."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from posthouse.model.token import TokenState
from posthouse.secret import Secret
from posthouse.services.device_login import fits, password_key
from posthouse.store import configuration, tokens
from posthouse.store.configuration import StoredApp
from tests.support.clients import Client, make_key, over_network, over_socket
from tests.support.house import House, house

OFFICE = """
[[provider]]
name = "example"
issuer = "https://id.example.com"
smtp = "mail.example.com:587 starttls"
imap = "mail.example.com:993 tls"

[[app]]
name = "office"
provider = "example"
client_id = "1234"
client_secret = "canary-office"

[[mailbox]]
address = "support@example.com"
app = "office"

[[mailbox]]
address = "old@example.net"
password = "canary-old"
smtp = "smtp.example.net:465 tls"

[[device]]
name = "Printer 2"
mailboxes = ["support@example.com"]
"""
SUPPORT, OLD = "/mailboxes/support@example.com", "/mailboxes/old@example.net"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", OFFICE, background=False) as made:
        yield made


@pytest.fixture
async def api(office: House) -> AsyncIterator[Client]:
    async with over_socket(office) as client:
        yield client


@pytest.fixture
async def far(office: House) -> AsyncIterator[Client]:
    async with over_network(office, await make_key(office, "manage")) as client:
        yield client


async def patch(client: Client, path: str, body: Any, **headers: str) -> httpx2.Response:
    return await client.http.patch(f"/api/v1{path}", json=body, headers=headers)


def told(answer: httpx2.Response) -> list[str]:
    document = answer.json()
    return [one["detail"] for one in document.get("problems", [document])]


async def app(office: House, name: str = "office") -> StoredApp:
    return office.parts.directory.now.apps_by_name[name]


async def test_a_mailbox_is_made_read_changed_and_removed(far: Client) -> None:
    made = await far.post("/mailboxes", {"address": "Sales@example.com", "app": "office", "sender_name": "Sales"})
    assert made.status_code == 201
    assert made.json()["what"] == "added"
    path = made.headers["location"].removeprefix("/api/v1")
    seen = (await far.get(path)).json()
    assert (seen["address"], seen["settings"]["sender_name"]) == ("sales@example.com", "Sales")
    changed = await patch(far, path, {"sender_name": "Sales team", "check_interval": 120})
    assert sorted(changed.json()["changed"]) == ["check_interval", "sender_name"]
    assert (await far.get(path)).json()["settings"]["check_interval"] == 120
    assert (await far.delete(path)).json()["what"] == "removed"
    assert (await far.get(path)).status_code == 404


async def test_all_mistakes_are_told_at_once_each_with_its_key(far: Client) -> None:
    body = {"address": "x", "app": "nowhere", "timeout": "soon", "colour": 1, "smtp": {"env": "X"}}
    answer = await far.post("/mailboxes", body)
    assert answer.status_code == 400
    document = " | ".join(told(answer))
    for wanted in ("address: 'x' is not an e-mail address", "timeout is not a time", "colour", "smtp has to be"):
        assert wanted in document


async def test_what_makes_no_sense_together_changes_nothing(far: Client) -> None:
    answer = await patch(far, SUPPORT, {"app": "nowhere", "sender_name": "New"})
    assert told(answer) == ["app: There is no app nowhere."]
    assert (await far.get(SUPPORT)).json()["settings"]["sender_name"] == ""


async def test_the_second_of_two_people_reads_that_it_was_changed(far: Client) -> None:
    version = (await far.get(SUPPORT)).json()["version"]
    first = await patch(far, SUPPORT, {"sender_name": "A"}, **{"if-match": f'"{version}"'})
    assert first.headers["etag"] == f'"{version + 1}"'
    second = await patch(far, SUPPORT, {"sender_name": "B"}, **{"if-match": f'"{version}"'})
    assert second.status_code == 409
    assert told(second) == ["The mailbox support@example.com was changed by somebody else meanwhile."]
    assert (await patch(far, SUPPORT, {}, **{"if-match": "new"})).status_code == 400
    removed = await far.http.delete(f"/api/v1{SUPPORT}", headers={"if-match": f'"{version}"'})
    assert removed.status_code == 409


async def test_what_is_used_is_not_removed(far: Client) -> None:
    assert told(await far.delete(SUPPORT)) == [
        "The mailbox support@example.com cannot be removed: the device Printer 2 still uses it."
    ]
    assert "the mailbox support@example.com still uses it" in told(await far.delete("/apps/office"))[0]
    assert "the app office still uses it" in told(await far.delete("/providers/example"))[0]
    assert told(await far.delete("/providers/google")) == [
        "The provider google comes with Posthouse and cannot be removed."
    ]


async def test_a_new_device_tells_its_password_once_and_a_new_one_on_request(office: House, far: Client) -> None:
    made = (await far.post("/devices", {"name": "scanner", "mailboxes": ["support@example.com"]})).json()
    assert logs_in(office, "scanner", made["password"])
    kept = (await patch(far, "/devices/scanner", {"networks": ["10.0.0.0/8"]})).json()
    assert kept["password"] is None
    assert logs_in(office, "scanner", made["password"])
    renewed = (await patch(far, "/devices/scanner", {"password": None})).json()
    assert logs_in(office, "scanner", renewed["password"])
    assert not logs_in(office, "scanner", made["password"])
    assert renewed["changed"] == ["password"]


def logs_in(office: House, name: str, password: str) -> bool:
    stored = office.parts.directory.now.devices_by_name[name].password_hash
    return fits(stored, password_key(office.parts.store.sealer), Secret(password))


async def test_a_device_with_a_blank_in_its_name_is_reached_by_it(far: Client) -> None:
    assert (await patch(far, "/devices/Printer%202", {"senders": ["@example.com"]})).status_code == 200
    assert (await far.delete("/devices/printer%202")).json()["what"] == "removed"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/providers/example", {"token_url": "https://evil.example/token"}),
        ("/providers/example", {"smtp": "evil.example:587 starttls"}),
        ("/providers/example", {"pop3": "evil.example:995 tls"}),
        ("/providers/google", {"issuer": "https://evil.example"}),
        ("/apps/office", {"provider": "google", "client_secret": "new"}),
    ],
)
async def test_a_key_of_the_network_sends_no_stored_secret_elsewhere(far: Client, path: str, body: Any) -> None:
    answer = await patch(far, path, body)
    assert answer.status_code == 403
    assert any("would send stored secrets elsewhere" in line for line in told(answer))


async def test_nor_a_new_mailbox_that_shares_the_token(far: Client) -> None:
    body = {"address": "x@example.com", "app": "office", "signs_in_as": "support@example.com"}
    refused = await far.post("/mailboxes", {**body, "smtp": "evil.example:587 starttls"})
    assert "that a token may be sent to" in told(refused)[0]
    assert "that a token may be sent to" in told(await patch(far, SUPPORT, {"smtp": "evil.example:465 tls"}))[0]
    assert (await far.post("/mailboxes", {**body, "smtp": "mail.example.com:25 starttls"})).status_code == 201


async def test_a_file_of_this_machine_is_named_on_the_command_line_only(
    far: Client, api: Client, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("x")
    body = {"ca_file": str(tmp_path / "ca.pem")}
    assert "command line" in told(await patch(far, "/providers/example", body))[0]
    assert (await patch(api, "/providers/example", body)).status_code == 200


async def test_another_sign_in_server_never_sees_the_old_secret(office: House, api: Client) -> None:
    token = await office.token("support@example.com")
    await office.parts.store.database.write(
        lambda tx: tokens.set_state(tx, token.id, TokenState.ACQUIRED, office.clock())
    )
    done = (await patch(api, "/providers/example", {"issuer": "https://other.example"})).json()
    assert done["notes"] == ["The client_secret of office was forgotten: give it again."]
    assert configuration.app_secret(office.parts.store.sealer, await app(office)) is None
    assert (await office.token("support@example.com")).state == "invalid"
    await patch(api, "/apps/office", {"client_secret": "again"})
    stored = configuration.app_secret(office.parts.store.sealer, await app(office))
    assert stored is not None
    assert stored.reveal() == "again"


async def test_saying_the_same_server_again_is_no_change(office: House, far: Client) -> None:
    assert (await patch(far, "/providers/example", {"issuer": "https://id.example.com"})).json()["what"] == "unchanged"
    assert configuration.app_secret(office.parts.store.sealer, await app(office)) is not None


async def test_a_built_in_provider_is_changed_and_put_back(far: Client) -> None:
    assert (await patch(far, "/providers/google", {"limits": {"connections": 2}})).json()["what"] == "changed"
    seen = (await far.get("/providers/google")).json()
    assert (seen["built_in"], seen["smtp"]) == (False, "smtp.gmail.com:587 starttls")
    assert (await far.delete("/providers/google")).json()["what"] == "removed"
    assert (await far.get("/providers/google")).json()["built_in"] is True


async def test_a_key_for_some_mailboxes_changes_nothing(office: House) -> None:
    key = await make_key(office, "manage", mailboxes=["support@example.com"])
    async with over_network(office, key) as client:
        assert (await patch(client, SUPPORT, {"signs_in_as": "boss@example.com"})).status_code == 403
        assert (await client.post("/devices", {"name": "d", "mailboxes": ["old@example.net"]})).status_code == 403
        assert (await client.delete("/apps/office")).status_code == 403


async def test_a_name_stays(far: Client) -> None:
    assert "cannot be changed" in told(await patch(far, SUPPORT, {"address": "other@example.com"}))[0]
    assert "already" in told(await far.post("/apps", {"name": "office", "provider": "google", "client_id": "1"}))[0]
    assert told(await far.post("/devices", {}))[0] == "name: This device has no name."


async def test_no_answer_shows_a_secret(far: Client) -> None:
    answers = [
        await patch(far, OLD, {"password": "canary-new\n"}),
        await patch(far, OLD, {"password": ["canary-list"]}),
        await patch(far, "/apps/office", {"client_secret": "canary-new", "private_key": "canary-key"}),
        await patch(far, "/apps/office", {"client_secret": "canary-good"}),
        await far.get("/apps/office"),
    ]
    assert "canary" not in "".join(answer.text for answer in answers)
