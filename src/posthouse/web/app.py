"""Page and API in one application."""

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from posthouse.web import failures, security
from posthouse.web.api import attach
from posthouse.web.pages import (
    attempts,
    consent,
    editing,
    mailboxes,
    notices,
    outbox,
    registering,
    signing_in,
    testing,
)
from posthouse.web.parts import Parts
from posthouse.web.passwords import Passwords

ROOMS = (signing_in, editing, mailboxes, attempts, consent, testing, outbox, registering, notices)


def build(parts: Parts) -> FastAPI:
    """Every door of the gateway that speaks HTTP."""
    app = FastAPI(title="Posthouse", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.parts = parts
    app.state.passwords = Passwords(parts.clock)
    for room in ROOMS:
        app.include_router(room.routes, include_in_schema=False)
    app.mount("/static", StaticFiles(packages=[("posthouse.web", "static")]))
    attach(app, parts)
    failures.handle(app)
    app.add_middleware(failures.Shield)
    app.add_middleware(security.Guard, settings=parts.settings)
    return app
