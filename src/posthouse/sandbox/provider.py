"""The sign-in as a web application: which path leads where, and what discovery says about it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from posthouse.sandbox.account_pages import AccountPages
from posthouse.sandbox.faults import Fault, Faults
from posthouse.sandbox.identity import CLAIMS, public_keys
from posthouse.sandbox.serving import Endpoint, FaultyDoors, Form
from posthouse.sandbox.settings import SCOPES
from posthouse.sandbox.signin import SignIn
from posthouse.sandbox.token_endpoint import DEVICE_GRANT, JWT_GRANT, Seen, TokenEndpoint
from posthouse.sandbox.token_questions import TokenQuestions


@dataclass(frozen=True, slots=True)
class Provider:
    """All endpoints below the issuer. `closing` is set when slow answers are no longer to be waited for."""

    signin: SignIn
    key: RSAKey
    faults: Faults
    seen: Seen
    closing: asyncio.Event
    home: Callable[[], Response]

    def application(self) -> Starlette:
        pages = AccountPages(self.signin)
        token = TokenEndpoint(self.signin, self.key, self.seen)
        questions = TokenQuestions(self.signin)
        doors = FaultyDoors(self._fault, self.closing)
        metadata = doors.endpoint("discovery", self._metadata)

        def door(path: str, methods: list[str], endpoint: Endpoint) -> Route:
            return Route(path, doors.endpoint(path[1:], endpoint), methods=methods)

        return Starlette(
            routes=[
                Route("/", self._home),
                Route("/.well-known/openid-configuration", metadata),
                Route("/.well-known/oauth-authorization-server", metadata),
                door("/jwks", ["GET"], self._keys),
                door("/authorize", ["GET"], pages.ask),
                Route("/authorize", pages.chosen, methods=["POST"]),
                door("/device", ["GET", "POST"], pages.device),
                door("/token", ["POST"], token.token),
                door("/device_authorization", ["POST"], token.begin_device),
                door("/revoke", ["POST"], questions.revoke),
                door("/introspect", ["POST"], questions.introspect),
                door("/userinfo", ["GET", "POST"], questions.userinfo),
            ]
        )

    def _fault(self, place: str, form: Form) -> Fault | None:
        if not self.faults.active:
            return None
        names = {name: form.get(name, "") for name in ("refresh_token", "code", "device_code")}
        return self.faults.take(place, self.signin.ledger.person_of(**names))

    async def _home(self, _request: Request) -> Response:
        return self.home()

    async def _metadata(self, _request: Request, _form: Form) -> Response:
        return JSONResponse(metadata(self.signin.issuer))

    async def _keys(self, _request: Request, _form: Form) -> Response:
        return JSONResponse(public_keys(self.key))


def metadata(issuer: str) -> dict[str, Any]:
    """The discovery document (RFC 8414, OpenID Connect Discovery section 3)."""
    client_authentication = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
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
            JWT_GRANT,
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
