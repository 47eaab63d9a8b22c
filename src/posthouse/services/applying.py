"""Applying a file: providers, app registrations, mailboxes and devices become what it says, in one transaction."""

import contextlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from posthouse.model.device import Device, DeviceSettings
from posthouse.model.mailbox import Mailbox, MailboxSettings, Way
from posthouse.model.token import TokenState
from posthouse.problems import ProblemError, problem
from posthouse.providers.provider import built_in
from posthouse.providers.registration import client_warnings
from posthouse.secret import Secret
from posthouse.services import apply_mail, apply_record
from posthouse.services.apply_check import check
from posthouse.services.apply_credential import KNOWN
from posthouse.services.apply_file import Item, Wanted
from posthouse.services.apply_mail import Closing, MailRule
from posthouse.services.apply_password import Prepared, prepare
from posthouse.services.apply_report import Report
from posthouse.services.apply_stored import Row, Stored, key_of, stored_of, unflat
from posthouse.services.apply_values import DEVICE_SETTINGS, MAILBOX_SETTINGS, SECRETS
from posthouse.services.switching import choose
from posthouse.store import applied, configuration, events, tokens
from posthouse.store.applied import Document
from posthouse.store.configuration import Configuration, StoredApp, encode
from posthouse.store.database import CommitUnknown, Duplicate, Transaction
from posthouse.store.ids import new_id
from posthouse.store.opening import Store
from posthouse.store.sealing import Sealer, Unsealable, fingerprint

TRIES = 5
"""How often it is begun again when somebody else changes the same things at the same moment."""
LATER = {
    "mailbox": ("check_interval", "after_fetch"),
    "device": ("lane",),
}
"""Settings that are stored for what is not built yet."""
TOKEN_KEYS = ("token", "sending_token", "receiving_token", "notices_token")
_PREFIXES = {"provider": "pr", "app": "ap", "mailbox": "mb", "device": "dv"}


Look = Callable[[Wanted, Stored], Wanted]
"""What is wanted, seen beside what is stored in the very transaction that writes it. Raises ProblemError."""


class _DryRun(Exception):
    """Undoes everything at the end of a dry run."""


class _Moved(Exception):
    """Somebody has changed the configuration meanwhile: look again."""


async def apply(
    store: Store,
    wanted: Wanted,
    now: float,
    *,
    dry_run: bool = False,
    prune: bool = False,
    move_to: str = "",
    discard: int = 0,
    removing: tuple[tuple[str, str], ...] = (),
    look: Look = lambda wanted, stored: wanted,
) -> Report:
    """Make everything as `wanted` says, or nothing.

    `prune` removes what an earlier apply of the same file made and the file no longer names. `move_to` (an address) or
    `discard` (the number of messages that may be lost) say what becomes of mail waiting for a mailbox that is removed
    or no longer sends. `removing` names by kind and name what goes, whoever made it. Raises ProblemError with
    everything that is wrong, DatabaseUnavailable.
    """
    prepared: dict[str, Prepared] = {}
    for _ in range(TRIES):
        stored = stored_of(await store.database.read(configuration.load))
        prepared = await prepare(wanted, stored, store.sealer, prepared)
        attempt = _Attempt(store, wanted, now, prepared, prune, MailRule(move_to, discard), dry_run, removing, look)
        with contextlib.suppress(_Moved, Duplicate, CommitUnknown):
            return await attempt.run()
    sentence = "The configuration is being changed by somebody else, or the database does not answer."
    raise problem("apply.busy", sentence, "Try again in a moment.", status=75)


@dataclass(slots=True)
class _Attempt:
    store: Store
    wanted: Wanted
    now: float
    prepared: Mapping[str, Prepared]
    prune: bool
    rule: MailRule
    dry_run: bool
    removing: tuple[tuple[str, str], ...]
    look: Look

    async def run(self) -> Report:
        writing: list[_Writing] = []

        async def work(tx: Transaction) -> None:
            await events.bump(tx, "apply")
            loaded = await configuration.load(tx)
            record, stored = await applied.recall(tx, self.wanted.origin), stored_of(loaded)
            wanted = self.look(self.wanted, stored)
            writing[:] = [_Writing(tx, self, wanted, self.store.sealer, loaded, stored, record)]
            await writing[0].everything()
            if self.dry_run:
                raise _DryRun

        with contextlib.suppress(_DryRun):
            await self.store.database.write(work, long=True)
            for queue_id in writing[0].discarded:
                await self.store.spool.remove(queue_id)
        return writing[0].report


@dataclass(slots=True)
class _Writing:
    """One run over one transaction. Rows are only written where something differs."""

    tx: Transaction
    attempt: _Attempt
    wanted: Wanted
    sealer: Sealer
    loaded: Configuration
    stored: Stored
    record: Document
    report: Report = field(init=False)
    ids: dict[tuple[str, str], str] = field(default_factory=dict)
    remembered: Document = field(default_factory=dict)
    saves: int = 0
    left_tokens: set[str] = field(default_factory=set)
    discarded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.report = Report(self.wanted.source, self.attempt.dry_run)

    async def everything(self) -> None:
        no_longer = [(kind, key_of(kind, name), True) for kind, name in self.attempt.removing]
        no_longer += apply_record.no_longer_wanted(self.wanted, self.record, self.stored)
        sure = (self.attempt.prune or self.attempt.removing) and not self.wanted.problems
        leaving = [(kind, key) for kind, key, made in no_longer if made and sure]
        self._give_ids()
        closings = [await apply_mail.closing(self.tx, *mailbox) for mailbox in self._closing(leaving)]
        sending = self._sending(closings)
        self._refuse(leaving, closings, sending)
        for item in self.wanted.items:
            await self._put(item)
        await self._one_default()
        for one in closings:
            await self._clear(one, sending)
        await self._let_go(no_longer, leaving)
        await self._look_after_tokens()
        await self._finish()

    # Before anything is written

    def _give_ids(self) -> None:
        for item in self.wanted.items:
            if item.kind in _PREFIXES:
                row = self.stored.find(item.kind, item.name)
                self.ids[item.kind, item.name] = row.id if row else new_id(_PREFIXES[item.kind])

    def _closing(self, leaving: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Ids and addresses of mailboxes that will send no more."""
        removed = [key for kind, key in leaving if kind == "mailbox"]
        silenced = [item.name for item in self.wanted.of("mailbox") if item.values.get("send") is False]
        rows = [self.stored.mailbox(address) for address in (*removed, *silenced)]
        return [
            (row.id, row.address) for row in rows if row is not None and (row.settings.send or row.address in removed)
        ]

    def _sending(self, closings: list[Closing]) -> dict[str, str]:
        addresses = {mailbox.address: mailbox.id for mailbox in self.loaded.mailboxes.values() if mailbox.settings.send}
        addresses |= {item.name: self.ids["mailbox", item.name] for item in self.wanted.of("mailbox")}
        closed = {one.address for one in closings}
        return {address: row_id for address, row_id in addresses.items() if address not in closed}

    def _refuse(self, leaving: list[tuple[str, str]], closings: list[Closing], sending: dict[str, str]) -> None:
        problems = check(self.wanted, self.stored, frozenset(leaving))
        waiting = apply_mail.refuse(closings, self.attempt.rule, sending)
        if problems or waiting:
            raise ProblemError(*problems, *waiting, status=64 if problems else 1)

    # Writing

    async def _save(self, kind: str, row_id: str, **columns: Any) -> None:
        await configuration.save(self.tx, kind, row_id, **columns)
        self.saves += 1

    async def _put(self, item: Item) -> None:
        if item.kind not in _PREFIXES:
            return
        row = self.stored.find(item.kind, item.name)
        present = await self._present(item, row)
        given = self._with_fingerprint(item, present)
        self._note_drift(item, row, present, given)
        self._remember(item, row, given)
        changed = [key for key, value in given.items() if present.get(key) != value]
        changed += [key for key in item.removed if present.get(key) and key not in changed]
        if row is not None and not changed and (row.origin or not self.wanted.origin) and not item.renew:
            self.report.note("unchanged", item.kind, item.name)
            return
        columns = await self._columns(item, row, changed)
        await self._save(item.kind, self.ids[item.kind, item.name], **columns, **self._marks(item, row))
        self.report.note("changed" if row else "added", item.kind, item.name, *(changed if row else ()))
        if isinstance(row, StoredApp):
            await self._app_changed(item, row, changed)

    def _marks(self, item: Item, row: Row | None) -> dict[str, Any]:
        """What a row has from the beginning, and whose it is."""
        if row is not None:
            return {"origin": row.origin or self.wanted.origin}
        named = {"address" if item.kind == "mailbox" else "name": item.name}
        born = {"created_at": self.attempt.now} if item.kind in ("mailbox", "device") else {}
        return {**named, **born, "origin": self.wanted.origin}

    async def _columns(self, item: Item, row: Row | None, changed: list[str]) -> dict[str, Any]:
        values = item.over(self.stored.values(item.kind, item.name))
        match item.kind:
            case "provider":
                return {"document": encode(unflat(item.name, values))}
            case "app":
                return self._app(item, values, changed)
            case "mailbox":
                return await self._mailbox(item, values, changed)
        settings = msgspec.convert({key: values[key] for key in DEVICE_SETTINGS if key in values}, DeviceSettings)
        return {"document": encode(settings), "password_hash": self.attempt.prepared[item.name].password_hash}

    def _app(self, item: Item, values: dict[str, Any], changed: list[str]) -> dict[str, Any]:
        forgotten = "client_secret" in item.removed
        outdated = {key for key in KNOWN if (item.secret is not None or forgotten) and key not in item.values}
        outdated |= {"provider", "client_id"}
        document = {key: value for key, value in values.items() if key not in outdated}
        columns = {"provider": values["provider"], "client_id": values["client_id"], "document": encode(document)}
        if "client_id" in changed and (provider := built_in().get(values["provider"])):
            warnings = client_warnings(provider, values["client_id"])
            self.report.notes += [f"{item.name}: {warning}" for warning in warnings]
        if item.secret is not None and "client_secret" in changed:
            columns["secret"] = self._seal(item.secret, f"app:{self.ids['app', item.name]}:secret")
        return columns | ({"secret": None} if forgotten else {})

    async def _mailbox(self, item: Item, values: dict[str, Any], changed: list[str]) -> dict[str, Any]:
        row_id, row = self.ids["mailbox", item.name], self.stored.mailbox(item.name)
        columns: dict[str, Any] = {"is_default": int(values.get("default", False))}
        if item.secret is not None and "password" in changed:
            columns["password"] = self._seal(item.secret, f"mailbox:{row_id}:password")
        elif "password" in item.removed:
            columns["password"] = None
        settings = msgspec.convert({key: values[key] for key in MAILBOX_SETTINGS if key in values}, MailboxSettings)
        choice = await choose(
            self.tx,
            row,
            item.name,
            Way(
                app_id=self._app_id(values.get("app", "")),
                account=values.get("signs_in_as", item.name),
                token_id=None,
            ),
            settings,
            has_password=item.secret is not None or self.stored.has_secret(item),
            now=self.attempt.now,
        )
        self._leave_tokens(row)
        waits = choice.switch is not None or any(apart.switch for apart in choice.apart.values())
        if waits and {"app", "signs_in_as", *TOKEN_KEYS} & set(changed):
            self.report.notes.append(
                f"{item.name} goes on as it is until its new token has proved itself: authorise it."
            )
        if {"sender", "sender_address"} & set(changed):
            self._doubt_sender(item.name, settings, values.get("signs_in_as", item.name))
        return {**columns, **choice.fitted(settings, row)}

    def _doubt_sender(self, address: str, settings: MailboxSettings, account: str) -> None:
        """Not refused: whether the account may send as it is learnt from the provider's answer."""
        sender = settings.sender_address
        if settings.send and settings.sender == "automatic" and sender not in ("", address, account):
            self.report.notes.append(
                f"{address}: the sender address {sender} differs from {account}, who signs in. "
                "See that the account may send as it."
            )

    def _app_id(self, name: str) -> str | None:
        if not name:
            return None
        row = self.stored.find("app", name)
        return row.id if row else self.ids["app", name]

    def _seal(self, secret: Secret, place: str) -> bytes:
        return self.sealer.seal(secret.reveal().encode(), place)

    async def _app_changed(self, item: Item, app: StoredApp, changed: list[str]) -> None:
        if item.renew and "client_secret" in changed:
            self.report.notes.append(f"The client_secret of {app.name} was forgotten: give it again.")
        if item.renew or {"client_id", "provider"} & set(changed):
            await self._client_changed(app)
        expires = app.document.get("secret_expires", "")
        if expires and item.secret is not None and "client_secret" in changed and "secret_expires" not in changed:
            self.report.notes.append(f"The client_secret of {app.name} is new: does it still end on {expires}?")

    async def _client_changed(self, app: StoredApp) -> None:
        """The grants were given to the former client."""
        detail = f"The client of the app registration {app.name} was changed."
        for token in await tokens.everything(self.tx):
            if token.app_id == app.id and token.state is TokenState.ACQUIRED:
                await tokens.set_state(
                    self.tx, token.id, TokenState.INVALID, self.attempt.now, "client_changed", detail
                )

    async def _one_default(self) -> None:
        chosen = next((item.name for item in self.wanted.of("mailbox") if item.values.get("default")), None)
        for mailbox in self.loaded.mailboxes.values():
            if chosen and mailbox.default and mailbox.address != chosen:
                await self._save("mailbox", mailbox.id, is_default=0)
                self.report.note("changed", "mailbox", mailbox.address, "default")

    # Secrets, compared and remembered

    async def _present(self, item: Item, row: Row | None) -> dict[str, Any]:
        """What is stored, with a fingerprint of the secret."""
        values = self.stored.values(item.kind, item.name)
        if key := SECRETS.get(item.kind, ""):
            values[key] = await self._stored_fingerprint(row)
        return values

    async def _stored_fingerprint(self, row: Row | None) -> str:
        secret: Secret | None = None
        with contextlib.suppress(Unsealable):
            match row:
                case StoredApp():
                    secret = configuration.app_secret(self.sealer, row)
                case Mailbox(has_password=True):
                    secret = await configuration.mailbox_password(self.tx, self.sealer, row.id)
                case Device():
                    return fingerprint(row.password_hash)
        return self._fingerprint(secret) if secret else ""

    def _fingerprint(self, secret: Secret) -> str:
        return hmac.digest(self.sealer.derive("applied secrets"), secret.reveal().encode(), "sha256").hex()

    def _with_fingerprint(self, item: Item, present: Mapping[str, Any]) -> dict[str, Any]:
        """What the file gives. A device's password is a hash already, made before the transaction."""
        given = dict(item.values)
        key = SECRETS.get(item.kind, "")
        if item.missing:
            self.report.notes.append(f"{item.name}: {item.missing}; the stored {key} is kept.")
        if item.kind == "device":
            given |= self._device_password(item, present)
        elif item.secret is not None:
            given[key] = self._fingerprint(item.secret)
        return given

    def _device_password(self, item: Item, present: Mapping[str, Any]) -> dict[str, Any]:
        prepared, row = self.attempt.prepared[item.name], self.stored.find("device", item.name)
        known = row.password_hash if isinstance(row, Device) else ""
        if known not in (prepared.seen, prepared.password_hash):
            raise _Moved
        if prepared.generated is not None and not self.attempt.dry_run:
            self.report.generated[item.name] = prepared.generated
        owned = item.secret is not None or known != prepared.password_hash
        return {"password": fingerprint(prepared.password_hash)} if owned else {}

    def _note_drift(self, item: Item, row: Row | None, present: dict[str, Any], given: dict[str, Any]) -> None:
        former = apply_record.former(self.record, item)
        if former and row is None:
            self.report.drift.append(f"The {item.kind} {item.name} was removed since; it is made again.")
        elif former:
            for key in apply_record.drifted(given, former, present):
                self.report.drift.append(f"The {item.kind} {item.name}: {key} was changed elsewhere since.")

    def _remember(self, item: Item, row: Row | None, given: dict[str, Any]) -> None:
        former = apply_record.former(self.record, item)
        keys = dict(given)
        key = SECRETS.get(item.kind, "")
        if key in item.lines and key not in keys and key in apply_record.keys_of(former):
            keys[key] = apply_record.keys_of(former)[key]
        made = row is None or (apply_record.was_made(former) and row.origin == self.wanted.origin)
        names = self.remembered.setdefault(item.kind, {})
        names[key_of(item.kind, item.name)] = apply_record.entry(made, keys)

    # What is no longer wanted

    async def _clear(self, one: Closing, sending: dict[str, str]) -> None:
        self.discarded += await apply_mail.clear(self.tx, one, self.attempt.rule, sending, self.attempt.now)

    async def _let_go(self, no_longer: list[tuple[str, str, bool]], leaving: list[tuple[str, str]]) -> None:
        for kind, key, made in no_longer:
            row = self.stored.find(kind, key)
            assert row is not None  # noqa: S101
            if (kind, key) in leaving:
                await configuration.remove(self.tx, kind, row.id)
                self.saves += 1
                self._leave_tokens(row)
                self.report.note("removed", kind, key)
            elif self.attempt.prune:
                await self._disown(kind, row)
            else:
                self._keep_owned(kind, key, made)

    async def _disown(self, kind: str, row: Row) -> None:
        """It was there before the file named it, so it stays, and is nobody's."""
        if row.origin == self.wanted.origin:
            await self._save(kind, row.id, origin="")

    def _keep_owned(self, kind: str, key: str, made: bool) -> None:
        self.remembered.setdefault(kind, {})[key] = self.record[kind][key]
        if made:
            self.report.notes.append(f"The {kind} {key} is no longer in the file; --prune removes it.")

    def _leave_tokens(self, row: Row | None) -> None:
        if isinstance(row, Mailbox):
            self.left_tokens |= row.tokens_in_use(self.attempt.now)

    async def _look_after_tokens(self) -> None:
        """Tokens that no mailbox uses any more: empty ones go, the others are for the caller to revoke."""
        for token_id in sorted(self.left_tokens - await self._used_tokens()):
            token = await tokens.get(self.tx, token_id)
            if token is not None and token.state is TokenState.NOT_ACQUIRED:
                await tokens.remove(self.tx, token_id)
            elif token is not None:
                self.report.unused_tokens.append(token_id)

    async def _used_tokens(self) -> set[str]:
        mailboxes = (await configuration.load(self.tx)).mailboxes.values()
        return set().union(*(mailbox.tokens_in_use(self.attempt.now) for mailbox in mailboxes))

    def _names(self, kind: str, key: str) -> bool:
        return any(key in item.values for item in self.wanted.of(kind))

    async def _finish(self) -> None:
        if self.wanted.of("destination"):
            self.report.notes.append("Destinations are not yet available; the rest was applied.")
        if later := [f"{kind} {key}" for kind, keys in LATER.items() for key in keys if self._names(kind, key)]:
            self.report.notes.append(f"Kept, but without effect as yet: {', '.join(later)}.")
        if self.wanted.origin and self.remembered != self.record:
            await applied.remember(self.tx, self.wanted.origin, self.remembered)
        if await configuration.generation(self.tx) != self.loaded.generation + self.saves:
            raise _Moved
