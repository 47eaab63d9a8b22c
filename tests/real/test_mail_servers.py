"""Dovecot and Postfix take the provider's tokens, refuse others in the literal way, and pass mail on."""

import asyncio
import base64
import imaplib
import json
import poplib
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage

import pytest

from tests.support.dovecot import PASSWORD
from tests.support.dovecot import Server as Dovecot
from tests.support.oidc import Provider
from tests.support.postfix import Server as Postfix
from tests.support.tokens import access_token

ALICE = "alice@example.test"


def xoauth2(person: str, token: str) -> bytes:
    return f"user={person}\x01auth=Bearer {token}\x01\x01".encode()


def oauthbearer(person: str, token: str) -> bytes:
    return f"n,a={person},\x01auth=Bearer {token}\x01\x01".encode()


def trusting(server: Dovecot | Postfix) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.authority)


def message(subject: str, sender: str = ALICE) -> EmailMessage:
    made = EmailMessage()
    made["Subject"], made["From"], made["To"] = subject, sender, ALICE
    made.set_content("A line.\n")
    return made


def imap(dovecot: Dovecot) -> imaplib.IMAP4:
    connection = imaplib.IMAP4(dovecot.host, dovecot.imap)
    connection.starttls(trusting(dovecot))
    return connection


def smtp(postfix: Postfix) -> smtplib.SMTP:
    connection = smtplib.SMTP(postfix.host, postfix.submission)
    connection.starttls(context=trusting(postfix))
    connection.ehlo()
    return connection


@pytest.mark.parametrize(("mechanism", "response"), [("XOAUTH2", xoauth2), ("OAUTHBEARER", oauthbearer)])
async def test_imap_takes_the_token(
    oidc: Provider, dovecot: Dovecot, mechanism: str, response: Callable[[str, str], bytes]
) -> None:
    token = await access_token(oidc, ALICE)
    dovecot.deliver(ALICE, message("one"))
    with imap(dovecot) as connection:
        connection.authenticate(mechanism, lambda _: response(ALICE, token))
        assert connection.select() == ("OK", [b"1"])


async def test_imap_refuses_a_wrong_token_with_the_json_challenge(dovecot: Dovecot) -> None:
    challenges: list[bytes] = []

    def answer(challenge: bytes) -> bytes:
        challenges.append(challenge)
        return b"" if challenge else xoauth2(ALICE, "not-a-token")

    connection = imap(dovecot)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        connection.authenticate("XOAUTH2", answer)
    connection.shutdown()
    assert json.loads(challenges[1])["status"] == "401"


async def test_a_token_opens_only_its_own_mailbox(oidc: Provider, dovecot: Dovecot) -> None:
    token = await access_token(oidc, ALICE)
    connection = imap(dovecot)
    with pytest.raises(imaplib.IMAP4.error):
        connection.authenticate("XOAUTH2", lambda given: b"" if given else xoauth2("bob@example.test", token))
    connection.shutdown()


async def test_a_revoked_token_opens_nothing(oidc: Provider, dovecot: Dovecot) -> None:
    token = await access_token(oidc, ALICE)
    oidc.revoke(ALICE)
    connection = imap(dovecot)
    with pytest.raises(imaplib.IMAP4.error):
        connection.authenticate("XOAUTH2", lambda given: b"" if given else xoauth2(ALICE, token))
    connection.shutdown()


async def test_pop3_takes_the_token_and_the_password(oidc: Provider, dovecot: Dovecot) -> None:
    token = await access_token(oidc, ALICE)
    dovecot.deliver(ALICE, message("one"))
    connection = poplib.POP3(dovecot.host, dovecot.pop3)
    connection.stls(trusting(dovecot))
    connection._shortcmd(f"AUTH XOAUTH2 {base64.b64encode(xoauth2(ALICE, token)).decode()}")  # type: ignore[attr-defined]
    assert connection.stat()[0] == 1
    connection.quit()
    with_password = poplib.POP3_SSL(dovecot.host, dovecot.pop3s, context=trusting(dovecot))
    with_password.user(ALICE)
    with_password.pass_(PASSWORD)
    assert with_password.stat()[0] == 1
    with_password.quit()


async def test_postfix_takes_the_token_and_delivers_to_the_inbox(
    oidc: Provider, dovecot: Dovecot, postfix: Postfix
) -> None:
    token = await access_token(oidc, ALICE)
    with smtp(postfix) as connection:
        connection.auth("XOAUTH2", lambda _=None: xoauth2(ALICE, token).decode())
        connection.send_message(message("through Postfix"))
    (delivered,) = await until_delivered(dovecot, 1)
    assert b"Subject: through Postfix" in delivered
    assert b"Authenticated sender: alice@example.test" in delivered


async def test_postfix_begins_with_tls_on_its_other_port(dovecot: Dovecot, postfix: Postfix) -> None:
    with smtplib.SMTP_SSL(postfix.host, postfix.submissions, context=trusting(postfix)) as connection:
        connection.login(ALICE, PASSWORD)
        connection.send_message(message("with a password"))
    await until_delivered(dovecot, 1)


async def test_postfix_refuses_a_wrong_token_with_the_json_challenge(postfix: Postfix) -> None:
    with smtp(postfix) as connection:
        initial = base64.b64encode(xoauth2(ALICE, "not-a-token")).decode()
        code, challenge = connection.docmd("AUTH", f"XOAUTH2 {initial}")
        assert code == 334
        assert json.loads(base64.b64decode(challenge))["status"] == "401"
        assert connection.docmd("")[0] == 535


@pytest.mark.parametrize(
    ("sender", "recipient", "refusal"),
    [("bob@example.test", ALICE, 553), (ALICE, "somebody@elsewhere.test", 550), (ALICE, "nobody@example.test", 550)],
)
async def test_postfix_refuses_foreign_senders_and_recipients(
    oidc: Provider, postfix: Postfix, sender: str, recipient: str, refusal: int
) -> None:
    token = await access_token(oidc, ALICE)
    with smtp(postfix) as connection:
        connection.auth("XOAUTH2", lambda _=None: xoauth2(ALICE, token).decode())
        connection.mail(sender)
        assert connection.rcpt(recipient)[0] == refusal


async def until_delivered(dovecot: Dovecot, count: int) -> list[bytes]:
    async with asyncio.timeout(10):
        while len(dovecot.inbox(ALICE)) < count:
            await asyncio.sleep(0.02)
    return dovecot.inbox(ALICE)
