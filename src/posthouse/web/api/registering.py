"""The app registration assistant over the API."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from posthouse.providers.guide import Guide
from posthouse.providers.registration import Credential, Way
from posthouse.services.app_check import StepName
from posthouse.services.app_guide import Asked, app_guide
from posthouse.services.steps import verdict
from posthouse.store.configuration import StoredApp
from posthouse.web.api.callers import Caller, Manager, Reader
from posthouse.web.api.problems import not_found
from posthouse.web.api.shapes import Name
from posthouse.web.api.testing import Check, check_of

routes = APIRouter(tags=["configuration"])
Address = Annotated[str, Query(max_length=320)]


class GuideStep(BaseModel):
    """`lines` are to be copied as they stand."""

    text: str
    lines: list[str]


class GuideScript(BaseModel):
    title: str = Field(description="The program that runs it.")
    name: str = Field(description="A name for the file.")
    text: str


class BorrowedShape(BaseModel):
    """Somebody else's public registration, with what is against it."""

    name: str = Field(description="May stand in the place of a client id.")
    title: str
    warning: str
    lines: list[str]


class GuideShape(BaseModel):
    """How to register an app. Where `closed` says why the way is not open, there are no steps."""

    provider: str
    title: str
    way: str = Field(description="browser, device, paste, link, app.")
    ways: list[str] = Field(description="Those that are open.")
    credential: str = Field(description="none, secret, certificate, service_account.")
    credentials: list[str]
    closed: str
    warnings: list[str]
    redirect_url: str = Field(description="To be registered exactly so; empty where the way needs none.")
    scopes: list[str]
    permissions: list[str] = Field(description="The scopes, as the provider's own pages call them.")
    public_client: bool
    steps: list[GuideStep]
    scripts: list[GuideScript]
    borrowed: list[BorrowedShape]


@routes.get("/providers/{id}/guide")
async def guide(
    caller: Reader,
    name: Name,
    way: Way | None = None,
    credential: Credential | None = None,
    send: bool = False,
    receive: Literal["imap", "pop3"] | None = None,
    mailbox: Annotated[list[Address] | None, Query(max_length=200)] = None,
    tenant: Annotated[str, Query(max_length=253)] = "",
    app: Annotated[str, Query(max_length=320)] = "",
) -> GuideShape:
    """How to register an app at this provider, for sending unless only `receive` is given. With `app`, one that is
    there already: its client id, tenant and mailboxes are filled in."""
    snapshot = caller.parts.directory.now
    if name not in snapshot.providers:
        raise not_found("provider", name)
    if app:
        caller.must_see_all()
    asked = Asked(way or "", credential or "", send, receive or "", tuple(mailbox or ()), tenant, app)
    return shape(app_guide(snapshot, caller.parts.settings.external_url, name, asked))


def shape(made: Guide) -> GuideShape:
    return GuideShape(
        provider=made.provider,
        title=made.title,
        way=made.way,
        ways=list(made.ways),
        credential=made.credential,
        credentials=list(made.credentials),
        closed=str(made.closed or ""),
        warnings=[str(warning) for warning in made.warnings],
        redirect_url=made.redirect_url,
        scopes=list(made.scopes),
        permissions=list(made.permissions),
        public_client=made.public_client,
        steps=[GuideStep(text=str(step.sentence), lines=list(step.lines)) for step in made.steps],
        scripts=[GuideScript(title=one.title, name=one.name, text=one.text) for one in made.scripts],
        borrowed=[
            BorrowedShape(name=one.name, title=one.title, warning=str(one.warning), lines=list(one.lines))
            for one in made.borrowed
        ],
    )


class WantedSteps(BaseModel):
    model_config = ConfigDict(extra="forbid")
    only: list[StepName] = Field(default_factory=list, max_length=4, description="Just these steps; left out: all.")


class AppReport(BaseModel):
    """`verdict`: passed, failed, or temporary, where nothing but waiting may help."""

    app: str
    redirect_url: str = Field(description="What has to be registered at the provider, exactly so.")
    warnings: list[str] = Field(description="What is known to be in the way before anything is asked.")
    verdict: str
    checks: list[Check]


@routes.post("/apps/{id}/check")
async def check(caller: Manager, name: Name, body: WantedSteps | None = None) -> AppReport:
    """Ask the provider with harmless requests whether it knows the app, its redirect URL and its secret.

    Nobody signs in, and what the provider gives is thrown away. Answers within 80 seconds.
    """
    app, checking = _app(caller, name), caller.parts.app_check
    steps = [step async for step in checking.steps(app.id, body.only if body else ())]
    return AppReport(
        app=app.name,
        redirect_url=checking.redirect_url_of(app),
        warnings=[str(warning) for warning in checking.warnings(app)],
        verdict=verdict(steps),
        checks=[check_of(step) for step in steps],
    )


def _app(caller: Caller, name: str) -> StoredApp:
    """By id or name. Raises HTTPException 404, also for one the key is not meant for."""
    snapshot = caller.parts.directory.now
    found = snapshot.configuration.apps.get(name) or snapshot.apps_by_name.get(name)
    used = {mailbox.app_id for mailbox in snapshot.mailboxes.values() if caller.sees(mailbox.address)}
    if found is None or (caller.mailboxes and found.id not in used):
        raise not_found("app", name)
    return found
