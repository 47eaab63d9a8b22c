"""The connection test over the API."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from posthouse.services.connection_test import StepName
from posthouse.services.steps import Step, verdict
from posthouse.web.api.callers import Manager
from posthouse.web.api.shapes import Name

routes = APIRouter(tags=["mailboxes"])


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    only: list[StepName] = Field(
        default_factory=list, max_length=4, description="Just these steps; left out: the token, then what it uses."
    )


class Check(BaseModel):
    """States: passed, failed, skipped, unused. `sentence` says what was proved, `evidence` what the server said."""

    name: str
    state: str
    sentence: str
    evidence: str
    cause: str
    fix: str
    temporary: bool = Field(description="Waiting may help.")
    asked: str = Field(default="", description="What was sent, where that is worth knowing.")
    seconds: float


class Report(BaseModel):
    """`verdict`: passed, failed, or temporary, where nothing but waiting may help."""

    mailbox: str
    verdict: str
    checks: list[Check]


@routes.post("/mailboxes/{id}/test")
async def test(caller: Manager, name: Name, body: Wanted) -> Report:
    """Renew the token, then try each protocol by itself; answers when all is done, within three minutes."""
    mailbox = caller.mailbox(name)
    steps = [step async for step in caller.parts.connection_test.steps(mailbox, body.only)]
    caller.parts.following.ring()
    return Report(mailbox=mailbox.address, verdict=verdict(steps), checks=[check_of(step) for step in steps])


def check_of(step: Step) -> Check:
    return Check(
        name=step.name,
        state=step.state,
        sentence=step.sentence,
        evidence=step.answer,
        cause=step.cause,
        fix=step.fix,
        temporary=step.temporary,
        asked=step.asked,
        seconds=step.seconds,
    )
