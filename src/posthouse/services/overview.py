"""How every mailbox and token stands, read at one moment: what page, API and command line all show."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from posthouse.model.forecast import Ending
from posthouse.model.mailbox import Mailbox, Protocol
from posthouse.model.token import NEXT_STEP, Grant, Token, TokenState
from posthouse.services import forecast
from posthouse.services.directory import Directory, Snapshot
from posthouse.services.forecast import Forecast
from posthouse.store import messages, tokens
from posthouse.store.database import Transaction
from posthouse.store.messages import Summary, Wanted
from posthouse.store.opening import Store
from posthouse.store.tokens import SettingResult

Direction = Literal["incoming", "outgoing", "both", "none"]
ServerState = Literal["proved", "refused", "unreachable", "untested"]


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token without its secrets. Times are seconds since 1970, 0.0 where there is none.

    `refreshable`: there is a refresh token; without one an acquired token ends at `access_expires_at`.
    `reauthorising`: a newer consent is being proved beside the one that serves. `used_by` are addresses.
    `forecast`: what of it or of its app registration will end, the nearest first.
    """

    id: str
    app: str
    account: str
    name: str
    state: TokenState
    reason: str
    detail: str
    since: float
    next_step: str
    person: str = ""
    scopes: tuple[str, ...] = ()
    obtained_at: float = 0.0
    refreshed_at: float = 0.0
    access_expires_at: float = 0.0
    refreshable: bool = False
    failures: int = 0
    last_error: str = ""
    reauthorising: bool = False
    used_by: tuple[str, ...] = ()
    forecast: tuple[Ending, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerView:
    """One protocol of a mailbox and how it last fared. `server` is `host:port tls`, empty where none is known."""

    protocol: Protocol
    server: str
    user: str
    state: ServerState = "untested"
    answer: str = ""
    cause: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class MailboxView:
    """`token` is None for a mailbox with a password. `queue` counts messages by state."""

    mailbox: Mailbox
    app: str
    provider: str
    provider_title: str
    direction: Direction
    token: TokenView | None
    servers: tuple[ServerView, ...]
    last_success: float
    queue: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs_reauthorising(self) -> bool:
        return self.token is not None and self.token.state is TokenState.INVALID


@dataclass(frozen=True, slots=True)
class Overview:
    """By address; tokens by account. `forecasts`: everything that will end, each once."""

    mailboxes: tuple[MailboxView, ...]
    tokens: tuple[TokenView, ...]
    forecasts: tuple[Forecast, ...] = ()

    def warnings(self, now: float) -> list[Forecast]:
        """What ends within 60 days or has ended, the nearest first."""
        return forecast.warnings(self.forecasts, now)

    @property
    def banner(self) -> tuple[MailboxView, ...]:
        """The mailboxes that a person has to sign in for again."""
        return tuple(view for view in self.mailboxes if view.needs_reauthorising)

    @property
    def queue(self) -> dict[str, int]:
        """Messages of all mailboxes by state."""
        total: dict[str, int] = {}
        for view in self.mailboxes:
            for state, count in view.queue.items():
                total[state] = total.get(state, 0) + count
        return total

    def mailbox(self, name: str) -> MailboxView | None:
        """By id or address."""
        wanted = name.strip().casefold()
        return next(
            (view for view in self.mailboxes if view.mailbox.address == wanted or view.mailbox.id == name), None
        )

    def token(self, token_id: str) -> TokenView | None:
        return next((view for view in self.tokens if view.id == token_id), None)


@dataclass(frozen=True, slots=True)
class _Rows:
    tokens: list[Token]
    grants: dict[str, Grant]
    results: dict[tuple[str, str], SettingResult]
    counts: dict[str, dict[str, int]]
    sent: dict[str, float]


async def overview(store: Store, directory: Directory) -> Overview:
    """One read transaction, beside the newest configuration. Raises DatabaseUnavailable."""
    await directory.refresh()
    rows = await store.database.read(lambda tx: _read(tx, store))
    return _assemble(directory.now, rows)


async def _read(tx: Transaction, store: Store) -> _Rows:
    return _Rows(
        await tokens.everything(tx),
        await tokens.serving(tx, store.sealer),
        await tokens.results(tx),
        await messages.counts(tx),
        _last_sent(await messages.page(tx, wanted=Wanted(state="sent"))),
    )


def _last_sent(newest: Iterable[Summary]) -> dict[str, float]:
    last: dict[str, float] = {}
    for summary in newest:
        last[summary.mailbox_id] = max(summary.finished_at, last.get(summary.mailbox_id, 0.0))
    return last


def _assemble(snapshot: Snapshot, rows: _Rows) -> Overview:
    forecasts = tuple(_forecasts(snapshot, rows))
    endings = _by_subject(forecasts)
    views = {token.id: _token_view(snapshot, rows, token, endings) for token in rows.tokens}
    mailboxes = (_mailbox_view(snapshot, rows, views, mailbox) for mailbox in snapshot.mailboxes.values())
    return Overview(tuple(mailboxes), tuple(views.values()), forecasts)


def _forecasts(snapshot: Snapshot, rows: _Rows) -> Iterator[Forecast]:
    for app in snapshot.configuration.apps.values():
        yield from forecast.of_app(snapshot, app)
    for token in rows.tokens:
        grant = rows.grants.get(token.serving_grant or "")
        if grant is not None and token.state is TokenState.ACQUIRED:
            yield from forecast.of_token(snapshot, token.id, token.app_id, token.account, grant.course)


def _by_subject(forecasts: Iterable[Forecast]) -> dict[str, list[Ending]]:
    endings: dict[str, list[Ending]] = {}
    for one in forecasts:
        endings.setdefault(one.subject, []).append(one.ending)
    return endings


def _token_view(snapshot: Snapshot, rows: _Rows, token: Token, endings: Mapping[str, Sequence[Ending]]) -> TokenView:
    app = snapshot.configuration.apps.get(token.app_id)
    grant = rows.grants.get(token.serving_grant or "")
    bare = TokenView(
        id=token.id,
        app=app.name if app else "",
        account=token.account,
        name=token.name,
        state=token.state,
        reason=token.reason,
        detail=token.detail,
        since=token.since,
        next_step=NEXT_STEP[token.state],
        reauthorising=token.pending_grant is not None and token.serving_grant is not None,
        used_by=tuple(mailbox.address for mailbox in snapshot.mailboxes_of_token(token.id)),
        forecast=tuple(sorted((*endings.get(token.app_id, ()), *endings.get(token.id, ())))),
    )
    return _with_grant(bare, grant) if grant else bare


def _with_grant(view: TokenView, grant: Grant) -> TokenView:
    return replace(
        view,
        person=grant.person,
        scopes=grant.scopes,
        obtained_at=grant.obtained_at,
        refreshed_at=grant.refreshed_at,
        access_expires_at=grant.access_expires_at,
        refreshable=grant.renewable,
        failures=grant.failures,
        last_error=grant.last_error,
    )


def _mailbox_view(snapshot: Snapshot, rows: _Rows, views: Mapping[str, TokenView], mailbox: Mailbox) -> MailboxView:
    app, provider = snapshot.app_of(mailbox), snapshot.provider_of(mailbox)
    servers = tuple(_server_view(snapshot, rows, mailbox, protocol) for protocol in mailbox.settings.enabled())
    proved = [server.since for server in servers if server.state == "proved"]
    default = snapshot.default_mailbox
    return MailboxView(
        mailbox=replace(mailbox, default=default is not None and default.id == mailbox.id),
        app=app.name if app else "",
        provider=app.provider if app else "",
        provider_title=(provider.title or provider.name) if provider else "",
        direction=_direction(mailbox),
        token=views.get(mailbox.token_id or ""),
        servers=servers,
        last_success=max((*proved, rows.sent.get(mailbox.id, 0.0))),
        queue=rows.counts.get(mailbox.id, {}),
    )


def _server_view(snapshot: Snapshot, rows: _Rows, mailbox: Mailbox, protocol: Protocol) -> ServerView:
    endpoint = snapshot.endpoint(mailbox, protocol)
    bare = ServerView(protocol, str(endpoint) if endpoint else "", snapshot.user(mailbox, protocol))
    result = rows.results.get((mailbox.id, protocol))
    if result is None:
        return bare
    return replace(bare, state=_STATES[result.state], answer=result.answer, cause=result.cause, since=result.since)


_STATES: dict[str, ServerState] = {"proved": "proved", "refused": "refused", "unreachable": "unreachable"}


def _direction(mailbox: Mailbox) -> Direction:
    settings = mailbox.settings
    if settings.send and settings.receive:
        return "both"
    return "outgoing" if settings.send else "incoming" if settings.receive else "none"
