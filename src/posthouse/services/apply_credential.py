"""What an app registration shows itself with: a client secret, a key with its certificate, or a service account."""

import re
from typing import Any

from posthouse.oauth.credential import ends_at, make_bundle
from posthouse.oauth.jwt_bearer import read_service_account
from posthouse.problems import ProblemError
from posthouse.secret import Secret
from posthouse.services.apply_values import Wrong

KINDS = ("client_secret", "private_key", "service_account")
"""Keys of an [[app]] of which one may be given; all of them are stored as its secret."""
CERTIFICATE = "certificate"
_GUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)


KNOWN = ("credential", "certificate_expires")
"""What is known of a credential that is no client secret, in the document of the registration."""


def read_credential(kind: str, text: Secret, certificate: str) -> tuple[Secret, dict[str, Any]]:
    """What is stored, and what is known of it. Raises Wrong."""
    try:
        if kind == "private_key":
            bundle = make_bundle(text, certificate)
            ends = ends_at(bundle)
            return bundle, {"credential": kind, **({"certificate_expires": ends.date().isoformat()} if ends else {})}
        if kind == "service_account":
            account = read_service_account(text)
            return text, {"credential": kind, "client_id": account.client_id or account.email}
    except ProblemError as error:
        raise Wrong(f"{kind}: {error.problems[0].sentence}", error.problems[0].hint) from None
    return text, {}


def is_secret_id(secret: Secret | None) -> bool:
    """Microsoft shows a client secret's id, a GUID, beside its value, and the wrong one is copied again and again."""
    return secret is not None and _GUID.fullmatch(secret.reveal().strip(" \t\r\n{}\"'")) is not None
