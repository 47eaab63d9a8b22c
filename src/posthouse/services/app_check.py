"""The check of an app registration with harmless requests, before a person is sent away to sign in.

Nobody signs in, and what the provider gives is thrown away. Every answer goes through the catalogue.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from posthouse.model.outcome import Granted, Pending, Refused, SlowDown, Unreachable
from posthouse.oauth import device, refresh, silent
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.endpoints import Endpoints, discovery_requests, read_discovery
from posthouse.oauth.message import Answer, Request
from posthouse.problems import ProblemError
from posthouse.providers.catalogue import explain_token_error
from posthouse.providers.provider import Provider, scopes_for
from posthouse.providers.registration import Sentence, client_warnings, redirect_problem, redirect_url_of
from posthouse.secret import Secret
from posthouse.services import app_only
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.directory import Directory
from posthouse.services.sign_in import Registration, SignIn
from posthouse.services.steps import Runs, Step, timed
from posthouse.store.configuration import StoredApp

DEADLINE = 10.0
"""Seconds for one request."""
StepName = Literal["discovery", "browser", "device", "client"]
STEPS: tuple[StepName, ...] = get_args(StepName)
MADE_UP = Secret("posthouse-asks-whether-it-is-known")
"""No provider has ever given out this refresh token, so refusing it says only who is known."""

DESCRIBED = "The sign-in describes itself, and is the one that was expected."
NOT_DESCRIBED = "Its addresses are known from elsewhere; this sign-in does not describe itself."
KNOWN = "The provider knows the client id and this redirect URL: it sent an unfinished sign-in back to it."
OPENED = "The sign-in page opens. Some providers object to client id or redirect URL only after a name."
GIVES_CODES = "The provider gives this app device codes. The one it gave is thrown away."
TAKEN = "The provider takes what the app shows itself with."
PUBLIC = "The provider knows the app as a public client, without a secret."
GIVEN = "The provider gives the app a token of its own; it is thrown away. It proves nothing about mailboxes."
NOT_LOOKED_AT = "The provider did not come to look at what the app shows itself with; a sign-in will tell."
NO_DOOR = "This provider does not have it."
NOBODY_SIGNS_IN = "With a service account nobody signs in."
NO_MAILBOX = "No mailbox uses this app registration yet, and a service account asks in the name of one."
NO_PROVIDER = "There is no provider {name}."
NOT_FOUND = "Without the addresses of the sign-in it cannot be tried."
Where = Literal["token", "authorize", "device"]
NOT_IN_TIME = "the sign-in server did not answer in time"
REGISTER = "Register exactly this redirect URL: {url}"


@dataclass(slots=True)
class AppCheck:
    """`external_url` is this gateway's page: below it sign-ins come back."""

    directory: Directory
    sign_in: SignIn
    clock: Clock
    external_url: str
    runs: Runs = field(init=False)

    def __post_init__(self) -> None:
        self.runs = Runs(self.steps)

    def warnings(self, app: StoredApp) -> tuple[Sentence, ...]:
        """What is known to be wrong before anything is asked."""
        provider = self.directory.now.providers.get(app.provider)
        if provider is None or _is_service_account(app):
            return ()
        refused = redirect_problem(provider, self.redirect_url_of(app))
        return (*client_warnings(provider, app.client_id), *((refused,) if refused else ()))

    def redirect_url_of(self, app: StoredApp) -> str:
        """What has to be registered for it at the provider, exactly so; "" where the provider is gone."""
        provider = self.directory.now.providers.get(app.provider)
        return redirect_url_of(provider, app.client_id, self.external_url) if provider else ""

    async def steps(self, app_id: str, only: Collection[str] = ()) -> AsyncIterator[Step]:
        """The steps as they end; `only`: just these. Nothing where there is no such app. Raises Unsealable."""
        app, provider = self.sign_in.described(app_id)
        if app is None:
            return
        if provider is None:
            yield Step("discovery", "failed", answer=NO_PROVIDER.format(name=app.provider))
            return
        for name in STEPS:
            if only and name not in only:
                continue
            began = asyncio.get_running_loop().time()
            yield timed(await self._step(name, app, provider), began)

    async def _step(self, name: StepName, app: StoredApp, provider: Provider) -> Step:
        try:
            async with asyncio.timeout(2 * DEADLINE):
                if name == "discovery":
                    return await self._discovery(app, provider)
                registration = await self.sign_in.registration(app.id)
                if not isinstance(registration, Registration):
                    return Step(name, "skipped", NOT_FOUND)
                checks = {"browser": self._browser, "device": self._device, "client": self._client}
                return await checks[name](registration)
        except ProblemError as error:
            problem = error.problems[0]
            return Step(name, "failed", cause=problem.sentence, fix=problem.hint)
        except TimeoutError:
            return Step(name, "failed", answer=NOT_IN_TIME, temporary=True)

    async def _ask(self, request: Request, provider: Provider) -> Answer | Unreachable:
        return await self.sign_in.ask(request, provider, deadline=DEADLINE)

    async def _discovery(self, app: StoredApp, provider: Provider) -> Step:
        """Asked anew, whatever is remembered. Raises ProblemError for a description of something else."""
        plain, expected = self.sign_in.issuer_of(app, provider)
        if not plain:
            return Step("discovery", "unused", NOT_DESCRIBED)
        asked = f"GET {discovery_requests(plain)[0].url}"
        refused: list[Refused | Unreachable] = []
        for request in discovery_requests(plain):
            answer = await self._ask(request, provider)
            found = answer if isinstance(answer, Unreachable) else read_discovery(answer, expected)
            if isinstance(found, Endpoints):
                return Step("discovery", "passed", DESCRIBED, asked=f"GET {request.url}")
            refused.append(found)
        return _failed("discovery", refused[0], provider, "token", asked)

    async def _browser(self, registration: Registration) -> Step:
        if registration.service_account is not None:
            return Step("browser", "unused", NOBODY_SIGNS_IN)
        if not registration.endpoints.authorize_url:
            return Step("browser", "unused", NO_DOOR)
        provider, url = registration.provider, self.redirect_url_of(registration.app)
        attempt, request = silent.ask(
            registration.endpoints,
            registration.client,
            redirect_uri=url,
            scopes=_scopes(registration),
            parameters=provider.authorize,
        )
        asked = (
            f"GET {registration.endpoints.authorize_url} client_id={registration.client.client_id} redirect_uri={url}"
        )
        answer = await self._ask(request, provider)
        outcome = answer if isinstance(answer, Unreachable) else silent.read(answer, attempt)
        if isinstance(outcome, silent.Opened):
            return Step("browser", "passed", KNOWN if outcome.known else OPENED, outcome.what, asked=asked)
        return _failed("browser", outcome, provider, "authorize", asked, url)

    async def _device(self, registration: Registration) -> Step:
        """A code, and one question about it: some providers look at the app only then."""
        if registration.service_account is not None:
            return Step("device", "unused", NOBODY_SIGNS_IN)
        if not registration.endpoints.device_url:
            return Step("device", "unused", NO_DOOR)
        endpoints, client, provider = registration.endpoints, registration.client, registration.provider
        asked = f"POST {endpoints.device_url} client_id={client.client_id}"
        request = device.start(endpoints, client, _scopes(registration), self._now)
        answer = await self._ask(request, provider)
        started = answer if isinstance(answer, Unreachable) else device.read_start(answer, hide=request.secrets())
        if not isinstance(started, device.DeviceCode):
            return _failed("device", started, provider, "device", asked)
        polled = device.poll(endpoints, client, started.device_code, self._now)
        said = await self._ask(polled, provider)
        outcome = said if isinstance(said, Unreachable) else device.read_poll(said, hide=polled.secrets())
        if isinstance(outcome, Pending | SlowDown | Unreachable | Granted):
            return Step("device", "passed", GIVES_CODES, asked=asked)
        return _failed("device", outcome, provider, "device", f"POST {endpoints.token_url} grant_type=device_code")

    async def _client(self, registration: Registration) -> Step:
        """Whether the secret is right: by a token for the app itself where that is usual, else by a made-up token."""
        request, asked = self._by_itself(registration)
        if request is None:
            return Step("client", "skipped", NO_MAILBOX)
        answer = await self._ask(request, registration.provider)
        outcome = answer if isinstance(answer, Unreachable) else read_token_answer(answer, hide=request.secrets())
        if isinstance(outcome, Granted):
            return Step("client", "passed", GIVEN, asked=asked)
        if isinstance(outcome, Refused) and registration.service_account is None and not outcome.client_refused:
            known = outcome.error == "invalid_grant"
            sentence = (PUBLIC if registration.client.method == "none" else TAKEN) if known else NOT_LOOKED_AT
            evidence = "" if known else _said(outcome)
            return Step("client", "passed" if known else "skipped", sentence, evidence, asked=asked)
        return _failed("client", outcome, registration.provider, "token", asked)

    def _by_itself(self, registration: Registration) -> tuple[Request | None, str]:
        """The request, and what to say of it; None where there is nobody to ask for. Raises ProblemError."""
        url = registration.endpoints.token_url
        if registration.service_account is not None:
            account = self._account(registration.app)
            url, grant = registration.service_account.token_url, "jwt-bearer"
            request = app_only.request(registration, account, self._now) if account else None
        elif app_only.is_usual(registration):
            request, grant = app_only.request(registration, "", self._now), "client_credentials"
        else:
            scopes = _scopes(registration) if registration.provider.scope_in_refresh else ()
            request = refresh.refresh(registration.endpoints, registration.client, MADE_UP, self._now, scopes=scopes)
            grant = "refresh_token, with a made-up token"
        return request, f"POST {url} client_id={registration.client.client_id} grant_type={grant}"

    def _account(self, app: StoredApp) -> str:
        mailboxes = self.directory.now.mailboxes.values()
        return next((mailbox.account for mailbox in mailboxes if mailbox.app_id == app.id), "")

    @property
    def _now(self) -> datetime:
        return as_datetime(self.clock())


def _scopes(registration: Registration) -> tuple[str, ...]:
    return scopes_for(registration.provider, ("smtp",), offered=registration.endpoints.scopes_supported)


def _failed(
    name: StepName, outcome: Refused | Unreachable, provider: Provider, where: Where, asked: str, redirect_url: str = ""
) -> Step:
    """`redirect_url` is shown where the catalogue says that it is what has to be mended."""
    entry = explain_token_error(provider.family, outcome, where)
    return Step(
        name,
        "failed",
        REGISTER.format(url=redirect_url) if entry and "redirect_url" in entry.shows and redirect_url else "",
        outcome.what if isinstance(outcome, Unreachable) else _said(outcome),
        entry.meaning if entry else "",
        entry.fix if entry else "",
        temporary=isinstance(outcome, Unreachable),
        asked=asked,
    )


def _said(outcome: Refused) -> str:
    return " ".join(part for part in (outcome.error, outcome.description) if part)[:600]


def _is_service_account(app: StoredApp) -> bool:
    return app.document.get("credential") == "service_account"
