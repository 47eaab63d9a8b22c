"""The providers' sign-in servers: where they answer (kept for a while), what they are asked, with which keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posthouse.model.outcome import Refused, Unreachable
from posthouse.net.http import HttpClient
from posthouse.oauth.answer import read_json
from posthouse.oauth.client import Client
from posthouse.oauth.endpoints import Endpoints, completed, discovery_requests, endpoints_of, read_discovery
from posthouse.oauth.identity import read_keys
from posthouse.oauth.jwt_bearer import ServiceAccount
from posthouse.oauth.message import Answer, Request, get
from posthouse.oauth.revoke import Revoked, read_revoke, revoke
from posthouse.providers.provider import Provider
from posthouse.secret import Secret
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.directory import Directory
from posthouse.store.configuration import StoredApp

DEADLINE = 20.0
"""Seconds for one request, from connect to the last octet."""
KEEP = 3600.0
"""Seconds that discovery and key sets are believed."""
KEYS_REST = 5.0
"""Seconds before a key set is fetched again, also where it did not fit."""


@dataclass(frozen=True, slots=True)
class Registration:
    """An app registration together with its provider: everything a flow needs."""

    app: StoredApp
    provider: Provider
    client: Client
    endpoints: Endpoints
    service_account: ServiceAccount | None = None

    @property
    def name(self) -> str:
        """Who a consent is given to, wherever the tenant and the addresses of the provider may move."""
        return f"{self.client.client_id} at {self.provider.issuer or self.provider.token_url}"

    @property
    def doors(self) -> str:
        """As whom and where a sign-in is begun and finished: its code goes nowhere else."""
        known = self.endpoints
        return " ".join((self.app.client_id, known.authorize_url, known.device_url, known.token_url))


class SignIn:
    """Asks sign-in servers. Answers are `Answer`, or `Unreachable` when there was none."""

    def __init__(self, directory: Directory, http: HttpClient, clock: Clock) -> None:
        self._directory = directory
        self._http = http
        self._clock = clock
        self._endpoints: dict[tuple[int, str], tuple[float, Endpoints]] = {}
        self._keys: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def described(self, app_id: str) -> tuple[StoredApp | None, Provider | None]:
        """The registration as it is configured at the moment: to be compared with what it was."""
        app = self._directory.now.configuration.apps.get(app_id)
        return app, self._directory.now.providers.get(app.provider) if app else None

    async def registration(self, app_id: str) -> Registration | Refused | Unreachable:
        """The registration with its addresses, asked for by discovery where the provider's data lack some."""
        app, provider = self.described(app_id)
        if app is None or provider is None:
            return Refused("invalid_client", description="The app registration is no longer there.")
        found = await self._find_endpoints(app, provider)
        if not isinstance(found, Endpoints):
            return found
        account = self._directory.service_account(app)
        return Registration(app, provider, self._directory.client(app, provider), found, account)

    def issuer_of(self, app: StoredApp, provider: Provider) -> tuple[str, str]:
        """Where the sign-in describes itself, and who it has to say that it is; "" for one that does not."""
        tenant = str(app.document.get("tenant", ""))
        expected = endpoints_of(provider, tenant).issuer
        return provider.issuer.replace("{tenant}", tenant or provider.tenant), expected

    async def _find_endpoints(self, app: StoredApp, provider: Provider) -> Endpoints | Refused | Unreachable:
        key = (self._directory.now.configuration.generation, app.id)
        kept = self._endpoints.get(key)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        stated = endpoints_of(provider, str(app.document.get("tenant", "")))
        found = stated if _complete(stated) else await self._discover(stated, provider)
        if isinstance(found, Endpoints):
            self._endpoints = {known: value for known, value in self._endpoints.items() if known[0] == key[0]}
            self._endpoints[key] = (self._clock() + KEEP, found)
        return found

    async def _discover(self, stated: Endpoints, provider: Provider) -> Endpoints | Refused | Unreachable:
        outcome: Endpoints | Refused | Unreachable = Unreachable("the provider has no issuer", ours=True)
        for request in discovery_requests(provider.issuer) if provider.issuer else ():
            answer = await self.ask(request, provider)
            if isinstance(answer, Unreachable):
                return answer
            outcome = read_discovery(answer, stated.issuer)
            if isinstance(outcome, Endpoints):
                return completed(stated, outcome)
        return outcome

    async def ask(self, request: Request, provider: Provider, *, deadline: float = DEADLINE) -> Answer | Unreachable:
        return await self._http.ask(request, deadline=deadline, ca_file=provider.ca_file)

    async def keys(self, registration: Registration, *, fresh: bool = False) -> Mapping[str, Any] | None:
        """The key set for ID tokens; `fresh` asks again even when one is known, unless it was fetched just now.

        None where there is none to be had.
        """
        url = registration.endpoints.jwks_url
        kept = self._keys.get(url)
        if kept is not None and 0 <= self._clock() - (kept[0] - KEEP) < (KEYS_REST if fresh else KEEP):
            return kept[1]
        answer = await self.ask(get(url), registration.provider) if url else Unreachable("no keys")
        keys = answer if isinstance(answer, Unreachable) else read_keys(answer)
        if isinstance(keys, Refused | Unreachable):
            return None
        self._keys[url] = (self._clock() + KEEP, keys)
        return keys

    async def revoke(
        self, registration: Registration, token: Secret, *, deadline: float = DEADLINE
    ) -> Revoked | Refused | Unreachable | None:
        """Give a refresh token back; None where the provider has no door for it. Raises ProblemError."""
        request = revoke(registration.endpoints, registration.client, token, as_datetime(self._clock()))
        if request is None:
            return None
        answer = await self.ask(request, registration.provider, deadline=deadline)
        return answer if isinstance(answer, Unreachable) else read_revoke(answer, hide=(token, *request.secrets()))

    async def json(self, request: Request, registration: Registration) -> dict[str, Any] | Refused | Unreachable:
        answer = await self.ask(request, registration.provider)
        return answer if isinstance(answer, Unreachable) else read_json(answer)


def _complete(stated: Endpoints) -> bool:
    """Whether discovery could add nothing that a flow needs, or there is no issuer to discover."""
    told = stated.authorize_url or stated.device_url
    return bool(stated.token_url and told and (stated.jwks_url or not stated.issuer))
