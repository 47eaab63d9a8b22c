"""What the words of the API are called on a terminal, and the command that is the next step."""

from typing import Any

from posthouse.cli.calling import moment
from posthouse.web.words import TOKEN_REASONS, TOKEN_STATES


def token_words(token: dict[str, Any] | None) -> str:
    """Such as `invalid: it was revoked at the provider, since 2027-01-01 12:00:00`."""
    if token is None:
        return "password"
    state = TOKEN_STATES.get(token["state"], token["state"])
    reason = TOKEN_REASONS.get(token["reason"], token["reason"])
    since = f", since {moment(token['since'])}" if token["since"] else ""
    return f"{state}: {reason}{since}" if reason else f"{state}{since}"


def step_for(mailbox: dict[str, Any]) -> str:
    """The command to type next, or nothing."""
    token = mailbox["token"]
    if token is None or not token["next_step"]:
        return ""
    return f"posthouse authorise {mailbox['address']}"
