"""What a sign-in server's answer means for a person, by the error catalogue, and the one step that mends it."""

import re
from typing import Literal

from posthouse.model.outcome import Refused, Unreachable
from posthouse.problems import ProblemError, problem
from posthouse.providers.catalogue import Entry, explain_network, explain_token_error
from posthouse.providers.provider import Family

Where = Literal["token", "authorize", "device", "revoke"]
NETWORK: tuple[Literal["tls", "tcp", "dns"], ...] = ("tls", "dns", "tcp")


def explained(outcome: Refused | Unreachable, family: Family, where: Where = "token") -> Entry | None:
    """By the door that gave the answer, else as any other door's; a connection that failed by the network's."""
    entry = explain_token_error(family, outcome, where) or explain_token_error(family, outcome)
    if entry is None and isinstance(outcome, Unreachable):
        known = (explain_network(layer, family, outcome.what) for layer in NETWORK)
        return next((one for one in known if one is not None), None)
    return entry


def closed_ways(outcome: Refused | Unreachable, family: Family, where: Where = "token") -> tuple[str, ...]:
    """Ways of which the provider's answer says that they are shut."""
    entry = explained(outcome, family, where) if isinstance(outcome, Refused) else None
    return entry.closes if entry else ()


def problem_of(
    outcome: Refused | Unreachable, family: Family, where: Where = "token", *, redirect_url: str = ""
) -> ProblemError:
    """The meaning of a refusal or a failure with the provider's own words, and the step.

    `redirect_url` is told where it is what has to be registered.
    """
    entry = explained(outcome, family, where)
    if isinstance(outcome, Unreachable):
        sentence = f"The provider's sign-in gave no usable answer: {outcome.what}."
        hint = f"{entry.meaning} {entry.fix}" if entry else "Check the network, then try again."
        return problem("provider.unreachable", sentence, hint, status=75)
    words = " ".join(part for part in (outcome.error, outcome.description) if part)[:600]
    if entry is None:
        hint = "Compare client id, secret, tenant, scopes and redirect URL with the app registration at the provider."
        return problem(f"provider.{outcome.error}"[:80], f"The provider refused: {words}.", hint)
    shown = f" Register exactly this redirect URL: {redirect_url}" if "redirect_url" in entry.shows else ""
    return problem(f"provider.{entry.id}", f"{entry.meaning} (The provider said: {words})", f"{entry.fix}{shown}")


def remembered(detail: str) -> Refused | None:
    """What the provider said when a token became invalid, as it was written down: its error, then its description."""
    error, _, description = detail.partition(" ")
    if not re.fullmatch(r"[a-z_]{3,60}", error):
        return None
    return Refused(error, description=description, codes=tuple(re.findall(r"AADSTS\d{1,9}", detail))[:10])
