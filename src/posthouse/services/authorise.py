"""Getting a token: begin an attempt, take the provider's answer, see who signed in, prove it, let it serve.

The old grant serves until the new one has proved itself. Every step is a row, so that a restart goes on where it was.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import structlog

from posthouse.model.mailbox import Mailbox, Protocol, Purpose
from posthouse.model.outcome import Granted, Pending, Refused, SlowDown, Unreachable
from posthouse.model.token import Grant, Token, TokenState, pause_after_failures, refresh_at, spread_of
from posthouse.oauth import code, device
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.identity import (
    Identity,
    Mismatch,
    Person,
    Pin,
    Same,
    Untrusted,
    identity_from_introspection,
    identity_from_userinfo,
    same_person,
    verify_id_token,
)
from posthouse.oauth.introspection import introspect, read_introspection
from posthouse.oauth.message import Answer, Request
from posthouse.oauth.userinfo import read_userinfo, userinfo
from posthouse.problems import Problem, ProblemError, problem
from posthouse.providers.provider import Family, scopes_for
from posthouse.providers.registration import known_client, redirect_url_of
from posthouse.secret import Secret
from posthouse.services import app_only, switching
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.directory import Directory
from posthouse.services.giving_back import GivenBack, GivingBack
from posthouse.services.proving import Proof
from posthouse.services.refusals import Where, closed_ways, problem_of
from posthouse.services.sign_in import DEADLINE, Registration, SignIn
from posthouse.services.token_keeper import NoToken, TokenKeeper
from posthouse.services.trial import Outcome, Trial
from posthouse.store import authorisations, events, tokens
from posthouse.store.authorisations import Authorisation
from posthouse.store.database import CommitUnknown, DatabaseUnavailable, Transaction
from posthouse.store.ids import new_id
from posthouse.store.leaving import Leaving
from posthouse.store.opening import Store
from posthouse.store.sealing import Unsealable, fingerprint

BROWSER_LIFE = 900.0
"""Seconds a person has to finish a browser sign-in."""
LINK_LIFE = 3 * 86_400.0
"""Seconds an owner has to open the link and sign in."""
PROVING_LIFE = 86_400.0
"""Seconds a grant that could not be proved yet is kept."""
TURN = 60.0
"""Seconds for which whoever looks after an attempt has it to itself; after a crash another one goes on then."""
ENDED_LIFE = 90 * 86_400.0
"""Seconds an attempt can be looked up after it was begun."""
LOOK_AFTER = 1.0
MOST_OPEN = 20
"""Attempts that may be under way for one mailbox."""
CODE_LIFE = 600.0
"""Seconds an authorisation code may live at most, as RFC 6749 section 4.1.2 recommends."""
PATIENCE = 10.0
"""Seconds for which a device code is waited for."""
ASK_AGAIN = (1.0, 3.0)
"""Seconds before a device code is asked for again; a person looks on."""
WRITE_AGAIN = (0.2, 1.0, 3.0)
"""Seconds before a consent that could not be written is written again."""
_AFTER_AN_ERROR_PAGE = (
    "Nobody finished this sign-in in time. After an error page: compare the client id, and register the redirect URL "
)
Method = Literal["browser", "device", "paste", "link", "app"]

T = TypeVar("T")
log = structlog.get_logger("authorise")


ANOTHER_WAY = Problem(
    "sign-in.another-way", "Device codes are closed here.", "Sign in with the browser instead, or paste its address."
)
TOO_MANY = f"{MOST_OPEN} sign-ins are under way for this mailbox."
ASKED_AGAIN = "It is asked again by itself."
AWAY = "Begin again when it is back."
TOO_LATE = "Its permission has run out meanwhile: begin again."
LOST = "The provider's answer to this sign-in was lost, and its permission works only once: begin again."
CHANGED = "The app registration or its provider was changed after this sign-in was begun."


class _Overtaken(Exception):
    """Somebody else has changed it meanwhile: undoes the transaction."""


class _TooLate(Exception):
    """A later consent has proved itself before this one: undoes the transaction."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a person goes: our own start page, for a pasted URL the provider's; a device code has its own page."""

    authorisation: Authorisation
    url: str = ""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send the browser to `url`, with `cookie` set, which the callback of this authorisation will look for."""

    url: Secret
    cookie: Secret
    authorisation_id: str


@dataclass(slots=True)
class Authorise:
    store: Store
    directory: Directory
    sign_in: SignIn
    keeper: TokenKeeper
    giving_back: GivingBack
    trial: Trial
    clock: Clock
    external_url: str

    # Beginning

    async def begin(self, mailbox: Mailbox, method: Method, purpose: Purpose | None = None) -> Begun:
        """For the token that a setting uses or waits for, else for the one that settings share.

        Raises ProblemError where the mailbox or its provider cannot do this.
        """
        mailbox = mailbox.for_setting(purpose or self.directory.now.purpose_of(mailbox)).switched
        token = await self._token_of(mailbox)
        registration = await self._registration(token.app_id)
        if method == "device":
            return await self._begin_device(mailbox, token, registration)
        if method == "app":
            return await self._begin_app(mailbox, token, registration)
        if registration.service_account is not None:
            raise problem(
                "sign-in.service-account",
                f"{mailbox.address} uses a service account, so nobody signs in.",
                "Use the method app.",
            )
        known = known_client(registration.provider, registration.client.client_id)
        if known is not None and method != "paste":
            raise problem(
                "sign-in.known-client",
                f"{mailbox.address} uses the app registration of {known.title}, which lets nobody come back here.",
                "Use a device code, or paste the address.",
            )
        if method == "paste":
            return await self._begin_paste(mailbox, token, registration)
        return await self._begin_page(mailbox, token, method)

    async def _token_of(self, mailbox: Mailbox) -> Token:
        token = None
        if mailbox.token_id is not None:
            token = await self.store.database.read(lambda tx: tokens.get(tx, mailbox.token_id or ""))
        if token is None:
            raise problem(
                "mailbox.no-app",
                f"{mailbox.address} has no app registration, so there is nothing to sign in to.",
                "Give the mailbox an app registration first.",
            )
        return token

    async def _registration(self, app_id: str) -> Registration:
        found = await self.sign_in.registration(app_id)
        if isinstance(found, Registration):
            return found
        raise problem_of(found, self._family(app_id))

    def _family(self, app_id: str) -> Family:
        provider = self.sign_in.described(app_id)[1]
        return provider.family if provider else "any"

    async def _begin_page(self, mailbox: Mailbox, token: Token, method: Method) -> Begun:
        """The page of an owner can be shown again to the administrator who is to send it on."""
        start = secrets.token_urlsafe(32)
        life = LINK_LIFE if method == "link" else BROWSER_LIFE
        new = self._new(mailbox, token, method, expires_at=self.clock() + life)
        kept = {"start": start} if method == "link" else {}
        await self._add(replace(new, secrets=kept), start_hash=fingerprint(start))
        return Begun(new, self.start_page(Secret(start)))

    def start_page(self, start: Secret) -> str:
        return f"{self.external_url}/authorise/{start.reveal()}"

    async def _begin_paste(self, mailbox: Mailbox, token: Token, registration: Registration) -> Begun:
        attempt = self._code_attempt(registration, token)
        new = self._new(mailbox, token, "paste", expires_at=self.clock() + BROWSER_LIFE)
        new = replace(new, secrets={**_kept(attempt), "url": attempt.url, "doors": registration.doors})
        await self._add(new, state_hash=fingerprint(attempt.state.reveal()))
        return Begun(new, attempt.url)

    async def _begin_app(self, mailbox: Mailbox, token: Token, registration: Registration) -> Begun:
        """Nobody signs in: the app asks for itself, and is answered at once. Raises ProblemError."""
        request = app_only.request(registration, token.account, as_datetime(self.clock()))
        new = self._new(mailbox, token, "app", expires_at=self.clock() + BROWSER_LIFE)
        await self._add(new)
        return Begun(await self._ask_token(new, registration, request, None, {"until": str(new.expires_at)}))

    async def _begin_device(self, mailbox: Mailbox, token: Token, registration: Registration) -> Begun:
        started = await self._device_code(registration, token)
        expires_at = self.clock() + started.expires_in.total_seconds()
        new = self._new(mailbox, token, "device", expires_at=expires_at)
        new = self._with_code(replace(new, secrets={"doors": registration.doors}), started)
        await self._add(new)
        return Begun(new)

    def _code_attempt(self, registration: Registration, token: Token) -> code.Attempt:
        """Raises ProblemError where the provider has no such door."""
        return code.begin(
            registration.endpoints,
            registration.client,
            redirect_uri=self.redirect_uri(registration),
            scopes=self._scopes(registration, token),
            parameters=registration.provider.authorize,
            login_hint=token.account,
        )

    async def _device_code(self, registration: Registration, token: Token) -> device.DeviceCode:
        """Raises ProblemError."""
        scopes = self._scopes(registration, token)
        started = await self._ask_device_code(registration, scopes)
        for pause in ASK_AGAIN:
            if not isinstance(started, Unreachable) or not started.is_silence or (started.retry_after or 0.0) > pause:
                break
            await asyncio.sleep(pause)
            started = await self._ask_device_code(registration, scopes)
        if isinstance(started, device.DeviceCode):
            return started
        family = registration.provider.family
        refused = problem_of(started, family, "device")
        if "device" in closed_ways(started, family, "device"):
            raise ProblemError(*refused.problems, ANOTHER_WAY, status=refused.status)
        raise refused

    async def _ask_device_code(
        self, registration: Registration, scopes: tuple[str, ...]
    ) -> device.DeviceCode | Refused | Unreachable:
        request = device.start(registration.endpoints, registration.client, scopes, as_datetime(self.clock()))
        answer = await self.sign_in.ask(request, registration.provider, deadline=PATIENCE)
        return answer if isinstance(answer, Unreachable) else device.read_start(answer, hide=request.secrets())

    def _with_code(self, new: Authorisation, started: device.DeviceCode) -> Authorisation:
        return replace(
            new,
            user_code=started.user_code,
            verification_uri=started.verification_uri,
            verification_uri_complete=started.verification_uri_complete,
            poll_at=self.clock() + started.interval,
            poll_interval=started.interval,
            secrets={**new.secrets, "device_code": started.device_code.reveal()},
        )

    def redirect_uri(self, registration: Registration) -> str:
        """Exactly as it has to be registered at the provider."""
        return redirect_url_of(registration.provider, registration.client.client_id, self.external_url)

    def _new(self, mailbox: Mailbox, token: Token, method: str, *, expires_at: float) -> Authorisation:
        return Authorisation(
            id=new_id("au"),
            mailbox_id=mailbox.id,
            token_id=token.id,
            method=method,
            state="started",
            reason="",
            detail="",
            cookie_hash="",
            user_code="",
            verification_uri="",
            verification_uri_complete="",
            created_at=self.clock(),
            expires_at=expires_at,
            poll_at=expires_at,
            poll_interval=0.0,
            grant_id=None,
            version=0,
        )

    async def _add(self, new: Authorisation, *, start_hash: str | None = None, state_hash: str | None = None) -> None:
        now = self.clock()

        async def work(tx: Transaction) -> None:
            if await authorisations.count_open(tx, new.mailbox_id) >= MOST_OPEN:
                raise problem("sign-in.too-many", TOO_MANY, "Finish or cancel one of them, or wait until they expire.")
            await authorisations.add(tx, self.store.sealer, new, start_hash=start_hash, state_hash=state_hash)
            token = await tokens.get(tx, new.token_id)
            if token is not None and token.state is TokenState.NOT_ACQUIRED:
                await tokens.set_state(tx, token.id, TokenState.WAITING, now, "waiting_for_person")

        await self.store.database.write(work)

    def _scopes(self, registration: Registration, token: Token) -> tuple[str, ...]:
        """What every setting that shares the token needs, and no more."""
        wanted: dict[Protocol, None] = {}
        for user in self.directory.now.users_of_token(token.id):
            wanted |= dict.fromkeys(user.protocols())
        offered = registration.endpoints.scopes_supported
        return scopes_for(registration.provider, wanted or ("smtp",), offered=offered)

    # The browser's way

    async def open_start_page(self, start: Secret, *, by_code: bool = False) -> Redirect:
        """The person goes on from our start page, an owner `by_code` if so wished. Raises ProblemError.

        The page of an owner works until it has come to something, and the newest sign-in counts; any other works once.
        """
        start_hash, cookie = fingerprint(start.reveal()), Secret(secrets.token_urlsafe(32))
        found = await self._find("start", start_hash)
        if found is None or found.state != "started" or found.expires_at < self.clock():
            raise _used()
        token = await self.store.database.read(lambda tx: tokens.get(tx, found.token_id))
        if token is None:
            raise problem("sign-in.gone", "The mailbox is no longer there.")
        registration = await self._registration(token.app_id)
        owner = found.method == "link"
        kept = {"doors": registration.doors, **({"start": start.reveal()} if owner else {})}
        anew = replace(_afresh(found, kept), cookie_hash=fingerprint(cookie.reveal()))
        attempt = None
        if owner and by_code:
            anew = self._with_code(anew, await self._device_code(registration, token))
        else:
            attempt = self._code_attempt(registration, token)
            anew = replace(anew, secrets={**kept, **_kept(attempt)})
        state_hash = fingerprint(attempt.state.reveal()) if attempt else None
        if not await self._set_out(found, anew, state_hash, start_hash if owner else None):
            raise _used()
        return Redirect(Secret(attempt.url if attempt else f"/oauth/result/{found.id}"), cookie, found.id)

    async def _set_out(
        self, found: Authorisation, anew: Authorisation, state_hash: str | None, start_hash: str | None
    ) -> bool:
        sealer = self.store.sealer
        return await self.store.database.write(
            lambda tx: authorisations.set_out(tx, sealer, found, anew, state_hash=state_hash, start_hash=start_hash)
        )

    async def callback(
        self, parameters: Mapping[str, str], cookie: Secret | None, *, came_to: str = ""
    ) -> Authorisation:
        """What the browser brought back; the attempt as it stands afterwards. `came_to` is the path, where known.

        Raises ProblemError.
        """
        found = await self._find("state", fingerprint(parameters.get("state", "")))
        if found is not None and found.method == "paste" and found.state == "started":
            raise problem(
                "sign-in.paste",
                "The provider has answered; this sign-in waits for the address of this page.",
                "Copy the whole address of this page, and paste it where the sign-in was begun.",
            )
        if found is None or cookie is None or fingerprint(cookie.reveal()) != found.cookie_hash:
            raise problem(
                "sign-in.foreign",
                "This answer does not belong to a sign-in that was begun in this browser.",
                "Begin the sign-in again, and finish it in the same browser.",
            )
        return await self._answered(found, parameters, came_to)

    async def paste(self, authorisation_id: str, address: Secret) -> Authorisation:
        """The address that the browser ended on, in the hands of whoever began; the attempt afterwards.

        An address of something else changes nothing. Raises ProblemError.
        """
        found = await self.store.database.read(lambda tx: authorisations.get(tx, self.store.sealer, authorisation_id))
        if found is None or found.method != "paste":
            raise problem("sign-in.no-paste", "This sign-in does not wait for an address.")
        return await self._answered(found, code.parameters_of(address.reveal()), code.path_of(address.reveal()))

    async def _answered(self, found: Authorisation, parameters: Mapping[str, str], came_to: str) -> Authorisation:
        if found.state != "started" or found.expires_at < self.clock() or "state" not in found.secrets:
            raise problem("sign-in.used", "This sign-in is over already.", "Begin again if it did not succeed.")
        registration = await self._registration_of(found)
        if found.secrets.get("doors") != registration.doors:
            return await self._end(found, "refused", "client_changed", CHANGED)
        attempt = self._attempt(found.secrets, registration)
        answer = code.read_callback(parameters, attempt, registration.endpoints, came_to=came_to)
        if isinstance(answer, code.NotOurs):
            raise _not_ours(found, answer)
        if not await self._take_turn(found):
            raise problem("sign-in.used", "This answer was used already.", "Begin again if it did not succeed.")
        found = replace(found, version=found.version + 1)
        if not isinstance(answer, code.Code):
            return await self._refuse(found, answer, registration, "authorize")
        kept = {"code": answer.value.reveal(), "until": str(self.clock() + CODE_LIFE)}
        return await self._exchange(found, registration, {**found.secrets, **kept})

    async def _exchange(self, found: Authorisation, registration: Registration, kept: dict[str, str]) -> Authorisation:
        attempt, permission = self._attempt(kept, registration), code.Code(Secret(kept["code"]))
        now = as_datetime(self.clock())
        request = code.exchange(registration.endpoints, registration.client, attempt, permission, now)
        return await self._ask_token(found, registration, request, attempt.nonce, kept)

    async def _ask_token(
        self,
        found: Authorisation,
        registration: Registration,
        request: Request,
        nonce: Secret | None,
        kept: dict[str, str],
    ) -> Authorisation:
        """Get the token; where the provider is away or busy with `kept` again, until the time that is named there."""
        said = await self.sign_in.ask(request, registration.provider)
        outcome = said if isinstance(said, Unreachable) else read_token_answer(said, hide=request.secrets())
        if isinstance(outcome, Unreachable) and outcome.is_silence:
            return await self._ask_later(found, registration, outcome, kept)
        late = found.state == "permitted" and found.method != "app"
        if isinstance(outcome, Refused) and outcome.kills_grant and late:
            return await self._end(
                found, "refused", "provider_away", f"{found.detail.partition(ASKED_AGAIN)[0]}{TOO_LATE}"
            )
        return await self._take(found, registration, outcome, nonce)

    async def _ask_later(
        self, found: Authorisation, registration: Registration, outcome: Unreachable, kept: dict[str, str]
    ) -> Authorisation:
        """Not where an answer was lost: a code works only once."""
        if found.method != "app" and outcome.outcome_unknown and outcome.status == 0:
            return await self._end(found, "refused", "sign_in_lost", LOST)
        pause = max(pause_after_failures(int(found.poll_interval // 5) + 1), outcome.retry_after or 0.0)
        why, poll_at = problem_of(outcome, registration.provider.family).problems[0].sentence, self.clock() + pause
        if poll_at >= float(kept["until"]):
            end = AWAY if found.method == "app" else TOO_LATE
            return await self._end(found, "refused", "provider_away", f"{why} {end}")
        changes = {"detail": f"{why} {ASKED_AGAIN}", "poll_at": poll_at, "poll_interval": found.poll_interval + 5}

        async def work(tx: Transaction) -> None:
            if await authorisations.permit(tx, self.store.sealer, found, grant_id=None, secrets=kept, poll_at=poll_at):
                permitted = replace(found, version=found.version + 1)
                await authorisations.advance(tx, permitted, "permitted", **changes)
                await _acquiring(tx, found.token_id, self.clock(), why)

        await _surely(lambda: self.store.database.write(work))
        log.warning("token not got yet", authorisation=found.id, what=outcome.what, seconds=round(pause))
        return await self._reload(found)

    async def _ask_again(self, found: Authorisation) -> None:
        registration = await self._registration_of(found)
        if found.method == "app":
            account = await self._account_of(found)
            request = app_only.request(registration, account, as_datetime(self.clock()))
            await self._ask_token(found, registration, request, None, found.secrets)
        elif found.secrets.get("doors") != registration.doors:
            await self._end(found, "refused", "client_changed", CHANGED)
        else:
            await self._exchange(found, registration, found.secrets)

    def _attempt(self, kept: Mapping[str, str], registration: Registration) -> code.Attempt:
        state, nonce, verifier = (Secret(kept[name]) for name in ("state", "nonce", "verifier"))
        return code.Attempt("", state, nonce, verifier, self.redirect_uri(registration))

    async def _registration_of(self, found: Authorisation) -> Registration:
        token = await self.store.database.read(lambda tx: tokens.get(tx, found.token_id))
        return await self._registration(token.app_id if token else "")

    async def _take_turn(self, found: Authorisation) -> bool:
        """Only one of two identical callbacks goes on."""
        return await self.store.database.write(
            lambda tx: authorisations.claim_poll(tx, found, self.clock() + BROWSER_LIFE)
        )

    # Looking after what is under way

    async def run(self) -> None:
        """Look after what is under way, every second, until cancelled; what takes long holds nothing else up."""
        rounds: set[asyncio.Task[None]] = set()
        try:
            while True:
                round_ = asyncio.create_task(self.look_after())
                rounds.add(round_)
                round_.add_done_callback(rounds.discard)
                await asyncio.sleep(LOOK_AFTER)
        finally:
            await self._finish(rounds)

    async def _finish(self, rounds: "set[asyncio.Task[None]]") -> None:
        """An answer that is under way is waited for: a device code gives its token only once."""
        if rounds:
            _, late = await asyncio.wait(rounds, timeout=DEADLINE)
            for round_ in late:
                round_.cancel()

    async def look_after(self) -> None:
        """Everything that is due: device codes to ask about, grants to prove, attempts to end."""
        now = self.clock()
        with contextlib.suppress(DatabaseUnavailable):
            due = await self.store.database.read(lambda tx: authorisations.to_poll(tx, self.store.sealer, now))
            await asyncio.gather(*(self._look_after_safely(found, now) for found in due))

    async def _look_after_safely(self, found: Authorisation, now: float) -> None:
        """One that cannot go on must not keep the others from it; its next turn comes by itself."""
        try:
            await self._look_after_one(found, now)
        except (ProblemError, DatabaseUnavailable, CommitUnknown, Unsealable) as cause:
            log.warning("authorisation interrupted", authorisation=found.id, cause=str(cause))

    async def _look_after_one(self, found: Authorisation, now: float) -> None:
        turn = now + max(found.poll_interval, TURN)
        if not await self.store.database.write(lambda tx: authorisations.claim_poll(tx, found, turn)):
            return
        found = replace(found, version=found.version + 1, poll_at=turn)
        if found.state in ("permitted", "proving") and found.grant_id:
            await self._judge(found)
        elif found.state == "permitted" and float(found.secrets.get("until", 0)) > now:
            await self._ask_again(found)
        elif found.state == "permitted":
            await self._end(found, "refused", "provider_away", f"{found.detail.partition(ASKED_AGAIN)[0]}{TOO_LATE}")
        elif found.expires_at <= now or found.state == "unverified":
            await self._end(found, "expired", "expired", await self._why_expired(found))
        elif found.state == "started" and found.user_code:
            await self._poll(found)

    async def _why_expired(self, found: Authorisation) -> str:
        """Whose fault it may have been, where there was a sign of that."""
        if found.state == "started" and found.user_code and found.detail:
            return f"Nobody finished this sign-in in time. The provider's last answer: {found.detail}"
        if found.state == "started" and "state" in found.secrets:
            token = await self.store.database.read(lambda tx: tokens.get(tx, found.token_id))
            app, provider = self.sign_in.described(token.app_id) if token else (None, None)
            if app is not None and provider is not None:
                return f"{_AFTER_AN_ERROR_PAGE}{redirect_url_of(provider, app.client_id, self.external_url)}"
        return "Nobody finished this sign-in in time."

    async def _poll(self, found: Authorisation) -> None:
        registration = await self._registration_of(found)
        if "device_code" not in found.secrets:
            await self._end(found, "refused", "gone", "What was stored of this sign-in cannot be read.")
            return
        if found.secrets.get("doors") != registration.doors:
            await self._end(found, "refused", "client_changed", CHANGED)
            return
        request = device.poll(
            registration.endpoints,
            registration.client,
            Secret(found.secrets["device_code"]),
            as_datetime(self.clock()),
        )
        answer = await self.sign_in.ask(request, registration.provider)
        outcome = answer if isinstance(answer, Unreachable) else device.read_poll(answer, hide=request.secrets())
        if isinstance(outcome, Pending | SlowDown | Unreachable):
            interval = device.interval_after(found.poll_interval, outcome)
            keep = interval if isinstance(outcome, SlowDown) else found.poll_interval
            detail = _last_answer(outcome, registration.provider.family)
            reason, poll_at = _reason_after(found, outcome), self.clock() + interval
            await self._advance(found, "started", poll_at=poll_at, poll_interval=keep, reason=reason, detail=detail)
            return
        if found.reason == "sign_in_lost" and isinstance(outcome, Refused) and outcome.error == "invalid_grant":
            await self._end(found, "refused", "sign_in_lost", LOST)
            return
        if found.method == "link" and isinstance(outcome, Refused) and outcome.error == "expired_token":
            await self._offer_again(found)
            return
        if isinstance(outcome, Refused):
            await self._refuse(found, outcome, registration, "device")
            return
        await self._take(found, registration, outcome, None)

    async def _offer_again(self, found: Authorisation) -> None:
        """The code has ended before its owner typed it: the link goes on."""
        start = found.secrets["start"]
        await self._set_out(found, _afresh(found, {"start": start}), None, fingerprint(start))

    # What the provider answered

    async def _take(
        self,
        found: Authorisation,
        registration: Registration,
        outcome: Granted | Refused | Unreachable,
        nonce: Secret | None,
    ) -> Authorisation:
        if not isinstance(outcome, Granted):
            return await self._refuse(found, outcome, registration)
        app_only_for = await self._account_of(found) if found.method == "app" else ""
        grant = _new_grant(found, registration, outcome, self.clock(), app_only_for)
        # A consent comes only once: a database that is away for a moment must not lose it.
        if not await _surely(lambda: self._store_pending(found, grant, outcome, nonce)):
            app_id = registration.app.id
            forgotten = await self.store.database.write(lambda tx: self.giving_back.forget(tx, app_id, [grant]))
            await self.giving_back.revoke(forgotten)
            return await self._end(found, "refused", "gone", "The mailbox or its token was removed meanwhile.")
        return await self._judge(await self._reload(found))

    async def _refuse(
        self,
        found: Authorisation,
        outcome: Refused | Unreachable,
        registration: Registration,
        where: Where = "token",
    ) -> Authorisation:
        """Over, with what the provider's answer means and what mends it."""
        family, way = registration.provider.family, "device" if found.user_code else "browser"
        reason = "way_closed" if way in closed_ways(outcome, family, where) else "refused"
        why = problem_of(outcome, family, where, redirect_url=self.redirect_uri(registration))
        return await self._end(found, "refused", reason, str(why.problems[0]))

    async def _account_of(self, found: Authorisation) -> str:
        token = await self.store.database.read(lambda tx: tokens.get(tx, found.token_id))
        return token.account if token else ""

    async def _store_pending(self, found: Authorisation, grant: Grant, granted: Granted, nonce: Secret | None) -> bool:
        """The consent is on disk before anything is done with it, with what the comparison of persons needs.

        False where nobody waits for it any more.
        """
        kept = {"id_token": granted.id_token.reveal()} if granted.id_token else {}
        if nonce is not None:
            kept["nonce"] = nonce.reveal()
        now = self.clock()

        async def work(tx: Transaction) -> bool:
            token = await tokens.get_for_change(tx, found.token_id)
            current = await authorisations.get(tx, self.store.sealer, found.id)
            if current is not None and current.grant_id == grant.id:
                return True
            if token is None or not await authorisations.permit(
                tx, self.store.sealer, found, grant_id=grant.id, secrets=kept, poll_at=now + TURN
            ):
                return False
            await tokens.add_grant(tx, self.store.sealer, grant)
            await tokens.point(tx, token, serving=token.serving_grant, pending=grant.id, pinned=token.pinned)
            await _acquiring(tx, token.id, now)
            return True

        return await self.store.database.write(work)

    async def _judge(self, found: Authorisation) -> Authorisation:
        """Who signed in? Then prove it."""
        if found.state not in ("permitted", "proving"):
            return found
        loaded = await self._load(found)
        if loaded is None:
            return await self._end(found, "refused", "gone", "The mailbox or its token was removed meanwhile.")
        token, grant, mailbox, registration = loaded
        try:
            grant = await self.keeper.fresh(grant)
        except NoToken as why:
            return await self._without_token(found, why)
        if found.state == "permitted":
            found = await self._settle(found, registration, token, grant, mailbox)
        return await self._prove(found, registration, token, grant) if found.state == "proving" else found

    async def _without_token(self, found: Authorisation, why: NoToken) -> Authorisation:
        """What was consented to could not be renewed before it was proved."""
        if why.temporary and not self._took_too_long(found):
            return await self._advance(found, found.state, detail=why.sentence, poll_at=self.clock() + TURN)
        return await self._end(found, "refused", "not_proved", why.sentence)

    def _took_too_long(self, found: Authorisation) -> bool:
        return found.created_at + PROVING_LIFE < self.clock()

    async def _load(self, found: Authorisation) -> tuple[Token, Grant, Mailbox, Registration] | None:
        """Raises ProblemError where the provider does not answer."""

        async def work(tx: Transaction) -> tuple[Token | None, Grant | None]:
            token, grant = await tokens.get(tx, found.token_id), None
            with contextlib.suppress(Unsealable):
                grant = await tokens.get_grant(tx, self.store.sealer, found.grant_id or "")
            return token, grant

        token, grant = await self.store.database.read(work)
        mailbox = self.directory.now.user_of_token(found.token_id, found.mailbox_id)
        if token is None or grant is None or mailbox is None:
            return None
        registration = await self.sign_in.registration(token.app_id)
        if isinstance(registration, Registration):
            return token, grant, mailbox, registration
        if self.sign_in.described(token.app_id)[0] is None:
            return None
        raise problem_of(registration, self._family(token.app_id))

    async def _identify(
        self, registration: Registration, token: Token, grant: Grant, found: Authorisation
    ) -> Identity | Untrusted | Unreachable | None:
        """By ID token, else as the provider's doors say; None where it does not tell.

        An ID token need not hold the names of its person: those may be told at the doors alone (OpenID Connect Core
        section 5.4). Somebody who is pinned is known without names.
        """
        id_token = found.secrets.get("id_token")
        if not id_token:
            return await self._ask_who(registration, grant)
        identity = await self._by_id_token(registration, Secret(id_token), found, grant.obtained_at)
        if not isinstance(identity, Identity) or identity.names:
            return identity
        named = await self._ask_who(registration, grant, identity.subject)
        if isinstance(named, Identity):
            return replace(identity, names=named.names)
        return named if isinstance(named, Unreachable) and token.pinned is None else identity

    async def _ask_who(
        self, registration: Registration, grant: Grant, subject: str = ""
    ) -> Identity | Unreachable | None:
        """By introspection, else by userinfo; with `subject` only what is told of that one."""
        endpoints = registration.endpoints
        known = None
        if (
            request := introspect(endpoints, registration.client, grant.access_token, as_datetime(self.clock()))
        ) is not None:
            answer = await self.sign_in.ask(request, registration.provider)
            read = read_introspection(answer) if isinstance(answer, Answer) else answer
            if not isinstance(read, Refused | Unreachable):
                known = identity_from_introspection(read, endpoints.issuer, subject)
        if (request := userinfo(endpoints, grant.access_token)) is None or (known and known.names):
            return known
        answer = await self.sign_in.ask(request, registration.provider)
        claims = read_userinfo(answer) if isinstance(answer, Answer) else answer
        if isinstance(claims, Unreachable):
            return claims
        if isinstance(claims, Refused):
            return known
        return identity_from_userinfo(claims, endpoints.issuer, known.subject if known else subject) or known

    async def _by_id_token(
        self, registration: Registration, id_token: Secret, found: Authorisation, received_at: float
    ) -> Identity | Untrusted | Unreachable:
        """Where the key does not fit, the key set may be old: it is fetched again, once."""
        nonce = Secret(found.secrets["nonce"]) if "nonce" in found.secrets else None
        for fresh in (False, True):
            keys = await self.sign_in.keys(registration, fresh=fresh)
            if keys is None:
                return Unreachable("the provider's keys could not be had")
            identity = verify_id_token(
                id_token,
                keys,
                issuer=registration.endpoints.issuer,
                client_id=registration.client.client_id,
                nonce=nonce,
                now=as_datetime(received_at),
            )
            if not (isinstance(identity, Untrusted) and identity.key_may_be_old):
                break
        return identity

    async def _settle(
        self, found: Authorisation, registration: Registration, token: Token, grant: Grant, mailbox: Mailbox
    ) -> Authorisation:
        """The attempt as it stands once we know who signed in: over, waiting for a confirmation, or to be proved."""
        if found.method == "app":
            return await self._advance(found, "proving", reason="", detail="")
        identity = await self._identify(registration, token, grant, found)
        if isinstance(identity, Unreachable) and not self._took_too_long(found):
            why = problem_of(identity, registration.provider.family).problems[0].sentence
            return await self._advance(found, "permitted", poll_at=self.clock() + 10.0, detail=why)
        if isinstance(identity, Untrusted):
            return await self._end(found, "refused", "id_token_not_trusted", f"Not accepted: {identity.why}.")
        known = None if isinstance(identity, Unreachable) else identity
        person = same_person(mailbox.expected_names, known, token.pinned)
        name, pin = known.names[0] if known and known.names else "", _pin_of(person, known)
        await self.store.database.write(lambda tx: tokens.identify(tx, grant.id, pin[0], pin[1], name))
        if isinstance(person, Mismatch):
            sentence = f"{person.got} signed in, expected was {person.expected}."
            return await self._end(found, "refused", "wrong_person", sentence, person=person.got)
        if isinstance(person, Same):
            return await self._advance(found, "proving", reason="", detail="")
        sentence = "The provider does not say who signed in: confirm that it was the right person."
        until = self.clock() + PROVING_LIFE
        return await self._advance(found, "unverified", reason="person_not_verified", detail=sentence, poll_at=until)

    async def confirm_person(self, authorisation_id: str) -> Authorisation:
        """An administrator says that the right person signed in. Raises ProblemError."""
        found = await self.store.database.read(lambda tx: authorisations.get(tx, self.store.sealer, authorisation_id))
        if found is None or found.state != "unverified":
            raise problem("sign-in.not-waiting", "This sign-in does not wait for a confirmation.")
        advanced = await self._advance(found, "proving", reason="", detail="", poll_at=self.clock() + TURN)
        return await self._judge(advanced)

    # The proof

    async def _prove(
        self, found: Authorisation, registration: Registration, token: Token, grant: Grant
    ) -> Authorisation:
        users = self.directory.now.users_of_token(token.id)
        outcome = await self.trial.of(users, token.id, registration.provider, grant)
        made = outcome.made
        if not made or any(proof.verdict == "proved" for proof in made):
            return await self._promote(found, grant, outcome)
        worst = next((proof for proof in made if proof.verdict == "refused"), made[0])
        return await self._wait_for_proof(found, worst)

    async def _wait_for_proof(self, found: Authorisation, worst: Proof) -> Authorisation:
        """The token is good but no protocol could be proved: keep it, say why, try again."""
        if self._took_too_long(found):
            return await self._end(found, "refused", "not_proved", worst.cause or worst.answer)
        pause = pause_after_failures(int(found.poll_interval // 5) + 1)
        detail = " ".join(part for part in (worst.answer, worst.cause, worst.fix) if part)[:900]
        token_detail = detail

        async def work(tx: Transaction) -> None:
            token = await tokens.get(tx, found.token_id)
            if token is not None and token.state is TokenState.WAITING:
                await tokens.set_state(tx, token.id, TokenState.WAITING, self.clock(), "proving", token_detail)

        await self.store.database.write(work)
        return await self._advance(
            found,
            "proving",
            reason=worst.verdict,
            detail=detail,
            poll_at=self.clock() + min(pause, 300.0),
            poll_interval=found.poll_interval + 5,
        )

    async def _promote(self, found: Authorisation, grant: Grant, outcome: Outcome) -> Authorisation:
        """The one atomic switch: the pointer moves, the state says acquired, the event lets parked mail go.

        Nothing of it happens where the attempt was cancelled, or the token deleted, while it was being proved.
        """
        now = self.clock()

        async def work(tx: Transaction) -> None:
            token = await tokens.get_for_change(tx, found.token_id)
            held = await tokens.get_grant(tx, self.store.sealer, grant.id)
            current = await authorisations.get(tx, self.store.sealer, found.id)
            if token is None or held is None or current is None or not await _done(tx, current):
                raise _Overtaken
            newer = await tokens.is_newer(tx, token.serving_grant, held.obtained_at, now)
            if newer and token.state is TokenState.ACQUIRED:
                raise _TooLate
            if outcome.kept and token.state is TokenState.ACQUIRED and token.serving_grant != grant.id:
                await switching.keep_old_consent(tx, token, outcome.kept, now)
            pinned = (held.issuer, held.subject) if held.subject else token.pinned
            pending = None if token.pending_grant == grant.id else token.pending_grant
            await tokens.point(tx, token, serving=grant.id, pending=pending, pinned=pinned)
            await tokens.set_state(tx, token.id, TokenState.ACQUIRED, now, again=True)
            await switching.finish_all(tx, token, outcome.works, outcome.kept, now)

        try:
            await self.store.database.write(work)
            log.info("token acquired", token=found.token_id, method=found.method)
        except _TooLate:
            return await self._end(found, "refused", "overtaken", "A later sign-in serves already.")
        except _Overtaken:
            pass
        return await self._reload(found)

    # Ending

    async def forget_ended(self) -> int:
        """Attempts that ended long ago are not kept for ever; how many went."""
        return await self.store.database.write(lambda tx: authorisations.forget(tx, self.clock() - ENDED_LIFE))

    async def delete_token(self, token_id: str) -> GivenBack:
        """As `GivingBack.delete_token`."""
        return await self.giving_back.delete_token(token_id)

    async def cancel(self, authorisation_id: str) -> Authorisation | None:
        """Also where somebody is looking after it at the same moment; None where there is none."""
        for _ in range(10):
            found = await self.store.database.read(
                lambda tx: authorisations.get(tx, self.store.sealer, authorisation_id)
            )
            if found is None or found.state not in authorisations.OPEN:
                return found
            found = await self._end(found, "refused", "cancelled", "Cancelled.")
        return found

    async def _end(
        self, found: Authorisation, state: str, reason: str, detail: str, *, person: str = ""
    ) -> Authorisation:
        """Over; what was consented to in it is forgotten and given back. Nothing where it has changed meanwhile."""
        now = self.clock()

        async def work(tx: Transaction) -> list[Leaving]:
            token = await tokens.get_for_change(tx, found.token_id)
            changes = {"reason": reason, "detail": detail, "person": person, "poll_at": 0.0}
            if not await authorisations.advance(tx, found, state, **changes):
                raise _Overtaken
            taken = await tokens.take_grant(tx, self.store.sealer, found.grant_id) if found.grant_id else None
            if token is None:
                return []
            if found.grant_id and token.pending_grant == found.grant_id:
                await tokens.point(tx, token, serving=token.serving_grant, pending=None, pinned=token.pinned)
            if token.state is TokenState.WAITING and not await authorisations.waits(tx, token.id, now):
                await tokens.set_state(tx, token.id, TokenState.NOT_ACQUIRED, now, reason, detail)
            return await self.giving_back.forget(tx, token.app_id, [taken] if taken else [])

        with contextlib.suppress(_Overtaken):
            forgotten = await self.store.database.write(work)
            await self.giving_back.revoke(forgotten)
            log.info("authorisation ended", authorisation=found.id, state=state, reason=reason)
        return await self._reload(found)

    async def _advance(self, found: Authorisation, state: str, **changes: object) -> Authorisation:
        async def work(tx: Transaction) -> None:
            if await authorisations.advance(tx, found, state, **changes) and state == "unverified":
                await events.record(tx, self.clock(), "authorisation.waiting", found.mailbox_id, authorisation=found.id)

        await self.store.database.write(work)
        return await self._reload(found)

    async def _reload(self, found: Authorisation) -> Authorisation:
        current = await self.store.database.read(lambda tx: authorisations.get(tx, self.store.sealer, found.id))
        return current or found

    async def _find(self, column: str, wanted: str) -> Authorisation | None:
        find = authorisations.by_start if column == "start" else authorisations.by_state
        return await self.store.database.read(lambda tx: find(tx, self.store.sealer, wanted))


async def _acquiring(tx: Transaction, token_id: str, now: float, detail: str = "") -> None:
    """Nobody has to do anything for a token that has nothing else to serve with."""
    token = await tokens.get(tx, token_id)
    if token is not None and token.state not in (TokenState.ACQUIRED, TokenState.INVALID):
        await tokens.set_state(tx, token_id, TokenState.WAITING, now, "acquiring", detail)


def _afresh(found: Authorisation, kept: dict[str, str]) -> Authorisation:
    """As it was before anybody set out for the provider."""
    return replace(found, user_code="", cookie_hash="", poll_at=found.expires_at, poll_interval=0.0, secrets=kept)


def _kept(attempt: code.Attempt) -> dict[str, str]:
    return {name: getattr(attempt, name).reveal() for name in ("state", "nonce", "verifier")}


def _last_answer(outcome: Pending | SlowDown | Unreachable, family: Family) -> str:
    """What is worth telling should nothing come of a device code; nothing where only the person is waited for."""
    match outcome:
        case Pending():
            return ""
        case SlowDown():
            return "slow_down, and never that the sign-in was finished."
    return problem_of(outcome, family, "device").problems[0].sentence


def _used() -> ProblemError:
    return problem("sign-in.used", "This sign-in link has been used or has expired.", "Begin again.")


async def _surely(write: Callable[[], Awaitable[T]]) -> T:
    """Again, for some seconds, where the database is away. Raises DatabaseUnavailable, CommitUnknown."""
    for pause in WRITE_AGAIN:
        with contextlib.suppress(DatabaseUnavailable, CommitUnknown):
            return await write()
        await asyncio.sleep(pause)
    return await write()


def _reason_after(found: Authorisation, outcome: Pending | SlowDown | Unreachable) -> str:
    """Only a provider that still waits for the person has certainly not answered before."""
    if isinstance(outcome, Unreachable):
        return "sign_in_lost" if outcome.outcome_unknown else found.reason
    return ""


def _not_ours(found: Authorisation, answer: code.NotOurs) -> ProblemError:
    if found.method == "paste":
        return problem(
            "sign-in.foreign",
            f"This address does not answer this sign-in: {answer.what}.",
            "Paste the whole address on which the browser ended after this sign-in; it begins with the redirect URL.",
        )
    return problem("sign-in.foreign", f"This answer cannot be used: {answer.what}.", "Begin again.")


async def _done(tx: Transaction, current: Authorisation) -> bool:
    return await authorisations.advance(tx, current, "done", reason="", detail="", poll_at=0.0)


def _pin_of(person: Person, known: Identity | None) -> Pin:
    """Who gave a consent, the wrong person too: whether it may be given back hangs on it."""
    pin = (known.pin if known else None) if isinstance(person, Mismatch) else person.pin
    return pin or ("", "")


def _new_grant(
    found: Authorisation, registration: Registration, granted: Granted, now: float, app_only_for: str
) -> Grant:
    expires_at = now + granted.lifetime.total_seconds()
    renewable = granted.refresh_token is not None or app_only_for
    grant_id = new_id("gr")
    return Grant(
        id=grant_id,
        token_id=found.token_id,
        serial=0,
        access_token=granted.access_token,
        refresh_token=granted.refresh_token,
        previous_refresh_token=None,
        access_expires_at=expires_at,
        next_refresh_at=refresh_at(now, expires_at, spread_of(grant_id, 0)) if renewable else expires_at,
        obtained_at=now,
        refreshed_at=now,
        failures=0,
        last_error="",
        scopes=granted.scopes,
        issuer="",
        subject="",
        person="",
        given_to=registration.name,
        app_only=app_only_for,
        told_end=granted.refresh_ends_at(now),
        latest_end=granted.refresh_ends_at(now),
    )
