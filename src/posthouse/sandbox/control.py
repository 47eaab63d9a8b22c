"""The control door: fault switches, rules, consent by program, mail by program and statistics, in JSON.

Only on loopback and only with the key in `control.key` as a bearer. What each path takes stands at its function;
an answer 400 has `{"problem": "one sentence"}`.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from posthouse.sandbox.authorize import UnsafeRequestError
from posthouse.sandbox.faults import Fault, Faults
from posthouse.sandbox.grants import GrantError
from posthouse.sandbox.post import DOORS, PostOffice
from posthouse.sandbox.serving import BadFormError, read_body
from posthouse.sandbox.signin import SignIn
from posthouse.sandbox.token_endpoint import Seen
from posthouse.secret import Secret

MOST_MESSAGE = 64 * 1024 * 1024
T = TypeVar("T")
Values = dict[str, Any]
Command = Callable[[Values], Values]


class WrongUseError(ValueError):
    """What was asked of the control door makes no sense; the text says why."""


@dataclass(frozen=True, slots=True)
class Control:
    """The commands. Each takes and gives the members of a JSON object."""

    signin: SignIn
    post: PostOffice
    faults: Faults
    seen: Seen

    def application(self, key: Secret) -> ASGIApp:
        def door(path: str, command: Command, method: str = "POST") -> Route:
            return Route(f"/control/{path}", _endpoint(command), methods=[method])

        return _Locked(
            key,
            Starlette(
                routes=[
                    door("state", self.state, "GET"),
                    door("messages", self.messages, "GET"),
                    door("faults", self.set_fault),
                    door("faults", self.clear_faults, "DELETE"),
                    door("rules", self.rules),
                    door("protocols", self.protocols),
                    door("approve", self.approve),
                    door("grant", self.grant),
                    door("revoke", self.revoke),
                    door("expire", self.expire),
                    door("deliver", self.deliver),
                    door("reset", self.reset),
                ]
            ),
        )

    def state(self, _: Values) -> Values:
        """Rules, limits, switched-off protocols, faults with their hits, and all counts since the last reset."""
        ledger, seen = self.signin.ledger, self.seen
        return {
            "rules": {**asdict(ledger.rules), **asdict(self.post.limits)},
            "off": {door: sorted(people) for door, people in self.post.off.items()},
            "faults": [asdict(fault) for fault in self.faults.active],
            "hits": dict(self.faults.hits),
            "token_requests": dict(seen.requests),
            "token_refusals": dict(seen.refused),
            "refreshes": dict(seen.refreshed),
            "reuses": ledger.reuses,
            "grants": [
                {"person": known.consent.person, "client": known.consent.client, "ended": known.ended}
                for known in ledger.grants.values()
            ],
            **self.post.counts(),
        }

    def set_fault(self, values: Values) -> Values:
        """The members of a `Fault` -> its `id`."""
        return {"id": self.faults.add(_read(Fault, values)).id}

    def clear_faults(self, values: Values) -> Values:
        """`id`, or nothing for all."""
        self.faults.remove(int(values.get("id", 0)))
        return {}

    def rules(self, values: Values) -> Values:
        """Members of `Rules` and `Limits`, as many as are to change."""
        rules, limits = self.signin.ledger.rules, self.post.limits
        unknown = set(values) - {member.name for known in (rules, limits) for member in fields(known)}
        if unknown:
            raise WrongUseError(f"There is no rule named {', '.join(sorted(unknown))}.")
        self.signin.ledger.rules = _changed(rules, values)
        self.post.limits = _changed(limits, values)
        return {}

    def protocols(self, values: Values) -> Values:
        """`protocol` (smtp, imap, pop3), `on`, and `person` or nothing for the whole organisation."""
        door, person = values.get("protocol"), str(values.get("person", ""))
        if door not in DOORS:
            raise WrongUseError(f"There is no protocol {door!r}; the protocols are {', '.join(DOORS)}.")
        self.post.switch(door, person, on=bool(values.get("on", True)))
        return {}

    def approve(self, values: Values) -> Values:
        """`person` ("" denies) with `user_code`, or with `url` (of /authorize) -> `url` to send a browser to."""
        person = str(values.get("person", ""))
        if "url" in values:
            asked = dict(parse_qsl(urlsplit(str(values["url"])).query, keep_blank_values=True))
            return {"url": self.signin.consent(asked, person)}
        self.signin.answer_device(str(values.get("user_code", "")), person)
        return {}

    def grant(self, values: Values) -> Values:
        """`person` and `client` -> `access_token` and `refresh_token`, without any flow."""
        issued = self.signin.grant(str(values.get("person", "")), str(values.get("client", "posthouse")))
        refresh_token = issued.refresh_token.reveal() if issued.refresh_token else ""
        return {"access_token": issued.access_token.reveal(), "refresh_token": refresh_token}

    def revoke(self, values: Values) -> Values:
        """`person`, or nothing for everybody -> `grants` that were ended."""
        return {"grants": self.signin.ledger.revoke_person(self._address(values))}

    def expire(self, values: Values) -> Values:
        """`person`, or nothing for everybody -> `access_tokens` that were ended; the grants go on."""
        return {"access_tokens": self.signin.ledger.expire_access(self._address(values))}

    def deliver(self, values: Values) -> Values:
        """`address` and `message` (text): put mail into a mailbox as if it had come from outside."""
        address, message = str(values.get("address", "")), str(values.get("message", ""))
        if not self.post.knows(address):
            raise WrongUseError(f"There is no mailbox {address} here.")
        self.post.put(address, "", message.encode(errors="surrogateescape"))
        return {}

    def messages(self, values: Values) -> Values:
        """`address` -> `messages` in its mailbox (also elsewhere): `sender`, `size` and `text`, newest last."""
        return {"messages": self.post.list_messages(str(values.get("address", "")))}

    def reset(self, _: Values) -> Values:
        """Counts to nothing, all mail and all faults away, all protocols on. Grants and rules stay."""
        self.faults.remove()
        self.faults.hits.clear()
        self.seen.clear()
        self.signin.ledger.reuses = 0
        self.post.reset()
        return {}

    def _address(self, values: Values) -> str:
        person = str(values.get("person", ""))
        return self.signin.person(person).address if person else ""


def _endpoint(command: Command) -> Callable[[Request], Awaitable[Response]]:
    async def served(request: Request) -> Response:
        try:
            return JSONResponse(command(await _values(request)))
        except (ValueError, BadFormError, GrantError, UnsafeRequestError) as error:
            sentence = error.sentence if isinstance(error, GrantError) else str(error)
            return JSONResponse({"problem": sentence}, 400)

    return served


async def _values(request: Request) -> Values:
    if request.method == "GET":
        return dict(request.query_params)
    body = await read_body(request, MOST_MESSAGE)
    values = json.loads(body or b"{}")
    if not isinstance(values, dict):
        raise WrongUseError("A JSON object is needed.")
    return values


def _read(kind: type[T], values: Values) -> T:
    known = {member.name: member for member in fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise WrongUseError(f"There is no member named {name}.")
        _check(name, value, "" if known[name].default is MISSING else known[name].default)
    missing = [name for name, m in known.items() if m.default is MISSING and name not in values]
    if missing:
        raise WrongUseError(f"{', '.join(missing)} is missing.")
    return kind(**values)


def _changed(rules: T, values: Values) -> T:
    known = {member.name for member in fields(rules)}  # type: ignore[arg-type]
    changes = {name: value for name, value in values.items() if name in known}
    for name, value in changes.items():
        _check(name, value, getattr(rules, name))
    return replace(rules, **changes)  # type: ignore[type-var]


def _check(name: str, value: Any, like: Any) -> None:
    whole_for_part = isinstance(like, float) and type(value) is int
    if type(value) is not type(like) and not whole_for_part:
        raise WrongUseError(f"{name} has to be of the type {type(like).__name__}.")


class _Locked:
    """Lets through only who has the key."""

    def __init__(self, key: Secret, app: ASGIApp) -> None:
        self._key = key
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        scheme, _, given = header.partition(" ")
        if scheme.lower() == "bearer" and Secret(given) == self._key:
            await self._app(scope, receive, send)
        else:
            refused = JSONResponse({"problem": "The key in control.key is needed."}, 401)
            await refused(scope, receive, send)
