"""The error catalogue: what an answer of a provider means, which kind of trouble it is, and what mends it.

`errors.json` holds the entries and, under `match_rules`, the rules implemented here. It explains; whether a
grant lives is decided by the OAuth `error` alone (`posthouse.model.outcome`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from posthouse.model.outcome import Refused, Unreachable

Where = Literal["token", "authorize", "device", "revoke", "smtp", "imap", "pop3", "tls", "tcp", "dns"]
Class = Literal[
    "retry_later",
    "throttled",
    "reauthorise",
    "fix_app_registration",
    "fix_mailbox_setting",
    "fix_permission",
    "fix_licence",
    "fix_network",
    "fix_policy",
    "reject_message",
    "bug",
]
MAX_TEXT = 16 * 1024

_NESTED = re.compile(r"\bError: (\d{3}) (\d\.\d{1,3}\.\d{1,3})\b")
_ENHANCED = re.compile(r"(?:\d{3} )?(\d\.\d{1,3}\.\d{1,3})\b")
_BRACKETED = re.compile(r"\[([A-Za-z][A-Za-z0-9/-]{0,40})(\]?)")
_CONTINUED = re.compile(r"\b(\d{3})-(?=\d\.\d)")


class Match(msgspec.Struct, frozen=True):
    """What an answer has to carry: one of `code` and one of `text`, where the list is not empty."""

    code: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True, rename={"class_": "class"}):
    """One explanation. An entry that is not `verified` may support an explanation, never a decision.

    `closes`: ways to get a token of which this answer says that they are shut, while others may be open. `shows`: what
    a person needs to see for the fix, such as "redirect_url". `about`: "sender" where nothing but the sender's address
    is refused.
    """

    id: str
    where: Where
    provider: str
    match: Match
    meaning: str
    class_: Class
    fix: str
    source: str
    verified: bool
    also_where: tuple[Where, ...] = ()
    closes: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    about: Literal["", "sender"] = ""


class _File(msgspec.Struct):
    entries: tuple[Entry, ...]


class _Ranked(msgspec.Struct, frozen=True):
    """An entry with its place in the order of trying, and its texts ready for comparison."""

    rank: tuple[bool, int]
    entry: Entry
    texts: tuple[str, ...]

    def fits(self, where: str, codes: frozenset[str], text: str) -> bool:
        entry = self.entry
        return (
            (where == entry.where or where in entry.also_where)
            and (not entry.match.code or not codes.isdisjoint(entry.match.code))
            and (not self.texts or any(part in text for part in self.texts))
        )


_Index = dict[tuple[str, str], list[_Ranked]]


def explain(where: Where, provider: str, codes: Iterable[str], text: str) -> Entry | None:
    """The first entry that fits, the family's own before those for any; None when none does.

    `provider` is a `Provider.family`. `codes` are spelled as in the file: "535 5.7.139", "AADSTS50173",
    "suberror:bad_token", "[ALERT]", "HTTP 429".
    """
    carried, folded = frozenset(codes), _fold(text)
    families = (provider, "any") if provider != "any" else ("any",)
    for family in families:
        fitting = (ranked for ranked in _candidates(family, carried) if ranked.fits(where, carried, folded))
        first = next(fitting, None)
        if first is not None:
            return first.entry
    return None


def explain_smtp(provider: str, code: int, enhanced: str, text: str) -> Entry | None:
    """An SMTP reply: basic code, enhanced code or "" (then looked for at the text's beginning), joined lines.

    A reply that quotes an inner one (`Error: 535 5.7.139 …`) carries the codes of both.
    """
    plain = _CONTINUED.sub(r"\1 ", text[:MAX_TEXT]).strip()
    found = enhanced or (start[1] if (start := _ENHANCED.match(plain)) else "")
    codes = _smtp_codes(str(code), found)
    for nested in _NESTED.finditer(plain):
        codes |= _smtp_codes(nested[1], nested[2])
    return explain("smtp", provider, codes, plain)


def explain_imap(provider: str, status: str, text: str) -> Entry | None:
    """A tagged answer or BYE: its status word, and its text with the response code in brackets."""
    return explain("imap", provider, {status.upper(), *_response_codes(text)}, text)


def explain_pop3(provider: str, text: str) -> Entry | None:
    """The text of an `-ERR` answer, with its response code (RFC 2449 section 8) in brackets."""
    return explain("pop3", provider, {"-ERR", *_response_codes(text)}, text)


def explain_token_error(
    provider: str, outcome: Refused | Unreachable, where: Literal["token", "authorize", "device", "revoke"] = "token"
) -> Entry | None:
    """A refusal by, or a failure of, the authorisation server."""
    status = f"HTTP {outcome.status}"
    if isinstance(outcome, Unreachable):
        return explain(where, provider, {status, outcome.what}, outcome.what)
    codes = {outcome.error, *outcome.codes, f"suberror:{outcome.suberror}", status}
    return explain(where, provider, codes, f"{outcome.description} {outcome.suberror}")


def explain_network(where: Literal["tls", "tcp", "dns"], provider: str, text: str) -> Entry | None:
    """A failure before any server spoke; `text` is the system's message, with `host:port` where known."""
    return explain(where, provider, (), text)


def entries() -> tuple[Entry, ...]:
    """Everything, in file order."""
    return _load()[0]


@cache
def _load() -> tuple[tuple[Entry, ...], _Index]:
    data = files("posthouse.providers").joinpath("errors.json").read_bytes()
    found = msgspec.json.decode(data, type=_File).entries
    index: _Index = defaultdict(list)
    for place, entry in enumerate(found):
        texts = tuple(_fold(text) for text in entry.match.text)
        ranked = _Ranked((not texts, place), entry, texts)
        for code in entry.match.code or ("",):
            index[entry.provider, code].append(ranked)
    return found, dict(index)


def _candidates(family: str, codes: frozenset[str]) -> list[_Ranked]:
    """Those with a text first, then the others, each in file order; entries without a code are under ""."""
    index = _load()[1]
    found = {ranked.rank: ranked for code in (*codes, "") for ranked in index.get((family, code), ())}
    return [found[rank] for rank in sorted(found)]


def _smtp_codes(basic: str, enhanced: str) -> set[str]:
    return {basic, enhanced, f"{basic} {enhanced}"} if enhanced else {basic}


def _response_codes(text: str) -> set[str]:
    """`[ALERT]`; with arguments (`[WEBALERT https…]`) also the form without the closing bracket."""
    return {
        spelled
        for word, closed in _BRACKETED.findall(text[:MAX_TEXT])
        for spelled in ((f"[{word.upper()}]",) if closed else (f"[{word.upper()}", f"[{word.upper()}]"))
    }


def _fold(text: str) -> str:
    return " ".join(text[:MAX_TEXT].casefold().split())
