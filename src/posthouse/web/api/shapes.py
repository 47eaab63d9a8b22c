"""What the API answers, field by field. Times are RFC 3339 in UTC, null where there is none."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec.structs
from fastapi import Path, Query
from pydantic import BaseModel, Field

from posthouse.model import forecast
from posthouse.model.device import Device
from posthouse.model.sender import Learnt
from posthouse.services import overview
from posthouse.services.apply_values import MAILBOX_SETTINGS
from posthouse.services.authorise import Begun
from posthouse.services.forecast import NAMED, Forecast
from posthouse.services.overview import MailboxView, ServerView, TokenView
from posthouse.store.authorisations import OPEN, Authorisation
from posthouse.store.configuration import StoredApp
from posthouse.store.events import Event
from posthouse.store.journal import Line
from posthouse.store.leaving import Held
from posthouse.store.messages import Summary

T = TypeVar("T")
S = TypeVar("S")
Name = Annotated[str, Path(alias="id", max_length=320, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""An id, or an address or name where the path says so."""
Limit = Annotated[int, Query(ge=1, le=200, description="Items in one answer.")]
Cursor = Annotated[str, Query(max_length=320, pattern=r"^[^\x00-\x1f\x7f]*$", description="`next` of the page before.")]


class Page(BaseModel, Generic[T]):
    """`next` is the cursor for the page that follows; null at the end."""

    items: list[T]
    next: str | None = None


class Ending(BaseModel):
    """Something that ends: client_secret, certificate, consent, test_mode, idle."""

    what: str
    ends_at: datetime | None
    next_step: str = Field(description="renew_secret, renew_certificate, reauthorise, publish_app, mend_renewal.")


class Warned(Ending):
    """What ends soon or has ended, and the mailboxes that it stops."""

    subject: str = Field(description="The id of the app registration or of the token.")
    name: str = Field(description="The name of the registration, or the account of the token.")
    days_left: int = Field(description="Days begun until then; 0 when it has ended.")
    mailboxes: list[str] = Field(description="At most 20 of them.")
    count: int = Field(description="How many mailboxes there are.")


class Setting(BaseModel):
    """A setting of a mailbox: sending, receiving, or the gateway's own notices."""

    mailbox: str = Field(description="Its address.")
    purpose: str = Field(alias="for", description="sending, receiving, notices.")
    refused: str = Field(default="", description="While it waits: what was said when the token was tried for it.")


class GivingBack(BaseModel):
    """A consent that was deleted here and lives on at the provider: what came of the last attempt to revoke it."""

    since: datetime | None
    next_attempt_at: datetime | None
    answer: str


class Token(BaseModel):
    """A token without its secrets. States: not_acquired, waiting_for_authentication, acquired, invalid."""

    id: str
    app: str
    account: str
    name: str
    state: str
    reason: str
    detail: str
    since: datetime | None
    next_step: str = Field(description="get_token, sign_in, confirm, reauthorise, or empty.")
    person: str = Field(description="Who signed in, as the provider says.")
    scopes: list[str]
    obtained_at: datetime | None
    refreshed_at: datetime | None
    access_expires_at: datetime | None
    refreshable: bool = Field(description="False: it ends at access_expires_at.")
    failures: int = Field(description="Refreshes in a row that failed for now.")
    last_error: str
    meaning: str = Field(description="What the provider's answer in detail or last_error means; empty where unknown.")
    fix: str = Field(description="What mends that.")
    reauthorising: bool
    used_by: list[Setting]
    waiting: list[Setting] = Field(description="Settings that go over to it once it has proved itself for them.")
    forecast: list[Ending] = Field(description="What of it or of its app registration will end, the nearest first.")
    giving_back: GivingBack | None = Field(description="The newest one that the provider has not revoked yet.")


class Server(BaseModel):
    """One protocol of a mailbox, and how it last fared: proved, refused, unreachable, untested."""

    protocol: str
    server: str
    user: str
    state: str
    answer: str
    cause: str
    since: datetime | None


class Sender(BaseModel):
    """What the provider said of an address as sender, the account's own left out: allowed or refused."""

    address: str
    state: str
    answer: str
    since: datetime | None


class Mailbox(BaseModel):
    id: str
    address: str
    account: str
    app: str
    provider: str
    provider_title: str
    direction: str = Field(description="incoming, outgoing, both, none.")
    method: str = Field(description="oauth or password.")
    default: bool
    origin: str = Field(description="The file it was applied from, or empty.")
    token: Token | None = Field(description="Of the tokens in use the one that needs somebody most.")
    tokens: list[Token] = Field(description="All that its settings use or wait for.")
    servers: list[Server]
    senders: list[Sender]
    sender_doubt: str = Field(description="What is against the automatic sender: unproved, refused, or empty.")
    last_success: datetime | None
    queue: dict[str, int]
    next_step: str = Field(description="get_token, sign_in, confirm, reauthorise, or empty.")
    next_for: str = Field(description="The setting whose token it is about; empty for the one that settings share.")
    version: int = Field(description="Grows with every change; for If-Match.")
    settings: dict[str, Any] = Field(description="As in an apply file; seconds as numbers.")


class Attempt(BaseModel):
    """An attempt to get a token. States: started, permitted, proving, unverified, done, refused, expired."""

    id: str
    mailbox_id: str
    token_id: str
    method: str
    state: str
    reason: str
    detail: str
    person: str = Field(description="Who signed in, where it was not the one expected.")
    ended: bool
    created_at: datetime | None
    expires_at: datetime | None
    user_code: str = ""
    verification_uri: str = ""
    verification_uri_complete: str = ""
    url: str = Field(default="", description="Where a person goes to sign in; told once, when the attempt is begun.")


class Recipient(BaseModel):
    address: str
    state: str
    answer: str


class Message(BaseModel):
    """States: queued, parked, sent, failed."""

    id: str
    mailbox_id: str
    device: str
    state: str
    stage: str
    sender: str
    recipients: list[Recipient]
    message_id: str
    subject: str
    size: int
    attempts: int
    answer: str
    cause: str
    created_at: datetime | None
    next_at: datetime | None
    finished_at: datetime | None
    parked_at: datetime | None
    held: bool = Field(description="Parked by a person: no token lets it go.")


class JournalLine(BaseModel):
    id: int
    at: datetime | None
    kind: str
    message: str
    message_id: str
    mailbox_id: str
    device: str
    detail: dict[str, Any]


class Happening(BaseModel):
    """An event; `subject` is the id of what changed."""

    id: int
    at: datetime | None
    kind: str
    subject: str
    document: dict[str, Any]


class DeviceShape(BaseModel):
    id: str
    name: str
    origin: str
    version: int
    settings: dict[str, Any]


class App(BaseModel):
    """An app registration; its secret is never told."""

    id: str
    name: str
    provider: str
    client_id: str
    has_secret: bool
    redirect_url: str = Field(default="", description="What has to be registered at the provider, exactly so.")
    warnings: list[str] = Field(default_factory=list, description="What is against it, or will be in the way.")
    origin: str
    version: int
    settings: dict[str, Any]


class Provider(BaseModel):
    """Servers are written `host:port tls`; empty where the provider has none."""

    name: str
    title: str
    built_in: bool = Field(description="Comes with Posthouse, as it is.")
    origin: str
    version: int = Field(description="0 for one that comes with Posthouse, as it is.")
    issuer: str
    smtp: str
    imap: str
    pop3: str


class Administrator(BaseModel):
    id: str
    name: str
    role: str
    permissions: list[str]
    has_password: bool


class Key(BaseModel):
    """An API key, without what it is."""

    id: str
    name: str
    permissions: list[str]
    mailboxes: list[str]
    created_at: datetime | None


class Trouble(BaseModel):
    """The one cause in a sentence, and the step that mends it."""

    id: str
    detail: str
    hint: str


class Status(BaseModel):
    """Everything at a glance. `attention` are the mailboxes that somebody has to sign in for again, `warnings` what
    ends within 60 days or has ended. `notices`: how many go on and are not acknowledged. `trouble`: why no mail can be
    taken at the moment."""

    version: str
    external_url: str
    database: str
    mailboxes: int
    tokens: dict[str, int]
    queue: dict[str, int]
    attention: list[Mailbox] = Field(description="At most 100 of them, by address.")
    attention_count: int = Field(description="How many there are.")
    warnings: list[Warned] = Field(description="At most 100, the nearest first.")
    notices: int
    trouble: Trouble | None = None


def moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None


def token(view: TokenView) -> Token:
    return Token(
        id=view.id,
        app=view.app,
        account=view.account,
        name=view.name,
        state=str(view.state),
        reason=view.reason,
        detail=view.detail,
        since=moment(view.since),
        next_step=view.next_step,
        person=view.person,
        scopes=list(view.scopes),
        obtained_at=moment(view.obtained_at),
        refreshed_at=moment(view.refreshed_at),
        access_expires_at=moment(view.access_expires_at),
        refreshable=view.refreshable,
        failures=view.failures,
        last_error=view.last_error,
        meaning=view.meaning,
        fix=view.fix,
        reauthorising=view.reauthorising,
        used_by=[setting(one) for one in view.used_by],
        waiting=[setting(one) for one in view.waiting],
        forecast=[ending(one) for one in view.forecast],
        giving_back=giving_back(view.giving_back),
    )


def giving_back(one: Held | None) -> GivingBack | None:
    if one is None:
        return None
    return GivingBack(since=moment(one.since), next_attempt_at=moment(one.next_at), answer=one.answer)


def setting(one: overview.Setting) -> Setting:
    return Setting(**{"mailbox": one.address, "for": one.purpose, "refused": one.refused})


def ending(one: forecast.Ending) -> Ending:
    return Ending(what=str(one.what), ends_at=moment(one.at), next_step=one.next_step)


def warned(found: Forecast, now: float, mailboxes: Sequence[str]) -> Warned:
    """`mailboxes`: those that the caller may see."""
    return Warned(
        **dict(ending(found.ending)),
        subject=found.subject,
        name=found.name,
        days_left=found.ending.days_left(now),
        mailboxes=list(mailboxes[:NAMED]),
        count=len(mailboxes),
    )


def server(view: ServerView) -> Server:
    return Server(
        protocol=view.protocol,
        server=view.server,
        user=view.user,
        state=view.state,
        answer=view.answer,
        cause=view.cause,
        since=moment(view.since),
    )


def sender(one: Learnt) -> Sender:
    return Sender(address=one.address, state=one.state, answer=one.answer, since=moment(one.since))


def mailbox(view: MailboxView) -> Mailbox:
    known = view.mailbox
    return Mailbox(
        id=known.id,
        address=known.address,
        account=known.account,
        app=view.app,
        provider=view.provider,
        provider_title=view.provider_title,
        direction=view.direction,
        method="oauth" if known.app_id else "password",
        default=known.default,
        origin=known.origin,
        token=token(view.token) if view.token else None,
        tokens=[token(one) for one in view.tokens],
        servers=[server(one) for one in view.servers],
        senders=[sender(one) for one in view.senders],
        sender_doubt=view.sender_doubt,
        last_success=moment(view.last_success),
        queue=dict(view.queue),
        next_step=view.next.next_step if view.next else "",
        next_for=view.next_for,
        version=known.version,
        settings={name: getattr(known.settings, name) for name in MAILBOX_SETTINGS},
    )


def attempt(found: Authorisation) -> Attempt:
    return Attempt(
        id=found.id,
        mailbox_id=found.mailbox_id,
        token_id=found.token_id,
        method=found.method,
        state=found.state,
        reason=found.reason,
        detail=found.detail,
        person=found.person,
        ended=found.state not in OPEN,
        created_at=moment(found.created_at),
        expires_at=moment(found.expires_at),
        user_code=found.user_code,
        verification_uri=found.verification_uri,
        verification_uri_complete=found.verification_uri_complete,
    )


def begun(new: Begun) -> Attempt:
    return attempt(new.authorisation).model_copy(update={"url": new.url})


def message(found: Summary) -> Message:
    return Message(
        id=found.id,
        mailbox_id=found.mailbox_id,
        device=found.device,
        state=str(found.state),
        stage=str(found.stage),
        sender=found.sender,
        recipients=[Recipient(address=r.address, state=r.state, answer=r.answer) for r in found.recipients],
        message_id=found.message_id,
        subject=found.subject,
        size=found.size,
        attempts=found.attempts,
        answer=found.answer,
        cause=found.cause,
        created_at=moment(found.created_at),
        next_at=moment(found.next_at) if found.finished_at == 0 else None,
        finished_at=moment(found.finished_at),
        parked_at=moment(found.parked_at),
        held=found.held,
    )


def journal_line(line: Line) -> JournalLine:
    return JournalLine(
        id=line.id,
        at=moment(line.at),
        kind=line.kind,
        message=line.message,
        message_id=line.message_id,
        mailbox_id=line.mailbox_id,
        device=line.device,
        detail=line.detail,
    )


def happening(event: Event) -> Happening:
    return Happening(id=event.id, at=moment(event.at), kind=event.kind, subject=event.subject, document=event.document)


def device(found: Device) -> DeviceShape:
    return DeviceShape(
        id=found.id,
        name=found.name,
        origin=found.origin,
        version=found.version,
        settings=msgspec.structs.asdict(found.settings),
    )


def app(found: StoredApp) -> App:
    return App(
        id=found.id,
        name=found.name,
        provider=found.provider,
        client_id=found.client_id,
        has_secret=found.sealed_secret is not None,
        origin=found.origin,
        version=found.version,
        settings=found.document,
    )


def cut(items: Sequence[T], limit: int) -> tuple[list[T], bool]:
    """At most `limit` of them, and whether some were left."""
    return list(items[:limit]), len(items) > limit


def page_of(found: Iterable[S], key: Callable[[S], str], cursor: str, limit: int, shown: Callable[[S], T]) -> Page[T]:
    """Those that follow the cursor, sorted by the key, which names one of them and is the next cursor."""
    items, more = cut(sorted((one for one in found if key(one) > cursor), key=key), limit)
    return Page(items=[shown(one) for one in items], next=key(items[-1]) if more else None)
