"""The control socket: only the user the gateway runs as can open it, so what comes in there needs no key."""

from starlette.types import ASGIApp, Receive, Scope, Send


def trusted(app: ASGIApp) -> ASGIApp:
    """The same application with full rights; to be served on the control socket and nowhere else."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        state = {**scope.get("state", {}), "control": True}
        await app({**scope, "state": state}, receive, send)

    return serve


def is_trusted(scope: Scope) -> bool:
    return bool(scope.get("state", {}).get("control", False))
