"""A SimPy environment: the clock that the loop reads, and the outside events that are pending."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import simpy

from sim.kernel.notices import NO_OBSERVER, Notices

READING_S = 1e-9
"""How much later each reading of the clock is than the last, in seconds."""

SAME_S = 1e-6
"""Instants that are nearer, in seconds, count as one: only readings of the clock separate them."""


def apart(times: Iterable[float]) -> list[float]:
    """Sorted; of those that only readings of the clock separate, the last. (8)"""
    found: list[float] = []
    for at in sorted(times):
        if found and at - found[-1] <= SAME_S:
            found[-1] = at
        else:
            found.append(at)
    return found


class Arrival(simpy.Event):
    """An outside event: announced, enabled from `earliest` on, landed when the scheduler says. (1)

    earliest, latest: readings of the clock; `latest` may be infinite.
    is_awaited: called before each choice; an arrival that is not awaited any more is withdrawn.
    """

    # At how many quiescent instants it was enabled and did not land.
    passes = 0
    # Whether it was kept waiting at any poll.
    was_kept = False
    # When it comes by the time of the world, of what is on its way to a process of a host.
    world_s: float | None = None
    # For sim/schedulers/reduction/happens_before.py; see there.
    event = 0
    announced_by = 0
    announced_at = 0

    def __init__(
        self,
        env: Environment,
        name: str,
        earliest: float,
        latest: float,
        is_awaited: Callable[[], bool],
    ) -> None:
        super().__init__(env)
        self.name = name
        self.earliest = earliest
        self.latest = latest
        self.is_awaited = is_awaited

    def canonical_state(self) -> object:
        """All of it that decides what happens next; since when it is enabled does not."""
        earliest = max(self.earliest, self.env.now)
        # How often it was passed over matters to the bound alone, and to a bound on departures.
        passes = self.passes if math.isinf(self.latest) else 0
        world_s = None if self.world_s is None else max(self.world_s, self.env.world_now)  # type: ignore[attr-defined]
        rest = self.callbacks, self.is_awaited
        return self.name, earliest, self.latest, passes, world_s, *rest


class Environment(simpy.Environment):
    """SimPy's kernel with a clock that never goes back, and a list of pending arrivals.

    Between two polls of the loop the clock moves only by READING_S at each reading.
    """

    _now: float
    # Whether `spins` was ever half of `Bounds.spin_max`.
    has_spun = False
    # Its hooks are called by the subclass in sim/kernel/observed.py.
    observer: Notices = NO_OBSERVER

    def __init__(self, begun_s: float = 0.0) -> None:
        """begun_s: what its clock shows when the execution begins."""
        # What SimPy's own does, but for binding its kinds of events early: that takes a fourteenth
        # of an execution, and who asks for one has it bound.
        self._now = self.begun_s = begun_s
        self._queue: list[Any] = []
        self._eid = count()
        self._active_proc = None
        # SimPy's heap: most executions of a program without a bench never have one.
        self.events = self._queue
        # Announced and not landed, in the order of their announcement.
        self.pending: list[Arrival] = []
        # How often the loop has asked what there is to do: see sim/kernel/watchdog.py.
        self.polls = 0
        # The name of the outside event that landed last.
        self.landed: str | None = None
        # How often since its ready queue was last empty, and how often what spins was let go on.
        self.spins = 0
        self.spin_rounds = 0
        # Since when the last poll is blocked.
        self.blocked_from = begun_s

    WITHOUT_INFLUENCE = frozenset(
        # SimPy's counter only orders its events, and that order is read; no process is active now.
        {"_eid", "_active_proc", "polls", "landed", "observer", "begun_s"}
        # Another name of the queue.
        | {"events"}
        # Compared only where they may reach their limits: see `state_reader`.
        | {"spins", "has_spun", "spin_rounds"}
        # Of a poll with threads: read where they are, by the state reader.
        | {"blocked_from"}
    )
    """Fields that do not decide what happens next, for the state reader; a test checks all."""

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, at a poll."""
        return (
            self._now,
            # In the order in which they land: since when they are enabled matters for nothing else.
            sorted(self.pending, key=lambda each: each.earliest),
            # SimPy counts its events, for the order of those that are due together.
            [(at, priority, event) for at, priority, _, event in sorted(self._queue)],
        )

    @property
    def lasted_s(self) -> float:
        """By the time of the world, since the execution began."""
        return self.world_now - self.begun_s

    @property
    def world_now(self) -> float:
        """The time of the world, which a host's clock need not show."""
        return self._now

    def read_clock(self) -> float:
        self._now += READING_S
        return self._now

    def step(self) -> None:
        """As in SimPy, but an event that is a few readings late happens now, not in the past."""
        if self._queue and self._queue[0][0] < self._now:
            self._queue[0] = (self._now, *self._queue[0][1:])
        super().step()

    def run_due(self) -> None:
        """Processes all SimPy events that are due."""
        queue = self._queue
        while queue and queue[0][0] <= self._now:
            self.step()

    def advance(self, to: float) -> None:
        self._now = max(self._now, to)
        self.run_due()

    def announce(
        self,
        name: str,
        earliest_s: float = 0.0,
        latest_s: float = math.inf,
        is_awaited: Callable[[], bool] = lambda: True,
    ) -> Arrival:
        """A new arrival; its window is counted in seconds from now."""
        arrival = Arrival(self, name, self._now + earliest_s, self._now + latest_s, is_awaited)
        self.pending.append(arrival)
        return arrival

    def announce_in_world(self, name: str, earliest_s: float, latest_s: float) -> Arrival:
        """One whose time is the world's, whatever a host's clock shows."""
        return self.announce(name, earliest_s, latest_s)

    def was_thawed(self) -> None:
        """The clock of a host goes on: see `ProcessEnvironment`."""

    def world_s_to(self, at: float) -> float:
        """How many seconds of the world are left until its clock shows that."""
        return max(0.0, at - self._now)

    def land(self, arrival: Arrival) -> None:
        """The arrival happens: its callbacks are called, as by SimPy's own `step`."""
        self.pending.remove(arrival)
        self.landed = arrival.name
        arrival._ok = True
        arrival._value = None
        # Nothing else is due, so it need not queue for its turn.
        callbacks = arrival.callbacks
        arrival.callbacks = None  # type: ignore[assignment]
        for callback in callbacks:
            callback(arrival)
        self.run_due()

    def withdraw_unawaited(self) -> None:
        for arrival in self.pending:
            if not arrival.is_awaited():
                self.pending = [each for each in self.pending if each.is_awaited()]
                return
