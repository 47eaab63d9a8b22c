"""What stands between the page and others: names, origins, form tokens, roles, headers, limits."""

import re
from pathlib import Path
from typing import cast
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from fastapi.routing import APIRoute

import posthouse.web
from posthouse.model.mailbox import Mailbox
from posthouse.settings import Settings
from posthouse.store.people import Administrator
from posthouse.web.app import ROOMS
from posthouse.web.security import is_foreign, may, origins
from posthouse.web.visits import Require
from tests.support.house import House, house
from tests.support.visitors import HOME, SAME_SITE, administrator, visitor

PUBLIC = {"/sign-in", "/sign-in/link/{code}", "/authorise/{start}"}
"""What a stranger may send: the ways in, and the way to the provider."""
FILE = """
[[app]]
name = "office"
provider = "microsoft"
client_id = "11111111-2222-3333-4444-555555555555"
[[mailbox]]
address = "sales@example.com"
app = "office"
"""


def routes() -> list[APIRoute]:
    return [cast(APIRoute, route) for room in ROOMS for route in room.routes.routes]


def requirement(route: APIRoute) -> Require | None:
    return next((one.call for one in route.dependant.dependencies if isinstance(one.call, Require)), None)


WRITES = [route for route in routes() if route.methods and not route.methods <= {"GET", "HEAD"}]


def test_every_write_has_the_role_check_in_front() -> None:
    unguarded = {route.path for route in WRITES if requirement(route) is None}
    assert unguarded == PUBLIC


def sales(house: House) -> Mailbox:
    return house.parts.directory.now.by_address["sales@example.com"]


def filled(path: str, house: House) -> str:
    ids = {"attempt_id": "au_none", "message_id": "none", "app_id": "ap_none", "notice_id": "nt_none"}
    mailbox_id = sales(house).id
    return path.format(mailbox_id=mailbox_id, row_id=mailbox_id, purpose="sending", **ids)


async def test_an_auditor_sees_everything_and_changes_nothing(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home, "auditor") as auditor:
        for path in ("/", f"/mailboxes/{sales(home).id}", "/outbox", "/notices"):
            assert (await auditor.look(path)).status_code == 200
        assert f"/mailboxes/{sales(home).id}/authorisations" not in auditor.shown
        for route in WRITES:
            needed = requirement(route)
            if needed is not None and needed.permission:
                answer = await auditor.press(filled(route.path, home))
                assert (route.path, answer.status_code) == (route.path, 403)
                assert "Your role does not allow this." in answer.text


async def test_an_administrator_with_chosen_permissions_has_those_and_no_others(tmp_path: Path) -> None:
    async with (
        house(tmp_path / "data", FILE, background=False) as home,
        administrator(home, "limited", ["queue"]) as limited,
    ):
        path = f"/mailboxes/{sales(home).id}/authorisations"
        assert (await limited.press(path, method="browser")).status_code == 403
        assert (await limited.press("/outbox/none/retry")).status_code == 404


@pytest.mark.parametrize(
    ("role", "permissions", "allowed"),
    [
        ("administrator", (), True),
        ("limited", ("tokens",), True),
        ("limited", ("queue",), False),
        ("auditor", (), False),
        ("auditor", ("tokens",), False),
        ("unheard of", ("tokens",), False),
    ],
)
def test_who_may_touch_tokens(role: str, permissions: tuple[str, ...], allowed: bool) -> None:
    assert may(Administrator("ad_1", "name", role, permissions, ""), "tokens") is allowed


async def test_a_write_without_the_token_of_its_own_session_is_refused(tmp_path: Path) -> None:
    async with (
        house(tmp_path / "data", FILE, background=False) as home,
        administrator(home) as one,
        administrator(home) as other,
    ):
        path = f"/mailboxes/{sales(home).id}/authorisations"
        for token in ("", "0" * 64, other.form_token):
            answer = await one.press(path, token=token, method="browser")
            assert answer.status_code == 403
            assert "This form is out of date." in answer.text
        assert other.form_token != one.form_token


async def test_a_stranger_who_writes_is_sent_to_the_sign_in(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, visitor(home) as stranger:
        for route in WRITES:
            if route.path not in PUBLIC:
                answer = await stranger.press(filled(route.path, home))
                assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


async def test_what_another_site_made_a_browser_send_does_nothing(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE, background=False) as home, administrator(home) as person:
        fields = {"token": person.form_token}
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ):
            answer = await person.http.post("/sign-out", data=fields, headers=headers)
            assert (headers, answer.status_code) == (headers, 403)
        assert (await person.look("/")).status_code == 200
        assert (await person.http.post("/sign-out", data=fields, headers=SAME_SITE)).status_code == 303
        assert (await person.look("/")).status_code == 303


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({"host": "mail.example.com"}, False),
        ({"host": "mail.example.com", "origin": "https://mail.example.com"}, False),
        ({"host": "mail.example.com", "origin": "https://mail.example.com:443"}, False),
        ({"host": "mail.example.com", "origin": "https://example.com"}, True),
        ({"host": "mail.example.com", "origin": "null"}, True),
        ({"host": "mail.example.com", "sec-fetch-site": "none"}, False),
        ({"host": "localhost:8480", "origin": "http://localhost:9999"}, True),
    ],
)
def test_where_a_request_comes_from(headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign(headers) is foreign


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com:443", True),
        ("localhost:8480", True),
        ("127.0.0.1", True),
        ("127.8.9.10:1", True),
        ("[::1]:8480", True),
        ("example.com", False),
        ("mail.example.com:8480", False),
        ("127.0.0.1.evil.example", False),
        ("192.0.2.1", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_only_our_own_names_are_answered(host: str, known: bool) -> None:
    assert origins(Settings(Path("data"), "https://mail.example.com")).knows(host) is known


async def test_a_foreign_name_gets_no_page_but_a_probe_does(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as stranger:
        assert (await stranger.http.get("/sign-in", headers={"host": "evil.example"})).status_code == 421
        assert (await stranger.http.get("/healthz", headers={"host": "10.0.0.7"})).status_code == 200


async def test_every_page_forbids_scripts_of_others_frames_and_being_kept(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as stranger:
        for path in ("/sign-in", "/nothing", "/authorise/none"):
            headers = (await stranger.look(path)).headers
            policy = headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"


def test_no_page_has_a_script_or_style_of_its_own() -> None:
    templates = Path(posthouse.web.__file__).parent / "templates"
    assert list(templates.glob("*.html"))
    for template in templates.glob("*.html"):
        text = template.read_text("utf-8")
        assert "style=" not in text, template.name
        assert "onclick=" not in text, template.name
        assert "<script>" not in text, template.name
        assert "| safe" not in text, template.name


async def test_a_form_that_is_too_large_or_unreadable_is_refused(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as stranger:

        async def post(content: bytes) -> httpx2.Response:
            return await stranger.http.post(f"{HOME}/sign-in", content=content, headers=SAME_SITE)

        assert (await post(b"name=" + b"x" * 70_000)).status_code == 413
        assert (await post(b"&".join(b"a%d=1" % number for number in range(100)))).status_code == 400
        assert (await post(b"\xff\xfe")).status_code == 400
        assert (await post(b"name=a%00b")).status_code == 400


@pytest.mark.parametrize("path", ["/outbox/a%00b", "/mailboxes/%00", "/outbox?before=%00"])
async def test_a_nul_never_reaches_the_database(tmp_path: Path, path: str) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:
        assert (await person.look(path)).status_code == 400


async def test_a_failure_of_ours_shows_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a token: secret-in-an-exception")

        monkeypatch.setattr("posthouse.web.pages.mailboxes.view_mailboxes", broken)
        answer = await person.look("/")
        assert answer.status_code == 500
        assert "secret-in-an-exception" not in answer.text
        assert "This is a fault of Posthouse" in person.text()
        assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/..", "/\\evil.example", "/outbox//evil.example"])
async def test_no_link_of_a_page_leads_to_where_its_address_says(tmp_path: Path, path: str) -> None:
    async with house(tmp_path / "data", background=False) as home, administrator(home) as person:
        answer = await person.http.get(f"http://localhost:8480{path}")
        for link in re.findall(r'(?:href|action|src)="([^"]*)"', answer.text):
            assert urlsplit(urljoin("http://localhost:8480/", link.replace("\\", "/"))).netloc == "localhost:8480"


@pytest.mark.parametrize("path", ["/sign-in", "/oauth/callback?code=1&state=2", "/api/v1/status"])
async def test_no_other_site_may_read_an_answer(tmp_path: Path, path: str) -> None:
    """No CORS anywhere, least of all where a person is asked for consent (RFC 9700 section 2.6)."""
    async with house(tmp_path / "data", background=False) as home, visitor(home) as stranger:
        answer = await stranger.look(path, origin="https://evil.example")
        assert [name for name in answer.headers if name.startswith("access-control-")] == []


def test_no_page_talks_to_another_window() -> None:
    """Nothing for postMessage to get wrong (RFC 9700 section 4.17)."""
    web = Path(posthouse.web.__file__).parent
    ours = [*web.glob("templates/*.html"), *(path for path in web.glob("static/*.js") if "min" not in path.name)]
    assert ours
    words = re.compile(r'postMessage|window\.opener|(?<!rel="noreferrer noopener" )(?<!hx-)target=')
    assert [path.name for path in ours if words.search(path.read_text())] == []
