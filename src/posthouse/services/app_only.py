"""Tokens that an app asks for by itself, nobody signing in: with its secret or key, or as a service account."""

from datetime import datetime

from posthouse.oauth import client_credentials, jwt_bearer
from posthouse.oauth.message import Request
from posthouse.problems import problem
from posthouse.providers.provider import scopes_for
from posthouse.services.sign_in import Registration

OF_PERSONS = ("offline_access", "openid", "profile", "email")
"""Scopes that make sense only where a person signs in."""


OF_MANY = ("", "common", "organizations", "consumers")
"""Tenants at Microsoft in which an app cannot ask for itself."""


def request(registration: Registration, account: str, now: datetime) -> Request:
    """For a token in the name of `account`; the answer is read by `read_token_answer`. Raises ProblemError."""
    wanted = scopes_for(registration.provider, ("smtp", "imap", "pop3"), app_only=True)
    scopes = [scope for scope in wanted if scope not in OF_PERSONS]
    if registration.service_account is not None:
        return jwt_bearer.ask(registration.service_account, account, scopes, now)
    if registration.client.method == "none":
        raise problem(
            "app-only.public",
            f"The app registration {registration.app.name} is a public client: it has no rights of its own.",
            "Give it a client_secret, a private_key with certificate, or a service_account.",
        )
    if registration.provider.family == "microsoft" and _tenant(registration) in OF_MANY:
        raise problem(
            "app-only.tenant",
            f"The app registration {registration.app.name} names no tenant of its own.",
            'Write tenant = "…", the id or a domain of the organisation.',
        )
    return client_credentials.ask(registration.endpoints, registration.client, scopes, now)


def is_usual(registration: Registration) -> bool:
    """Whether the provider gives every confidential client a token of its own, be it without any right."""
    return (
        registration.provider.family == "microsoft"
        and registration.client.method != "none"
        and _tenant(registration) not in OF_MANY
        and any(registration.provider.app_only.smtp)
    )


def _tenant(registration: Registration) -> str:
    return str(registration.app.document.get("tenant", "")) or registration.provider.tenant
