"""What people consented to and what was issued for it: codes, device codes, grants and tokens.

Knows no HTTP and no clock ("now" is seconds and an argument). Runs on one event loop, so each call is atomic.
A refresh token names its grant and serial and is sealed by an HMAC: an old one is known for ever at no cost.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from posthouse.secret import Secret

MOST_KEPT = 100_000
"""Entries of one kind kept at once; past it the oldest goes."""
SLOWER_BY = 5
CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


class GrantError(Exception):
    """A request refused in the words of RFC 6749 section 5.2 or RFC 8628 section 3.5."""

    def __init__(self, error: str, sentence: str = "") -> None:
        super().__init__(f"{error}: {sentence}" if sentence else error)
        self.error = error
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Rules:
    """How this provider treats refresh tokens; see `SandboxSettings`."""

    rotate: bool = True
    punish_reuse: bool = True
    old_tokens_serve: bool = False
    access_token_lifetime: float = 3600.0
    code_lifetime: float = 600.0
    device_lifetime: float = 900.0
    device_interval: int = 1
    consent_lifetime: float = 0.0
    revoke_all: bool = False


@dataclass(frozen=True, slots=True)
class Consent:
    """Who (an address; "" for the program itself) allowed which client what, and when."""

    client: str
    person: str
    scopes: tuple[str, ...]
    at: float
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """One consent in force. `serial` is that of the newest refresh token; `ended` says why it is over."""

    id: str
    consent: Consent
    serial: int = 0
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """What an access token stands for."""

    grant: str
    consent: Consent
    issued: float
    expires: float


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer to a token request. `refresh_token` only with the scope offline_access; `refresh_lifetime` is the
    time in seconds until it ends, None where it never does."""

    access_token: Secret
    lifetime: float
    consent: Consent
    refresh_token: Secret | None = None
    refresh_lifetime: float | None = None


@dataclass(frozen=True, slots=True)
class _Code:
    consent: Consent
    redirect_uri: str
    challenge: str
    expires: float
    grant: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A device that waits for a person. `answer` is the address of who allowed it, "" once denied."""

    code: Secret
    user_code: str
    client: str
    scopes: tuple[str, ...]
    interval: int
    expires: float
    asked: float | None = None
    answer: str | None = None


class _Expiring(Protocol):
    @property
    def expires(self) -> float: ...


_E = TypeVar("_E", bound=_Expiring)


@dataclass(slots=True)
class Ledger:
    """All of it. `reuses` counts refresh tokens that came back after their end."""

    rules: Rules = Rules()
    grants: dict[str, Grant] = field(default_factory=dict)
    reuses: int = 0
    _access: dict[str, Access] = field(default_factory=dict)
    _codes: dict[str, _Code] = field(default_factory=dict)
    _devices: dict[str, DeviceRequest] = field(default_factory=dict)
    _user_codes: dict[str, str] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    # Authorisation code with PKCE (RFC 6749 section 4.1, RFC 7636)

    def authorise(self, consent: Consent, redirect_uri: str, challenge: str, now: float) -> str:
        """A single-use code for `consent`."""
        code = secrets.token_urlsafe(24)
        _keep(self._codes, code, _Code(consent, redirect_uri, challenge, now + self.rules.code_lifetime), now)
        return code

    def redeem(self, code: str, client: str, redirect_uri: str, verifier: str, now: float) -> Issued:
        """Tokens for a code. A code that comes a second time ends what it gave (RFC 6749 section 4.1.2)."""
        known = self._codes.get(code)
        if known is None or known.consent.client != client or known.expires <= now:
            raise GrantError("invalid_grant", "The code is unknown, expired or for another client.")
        if known.grant:
            self._end({known.grant}, "code used twice")
            raise GrantError("invalid_grant", "The code was used before.")
        if known.redirect_uri != redirect_uri:
            raise GrantError("invalid_grant", "The redirect_uri differs from the one asked with.")
        if not hmac.compare_digest(challenge_of(verifier), known.challenge):
            raise GrantError("invalid_grant", "The code_verifier does not fit the code_challenge.")
        grant = self._begin(known.consent)
        self._codes[code] = replace(known, grant=grant.id)
        return self._issue(grant, known.consent, now)

    # Device code (RFC 8628)

    def begin_device(self, client: str, scopes: tuple[str, ...], now: float) -> DeviceRequest:
        """A device asks; a person answers with `answer_device`."""
        request = DeviceRequest(
            Secret(secrets.token_urlsafe(32)),
            _user_code(),
            client,
            scopes,
            self.rules.device_interval,
            now + self.rules.device_lifetime,
        )
        _keep(self._devices, request.code.reveal(), request, now)
        self._user_codes[request.user_code] = request.code.reveal()
        if len(self._user_codes) > len(self._devices):
            self._user_codes = {known.user_code: code for code, known in self._devices.items()}
        return request

    def device(self, user_code: str, now: float) -> DeviceRequest | None:
        """The request still waiting under a user code, however the person typed it."""
        known = self._devices.get(self._user_codes.get(plain_user_code(user_code), ""))
        return known if known and known.expires > now and known.answer is None else None

    def answer_device(self, user_code: str, person: str, now: float) -> None:
        """`person` allows, "" denies. Raises GrantError when nothing waits under that code."""
        request = self.device(user_code, now)
        if request is None:
            raise GrantError("invalid_request", "No device waits under this code.")
        self._devices[request.code.reveal()] = replace(request, answer=person)

    def poll_device(self, code: str, client: str, now: float) -> Issued:
        """Tokens once a person allowed it; until then GrantError with authorization_pending or slow_down."""
        request = self._devices.get(code)
        if request is None or request.client != client:
            raise GrantError("invalid_grant", "The device code is unknown or for another client.")
        if request.expires <= now:
            raise GrantError("expired_token", "The device code has expired.")
        if request.answer is None:
            raise GrantError(self._waiting(request, now))
        del self._devices[code], self._user_codes[request.user_code]
        if not request.answer:
            raise GrantError("access_denied", "The person said no.")
        return self.grant(Consent(client, request.answer, request.scopes, now), now)

    def _waiting(self, request: DeviceRequest, now: float) -> str:
        too_soon = request.asked is not None and now - request.asked < request.interval
        interval = request.interval + SLOWER_BY if too_soon else request.interval
        self._devices[request.code.reveal()] = replace(request, asked=now, interval=interval)
        return "slow_down" if too_soon else "authorization_pending"

    # Refresh, client credentials, revocation

    def refresh(self, token: str, client: str, scopes: tuple[str, ...], now: float) -> Issued:
        """New tokens for a refresh token; `scopes` may narrow what was granted (empty: all of it)."""
        grant, serial = self._read(token)
        if grant is None or grant.consent.client != client:
            raise GrantError("invalid_grant", "The refresh token is unknown or for another client.")
        if serial != grant.serial and not self.rules.old_tokens_serve:
            self._reused(grant)
        if self._left(grant.consent, now) == 0:
            self._end({grant.id}, "its time is over")
            grant = self.grants[grant.id]
        if grant.ended:
            raise GrantError("invalid_grant", f"The grant has ended: {grant.ended}.")
        if not set(scopes) <= set(grant.consent.scopes):
            raise GrantError("invalid_scope", "More was asked for than was granted.")
        if self.rules.rotate:
            grant = self.grants[grant.id] = replace(grant, serial=grant.serial + 1)
        return self._issue(grant, replace(grant.consent, scopes=scopes or grant.consent.scopes), now)

    def _reused(self, grant: Grant) -> None:
        self.reuses += 1
        if self.rules.punish_reuse:
            self._end({grant.id}, "a refresh token was used twice")
        raise GrantError("invalid_grant", "The refresh token was used before.")

    def app_only(self, client: str, scopes: tuple[str, ...], now: float, person: str = "") -> Issued:
        """An access token for the program itself (RFC 6749 section 4.4), or in a person's name; no refresh token."""
        consent = Consent(client, person, tuple(scope for scope in scopes if scope != "offline_access"), now)
        return self._issue(Grant("", consent), consent, now)

    def revoke(self, token: str, client: str) -> None:
        """End the grant of a refresh token, or one access token (RFC 7009); the unknown has ended."""
        grant, _ = self._read(token)
        if grant is not None and grant.consent.client == client:
            self._end(self._ended_with(grant), "revoked by the client")
        access = self._access.get(token)
        if access is not None and access.consent.client == client:
            del self._access[token]

    def _ended_with(self, grant: Grant) -> set[str]:
        if not self.rules.revoke_all:
            return {grant.id}
        whose = (grant.consent.client, grant.consent.person)
        return {known.id for known in self.grants.values() if (known.consent.client, known.consent.person) == whose}

    def revoke_person(self, person: str = "") -> int:
        """End all grants of a person, or of everybody; how many there were."""
        grants = self.grants.values()
        ending = {known.id for known in grants if not known.ended and person in ("", known.consent.person)}
        self._end(ending, "revoked")
        return len(ending)

    def expire_access(self, person: str = "") -> int:
        """End the access tokens of a person, or of everybody; the grants stay. How many there were."""
        return self._drop(lambda access: person in ("", access.consent.person))

    def grant(self, consent: Consent, now: float) -> Issued:
        """Tokens for a consent that was given without any flow."""
        return self._issue(self._begin(consent), consent, now)

    # Questions

    def look_up(self, access_token: str, now: float) -> Access | None:
        """What an access token stands for, None when it is unknown or over."""
        access = self._access.get(access_token)
        return access if access is not None and access.expires > now else None

    def live_grant(self, token: str) -> Grant | None:
        """The grant whose newest refresh token this is and which is in force."""
        grant, serial = self._read(token)
        return grant if grant and not grant.ended and serial == grant.serial else None

    def person_of(self, *, refresh_token: str = "", code: str = "", device_code: str = "") -> str:
        """Whom a token request is about, "" where that is not known."""
        if refresh_token:
            grant, _ = self._read(refresh_token)
            return grant.consent.person if grant else ""
        if code:
            return self._codes[code].consent.person if code in self._codes else ""
        request = self._devices.get(device_code)
        return (request.answer or "") if request else ""

    def _begin(self, consent: Consent) -> Grant:
        if len(self.grants) >= MOST_KEPT:
            del self.grants[next(iter(self.grants))]
        grant = Grant(secrets.token_hex(8), consent)
        self.grants[grant.id] = grant
        return grant

    def _end(self, ending: set[str], why: str) -> None:
        for grant in ending & self.grants.keys():
            if not self.grants[grant].ended:
                self.grants[grant] = replace(self.grants[grant], ended=why)
        self._drop(lambda access: access.grant in ending)

    def _drop(self, over: Callable[[Access], bool]) -> int:
        kept = {token: access for token, access in self._access.items() if not over(access)}
        dropped = len(self._access) - len(kept)
        self._access = kept
        return dropped

    def _issue(self, grant: Grant, consent: Consent, now: float) -> Issued:
        token, lifetime = secrets.token_urlsafe(32), self.rules.access_token_lifetime
        _keep(self._access, token, Access(grant.id, consent, now, now + lifetime), now)
        if not grant.id or "offline_access" not in grant.consent.scopes:
            return Issued(Secret(token), lifetime, consent)
        return Issued(Secret(token), lifetime, consent, self._refresh_token(grant), self._left(grant.consent, now))

    def _left(self, consent: Consent, now: float) -> float | None:
        """Seconds until refresh tokens of a consent end; None where they never do."""
        whole = self.rules.consent_lifetime
        return max(0.0, consent.at + whole - now) if whole else None

    def _refresh_token(self, grant: Grant) -> Secret:
        name = f"{grant.id}.{grant.serial}"
        return Secret(f"{name}.{self._seal(name)}")

    def _read(self, refresh_token: str) -> tuple[Grant | None, int]:
        name, _, seal = refresh_token.rpartition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(name).encode()):
            return None, 0
        grant, _, serial = name.partition(".")
        return self.grants.get(grant), int(serial)

    def _seal(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()


def challenge_of(verifier: str) -> str:
    """The S256 code challenge of a verifier (RFC 7636 section 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def plain_user_code(typed: str) -> str:
    """A user code as it is kept, from however it was typed: case, dash and blanks do not count."""
    letters = "".join(letter for letter in typed.upper() if letter in CODE_LETTERS)
    return f"{letters[:4]}-{letters[4:]}"


def _user_code() -> str:
    return plain_user_code("".join(secrets.choice(CODE_LETTERS) for _ in range(8)))


def _keep(table: dict[str, _E], key: str, entry: _E, now: float) -> None:
    if len(table) >= MOST_KEPT:
        for old in [known for known, kept in table.items() if kept.expires <= now]:
            del table[old]
    if len(table) >= MOST_KEPT:
        del table[next(iter(table))]
    table[key] = entry
