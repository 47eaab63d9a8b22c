"""From a template and values to a page in the reader's language."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from posthouse.locales import LANGUAGES, SOURCE, translations
from posthouse.model.token import Token
from posthouse.providers.provider import CALLBACK
from posthouse.services import storage
from posthouse.services.standing import Standing
from posthouse.store import notices, tokens
from posthouse.web import i18n, words
from posthouse.web.visits import Visit

YEAR = 365 * 86_400


@cache
def environment(language: str) -> Environment:
    """Templates that speak one of LANGUAGES."""
    made = Environment(
        loader=PackageLoader("posthouse.web"),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["ext.i18n.trimmed"] = True
    said = translations(language)
    made.install_gettext_translations(said, newstyle=True)  # type: ignore[attr-defined]
    made.filters["moment"] = lambda seconds: i18n.moment(seconds, language)
    made.filters["time"] = lambda seconds: _time(seconds, language)
    made.filters["day"] = lambda seconds: _day(seconds, language)
    made.filters["size"] = lambda octets: words.size(octets, said)
    made.filters["explained"] = lambda text: words.explained(text, said)
    made.filters["notice_cause"] = lambda cause: words.notice_cause(cause, said)
    made.filters["language_of_cause"] = lambda cause: language if words.notice_cause(cause, said) != cause else SOURCE
    made.filters["language_of"] = lambda text: language if words.is_known(text) else SOURCE
    for name, known in words.LABELS.items():
        made.filters[name] = _filter_of(known, language)
    made.globals.update(language=language, languages=LANGUAGES)
    return made


def _time(seconds: float, language: str) -> Markup:
    shown, machine = i18n.moment(seconds, language), i18n.machine_moment(seconds)
    return Markup('<time datetime="{}">{}</time>').format(machine, shown)


def _day(seconds: float, language: str) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(i18n.machine_moment(seconds), i18n.day(seconds, language))


def _filter_of(known: dict[str, str], language: str) -> Any:
    """A filter from a word of the API to the word of the page; what is unknown stays as it is."""

    def label(word: str) -> str:
        return translations(language).gettext(known[str(word)]) if str(word) in known else str(word)

    return label


async def page(visit: Visit, template: str, **values: Any) -> HTMLResponse:
    """A whole page. Whoever is signed in sees the banner."""
    if visit.person is not None:
        values["banner"] = await _banner(visit)
        values["open_notices"] = await visit.parts.store.database.read(notices.count_open)
    return fragment(visit, template, **{"banner": None, "trouble": _trouble(visit), **values})


def _trouble(visit: Visit) -> str:
    """Why no mail can be taken at the moment, and the step that mends it; for whoever is signed in."""
    found = storage.problem_of(visit.parts.store) if visit.person is not None else None
    return words.explained(str(found), translations(visit.language)) if found else ""


BROKEN = 3
"""Tokens that the banner names; of the others it gives the number."""


@dataclass(frozen=True, slots=True)
class Broken:
    """One token that somebody has to sign in for again; `id` is the first of its mailboxes."""

    id: str
    account: str
    reason: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Banner:
    """One line for each token, not for each of the mailboxes that share it. `more` is how many are not named."""

    broken: tuple[Broken, ...]
    more: int


async def _banner(visit: Visit) -> Banner | None:
    standing = await visit.parts.standings.look()
    named = standing.broken[:BROKEN]
    if not named:
        return None
    found = {one.id: one for one in await visit.parts.store.database.read(lambda tx: tokens.some(tx, named))}
    shown = (_broken(standing, found[token_id]) for token_id in named if token_id in found)
    return Banner(tuple(shown), len(standing.broken) - len(named))


def _broken(standing: Standing, token: Token) -> Broken:
    users = standing.snapshot.uses_now(token.id)
    addresses = tuple(user.mailbox.address for user in users)
    return Broken(users[0].mailbox.id, token.account, token.reason or "other", addresses)


def fragment(visit: Visit, template: str, **values: Any) -> HTMLResponse:
    """A template by itself."""
    values = {"visit": visit, "language_links": list(_language_links(visit)), **values}
    status = values.pop("status", HTTPStatus.OK)
    answer = HTMLResponse(environment(visit.language).get_template(template).render(values), status)
    answer.headers["content-language"] = visit.language
    answer.headers["vary"] = "accept-language, cookie"
    if visit.request.query_params.get("lang") == visit.language:
        answer.set_cookie(
            i18n.COOKIE,
            visit.language,
            max_age=YEAR,
            httponly=True,
            samesite="lax",
            secure=visit.parts.settings.secure_cookies,
        )
    return answer


def _may_be_linked(path: str) -> bool:
    """Neither one that a browser takes for another site, nor one whose parameters are a provider's code."""
    return not path.startswith(("//", CALLBACK)) and "\\" not in path


def _language_links(visit: Visit) -> Iterable[tuple[str, str, str]]:
    """Code, name, and where this page stands in that language; a page that answered a form leads to the first page."""
    request = visit.request
    path = request.url.path if request.method == "GET" and _may_be_linked(request.url.path) else "/"
    kept = [pair for pair in request.query_params.multi_items() if pair[0] != "lang"] if path != "/" else []
    for code, name in LANGUAGES.items():
        yield code, name, f"{path}?{urlencode([*kept, ('lang', code)])}"
