"""Getting a token: begin an attempt, take the provider's answer, see who signed in, prove it, let it serve.

The old grant serves until the new one has proved itself. Every step is a row, so that a restart goes on where it was.
"""

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from posthouse.model.mailbox import Mailbox, Protocol
from posthouse.model.outcome import Granted, Pending, Refused, SlowDown, Unreachable
from posthouse.model.token import Grant, Token, TokenState, pause_after_failures, refresh_at
from posthouse.oauth import code, device
from posthouse.oauth.answer import read_token_answer
from posthouse.oauth.identity import (
    Identity,
    Mismatch,
    Person,
    Same,
    Untrusted,
    identity_from_introspection,
    identity_from_userinfo,
    same_person,
    verify_id_token,
)
from posthouse.oauth.introspection import introspect, read_introspection
from posthouse.oauth.message import Answer
from posthouse.oauth.userinfo import read_userinfo, userinfo
from posthouse.problems import ProblemError, problem
from posthouse.providers.catalogue import explain_token_error
from posthouse.providers.provider import scopes_for
from posthouse.secret import Secret
from posthouse.services import switching
from posthouse.services.clock import Clock, as_datetime
from posthouse.services.credentials import Way
from posthouse.services.directory import Directory
from posthouse.services.proving import Proof, prove
from posthouse.services.sign_in import Registration, SignIn
from posthouse.services.upstream import Login
from posthouse.store import authorisations, tokens
from posthouse.store.authorisations import Authorisation
from posthouse.store.database import Transaction
from posthouse.store.ids import new_id
from posthouse.store.opening import Store
from posthouse.store.sealing import fingerprint

BROWSER_LIFE = 900.0
"""Seconds a person has to finish a browser sign-in."""
RETIRED_LIFE = 7 * 86_400.0
"""Seconds a grant that was replaced is kept, so that one can go back to it."""
PROVING_LIFE = 86_400.0
"""Seconds a grant that could not be proved yet is kept."""
Method = Literal["browser", "device"]

log = structlog.get_logger("authorise")


@dataclass(frozen=True, slots=True)
class Begun:
    """`url` is our own single-use start page for a browser; a device code has user code and page instead."""

    authorisation: Authorisation
    url: str = ""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send the browser to `url`, with `cookie` set, which the callback will look for."""

    url: Secret
    cookie: Secret


@dataclass(slots=True)
class Authorise:
    store: Store
    directory: Directory
    sign_in: SignIn
    clock: Clock
    external_url: str
    hostname: str

    # Beginning

    async def begin(self, mailbox: Mailbox, method: Method) -> Begun:
        """Raises ProblemError where the mailbox or its provider cannot do this."""
        mailbox = mailbox.switched
        token = await self._token_of(mailbox)
        registration = await self._registration(token.app_id)
        if method == "device":
            return await self._begin_device(mailbox, token, registration)
        return await self._begin_browser(mailbox, token)

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
        raise _problem_of(found, "any")

    async def _begin_browser(self, mailbox: Mailbox, token: Token) -> Begun:
        start = Secret(secrets.token_urlsafe(32))
        new = self._new(mailbox, token, "browser", expires_at=self.clock() + BROWSER_LIFE)
        await self._add(new, start_hash=fingerprint(start.reveal()))
        return Begun(new, f"{self.external_url}/authorise/{start.reveal()}")

    async def _begin_device(self, mailbox: Mailbox, token: Token, registration: Registration) -> Begun:
        now = self.clock()
        request = device.start(
            registration.endpoints, registration.client, self._scopes(registration, token), as_datetime(now)
        )
        answer = await self.sign_in.ask(request, registration.provider)
        started = answer if isinstance(answer, Unreachable) else device.read_start(answer, hide=request.secrets())
        if not isinstance(started, device.DeviceCode):
            raise _problem_of(started, registration.provider.family)
        new = replace(
            self._new(mailbox, token, "device", expires_at=now + started.expires_in.total_seconds()),
            user_code=started.user_code,
            verification_uri=started.verification_uri,
            verification_uri_complete=started.verification_uri_complete,
            poll_at=now + started.interval,
            poll_interval=started.interval,
            secrets={"device_code": started.device_code.reveal()},
        )
        await self._add(new)
        return Begun(new)

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

    async def _add(self, new: Authorisation, *, start_hash: str | None = None) -> None:
        now = self.clock()

        async def work(tx: Transaction) -> None:
            await authorisations.add(tx, self.store.sealer, new, start_hash=start_hash)
            token = await tokens.get(tx, new.token_id)
            if token is not None and token.state is TokenState.NOT_ACQUIRED:
                await tokens.set_state(tx, token.id, TokenState.WAITING, now, "waiting_for_person")

        await self.store.database.write(work)

    def _scopes(self, registration: Registration, token: Token) -> tuple[str, ...]:
        """What every mailbox that shares the token needs."""
        wanted: dict[Protocol, None] = {}
        for mailbox in self.directory.now.users_of_token(token.id):
            wanted |= dict.fromkeys(mailbox.settings.enabled())
        offered = registration.endpoints.scopes_supported
        return scopes_for(registration.provider, wanted or ("smtp",), offered=offered)

    # The browser's way

    async def open_start_page(self, start: Secret) -> Redirect:
        """The person opens our start page: once. Raises ProblemError."""
        found = await self._find("start", fingerprint(start.reveal()))
        if found is None or found.state != "started" or found.secrets or found.expires_at < self.clock():
            raise problem("sign-in.used", "This sign-in link has been used or has expired.", "Begin again.")
        token = await self.store.database.read(lambda tx: tokens.get(tx, found.token_id))
        if token is None:
            raise problem("sign-in.gone", "The mailbox is no longer there.")
        registration = await self._registration(token.app_id)
        attempt = code.begin(
            registration.endpoints,
            registration.client,
            redirect_uri=f"{self.external_url}/oauth/callback",
            scopes=self._scopes(registration, token),
            parameters=registration.provider.authorize,
            login_hint=token.account,
        )
        cookie = Secret(secrets.token_urlsafe(32))
        kept = {name: getattr(attempt, name).reveal() for name in ("state", "nonce", "verifier")}
        state_hash = fingerprint(attempt.state.reveal())
        cookie_hash = fingerprint(cookie.reveal())
        opened = await self.store.database.write(
            lambda tx: authorisations.open_browser(
                tx, self.store.sealer, found, state_hash=state_hash, cookie_hash=cookie_hash, secrets=kept
            )
        )
        if not opened:
            raise problem("sign-in.used", "This sign-in link has been used or has expired.", "Begin again.")
        return Redirect(Secret(attempt.url), cookie)

    async def callback(self, parameters: Mapping[str, str], cookie: Secret | None) -> Authorisation:
        """What the browser brought back; the attempt as it stands afterwards. Raises ProblemError."""
        found = await self._find("state", fingerprint(parameters.get("state", "")))
        if found is None or cookie is None or fingerprint(cookie.reveal()) != found.cookie_hash:
            raise problem(
                "sign-in.foreign",
                "This answer does not belong to a sign-in that was begun in this browser.",
                "Begin the sign-in again, and finish it in the same browser.",
            )
        if found.state != "started" or found.expires_at < self.clock():
            raise problem("sign-in.used", "This sign-in is over already.", "Begin again if it did not succeed.")
        registration = await self._registration_of(found)
        attempt = self._attempt(found)
        answer = code.read_callback(parameters, attempt, registration.endpoints)
        if isinstance(answer, code.NotOurs):
            raise problem("sign-in.foreign", f"This answer cannot be used: {answer.what}.", "Begin again.")
        if not await self._take_turn(found):
            raise problem("sign-in.used", "This answer was used already.", "Begin again if it did not succeed.")
        found = replace(found, version=found.version + 1)
        outcome = await self._exchange(registration, attempt, answer) if isinstance(answer, code.Code) else answer
        return await self._take(found, registration, outcome, attempt.nonce)

    async def _exchange(
        self, registration: Registration, attempt: code.Attempt, permission: code.Code
    ) -> Granted | Refused | Unreachable:
        now = as_datetime(self.clock())
        request = code.exchange(registration.endpoints, registration.client, attempt, permission, now)
        said = await self.sign_in.ask(request, registration.provider)
        return said if isinstance(said, Unreachable) else read_token_answer(said, hide=request.secrets())

    def _attempt(self, found: Authorisation) -> code.Attempt:
        state, nonce, verifier = (Secret(found.secrets[name]) for name in ("state", "nonce", "verifier"))
        return code.Attempt("", state, nonce, verifier, f"{self.external_url}/oauth/callback")

    async def _registration_of(self, found: Authorisation) -> Registration:
        token = await self.store.database.read(lambda tx: tokens.get(tx, found.token_id))
        return await self._registration(token.app_id if token else "")

    async def _take_turn(self, found: Authorisation) -> bool:
        """Only one of two identical callbacks goes on."""
        return await self.store.database.write(
            lambda tx: authorisations.claim_poll(tx, found, self.clock() + BROWSER_LIFE)
        )

    # Looking after what is under way

    async def look_after(self) -> None:
        """Everything that is due: device codes to ask about, grants to prove, attempts to end. Called every second."""
        now = self.clock()
        due = await self.store.database.read(lambda tx: authorisations.to_poll(tx, self.store.sealer, now))
        for found in due:
            with contextlib.suppress(ProblemError):
                await self._look_after_one(found, now)

    async def _look_after_one(self, found: Authorisation, now: float) -> None:
        turn = now + max(found.poll_interval, 30.0)
        if not await self.store.database.write(lambda tx: authorisations.claim_poll(tx, found, turn)):
            return
        found = replace(found, version=found.version + 1, poll_at=turn)
        if found.state in ("permitted", "proving") and found.grant_id:
            await self._judge(found)
        elif found.expires_at <= now:
            await self._end(found, "expired", "expired", "Nobody finished this sign-in in time.")
        elif found.method == "device" and found.state == "started":
            await self._poll(found)

    async def _poll(self, found: Authorisation) -> None:
        registration = await self._registration_of(found)
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
            await self._advance(found, "started", poll_at=self.clock() + interval, poll_interval=keep)
            return
        await self._take(found, registration, outcome, None)

    # What the provider answered

    async def _take(
        self,
        found: Authorisation,
        registration: Registration,
        outcome: Granted | Refused | Unreachable,
        nonce: Secret | None,
    ) -> Authorisation:
        if not isinstance(outcome, Granted):
            explained = _problem_of(outcome, registration.provider.family).problems[0]
            return await self._end(found, "refused", "refused", str(explained))
        grant = _new_grant(found, outcome, self.clock())
        await self._store_pending(found, grant, outcome, nonce)
        return await self._judge(await self._reload(found))

    async def _store_pending(self, found: Authorisation, grant: Grant, granted: Granted, nonce: Secret | None) -> None:
        """The consent is on disk before anything is done with it, with what the comparison of persons needs."""
        kept = {"id_token": granted.id_token.reveal()} if granted.id_token else {}
        if nonce is not None:
            kept["nonce"] = nonce.reveal()

        async def work(tx: Transaction) -> None:
            await tokens.add_grant(tx, self.store.sealer, grant)
            await authorisations.permit(
                tx, self.store.sealer, found, grant_id=grant.id, secrets=kept, poll_at=self.clock()
            )
            token = await tokens.get(tx, found.token_id)
            if token is not None:
                await tokens.point(tx, token, serving=token.serving_grant, pending=grant.id, pinned=token.pinned)
                if token.state is not TokenState.ACQUIRED and token.state is not TokenState.INVALID:
                    await tokens.set_state(tx, token.id, TokenState.WAITING, self.clock(), "acquiring")

        await self.store.database.write(work)

    async def _judge(self, found: Authorisation) -> Authorisation:
        """Who signed in? Then prove it."""
        loaded = await self._load(found)
        if loaded is None:
            return await self._end(found, "refused", "gone", "The mailbox or its token was removed meanwhile.")
        token, grant, mailbox, registration = loaded
        if found.state == "permitted":
            identity = await self._identify(registration, grant, found)
            if isinstance(identity, Unreachable):
                return await self._advance(found, "permitted", poll_at=self.clock() + 10.0, detail=identity.what)
            if isinstance(identity, Untrusted):
                await self._throw_away(registration, grant, token)
                return await self._end(found, "refused", "id_token_not_trusted", f"Not accepted: {identity.why}.")
            person = same_person(mailbox.expected_names, identity, token.pinned)
            settled = await self._settle(found, registration, token, grant, identity, person)
            if settled is not None:
                return settled
            found = replace(found, version=found.version + 1, state="proving")
        return await self._prove(found, registration, token)

    async def _load(self, found: Authorisation) -> tuple[Token, Grant, Mailbox, Registration] | None:
        async def work(tx: Transaction) -> tuple[Token | None, Grant | None]:
            grant = await tokens.get_grant(tx, self.store.sealer, found.grant_id or "")
            return await tokens.get(tx, found.token_id), grant

        token, grant = await self.store.database.read(work)
        users = self.directory.now.users_of_token(found.token_id)
        mailbox = next((user for user in users if user.id == found.mailbox_id), None)
        if token is None or grant is None or mailbox is None:
            return None
        registration = await self.sign_in.registration(token.app_id)
        if isinstance(registration, Unreachable):
            raise _problem_of(registration, "any")
        return (token, grant, mailbox, registration) if isinstance(registration, Registration) else None

    async def _identify(
        self, registration: Registration, grant: Grant, found: Authorisation
    ) -> Identity | Untrusted | Unreachable | None:
        """By ID token, else by introspection, else by userinfo; None where the provider does not tell."""
        if id_token := found.secrets.get("id_token"):
            return await self._by_id_token(registration, Secret(id_token), found)
        now = as_datetime(self.clock())
        if (request := introspect(registration.endpoints, registration.client, grant.access_token, now)) is not None:
            answer = await self.sign_in.ask(request, registration.provider)
            read = read_introspection(answer) if isinstance(answer, Answer) else answer
            if not isinstance(read, Refused | Unreachable) and (
                identity := identity_from_introspection(read, registration.endpoints.issuer)
            ):
                return identity
        if (request := userinfo(registration.endpoints, grant.access_token)) is not None:
            answer = await self.sign_in.ask(request, registration.provider)
            claims = read_userinfo(answer) if isinstance(answer, Answer) else answer
            if not isinstance(claims, Refused | Unreachable):
                return identity_from_userinfo(claims, registration.endpoints.issuer)
        return None

    async def _by_id_token(
        self, registration: Registration, id_token: Secret, found: Authorisation
    ) -> Identity | Untrusted | Unreachable:
        """With a key that is not known the key set may be old: it is fetched again, once."""
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
                now=as_datetime(self.clock()),
            )
            if not (isinstance(identity, Untrusted) and identity.unknown_key):
                break
        return identity

    async def _settle(
        self,
        found: Authorisation,
        registration: Registration,
        token: Token,
        grant: Grant,
        identity: Identity | None,
        person: Person,
    ) -> Authorisation | None:
        """End it for the wrong person, wait for a confirmation, or go on to the proof (None)."""
        name = identity.names[0] if identity and identity.names else ""
        if isinstance(person, Mismatch):
            sentence = f"{person.got} signed in, expected was {person.expected}."
            await self._throw_away(registration, grant, token)
            return await self._end(found, "refused", "wrong_person", sentence)
        pin = person.pin or ("", "")
        await self.store.database.write(lambda tx: tokens.identify(tx, grant.id, pin[0], pin[1], name))
        if isinstance(person, Same):
            await self._advance(found, "proving", reason="", detail="")
            return None
        sentence = "The provider does not say who signed in: confirm that it was the right person."
        return await self._advance(found, "unverified", reason="person_not_verified", detail=sentence, poll_at=0.0)

    async def confirm_person(self, authorisation_id: str) -> Authorisation:
        """An administrator says that the right person signed in. Raises ProblemError."""
        found = await self.store.database.read(lambda tx: authorisations.get(tx, self.store.sealer, authorisation_id))
        if found is None or found.state != "unverified":
            raise problem("sign-in.not-waiting", "This sign-in does not wait for a confirmation.")
        advanced = await self._advance(found, "proving", reason="", detail="", poll_at=self.clock())
        return await self._judge(advanced)

    async def _throw_away(self, registration: Registration, grant: Grant, token: Token) -> None:
        """The grant of the wrong person dies at the provider as well, where it has a door for that."""
        await self.sign_in.revoke(registration, grant.refresh_token or grant.access_token)

        async def work(tx: Transaction) -> None:
            await tokens.remove_grant(tx, grant.id)
            current = await tokens.get(tx, token.id)
            if current is not None and current.pending_grant == grant.id:
                await tokens.point(tx, current, serving=current.serving_grant, pending=None, pinned=current.pinned)

        await self.store.database.write(work)

    async def _throw_away_grant(self, found: Authorisation) -> None:
        loaded = await self._load(found)
        if loaded is not None:
            token, grant, _, registration = loaded
            await self._throw_away(registration, grant, token)

    async def sweep(self) -> int:
        """Give back and forget grants that have been out of service for a week; how many."""
        before = self.clock() - RETIRED_LIFE
        sealer = self.store.sealer
        retired = await self.store.database.read(lambda tx: tokens.retired(tx, sealer, before))
        for grant in retired:
            token = await self.store.database.read(lambda tx, of=grant.token_id: tokens.get(tx, of))  # type: ignore[misc]
            registration = await self.sign_in.registration(token.app_id if token else "")
            if token is not None and isinstance(registration, Registration):
                await self._throw_away(registration, grant, token)
        return len(retired)

    # The proof

    async def _prove(self, found: Authorisation, registration: Registration, token: Token) -> Authorisation:
        grant = await self.store.database.read(lambda tx: tokens.get_grant(tx, self.store.sealer, found.grant_id or ""))
        if grant is None:
            return await self._end(found, "refused", "gone", "The token was deleted meanwhile.")
        proofs = await self._proofs(registration, token, grant)
        await self._write_results(proofs)
        if not proofs or any(proof.verdict == "proved" for _, proof in proofs):
            return await self._promote(found, grant)
        worst = next((proof for _, proof in proofs if proof.verdict == "refused"), proofs[0][1])
        return await self._wait_for_proof(found, worst)

    async def _proofs(self, registration: Registration, token: Token, grant: Grant) -> list[tuple[Mailbox, Proof]]:
        snapshot, provider = self.directory.now, registration.provider
        found = []
        for mailbox in snapshot.users_of_token(token.id):
            for protocol in mailbox.settings.enabled():
                endpoint = snapshot.endpoint(mailbox, protocol)
                if endpoint is None:
                    continue
                login = Login(snapshot.user(mailbox, protocol), grant.access_token, provider.mechanisms)
                way = Way(endpoint, login, provider.ca_file, grant.serial)
                proof = await prove(mailbox, protocol, way, hostname=self.hostname, family=provider.family)
                found.append((mailbox, proof))
        return found

    async def _write_results(self, proofs: list[tuple[Mailbox, Proof]]) -> None:
        now = self.clock()

        async def work(tx: Transaction) -> None:
            for mailbox, proof in proofs:
                cause = " ".join(part for part in (proof.cause, proof.fix) if part)
                await tokens.set_result(tx, mailbox.id, proof.protocol, proof.verdict, now, proof.answer, cause)

        await self.store.database.write(work)

    async def _wait_for_proof(self, found: Authorisation, worst: Proof) -> Authorisation:
        """The token is good but no protocol could be proved: keep it, say why, try again."""
        if found.created_at + PROVING_LIFE < self.clock():
            await self._throw_away_grant(found)
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

    async def _promote(self, found: Authorisation, grant: Grant) -> Authorisation:
        """The one atomic switch: the pointer moves, the state says acquired, the event lets parked mail go."""
        now = self.clock()
        switches = [(mailbox, mailbox.settings.switch) for mailbox in self.directory.now.mailboxes.values()]
        waiting = [mailbox for mailbox, switch in switches if switch and switch.token_id == found.token_id]

        async def work(tx: Transaction) -> bool:
            token = await tokens.get(tx, found.token_id)
            if token is None:
                return False
            current = await tokens.get_grant(tx, self.store.sealer, grant.id)
            pinned = (current.issuer, current.subject) if current and current.subject else token.pinned
            if not await tokens.point(tx, token, serving=grant.id, pending=None, pinned=pinned):
                return False
            await tokens.set_state(tx, token.id, TokenState.ACQUIRED, now)
            for mailbox in waiting:
                await switching.finish(tx, mailbox)
            return await authorisations.advance(tx, found, "done", reason="", detail="", poll_at=0.0)

        await self.store.database.write(work)
        log.info("token acquired", token=found.token_id, method=found.method)
        return await self._reload(found)

    # Ending

    async def delete_token(self, token_id: str) -> bool:
        """Forget the token and give it back to the provider where it can be. True when the provider took it."""
        token = await self.store.database.read(lambda tx: tokens.get(tx, token_id))
        if token is None:
            return False
        grants = await self.store.database.read(lambda tx: tokens.grants_of(tx, self.store.sealer, token_id))
        now = self.clock()

        async def work(tx: Transaction) -> None:
            for grant in grants:
                await tokens.remove_grant(tx, grant.id)
            current = await tokens.get(tx, token_id)
            if current is not None:
                await tokens.point(tx, current, serving=None, pending=None, pinned=None)
                await tokens.set_state(tx, token_id, TokenState.NOT_ACQUIRED, now)

        await self.store.database.write(work)
        registration = await self.sign_in.registration(token.app_id)
        if not isinstance(registration, Registration):
            return False
        revoked = [await self.sign_in.revoke(registration, g.refresh_token or g.access_token) for g in grants]
        return bool(revoked) and all(revoked)

    async def cancel(self, authorisation_id: str) -> Authorisation | None:
        found = await self.store.database.read(lambda tx: authorisations.get(tx, self.store.sealer, authorisation_id))
        return None if found is None else await self._end(found, "refused", "cancelled", "Cancelled.")

    async def _end(self, found: Authorisation, state: str, reason: str, detail: str) -> Authorisation:
        now = self.clock()

        async def work(tx: Transaction) -> None:
            await authorisations.advance(tx, found, state, reason=reason, detail=detail, poll_at=0.0)
            token = await tokens.get(tx, found.token_id)
            others = await authorisations.of_mailbox(tx, self.store.sealer, found.mailbox_id)
            waiting = any(a.state in authorisations.OPEN and a.expires_at > now for a in others)
            if token is not None and token.state is TokenState.WAITING and not waiting:
                await tokens.set_state(tx, token.id, TokenState.NOT_ACQUIRED, now, reason, detail)

        await self.store.database.write(work)
        log.info("authorisation ended", authorisation=found.id, state=state, reason=reason)
        return await self._reload(found)

    async def _advance(self, found: Authorisation, state: str, **changes: object) -> Authorisation:
        await self.store.database.write(lambda tx: authorisations.advance(tx, found, state, **changes))
        return await self._reload(found)

    async def _reload(self, found: Authorisation) -> Authorisation:
        current = await self.store.database.read(lambda tx: authorisations.get(tx, self.store.sealer, found.id))
        return current or found

    async def _find(self, column: str, wanted: str) -> Authorisation | None:
        find = authorisations.by_start if column == "start" else authorisations.by_state
        return await self.store.database.read(lambda tx: find(tx, self.store.sealer, wanted))


def _new_grant(found: Authorisation, granted: Granted, now: float) -> Grant:
    expires_at = now + granted.lifetime.total_seconds()
    return Grant(
        id=new_id("gr"),
        token_id=found.token_id,
        serial=0,
        access_token=granted.access_token,
        refresh_token=granted.refresh_token,
        previous_refresh_token=None,
        access_expires_at=expires_at,
        next_refresh_at=refresh_at(now, expires_at) if granted.refresh_token else 0.0,
        obtained_at=now,
        refreshed_at=now,
        failures=0,
        last_error="",
        scopes=granted.scopes,
        issuer="",
        subject="",
        person="",
    )


def _problem_of(outcome: Refused | Unreachable, family: str) -> ProblemError:
    """What a provider's refusal means, and the step that mends it."""
    if isinstance(outcome, Unreachable):
        return problem(
            "provider.unreachable",
            f"The provider's sign-in gave no usable answer: {outcome.what}.",
            "Check the network, then try again.",
            status=75,
        )
    words = " ".join(part for part in (outcome.error, outcome.description) if part)[:600]
    entry = explain_token_error(family, outcome)
    if entry is None:
        return problem(f"provider.{outcome.error}"[:80], f"The provider refused: {words}.")
    return problem(f"provider.{entry.id}", f"{entry.meaning} (The provider said: {words})", entry.fix)
