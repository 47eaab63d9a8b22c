import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.protocol import sasl
from posthouse.protocol.sasl import BadExchange, Credentials
from posthouse.secret import Secret

TOKEN = Secret("ya29.token")


def b64(message: bytes) -> bytes:
    return base64.b64encode(message)


def decoded(response: Secret) -> bytes:
    return base64.b64decode(response.reveal())


# Client side


def test_plain_separates_its_parts_by_nul() -> None:
    assert decoded(sasl.plain("me", Secret("pässword"))) == "\0me\0pässword".encode()


def test_xoauth2_is_written_as_the_providers_document_it() -> None:
    assert decoded(sasl.xoauth2("someuser@example.com", TOKEN)) == (
        b"user=someuser@example.com\x01auth=Bearer ya29.token\x01\x01"
    )


def test_oauthbearer_escapes_the_name_and_may_name_the_server() -> None:
    assert decoded(sasl.oauthbearer("a=b,c@example.com", TOKEN)) == (
        b"n,a=a=3Db=2Cc@example.com,\x01auth=Bearer ya29.token\x01\x01"
    )
    assert decoded(sasl.oauthbearer("u", TOKEN, "mail.example.com", 587)) == (
        b"n,a=u,\x01host=mail.example.com\x01port=587\x01auth=Bearer ya29.token\x01\x01"
    )


@pytest.mark.parametrize(
    ("mechanism", "user", "secret"),
    [
        ("PLAIN", "a\0b", "x"),
        ("PLAIN", "a", "x\0"),
        ("XOAUTH2", "a\1auth=", "x"),
        ("OAUTHBEARER", "a", "x\1"),
    ],
)
def test_a_separator_inside_a_name_or_secret_is_never_sent(mechanism: str, user: str, secret: str) -> None:
    with pytest.raises(ValueError, match="separator"):
        sasl.responses(mechanism, user, Secret(secret))


@pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", b""), ("OAUTHBEARER", b"AQ=="), ("PLAIN", b"*")])
def test_a_last_challenge_is_answered_as_its_mechanism_wants(mechanism: str, answer: bytes) -> None:
    assert sasl.answer_to_challenge(mechanism) == answer


def test_a_challenge_can_be_read_by_a_person() -> None:
    told = json.dumps({"status": "401", "schemes": "bearer"})
    assert sasl.read_challenge(b64(told.encode())) == told
    assert sasl.read_challenge(b"not base64") == "not base64"
    assert sasl.read_challenge(b64(b"\xff")) == "�"


@pytest.mark.parametrize(
    ("offered", "picked"),
    [
        (["LOGIN", "OAUTHBEARER", "XOAUTH2"], "XOAUTH2"),
        (["plain", "oauthbearer"], "OAUTHBEARER"),
        (["PLAIN"], None),
        ([], None),
    ],
)
def test_the_preferred_mechanism_that_is_offered_is_picked(offered: list[str], picked: str | None) -> None:
    assert sasl.pick_mechanism(offered) == picked


# Server side


@pytest.mark.parametrize("mechanism", sorted(sasl.known_mechanisms))
@pytest.mark.parametrize("at_once", [True, False])
def test_a_server_understands_what_a_client_says(mechanism: str, at_once: bool) -> None:
    words = [secret.reveal().encode() for secret in sasl.responses(mechanism, "me,=@example.com", TOKEN)]
    exchange = sasl.exchange(mechanism)
    outcome = exchange.start(words.pop(0) if at_once else None)
    while words:
        assert isinstance(outcome, bytes)
        outcome = exchange.next(words.pop(0))
    assert outcome == Credentials(mechanism, "me,=@example.com", TOKEN)


def test_login_asks_for_name_and_password() -> None:
    exchange = sasl.exchange("LOGIN")
    assert exchange.start(None) == b64(b"Username:")
    assert exchange.next(b64(b"me")) == b64(b"Password:")
    assert exchange.next(b64(b"secret")) == Credentials("LOGIN", "me", Secret("secret"))


def test_plain_may_ask_to_act_for_another() -> None:
    assert sasl.decode_plain(b"boss\0me\0secret") == Credentials("PLAIN", "me", Secret("secret"), "boss")


@pytest.mark.parametrize(
    "message",
    [
        b"n,a=u,\x01auth=Bearer t\x01\x01",
        b"n,a=u,\x01host=h\x01port=1\x01auth=bearer t\x01\x01",
        b"y,a=u,\x01auth=BEARER t\x01\x01",
    ],
)
def test_oauthbearer_is_read_in_all_its_forms(message: bytes) -> None:
    assert sasl.decode_oauthbearer(message) == Credentials("OAUTHBEARER", "u", Secret("t"))


def test_oauthbearer_may_leave_the_name_to_the_token() -> None:
    assert sasl.decode_oauthbearer(b"n,,\x01auth=Bearer t\x01\x01").user == ""


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        ("PLAIN", b""),
        ("PLAIN", b"me\0secret"),
        ("PLAIN", b"\0me\0sec\0ret"),
        ("PLAIN", b"\0\0secret"),
        ("PLAIN", b"\0me\0"),
        ("PLAIN", b"\0m\r\ne\0secret"),
        ("PLAIN", b"\0me\0\xff"),
        ("XOAUTH2", b""),
        ("XOAUTH2", b"auth=Bearer t\x01\x01"),
        ("XOAUTH2", b"user=u\x01auth=Bearer t\x01"),
        ("XOAUTH2", b"user=u\x01auth=Bearer \x01\x01"),
        ("XOAUTH2", b"user=u\x01auth=Basic t\x01\x01"),
        ("XOAUTH2", b"user=u\x01\x01"),
        ("OAUTHBEARER", b"\x01"),
        ("OAUTHBEARER", b"p=tls-unique,a=u,\x01auth=Bearer t\x01\x01"),
        ("OAUTHBEARER", b"n,u,\x01auth=Bearer t\x01\x01"),
        ("OAUTHBEARER", b"n,a=u=,\x01auth=Bearer t\x01\x01"),
        ("OAUTHBEARER", b"n,a=u,v,\x01auth=Bearer t\x01\x01"),
        ("OAUTHBEARER", b"n,a=u,\x01\x01"),
    ],
)
def test_a_wrong_response_is_a_bad_exchange(mechanism: str, message: bytes) -> None:
    with pytest.raises(BadExchange):
        sasl.exchange(mechanism).start(b64(message))


@pytest.mark.parametrize("response", [b"*", b"====", b"AA", b"A A=", b"\xff", b"AGEAYg==\r"])
def test_what_is_no_base64_is_a_bad_exchange(response: bytes) -> None:
    with pytest.raises(BadExchange):
        sasl.exchange("PLAIN").next(response)


def test_an_equals_sign_is_an_empty_initial_response() -> None:
    with pytest.raises(BadExchange, match="three parts"):
        sasl.exchange("PLAIN").start(b"=")


def test_no_secret_is_shown() -> None:
    said = sasl.exchange("PLAIN").start(b64(b"\0me\0canary"))
    assert "canary" not in repr(said)
    assert "canary" not in repr(sasl.responses("LOGIN", "me", Secret("canary")))


def test_an_unknown_mechanism_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        sasl.exchange("CRAM-MD5")


@settings(max_examples=300, deadline=None)
@given(
    mechanism=st.sampled_from(sorted(sasl.known_mechanisms)),
    words=st.lists(st.binary(max_size=40) | st.binary(max_size=40).map(b64), min_size=1, max_size=3),
)
def test_random_responses_are_read_or_refused(mechanism: str, words: list[bytes]) -> None:
    exchange = sasl.exchange(mechanism)
    outcome = exchange.start(None)
    for word in words:
        if isinstance(outcome, Credentials):
            return
        try:
            outcome = exchange.next(word)
        except BadExchange:
            return
