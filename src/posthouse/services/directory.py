"""What is configured, in memory: looked up for every connection, so it must not cost a trip to the database.

A snapshot is never changed; when the configuration's generation has grown, a new one takes its place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import structlog

from posthouse.model.device import Device
from posthouse.model.endpoint import Endpoint, parse_endpoint
from posthouse.model.mailbox import Mailbox, Protocol, Purpose, User, Way, fold
from posthouse.model.pacing import Allowance
from posthouse.oauth.client import Client
from posthouse.oauth.credential import split_bundle
from posthouse.oauth.jwt_bearer import ServiceAccount, read_service_account
from posthouse.problems import ProblemError
from posthouse.providers.applied import from_apply
from posthouse.providers.provider import Provider, built_in, keeps_token, user_name
from posthouse.providers.registration import known_client
from posthouse.store import configuration, events
from posthouse.store.configuration import Configuration, StoredApp
from posthouse.store.data_keys import COUNTER
from posthouse.store.database import Transaction
from posthouse.store.opening import Store

NOTHING = Configuration(-1, {}, {}, {}, {})
"""What is configured before anything is read."""

log = structlog.get_logger("directory")


@dataclass(frozen=True)
class Snapshot:
    """The configuration at one moment, with the ways people and devices look for things in it."""

    configuration: Configuration
    providers: dict[str, Provider] = field(default_factory=dict)
    notices: str = ""
    """The mailbox by which the gateway's own notices leave."""

    @cached_property
    def by_address(self) -> dict[str, Mailbox]:
        return {mailbox.address: mailbox for mailbox in self.configuration.mailboxes.values()}

    @cached_property
    def devices_by_name(self) -> dict[str, Device]:
        return {device.name.casefold(): device for device in self.configuration.devices.values()}

    @cached_property
    def apps_by_name(self) -> dict[str, StoredApp]:
        return {app.name: app for app in self.configuration.apps.values()}

    @property
    def mailboxes(self) -> dict[str, Mailbox]:
        """By id."""
        return self.configuration.mailboxes

    def mailbox(self, name: str) -> Mailbox | None:
        """By id or by address."""
        return self.mailboxes.get(name) or self.by_address.get(fold(name))

    @cached_property
    def ordered(self) -> list[Mailbox]:
        """By address: databases sort by rules of their own."""
        return sorted(self.mailboxes.values(), key=lambda mailbox: mailbox.address)

    @cached_property
    def default_mailbox(self) -> Mailbox | None:
        chosen = next((mailbox for mailbox in self.mailboxes.values() if mailbox.default), None)
        only = next(iter(self.mailboxes.values())) if len(self.mailboxes) == 1 else None
        return chosen or only

    def app_of(self, mailbox: Mailbox) -> StoredApp | None:
        return self.configuration.apps.get(mailbox.app_id or "")

    def provider_of(self, mailbox: Mailbox) -> Provider | None:
        app = self.app_of(mailbox)
        return self.providers.get(app.provider) if app else None

    def endpoint(self, mailbox: Mailbox, protocol: Protocol) -> Endpoint | None:
        """The mailbox's own server for a protocol, else the provider's.

        With a token, which is for the provider's servers alone, another server is not used: it is kept for a password.
        """
        written: str = getattr(mailbox.settings, protocol)
        own = parse_endpoint(written) if written else None
        if mailbox.app_id is None:
            return own
        provider = self.provider_of(mailbox)
        if provider is None:
            return None
        return own if own and keeps_token(provider, own) else provider.endpoint(protocol)

    def user(self, mailbox: Mailbox, protocol: Protocol, *, app_only: bool = False) -> str:
        """The name to log in with: the mailbox's own, else by the provider's rule (reference, section 6)."""
        own: str = getattr(mailbox.settings, f"{protocol}_user")
        provider = self.provider_of(mailbox)
        if own or provider is None:
            return own or mailbox.account
        return user_name(provider, protocol, account=mailbox.account, mailbox=mailbox.address, app_only=app_only)

    def purposes(self, mailbox: Mailbox) -> tuple[Purpose, ...]:
        """The settings that need a token, with the gateway's notices where they leave by this mailbox."""
        found = mailbox.settings.purposes()
        return (*found, "notices") if mailbox.address == self.notices and "notices" not in found else found

    def purpose_of(self, mailbox: Mailbox) -> Purpose | None:
        """Which token is meant where nobody says which: the one that settings share (None), else their first."""
        used = self.purposes(mailbox)
        return None if any(purpose not in mailbox.settings.apart for purpose in used) else used[0]

    def setting_of_token(self, mailbox: Mailbox, token_id: str) -> Purpose | None:
        """The setting whose own token it is, or will be; None for one that settings share."""
        apart = (purpose for purpose in self.purposes(mailbox) if purpose in mailbox.settings.apart)
        return next((one for one in apart if mailbox.for_setting(one).switched.token_id == token_id), None)

    def users_of_app(self, app_id: str) -> list[Mailbox]:
        """The mailboxes that sign in by an app registration, or are to."""
        return list(self._by_app.get(app_id, ()))

    @cached_property
    def _by_app(self) -> dict[str, list[Mailbox]]:
        found: dict[str, list[Mailbox]] = {}
        for mailbox in self.ordered:
            for app_id in {way.app_id for way in mailbox.ways() if way.app_id}:
                found.setdefault(app_id, []).append(mailbox)
        return found

    @property
    def in_use(self) -> Mapping[str, list[User]]:
        """By token id who logs in with it now; the empty id is that of passwords."""
        return self._now

    def uses_now(self, token_id: str) -> list[User]:
        """Who logs in with it now."""
        return list(self._now.get(token_id, ()))

    def users_of_token(self, token_id: str) -> list[User]:
        """Who logs in with it now, and who will once it has proved itself, as they will be then."""
        return list(self._now_and_then.get(token_id, ()))

    def user_of_token(self, token_id: str, mailbox_id: str) -> Mailbox | None:
        """A mailbox as those of its settings see it that use this token, or will."""
        users = self.users_of_token(token_id)
        return next((user.mailbox for user in users if user.mailbox.id == mailbox_id), None)

    @cached_property
    def sending_accounts(self) -> dict[str, str]:
        """By mailbox id who is counted when it sends: the name that logs in (reference, section 6)."""
        views = (mailbox.for_setting("sending") for mailbox in self.mailboxes.values())
        return {mailbox.id: self._sending_account(mailbox) for mailbox in views}

    def _sending_account(self, mailbox: Mailbox) -> str:
        app = self.app_of(mailbox)
        place = app.provider if app else mailbox.settings.smtp
        return f"{place} {fold(self.user(mailbox, 'smtp', app_only=mailbox.settings.method == 'app'))}"

    @cached_property
    def leaders(self) -> dict[str, str]:
        """Mailboxes that are counted together with another one, and that one: they have to be at the same node."""
        first: dict[str, str] = {}
        for mailbox_id, account in sorted(self.sending_accounts.items()):
            first.setdefault(account, mailbox_id)
        return {each: first[account] for each, account in self.sending_accounts.items() if first[account] != each}

    def order(self, mailbox: Mailbox) -> Literal["", "mailbox", "device"]:
        """In which order its mail has to go: all of it, that of each device, or as it comes."""
        if mailbox.settings.ordered:
            return "mailbox"
        return "device" if mailbox.address in self._ordered_by_device else ""

    @cached_property
    def _ordered_by_device(self) -> frozenset[str]:
        devices = [device.settings for device in self.configuration.devices.values() if device.settings.ordered]
        return frozenset(address for settings in devices for address in settings.mailboxes)

    def allowance(self, mailbox: Mailbox) -> Allowance:
        """What its account may send."""
        provider = self.provider_of(mailbox.for_setting("sending"))
        if provider is None:
            return Allowance()
        limits = {name: getattr(provider.limits, name) or 0 for name in Allowance.__dataclass_fields__}
        return Allowance(**limits)

    def size_limit(self, mailbox: Mailbox) -> int:
        """Octets of a message that its provider takes; 0 where that is not known."""
        provider = self.provider_of(mailbox.for_setting("sending"))
        return (provider.limits.size if provider else None) or 0

    @cached_property
    def waiting(self) -> list[tuple[str, User]]:
        """Ids of tokens, and who waits for them to prove themselves."""
        ids = {way.token_id for mailbox in self.mailboxes.values() for way in _waited_for(mailbox)}
        users = ((token_id, user) for token_id in ids if token_id for user in self.users_of_token(token_id))
        return [(token_id, waits) for token_id, user in users if (waits := self._that_waits(token_id, user))]

    def _that_waits(self, token_id: str, user: User) -> User | None:
        mailbox = self.mailboxes[user.mailbox.id]
        waiting = tuple(p for p in user.purposes if mailbox.for_setting(p).token_id != token_id)
        return User(user.mailbox, waiting) if waiting else None

    @cached_property
    def _now(self) -> dict[str, list[User]]:
        return self._users(lambda seen: (seen,))

    @cached_property
    def _now_and_then(self) -> dict[str, list[User]]:
        return self._users(lambda seen: (seen, seen.switched))

    def _users(self, looks: Callable[[Mailbox], tuple[Mailbox, ...]]) -> dict[str, list[User]]:
        found: dict[str, list[User]] = {}
        for mailbox in self.mailboxes.values():
            of_mailbox: dict[str, User] = {}
            for purpose in self.purposes(mailbox):
                for seen in looks(mailbox.for_setting(purpose)):
                    known = of_mailbox.get(seen.token_id or "", User(seen, ()))
                    used = tuple(dict.fromkeys((*known.purposes, purpose)))
                    of_mailbox[seen.token_id or ""] = User(known.mailbox, used)
            for token_id, user in of_mailbox.items():
                found.setdefault(token_id, []).append(user)
        return found


def _waited_for(mailbox: Mailbox) -> Iterator[Way]:
    aparts = (apart.switch for apart in mailbox.settings.apart.values())
    return (way for way in (mailbox.settings.switch, *aparts) if way is not None)


class Directory:
    """Holds the newest snapshot."""

    def __init__(self, store: Store, notices: str = "") -> None:
        self._store = store
        self._notices = fold(notices)
        self._listeners: list[Callable[[], None]] = []
        self.now = Snapshot(NOTHING, {}, self._notices)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a new snapshot has taken the place of the old one."""
        self._listeners.append(listener)

    async def refresh(self) -> bool:
        """Look whether the configuration, or the keys it is sealed with, have changed, and read them if so."""
        keys = self._store.keys
        generation, of_keys = await self._store.database.read(_generations)
        if of_keys != keys.generation:
            await keys.load()
        elif generation == self.now.configuration.generation:
            return False
        loaded = await self._store.database.read(configuration.load)
        self.now = Snapshot(loaded, _providers(loaded), self._notices)
        for listener in self._listeners:
            listener()
        return True

    def client(self, app: StoredApp, provider: Provider) -> Client:
        """The app registration as the flows need it. Raises Unsealable."""
        known = known_client(provider, app.client_id)
        if known is not None:
            return Client(known.client_id)
        secret = configuration.app_secret(self._store.sealer, app)
        kind = app.document.get("credential", "client_secret")
        if secret is None or kind == "service_account":
            return Client(app.client_id)
        if kind == "client_secret":
            return Client(app.client_id, "post", secret)
        key, certificate = split_bundle(secret)
        algorithm = provider.assertion_algorithm
        return Client(app.client_id, "private_key_jwt", key=key, certificate=certificate, algorithm=algorithm)

    def service_account(self, app: StoredApp) -> ServiceAccount | None:
        """Raises Unsealable, ProblemError."""
        if app.document.get("credential") != "service_account":
            return None
        secret = configuration.app_secret(self._store.sealer, app)
        return read_service_account(secret) if secret is not None else None


async def _generations(tx: Transaction) -> tuple[int, int]:
    return await configuration.generation(tx), await events.value_of(tx, COUNTER)


def _providers(loaded: Configuration) -> dict[str, Provider]:
    """Without those whose stored settings make no sense any more: they must not take the others along."""
    usable = {name: provider for name, provider in built_in().items() if name not in loaded.providers}
    for name, stored in loaded.providers.items():
        try:
            usable[name] = from_apply(stored.document)
        except ProblemError as cause:
            log.error("provider cannot be used", provider=name, why=str(cause))
    return usable
