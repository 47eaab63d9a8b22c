"""The pages on which a person chooses an account and allows or denies: /authorize and /device."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from posthouse.sandbox.authorize import UnsafeRequestError
from posthouse.sandbox.grants import GrantError
from posthouse.sandbox.pages import page, said
from posthouse.sandbox.serving import NO_STORE, BadFormError, Form, read_form
from posthouse.sandbox.settings import Person
from posthouse.sandbox.signin import ReturnedError, SignIn

COOKIE = "posthouse_sandbox_person"


@dataclass(frozen=True, slots=True)
class AccountPages:
    """Endpoints. Who has chosen an account is signed in, and chosen again without being asked (single sign-on)."""

    signin: SignIn

    async def ask(self, request: Request, form: Form) -> Response:
        try:
            asked = self.signin.read(form)
        except UnsafeRequestError as error:
            return said("This request was refused", str(error), 400)
        except ReturnedError as returned:
            return RedirectResponse(returned.url, 303, NO_STORE)
        signed_in = self.signin.people.get(unquote(request.cookies.get(COOKIE, "")))
        if signed_in and not set(asked.prompts) - {"none"}:
            return RedirectResponse(self.signin.allowed(asked, signed_in), 303, NO_STORE)
        if "none" in asked.prompts:
            url = asked.back.url(self.signin.issuer, error="login_required")
            return RedirectResponse(url, 303, NO_STORE)
        people = _hinted_first(self.signin.settings.people, asked.login_hint)
        client, scopes = asked.back.client.id, asked.scopes
        return page("choose", "Choose an account", client=client, scopes=scopes, people=people)

    async def chosen(self, request: Request) -> Response:
        try:
            person = (await read_form(request)).get("person", "")
            response = RedirectResponse(self.signin.consent(dict(request.query_params), person), 303, NO_STORE)
        except (UnsafeRequestError, GrantError, BadFormError) as error:
            return said("This request was refused", str(error), 400)
        if person:
            response.set_cookie(COOKIE, quote(person.lower()), path="/authorize", httponly=True, samesite="lax")
        return response

    async def device(self, request: Request, form: Form) -> Response:
        code = form.get("user_code", "")
        waiting = self.signin.ledger.device(code, self.signin.clock())
        if waiting is None:
            return page("code", "Connect a device", 400 if code else 200, wrong=code)
        if request.method == "POST" and "person" in form:
            return self._device_answered(waiting.user_code, form["person"])
        about: dict[str, Any] = {"client": waiting.client, "user_code": waiting.user_code}
        people, scopes = self.signin.settings.people, waiting.scopes
        return page("device", "Connect a device", people=people, scopes=scopes, **about)

    def _device_answered(self, user_code: str, person: str) -> Response:
        try:
            self.signin.answer_device(user_code, person)
        except GrantError as error:
            return said("This request was refused", error.sentence, 400)
        if not person:
            return said("Not allowed", "The device gets nothing. You may close this page.")
        return said("Done", f"The device may act for {person}. You may close this page.")


def _hinted_first(people: tuple[Person, ...], hint: str) -> tuple[Person, ...]:
    wanted = hint.lower()
    return tuple(sorted(people, key=lambda p: wanted not in (p.address.lower(), p.username.lower())))
