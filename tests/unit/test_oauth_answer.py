"""Whatever a token endpoint sends, a plain outcome comes back."""

import json
from datetime import timedelta
from typing import Any

import pytest

from posthouse.model.outcome import Granted, Reason, Refused, Unreachable, Verdict
from posthouse.oauth.answer import read_json, read_token_answer, retry_after
from posthouse.oauth.message import MAX_ANSWER, Answer, Request, get, post
from posthouse.secret import Secret

HTML = b"<html><title>Gateway</title></html>"


def said(members: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(members).encode())


def granted(**changes: Any) -> Granted:
    outcome = read_token_answer(said({"access_token": "AT", "token_type": "Bearer", "expires_in": 3599} | changes))
    assert isinstance(outcome, Granted)
    return outcome


def test_a_whole_answer_is_read() -> None:
    outcome = granted(refresh_token="RT", scope="mail offline_access", id_token="a.b.c")
    expected = Granted(Secret("AT"), timedelta(seconds=3599), Secret("RT"), ("mail", "offline_access"), Secret("a.b.c"))
    assert outcome == expected
    assert "AT" not in repr(outcome)
    assert "RT" not in repr(outcome)


@pytest.mark.parametrize(
    ("written", "seconds", "assumed"),
    [
        (3599, 3599, False),
        ("3600", 3600, False),
        (" 60 ", 60, False),
        (12.5, 12.5, False),
        (None, 3600, True),
        (0, 3600, True),
        (-5, 3600, True),
        (True, 3600, True),
        ("soon", 3600, True),
        ("9" * 5000, 3600, True),
        ([3600], 3600, True),
        (10**30, 3600, True),
        (10**11, 366 * 86400, False),
    ],
)
def test_lifetimes(written: object, seconds: float, assumed: bool) -> None:
    outcome = granted(expires_in=written)
    assert (outcome.lifetime, outcome.assumed_lifetime) == (timedelta(seconds=seconds), assumed)


def test_a_missing_lifetime_is_an_hour() -> None:
    outcome = read_token_answer(said({"access_token": "AT"}))
    assert isinstance(outcome, Granted)
    assert outcome.lifetime == timedelta(hours=1)
    assert outcome.assumed_lifetime


@pytest.mark.parametrize(
    ("members", "seconds"),
    [
        ({}, None),
        ({"refresh_token_expires_in": 604799}, 604799),
        ({"refresh_token_expires_in": "15897600"}, 15897600),
        ({"refresh_expires_in": 1800}, 1800),
        ({"refresh_expires_in": 0}, None),
        ({"refresh_token_expires_in": -1}, None),
        ({"refresh_token_expires_in": "never"}, None),
        ({"refresh_token_expires_in": 10**11}, None),
    ],
)
def test_the_life_of_a_refresh_token_where_it_is_told(members: dict[str, Any], seconds: float | None) -> None:
    lifetime = granted(**members).refresh_lifetime
    assert (lifetime.total_seconds() if lifetime else None) == seconds


def test_without_a_new_refresh_token_the_old_one_is_kept() -> None:
    assert granted().refresh_token is None
    assert granted(refresh_token="").refresh_token is None


def test_scopes_come_as_text_or_list() -> None:
    assert granted(scope=["mail", 5, "openid"]).scopes == ("mail", "openid")
    assert granted(scope={"mail": True}).scopes == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"access_token": NaN}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        HTML,
        b'{"access_token": ""}',
        b'{"access_token": 5}',
        b'{"access_token": ["AT"]}',
        b'{"access_token": "a\\u0001auth=Bearer x"}',
        b'{"access_token": "a b"}',
        b'{"access_token": "\\r\\nRSET"}',
        b'{"access_token": "t\xc3\xb6ken"}',
        b'{"access_token": "AT", "refresh_token": 7}',
        b'{"access_token": "AT", "refresh_token": "a\\nb"}',
        json.dumps({"access_token": "x" * 70_000}).encode(),
        json.dumps({"access_token": "AT", "padding": "x" * MAX_ANSWER}).encode(),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_success_nobody_can_read_may_have_rotated_the_token(body: bytes) -> None:
    outcome = read_token_answer(Answer(200, {}, body))
    assert isinstance(outcome, Unreachable)
    assert outcome.outcome_unknown


def test_a_byte_order_mark_does_no_harm() -> None:
    assert isinstance(read_token_answer(Answer(200, {}, b'\xef\xbb\xbf{"access_token":"AT"}')), Granted)


@pytest.mark.parametrize(
    ("status", "members", "unknown"),
    [
        (408, {}, False),
        (425, {}, False),
        (429, {"error": "invalid_grant"}, False),
        (500, {"error": "invalid_grant"}, True),
        (502, {"error": "invalid_client"}, True),
        (503, {}, False),
        (504, {}, True),
        (400, {"error": "temporarily_unavailable"}, False),
        (400, {"error": "server_error"}, False),
        (400, {"error": "internal_failure"}, False),
        (403, {"error": "rate_limit_exceeded"}, False),
        (403, {"message": "blocked by a proxy"}, False),
        (400, {}, False),
        (400, {"error": 5}, False),
        (400, {"error": ""}, False),
        (302, {}, False),
        (0, {}, False),
    ],
)
def test_a_temporary_failure_is_never_a_refusal(status: int, members: dict[str, Any], unknown: bool) -> None:
    outcome = read_token_answer(said(members, status))
    assert isinstance(outcome, Unreachable)
    assert (outcome.status, outcome.outcome_unknown) == (status, unknown)


@pytest.mark.parametrize(
    ("status", "members", "silent"),
    [
        (503, {}, True),
        (425, {}, True),
        (429, {"error": "invalid_grant"}, True),
        (400, {"error": "temporarily_unavailable"}, True),
        (400, {"error": ""}, False),
        (403, {"message": "blocked by a proxy"}, False),
        (200, {"expires_in": 1}, False),
    ],
)
def test_busy_is_told_apart_from_an_answer_that_is_no_use(status: int, members: dict[str, Any], silent: bool) -> None:
    outcome = read_token_answer(said(members, status))
    assert isinstance(outcome, Unreachable)
    assert outcome.is_silence is silent


@pytest.mark.parametrize("status", [400, 401, 403, 404, 200, 503])
def test_a_web_page_is_never_a_refusal(status: int) -> None:
    assert isinstance(read_token_answer(Answer(status, {"content-type": "text/html"}, HTML)), Unreachable)


@pytest.mark.parametrize(
    ("members", "verdict", "reason"),
    [
        ({"error": "invalid_grant"}, Verdict.GRANT_DEAD, Reason.OTHER),
        ({"error": "INVALID_GRANT"}, Verdict.GRANT_DEAD, Reason.OTHER),
        ({"error": "INVALID_REFRESH_TOKEN"}, Verdict.GRANT_DEAD, Reason.OTHER),
        ({"error": "TOKEN_EXPIRED"}, Verdict.GRANT_DEAD, Reason.EXPIRED),
        ({"error": "interaction_required"}, Verdict.GRANT_DEAD, Reason.POLICY),
        ({"error": "consent_required"}, Verdict.GRANT_DEAD, Reason.CONSENT_MISSING),
        ({"error": "invalid_client"}, Verdict.CLIENT_REFUSED, Reason.CLIENT_CHANGED),
        ({"error": "unauthorized_client"}, Verdict.CLIENT_REFUSED, Reason.CLIENT_CHANGED),
        ({"error": "deleted_client"}, Verdict.CLIENT_REFUSED, Reason.CLIENT_CHANGED),
        ({"error": "invalid_scope"}, Verdict.REQUEST_REFUSED, Reason.OTHER),
        ({"error": "invalid_request"}, Verdict.REQUEST_REFUSED, Reason.OTHER),
        ({"error": "something_new"}, Verdict.REQUEST_REFUSED, Reason.OTHER),
        ({"error": "invalid_request", "error_codes": [50173]}, Verdict.REQUEST_REFUSED, Reason.PASSWORD_CHANGED),
        ({"error": "invalid_grant", "error_codes": [50173]}, Verdict.GRANT_DEAD, Reason.PASSWORD_CHANGED),
        ({"error": "invalid_grant", "error_codes": [700082]}, Verdict.GRANT_DEAD, Reason.EXPIRED),
        ({"error": "invalid_grant", "error_codes": [50057]}, Verdict.GRANT_DEAD, Reason.ACCOUNT_UNAVAILABLE),
        ({"error": "invalid_grant", "error_codes": [53003]}, Verdict.GRANT_DEAD, Reason.POLICY),
        ({"error": "invalid_grant", "error_codes": [65001]}, Verdict.GRANT_DEAD, Reason.CONSENT_MISSING),
        ({"error": "invalid_client", "error_codes": [50173]}, Verdict.CLIENT_REFUSED, Reason.CLIENT_CHANGED),
        ({"error": "invalid_grant", "suberror": "token_expired"}, Verdict.GRANT_DEAD, Reason.EXPIRED),
        ({"error": "invalid_grant", "error_subtype": "invalid_rapt"}, Verdict.GRANT_DEAD, Reason.POLICY),
        (
            {"error": "invalid_grant", "error_description": "Token has been expired or revoked."},
            Verdict.GRANT_DEAD,
            Reason.REVOKED,
        ),
    ],
)
def test_only_the_error_decides_and_the_rest_explains(
    members: dict[str, Any], verdict: Verdict, reason: Reason
) -> None:
    outcome = read_token_answer(said(members, 400))
    assert isinstance(outcome, Refused)
    assert (outcome.verdict, outcome.reason) == (verdict, reason)
    assert outcome.kills_grant == (verdict is Verdict.GRANT_DEAD)
    assert outcome.client_refused == (verdict is Verdict.CLIENT_REFUSED)


def test_what_microsofts_support_asks_for_is_kept() -> None:
    outcome = read_token_answer(
        said(
            {
                "error": "invalid_grant",
                "error_description": "AADSTS700082: The refresh token has expired due to inactivity.\r\nTrace ID: 1",
                "error_codes": [700082, "x", True],
                "timestamp": "2026-11-20 10:00:00Z",
                "trace_id": "1f",
                "correlation_id": "2e",
            },
            400,
        )
    )
    assert isinstance(outcome, Refused)
    assert outcome.codes == ("AADSTS700082",)
    assert outcome.trace == "trace_id 1f, correlation_id 2e, timestamp 2026-11-20 10:00:00Z"
    assert "\r" not in outcome.description


def test_an_error_with_status_200_is_a_refusal() -> None:
    assert isinstance(read_token_answer(said({"error": "invalid_grant", "access_token": "AT"})), Refused)


def test_an_error_object_is_read_by_its_status() -> None:
    outcome = read_token_answer(said({"error": {"code": 400, "status": "INVALID_GRANT"}}, 400))
    assert isinstance(outcome, Refused)
    assert outcome.kills_grant


def test_another_token_type_is_refused_and_kills_nothing() -> None:
    outcome = read_token_answer(said({"access_token": "AT", "token_type": "DPoP"}))
    assert isinstance(outcome, Refused)
    assert (outcome.error, outcome.verdict) == ("unsupported_token_type", Verdict.REQUEST_REFUSED)
    assert isinstance(read_token_answer(said({"access_token": "AT", "token_type": "bearer"})), Granted)


def test_a_secret_sent_back_in_an_error_is_hidden() -> None:
    request = post("https://id.example/token", {"refresh_token": Secret("r3fr3sh"), "grant_type": "refresh_token"})
    members = {
        "error": "invalid_grant",
        "error_description": "token r3fr3sh is dead",
        "suberror": "r3fr3sh",
        "trace_id": "r3fr3sh",
    }
    outcome = read_token_answer(said(members, 400), hide=request.secrets())
    assert "r3fr3sh" not in repr(outcome)
    assert "is dead" in repr(outcome)


def test_long_and_odd_texts_are_cut_and_cleaned() -> None:
    members = {"error": "bad\x1b[31m\nerror" + "x" * 500, "error_description": "a\x00b\u2028c" + "y" * 10_000}
    outcome = read_token_answer(said(members, 400))
    assert isinstance(outcome, Refused)
    assert len(outcome.error) <= 100
    assert len(outcome.description) <= 1000
    assert (outcome.error + outcome.description).isprintable()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120),
        ({"retry-after": "999999"}, 3600),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1" * 400}, None),
        ({"retry-after": "Sun, 22 Nov 2026 10:01:30 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 90),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 0),
        ({"retry-after": "Sun, 22 Nov 2026 10:01:30 GMT"}, None),
        ({"retry-after": "Sun, 99 Nov 2026 10:01:30 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, None),
    ],
)
def test_the_time_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(Answer(429, headers)) == seconds
    outcome = read_json(Answer(429, headers))
    assert isinstance(outcome, Unreachable)
    assert outcome.retry_after == seconds


def test_a_request_opens_its_secrets_only_for_the_wire() -> None:
    request = post("https://id.example/token", {"code": Secret("c0de&="), "grant_type": "authorization_code"})
    assert request.body() == b"code=c0de%26%3D&grant_type=authorization_code"
    assert "c0de" not in repr(request)
    reading = get("https://id.example/userinfo", bearer=Secret("t0ken"))
    assert reading.header_texts()["Authorization"] == "Bearer t0ken"
    assert "t0ken" not in repr(reading)
    assert reading.body() == b""
    assert isinstance(reading, Request)
    assert Secret("Bearer t0ken") in reading.secrets()
