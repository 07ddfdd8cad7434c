"""A loop whose ready queue does not become empty: how often, and what the world does then. (5)"""

from __future__ import annotations

from sim.kernel.between_callbacks import BetweenCallbacks
from sim.kernel.current import execution_of_this_thread
from sim.kernel.environment import READING_S, SAME_S
from sim.kernel.threads.workers import Worker
from sim.kernel.violation import Kind

SPIN_STEP_S = 0.001
"""How far the clock goes on, at least, after `spin_max` polls of a program that waits for it."""

LATE_OF_WAITED = 1 / 20
"""What has waited for long is told the time that much later, as a part of its wait."""

READINGS_OF_WHO_WAITS = 1.9
"""Readings a poll, from which on the program reads as well: about one more than the loop's own."""

SPIN_ROUNDS_MAX = 50
"""How often a thread that is kept waiting goes on, at least, until the queue is empty."""

TURNS_BESIDE_SPIN_MAX = 1_000
"""The same while the queue is not empty, so that the poll takes no time."""

HAPPENINGS_MAX = 10_000
"""How much may happen before the queue is empty once: then what goes on and on is a livelock."""


class Spinning(BetweenCallbacks):
    """The part of a loop that counts its polls while the queue is not empty, and lets it go on."""

    # Which bounds limited what was explored.
    bounds_hit: set[str]
    # At which of these polls it is noted.
    _spins_noted: int
    # The clock, and the number of the poll, from which on the readings of a spinning program count;
    # when it began to wait for the clock, and what it was last told.
    _spun_from: tuple[float, int] = (0.0, 0)
    _waits_from = 0.0
    _waits_to = -1.0

    # What a SimLoop brings.

    def _instants(self) -> list[float]:
        raise NotImplementedError

    def get_stuck(self, kind: Kind, seen: str) -> None:
        raise NotImplementedError

    # -- the count

    def _may_spin(self, spins: int) -> bool:
        """Whether as many polls may find the queue not empty. At half of `spin_max` it is noted."""
        if spins > self.bounds.spin_max:
            return False
        env = self.environment
        if spins == self._spins_noted and not env.has_spun:
            env.has_spun = True
            self._spun_from = env.now, env.polls
        return True

    def _turns_beside_spin(self) -> int:
        return TURNS_BESIDE_SPIN_MAX if self.environment.spin_rounds < HAPPENINGS_MAX else 1

    def _let_spin(self) -> None:
        """Something has happened for which the program may spin: it has as many polls once more."""
        if self.environment.spin_rounds < HAPPENINGS_MAX:
            self.environment.spin_rounds += 1
            self.environment.spins = 0

    # -- at its end

    def _spin_on(self) -> None:
        """The queue was not empty for `spin_max` polls: the world goes on regardless. (5)"""
        env = self.environment
        self.bounds_hit.add("spin_max")
        awaited = self._note_wait_for_clock()
        enabled = [arrival for arrival in env.pending if arrival.earliest <= env.now]
        instants = self._instants()
        runnable = self.threads.runnable() if self.environment.spin_rounds < HAPPENINGS_MAX else []
        self.environment.spins = 0
        self.environment.spin_rounds += 1
        if self.hosts is not None and self.hosts.go_on_beside_a_spin():
            return
        if awaited > env.begun_s + self.bounds.horizon_s:
            self.get_stuck(Kind.NO_END, f"not within horizon_s={self.bounds.horizon_s:g}")
        elif not enabled and not instants and not runnable and not awaited:
            self.get_stuck(
                Kind.LIVELOCK,
                f"the ready queue was not empty for spin_max={self.bounds.spin_max} iterations, "
                f"no timer is armed and no outside event announced",
            )
        for arrival in enabled:
            env.land(arrival)
        if runnable:
            self._let_threads_go_on(runnable)
            env.run_due()
        if awaited:
            env.advance(min(instants[0], awaited) if instants else awaited)
        elif instants:
            env.advance(instants[0])
        self._spun_from = env.now, env.polls

    def _let_threads_go_on(self, runnable: list[Worker]) -> None:
        """Each once; later as far as they come, so that those of many steps are no livelock."""
        turns = 0
        while runnable and turns < TURNS_BESIDE_SPIN_MAX:
            for worker in runnable:
                self.threads.step(worker)
                turns += 1
            runnable = (
                self.threads.runnable() if self.environment.spin_rounds > SPIN_ROUNDS_MAX else []
            )
        if self.environment.spin_rounds > SPIN_ROUNDS_MAX:
            self.environment.spin_rounds += turns

    def _note_wait_for_clock(self) -> float:
        """What the clock shows next, if the program waits for it: reads it at each poll; else 0.0.

        A real loop takes some 50 µs for such a poll. What waits for long is told the time less
        often: it is late by a part of what it has waited.
        """
        env = self.environment
        now, (began, polls_then) = env.now, self._spun_from
        polls = env.polls - polls_then
        if not 0 < polls <= self.bounds.spin_max + 1:
            return 0.0
        # The loop itself reads the clock once a poll.
        reads_loop = now - began > READINGS_OF_WHO_WAITS * polls * READING_S
        execution = execution_of_this_thread()
        if not reads_loop and (execution is None or execution.entropy.readings_here < polls // 2):
            return 0.0
        if began - self._waits_to > SAME_S:
            self._waits_from = began
        step = max(self.bounds.lateness_s, SPIN_STEP_S, LATE_OF_WAITED * (now - self._waits_from))
        self._waits_to = now + step
        return self._waits_to
