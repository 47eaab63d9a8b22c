"""Where an authorisation server answers, from discovery (OIDC Discovery, RFC 8414) or from a provider's data."""

import re
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlsplit

from posthouse.model.outcome import Refused, Unreachable
from posthouse.oauth.answer import read_json, text_of, words_of
from posthouse.oauth.message import Answer, Request, get
from posthouse.problems import problem
from posthouse.providers.provider import Provider
from posthouse.providers.urls import MAX_URL, is_inside, why_unusable

TENANT_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
PERSONAL_TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The tenant of all personal Microsoft accounts (Microsoft, id-token-claims-reference)."""

_AUTHORITIES = {
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
}
_TEMPLATE = "{tenantid}"
_MEMBERS = {
    "authorize_url": "authorization_endpoint",
    "token_url": "token_endpoint",
    "device_url": "device_authorization_endpoint",
    "revoke_url": "revocation_endpoint",
    "introspection_url": "introspection_endpoint",
    "userinfo_url": "userinfo_endpoint",
    "jwks_url": "jwks_uri",
}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of one authorisation server; "" for what it does not have.

    `issuer` may hold `{tenantid}`, as Microsoft's does where one address serves many tenants.
    """

    token_url: str
    issuer: str = ""
    authorize_url: str = ""
    device_url: str = ""
    revoke_url: str = ""
    introspection_url: str = ""
    userinfo_url: str = ""
    jwks_url: str = ""
    iss_in_callback: bool = False
    scopes_supported: tuple[str, ...] = ()
    prompts_supported: tuple[str, ...] = ()
    client_methods: tuple[str, ...] = ()

    def is_issued_by(self, issuer: str) -> bool:
        """Whether `issuer`, as a callback or an ID token names it, is this server."""
        return issuer == self.issuer or _fits_template(issuer, self.issuer)


def endpoints_of(provider: Provider, tenant: str = "") -> Endpoints:
    """What the provider's data say; the rest is for discovery. `tenant`: id, domain, or "" for the provider's own."""
    chosen = tenant or provider.tenant
    if "{tenant}" in provider.token_url and not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", chosen):
        raise problem("tenant.unreadable", f"{chosen!r} is not a tenant.", "Give the tenant's id or a domain of it.")
    urls = {name: getattr(provider, name).replace("{tenant}", chosen) for name in _MEMBERS}
    issuer = provider.issuer.replace("{tenant}", _tenant_in_issuer(chosen))
    methods = provider.client_methods
    return Endpoints(**urls, issuer=issuer, iss_in_callback=provider.iss_in_callback, client_methods=methods)


def discovery_requests(issuer: str) -> tuple[Request, ...]:
    """Where a server describes itself, the likeliest first: OIDC Discovery section 4, RFC 8414 section 3."""
    parts = urlsplit(issuer.rstrip("/"))
    server = f"{parts.scheme}://{parts.netloc}"
    openid = get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    return openid, get(f"{server}/.well-known/oauth-authorization-server{parts.path}")


def read_discovery(answer: Answer, expected_issuer: str) -> Endpoints | Refused | Unreachable:
    """The server's description of itself. Raises `ProblemError` when it is another server's or unusable."""
    members = read_json(answer)
    if not isinstance(members, dict):
        return members
    issuer = text_of(members, "issuer", MAX_URL)
    if not _is_expected(issuer, expected_issuer):
        sentence = f"The sign-in at {expected_issuer} says that it is {issuer or 'nobody'}."
        raise problem("discovery.issuer", sentence, "Give the issuer exactly as the provider writes it.")
    urls = _urls(members, inside=is_inside(issuer))
    return Endpoints(
        **urls,
        issuer=issuer,
        iss_in_callback=members.get("authorization_response_iss_parameter_supported") is True,
        scopes_supported=words_of(members, "scopes_supported"),
        prompts_supported=words_of(members, "prompt_values_supported"),
        client_methods=_client_methods(members),
    )


def completed(stated: Endpoints, discovered: Endpoints) -> Endpoints:
    """What discovery found, except where the provider's data state something."""
    known = {field.name: value for field in fields(stated) if (value := getattr(stated, field.name))}
    return replace(discovered, **known)


def is_microsoft(issuer: str) -> bool:
    """Whether one of Microsoft's clouds is the issuer: people there are known by `tid` and `oid`."""
    return urlsplit(issuer).hostname in _AUTHORITIES


def _urls(members: dict[str, Any], *, inside: bool) -> dict[str, str]:
    """A server elsewhere has no business at our own machine: it would make us ask what only we can reach."""
    urls = {name: text_of(members, member, MAX_URL + 1) for name, member in _MEMBERS.items()}
    for name, url in urls.items():
        wrong = why_unusable(url) if url or name == "token_url" else ""
        if not wrong and url and not inside and is_inside(url):
            wrong = "leads to this very machine"
        if wrong:
            sentence = f"The sign-in names {url!r} as its {_MEMBERS[name]}, which {wrong}."
            raise problem("discovery.url", sentence, "Ask the provider, or give the addresses by hand.")
    return urls


def _client_methods(members: dict[str, Any]) -> tuple[str, ...]:
    names = {
        "none": "none",
        "client_secret_post": "post",
        "client_secret_basic": "basic",
        "private_key_jwt": "private_key_jwt",
    }
    listed = words_of(members, "token_endpoint_auth_methods_supported") or ("client_secret_basic",)
    return tuple(names[method] for method in listed if method in names)


def _is_expected(issuer: str, expected: str) -> bool:
    if not issuer or why_unusable(issuer.replace(_TEMPLATE, "tenant")):
        return False
    return issuer == expected or _fits_template(issuer, expected) or _is_microsoft_of(issuer, expected)


def _fits_template(issuer: str, template: str) -> bool:
    if template.count(_TEMPLATE) != 1 or not is_microsoft(template):
        return False
    before, after = template.split(_TEMPLATE)
    tenant = issuer.removeprefix(before).removesuffix(after)
    return issuer == f"{before}{tenant}{after}" and TENANT_ID.fullmatch(tenant) is not None


def _is_microsoft_of(issuer: str, expected: str) -> bool:
    """`…/organizations/v2.0` describes itself as `…/{tenantid}/v2.0`, and a domain by its tenant's id."""
    found, asked = urlsplit(issuer), urlsplit(expected)
    if found.netloc not in _AUTHORITIES or (found.scheme, found.netloc) != (asked.scheme, asked.netloc):
        return False
    tenant, asked_tenant = _tenant_of_path(found.path), _tenant_of_path(asked.path)
    if not tenant or not asked_tenant or TENANT_ID.fullmatch(asked_tenant):
        return False
    return tenant == _TEMPLATE or TENANT_ID.fullmatch(tenant) is not None


def _tenant_of_path(path: str) -> str:
    parts = path.rstrip("/").split("/")
    return parts[1] if len(parts) == 3 and parts[2] == "v2.0" else ""


def _tenant_in_issuer(tenant: str) -> str:
    if tenant == "consumers":
        return PERSONAL_TENANT
    return tenant.lower() if TENANT_ID.fullmatch(tenant) else _TEMPLATE
