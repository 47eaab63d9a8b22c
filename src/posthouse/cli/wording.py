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
    return step_words(mailbox["next_step"], mailbox["address"], mailbox["next_for"])


def step_words(step: str, address: str, purpose: str | None) -> str:
    """What an administrator does next, or nothing."""
    if step == "confirm":
        again = authorise_command(address, purpose)
        return f"an administrator confirms on the mailbox's page that the right person signed in (or anew: {again})"
    return authorise_command(address, purpose) if step else ""


def authorise_command(address: str, purpose: str | None) -> str:
    return f"posthouse authorise {address}" + (f" --for {purpose}" if purpose else "")


def users_words(token: dict[str, Any]) -> str:
    """Such as `alice@example.com: sending, receiving; support@example.com: sending`."""
    return _by_mailbox(token["used_by"])


def waiting_words(token: dict[str, Any]) -> str:
    refused = "; ".join(clean(user["refused"], 300) for user in token["waiting"] if user["refused"])
    return _by_mailbox(token["waiting"]) + (f" ({refused})" if refused else "")


def _by_mailbox(users: list[dict[str, Any]]) -> str:
    settings: dict[str, list[str]] = {}
    for user in users:
        settings.setdefault(user["mailbox"], []).append(user["for"])
    return "; ".join(f"{address}: {', '.join(purposes)}" for address, purposes in settings.items())


def tokens_words(mailbox: dict[str, Any]) -> str:
    """The states of all tokens; where there are several each with the settings of this mailbox that use it."""
    shown = [(one, _settings_of(one, mailbox["address"])) for one in mailbox["tokens"]]
    in_use = [(one, purposes) for one, purposes in shown if purposes]
    if len(in_use) < 2:
        return token_words(mailbox["token"])
    return "; ".join(f"{', '.join(purposes)}: {token_words(one)}" for one, purposes in in_use)


def _settings_of(token: dict[str, Any], address: str) -> list[str]:
    return [user["for"] for user in token["used_by"] if user["mailbox"] == address]


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
