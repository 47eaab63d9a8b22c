"""Keeping to a provider's messages a minute: a bucket that fills evenly."""

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """Holds at most `per_minute` permits and gets them back evenly; 0 means that there is no limit."""

    per_minute: int
    level: float = 0.0
    filled_at: float = 0.0

    def wait(self, now: float) -> float:
        """Take a permit and return 0, or the seconds until there will be one."""
        if not self.per_minute:
            return 0.0
        rate = self.per_minute / 60
        if not self.filled_at:
            self.level = float(self.per_minute)
        else:
            self.level = min(float(self.per_minute), self.level + max(0.0, now - self.filled_at) * rate)
        self.filled_at = now
        if self.level < 1:
            return (1 - self.level) / rate
        self.level -= 1
        return 0.0
