"""The endpoints for programs: /token for every grant, and /device_authorization."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from joserfc.jwk import RSAKey
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from posthouse.sandbox.authorize import AuthorizeError, read_scopes
from posthouse.sandbox.clients import ClientError, authenticate, read_assertion
from posthouse.sandbox.grants import GrantError, Issued
from posthouse.sandbox.identity import claims, id_token
from posthouse.sandbox.serving import NO_STORE, Form, refusal
from posthouse.sandbox.settings import Client
from posthouse.sandbox.signin import SignIn

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
NOBODY = Client("")
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
Grant = Callable[[Client, Form], Issued]


@dataclass(slots=True)
class Seen:
    """What the token endpoint has seen: requests by grant type, refusals by error, refreshes by person."""

    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refreshed: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        for counter in (self.requests, self.refused, self.refreshed):
            counter.clear()


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """`key` signs the ID tokens."""

    signin: SignIn
    key: RSAKey
    seen: Seen

    async def token(self, request: Request, form: Form) -> Response:
        grant = self._grants().get(form.get("grant_type", ""))
        self.seen.requests[form["grant_type"] if grant else "other"] += 1
        return self._token(request, form, grant)

    def _grants(self) -> dict[str, Grant]:
        return {
            "authorization_code": self._redeem,
            "refresh_token": self._refresh,
            DEVICE_GRANT: self._poll,
            "client_credentials": self._app_only,
            JWT_GRANT: self._service_account,
        }

    def _token(self, request: Request, form: Form, grant: Grant | None) -> Response:
        try:
            client = NOBODY if form.get("grant_type") == JWT_GRANT else self._client(request, form)
            if grant is None:
                raise GrantError("unsupported_grant_type")
            return self._tokens(grant(client, form))
        except ClientError as error:
            return self._refuse("invalid_client", str(error), 401)
        except (GrantError, AuthorizeError) as error:
            return self._refuse(error.error, error.sentence, 400)

    def _client(self, request: Request, form: Form) -> Client:
        header, signin = request.headers.get("authorization", ""), self.signin
        return authenticate(form, header, signin.clients, signin.issuer, signin.clock())

    def _redeem(self, client: Client, form: Form) -> Issued:
        code, redirect_uri, verifier = (form.get(n, "") for n in ("code", "redirect_uri", "code_verifier"))
        return self.signin.ledger.redeem(code, client.id, redirect_uri, verifier, self.signin.clock())

    def _refresh(self, client: Client, form: Form) -> Issued:
        token, scopes = form.get("refresh_token", ""), tuple(form.get("scope", "").split())
        issued = self.signin.ledger.refresh(token, client.id, scopes, self.signin.clock())
        self.seen.refreshed[issued.consent.person] += 1
        return issued

    def _poll(self, client: Client, form: Form) -> Issued:
        if not client.device_codes:
            raise GrantError("unauthorized_client", "This app may not sign people in with device codes.")
        return self.signin.ledger.poll_device(form.get("device_code", ""), client.id, self.signin.clock())

    def _app_only(self, client: Client, form: Form) -> Issued:
        if client.secret is None and not client.public_key:
            raise GrantError("unauthorized_client", "A public client has no rights of its own.")
        return self.signin.ledger.app_only(client.id, read_scopes(form), self.signin.clock())

    def _service_account(self, _: Client, form: Form) -> Issued:
        """RFC 7523 section 2.1, in the name of the person in `sub`."""
        now = self.signin.clock()
        for account in self.signin.settings.service_accounts:
            claims = read_assertion(form.get("assertion", ""), account.public_key, self.signin.issuer, now)
            if claims is not None and claims.get("iss") == account.email:
                person = self.signin.person(str(claims.get("sub", ""))).address
                scopes = read_scopes({"scope": str(claims.get("scope", ""))})
                return self.signin.ledger.app_only(account.email, scopes, now, person)
        raise GrantError("unauthorized_client", "No service account with this key is allowed to do that.")

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
        if issued.refresh_lifetime is not None:
            answer["refresh_token_expires_in"] = int(issued.refresh_lifetime)
        if self.signin.settings.openid and "openid" in consent.scopes and consent.person:
            known = claims(self.signin.person(consent.person))
            person = known if self.signin.settings.names_in_id_token else {"sub": known["sub"]}
            answer["id_token"] = id_token(self.key, self.signin.issuer, person, consent, self.signin.clock())
        return JSONResponse(answer, headers=NO_STORE)

    async def begin_device(self, request: Request, form: Form) -> Response:
        try:
            client, scopes = self._client(request, form), read_scopes(form)
        except ClientError as error:
            return refusal("invalid_client", str(error), 401)
        except AuthorizeError as error:
            return refusal(error.error, error.sentence)
        begun = self.signin.ledger.begin_device(client.id, scopes, self.signin.clock())
        answer = {
            "device_code": begun.code.reveal(),
            "user_code": begun.user_code,
            "verification_uri": f"{self.signin.issuer}/device",
            "verification_uri_complete": f"{self.signin.issuer}/device?user_code={begun.user_code}",
            "expires_in": int(self.signin.ledger.rules.device_lifetime),
            "interval": begun.interval,
        }
        return JSONResponse(answer, headers=NO_STORE)
