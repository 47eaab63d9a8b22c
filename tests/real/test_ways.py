"""Every way to a token that an OpenID provider has, at a certified one that revokes the grant on re-use.

The gateway's own page is asked over HTTP; the provider's pages are filled in, or clicked on in Chromium.
"""

import contextlib
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from posthouse.model.token import Grant
from posthouse.net.listener import bound_socket
from posthouse.oauth.client import Client as OurClient
from posthouse.oauth.endpoints import Endpoints, discovery_requests, read_discovery
from posthouse.oauth.identity import identity_from_introspection, identity_from_userinfo
from posthouse.oauth.introspection import introspect, read_introspection
from posthouse.oauth.message import Answer, Request
from posthouse.oauth.userinfo import read_userinfo, userinfo
from posthouse.secret import Secret
from posthouse.services.clock import as_datetime
from posthouse.services.entrance import sign_in_link
from posthouse.store import tokens
from posthouse.store.authorisations import Authorisation
from posthouse.web.serving import WebServer
from tests.real.test_gateway import ALICE, BOB, PRINTER, apply_file, approve, until_arrived
from tests.stories.test_app_only import KEY, OTHER_KEY, certificate, private
from tests.support.dovecot import Server as Dovecot
from tests.support.house import House, house
from tests.support.oidc import MAIL_SERVER, POSTING, PUBLIC, Provider
from tests.support.postfix import Server as Postfix
from tests.support.sign_in import approve_device, sign_in
from tests.support.tokens import by_device
from tests.support.visitors import Visitor, administrator, visitor
from tests.unit.test_page_consent import path_of

PUBLIC_APP = f'client_id = "{PUBLIC.id}"'
SECRET_APP = f'client_id = "{POSTING.id}"\nclient_secret = "{POSTING.secret.reveal() if POSTING.secret else ""}"'
KEY_APP = f'client_id = "posthouse-key"\nprivate_key = """{private(KEY)}"""\ncertificate = """{certificate(KEY)}"""'
PERSONS = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]


def number(value: int) -> str:
    return urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def with_key(oidc: Provider, *grants: str, **more: object) -> None:
    """Register a client that shows itself by signing with KEY."""
    known = KEY.public_key().public_numbers()
    key = {"kty": "RSA", "n": number(known.n), "e": number(known.e), "use": "sig", "alg": "RS256"}
    keys = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [key]}}
    oidc.register("posthouse-key", grant_types=grants, **keys, **more)


def files(oidc: Provider, dovecot: Dovecot, postfix: Postfix, app: str = PUBLIC_APP) -> str:
    return apply_file(oidc, dovecot, postfix).replace(PUBLIC_APP, app)


@contextlib.asynccontextmanager
async def at_page(home: House) -> AsyncIterator[tuple[Visitor, str]]:
    """An administrator, and the page of the mailbox."""
    async with administrator(home) as person:
        yield person, f"/mailboxes/{home.parts.directory.now.by_address[ALICE].id}"


async def begin(person: Visitor, mailbox: str, method: str) -> str:
    answer = await person.press(f"{mailbox}/authorisations", method=method)
    assert answer.status_code == 303, answer.text
    return path_of(answer.headers["location"])


async def through_provider(browser: Visitor, start: str, who: str = ALICE) -> None:
    """Press the button of our start page, sign in at the provider, come back."""
    await browser.look(start)
    answer = await browser.press(start)
    back = await sign_in(answer.headers["location"], who)
    answer = await browser.look(path_of(back))
    assert answer.status_code == 303, answer.text
    await browser.look(answer.headers["location"])


async def mail_goes(home: House, dovecot: Dovecot, subject: str) -> None:
    await home.until_message(await home.send(PRINTER, BOB, subject), "sent")
    await until_arrived(dovecot, "bob", subject)


async def test_the_page_and_a_browser(tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix) -> None:
    async with house(tmp_path / "data", files(oidc, dovecot, postfix)) as home, at_page(home) as (person, mailbox):
        await through_provider(person, await begin(person, mailbox, "browser"))
        assert "authenticated" in person.text()
        await mail_goes(home, dovecot, "By page")


async def test_a_pasted_address(tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix) -> None:
    async with house(tmp_path / "data", files(oidc, dovecot, postfix)) as home, at_page(home) as (person, mailbox):
        attempt = await begin(person, mailbox, "paste")
        await person.look(attempt)
        link = re.search(r'<a href="([^"]+)"[^>]*>Sign in at the provider', person.shown)
        assert link is not None
        back = await sign_in(link[1].replace("&amp;", "&"), ALICE)
        assert (await person.press(f"{attempt}/paste", address=back)).status_code == 303
        await person.look(attempt)
        assert "authenticated" in person.text()
        await mail_goes(home, dovecot, "By paste")


@pytest.mark.parametrize("way", ["", "code"])
async def test_the_link_of_the_owner(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, way: str
) -> None:
    async with (
        house(tmp_path / "data", files(oidc, dovecot, postfix)) as home,
        at_page(home) as (person, mailbox),
        visitor(home) as owner,
    ):
        attempt = await begin(person, mailbox, "link")
        await person.look(attempt)
        link = re.search(r'value="http://localhost:8480(/authorise/[^"]+)"', person.shown)
        assert link is not None
        if way:
            result = (await owner.press(link[1], way=way)).headers["location"]
            found = await home.authorisation(result.rpartition("/")[2])
            await approve_device(found.verification_uri_complete, ALICE)
            await home.followed(found)
            await owner.look(result)
        else:
            await through_provider(owner, link[1])
        assert "You can close this page." in owner.text()
        await mail_goes(home, dovecot, "By owner")


async def test_the_link_of_the_owner_in_the_hands_of_somebody_else(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix
) -> None:
    async with house(tmp_path / "data", files(oidc, dovecot, postfix)) as home, visitor(home) as owner:
        mailbox = home.parts.directory.now.by_address[ALICE]
        begun = await home.parts.authorise.begin(mailbox, "link")
        await through_provider(owner, path_of(begun.url), BOB)
        assert ALICE in owner.text()
        assert (await home.token(ALICE)).state == "not_acquired"
        assert oidc.grants() == 0


async def sign_in_with_chromium(page: Page) -> None:
    """What a person types and clicks at the provider; the old session of another page does not help."""
    await page.get_by_label("Address").fill(ALICE)
    await page.get_by_role("button", name="Continue").click()
    while await page.get_by_role("button", name="Continue").count():
        await page.get_by_role("button", name="Continue").click()


async def test_chromium_from_the_page_to_the_provider_and_back(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, chromium: Browser
) -> None:
    listening = bound_socket("127.0.0.1", 0)
    url = f"http://localhost:{listening.getsockname()[1]}"
    async with house(tmp_path / "data", files(oidc, dovecot, postfix), external_url=url) as home:
        server = WebServer.on_tcp(home.gateway.web, listening)
        await server.start()
        context = await chromium.new_context(locale="en-GB")
        try:
            page = await context.new_page()
            await page.goto((await sign_in_link(home.parts.store, home.clock, url)).reveal())
            await page.get_by_role("button", name="Sign in").click()
            await page.get_by_role("link", name=ALICE, exact=True).click()
            await page.get_by_role("button", name="Get token").click()
            await page.get_by_role("button", name=f"Sign in as {ALICE}").click()
            await sign_in_with_chromium(page)
            await expect(page.locator("#progress .state")).to_have_text("authenticated")
            assert "code=" not in page.url
        finally:
            await context.close()
            await server.stop()
        await mail_goes(home, dovecot, "By Chromium")


@pytest.mark.parametrize("app", [PUBLIC_APP, SECRET_APP, KEY_APP], ids=["public", "secret", "key"])
async def test_a_person_by_each_kind_of_client_with_rotation_and_revocation(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, app: str
) -> None:
    paths = [f"http://localhost/oauth/callback{path}" for path in ("", "/example")]
    with_key(oidc, *PERSONS, application_type="native", redirect_uris=paths, response_types=["code"])
    async with house(tmp_path / "data", files(oidc, dovecot, postfix, app), background=False) as home:
        assert (await home.by_device(ALICE, approve)).state == "done"
        token = await home.token(ALICE)
        for serial in (1, 2, 3):
            grant = await serving(home)
            fresh = await home.parts.keeper.refresh(grant)
            assert fresh.serial == serial
            assert fresh.refresh_token != grant.refresh_token
        last = (await serving(home)).access_token
        assert await is_active(oidc, last)
        assert await home.parts.authorise.delete_token(token.id)
        assert oidc.grants() == 0
        assert not await is_active(oidc, last)
        assert oidc.refusals().keys() <= {"authorization_pending"}


@pytest.mark.parametrize("app", [SECRET_APP, KEY_APP], ids=["secret", "key"])
async def test_a_person_in_the_browser_by_each_kind_of_confidential_client(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, app: str
) -> None:
    paths = [f"http://localhost/oauth/callback{path}" for path in ("", "/example")]
    with_key(oidc, *PERSONS, application_type="native", redirect_uris=paths, response_types=["code"])
    async with house(tmp_path / "data", files(oidc, dovecot, postfix, app)) as home, at_page(home) as (person, mailbox):
        await through_provider(person, await begin(person, mailbox, "browser"))
        assert "authenticated" in person.text()


APP_SECRET = 'client_id = "robot"\nclient_secret = "secret-of-a-robot-that-is-long-enough"'
APP_ONLY = [pytest.param(APP_SECRET, id="secret"), pytest.param(KEY_APP, id="key")]


def robots(oidc: Provider) -> None:
    """Clients that may ask for themselves, and reach the mail of Alice."""
    secret = "secret-of-a-robot-that-is-long-enough"
    method = {"token_endpoint_auth_method": "client_secret_post"}
    oidc.register("robot", client_secret=secret, grant_types=["client_credentials"], mailbox=ALICE, **method)
    with_key(oidc, "client_credentials", mailbox=ALICE)


async def by_itself(home: House) -> Authorisation:
    begun = await home.parts.authorise.begin(home.parts.directory.now.by_address[ALICE], "app")
    return begun.authorisation


@pytest.mark.parametrize("app", APP_ONLY)
async def test_an_app_by_itself_sends_and_is_renewed(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, app: str
) -> None:
    robots(oidc)
    async with house(tmp_path / "data", files(oidc, dovecot, postfix, app)) as home:
        attempt = await by_itself(home)
        assert (attempt.state, attempt.detail) == ("done", "")
        await mail_goes(home, dovecot, "By itself")
        grant = await serving(home)
        fresh = await home.parts.keeper.refresh(grant)
        assert fresh.access_token != grant.access_token
        assert fresh.refresh_token is None
        assert oidc.requests() == {"client_credentials": 2}


@pytest.mark.parametrize(
    "wrong",
    [
        APP_SECRET.replace("long-enough", "wrong"),
        KEY_APP.replace(private(KEY), private(OTHER_KEY)).replace(certificate(KEY), certificate(OTHER_KEY)),
    ],
    ids=["secret", "key"],
)
async def test_an_app_that_cannot_show_itself_is_refused(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, wrong: str
) -> None:
    robots(oidc)
    async with house(tmp_path / "data", files(oidc, dovecot, postfix, wrong)) as home:
        attempt = await by_itself(home)
        assert attempt.state == "refused"
        assert "invalid_client" in attempt.detail
        assert (await home.token(ALICE)).state == "not_acquired"


@pytest.mark.parametrize("person", [ALICE, BOB])
async def test_who_signed_in_is_told_by_introspection_alone(
    tmp_path: Path, oidc: Provider, dovecot: Dovecot, postfix: Postfix, person: str
) -> None:
    """A provider of which nothing is known but these three addresses, and no ID token."""
    doors = {"token_url": "token", "device_url": "device/auth", "introspection_url": "token/introspection"}
    known = "\n".join(f'{name} = "{oidc.issuer}/{path}"' for name, path in doors.items())
    text = files(oidc, dovecot, postfix, SECRET_APP).replace(f'issuer = "{oidc.issuer}"', known)

    async def approve_as(begun: Authorisation) -> None:
        await approve_device(begun.verification_uri_complete, person)

    async with house(tmp_path / "data", text) as home:
        attempt = await home.by_device(ALICE, approve_as)
        expected = ("done", "") if person == ALICE else ("refused", "wrong_person")
        assert (attempt.state, attempt.reason) == expected


async def test_id_token_userinfo_and_introspection_name_the_same_person(oidc: Provider) -> None:
    access = Secret((await by_device(oidc, PUBLIC, ALICE)).access_token)
    found = read_discovery(await asked(discovery_requests(oidc.issuer)[0]), oidc.issuer)
    assert isinstance(found, Endpoints)
    claims = read_userinfo(await asked(userinfo(found, access)))
    assert isinstance(claims, dict)
    by_userinfo = identity_from_userinfo(claims, oidc.issuer)
    server = OurClient(MAIL_SERVER.id, "basic", MAIL_SERVER.secret)
    told: Any = read_introspection(await asked(introspect(found, server, access, as_datetime(0.0))))
    by_introspection = identity_from_introspection(told, oidc.issuer)
    assert by_userinfo is not None
    assert by_introspection is not None
    assert by_userinfo.pin == by_introspection.pin
    assert ALICE in by_userinfo.names
    assert by_introspection.names == (ALICE,)


async def asked(request: Request | None) -> Answer:
    assert request is not None
    async with httpx2.AsyncClient(timeout=10, trust_env=False) as http:
        body = request.body() if request.method == "POST" else None
        answer = await http.request(request.method, request.url, headers=request.header_texts(), content=body)
    return Answer(answer.status_code, dict(answer.headers), answer.content)


async def is_active(oidc: Provider, token: Secret) -> bool:
    server = OurClient(MAIL_SERVER.id, "basic", MAIL_SERVER.secret)
    doors = Endpoints(f"{oidc.issuer}/token", introspection_url=oidc.introspection)
    found: Any = read_introspection(await asked(introspect(doors, server, token, as_datetime(0.0))))
    return bool(found.active)


async def serving(home: House) -> Grant:
    token, store = await home.token(ALICE), home.parts.store
    found = await store.database.read(lambda tx: tokens.get_grant(tx, store.sealer, token.serving_grant or ""))
    assert found is not None
    return found
