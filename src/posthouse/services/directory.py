"""What is configured, in memory: looked up for every connection, so it must not cost a trip to the database.

A snapshot is never changed; when the configuration's generation has grown, a new one takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import structlog

from posthouse.model.device import Device
from posthouse.model.endpoint import Endpoint, parse_endpoint
from posthouse.model.mailbox import Mailbox, Protocol, fold
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

    @property
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

    def mailboxes_of_token(self, token_id: str) -> list[Mailbox]:
        """Those that log in with it now."""
        return list(self._by_token.get(token_id, ()))

    @cached_property
    def _by_token(self) -> dict[str, list[Mailbox]]:
        found: dict[str, list[Mailbox]] = {}
        for mailbox in self.mailboxes.values():
            if mailbox.token_id is not None:
                found.setdefault(mailbox.token_id, []).append(mailbox)
        return found

    def users_of_token(self, token_id: str) -> list[Mailbox]:
        """Those that log in with it now, and those that will once it has proved itself, as they will be then."""
        waiting = [mailbox.switched for mailbox in self.mailboxes.values() if mailbox.settings.switch is not None]
        return self.mailboxes_of_token(token_id) + [mailbox for mailbox in waiting if mailbox.token_id == token_id]


class Directory:
    """Holds the newest snapshot."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: list[Callable[[], None]] = []
        self.now = Snapshot(NOTHING)

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
        self.now = Snapshot(loaded, _providers(loaded))
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
