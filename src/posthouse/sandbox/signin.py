"""The sign-in of the sandbox: discovery, authorize, token, device, revoke, introspect, userinfo, keys."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from .authorize import (
    AuthorizeError,
    AuthorizeRequest,
    UnsafeRequestError,
    read_request,
    read_scopes,
    return_address,
)
from .clients import ClientError, authenticate
from .faults import Fault, Faults
from .grants import Access, Consent, GrantError, Issued, Ledger
from .identity import claims, id_token, public_keys
from .pages import page, said
from .serving import BadFormError, Endpoint, FaultyDoors, Form, read_form, refusal
from .settings import SCOPES, Client, Person, SandboxSettings

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
COOKIE = "posthouse_sandbox_person"
CLAIMS = ("sub", "preferred_username", "email", "email_verified", "name")
NO_STORE = {"Cache-Control": "no-store"}


@dataclass(slots=True)
class Seen:
    """What the token endpoint has seen: requests by grant type, refusals by error, refreshes by person."""

    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refreshed: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class SignIn:
    """All endpoints below `issuer`. `clock` gives seconds since 1970."""

    issuer: str
    settings: SandboxSettings
    key: RSAKey
    ledger: Ledger
    faults: Faults
    home: Callable[[], Response]
    closing: asyncio.Event
    clock: Callable[[], float] = time.time
    seen: Seen = field(default_factory=Seen)
    clients: dict[str, Client] = field(init=False)
    people: dict[str, Person] = field(init=False)

    def __post_init__(self) -> None:
        self.clients = {client.id: client for client in self.settings.clients}
        self.people = {person.address.lower(): person for person in self.settings.people}

    def application(self) -> Starlette:
        doors = FaultyDoors(self._fault, self.closing)
        metadata = doors.endpoint("discovery", self._metadata)
        grants = {
            "authorization_code": self._redeem,
            "refresh_token": self._refresh,
            DEVICE_GRANT: self._poll,
            "client_credentials": self._app_only,
        }

        def door(path: str, methods: list[str], endpoint: Endpoint) -> Route:
            return Route(path, doors.endpoint(path[1:], endpoint), methods=methods)

        async def token(request: Request, form: Form) -> Response:
            grant_type = form.get("grant_type", "")
            self.seen.requests[grant_type if grant_type in grants else "other"] += 1
            return self._token(request, form, grants.get(grant_type))

        async def home(_request: Request) -> Response:
            return self.home()

        return Starlette(
            routes=[
                Route("/", home),
                Route("/.well-known/openid-configuration", metadata),
                Route("/.well-known/oauth-authorization-server", metadata),
                door("/authorize", ["GET"], self._ask),
                Route("/authorize", self._chosen, methods=["POST"]),
                door("/token", ["POST"], token),
                door("/device_authorization", ["POST"], self._begin_device),
                door("/device", ["GET", "POST"], self._device_page),
                door("/revoke", ["POST"], self._revoke),
                door("/introspect", ["POST"], self._introspect),
                door("/jwks", ["GET"], self._keys),
                door("/userinfo", ["GET", "POST"], self._userinfo),
            ]
        )

    def _fault(self, place: str, form: Form) -> Fault | None:
        if not self.faults.active:
            return None
        names = {name: form.get(name, "") for name in ("refresh_token", "code", "device_code")}
        return self.faults.take(place, self.ledger.person_of(**names))

    # Discovery and keys

    async def _metadata(self, _request: Request, _form: Form) -> Response:
        return JSONResponse(metadata(self.issuer))

    async def _keys(self, _request: Request, _form: Form) -> Response:
        return JSONResponse(public_keys(self.key))

    # The page on which a person allows it

    async def _ask(self, request: Request, form: Form) -> Response:
        try:
            asked = self._read(form)
        except UnsafeRequestError as error:
            return said("This request was refused", str(error), 400)
        except _Returned as returned:
            return RedirectResponse(returned.url, 303, NO_STORE)
        signed_in = self.people.get(unquote(request.cookies.get(COOKIE, "")))
        if signed_in and not set(asked.prompts) - {"none"}:
            return RedirectResponse(self._allowed(asked, signed_in), 303, NO_STORE)
        if "none" in asked.prompts:
            url = asked.back.url(self.issuer, error="login_required")
            return RedirectResponse(url, 303, NO_STORE)
        people = _hinted_first(self.settings.people, asked.login_hint)
        client, scopes = asked.back.client.id, asked.scopes
        return page("choose", "Choose an account", client=client, scopes=scopes, people=people)

    async def _chosen(self, request: Request) -> Response:
        try:
            person = (await read_form(request)).get("person", "")
            response = RedirectResponse(self.consent(dict(request.query_params), person), 303, NO_STORE)
        except (UnsafeRequestError, GrantError, BadFormError) as error:
            return said("This request was refused", str(error), 400)
        if person:
            response.set_cookie(COOKIE, quote(person.lower()), path="/authorize", httponly=True, samesite="lax")
        return response

    def consent(self, form: Form, person: str) -> str:
        """The URL a browser is sent to when `person` allows the request in `form`, or "" denies it.

        Raises UnsafeRequestError, and GrantError for somebody who does not exist.
        """
        try:
            asked = self._read(form)
        except _Returned as returned:
            return returned.url
        if not person:
            return asked.back.url(self.issuer, error="access_denied")
        return self._allowed(asked, self.person(person))

    def grant(self, person: str, client: str, scopes: tuple[str, ...] = SCOPES) -> Issued:
        """Tokens as if `person` had gone through a flow with `client`. Raises GrantError."""
        now = self.clock()
        if client not in self.clients:
            raise GrantError("invalid_client", f"There is no client {client} here.")
        return self.ledger.grant(Consent(client, self.person(person).address, scopes, now), now)

    def person(self, address: str) -> Person:
        """Who has this address. Raises GrantError."""
        known = self.people.get(address.lower())
        if known is None:
            raise GrantError("access_denied", f"There is no {address} here.")
        return known

    def _read(self, form: Form) -> AuthorizeRequest:
        back = return_address(form, self.clients)
        try:
            return read_request(form, back)
        except AuthorizeError as error:
            answer = {"error": error.error, "error_description": error.sentence}
            raise _Returned(back.url(self.issuer, **answer)) from None

    def _allowed(self, asked: AuthorizeRequest, person: Person) -> str:
        now = self.clock()
        consent = Consent(asked.back.client.id, person.address, asked.scopes, now, asked.nonce)
        code = self.ledger.authorise(consent, asked.back.redirect_uri, asked.challenge, now)
        return asked.back.url(self.issuer, code=code)

    # The token endpoint

    def _token(self, request: Request, form: Form, grant: "_Grant | None") -> Response:
        try:
            client = self._client(request, form)
            if grant is None:
                raise GrantError("unsupported_grant_type")
            return self._tokens(grant(client, form))
        except ClientError as error:
            return self._refuse("invalid_client", str(error), 401)
        except (GrantError, AuthorizeError) as error:
            return self._refuse(error.error, error.sentence, 400)

    def _client(self, request: Request, form: Form) -> Client:
        return authenticate(form, request.headers.get("authorization", ""), self.clients)

    def _redeem(self, client: Client, form: Form) -> Issued:
        code, redirect_uri, verifier = (form.get(n, "") for n in ("code", "redirect_uri", "code_verifier"))
        return self.ledger.redeem(code, client.id, redirect_uri, verifier, self.clock())

    def _refresh(self, client: Client, form: Form) -> Issued:
        token, scopes = form.get("refresh_token", ""), tuple(form.get("scope", "").split())
        issued = self.ledger.refresh(token, client.id, scopes, self.clock())
        self.seen.refreshed[issued.consent.person] += 1
        return issued

    def _poll(self, client: Client, form: Form) -> Issued:
        return self.ledger.poll_device(form.get("device_code", ""), client.id, self.clock())

    def _app_only(self, client: Client, form: Form) -> Issued:
        if client.secret is None:
            raise GrantError("unauthorized_client", "A public client has no rights of its own.")
        return self.ledger.app_only(client.id, read_scopes(form), self.clock())

    def _refuse(self, error: str, sentence: str, status: int) -> Response:
        self.seen.refused[error] += 1
        headers = {"WWW-Authenticate": "Basic"} if status == 401 else {}
        return refusal(error, sentence, status, **headers)

    def _tokens(self, issued: Issued) -> Response:
        consent = issued.consent
        answer: dict[str, Any] = {
            "access_token": issued.access_token.reveal(),
            "token_type": "Bearer",
            "expires_in": int(issued.lifetime),
            "scope": " ".join(consent.scopes),
        }
        if issued.refresh_token is not None:
            answer["refresh_token"] = issued.refresh_token.reveal()
        if self.settings.openid and "openid" in consent.scopes and consent.person:
            person = self.person(consent.person)
            answer["id_token"] = id_token(self.key, self.issuer, person, consent, self.clock())
        return JSONResponse(answer, headers=NO_STORE)

    # Device code

    async def _begin_device(self, request: Request, form: Form) -> Response:
        try:
            client, scopes = self._client(request, form), read_scopes(form)
        except ClientError as error:
            return refusal("invalid_client", str(error), 401)
        except AuthorizeError as error:
            return refusal(error.error, error.sentence)
        begun = self.ledger.begin_device(client.id, scopes, self.clock())
        answer = {
            "device_code": begun.code.reveal(),
            "user_code": begun.user_code,
            "verification_uri": f"{self.issuer}/device",
            "verification_uri_complete": f"{self.issuer}/device?user_code={begun.user_code}",
            "expires_in": int(self.ledger.rules.device_lifetime),
            "interval": begun.interval,
        }
        return JSONResponse(answer, headers=NO_STORE)

    async def _device_page(self, request: Request, form: Form) -> Response:
        code = form.get("user_code", "")
        waiting = self.ledger.device(code, self.clock())
        if waiting is None:
            return page("code", "Connect a device", 400 if code else 200, wrong=code)
        if request.method == "POST" and "person" in form:
            return self._device_answered(waiting.user_code, form["person"])
        about: dict[str, Any] = {"client": waiting.client, "user_code": waiting.user_code}
        people, scopes = self.settings.people, waiting.scopes
        return page("device", "Connect a device", people=people, scopes=scopes, **about)

    def _device_answered(self, user_code: str, person: str) -> Response:
        try:
            self.answer_device(user_code, person)
        except GrantError as error:
            return said("This request was refused", error.sentence, 400)
        if not person:
            return said("Not allowed", "The device gets nothing. You may close this page.")
        return said("Done", f"The device may act for {person}. You may close this page.")

    def answer_device(self, user_code: str, person: str) -> None:
        """`person` (an address) allows what waits under the code, "" denies it. Raises GrantError."""
        address = self.person(person).address if person else ""
        self.ledger.answer_device(user_code, address, self.clock())

    # What may be asked of a token

    async def _revoke(self, request: Request, form: Form) -> Response:
        try:
            self.ledger.revoke(form.get("token", ""), self._client(request, form).id)
        except ClientError as error:
            return refusal("invalid_client", str(error), 401)
        return Response(status_code=200, headers=NO_STORE)

    async def _introspect(self, request: Request, form: Form) -> Response:
        try:
            self._client(request, form)
        except ClientError as error:
            return refusal("invalid_client", str(error), 401)
        token = form.get("token", "")
        access, grant = self.ledger.look_up(token, self.clock()), self.ledger.live_grant(token)
        if access is not None:
            times = {"exp": int(access.expires), "iat": int(access.issued), "token_type": "Bearer"}
            return JSONResponse({**self._about(access.consent), **times}, headers=NO_STORE)
        if grant is not None:
            return JSONResponse(self._about(grant.consent), headers=NO_STORE)
        return JSONResponse({"active": False}, headers=NO_STORE)

    def _about(self, consent: Consent) -> dict[str, Any]:
        about = {"active": True, "iss": self.issuer, "client_id": consent.client}
        person = claims(self.person(consent.person)) if consent.person else {"sub": consent.client}
        username = {"username": person["preferred_username"]} if consent.person else {}
        return {**about, **person, **username, "scope": " ".join(consent.scopes)}

    async def _userinfo(self, request: Request, _form: Form) -> Response:
        access = self._bearer(request)
        if access is None or not access.consent.person or "openid" not in access.consent.scopes:
            header = 'Bearer error="invalid_token"'
            return Response(status_code=401, headers={"WWW-Authenticate": header, **NO_STORE})
        return JSONResponse(claims(self.person(access.consent.person)), headers=NO_STORE)

    def _bearer(self, request: Request) -> Access | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self.ledger.look_up(token, self.clock()) if scheme.lower() == "bearer" else None


_Grant = Callable[[Client, Form], Issued]


class _Returned(Exception):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


def metadata(issuer: str) -> dict[str, Any]:
    """The discovery document (RFC 8414, OpenID Connect Discovery section 3)."""
    client_authentication = ["none", "client_secret_basic", "client_secret_post"]
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "device_authorization_endpoint": f"{issuer}/device_authorization",
        "revocation_endpoint": f"{issuer}/revoke",
        "introspection_endpoint": f"{issuer}/introspect",
        "userinfo_endpoint": f"{issuer}/userinfo",
        "jwks_uri": f"{issuer}/jwks",
        "scopes_supported": list(SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
            DEVICE_GRANT,
        ],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": client_authentication,
        "revocation_endpoint_auth_methods_supported": client_authentication,
        "introspection_endpoint_auth_methods_supported": client_authentication,
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "authorization_response_iss_parameter_supported": True,
        "claims_supported": [*CLAIMS, "iss", "aud", "exp", "iat", "auth_time", "nonce"],
    }


def _hinted_first(people: tuple[Person, ...], hint: str) -> tuple[Person, ...]:
    wanted = hint.lower()
    return tuple(sorted(people, key=lambda p: wanted not in (p.address.lower(), p.username.lower())))
