"""The REST API under /api/v1, and /healthz, /readyz and /metrics beside it.

It is an application of its own inside the page's, so that its errors are problem documents, whatever happens, and
the page's are pages.
"""

from fastapi import FastAPI
from starlette.types import ASGIApp

from posthouse import __version__
from posthouse.web.api import (
    commands,
    configured,
    editing,
    health,
    later,
    logs,
    mailboxes,
    messages,
    notices,
    registering,
    sealing,
    status,
    testing,
)
from posthouse.web.api.control import trusted
from posthouse.web.api.problems import install
from posthouse.web.parts import Parts

PREFIX = "/api/v1"


def api(parts: Parts) -> FastAPI:
    """The application to be mounted at PREFIX."""
    app = FastAPI(
        title="Posthouse",
        version=__version__,
        description="Keeps OAuth 2.0 tokens fresh for everything that knows only a password.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = parts
    doors = (
        *(status, mailboxes, messages, logs, configured, editing, registering),
        *(testing, notices, later, commands, sealing),
    )
    for door in doors:
        app.include_router(door.routes)
    install(app, parts.settings.message_size)
    return app


def attach(app: FastAPI, parts: Parts) -> None:
    """Put API and health doors into the application of the page."""
    app.state.parts = parts
    app.include_router(health.routes)
    app.mount(PREFIX, api(parts))


def alone(parts: Parts) -> ASGIApp:
    """The API without the page and with full rights, for a command that asks it in its own process."""
    app = FastAPI(openapi_url=None)
    attach(app, parts)
    return trusted(app)
