"""The keys that everything is sealed with, over the control socket only. No answer holds one of them."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from posthouse.store import data_keys, leases
from posthouse.web.api.commands import Inside
from posthouse.web.api.shapes import moment
from posthouse.web.parts import Parts

routes = APIRouter(prefix="/control/sealing", include_in_schema=False)


@routes.get("")
async def show(parts: Inside) -> dict[str, Any]:
    """Where the master key comes from, and what lies under which data key."""
    store = parts.store
    found = await store.database.read(data_keys.stored)
    living = await store.database.read(leases.alive)
    survey = await parts.key_rotation.survey()
    return {
        "master": {"kind": store.keys.place.kind, "where": store.keys.place.where, "id": store.keys.master_id},
        "other_masters": [one for one in found.masters if one != store.keys.master_id],
        "keys": [
            {
                "id": key.id,
                "state": key.state,
                "made_at": moment(key.created_at),
                "values": {what: counts[key.id] for what, counts in survey.items() if key.id in counts},
            }
            for key in found.data_keys
        ],
        "unreadable": parts.key_rotation.unreadable,
        "nodes": [
            {"id": row["id"], "master": row["master_id"], "knows_all": row["keys_known"] >= found.generation}
            for row in ([] if store.database.embedded else living)
        ],
    }


@routes.post("/rotate")
async def rotate(parts: Inside) -> dict[str, Any]:
    """Make a new data key, or go on with a change that is under way. The rest happens in the background."""
    await parts.key_rotation.begin()
    return await show(parts)


class NewMaster(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str = Field("", max_length=1000, repr=False)


@routes.post("/master")
async def change_master(parts: Inside, body: NewMaster) -> dict[str, Any]:
    """Go over to another master key: the one given, or a new one. `done`: the former one is forgotten."""
    return await _changed(parts, done=await parts.master_key_change.change(body.key))


@routes.post("/finish")
async def finish(parts: Inside) -> dict[str, Any]:
    """Only the master key in use opens the database from now on."""
    return await _changed(parts, done=await parts.master_key_change.finish())


async def _changed(parts: Parts, *, done: bool) -> dict[str, Any]:
    await parts.directory.refresh()
    return {"done": done, **await show(parts)}
