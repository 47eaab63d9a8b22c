"""What came of asking an authorisation server for something: granted, refused, unreachable, not yet.

Only the `error` value of an answer decides what happens to a grant; suberror, AADSTS numbers and texts
choose the words that a person reads (RFC 6749 section 5.2; Microsoft Entra error code reference).
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum

from posthouse.secret import Secret


class Reason(StrEnum):
    """Why a token is invalid, in the words of page, API, log and mail."""

    ACCOUNT_UNAVAILABLE = "account_unavailable"
    EXPIRED = "expired"
    REVOKED = "revoked"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a word, no password
    CLIENT_CHANGED = "client_changed"
    CONSENT_MISSING = "consent_missing"
    POLICY = "policy"
    ANSWER_LOST = "answer_lost"
    """The answer to a rotation never arrived, and what it replaced is refused now."""
    OTHER = "other"


class Verdict(Enum):
    """What a refusal means for the grant that was used."""

    GRANT_DEAD = "this grant will never work again; a person has to sign in"
    CLIENT_REFUSED = "every grant of this registration is refused until its settings change"
    REQUEST_REFUSED = "only this request is refused; the grant is kept"


@dataclass(frozen=True, slots=True)
class Granted:
    """Tokens. `refresh_token` is None when the answer had none: the one in hand stays (RFC 6749 section 6)."""

    access_token: Secret
    lifetime: timedelta
    refresh_token: Secret | None = None
    scopes: tuple[str, ...] = ()
    id_token: Secret | None = None
    assumed_lifetime: bool = False
    """True where the answer named no lifetime that makes sense and one hour was taken."""
    refresh_lifetime: timedelta | None = None
    """How long the refresh token will live, where the provider says so; no RFC knows it."""

    def refresh_ends_at(self, now: float) -> float:
        """In seconds since 1970; 0.0 where the provider names no end."""
        return now + self.refresh_lifetime.total_seconds() if self.refresh_lifetime is not None else 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """A clear no: the members of an OAuth error answer. `trace` is what the provider's support asks for."""

    error: str
    suberror: str = ""
    description: str = ""
    codes: tuple[str, ...] = ()
    """Microsoft's numbers as `AADSTS70008`."""
    trace: str = ""
    status: int = 0

    @property
    def is_silence(self) -> bool:
        return False

    @property
    def verdict(self) -> Verdict:
        return _VERDICTS.get(self.error.lower(), Verdict.REQUEST_REFUSED)

    @property
    def kills_grant(self) -> bool:
        return self.verdict is Verdict.GRANT_DEAD

    @property
    def client_refused(self) -> bool:
        return self.verdict is Verdict.CLIENT_REFUSED

    @property
    def reason(self) -> Reason:
        """The word for a person; never asked for a decision."""
        if self.client_refused:
            return Reason.CLIENT_CHANGED
        return _by_number(self.codes) or _by_text(f"{self.suberror} {self.description}") or _by_error(self.error)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No usable answer, for now; nothing is destroyed. `retry_after` in seconds where the server named a time.

    `outcome_unknown` is True where the server may have acted all the same: a refresh token that was sent
    may have been replaced. `busy`: it said that it cannot answer now. `ours`: it was not asked, or the fault is ours.
    """

    what: str
    retry_after: float | None = None
    outcome_unknown: bool = False
    status: int = 0
    busy: bool = False
    ours: bool = False

    @property
    def is_silence(self) -> bool:
        """Whether the server is away or busy; else it spoke, only not as expected."""
        return not self.ours and (self.busy or not self.status)


@dataclass(frozen=True, slots=True)
class Pending:
    """Device flow: the person has not finished (RFC 8628 section 3.5)."""


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Device flow: as `Pending`, and five seconds more between questions from now on."""


TokenOutcome = Granted | Refused | Unreachable

_VERDICTS = dict.fromkeys(
    (
        "invalid_grant",
        "expired_token",
        "token_expired",
        "invalid_refresh_token",
        "interaction_required",
        "login_required",
        "consent_required",
        "account_selection_required",
    ),
    Verdict.GRANT_DEAD,
) | dict.fromkeys(
    (
        "invalid_client",
        "invalid_client_secret",
        "unauthorized_client",
        "deleted_client",
        "disabled_client",
        "org_internal",
    ),
    Verdict.CLIENT_REFUSED,
)

_NUMBERS = {
    Reason.PASSWORD_CHANGED: "50055 50126 50132 50133 50144 50173",
    Reason.EXPIRED: "50078 50089 54005 70008 70043 700082 700084",
    Reason.REVOKED: "50013 700003",
    Reason.ACCOUNT_UNAVAILABLE: "16000 50020 50034 50053 50057 50105 500208 51004",
    Reason.CONSENT_MISSING: "65001 65004 90094 90095 900941",
    Reason.POLICY: ("50072 50074 50076 50079 50097 50158 53000 53001 53002 53003 53004 530032 530034 530035 530036"),
    Reason.CLIENT_CHANGED: "70001 700016 700027 7000112 7000215 7000218 7000222 1000502",
}
_REASON_OF_NUMBER = {f"AADSTS{number}": reason for reason, text in _NUMBERS.items() for number in text.split()}

_TEXTS = (
    ("user_password_expired", Reason.PASSWORD_CHANGED),
    ("service abuse mode", Reason.ACCOUNT_UNAVAILABLE),
    ("account has been deleted", Reason.ACCOUNT_UNAVAILABLE),
    ("invalid email or user id", Reason.ACCOUNT_UNAVAILABLE),
    ("invalid_rapt", Reason.POLICY),
    ("consent_required", Reason.CONSENT_MISSING),
    ("basic_action", Reason.POLICY),
    ("additional_action", Reason.POLICY),
    ("message_only", Reason.POLICY),
    ("token_expired", Reason.EXPIRED),
    ("bad_token", Reason.EXPIRED),
    ("expired or revoked", Reason.REVOKED),
    ("revoked", Reason.REVOKED),
    ("expired", Reason.EXPIRED),
)

_ERRORS = {
    "expired_token": Reason.EXPIRED,
    "token_expired": Reason.EXPIRED,
    "consent_required": Reason.CONSENT_MISSING,
    "interaction_required": Reason.POLICY,
    "admin_policy_enforced": Reason.POLICY,
}


def _by_number(codes: tuple[str, ...]) -> Reason | None:
    return next((_REASON_OF_NUMBER[code] for code in codes if code in _REASON_OF_NUMBER), None)


def _by_text(text: str) -> Reason | None:
    folded = text.casefold()
    return next((reason for part, reason in _TEXTS if part in folded), None)


def _by_error(error: str) -> Reason:
    return _ERRORS.get(error.lower(), Reason.OTHER)
