"""A loop that may be one of several: what it asks of the other processes of its execution."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import NoReturn, Protocol

import simpy

from sim.kernel.environment import Environment
from sim.kernel.faults import Faults
from sim.kernel.schedule import Bounds


class HubOfHosts(Protocol):
    """What the program's own loop asks of the processes of its execution: see hosts/hub.py."""

    def go_on(self, is_so: Callable[[], bool], until: float) -> bool: ...

    def go_on_beside_a_spin(self) -> bool: ...

    def next_wake(self) -> float: ...

    def after(self, seconds: float, call: Callable[[], None]) -> None: ...

    def kill(self, pid: int, sig: int) -> bool: ...


class AmongHosts(asyncio.BaseEventLoop):
    """The part of a loop that lets others go on while it waits."""

    _stopping: bool
    environment: Environment
    bounds: Bounds

    # Which bounds limited what was explored.
    bounds_hit: set[str]
    # The processes of the execution, if it has any.
    hosts: HubOfHosts | None = None
    # Made where the program first asks for it.
    _faults: Faults | None = None
    # In a process of the execution's hosts: which one it is.
    pid: int | None = None

    # What a SimLoop brings.

    def misuse(self, what: str) -> NoReturn:
        raise NotImplementedError

    # -- the others

    def others_come(self, is_so: Callable[[], bool], until: float) -> bool:
        """Whether, before the clock shows `until`, who is not of this loop has made it so."""
        return self.hosts is not None and self.hosts.go_on(is_so, until)

    def others_have_instants(self) -> bool:
        """Whether the clock may move on although nothing of this loop waits for that."""
        if self.hosts is None:
            return False
        wakes_at = self.hosts.next_wake()
        return wakes_at < math.inf and wakes_at <= self.environment.begun_s + self.bounds.horizon_s

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """In so much world time."""
        if self.hosts is not None:
            self.hosts.after(seconds, call)
            return
        timer = simpy.Timeout(self.environment, seconds)
        assert timer.callbacks is not None
        timer.callbacks.append(lambda _: call())

    @property
    def faults(self) -> Faults:
        """The budget of the execution, and what was taken of it."""
        if self._faults is None:
            self._faults = Faults(self)
        return self._faults

    @property
    def processes(self) -> HubOfHosts | None:
        """Those of the execution's hosts."""
        return self.hosts

    def sleep(self, seconds: float) -> None:
        """The loop's thread sleeps, and the loop with it."""
        until = self.environment.now + seconds
        while self.hosts is not None and self.hosts.go_on(lambda: False, until):
            if self._stopping:
                return
        self.environment.advance(until)
