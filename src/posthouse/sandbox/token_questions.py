"""What may be asked of a token: /revoke (RFC 7009), /introspect (RFC 7662) and /userinfo (OpenID Connect)."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from posthouse.sandbox.clients import ClientError, authenticate
from posthouse.sandbox.grants import Access, Consent
from posthouse.sandbox.identity import claims
from posthouse.sandbox.serving import NO_STORE, Form, refusal
from posthouse.sandbox.settings import Client
from posthouse.sandbox.signin import SignIn


@dataclass(frozen=True, slots=True)
class TokenQuestions:
    signin: SignIn

    async def revoke(self, request: Request, form: Form) -> Response:
        try:
            self.signin.ledger.revoke(form.get("token", ""), self._client(request, form).id)
        except ClientError as error:
            return refusal("invalid_client", str(error), 401)
        return Response(status_code=200, headers=NO_STORE)

    async def introspect(self, request: Request, form: Form) -> Response:
        try:
            self._client(request, form)
        except ClientError as error:
            return refusal("invalid_client", str(error), 401)
        token = form.get("token", "")
        access, grant = self.signin.ledger.look_up(token, self.signin.clock()), self.signin.ledger.live_grant(token)
        if access is not None:
            times = {"exp": int(access.expires), "iat": int(access.issued), "token_type": "Bearer"}
            return JSONResponse({**self._about(access.consent), **times}, headers=NO_STORE)
        if grant is not None:
            return JSONResponse(self._about(grant.consent), headers=NO_STORE)
        return JSONResponse({"active": False}, headers=NO_STORE)

    def _about(self, consent: Consent) -> dict[str, Any]:
        about = {"active": True, "iss": self.signin.issuer, "client_id": consent.client}
        person = claims(self.signin.person(consent.person)) if consent.person else {"sub": consent.client}
        username = {"username": person["preferred_username"]} if consent.person else {}
        return {**about, **person, **username, "scope": " ".join(consent.scopes)}

    async def userinfo(self, request: Request, _form: Form) -> Response:
        access = self._bearer(request)
        if access is None or not access.consent.person or "openid" not in access.consent.scopes:
            header = 'Bearer error="invalid_token"'
            return Response(status_code=401, headers={"WWW-Authenticate": header, **NO_STORE})
        return JSONResponse(claims(self.signin.person(access.consent.person)), headers=NO_STORE)

    def _bearer(self, request: Request) -> Access | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self.signin.ledger.look_up(token, self.signin.clock()) if scheme.lower() == "bearer" else None

    def _client(self, request: Request, form: Form) -> Client:
        header, signin = request.headers.get("authorization", ""), self.signin
        return authenticate(form, header, signin.clients, signin.issuer, signin.clock())
