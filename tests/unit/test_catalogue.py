"""The error catalogue explains what servers really answer, by the rules that its file states."""

import random
from typing import Any

import pytest

from posthouse.model.outcome import Refused, Unreachable
from posthouse.providers.catalogue import (
    Entry,
    entries,
    explain,
    explain_imap,
    explain_network,
    explain_pop3,
    explain_smtp,
    explain_token_error,
)
from posthouse.providers.provider import built_in

DISABLED = "SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled"


def known(entry: Entry | None) -> str:
    return entry.id if entry else ""


@pytest.mark.parametrize(
    ("family", "code", "enhanced", "text", "id"),
    [
        ("microsoft", 535, "5.7.139", f"Authentication unsuccessful, {DISABLED}", "ms-smtp-535-139-tenant"),
        (
            "microsoft",
            535,
            "5.7.139",
            "Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
            "ms-smtp-535-139-mailbox",
        ),
        (
            "microsoft",
            535,
            "5.7.139",
            "Authentication unsuccessful, basic authentication is disabled.",
            "ms-smtp-535-139-basic",
        ),
        ("microsoft", 535, "5.7.139", "Authentication unsuccessful, something new", "ms-smtp-535-139-any"),
        (
            "microsoft",
            535,
            "5.7.3",
            "Authentication unsuccessful [AM6P191CA0042.EURP191.PROD.OUTLOOK.COM]",
            "ms-smtp-535-3",
        ),
        ("microsoft", 530, "5.7.57", "Client not authenticated to send mail.", "ms-smtp-530-57"),
        (
            "microsoft",
            530,
            "5.7.57",
            f"Client not authenticated to send mail. Error: 535 5.7.139 Authentication unsuccessful, {DISABLED}",
            "ms-smtp-535-139-tenant",
        ),
        ("microsoft", 550, "5.7.30", "Basic authentication is not supported for Client Submission.", "ms-smtp-550-30"),
        (
            "microsoft",
            550,
            "5.7.60",
            "SMTP; Client does not have permissions to send as this sender",
            "ms-smtp-550-60",
        ),
        (
            "microsoft",
            554,
            "5.2.252",
            "SendAsDenied; alice@example.com not allowed to send as",
            "ms-smtp-554-252-sendas",
        ),
        (
            "microsoft",
            554,
            "5.2.0",
            "STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message",
            "ms-smtp-554-520-quota",
        ),
        ("microsoft", 430, "4.2.0", "STOREDRV; mailbox logon failure", "ms-smtp-430-420-logon"),
        (
            "microsoft",
            432,
            "4.3.2",
            "STOREDRV.ClientSubmit; sender thread limit  exceeded",
            "ms-smtp-432-concurrent",
        ),
        ("microsoft", 432, "4.3.2", "Concurrent connections limit exceeded.", "ms-smtp-432-concurrent"),
        ("microsoft", 451, "4.7.0", "Temporary server error. Please try again later. PRX2", "ms-smtp-451-470"),
        ("microsoft", 421, "4.7.66", "TLS 1.0 and 1.1 are not supported. Please upgrade", "ms-smtp-421-4766"),
        ("microsoft", 550, "5.7.705", "Access denied, tenant has exceeded threshold", "ms-smtp-57705"),
        ("microsoft", 451, "5.7.705", "any basic code goes with a bare enhanced one", "ms-smtp-57705"),
        ("microsoft", 421, "", "Service not available", "any-smtp-421"),
        ("microsoft", 450, "4.9.9", "unheard of", "any-smtp-450"),
        ("google", 535, "5.7.8", "Username and Password not accepted. Learn more at", "google-smtp-535-578"),
        ("google", 535, "", "5.7.8 Username and Password not accepted", "google-smtp-535-578"),
        ("google", 534, "", "534-5.7.9 Application-specific password required.", "google-smtp-534-579"),
        ("google", 550, "5.4.5", "Daily user sending limit exceeded. For more", "google-smtp-550-545"),
        ("google", 454, "4.7.0", "Too many login attempts, please try again later.", "google-smtp-454-470-logins"),
        ("google", 421, "4.7.0", "Try again later, closing connection.", "google-smtp-421-470"),
        ("yahoo", 535, "5.7.0", "(#AUTH005) Too many bad auth attempts.", "yahoo-smtp-535-auth005"),
        ("any", 535, "5.7.8", "Error: authentication failed:", "any-smtp-535-578"),
        ("any", 550, "5.1.1", "User unknown", "any-smtp-550-user"),
        ("any", 250, "2.0.0", "Ok", ""),
    ],
)
def test_smtp_replies(family: str, code: int, enhanced: str, text: str, id: str) -> None:
    assert known(explain_smtp(family, code, enhanced, text)) == id


@pytest.mark.parametrize(
    ("family", "status", "text", "id"),
    [
        ("microsoft", "NO", "AUTHENTICATE failed.", "ms-imap-authenticate-failed"),
        ("microsoft", "BAD", "User is authenticated but not connected.", "ms-imap-not-connected"),
        ("microsoft", "NO", "LOGIN failed.", "ms-imap-login-failed"),
        (
            "microsoft",
            "BAD",
            "Request is throttled. Suggested Backoff Time: 89000 milliseconds",
            "ms-imap-throttled",
        ),
        ("microsoft", "bye", "Connection closed. 14", "ms-imap-connection-closed"),
        (
            "google",
            "NO",
            "[ALERT] Too many simultaneous connections. (Failure)",
            "google-imap-too-many-connections",
        ),
        ("google", "NO", "[AUTHENTICATIONFAILED] Invalid credentials (Failure)", "google-imap-invalid-credentials"),
        (
            "google",
            "NO",
            "[WEBALERT https://accounts.google.com/signin/continue?sarp=1] Web login required.",
            "google-imap-web-login",
        ),
        (
            "google",
            "NO",
            "[OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)",
            "google-imap-overquota",
        ),
        ("yahoo", "NO", "[LIMIT] UID FETCH Rate limit hit.", "yahoo-imap-limit"),
        ("yahoo", "NO", "[authenticationfailed] AUTHENTICATE Invalid credentials", "yahoo-imap-authfailed"),
        ("any", "NO", "[UNAVAILABLE] Temporary authentication failure.", "any-imap-rfc5530-unavailable"),
        ("any", "NO", "[INUSE] Mailbox in use", "any-imap-rfc5530-inuse"),
        ("any", "NO", "nothing known", ""),
    ],
)
def test_imap_answers(family: str, status: str, text: str, id: str) -> None:
    assert known(explain_imap(family, status, text)) == id


@pytest.mark.parametrize(
    ("family", "text", "id"),
    [
        ("microsoft", "Authentication failure: unknown user name or bad password.", "ms-pop3-auth-failure"),
        ("microsoft", "Protocol error. Connection is closed. 10", "ms-pop3-protocol-error"),
        ("google", "[AUTH] Username and password not accepted.", "google-pop3-not-accepted"),
        ("any", "[IN-USE] Do you have another POP session running?", "any-pop3-rfc-in-use"),
        ("any", "[SYS/TEMP] try later", "any-pop3-rfc-sys-temp"),
    ],
)
def test_pop3_answers(family: str, text: str, id: str) -> None:
    assert known(explain_pop3(family, text)) == id


@pytest.mark.parametrize(
    ("family", "where", "outcome", "id"),
    [
        (
            "microsoft",
            "token",
            Refused("invalid_grant", "", "AADSTS50173: The provided grant has expired", ("AADSTS50173",)),
            "ms-aadsts50173",
        ),
        (
            "microsoft",
            "token",
            Refused("invalid_grant", "bad_token", "service abuse mode", ("AADSTS70000",)),
            "ms-aadsts70000-abuse",
        ),
        ("microsoft", "token", Refused("invalid_client", codes=("AADSTS7000215",)), "ms-aadsts7000215"),
        ("microsoft", "token", Refused("invalid_grant", "bad_token"), "ms-suberror-bad-token"),
        ("microsoft", "token", Refused("invalid_grant", codes=("AADSTS1",)), "oauth-invalid-grant"),
        ("microsoft", "device", Refused("authorization_declined"), "ms-authorization-declined"),
        (
            "google",
            "token",
            Refused("invalid_grant", "", "Token has been expired or revoked."),
            "google-invalid-grant-revoked",
        ),
        ("google", "token", Refused("invalid_grant", "invalid_rapt", "reauth"), "google-invalid-rapt"),
        ("google", "token", Refused("invalid_client"), "oauth-invalid-client"),
        ("yahoo", "token", Refused("INVALID_REFRESH_TOKEN"), "yahoo-invalid-refresh-token"),
        ("any", "authorize", Refused("access_denied"), "oauth-access-denied"),
        ("any", "authorize", Refused("iss"), "oauth-iss-mismatch"),
        ("any", "token", Unreachable("HTTP 429", status=429), "oauth-http-429"),
        ("any", "token", Unreachable("temporarily_unavailable", status=400), "oauth-temporarily-unavailable"),
        ("any", "token", Unreachable("HTTP 418", status=418), ""),
    ],
)
def test_answers_of_authorisation_servers(family: str, where: Any, outcome: Any, id: str) -> None:
    assert known(explain_token_error(family, outcome, where)) == id


@pytest.mark.parametrize(
    ("where", "text", "id"),
    [
        ("dns", "[Errno -2] Name or service not known", "any-dns-name-unknown"),
        ("tcp", "[Errno 111] Connection refused", "any-tcp-refused"),
        ("tls", "certificate verify failed: Hostname mismatch, certificate is not valid for 'x'", "any-tls-hostname"),
        ("tcp", "certificate has expired", ""),
    ],
)
def test_failures_of_the_network(where: Any, text: str, id: str) -> None:
    assert known(explain_network(where, "any", text)) == id


def test_entries_of_one_family_do_not_explain_another() -> None:
    assert known(explain_imap("google", "BAD", "User is authenticated but not connected.")) == ""


def test_an_explanation_says_what_to_do_and_whether_it_is_established() -> None:
    entry = explain_smtp("microsoft", 535, "5.7.139", DISABLED)
    assert entry is not None
    assert entry.class_ == "fix_mailbox_setting"
    assert entry.verified
    assert entry.meaning
    assert entry.fix
    assert entry.source.startswith("https://")


def test_every_entry_is_whole_and_has_an_id_of_its_own() -> None:
    assert len({entry.id for entry in entries()}) == len(entries()) > 400
    assert all(entry.meaning and entry.fix for entry in entries())
    assert all(entry.match.code or entry.match.text for entry in entries())
    assert {entry.provider for entry in entries()} == {provider.family for provider in built_in().values()} | {"any"}


def test_every_entry_explains_its_own_literal_unless_an_earlier_one_does() -> None:
    shadowed = {"google-device-rate-limit", "google-sa-admin-policy"}
    silent = [entry.id for entry in entries() if known(_by_own_literal(entry)) != entry.id]
    assert set(silent) == shadowed


def test_the_index_answers_as_trying_every_entry_in_order_would() -> None:
    dice = random.Random(7)
    codes = sorted({code for entry in entries() for code in entry.match.code})
    texts = sorted({text for entry in entries() for text in entry.match.text})
    for _ in range(1500):
        where = dice.choice(entries()).where
        family = dice.choice(["microsoft", "google", "yahoo", "any"])
        carried = set(dice.sample(codes, dice.randint(0, 4)))
        text = "  ".join(dice.sample(texts, dice.randint(0, 2))).upper()
        expected = _one_by_one(where, family, carried, text)
        assert known(explain(where, family, carried, text)) == known(expected)


def test_a_huge_answer_is_read_only_so_far() -> None:
    assert explain_smtp("any", 250, "", "x" * 5_000_000) is None


def _by_own_literal(entry: Entry) -> Entry | None:
    text = entry.match.text[0] if entry.match.text else ""
    return explain(entry.where, entry.provider, entry.match.code[:1], text)


def _one_by_one(where: str, family: str, codes: set[str], text: str) -> Entry | None:
    """The match rules, read aloud."""
    folded = " ".join(text.lower().split())
    for provider in (family, "any"):
        own = [entry for entry in entries() if entry.provider == provider]
        for entry in [entry for entry in own if entry.match.text] + [entry for entry in own if not entry.match.text]:
            placed = where in (entry.where, *entry.also_where)
            coded = not entry.match.code or bool(codes & set(entry.match.code))
            worded = not entry.match.text or any(part.lower() in folded for part in entry.match.text)
            if placed and coded and worded:
                return entry
    return None
