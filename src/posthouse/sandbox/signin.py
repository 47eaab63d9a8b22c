"""Who may consent to what: the sign-in of the sandbox without its pages and without HTTP."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from posthouse.sandbox.authorize import AuthorizeError, AuthorizeRequest, read_request, return_address
from posthouse.sandbox.grants import Consent, GrantError, Issued, Ledger
from posthouse.sandbox.settings import SCOPES, Client, Person, SandboxSettings


class ReturnedError(Exception):
    """The request is wrong, and the program is told so: `url` is where to send the browser."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


@dataclass(slots=True)
class SignIn:
    """The provider at `issuer`. `clock` gives seconds since 1970."""

    issuer: str
    settings: SandboxSettings
    ledger: Ledger
    clock: Callable[[], float] = time.time
    clients: dict[str, Client] = field(init=False)
    people: dict[str, Person] = field(init=False)

    def __post_init__(self) -> None:
        self.clients = {client.id: client for client in self.settings.clients}
        self.people = {person.address.lower(): person for person in self.settings.people}

    def consent(self, form: Mapping[str, str], person: str) -> str:
        """The URL a browser is sent to when `person` allows the request in `form`, or "" denies it.

        Raises UnsafeRequestError, and GrantError for somebody who does not exist.
        """
        try:
            asked = self.read(form)
        except ReturnedError as returned:
            return returned.url
        if not person:
            return asked.back.url(self.issuer, error="access_denied")
        return self.allowed(asked, self.person(person))

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

    def read(self, form: Mapping[str, str]) -> AuthorizeRequest:
        """A checked request. Raises UnsafeRequestError, ReturnedError."""
        back = return_address(form, self.clients)
        try:
            return read_request(form, back)
        except AuthorizeError as error:
            answer = {"error": error.error, "error_description": error.sentence}
            raise ReturnedError(back.url(self.issuer, **answer)) from None

    def allowed(self, asked: AuthorizeRequest, person: Person) -> str:
        """The URL that brings the program its code."""
        now = self.clock()
        consent = Consent(asked.back.client.id, person.address, asked.scopes, now, asked.nonce)
        code = self.ledger.authorise(consent, asked.back.redirect_uri, asked.challenge, now)
        return asked.back.url(self.issuer, code=code)

    def answer_device(self, user_code: str, person: str) -> None:
        """`person` (an address) allows what waits under the code, "" denies it. Raises GrantError."""
        address = self.person(person).address if person else ""
        self.ledger.answer_device(user_code, address, self.clock())
