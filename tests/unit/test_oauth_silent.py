"""What the browser's door says to a request without a browser: pages and redirects as providers send them."""

from base64 import urlsafe_b64encode
from urllib.parse import parse_qs, urlsplit

import pytest

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.client import Client
from posthouse.oauth.endpoints import Endpoints
from posthouse.oauth.message import MAX_ANSWER, Answer
from posthouse.oauth.silent import Opened, ask, read
from posthouse.providers.catalogue import explain_token_error
from posthouse.providers.provider import Family

OURS = "https://mail.example.com/oauth/callback"
ENDPOINTS = Endpoints("https://id.example.com/token", authorize_url="https://id.example.com/authorize")
ATTEMPT, REQUEST = ask(
    ENDPOINTS,
    Client("our-client"),
    redirect_uri=OURS,
    scopes=("openid", "mail"),
    parameters={"prompt": "consent select_account", "access_type": "offline"},
)
GOOGLE = "https://accounts.google.com"
ENTRA = """<!DOCTYPE html><html><head><title>Sign in to your account</title></head><body><script>
//<![CDATA[
$Config={"fShowPersistentCookiesWarning":false,%s"urlPost":"/x"};
//]]></script></body></html>"""


def said(status: int, body: str = "", **headers: str) -> Opened | Refused | Unreachable:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(Answer(status, {"content-type": "text/html", **named}, body.encode()), ATTEMPT)


def meaning(outcome: object, family: Family) -> str:
    assert isinstance(outcome, Refused)
    entry = explain_token_error(family, outcome, "authorize")
    return entry.id if entry else ""


def google_error(*texts: str) -> str:
    """The address of Google's error page: a protocol buffer with texts as its first fields."""
    octets = b"".join(bytes([10 + 8 * n, len(text)]) + text.encode() for n, text in enumerate(texts))
    return f"{GOOGLE}/signin/oauth/error?authError={urlsafe_b64encode(octets).decode()}&client_id=our-client"


def test_nobody_is_asked_for_anything() -> None:
    asked = parse_qs(urlsplit(REQUEST.url).query)
    assert REQUEST.method == "GET"
    assert asked["prompt"] == ["none"]
    assert asked["redirect_uri"] == [OURS]
    assert asked["client_id"] == ["our-client"]
    assert asked["access_type"] == ["offline"]
    assert "login_hint" not in asked
    assert not REQUEST.secrets()


@pytest.mark.parametrize("error", ["login_required", "interaction_required", "consent_required"])
@pytest.mark.parametrize("mark", ["?", "#"])
def test_who_is_sent_back_is_known(error: str, mark: str) -> None:
    outcome = said(302, location=f"{OURS}{mark}error={error}&state=x")
    assert isinstance(outcome, Opened)
    assert outcome.known


def test_another_address_that_begins_alike_proves_nothing() -> None:
    for address in ("https://mail.example.com/oauth/callback.evil", "https://mail.example.com/oauth/callback/x"):
        assert not isinstance(said(302, location=f"{address}?error=login_required"), Opened)


def test_a_redirect_to_the_sign_in_page_is_no_objection() -> None:
    outcome = said(302, location="/v3/signin/identifier?client_id=our-client")
    assert outcome == Opened(False, "a redirect to https://id.example.com/v3/signin/identifier")


def test_an_error_for_the_program_is_told() -> None:
    outcome = said(302, location=f"{OURS}?error=invalid_scope&error_description=mail+is+not+known")
    assert meaning(outcome, "any") == "oauth-invalid-scope"
    assert isinstance(outcome, Refused)
    assert outcome.description == "mail is not known"


@pytest.mark.parametrize(
    ("texts", "id"),
    [
        (("redirect_uri_mismatch", "You can't sign in to this app"), "google-redirect-uri-mismatch"),
        (("invalid_client", "The OAuth client was not found."), "google-oauth-client-not-found"),
        (("deleted_client", "The OAuth client was deleted."), "google-deleted-client"),
        (("org_internal",), "google-org-internal"),
    ],
)
def test_googles_error_page(texts: tuple[str, ...], id: str) -> None:
    assert meaning(said(302, location=google_error(*texts)), "google") == id


def test_googles_error_page_as_it_was_captured() -> None:
    captured = "Cg5pbnZhbGlkX2NsaWVudBIfVGhlIE9BdXRoIGNsaWVudCB3YXMgbm90IGZvdW5kLiCRAw%3D%3D"
    outcome = said(302, location=f"{GOOGLE}/signin/oauth/error?authError={captured}&flowName=GeneralOAuthFlow")
    assert meaning(outcome, "google") == "google-oauth-client-not-found"
    for broken in ("", "%00", "====", "x" * 20_000):
        assert isinstance(said(302, location=f"{GOOGLE}/signin/oauth/error?authError={broken}"), Refused | Opened)


@pytest.mark.parametrize(
    ("sentence", "id"),
    [
        ("AADSTS50011: The redirect URI 'https://mail.example.com/oauth/callback' does not match", "ms-aadsts50011"),
        ("AADSTS700016: Application with identifier 'our-client' was not found", "ms-aadsts700016"),
        ("AADSTS90002: Tenant 'nobody.example' not found.", "ms-aadsts90002"),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_microsofts_error_page(sentence: str, id: str, status: int) -> None:
    outcome = said(status, ENTRA % f'"strServiceExceptionMessage":"{sentence} \\u0027x\\u0027",')
    assert meaning(outcome, "microsoft") == id
    assert isinstance(outcome, Refused)
    assert "'x'" in outcome.description


def test_microsofts_sign_in_page_is_no_objection() -> None:
    page = ENTRA % '"arrErrorCodes":["AADSTS50011","AADSTS700016"],'
    assert said(200, page) == Opened(False, "HTTP 200")


@pytest.mark.parametrize(
    ("page", "id"),
    [
        (
            "<h1>Refused</h1><p>invalid_redirect_uri: redirect_uri did not match any of the client&#39;s registered"
            " redirect_uris</p>",
            "oauth-redirect-uri-page",
        ),
        ("<p>invalid_client: client is invalid</p>", "oauth-client-unknown-page"),
        ("<p>Invalid parameter: redirect_uri</p>", "oauth-redirect-uri-page"),
        ("<p>Client not found.</p>", "oauth-client-unknown-page"),
        ("<p>Something else.</p>", ""),
    ],
)
def test_pages_of_other_providers(page: str, id: str) -> None:
    assert meaning(said(400, f"<html><script>redirect_uri</script>{page}"), "any") == id


def test_yahoos_answer_in_json() -> None:
    outcome = said(400, '{"error": "INVALID_REDIRECT_URI"}', content_type="application/json")
    assert meaning(outcome, "yahoo") == "yahoo-invalid-redirect-uri"


def test_what_is_temporary_or_too_large_says_nothing_about_the_app() -> None:
    for status in (429, 500, 503):
        assert isinstance(said(status, "invalid_client"), Unreachable)
    assert isinstance(said(200, "x" * (MAX_ANSWER + 1)), Unreachable)


@pytest.mark.parametrize("location", ["", "http://[", "//", "javascript:alert(1)", "?error=", "x" * 100_000, "\x00"])
def test_nonsense_where_to_go_is_read_without_harm(location: str) -> None:
    outcome = said(302, location=location)
    assert not isinstance(outcome, Opened) or not outcome.known


def test_a_page_made_to_be_slow_is_read_quickly() -> None:
    for page in (
        "<" * 500_000,
        "<script" * 100_000,
        '"strServiceExceptionMessage":"' + "\\" * 500_000,
        "<!--" * 200_000,
    ):
        assert isinstance(said(400, page), Refused)
