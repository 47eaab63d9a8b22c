"""The tables, once, for both databases. Times are seconds since 1970 in UTC; documents are JSON text."""

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

metadata = MetaData()
ZERO: ColumnElement[int] = literal_column("0", Integer)
"""As a number in the statement itself, so that an index over a part of the rows is found."""
AutoId = BigInteger().with_variant(Integer, "sqlite")


def _key(name: str = "id") -> Column[str]:
    return Column(name, Text, primary_key=True)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _maybe_text(name: str) -> Column[str]:
    return Column(name, Text)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


def _time(name: str) -> Column[float]:
    return Column(name, Double, nullable=False, server_default="0")


def _bytes(name: str) -> Column[bytes]:
    return Column(name, LargeBinary)


meta = Table("meta", metadata, _key("name"), _text("value"))
"""Small facts about this installation."""

counter = Table("counter", metadata, _key("name"), _number("value"))
"""Numbers that only grow: `configuration` at every change of settings, `event` at every event."""

sealing_key = Table(
    "sealing_key",
    metadata,
    _key(),
    _text("purpose"),
    _time("created_at"),
    _time("active_at"),
    _text("lease_owner"),
    _time("lease_until"),
)
"""`purpose` is `data`, a key that seals, or `root`, which passwords of devices are hashed with and which stays.

The newest data key with `active_at` seals; one without is made known first. `lease_*`: who seals anew what lies
under this one.
"""

sealing_wrap = Table("sealing_wrap", metadata, _key("key_id"), _key("master_id"), _bytes("wrapped"))
"""Each key wrapped by the master key, which lies outside the database; by two while that is being changed."""

provider = Table(
    "provider",
    metadata,
    _key(),
    Column("name", Text, nullable=False, unique=True),
    _text("document"),
    _text("origin"),
    _number("version"),
)

app = Table(
    "app",
    metadata,
    _key(),
    Column("name", Text, nullable=False, unique=True),
    _text("provider"),
    _text("client_id"),
    _bytes("secret"),
    _text("document"),
    _text("origin"),
    _number("version"),
)
"""App registrations."""

mailbox = Table(
    "mailbox",
    metadata,
    _key(),
    Column("address", Text, nullable=False, unique=True),
    _maybe_text("app_id"),
    _text("account"),
    _maybe_text("token_id"),
    _bytes("password"),
    _text("document"),
    _text("origin"),
    _number("is_default"),
    _number("version"),
    _time("created_at"),
    _time("last_sent_at"),
    _time("last_received_at"),
    _text("dispatch_owner"),
    _number("dispatch_epoch"),
)
"""`token_id` is the token that the settings of the mailbox share; the document names those that they own.
`dispatch_*` is the lease to send for it."""

token = Table(
    "token",
    metadata,
    _key(),
    _text("app_id"),
    _text("account"),
    _text("name"),
    _maybe_text("serving_grant"),
    _maybe_text("pending_grant"),
    _text("state"),
    _text("reason"),
    _text("detail"),
    _time("since"),
    _text("pinned_issuer"),
    _text("pinned_subject"),
    _number("version"),
    UniqueConstraint("app_id", "account", "name"),
    Index("token_state", "state"),
)

grant = Table(
    "oauth_grant",
    metadata,
    _key(),
    _text("token_id"),
    _text("app_id"),
    _number("serial"),
    _bytes("sealed"),
    _bytes("previous"),
    _text("issuer"),
    _text("subject"),
    _text("person"),
    _text("scopes"),
    _time("obtained_at"),
    _time("refreshed_at"),
    _time("access_expires_at"),
    _time("next_refresh_at"),
    _time("told_end"),
    _time("latest_end"),
    _number("failures"),
    _text("last_error"),
    Column("intent_serial", BigInteger),
    _time("intent_at"),
    _text("lease_owner"),
    _time("lease_until"),
    _number("lease_epoch"),
    Index("grant_next_refresh", "next_refresh_at", "app_id"),
    Index("grant_failing", "refreshed_at", sqlite_where=text("failures > 0"), postgresql_where=text("failures > 0")),
    Index("grant_told_end", "told_end", sqlite_where=text("told_end > 0"), postgresql_where=text("told_end > 0")),
    Index("grant_token", "token_id"),
)
"""One consent. `app_id` is its token's, for the index. `serial` grows at each rotation and decides who may write an
answer; `intent_*` is what was sent and not yet answered; `previous` is the former refresh token until the new one has
worked once."""

leaving_grant = Table(
    "leaving_grant",
    metadata,
    _key(),
    _text("app_id"),
    _text("token_id"),
    _text("issuer"),
    _text("subject"),
    _bytes("sealed"),
    _time("since"),
    _time("ends_at"),
    _time("next_at"),
    _number("attempts"),
    _text("answer"),
    Index("leaving_grant_next", "next_at"),
)
"""Consents that are forgotten here and not given back at the provider yet. `next_at` is the next attempt, `answer` what
came of the last one; after `ends_at` there is none."""

setting = Table(
    "setting",
    metadata,
    Column("mailbox_id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    _text("state"),
    _text("answer"),
    _text("cause"),
    _time("since"),
)
"""How each protocol of a mailbox last fared with its token: `proved`, `refused` or `unreachable`."""

sender = Table(
    "sender",
    metadata,
    Column("mailbox_id", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    _text("state"),
    _text("answer"),
    _time("since"),
)
"""What a mailbox may send as, learnt from the provider's answers: `allowed` or `refused`."""

authorisation = Table(
    "authorisation",
    metadata,
    _key(),
    _text("mailbox_id"),
    _text("token_id"),
    _text("method"),
    _text("state"),
    _text("reason"),
    _text("detail"),
    _text("person"),
    _bytes("sealed"),
    Column("state_hash", Text, unique=True),
    Column("start_hash", Text, unique=True),
    _text("cookie_hash"),
    _text("user_code"),
    _text("verification_uri"),
    _text("verification_uri_complete"),
    _time("created_at"),
    _time("expires_at"),
    _time("poll_at"),
    _time("poll_interval"),
    _maybe_text("grant_id"),
    _number("version"),
    Index("authorisation_mailbox", "mailbox_id", "created_at"),
    Index("authorisation_poll", "state", "poll_at"),
)

device = Table(
    "device",
    metadata,
    _key(),
    Column("name", Text, nullable=False, unique=True),
    _text("document"),
    _text("password_hash"),
    _text("origin"),
    _number("version"),
    _time("created_at"),
)

message = Table(
    "message",
    metadata,
    _key(),
    _text("mailbox_id"),
    _text("device"),
    _text("state"),
    _text("stage"),
    _text("sender"),
    _text("recipients"),
    _text("message_id"),
    _text("subject"),
    _number("size"),
    _number("smtputf8"),
    _number("eight_bit"),
    _number("pieces"),
    _time("created_at"),
    _time("queued_at"),
    _time("next_at"),
    _time("deadline_at"),
    _time("finished_at"),
    _time("parked_at"),
    _number("held"),
    _number("attempts"),
    _text("answer"),
    _text("cause"),
    _text("claim_owner"),
    _number("claim_epoch"),
    Index("message_due", "state", "mailbox_id", "next_at", "id"),
)
"""Queued mail, and what became of it. `recipients` is JSON: [address, state, answer] each.

`held`: parked by a person, so that no token lets it go. `queued_at`: since when it waits to be sent, parked time left
out. `next_at` of what is sent or failed is the time of that, so that the index finds the last success."""

body = Table("body", metadata, _key("message_id"), Column("data", LargeBinary, nullable=False))
"""Sealed bodies of queued mail, or the header of one whose body lies in pieces. Apart from the message, whose row is
written anew at each step of its way."""

piece = Table(
    "piece",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    _bytes("data"),
    _time("created_at"),
)
"""Sealed pieces of large bodies, where there is no local spool."""

journal = Table(
    "journal",
    metadata,
    Column("id", AutoId, primary_key=True, autoincrement=True),
    _time("at"),
    _text("kind"),
    _text("message"),
    _text("message_id"),
    _text("mailbox_id"),
    _text("device"),
    _text("detail"),
    Index("journal_message", "message"),
    Index("journal_message_id", "message_id"),
)

event = Table(
    "event",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _time("at"),
    _text("kind"),
    _text("subject"),
    _text("document"),
)
"""Every change of state, written with it. Ids are given by `counter` so that they appear in order."""

cursor = Table("cursor", metadata, _key("name"), _number("position"))
"""How far each reader of events has come."""

expiry_warning = Table(
    "expiry_warning",
    metadata,
    _key("subject"),
    _key("what"),
    _time("ends_at"),
    _number("distance"),
)
"""The last warning that was given before something ends: one row, so that each distance is told once by one node."""

episode = Table(
    "episode",
    metadata,
    _key("subject"),
    _key("what"),
    _time("since"),
    _number("level"),
)
"""Something that goes on at a mailbox, and how much of it was told: one row, so that each level is told by one node."""

notice = Table(
    "notice",
    metadata,
    _key(),
    _text("kind"),
    _text("topic"),
    _text("cause"),
    _time("since"),
    _time("ended_at"),
    _number("count"),
    _time("due_at"),
    _time("told_at"),
    _number("told_count"),
    _number("told_open"),
    _time("acknowledged_at"),
    _text("acknowledged_by"),
    Index("notice_topic", "topic", "since"),
)
"""What an administrator should know. Everything with one `topic` that happens while it goes on is one notice.

`due_at`: when it is told next, 0 for not; `told_…`: what of it was told last."""

notice_about = Table(
    "notice_about",
    metadata,
    Column("notice_id", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    _text("name"),
    _time("at"),
    _time("ended_at"),
)
"""What a notice is about: ids of tokens, mailboxes, app registrations; `ended_at` once it is mended."""

telling = Table(
    "telling",
    metadata,
    _key(),
    _text("way"),
    _text("state"),
    _text("document"),
    _time("at"),
    _time("next_at"),
    _number("attempts"),
    _number("claim"),
    _time("claimed_until"),
    _text("mailbox_id"),
    _text("message_id"),
    _text("answer"),
    Index("telling_state", "way", "state"),
)
"""The outbox of notices, one row for each way: `mail` names its message in the queue, `webhook` is claimed by lease."""

administrator = Table(
    "administrator",
    metadata,
    _key(),
    Column("name", Text, nullable=False, unique=True),
    _text("password_hash"),
    _text("role"),
    _text("permissions"),
    _time("created_at"),
)

session = Table(
    "session",
    metadata,
    _key("hash"),
    _text("administrator_id"),
    _time("created_at"),
    _time("expires_at"),
)

sign_in_link = Table(
    "sign_in_link",
    metadata,
    _key("hash"),
    _text("administrator_id"),
    _time("expires_at"),
    _time("used_at"),
)

api_key = Table(
    "api_key",
    metadata,
    _key(),
    Column("name", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False, unique=True),
    _text("permissions"),
    _text("mailboxes"),
    _time("created_at"),
)

node = Table(
    "node",
    metadata,
    _key(),
    _time("started_at"),
    _time("expires_at"),
    _number("keys_known"),
    _text("master_id"),
    _time("paced_at"),
)
"""Running gateways; the heartbeat that keeps their mailbox leases alive. `keys_known` is the value of the counter
`sealing_key` whose keys this one has. `paced_at`: see `pace`."""

pace = Table("pace", metadata, _key("account"), _text("document"), _time("saved_at"))
"""What an account at a provider has used of its allowance. What came later than the `saved_at` of a row, or the
`paced_at` of a node that has died, stands in the journal."""
