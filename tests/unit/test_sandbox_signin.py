"""The sandbox's sign-in over real HTTP: every flow, every refusal, rotation and what a re-use costs."""

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from posthouse.sandbox import Client, Person, Sandbox, SandboxSettings
from posthouse.sandbox.grants import challenge_of
from posthouse.secret import Secret

VERIFIER = "v" * 43
CALLBACK = "http://localhost:8480/oauth/callback"
ALL = "mail offline_access openid email profile"
OFFICE = Client("office", Secret("s€cret&"), ("https://mail.example.com/oauth/callback",))


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here, so that keys are made once."""
    return tmp_path_factory.mktemp("box")


@pytest.fixture
def settings(directory: Path) -> SandboxSettings:
    people = (
        Person("alice@sandbox.example", "Alice", signs_in_as="alice.adams@corp.example"),
        Person("bob@sandbox.example", "Bob"),
    )
    return SandboxSettings(directory, people=people, clients=(Client("posthouse"), OFFICE))


@pytest.fixture
async def box(settings: SandboxSettings, clock: Clock) -> AsyncIterator[Sandbox]:
    async with Sandbox(settings, clock) as box:
        yield box


@pytest.fixture
async def http(box: Sandbox) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=box.issuer, trust_env=False, verify=False) as http:
        yield http


def asking(**changes: str) -> dict[str, str]:
    """The query of an authorisation request; a member changed to "" is left out."""
    query = {
        "response_type": "code",
        "client_id": "posthouse",
        "redirect_uri": CALLBACK,
        "scope": ALL,
        "state": "the state",
        "nonce": "the nonce",
        "code_challenge": challenge_of(VERIFIER),
        "code_challenge_method": "S256",
    }
    return {name: value for name, value in {**query, **changes}.items() if value}


async def allow(http: httpx2.AsyncClient, person: str = "alice@sandbox.example", **changes: str) -> dict[str, str]:
    """What comes back to the program after `person` has pressed their button."""
    answer = await http.post(f"/authorize?{urlencode(asking(**changes))}", data={"person": person})
    assert answer.status_code == 303
    return answer_in(answer)


def answer_in(answer: httpx2.Response) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


async def ask_token(http: httpx2.AsyncClient, grant_type: str, **form: str) -> httpx2.Response:
    return await http.post("/token", data={"grant_type": grant_type, "client_id": "posthouse", **form})


async def redeem(http: httpx2.AsyncClient, code: str, **changes: str) -> httpx2.Response:
    form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER, **changes}
    return await ask_token(http, "authorization_code", **form)


async def tokens(http: httpx2.AsyncClient, **changes: str) -> dict[str, Any]:
    answer = await redeem(http, (await allow(http, **changes))["code"])
    assert answer.status_code == 200
    return dict(answer.json())


async def is_live(http: httpx2.AsyncClient, token: str) -> bool:
    answer = await http.post("/introspect", data={"client_id": "posthouse", "token": token})
    return bool(answer.json()["active"])


def error(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


# Authorisation code


async def test_code_flow_gives_working_tokens_and_a_verifiable_identity(
    box: Sandbox, http: httpx2.AsyncClient, clock: Clock
) -> None:
    about = (await http.get("/.well-known/openid-configuration")).json()
    assert about["issuer"] == box.issuer
    page = await http.get(about["authorization_endpoint"], params=asking(prompt="select_account"))
    assert page.status_code == 200
    assert "alice.adams@corp.example" in page.text
    assert "<script" not in page.text

    back = await allow(http)
    assert (back["state"], back["iss"]) == ("the state", box.issuer)
    answer = await redeem(http, back["code"])
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert (given["token_type"], given["expires_in"], given["scope"]) == ("Bearer", 3600, ALL)

    keys = KeySet.import_key_set((await http.get(about["jwks_uri"])).json())
    claims = jwt.decode(given["id_token"], keys, algorithms=["RS256"]).claims
    assert (claims["iss"], claims["aud"], claims["nonce"]) == (box.issuer, "posthouse", "the nonce")
    assert claims["preferred_username"] == "alice.adams@corp.example"
    assert (claims["email"], claims["email_verified"]) == ("alice@sandbox.example", True)
    assert claims["iat"] <= clock.now < claims["exp"]

    bearer = {"Authorization": f"Bearer {given['access_token']}"}
    assert (await http.get("/userinfo", headers=bearer)).json()["sub"] == claims["sub"]
    clock.now += 3600
    assert (await http.get("/userinfo", headers=bearer)).status_code == 401


@pytest.mark.parametrize("path", ["/authorize", "/device", "/"])
async def test_no_page_can_be_framed_or_read_by_another_site(http: httpx2.AsyncClient, path: str) -> None:
    query = asking(prompt="select_account") if path == "/authorize" else {}
    answer = await http.get(path, params=query, headers={"origin": "https://evil.example"})
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers
    assert "https://" not in answer.text.replace(str(http.base_url), "")


async def test_a_code_serves_once_and_its_tokens_die_when_it_comes_back(http: httpx2.AsyncClient) -> None:
    code = (await allow(http))["code"]
    given = (await redeem(http, code)).json()
    assert await is_live(http, given["access_token"])
    assert error(await redeem(http, code)) == (400, "invalid_grant")
    assert not await is_live(http, given["access_token"])
    assert not await is_live(http, given["refresh_token"])


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 43},
        {"code_verifier": ""},
        {"redirect_uri": "http://localhost:9999/oauth/callback"},
        {"code": "guessed"},
        {"client_id": "office", "client_secret": "s€cret&"},
    ],
)
async def test_a_code_is_worth_nothing_without_all_that_belongs_to_it(
    http: httpx2.AsyncClient, changes: dict[str, str]
) -> None:
    code = (await allow(http))["code"]
    assert error(await redeem(http, **{"code": code, **changes})) == (400, "invalid_grant")


async def test_a_code_expires(http: httpx2.AsyncClient, clock: Clock) -> None:
    code = (await allow(http))["code"]
    clock.now += 600
    assert error(await redeem(http, code)) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("redirect_uri", "client"),
    [
        ("http://localhost:1/oauth/callback", "posthouse"),
        ("http://127.0.0.1/oauth/callback", "posthouse"),
        ("https://mail.example.com/oauth/callback", "office"),
    ],
)
async def test_registered_redirects_and_any_loopback_port_are_taken(
    http: httpx2.AsyncClient, redirect_uri: str, client: str
) -> None:
    answer = await http.get("/authorize", params=asking(redirect_uri=redirect_uri, client_id=client))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("redirect_uri", "client"),
    [
        ("http://localhost:8480/oauth/other", "posthouse"),
        ("http://localhost:8480/oauth/callback?x=1", "posthouse"),
        ("https://localhost:8480/oauth/callback", "posthouse"),
        ("http://localhost.evil.example/oauth/callback", "posthouse"),
        ("http://me@localhost:8480/oauth/callback", "posthouse"),
        ("http://localhost:8480/oauth/callback#", "posthouse"),
        ("http://localhost:port/oauth/callback", "posthouse"),
        ("", "posthouse"),
        ("https://mail.example.com:8443/oauth/callback", "office"),
        ("https://mail.example.com/oauth/callback/", "office"),
        (CALLBACK, "nobody"),
    ],
)
async def test_a_wrong_redirect_or_client_is_told_to_the_person_and_nobody_else(
    http: httpx2.AsyncClient, redirect_uri: str, client: str
) -> None:
    answer = await http.get("/authorize", params=asking(redirect_uri=redirect_uri, client_id=client))
    assert answer.status_code == 400
    assert "location" not in answer.headers
    pressed = await http.post(
        f"/authorize?{urlencode(asking(redirect_uri=redirect_uri, client_id=client))}",
        data={"person": "alice@sandbox.example"},
    )
    assert pressed.status_code == 400


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"scope": "mail root"}, "invalid_scope"),
        ({"scope": ""}, "invalid_scope"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "dance"}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_a_wrong_request_is_answered_to_the_program(
    http: httpx2.AsyncClient, changes: dict[str, str], expected: str
) -> None:
    answer = await http.get("/authorize", params=asking(**changes))
    assert answer.status_code == 303
    back = answer_in(answer)
    assert (back["error"], back["state"]) == (expected, "the state")
    assert "code" not in back


async def test_no_means_no(http: httpx2.AsyncClient, box: Sandbox) -> None:
    back = await allow(http, person="")
    assert (back["error"], back["iss"]) == ("access_denied", box.issuer)


async def test_somebody_unknown_cannot_allow(http: httpx2.AsyncClient) -> None:
    answer = await http.post(f"/authorize?{urlencode(asking())}", data={"person": "eve@sandbox.example"})
    assert answer.status_code == 400


async def test_single_sign_on_consents_unseen_unless_the_choice_is_forced(http: httpx2.AsyncClient) -> None:
    await allow(http, person="bob@sandbox.example")
    silent = await http.get("/authorize", params=asking())
    given = (await redeem(http, answer_in(silent)["code"])).json()
    who = await http.post("/introspect", data={"client_id": "posthouse", "token": given["access_token"]})
    assert who.json()["username"] == "bob@sandbox.example"
    forced = await http.get("/authorize", params=asking(prompt="select_account"))
    assert forced.status_code == 200
    assert "alice@sandbox.example" in forced.text


async def test_a_login_hint_comes_first(http: httpx2.AsyncClient) -> None:
    page = (await http.get("/authorize", params=asking(login_hint="BOB@sandbox.example"))).text
    assert re.findall(r'name="person" value="([^"]+)"', page)[0] == "bob@sandbox.example"


# Refresh tokens


async def test_each_refresh_rotates_and_the_newest_serves(http: httpx2.AsyncClient) -> None:
    given = await tokens(http)
    for _ in range(3):
        answer = await ask_token(http, "refresh_token", refresh_token=given["refresh_token"])
        assert answer.json()["refresh_token"] != given["refresh_token"]
        given = answer.json()
    assert await is_live(http, given["access_token"])


async def test_reuse_revokes_the_whole_grant(box: Sandbox, http: httpx2.AsyncClient) -> None:
    first = await tokens(http)
    second = (await ask_token(http, "refresh_token", refresh_token=first["refresh_token"])).json()
    again = await ask_token(http, "refresh_token", refresh_token=first["refresh_token"])
    assert error(again) == (400, "invalid_grant")
    after = await ask_token(http, "refresh_token", refresh_token=second["refresh_token"])
    assert error(after) == (400, "invalid_grant")
    assert not await is_live(http, second["access_token"])
    assert box.ledger.reuses == 1


async def test_without_punishment_only_the_old_token_is_refused(box: Sandbox, http: httpx2.AsyncClient) -> None:
    box.ledger.rules = replace(box.ledger.rules, punish_reuse=False)
    first = await tokens(http)
    second = (await ask_token(http, "refresh_token", refresh_token=first["refresh_token"])).json()
    again = await ask_token(http, "refresh_token", refresh_token=first["refresh_token"])
    assert error(again) == (400, "invalid_grant")
    assert (await ask_token(http, "refresh_token", refresh_token=second["refresh_token"])).status_code == 200


async def test_old_tokens_serve_on_where_the_provider_lets_them(box: Sandbox, http: httpx2.AsyncClient) -> None:
    box.ledger.rules = replace(box.ledger.rules, old_tokens_serve=True)
    first = await tokens(http)
    for _ in range(2):
        answer = await ask_token(http, "refresh_token", refresh_token=first["refresh_token"])
        assert answer.status_code == 200


async def test_without_rotation_the_same_token_comes_back(box: Sandbox, http: httpx2.AsyncClient) -> None:
    box.ledger.rules = replace(box.ledger.rules, rotate=False)
    given = await tokens(http)
    answer = await ask_token(http, "refresh_token", refresh_token=given["refresh_token"])
    assert answer.json()["refresh_token"] == given["refresh_token"]


async def test_refresh_is_bound_to_client_scope_and_seal(http: httpx2.AsyncClient) -> None:
    token = (await tokens(http, scope="mail offline_access"))["refresh_token"]
    office = {"client_id": "office", "client_secret": "s€cret&"}
    foreign = await http.post("/token", data={"grant_type": "refresh_token", "refresh_token": token, **office})
    assert error(foreign) == (400, "invalid_grant")
    more = await ask_token(http, "refresh_token", refresh_token=token, scope="mail email")
    assert error(more) == (400, "invalid_scope")
    name, serial, seal = token.split(".")
    forged = await ask_token(http, "refresh_token", refresh_token=f"{name}.{int(serial) + 1}.{seal}")
    assert error(forged) == (400, "invalid_grant")
    less = (await ask_token(http, "refresh_token", refresh_token=token, scope="mail")).json()
    assert less["scope"] == "mail"
    whole = (await ask_token(http, "refresh_token", refresh_token=less["refresh_token"])).json()
    assert whole["scope"] == "mail offline_access"


async def test_no_refresh_token_without_offline_access_and_no_identity_without_openid(
    http: httpx2.AsyncClient,
) -> None:
    given = await tokens(http, scope="mail")
    assert "refresh_token" not in given
    assert "id_token" not in given


async def test_revocation_ends_the_grant(http: httpx2.AsyncClient) -> None:
    given = await tokens(http)
    unknown = await http.post("/revoke", data={"client_id": "posthouse", "token": "never seen"})
    assert unknown.status_code == 200
    assert await is_live(http, given["access_token"])
    await http.post("/revoke", data={"client_id": "posthouse", "token": given["refresh_token"]})
    assert not await is_live(http, given["access_token"])
    answer = await ask_token(http, "refresh_token", refresh_token=given["refresh_token"])
    assert error(answer) == (400, "invalid_grant")


async def test_another_client_cannot_revoke(http: httpx2.AsyncClient) -> None:
    given = await tokens(http)
    office = {"client_id": "office", "client_secret": "s€cret&"}
    for token in (given["refresh_token"], given["access_token"]):
        await http.post("/revoke", data={**office, "token": token})
        assert await is_live(http, token)


# Device code


async def begin_device(http: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await http.post("/device_authorization", data={"client_id": "posthouse", "scope": ALL})
    assert answer.status_code == 200
    return dict(answer.json())


async def poll(http: httpx2.AsyncClient, device_code: str) -> httpx2.Response:
    return await ask_token(http, "urn:ietf:params:oauth:grant-type:device_code", device_code=device_code)


async def test_device_flow_from_code_to_tokens(http: httpx2.AsyncClient, clock: Clock) -> None:
    begun = await begin_device(http)
    assert error(await poll(http, begun["device_code"])) == (400, "authorization_pending")
    entry = await http.get(begun["verification_uri"])
    assert 'name="user_code"' in entry.text
    typed = begun["user_code"].lower().replace("-", " ")
    page = await http.get(begun["verification_uri"], params={"user_code": typed})
    assert begun["user_code"] in page.text
    pressed = await http.post(
        begun["verification_uri"], data={"user_code": begun["user_code"], "person": "bob@sandbox.example"}
    )
    assert "bob@sandbox.example" in pressed.text
    clock.now += begun["interval"]
    given = (await poll(http, begun["device_code"])).json()
    who = await http.get("/userinfo", headers={"Authorization": f"Bearer {given['access_token']}"})
    assert who.json()["email"] == "bob@sandbox.example"
    assert "refresh_token" in given
    assert error(await poll(http, begun["device_code"])) == (400, "invalid_grant")


async def test_polling_too_soon_slows_down_for_good(http: httpx2.AsyncClient, clock: Clock) -> None:
    code = (await begin_device(http))["device_code"]
    assert error(await poll(http, code)) == (400, "authorization_pending")
    assert error(await poll(http, code)) == (400, "slow_down")
    clock.now += 5
    assert error(await poll(http, code)) == (400, "slow_down")
    clock.now += 11
    assert error(await poll(http, code)) == (400, "authorization_pending")


async def test_a_denied_device_and_an_expired_one_get_nothing(http: httpx2.AsyncClient, clock: Clock) -> None:
    denied, forgotten = await begin_device(http), await begin_device(http)
    await http.post("/device", data={"user_code": denied["user_code"], "person": ""})
    assert error(await poll(http, denied["device_code"])) == (400, "access_denied")
    clock.now += 900
    assert error(await poll(http, forgotten["device_code"])) == (400, "expired_token")
    late = await http.get("/device", params={"user_code": forgotten["user_code"]})
    assert late.status_code == 400


async def test_a_wrong_user_code_is_asked_for_again(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/device", params={"user_code": "<b>BCDF"})
    assert answer.status_code == 400
    assert "&lt;b&gt;BCDF" in answer.text


# Clients


@pytest.mark.parametrize("way", ["basic", "post"])
async def test_client_credentials_by_both_ways(http: httpx2.AsyncClient, way: str) -> None:
    form = {"grant_type": "client_credentials", "scope": "mail offline_access"}
    if way == "post":
        answer = await http.post("/token", data={**form, "client_id": "office", "client_secret": "s€cret&"})
    else:
        proof = base64.b64encode(urlencode({"office": "s€cret&"}).replace("=", ":").encode()).decode()
        answer = await http.post("/token", data=form, headers={"Authorization": f"Basic {proof}"})
    assert answer.status_code == 200
    assert "refresh_token" not in answer.json()
    assert await is_live(http, answer.json()["access_token"])


@pytest.mark.parametrize(
    "form",
    [
        {"client_id": "office"},
        {"client_id": "office", "client_secret": "wrong"},
        {"client_id": "posthouse", "client_secret": "any"},
        {"client_id": "nobody"},
        {},
    ],
)
async def test_an_unproved_client_is_refused(http: httpx2.AsyncClient, form: dict[str, str]) -> None:
    for path in ("/token", "/introspect", "/revoke", "/device_authorization"):
        answer = await http.post(path, data={"grant_type": "client_credentials", "scope": "mail", **form})
        assert error(answer) == (401, "invalid_client")


@pytest.mark.parametrize("header", ["Basic !!!", "Basic b2ZmaWNl", "Bearer x"])
async def test_a_strange_authorization_header_is_refused(http: httpx2.AsyncClient, header: str) -> None:
    answer = await http.post("/token", data={"grant_type": "x"}, headers={"Authorization": header})
    assert error(answer) == (401, "invalid_client")


async def test_a_public_client_has_no_rights_of_its_own(http: httpx2.AsyncClient) -> None:
    answer = await ask_token(http, "client_credentials", scope="mail")
    assert error(answer) == (400, "unauthorized_client")


async def test_unknown_grants_and_broken_requests_are_refused(http: httpx2.AsyncClient) -> None:
    assert error(await ask_token(http, "password")) == (400, "unsupported_grant_type")
    for content in (b"grant_type=a&grant_type=b", b"\xff=\xff", b"x" * 70_000, b"&a=" * 200):
        answer = await http.post(
            "/token", content=content, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code in (400, 401)
        assert "error" in answer.json()


async def test_a_provider_without_identity_gives_no_id_token(settings: SandboxSettings) -> None:
    async with (
        Sandbox(replace(settings, openid=False)) as box,
        httpx2.AsyncClient(base_url=box.issuer, trust_env=False, verify=False) as http,
    ):
        assert "id_token" not in await tokens(http)


# The box


async def test_the_description_names_every_door_and_no_secret(box: Sandbox) -> None:
    text = (box.settings.directory / "sandbox.json").read_text()
    described = json.loads(text)
    assert described["issuer"] == f"http://localhost:{box.ports.http}"
    assert described["ca_file"] == str(box.ca_file)
    assert (described["public_clients"], described["confidential_clients"]) == (["posthouse"], ["office"])
    assert "cret&" not in text
    assert box.control_key.reveal() not in text
    assert (box.settings.directory / "control.key").stat().st_mode & 0o077 == 0


async def test_certificates_and_signing_key_last_over_a_restart(settings: SandboxSettings) -> None:
    kept = []
    for _ in range(2):
        async with Sandbox(settings) as box:
            kept.append([p.read_bytes() for p in (box.ca_file, settings.directory / "signing.key")])
    assert kept[0] == kept[1]
    assert not (settings.directory / "sandbox.json").exists()


async def test_the_front_page_shows_the_addresses(box: Sandbox, http: httpx2.AsyncClient) -> None:
    page = (await http.get("/")).text
    assert box.issuer in page
    assert "bob@sandbox.example" in page


async def test_a_taken_port_is_an_error_and_leaves_the_other_sandbox_alone(box: Sandbox) -> None:
    described = (box.settings.directory / "sandbox.json").read_bytes()
    with pytest.raises(OSError, match="in use"):
        await Sandbox(replace(box.settings, pop3s_port=box.ports.smtp)).__aenter__()
    assert (box.settings.directory / "sandbox.json").read_bytes() == described
