"""Another master key: kept beside the old one, known to the database besides the old one, put in its place, and
only then the old one forgotten. At every moment in between, what lies in the old place opens the database.
"""

import asyncio
from dataclasses import dataclass, field

from posthouse.problems import problem
from posthouse.store.data_keys import DataKeys, stored
from posthouse.store.master_key import Given, parse_master_key
from posthouse.store.sealing import MasterKey, new_master_text


@dataclass(slots=True)
class MasterKeyChange:
    """Changes the master key of `keys`, one change at a time."""

    keys: DataKeys
    node_id: str
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def change(self, given: str = "") -> bool:
        """Go over to the key `given`, or to a new one; whether the old one is forgotten already.

        A change that was cut short is gone on with. Raises ProblemError.
        """
        async with self._one:
            if await self._only_to_be_finished(given):
                return await self._finish()
            new = await self._prepare(given)
            if new.id == self.keys.master_id:
                raise problem("key.same", "That is the master key in use already.", "Nothing was changed.", status=64)
            await self.keys.wrap_with(new)
            if isinstance(self.keys.place, Given):
                return False
            await asyncio.to_thread(self.keys.place.swap)
            self.keys.use(new)
            return await self._finish() if self.keys.database.embedded else False

    async def finish(self) -> bool:
        """Only the key in use opens the database from now on. False: no other one did. Raises ProblemError."""
        async with self._one:
            return await self._finish()

    async def _finish(self) -> bool:
        place = self.keys.place
        text = await asyncio.to_thread(place.read)
        if text is None or parse_master_key(text, place.where).id != self.keys.master_id:
            raise problem(
                "key.moved",
                f"{place.where} does not hold the master key in use any more.",
                "Restart the gateway with the key it is to have, then say this again.",
            )
        return bool(await self.keys.forget_other_masters(self.node_id))

    async def _only_to_be_finished(self, given: str) -> bool:
        if given or isinstance(self.keys.place, Given):
            return False
        masters = (await self.keys.database.read(stored)).masters
        return len(masters) > 1 and await asyncio.to_thread(self.keys.place.spare) is None

    async def _prepare(self, given: str) -> MasterKey:
        place = self.keys.place
        if isinstance(place, Given):
            if not given:
                raise place.cannot()
            return parse_master_key(given, "What was given as the new key")
        spare = None if given else await asyncio.to_thread(place.spare)
        text = given or spare or new_master_text()
        new = parse_master_key(text, "What was given as the new key")
        await asyncio.to_thread(place.keep_spare, text.strip())
        return new
