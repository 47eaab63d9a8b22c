"""The page's words for the words of the API, and for what services say in English."""

import re
from gettext import NullTranslations

from posthouse.web import problem_words


def N_(sentence: str) -> str:  # noqa: N802 - gettext's own name for "to be translated later"
    return sentence


TOKEN_STATES = {
    "not_acquired": N_("not acquired"),
    "waiting_for_authentication": N_("waiting for authentication"),
    "acquired": N_("acquired"),
    "invalid": N_("invalid"),
}

TOKEN_REASONS = {
    "waiting_for_person": N_("somebody has to sign in"),
    "acquiring": N_("permission was given, the token is being acquired"),
    "proving": N_("the token is being tried at the mail servers"),
    "account_unavailable": N_("the account is not available"),
    "expired": N_("it has expired"),
    "revoked": N_("it was revoked at the provider"),
    "password_changed": N_("the password of the account was changed"),
    "client_changed": N_("the provider refuses the app registration"),
    "consent_missing": N_("a permission is missing"),
    "policy": N_("a rule of the provider's administrator asks for a new sign-in"),
    "answer_lost": N_("the provider's answer to a renewal was lost"),
    "other": N_("the provider refuses it"),
    "wrong_person": N_("another person signed in"),
    "refused": N_("the provider refused the sign-in"),
    "cancelled": N_("the sign-in was cancelled"),
    "id_token_not_trusted": N_("what the provider says about the person cannot be trusted"),
    "not_proved": N_("no mail server took the token"),
    "gone": N_("the mailbox or its token was removed meanwhile"),
    "provider_away": N_("the provider was not available"),
    "sign_in_lost": N_("the provider's answer to the sign-in was lost"),
    "overtaken": N_("a later sign-in serves already"),
    "way_closed": N_("the provider has closed this way to sign in"),
    "person_not_verified": N_("the provider does not say who signed in"),
}

ATTEMPT_STATES = {
    "started": N_("waiting for the sign-in"),
    "permitted": N_("permission was given, the token is being acquired"),
    "proving": N_("the token is being tried at the mail servers"),
    "unverified": N_("waiting for your confirmation"),
    "done": N_("authenticated"),
    "refused": N_("refused"),
    "expired": N_("nobody signed in in time"),
}

MESSAGE_STATES = {
    "queued": N_("queued"),
    "parked": N_("parked"),
    "sent": N_("sent"),
    "failed": N_("failed"),
}

RECIPIENT_STATES = {
    "waiting": N_("waiting"),
    "sent": N_("sent"),
    "failed": N_("failed"),
}

RESULT_STATES = {
    "proved": N_("works"),
    "refused": N_("refused"),
    "unreachable": N_("not reachable"),
    "untested": N_("not tried yet"),
}

SENDER_STATES = {
    "allowed": N_("allowed by the provider"),
    "refused": N_("refused by the provider"),
}

JOURNAL_KINDS = {
    "accepted": N_("accepted"),
    "sent": N_("sent"),
    "partly failed": N_("sent to some recipients only"),
    "failed": N_("failed"),
    "deadline passed": N_("failed, the time was up"),
    "sent in part": N_("sent to the first recipients, the others follow"),
    "recipient taken": N_("taken for this recipient"),
    "recipient refused": N_("refused for this recipient"),
    "recipient delayed": N_("delayed for this recipient"),
    "delayed": N_("delayed"),
    "waiting": N_("waits for the provider's limit"),
    "outcome unknown": N_("outcome unknown"),
    "parked": N_("parked"),
    "released": N_("released"),
    "retry asked for": N_("another attempt was asked for"),
    "removed": N_("removed"),
    "moved": N_("moved to another mailbox"),
    "idempotency key": N_("handed in with a key against repetition"),
}

STEP_NAMES = {
    "token": N_("Token"),
    "smtp": "SMTP",
    "imap": "IMAP",
    "pop3": "POP3",
    "discovery": N_("What the sign-in says of itself"),
    "browser": N_("Sign-in page"),
    "device": N_("Device code"),
    "client": N_("What the app shows itself with"),
}

STEP_STATES = {
    "passed": N_("good"),
    "failed": N_("failed"),
    "skipped": N_("not tried"),
    "unused": N_("not used"),
}

DIRECTIONS = {
    "incoming": N_("incoming only"),
    "outgoing": N_("outgoing only"),
    "both": N_("both"),
    "none": N_("neither"),
}

PURPOSES = {
    "sending": N_("sending"),
    "receiving": N_("receiving"),
    "notices": N_("notices of this gateway"),
}

METHODS = {
    "browser": N_("in the browser"),
    "device": N_("with a device code"),
    "app": N_("as the app itself, nobody signs in"),
    "link": N_("with a link for the owner"),
    "paste": N_("with a pasted address"),
}

CREDENTIALS = {
    "none": N_("nothing (public client)"),
    "secret": N_("client secret"),
    "certificate": N_("certificate"),
    "service_account": N_("service account"),
}

SECURITIES = {
    "starttls": "STARTTLS",
    "tls": "SSL/TLS",
    "plain": N_("no encryption"),
}

NEXT_STEPS = {
    "get_token": N_("Get token"),
    "sign_in": N_("Sign in"),
    "confirm": N_("Confirm who signed in"),
    "reauthorise": N_("Re-authorise"),
}

ENDINGS = {
    "client_secret": N_("client secret"),
    "certificate": N_("certificate"),
    "consent": N_("permission"),
    "test_mode": N_("permission of an app in test mode"),
    "idle": N_("token that cannot be renewed"),
}

ENDING_REASONS = {
    "client_secret": N_("Then the provider renews no token of this app registration any more."),
    "certificate": N_("Then the provider renews no token of this app registration any more."),
    "consent": N_("The provider gave the permission for a time only."),
    "test_mode": N_("The app is in test mode at the provider, where every permission ends after a few days."),
    "idle": N_("Renewing fails at the moment, and the provider ends a token that is not renewed for long."),
}

ENDING_STEPS = {
    "renew_secret": N_("Make a new client secret at the provider, and apply it with its new date."),
    "renew_certificate": N_("Make a new certificate, register it at the provider, and apply it."),
    "reauthorise": N_("Re-authorise before."),
    "publish_app": N_("Publish the app at the provider, then re-authorise."),
    "mend_renewal": N_("Look at the last error of the token; re-authorise when it does not go away."),
}

NOTICES = {
    "token.invalid": N_("the token is invalid, so its mail waits"),
    "token.expiring": N_("something ends soon"),
    "message.failed": N_("mail could not be delivered"),
    "message.parked": N_("mail waits for a token"),
    "queue.stuck": N_("mail is due, and none of it has gone out"),
    "mailbox.silent": N_("mail should be fetched, and none could be"),
    "disk.full": N_("the disk is nearly full, so mail is refused"),
    "authorisation.waiting": N_("a sign-in waits for a confirmation"),
}

ROLES = {
    "administrator": N_("administrator"),
    "limited": N_("administrator with chosen permissions"),
    "auditor": N_("auditor"),
}

LABELS = {
    "token_state": TOKEN_STATES,
    "token_reason": TOKEN_REASONS,
    "attempt_state": ATTEMPT_STATES,
    "message_state": MESSAGE_STATES,
    "recipient_state": RECIPIENT_STATES,
    "result_state": RESULT_STATES,
    "sender_state": SENDER_STATES,
    "journal_kind": JOURNAL_KINDS,
    "next_step": NEXT_STEPS,
    "step_name": STEP_NAMES,
    "step_state": STEP_STATES,
    "ends": ENDINGS,
    "end_reason": ENDING_REASONS,
    "end_step": ENDING_STEPS,
    "direction": DIRECTIONS,
    "purpose": PURPOSES,
    "method": METHODS,
    "credential": CREDENTIALS,
    "security": SECURITIES,
    "role": ROLES,
    "notice_kind": NOTICES,
}
"""By the name of the filter that templates use."""

SENTENCES = (
    N_("{got} signed in, expected was {expected}."),
    N_("Nobody finished this sign-in in time."),
    N_("A later sign-in serves already."),
    N_("{what} sign-ins are under way for this mailbox."),
    N_("Finish or cancel one of them, or wait until they expire."),
    N_("The app registration or its provider was changed after this sign-in was begun."),
    N_("A sign-in would come back to {what}, where others could read it."),
    N_("Set external_url to an https:// address, or use a device code."),
    N_("Nobody finished this sign-in in time. The provider's last answer: {what}"),
    N_(
        "Nobody finished this sign-in in time."
        " After an error page: compare the client id, and register the redirect URL {url}"
    ),
    N_("Compare client id, secret, tenant, scopes and redirect URL with the app registration at the provider."),
    N_("{address} was changed by somebody else meanwhile."),
    N_("Look at it again, then choose."),
    N_("Device codes are closed here."),
    N_("Sign in with the browser instead, or paste its address."),
    N_("This address does not answer this sign-in: {what}."),
    N_("Paste the whole address on which the browser ended after this sign-in; it begins with the redirect URL."),
    N_("The provider has answered; this sign-in waits for the address of this page."),
    N_("Copy the whole address of this page, and paste it where the sign-in was begun."),
    N_("This sign-in does not wait for an address."),
    N_("Begin again."),
    N_("Begin again if it did not succeed."),
    N_("Begin the sign-in again, and finish it in the same browser."),
    N_("Check the network, then try again."),
    N_("The provider does not say who signed in: confirm that it was the right person."),
    N_("This answer cannot be used: {what}."),
    N_("Not accepted: {what}."),
    N_("The mailbox or its token was removed meanwhile."),
    N_("The token was deleted."),
    N_("The gateway is being stopped."),
    N_("Another process is refreshing the token and has not finished."),
    N_("The new token could not be written to the database yet."),
    N_("The sign-in server gave no answer: {what}."),
    N_("There is no {protocol} server for {address}."),
    N_("the provider's limit of {count} messages a day is reached; goes on at {time} UTC"),
    N_("the provider's limit of {count} recipients a day is reached; goes on at {time} UTC"),
    N_("the provider cannot take this message"),
    N_("parked by a person"),
    N_("the connection was lost after the end of the message"),
    N_("the gateway stopped while handing over"),
    N_("What was stored of this sign-in cannot be read."),
    N_("The mailbox is no longer there."),
    N_("The token is invalid."),
    N_("There is no token yet."),
    N_("There is neither a token nor a password."),
    N_("This sign-in link has been used or has expired."),
    N_("This sign-in is over already."),
    N_("This answer was used already."),
    N_("This answer does not belong to a sign-in that was begun in this browser."),
    N_("This sign-in does not wait for a confirmation."),
    N_("The provider's sign-in gave no usable answer: {what}."),
    N_("The provider refused: {what}."),
    N_("It is asked again by itself."),
    N_("Begin again when it is back."),
    N_("Its permission has run out meanwhile: begin again."),
    N_("The provider's answer to this sign-in was lost, and its permission works only once: begin again."),
    N_("{address} has no app registration, so there is nothing to sign in to."),
    N_("Give the mailbox an app registration first."),
    N_("The provider has renewed the token: the sign-in, its account and the app registration are in order."),
    N_("The server takes the login, and a command after it. That a message may be sent is proved by sending one."),
    N_("The server takes the login, and the folder can be opened."),
    N_("The server takes the login, and the messages can be counted."),
    N_("There is a token. The provider gave nothing to renew it with, so this proves nothing about tomorrow."),
    N_("This mailbox signs in with a password."),
    N_("This mailbox does not use it."),
    N_("Without a token it cannot be tried."),
    N_("the sign-in server did not answer in time"),
    N_("the server did not answer in time"),
    N_("The sign-in describes itself, and is the one that was expected."),
    N_("Its addresses are known from elsewhere; this sign-in does not describe itself."),
    N_("The provider knows the client id and this redirect URL: it sent an unfinished sign-in back to it."),
    N_("The sign-in page opens. Some providers object to client id or redirect URL only after a name."),
    N_("The provider gives this app device codes. The one it gave is thrown away."),
    N_("The provider takes what the app shows itself with."),
    N_("The provider knows the app as a public client, without a secret."),
    N_("The provider gives the app a token of its own; it is thrown away. It proves nothing about mailboxes."),
    N_("The provider did not come to look at what the app shows itself with; a sign-in will tell."),
    N_("This provider does not have it."),
    N_("With a service account nobody signs in."),
    N_("No mailbox uses this app registration yet, and a service account asks in the name of one."),
    N_("There is no provider {name}."),
    N_("Without the addresses of the sign-in it cannot be tried."),
    N_("Register exactly this redirect URL: {url}"),
    N_("{address} uses the app registration of {client}, which lets nobody come back here."),
    N_("Use a device code, or paste the address."),
    N_("for {what} days"),
    N_("for 1 day"),
    N_("See what ends, and renew it"),
    N_("See the answers; what failed is kept and can be sent again"),
    N_("See the answers of the provider"),
    N_("Test the mailbox"),
    N_("Make space on it, 64 MB have to be free"),
    N_("Confirm the person, or end the sign-in"),
    N_("Check the app registration: its secret may have expired"),
    N_("The disk of {place} is full: mail is refused for now, and none is lost."),
    N_("Make space on it: 64 MB have to be free."),
    N_("The disk of {place} cannot be written to: mail is refused for now, and none is lost."),
    N_("See in the system's log why, mount it for writing again, then restart Posthouse."),
    N_("Another program holds the database: mail is refused for now, and none is lost."),
    N_("End what has posthouse.sqlite open, such as an sqlite3 shell."),
    N_("The database does not answer: mail is refused for now, and none is lost."),
    N_("Check that it is running, and `database` in posthouse.toml."),
    N_("no mailbox can send at the moment"),
    N_("it was removed from the queue"),
    N_("no answer"),
    N_("no answer in time"),
    N_("the answer was {what}"),
    N_("Re-authorise"),
    N_("Get token"),
)
"""What services say, with holes for what differs; translated here because services know no languages."""


def _pattern(sentence: str) -> "re.Pattern[str]":
    parts = re.split(r"\{(\w+)\}", sentence)
    return re.compile("".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>.+)" for i, p in enumerate(parts)))


_PATTERNS = {_pattern(sentence): sentence for sentence in (*SENTENCES, *problem_words.SENTENCES)}


def explained(text: str, said: NullTranslations) -> str:
    """A sentence of a service in the reader's language; the provider's and the catalogue's words stay English."""
    sentence, hint = _apart(text)
    if hint:
        return f"{explained(sentence, said)} {said.gettext(hint)}"
    for pattern, known in _PATTERNS.items():
        if found := pattern.fullmatch(text):
            return said.gettext(known).format(**_with_kind(found.groupdict(), said))
    return text


def _apart(text: str) -> tuple[str, str]:
    """A problem as it was written down, in its sentence and its hint; one without a hint is a sentence."""
    for space in re.finditer(r"(?<=\.) ", text):
        if text[space.end() :] in SENTENCES:
            return text[: space.start()], text[space.end() :]
    return text, ""


def _with_kind(holes: dict[str, str], said: NullTranslations) -> dict[str, str]:
    """What apply files call a thing, in the reader's language; English keeps the word as it is."""
    named = {hole: KINDS[word] for hole, word in holes.items() if hole in ("kind", "user_kind") and word in KINDS}
    return holes | {hole: said.gettext(name) for hole, name in named.items() if said.gettext(name) != name}


KINDS = {
    "mailbox": N_("Mailbox"),
    "device": N_("Device"),
    "provider": N_("Provider"),
    "app": N_("App registration"),
}


def notice_cause(cause: str, said: NullTranslations) -> str:
    """A word of the API, or a sentence of a service, in the reader's language; the provider's words as they are."""
    known = TOKEN_REASONS.get(cause) or ENDINGS.get(cause)
    return said.gettext(known) if known else explained(cause, said)


def is_known(text: str) -> bool:
    return any(pattern.fullmatch(_apart(text)[0]) for pattern in _PATTERNS)


def size(octets: int, said: NullTranslations) -> str:
    """Kilobytes and megabytes as programs for mail count them: by 1,000."""
    if octets < 1000:
        return said.ngettext("%(count)s byte", "%(count)s bytes", octets) % {"count": octets}
    return f"{octets / 1000:.0f} kB" if octets < 1_000_000 else f"{octets / 1_000_000:.1f} MB"
