"""What the clocks of a host show."""

from __future__ import annotations


class HostClock:
    """World time × rate + offset; while the host is frozen, what it showed when that began."""

    def __init__(self, offset_s: float = 0.0, rate: float = 1.0, begun_s: float = 0.0) -> None:
        """begun_s: the instant of the world at which it is by `offset_s` ahead."""
        self.rate = rate
        self.stands = False
        # At this instant of the world, in seconds, it showed that.
        self._world_s, self._shown_s = begun_s, begun_s + offset_s

    def shown(self, world_s: float) -> float:
        if self.stands:
            return self._shown_s
        return self._shown_s + (world_s - self._world_s) * self.rate

    def world(self, shown_s: float) -> float:
        """When it shows that. While it stands, since when."""
        if self.stands:
            return self._world_s
        return self._world_s + (shown_s - self._shown_s) / self.rate

    def stop(self, world_s: float) -> None:
        self._world_s, self._shown_s, self.stands = world_s, self.shown(world_s), True

    def go_on(self, world_s: float) -> None:
        self._world_s, self.stands = world_s, False

    def canonical_state(self) -> object:
        """What it shows where it stands; else by how much it differs from the world's."""
        ahead_s = self._shown_s if self.stands else self._shown_s - self._world_s * self.rate
        return self.rate, self.stands, ahead_s
