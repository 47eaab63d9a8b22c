"""Tokens over the API: getting, seeing, handing out, giving back."""

from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.boxes import ALICE, BOB, SUPPORT, Box, box
from tests.support.clients import Client, make_key, over_network, over_socket
from tests.support.house import House, house


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "box") as made:
        yield made


@pytest.fixture
async def office(tmp_path: Path, provider: Box) -> AsyncIterator[House]:
    """Alice's mailbox, and support's which she signs in for: they share a token. Bob has one of his own."""
    shared = f'[[mailbox]]\naddress = "{SUPPORT}"\napp = "demo"\nsigns_in_as = "{ALICE}"'
    async with house(tmp_path / "data", provider.apply_file(ALICE, BOB, more=shared), background=False) as made:
        yield made


@pytest.fixture
async def api(office: House) -> AsyncIterator[Client]:
    async with over_socket(office) as client:
        yield client


async def authorise(office: House, api: Client, provider: Box, address: str, person: str) -> dict[str, Any]:
    """By device code, to its end."""
    begun = (await api.post(f"/mailboxes/{address}/authorisations", {"method": "device"})).json()
    await provider.control("approve", user_code=begun["user_code"], person=person)
    await office.followed(await office.authorisation(begun["id"]))
    return dict((await api.get(f"/authorisations/{begun['id']}")).json())


async def test_a_token_by_device_code(office: House, api: Client, provider: Box) -> None:
    answer = await api.post(f"/mailboxes/{BOB}/authorisations", {"method": "device"})
    begun = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/authorisations/{begun['id']}"
    assert (begun["state"], begun["ended"], begun["verification_uri"]) == (
        "started",
        False,
        f"{provider.sandbox.issuer}/device",
    )
    (waiting,) = await api.items(f"/mailboxes/{BOB}/tokens")
    assert (waiting["state"], waiting["next_step"]) == ("waiting_for_authentication", "sign_in")

    await provider.control("approve", user_code=begun["user_code"], person=BOB)
    await office.followed(await office.authorisation(begun["id"]))

    ended = (await api.get(f"/authorisations/{begun['id']}")).json()
    (token,) = await api.items(f"/mailboxes/{BOB}/tokens")
    assert (ended["state"], ended["ended"]) == ("done", True)
    assert (token["state"], token["person"], token["refreshable"], token["next_step"]) == ("acquired", BOB, True, "")
    assert token["since"].endswith("Z")
    mailbox = (await api.get(f"/mailboxes/{BOB}")).json()
    assert [(server["protocol"], server["state"]) for server in mailbox["servers"]] == [("smtp", "proved")]
    assert mailbox["last_success"] is not None


async def test_the_usual_method_is_the_mailboxes_own(office: House, api: Client) -> None:
    await office.apply(f'[[mailbox]]\naddress = "{BOB}"\nmethod = "browser"')
    begun = (await api.post(f"/mailboxes/{BOB}/authorisations", {})).json()
    assert begun["method"] == "browser"
    assert begun["url"].startswith("http://localhost:8480/authorise/")
    later = await api.get(f"/authorisations/{begun['id']}")
    assert later.json()["url"] == ""


async def test_the_wrong_person_is_named(office: House, api: Client, provider: Box) -> None:
    ended = await authorise(office, api, provider, BOB, ALICE)
    assert (ended["state"], ended["reason"]) == ("refused", "wrong_person")
    assert ALICE in ended["detail"]
    assert BOB in ended["detail"]


async def test_an_attempt_is_given_up_once(api: Client) -> None:
    begun = (await api.post(f"/mailboxes/{BOB}/authorisations", {"method": "device"})).json()
    first, second = [await api.delete(f"/authorisations/{begun['id']}") for _ in range(2)]
    assert (first.status_code, first.json()["state"]) == (200, "refused")
    assert (second.status_code, second.json()["id"]) == (409, "authorisation.ended")
    assert [one["id"] for one in await api.items(f"/mailboxes/{BOB}/authorisations")] == [begun["id"]]


async def test_nothing_is_confirmed_that_does_not_wait_for_it(api: Client) -> None:
    begun = (await api.post(f"/mailboxes/{BOB}/authorisations", {"method": "device"})).json()
    assert (await api.post(f"/authorisations/{begun['id']}/confirm")).status_code == 409
    assert (await api.post("/authorisations/au_nothing/confirm")).status_code == 404


async def test_a_shared_token_is_deleted_only_knowingly(office: House, api: Client, provider: Box) -> None:
    await authorise(office, api, provider, ALICE, ALICE)
    (token,) = await api.items(f"/mailboxes/{SUPPORT}/tokens")
    unaware = await api.delete(f"/tokens/{token['id']}")
    mistaken = await api.delete(f"/tokens/{token['id']}", confirm=1)
    assert (unaware.status_code, mistaken.status_code) == (409, 409)
    assert [(one["mailbox"], one["for"]) for one in unaware.json()["used_by"]] == [
        (ALICE, "sending"),
        (SUPPORT, "sending"),
    ]
    assert (await api.get(f"/tokens/{token['id']}")).json()["state"] == "acquired"

    deleted = await api.delete(f"/tokens/{token['id']}", confirm=2)
    assert (deleted.json()["id"], deleted.json()["revoked"]) == (token["id"], True)
    assert deleted.json()["at_provider"] == "revoked"
    assert (await api.get(f"/tokens/{token['id']}")).json()["state"] == "not_acquired"
    assert (await api.get(f"/control/token/{ALICE}")).status_code == 409


async def test_a_token_is_handed_out_in_three_forms(office: House, api: Client, provider: Box) -> None:
    await authorise(office, api, provider, BOB, BOB)
    bearer = (await api.get(f"/control/token/{BOB}")).json()["text"]
    shown = [
        b64decode((await api.get(f"/control/token/{BOB}", **{"as": form})).json()["text"]).decode()
        for form in ("xoauth2", "oauthbearer")
    ]
    async with httpx2.AsyncClient() as http:
        userinfo = await http.get(f"{provider.sandbox.issuer}/userinfo", headers={"authorization": f"Bearer {bearer}"})
    assert userinfo.json()["email"] == BOB
    assert shown[0] == f"user={BOB}\1auth=Bearer {bearer}\1\1"
    assert shown[1].startswith(f"n,a={BOB},\1")
    assert shown[1].endswith(f"auth=Bearer {bearer}\1\1")


async def test_a_token_that_ends_is_renewed_before_it_is_handed_out(office: House, api: Client, provider: Box) -> None:
    await authorise(office, api, provider, BOB, BOB)
    before = (await api.get(f"/control/token/{BOB}")).json()
    office.clock.forward(3590)
    after = (await api.get(f"/control/token/{BOB}")).json()
    assert before["text"] != after["text"]
    assert after["expires_at"] > office.clock() + 60


async def test_no_token_is_an_answer_and_not_a_wait(api: Client) -> None:
    answer = await api.get(f"/control/token/{BOB}")
    assert (answer.status_code, answer.json()["id"]) == (409, "token.not_acquired")
    assert (await api.get("/control/token/nobody@example.com")).status_code == 404


async def test_no_answer_but_the_socket_shows_a_token(office: House, api: Client, provider: Box) -> None:
    await authorise(office, api, provider, BOB, BOB)
    bearer = (await api.get(f"/control/token/{BOB}")).json()["text"]
    paths = ("/status", "/mailboxes", "/tokens", "/events", f"/mailboxes/{BOB}/authorisations")
    texts = [(await api.get(path)).text for path in paths]
    assert all(BOB in text for text in texts[1:3])
    assert not any(bearer in text for text in texts)


async def test_a_revoked_token_asks_for_attention(office: House, api: Client, provider: Box) -> None:
    await authorise(office, api, provider, BOB, BOB)
    assert (await api.get("/status")).json()["attention"] == []
    await provider.control("revoke", person=BOB)
    office.clock.forward(3590)
    assert (await api.get(f"/control/token/{BOB}")).status_code == 409

    status = (await api.get("/status")).json()
    assert [one["address"] for one in status["attention"]] == [BOB]
    assert status["tokens"]["invalid"] == 1
    assert status["attention"][0]["token"]["next_step"] == "reauthorise"
    kinds = [event["kind"] for event in await api.items("/events")]
    assert kinds[-1] == "token.invalid"


async def test_events_go_on_where_the_reader_stopped(api: Client) -> None:
    await api.post(f"/mailboxes/{BOB}/authorisations", {"method": "device"})
    first = (await api.get("/events")).json()
    again = (await api.get("/events", cursor=first["next"])).json()
    assert first["items"][-1]["kind"] == "token.waiting_for_authentication"
    assert (again["items"], again["next"]) == ([], first["next"])


async def test_an_unreachable_provider_is_said_to_be_so(office: House, api: Client, provider: Box) -> None:
    await provider.sandbox.close()
    answer = await api.post(f"/mailboxes/{BOB}/authorisations", {"method": "device"})
    assert (answer.status_code, answer.json()["id"]) == (503, "provider.unreachable")
    assert answer.headers["retry-after"]


async def test_a_setting_is_given_its_own_token_and_shares_again(office: House, api: Client, provider: Box) -> None:
    await office.apply(f'[[mailbox]]\naddress = "{BOB}"\nreceive = "imap"')
    await authorise(office, api, provider, BOB, BOB)
    version = (await api.get(f"/mailboxes/{BOB}")).json()["version"]
    given = await api.post(f"/mailboxes/{BOB}/tokens", {"for": "receiving", "token": "own", "version": version})
    shared, own = given.json()["items"]
    assert [one["for"] for one in shared["used_by"]] == ["sending", "receiving"]
    assert own["waiting"] == [{"mailbox": BOB, "for": "receiving", "refused": ""}]
    late = await api.post(f"/mailboxes/{BOB}/tokens", {"for": "sending", "token": "own", "version": version})
    assert (late.status_code, late.json()["id"]) == (409, "mailbox.changed")

    known = (await api.get(f"/mailboxes/{BOB}")).json()
    assert (known["token"]["state"], known["next_step"], known["next_for"]) == ("acquired", "get_token", "receiving")
    begun = (await api.post(f"/mailboxes/{BOB}/authorisations", {"method": "device", "for": "receiving"})).json()
    await provider.control("approve", user_code=begun["user_code"], person=BOB)
    await office.followed(await office.authorisation(begun["id"]))
    printed = [(await api.get(f"/control/token/{BOB}", **{"for": one})).json() for one in ("sending", "receiving")]
    assert printed[0]["text"] != printed[1]["text"]
    assert (await api.delete(f"/tokens/{own['id']}")).status_code == 200
    assert (await api.get(f"/control/token/{BOB}", **{"for": "receiving"})).status_code == 409
    assert (await api.get(f"/control/token/{BOB}")).status_code == 200
    again = await api.post(f"/mailboxes/{BOB}/tokens", {"for": "receiving", "token": "shared"})
    assert [[one["for"] for one in token["used_by"]] for token in again.json()["items"]] == [["sending", "receiving"]]


async def test_what_cannot_have_a_token_of_its_own_is_refused(office: House, api: Client) -> None:
    async def asked(purpose: str, address: str = BOB) -> tuple[int, str]:
        answer = await api.post(f"/mailboxes/{address}/tokens", {"for": purpose, "token": "own"})
        return answer.status_code, answer.json()["id"]

    assert await asked("receiving") == (409, "token.unused")
    assert await asked("notices") == (409, "token.unused")
    assert await asked("everything") == (422, "request.invalid")
    assert (await asked("sending", "nobody@sandbox.example"))[0] == 404
    await office.apply('[[mailbox]]\naddress = "old@example.net"\npassword = "x"\nsmtp = "smtp.example.net:465 tls"')
    assert await asked("sending", "old@example.net") == (409, "token.password")


async def test_the_wrong_person_is_named_and_may_be_switched_to_on_purpose(
    office: House, api: Client, provider: Box
) -> None:
    ended = await authorise(office, api, provider, BOB, ALICE)
    assert (ended["reason"], ended["person"]) == ("wrong_person", ALICE)
    body = {"method": "device", "switch_to": ended["person"]}
    async with over_network(office, await make_key(office, "manage", mailboxes=[BOB])) as limited:
        assert (await limited.post(f"/mailboxes/{BOB}/authorisations", body)).status_code == 403
    begun = (await api.post(f"/mailboxes/{BOB}/authorisations", body)).json()
    await provider.control("approve", user_code=begun["user_code"], person=ALICE)
    await office.followed(await office.authorisation(begun["id"]))
    assert (await api.get(f"/mailboxes/{BOB}")).json()["account"] == ALICE
