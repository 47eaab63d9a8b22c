"""What a token is at this moment, in the words that page, API, command line, webhook and metrics share."""

import zlib
from dataclasses import dataclass, field
from enum import StrEnum

from posthouse.model.forecast import Course
from posthouse.secret import Secret


class TokenState(StrEnum):
    NOT_ACQUIRED = "not_acquired"
    WAITING = "waiting_for_authentication"
    ACQUIRED = "acquired"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Token:
    """(app, account, name) and the grant that serves it. `pending_grant` is a newer one that is being proved."""

    id: str
    app_id: str
    account: str
    name: str
    state: TokenState
    reason: str
    detail: str
    since: float
    version: int
    serving_grant: str | None = None
    pending_grant: str | None = None
    pinned: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """One consent. `serial` grows at each rotation; an answer may only be written over the serial it was made for.

    `given_to` names client and provider: nobody else is ever shown its refresh token. `told_end` and `latest_end`:
    the end of the refresh token as the provider named it first and last; 0.0 where it does not.
    `app_only` names the account in whose name the app asks by itself, with nobody signing in; empty for a consent.
    """

    id: str
    token_id: str
    serial: int
    access_token: Secret
    refresh_token: Secret | None
    previous_refresh_token: Secret | None
    access_expires_at: float
    next_refresh_at: float
    obtained_at: float
    refreshed_at: float
    failures: int
    last_error: str
    scopes: tuple[str, ...]
    issuer: str
    subject: str
    person: str
    intent_serial: int | None = field(default=None)
    intent_at: float = 0.0
    lease_epoch: int = 0
    given_to: str = ""
    told_end: float = 0.0
    latest_end: float = 0.0
    app_only: str = ""

    @property
    def renewable(self) -> bool:
        return self.refresh_token is not None or bool(self.app_only)

    @property
    def course(self) -> Course:
        """How it has fared, for the forecast."""
        return Course(
            self.obtained_at, self.refreshed_at, self.next_refresh_at, self.failures, self.told_end, self.latest_end
        )

    @property
    def answer_was_lost(self) -> bool:
        """A request with this serial was sent and its answer never written: the provider may have rotated."""
        return self.intent_serial == self.serial


def state_after(serving: bool, waiting: bool, failure: str) -> TokenState:
    """The state of a token that has a serving grant or not, an authorisation under way or not, a failure or none."""
    if serving and not failure:
        return TokenState.ACQUIRED
    if failure:
        return TokenState.INVALID
    return TokenState.WAITING if waiting else TokenState.NOT_ACQUIRED


NEXT_STEP = {
    TokenState.NOT_ACQUIRED: "get_token",
    TokenState.WAITING: "sign_in",
    TokenState.ACQUIRED: "",
    TokenState.INVALID: "reauthorise",
}
CONFIRM = "confirm"
"""The next step where the provider does not say who signed in, whatever the state."""


def refresh_at(now: float, expires_at: float, spread: float = 0.0) -> float:
    """When to refresh in the background: a fifth of its life before it ends, at least 5 minutes where there are.

    `spread`, from 0 to 1, takes up to a third of that time off, so that what came together does not stay together.
    """
    life = max(0.0, expires_at - now)
    last = expires_at - max(life / 5, min(300.0, life / 2))
    return last - spread * max(0.0, last - now) / 3


def spread_of(grant_id: str, serial: int) -> float:
    """A number from 0 to 1, another one for each grant and each of its refreshes; always the same for these."""
    return zlib.crc32(f"{serial}:{grant_id}".encode()) / 2**32


def pause_after_failures(failures: int) -> float:
    """Seconds to wait after so many temporary failures in a row: 5, 10, 20 … at most 15 minutes."""
    return min(5.0 * 2 ** min(failures - 1, 10), 900.0) if failures > 0 else 0.0
