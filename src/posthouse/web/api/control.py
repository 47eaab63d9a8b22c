"""Sockets in the file system: what comes in there needs no key, since the file says who may open it.

The control socket is for the user the gateway runs as, and may do everything. The submit socket is for everybody on
this machine whom the administrator lets reach it, and takes messages and nothing else.
"""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SUBMIT = ("POST", "/api/v1/messages")


def trusted(app: ASGIApp) -> ASGIApp:
    """The same application with full rights; to be served on the control socket and nowhere else."""
    return _known_as(app, "control")


def submit_only(app: ASGIApp) -> ASGIApp:
    """The one door by which a message is handed in; to be served on the submit socket."""
    door = _known_as(app, "submit")

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["method"], scope["path"]) == SUBMIT:
            await door(scope, receive, send)
        else:
            await PlainTextResponse("Messages are handed in here, and nothing else.", 404)(scope, receive, send)

    return serve


def _known_as(app: ASGIApp, name: str) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {**scope.get("state", {}), name: True}}, receive, send)

    return serve


def is_trusted(scope: Scope) -> bool:
    return bool(scope.get("state", {}).get("control", False))


def is_submitter(scope: Scope) -> bool:
    return bool(scope.get("state", {}).get("submit", False))
