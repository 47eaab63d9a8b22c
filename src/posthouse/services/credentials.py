"""How to log in at the provider for a mailbox: with an access token, or with its password."""

from dataclasses import dataclass

from posthouse.model.endpoint import Endpoint
from posthouse.model.mailbox import Mailbox, Protocol, Purpose, purpose_of
from posthouse.services.directory import Directory
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.services.upstream import Login
from posthouse.store import configuration
from posthouse.store.opening import Store

PASSWORD_MECHANISMS = ("PLAIN", "LOGIN")


@dataclass(frozen=True, slots=True)
class Way:
    """Where and as whom. `serial` is the access token's, None with a password."""

    endpoint: Endpoint
    login: Login
    ca_file: str
    serial: int | None


@dataclass(frozen=True, slots=True)
class Credentials:
    store: Store
    directory: Directory
    keeper: TokenKeeper

    async def way(
        self,
        mailbox: Mailbox,
        protocol: Protocol,
        *,
        purpose: Purpose | None = None,
        refused_serial: int | None = None,
    ) -> Way:
        """`purpose` is the setting that logs in; left out, it is sending for SMTP and receiving for the others.

        `refused_serial`: a token the server did not take, so that a newer one is wanted.
        Raises NoToken, DatabaseUnavailable, Unsealable.
        """
        mailbox = mailbox.for_setting(purpose or purpose_of(protocol))
        snapshot = self.directory.now
        provider = snapshot.provider_of(mailbox)
        endpoint = snapshot.endpoint(mailbox, protocol)
        if endpoint is None:
            raise NoToken(f"There is no {protocol.upper()} server for {mailbox.address}.", temporary=True)
        ca_file = provider.ca_file if provider else ""
        if mailbox.token_id is None or (mailbox.has_password and mailbox.app_id is None):
            return await self._with_password(mailbox, endpoint, snapshot.user(mailbox, protocol), ca_file)
        token = await self.keeper.access_token(mailbox.token_id, newer_than=refused_serial)
        user = snapshot.user(mailbox, protocol, app_only=token.app_only)
        mechanisms = provider.mechanisms if provider else ("XOAUTH2", "OAUTHBEARER")
        return Way(endpoint, Login(user, token.secret, mechanisms), ca_file, token.serial)

    async def _with_password(self, mailbox: Mailbox, endpoint: Endpoint, user: str, ca_file: str) -> Way:
        sealer = self.store.sealer
        password = await self.store.database.read(lambda tx: configuration.mailbox_password(tx, sealer, mailbox.id))
        if password is None:
            raise NoToken("There is neither a token nor a password.", temporary=False)
        return Way(endpoint, Login(user, password, PASSWORD_MECHANISMS), ca_file, None)
