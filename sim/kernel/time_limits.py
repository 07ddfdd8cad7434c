"""Instants at which a time limit of the program's own ends, where no timer says so.

`if key in cache: await …; return cache[key]` with entries that expire, a token bucket, a window:
the program compares readings of a clock with a time limit, and arms no timer. Between the instants
of the arrival model nothing happens, so the limit ends before both readings, or after both. Where
`Bounds.time_limits` has how long such limits are (`learned_limits.py` finds out), an outside event
that is kept waiting may land just before a reading and a limit are over, and just after; and a step
may take until then before it reads the clock next, as long as that is within `lateness_s`.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from types import FrameType
from typing import Any, Protocol

from sim.kernel.environment import SAME_S, Environment, apart
from sim.kernel.notices import Special
from sim.kernel.schedule import ON_TIME, Bounds, Option, one_natural

PAST_S = 0.0001
"""How long after its end a limit is certainly over: more than the wall clock may be ahead."""

READINGS_MAX = 16
"""How many of one poll count, and in how many polls in a row of a queue that is never empty."""

ENDS_MAX = 12
"""Of each limit, how many ends may be ahead."""

STEPS_MAX = 12
"""How many steps of an execution may take until one."""

INSTANTS_MAX = 12
"""Among how many of the next instants an outside event may land."""


class Limits(Protocol):
    """Told of each reading of a clock that the program makes; so are those who learn of them."""

    def reads(self) -> None: ...

    def shown(self, reading: Any, per_second: float) -> Any: ...

    def instants(self, before: float) -> list[float]: ...

    def next_instant(self, instants: Sequence[float]) -> float | None: ...

    def has_waited(self) -> bool: ...


class LearnsOfTimers(Protocol):
    def armed(self, when: float) -> float: ...


class LoopWithLimits(Protocol):
    """What this asks of a SimLoop."""

    environment: Environment
    bounds: Bounds
    choose: Any
    hosts: Any
    threads: Any


class ReadingsOfPoll:
    """How often a clock was read in the last poll."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._poll, self._count = -1, 0

    def is_one_of_few(self) -> bool:
        """The program reads one; what does so on and on, or at each of many polls, waits for it."""
        env = self._environment
        self._count = self._count + 1 if env.polls == self._poll else 1
        self._poll = env.polls
        return self._count <= READINGS_MAX and env.spins <= READINGS_MAX


class TimeLimits:
    """Those of one loop."""

    def __init__(self, loop: LoopWithLimits) -> None:
        self._loop = loop
        # How long they are, and when each kind of them ends, from now on, of readings so far.
        self._limits: tuple[float, ...] = loop.bounds.time_limits
        self._ends: list[deque[float]] = [deque() for _ in self._limits]
        self._readings = ReadingsOfPoll(loop.environment)
        self._steps_asked = 0
        # By how much the steps of one iteration have been late, and of which.
        self._late_s, self._late_in = 0.0, -1
        self._has_waited = False
        # A calendar's limits count from the beginning.
        self._note(loop.environment.begun_s)

    # -- readings of the program's

    def reads(self) -> None:
        """The program is about to read a clock."""
        if self._readings.is_one_of_few() and self._loop.hosts is None and not is_for_a_log():
            self._be_late()
            self._note(self._loop.environment.now)

    def _note(self, now: float) -> None:
        """A limit may count from here."""
        for limit, ends in zip(self._limits, self._ends, strict=True):
            while ends and ends[0] <= now:
                ends.popleft()
            if not ends or (len(ends) < ENDS_MAX and now + limit - ends[-1] > SAME_S):
                ends.append(now + limit)

    def shown(self, reading: Any, per_second: float) -> Any:
        return reading

    def _be_late(self) -> None:
        """The step may have taken until a limit is over."""
        env = self._loop.environment
        latest = min((each.latest for each in env.pending), default=math.inf)
        if self._late_in != env.polls:
            self._late_s, self._late_in = 0.0, env.polls
        until = min(env.now + self._loop.bounds.lateness_s - self._late_s, latest) - PAST_S
        ends = apart(at for ends in self._ends for at in ends if env.now < at <= until)
        if not ends or self._steps_asked == STEPS_MAX:
            return
        self._steps_asked += 1
        options = [ON_TIME, *(Option(_words_of_step(env, at)) for at in ends)]
        option = self._loop.choose("reading", options, one_natural)
        if option:
            env.observer.meets(Special.SLOW_STEP)
            until = ends[option - 1] + PAST_S
            self._late_s += until - env.now
            env.advance(until)

    # -- instants at which what is outside may land

    def instants(self, before: float) -> list[float]:
        """Before that, for what is kept waiting now."""
        loop = self._loop
        env = loop.environment
        waiting = [each for each in env.pending if each.earliest <= env.now]
        if not waiting or loop.hosts is not None or loop.threads.runnable():
            return []
        last = min([before - SAME_S, *(each.latest for each in env.pending)])
        last = min(last, env.begun_s + loop.bounds.horizon_s)
        instants = apart(at for at in self._around_ends(env.now) if at <= last)
        return instants[:INSTANTS_MAX]

    def _around_ends(self, now: float) -> Iterator[float]:
        """Just before the end of each, and just after; and before it by what another one takes.

        What takes another one is a sleep, say, after which the limit is to end.
        """
        # So that a step may then take until the end.
        before_s = self._loop.bounds.lateness_s / 2
        for end in chain(*self._ends):
            for at in (end - before_s, end + PAST_S):
                if at > now + SAME_S:
                    yield at
            for earlier in self._limits:
                if end - earlier - before_s > now + SAME_S:
                    yield end - earlier - before_s

    def next_instant(self, instants: Sequence[float]) -> float | None:
        """At which the loop wakes for what it has kept waiting; None: at its own next one, if any.

        instants: the loop's own.
        """
        meanwhile = self.instants(instants[0] if instants else math.inf)
        if not meanwhile:
            return None
        options = [ON_TIME] if instants else []
        options += [Option(_words_of_wait(self._loop.environment, at)) for at in meanwhile]
        option = self._loop.choose("meanwhile", options, _free) if len(options) > 1 else 0
        option -= bool(instants)
        self._has_waited = option >= 0
        return meanwhile[option] if self._has_waited else None

    def has_waited(self) -> bool:
        """Whether something has to land now: to wait on is to wait until a later instant."""
        has_waited, self._has_waited = self._has_waited, False
        return has_waited


def _free(options: Sequence[object]) -> list[int]:
    """What is kept waiting may wait until any of them."""
    return [0] * len(options)


def _words_of_step(env: Environment, end: float) -> str:
    return f"a step takes until a time limit ends, at {end - env.begun_s:.3f} s, and reads a clock"


def _words_of_wait(env: Environment, at: float) -> str:
    return f"nothing happens until {at - env.begun_s:.3f} s, around the end of a time limit"


def is_for_a_log() -> bool:
    """Whether the clock is read for the line of a log, which decides nothing."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _room_of(frame) == "sim":
        frame = frame.f_back
    return frame is not None and _room_of(frame) == "logging"


def _room_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def is_programs(frame: FrameType) -> bool:
    """Whether a clock of the loop is read for the program, or a library, and not for its timers."""
    return _room_of(frame) not in ("asyncio", "sim")
