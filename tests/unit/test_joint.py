"""Whoever asks is answered by a run that began later, and shares it with others."""

import asyncio

from posthouse.store.joint import Joint


class Disk:
    """Lets a sync end when it is told to, or fail."""

    def __init__(self) -> None:
        self.syncs = 0
        self.sync = Joint(self._sync)
        self._begun = asyncio.Semaphore(0)
        self._goes_on: asyncio.Queue[bool] = asyncio.Queue()

    async def _sync(self) -> int:
        self.syncs += 1
        number = self.syncs
        self._begun.release()
        if await self._goes_on.get():
            return number
        raise OSError("Input/output error")

    async def has_begun(self) -> None:
        async with asyncio.timeout(10):
            await self._begun.acquire()

    def goes_on(self, *, well: bool = True) -> None:
        self._goes_on.put_nowait(well)


async def test_those_who_come_while_it_is_under_way_share_the_next_one() -> None:
    disk = Disk()
    first = asyncio.create_task(disk.sync())
    await disk.has_begun()
    later = [asyncio.create_task(disk.sync()) for _ in range(5)]
    disk.goes_on()
    assert await first == 1
    await disk.has_begun()
    assert not any(one.done() for one in later)
    disk.goes_on()
    assert await asyncio.gather(*later) == [2] * 5
    assert disk.syncs == 2


async def test_a_failure_is_told_to_those_who_share_it_and_those_who_wait_and_to_nobody_else() -> None:
    disk = Disk()
    asked = [asyncio.create_task(disk.sync()) for _ in range(2)]
    await disk.has_begun()
    asked.append(asyncio.create_task(disk.sync()))
    await asyncio.sleep(0)
    disk.goes_on(well=False)
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(failure) for failure in told] == ["Input/output error"] * 3
    disk.goes_on()
    assert await disk.sync() == 2


async def test_one_who_goes_away_takes_it_from_nobody() -> None:
    disk = Disk()
    first = asyncio.create_task(disk.sync())
    await disk.has_begun()
    later = [asyncio.create_task(disk.sync()) for _ in range(2)]
    disk.goes_on()
    assert await first == 1
    await disk.has_begun()
    later[0].cancel()
    disk.goes_on()
    assert await later[1] == 2
    assert later[0].cancelled()
    assert disk.syncs == 2


async def test_a_run_whose_only_asker_went_away_is_followed_by_one_that_began_later() -> None:
    disk = Disk()
    gone = asyncio.create_task(disk.sync())
    await disk.has_begun()
    gone.cancel()
    following = asyncio.create_task(disk.sync())
    await asyncio.sleep(0)
    disk.goes_on()
    disk.goes_on()
    assert await following == 2
