"""In and out of the page."""

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from posthouse.secret import Secret
from posthouse.services.entrance import sign_in_link
from posthouse.web.pages.signing_in import SESSION_LIFE, local
from posthouse.web.passwords import LONGEST, Busy, Passwords, hash_password, pause_after
from posthouse.web.visits import SESSION
from tests.support.house import house
from tests.support.visitors import SAME_SITE, Visitor, add_person, administrator, visitor

PASSWORD = "correct horse battery"


async def sign_in(person: Visitor, name: str = "ann", password: str = PASSWORD, **more: str) -> httpx2.Response:
    return await person.http.post("/sign-in", data={"name": name, "password": password, **more}, headers=SAME_SITE)


async def test_name_and_password_open_the_page_that_was_asked_for(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as ann:
        await add_person(home, "ann", password=PASSWORD)
        away = await ann.look("/outbox")
        assert (away.status_code, away.headers["location"]) == (303, "/sign-in?next=/outbox")
        await ann.look("/sign-in?next=/outbox")
        assert 'name="next" value="/outbox"' in ann.shown
        answer = await sign_in(ann, next="/outbox")
        assert (answer.status_code, answer.headers["location"]) == (303, "/outbox")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert "secure" not in cookie
        assert (await ann.look("/outbox")).status_code == 200


async def test_behind_https_the_session_travels_over_https_only(tmp_path: Path) -> None:
    async with (
        house(tmp_path / "data", background=False, external_url="https://localhost") as home,
        visitor(home) as ann,
    ):
        await add_person(home, "ann", password=PASSWORD)
        assert "secure" in (await sign_in(ann)).headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("name", "password"), [("ann", "mistaken horse"), ("bob", PASSWORD), ("linked", ""), ("ann", "")]
)
async def test_wrong_name_and_wrong_password_look_the_same(tmp_path: Path, name: str, password: str) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as ann:
        await add_person(home, "ann", password=PASSWORD)
        await add_person(home, "linked")
        answer = await sign_in(ann, name, password)
        assert answer.status_code == 422
        assert "User name or password is wrong." in answer.text
        assert "set-cookie" not in answer.headers
        assert password not in answer.text or not password


async def test_an_address_that_keeps_failing_has_to_wait_and_others_have_not(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as ann:
        await add_person(home, "ann", password=PASSWORD)
        for _ in range(3):
            assert (await sign_in(ann, password="wrong")).status_code == 422
        held = await sign_in(ann)
        assert held.status_code == 429
        assert "Too many attempts. Wait" in held.text
        async with visitor(home, address="192.0.2.99") as colleague:
            assert (await sign_in(colleague)).status_code == 303
        home.clock.forward(2)
        assert (await sign_in(ann)).status_code == 303


def test_the_pause_grows_and_has_an_end() -> None:
    assert [pause_after(failures) for failures in range(7)] == [0, 0, 0, 1, 2, 4, 8]
    assert pause_after(1000) == LONGEST


async def test_only_so_many_passwords_wait_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.web.passwords.WAITING", 2)
    passwords = Passwords(lambda: 0.0)
    hashed = hash_password(Secret(PASSWORD))
    results = await asyncio.gather(
        *(passwords.check(hashed, Secret(PASSWORD), str(number)) for number in range(4)), return_exceptions=True
    )
    passwords.close()
    assert [result if result is True else type(result) for result in results] == [True, True, Busy, Busy]


async def test_a_link_signs_in_once_and_looking_at_it_uses_nothing_up(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as ann, visitor(home) as thief:
        link = (await sign_in_link(home.parts.store, home.clock, "")).reveal()
        for _ in range(3):
            assert "This link signs you in once." in (await ann.look(link)).text
        assert (await ann.look("/")).status_code == 303
        assert (await ann.press(link)).headers["location"] == "/"
        assert (await ann.look("/")).status_code == 200
        answer = await thief.press(link)
        assert answer.status_code == 409
        assert "has been used or has expired" in answer.text
        assert (await thief.look("/")).status_code == 303


async def test_a_link_that_nobody_used_ends(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as ann:
        link = (await sign_in_link(home.parts.store, home.clock, "")).reveal()
        home.clock.forward(901)
        assert (await ann.press(link)).status_code == 409


async def test_a_session_ends_by_itself(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as ann:
        await add_person(home, "ann", password=PASSWORD)
        await sign_in(ann)
        home.clock.forward(SESSION_LIFE - 10)
        assert (await ann.look("/")).status_code == 200
        home.clock.forward(20)
        assert (await ann.look("/")).status_code == 303


async def test_signing_out_ends_the_session_for_whoever_has_kept_its_cookie(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as ann:
        kept = ann.http.cookies[SESSION]
        assert (await ann.press("/sign-out")).headers["location"] == "/sign-in"
        async with visitor(home) as thief:
            thief.http.cookies.set(SESSION, kept, domain="localhost.local")
            assert (await thief.look("/")).status_code == 303


async def test_signing_in_again_replaces_the_session(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as ann:
        await add_person(home, "ann", password=PASSWORD)
        before = ann.http.cookies[SESSION]
        await sign_in(ann)
        async with visitor(home) as thief:
            thief.http.cookies.set(SESSION, before, domain="localhost.local")
            assert (await thief.look("/")).status_code == 303


async def test_whoever_is_signed_in_is_not_asked_again(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as ann:
        answer = await ann.look("/sign-in?next=/outbox")
        assert (answer.status_code, answer.headers["location"]) == (303, "/outbox")


@pytest.mark.parametrize(
    ("asked", "followed"),
    [
        ("/outbox?state=sent", "/outbox?state=sent"),
        ("", "/"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\r\nset-cookie: a=b", "/"),
    ],
)
def test_the_way_after_the_sign_in_stays_here(asked: str, followed: str) -> None:
    assert local(asked) == followed


@pytest.mark.parametrize(("trusted", "held"), [((), "192.0.2.7"), (("192.0.2.7",), "198.51.100.1")])
async def test_a_trusted_proxy_and_nobody_else_says_whose_failures_these_are(
    tmp_path: Path, trusted: tuple[str, ...], held: str
) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as ann:
        app = home.gateway.web
        app.state.parts = replace(home.parts, settings=replace(home.parts.settings, trusted_proxies=trusted))
        headers = {**SAME_SITE, "x-forwarded-for": "203.0.113.5, 198.51.100.1"}
        for _ in range(3):
            await ann.http.post("/sign-in", data={"name": "ann", "password": "wrong"}, headers=headers)
        addresses = ("192.0.2.7", "198.51.100.1", "203.0.113.5")
        assert [address for address in addresses if app.state.passwords.wait(address) > 0] == [held]
