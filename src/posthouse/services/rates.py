"""How many messages a device may hand in: counted from the journal, so that neither a restart nor another node is a
way around it.
"""

from dataclasses import dataclass, field

from posthouse.model.device import Device
from posthouse.model.pacing import Rate
from posthouse.problems import problem
from posthouse.services.clock import Clock, as_datetime
from posthouse.store import journal
from posthouse.store.opening import Store

LOOK = 5.0
"""Seconds after which it is looked again what other nodes have accepted."""


@dataclass(slots=True)
class _Counted:
    """`upto` is the last line of the journal that was read; `not_read` counts what this process has accepted later."""

    text: str
    rate: Rate
    looked_at: float = 0.0
    upto: int = 0
    not_read: int = 0

    def next_at(self, now: float) -> float:
        return self.rate.next_at(now, self.not_read)


@dataclass(slots=True)
class Rates:
    store: Store
    clock: Clock
    _devices: dict[str, _Counted] = field(default_factory=dict)

    def is_known(self, device: Device) -> bool:
        """Whether `refusal` may be asked without looking first."""
        if not device.settings.rate:
            return True
        counted = self._devices.get(device.name)
        if counted is None or counted.text != device.settings.rate:
            return False
        return self.store.database.embedded or self.clock() - counted.looked_at < LOOK

    async def look(self, device: Device) -> None:
        """What was accepted from it. Raises DatabaseUnavailable."""
        rate = Rate.parse(device.settings.rate)
        if rate is None:
            return
        counted = self._devices.get(device.name)
        if counted is None or counted.text != device.settings.rate:
            counted = _Counted(device.settings.rate, rate)
        now, known, count = self.clock(), counted.upto, counted.not_read
        since = now - counted.rate.window.length
        found, upto = await self.store.database.read(lambda tx: journal.accepted_from(tx, device.name, since, known))
        for at in found:
            counted.rate.window.use(at, 1)
        counted.looked_at, counted.upto = now, max(known, upto)
        counted.not_read -= count
        self._devices[device.name] = counted

    def refusal(self, device: Device) -> str:
        """Why nothing is taken from it now; empty where it is. `is_known` first."""
        counted, now = self._devices.get(device.name), self.clock()
        if not device.settings.rate or counted is None or (next_at := counted.next_at(now)) <= now:
            return ""
        return f"{device.name} may send {counted.text}; again at {as_datetime(next_at):%H:%M:%S} UTC"

    def accepted(self, device: Device) -> None:
        """One message more from it."""
        counted = self._devices.get(device.name)
        if counted is None:
            return
        if self.store.database.embedded:
            counted.rate.window.use(self.clock(), 1)
        else:
            counted.not_read += 1

    async def admit(self, device: Device | None) -> None:
        """For what comes over the API under a device's name. Raises ProblemError, DatabaseUnavailable."""
        if device is None or not device.settings.rate:
            return
        if not self.is_known(device):
            await self.look(device)
        if sentence := self.refusal(device):
            raise problem("device.rate", f"{sentence}.", "Wait, or give the device a higher rate.", status=75)
