"""How mailboxes and tokens stand, read at one moment: what page, API and command line all show.

Only those that are asked for are read: what is true of all of them is in standing.py.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from posthouse.model.forecast import Ending, of_grant
from posthouse.model.mailbox import Mailbox, Protocol, Purpose, purpose_of
from posthouse.model.sender import Learnt, sender_doubt
from posthouse.model.token import CONFIRM, NEXT_STEP, Grant, Token, TokenState
from posthouse.services import forecast
from posthouse.services.directory import Snapshot
from posthouse.services.refusals import explained, remembered
from posthouse.store import authorisations, leaving, messages, senders, tokens
from posthouse.store.configuration import StoredApp
from posthouse.store.database import Transaction
from posthouse.store.leaving import Held
from posthouse.store.opening import Store
from posthouse.store.tokens import SettingResult

Direction = Literal["incoming", "outgoing", "both", "none"]
ServerState = Literal["proved", "refused", "unreachable", "untested"]


URGENT = (TokenState.INVALID, TokenState.NOT_ACQUIRED, TokenState.WAITING, TokenState.ACQUIRED)
"""What needs somebody most comes first."""


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

    @property
    def matters(self) -> bool:
        """Not where every setting has a token of its own, and none was ever got for them together."""
        return bool(self.used_by or self.waiting) or self.state is not TokenState.NOT_ACQUIRED

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
        return min(self.in_use, key=lambda token: URGENT.index(token.state), default=None)

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


@dataclass(frozen=True, slots=True)
class _Tokens:
    """`held`: consents that are being given back, by token id. `unverified`: somebody has to confirm the person."""

    tokens: list[Token]
    grants: dict[str, Grant]
    held: dict[str, Held]
    unverified: set[str]


@dataclass(frozen=True, slots=True)
class _Rows:
    known: _Tokens
    results: dict[tuple[str, str], SettingResult]
    counts: dict[str, dict[str, int]]
    sent: dict[str, float]
    senders: dict[str, tuple[Learnt, ...]]


async def view_mailboxes(store: Store, snapshot: Snapshot, wanted: Sequence[Mailbox]) -> list[MailboxView]:
    """These mailboxes, in this order, read in one transaction. Raises DatabaseUnavailable."""
    ids = [mailbox.id for mailbox in wanted]
    of_tokens = [way.token_id for mailbox in wanted for way in mailbox.ways() if way.token_id]

    async def read(tx: Transaction) -> _Rows:
        return _Rows(
            await _read_tokens(tx, store, of_tokens),
            await tokens.results(tx, ids),
            await messages.counts_of(tx, ids),
            await messages.last_sent(tx, ids),
            await senders.of_mailboxes(tx, ids),
        )

    rows = await store.database.read(read)
    views = _token_views(snapshot, rows.known)
    return [_mailbox_view(snapshot, rows, views, mailbox) for mailbox in wanted]


async def view_mailbox(store: Store, snapshot: Snapshot, mailbox: Mailbox) -> MailboxView:
    """Raises DatabaseUnavailable."""
    return (await view_mailboxes(store, snapshot, [mailbox]))[0]


async def view_tokens(store: Store, snapshot: Snapshot, wanted: Sequence[str]) -> list[TokenView]:
    """Those of these ids that there are, in this order. Raises DatabaseUnavailable."""

    known = await store.database.read(lambda tx: _read_tokens(tx, store, wanted))
    views = _token_views(snapshot, known)
    return [views[token_id] for token_id in wanted if token_id in views]


async def _read_tokens(tx: Transaction, store: Store, wanted: Sequence[str]) -> _Tokens:
    return _Tokens(
        await tokens.some(tx, wanted),
        await tokens.serving(tx, store.sealer, wanted),
        {one.token_id: one for one in reversed(await leaving.held(tx, wanted))},
        await authorisations.unverified(tx, wanted),
    )


def _token_views(snapshot: Snapshot, known: _Tokens) -> dict[str, TokenView]:
    waiting = _waiting(snapshot, {token.id for token in known.tokens})
    return {token.id: _token_view(snapshot, known, token, waiting) for token in known.tokens}


def _waiting(snapshot: Snapshot, wanted: Container[str]) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for token_id, user in snapshot.waiting:
        if token_id in wanted:
            of_token = found.setdefault(token_id, [])
            of_token += [_setting(snapshot.mailboxes[user.mailbox.id], purpose) for purpose in user.purposes]
    return found


def _setting(mailbox: Mailbox, purpose: Purpose) -> Setting:
    apart = mailbox.settings.apart.get(purpose)
    return Setting(mailbox.address, purpose, apart.refused if apart else "")


def _token_view(
    snapshot: Snapshot, known: _Tokens, token: Token, waiting: Mapping[str, Sequence[Setting]]
) -> TokenView:
    app = snapshot.configuration.apps.get(token.app_id)
    grant = known.grants.get(token.serving_grant or "")
    unverified = token.id in known.unverified
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
        giving_back=known.held.get(token.id),
        forecast=tuple(sorted(_endings(snapshot, token, app, grant))),
    )
    return _with_meaning(_with_grant(bare, grant) if grant else bare, snapshot, app)


def _endings(snapshot: Snapshot, token: Token, app: StoredApp | None, grant: Grant | None) -> Iterator[Ending]:
    if app is not None:
        yield from forecast.ends_of_app(app)
    if grant is not None and token.state is TokenState.ACQUIRED:
        yield from of_grant(grant.course, forecast.lifetimes(snapshot, token.app_id))


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
