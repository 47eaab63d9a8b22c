"""How every mailbox and token stands, read at one moment: what page, API and command line all show."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from posthouse.model.forecast import Ending
from posthouse.model.mailbox import Mailbox, Protocol, Purpose, purpose_of
from posthouse.model.sender import Learnt, sender_doubt
from posthouse.model.token import CONFIRM, NEXT_STEP, Grant, Token, TokenState
from posthouse.services import forecast
from posthouse.services.directory import Directory, Snapshot
from posthouse.services.forecast import Forecast
from posthouse.services.refusals import explained, remembered
from posthouse.store import authorisations, leaving, messages, senders, tokens
from posthouse.store.configuration import StoredApp
from posthouse.store.database import Transaction
from posthouse.store.leaving import Held
from posthouse.store.messages import Summary, Wanted
from posthouse.store.opening import Store
from posthouse.store.tokens import SettingResult

Direction = Literal["incoming", "outgoing", "both", "none"]
ServerState = Literal["proved", "refused", "unreachable", "untested"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the mailbox with this address. `refused`: why it still waits for a token, where that was tried."""

    address: str
    purpose: Purpose
    refused: str = ""


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token without its secrets. Times are seconds since 1970, 0.0 where there is none.

    `refreshable`: there is a refresh token; without one an acquired token ends at `access_expires_at`.
    `reauthorising`: a newer consent is being proved beside the one that serves. `waiting` are settings that will use
    it once it has proved itself for them. `forecast`: what of it or of its app registration will end, nearest first.
    `giving_back`: the newest consent that was deleted here and lives on at the provider until it has answered.
    `meaning`, `fix`: what the error catalogue says of the provider's answer in `detail`, else in `last_error`.
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
    used_by: tuple[Setting, ...] = ()
    waiting: tuple[Setting, ...] = ()
    forecast: tuple[Ending, ...] = ()
    meaning: str = ""
    fix: str = ""
    giving_back: Held | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The mailboxes that use it, each once."""
        return tuple(dict.fromkeys(setting.address for setting in self.used_by))

    def used_for(self, address: str) -> tuple[Purpose, ...]:
        """What it is for at one mailbox now."""
        return tuple(setting.purpose for setting in self.used_by if setting.address == address)

    def of(self, address: str) -> tuple[Purpose, ...]:
        """What it is for at one mailbox, now or once it has proved itself."""
        return tuple(setting.purpose for setting in (*self.used_by, *self.waiting) if setting.address == address)


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
    """`tokens`: those that its settings use or wait for, what they share first. `queue` counts messages by state.

    `senders`: what the provider has said of addresses as sender.
    """

    mailbox: Mailbox
    app: str
    provider: str
    provider_title: str
    direction: Direction
    tokens: tuple[TokenView, ...]
    servers: tuple[ServerView, ...]
    last_success: float
    queue: Mapping[str, int] = field(default_factory=dict)
    senders: tuple[Learnt, ...] = ()

    @property
    def sending(self) -> Mailbox:
        """The mailbox as its sending settings see it."""
        return self.mailbox.for_setting("sending")

    @property
    def sender_doubt(self) -> Literal["", "unproved", "refused"]:
        return sender_doubt(self.sending, self.senders)

    @property
    def in_use(self) -> tuple[TokenView, ...]:
        """The tokens that serve it now."""
        return tuple(token for token in self.tokens if self._uses(token))

    def _uses(self, token: TokenView) -> bool:
        return bool(token.used_for(self.mailbox.address))

    @property
    def token(self) -> TokenView | None:
        """Of the tokens in use the one that needs somebody most; None for a mailbox that uses its password alone."""
        return min(self.in_use, key=lambda token: _URGENT.index(token.state), default=None)

    @property
    def next(self) -> TokenView | None:
        """The token for which somebody has to do something next: one in use before one that is waited for."""
        known = (self.token, *self.tokens) if self.token else self.tokens
        return next((token for token in known if token.next_step), None)

    @property
    def next_for(self) -> str:
        """The setting by which that token is meant; empty for the one that settings share."""
        return self.purpose_of(self.next) if self.next else ""

    def purpose_of(self, token: TokenView) -> str:
        """By which setting one of its tokens is meant; empty for the one that settings share."""
        shared = (self.mailbox.token_id, self.mailbox.switched.token_id)
        return "" if token.id in shared else next(iter(token.of(self.mailbox.address)), "")

    @property
    def broken(self) -> tuple[TokenView, ...]:
        """Those in use for which somebody has to sign in again."""
        return tuple(token for token in self.in_use if token.state is TokenState.INVALID)

    @property
    def needs_reauthorising(self) -> bool:
        return bool(self.broken)


_URGENT = (TokenState.INVALID, TokenState.NOT_ACQUIRED, TokenState.WAITING, TokenState.ACQUIRED)


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
    senders: dict[str, tuple[Learnt, ...]]
    held: dict[str, Held]
    unverified: set[str]


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
        await senders.everything(tx),
        {one.token_id: one for one in reversed(await leaving.held(tx))},
        await authorisations.unverified(tx),
    )


def _last_sent(newest: Iterable[Summary]) -> dict[str, float]:
    last: dict[str, float] = {}
    for summary in newest:
        last[summary.mailbox_id] = max(summary.finished_at, last.get(summary.mailbox_id, 0.0))
    return last


def _assemble(snapshot: Snapshot, rows: _Rows) -> Overview:
    forecasts = tuple(_forecasts(snapshot, rows))
    endings = _by_subject(forecasts)
    waiting = _waiting(snapshot)
    views = {token.id: _token_view(snapshot, rows, token, endings, waiting) for token in rows.tokens}
    mailboxes = (_mailbox_view(snapshot, rows, views, mailbox) for mailbox in snapshot.mailboxes.values())
    return Overview(tuple(mailboxes), tuple(view for view in views.values() if _matters(view)), forecasts)


def _matters(view: TokenView) -> bool:
    """Not where every setting has a token of its own, and none was ever got for them together."""
    return bool(view.used_by or view.waiting) or view.state is not TokenState.NOT_ACQUIRED


def _waiting(snapshot: Snapshot) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for token_id, user in snapshot.waiting:
        of_token = found.setdefault(token_id, [])
        of_token += [_setting(snapshot.mailboxes[user.mailbox.id], purpose) for purpose in user.purposes]
    return found


def _setting(mailbox: Mailbox, purpose: Purpose) -> Setting:
    apart = mailbox.settings.apart.get(purpose)
    return Setting(mailbox.address, purpose, apart.refused if apart else "")


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


def _token_view(
    snapshot: Snapshot,
    rows: _Rows,
    token: Token,
    endings: Mapping[str, Sequence[Ending]],
    waiting: Mapping[str, Sequence[Setting]],
) -> TokenView:
    app = snapshot.configuration.apps.get(token.app_id)
    grant = rows.grants.get(token.serving_grant or "")
    unverified = token.id in rows.unverified
    bare = TokenView(
        id=token.id,
        app=app.name if app else "",
        account=token.account,
        name=token.name,
        state=token.state,
        reason="person_not_verified" if unverified and token.state is TokenState.WAITING else token.reason,
        detail=token.detail,
        since=token.since,
        next_step=CONFIRM if unverified else NEXT_STEP[token.state],
        reauthorising=token.pending_grant is not None and token.serving_grant is not None,
        used_by=tuple(
            Setting(user.mailbox.address, purpose) for user in snapshot.uses_now(token.id) for purpose in user.purposes
        ),
        waiting=tuple(waiting.get(token.id, ())),
        giving_back=rows.held.get(token.id),
        forecast=tuple(sorted((*endings.get(token.app_id, ()), *endings.get(token.id, ())))),
    )
    return _with_meaning(_with_grant(bare, grant) if grant else bare, snapshot, app)


def _with_meaning(view: TokenView, snapshot: Snapshot, app: StoredApp | None) -> TokenView:
    provider = snapshot.providers.get(app.provider) if app else None
    answer = remembered(view.detail) or (remembered(view.last_error) if view.failures else None)
    entry = explained(answer, provider.family if provider else "any") if answer else None
    return replace(view, meaning=entry.meaning, fix=entry.fix) if entry else view


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
        tokens=_tokens_of(mailbox, views),
        servers=servers,
        last_success=max((*proved, rows.sent.get(mailbox.id, 0.0))),
        queue=rows.counts.get(mailbox.id, {}),
        senders=rows.senders.get(mailbox.id, ()),
    )


def _tokens_of(mailbox: Mailbox, views: Mapping[str, TokenView]) -> tuple[TokenView, ...]:
    ids = dict.fromkeys(way.token_id for way in mailbox.ways() if way.token_id in views)
    return tuple(view for view in (views[token_id or ""] for token_id in ids) if view.of(mailbox.address))


def _server_view(snapshot: Snapshot, rows: _Rows, mailbox: Mailbox, protocol: Protocol) -> ServerView:
    mailbox = mailbox.for_setting(purpose_of(protocol))
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
