"""What the words of the API are called on a terminal, and the command that is the next step."""

from typing import Any

from posthouse.cli.calling import clean, moment
from posthouse.web.words import ENDING_STEPS, ENDINGS, TOKEN_REASONS, TOKEN_STATES


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


def ending_words(ending: dict[str, Any]) -> str:
    """Such as `2027-05-01 client secret`; the day is that of UTC, as it was written."""
    return f"{_day(ending)} {ENDINGS.get(ending['what'], ending['what'])}"


def endings_words(token: dict[str, Any] | None) -> str:
    return ", ".join(ending_words(ending) for ending in (token or {}).get("forecast", ()))


def warning_words(warning: dict[str, Any]) -> str:
    """Such as `office: client secret ends in 14 days, on 2027-05-01 (support@example.com). Make …`."""
    what, step = ENDINGS.get(warning["what"], warning["what"]), ENDING_STEPS.get(warning["next_step"], "")
    left = warning["days_left"]
    when = f"ends in {left} {'day' if left == 1 else 'days'}, on" if left else "has ended on"
    return f"{clean(warning['name'])}: {what} {when} {_day(warning)} ({_stopped(warning)}). {step}"


def _stopped(warning: dict[str, Any]) -> str:
    named = warning["mailboxes"][:5]
    others = warning["count"] - len(named)
    return ", ".join(named) + (f" and {others} more" if others else "")


def _day(ending: dict[str, Any]) -> str:
    return str(ending["ends_at"])[:10]
