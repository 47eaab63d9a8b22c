"""Doors that are part of the contract and are not built yet: they say so, and nothing happens."""

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from posthouse.problems import Problem
from posthouse.web.api.callers import may
from posthouse.web.api.problems import document

routes = APIRouter(tags=["not yet available"])

KINDS = ("destinations", "webhooks", "administrators")
READ = ("/destinations", "/webhooks")
RECEIVE = ("/received", "/received/{id}", "/received/{id}/raw")
MANAGE = (
    ("POST", "/doctor"),
    *(("POST", f"/{kind}") for kind in KINDS),
    *((method, f"/{kind}/{{id}}") for kind in KINDS for method in ("PATCH", "DELETE")),
)


async def not_yet() -> JSONResponse:
    return document(
        501, [Problem("not-yet", "This is not yet available.", "An apply file or the command line may do it.")]
    )


def _add(method: str, path: str, permission: str) -> None:
    routes.add_api_route(
        path,
        not_yet,
        methods=[method],
        dependencies=[Depends(may(permission))],
        summary="Not yet available",
        status_code=501,
        operation_id=f"not_yet_{method}_{path}".lower(),
    )


for _path in READ:
    _add("GET", _path, "read")
for _path in RECEIVE:
    _add("GET", _path, "receive")
_add("POST", "/received/{id}/ack", "receive")
for _method, _path in MANAGE:
    _add(_method, _path, "manage")
