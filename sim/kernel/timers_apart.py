"""Timers that are due in one instant, and fire in different iterations or in another order.

No virtual time passes in a step, so two timers of 0.1 s that two steps of one iteration arm are due
together, and so are 0.1 s + 0.1 s and 0.2 s. On stock each reading of the clock by which one is
armed is later than the last, by as much as the steps between take, and a loop that wakes for the
first may find the second not due. And where nothing says which of two readings was the later beside
what it should have been, the second may come first: a chain of two sleeps is late by what its first
one was, and a sleep by what the step took before it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from sim.kernel.environment import READING_S, SAME_S
from sim.kernel.isolation.as_it_is import attribute_of, is_a, name_of, owner_of

_MAKES_DEADLINE = asyncio.timeout.__code__
"""It reads the clock, and what it makes of that is armed later, if at all."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One of the clock, from which asyncio has computed when a timer is due.

    before: for each instant the number of its last reading that was no later, as far as it must:
    by more than it should have been, each of them was late by no more than this one.
    """

    instant: int
    number: int
    before: dict[int, int]

    def must_follow(self, other: _Reading) -> bool:
        if self.instant == other.instant:
            return self.number > other.number
        return self.before.get(other.instant, 0) >= other.number


@dataclass(frozen=True, slots=True)
class _Armed:
    """A timer. reading: None where the program has computed when it is due."""

    timer: asyncio.TimerHandle
    reading: _Reading | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What fires in the place of all: some, and the rest later or, if `together`, behind them."""

    name: str
    first: list[asyncio.TimerHandle]
    together: bool


def are_near(scheduled: list[Any]) -> bool:
    """Whether more than one timer is due next; called most, with the heap of a loop.

    Its second and third are the children of its first.
    """
    if len(scheduled) < 2:
        return False
    soonest = scheduled[0]._when + SAME_S
    return scheduled[1]._when <= soonest or (len(scheduled) > 2 and scheduled[2]._when <= soonest)


def meet(scheduled: list[asyncio.TimerHandle]) -> bool:
    """Whether they have been armed by more than one reading of the clock."""
    return len(_moments(scheduled)) > 1


def _moments(scheduled: Iterable[asyncio.TimerHandle]) -> list[list[asyncio.TimerHandle]]:
    """The timers that are due next, in their order; those of one reading together."""
    moments: list[list[asyncio.TimerHandle]] = []
    last = 0.0
    for timer in sorted(scheduled, key=asyncio.TimerHandle.when):
        if timer.cancelled():
            continue
        if moments and timer.when() - last > SAME_S:
            break
        if not moments or timer.when() - last > READING_S / 2:
            moments.append([])
        moments[-1].append(timer)
        last = timer.when()
    return moments


class TimersApart:
    """Those of a loop that lets them come apart."""

    def __init__(self) -> None:
        self._armed: dict[int, _Armed] = {}
        self._instant, self._number = 0, 0
        self._before: dict[int, int] = {}
        # The deadlines of `asyncio.timeout`, by which it arms its timer.
        self._made: dict[float, _Reading] = {}

    def reads(self, reading: float, frame: FrameType) -> None:
        """The clock is read by this frame."""
        if frame.f_code is _MAKES_DEADLINE:
            self._made[reading + frame.f_locals["delay"]] = self._read()

    def armed(self, timer: asyncio.TimerHandle, frame: FrameType) -> None:
        """By `call_at` in this frame."""
        self._number += 1
        caller = frame.f_globals.get("__name__"), frame.f_code.co_name
        is_delay = caller == ("asyncio.base_events", "call_later")
        reading = self._read() if is_delay else self._made.get(timer.when())
        self._armed[id(timer)] = _Armed(timer, reading)

    def _read(self) -> _Reading:
        self._number += 1
        return _Reading(self._instant, self._number, self._before)

    def wakes(self, scheduled: list[asyncio.TimerHandle], to: float) -> None:
        """The clock goes on to this instant: its readings are no earlier than what is due there."""
        before: dict[int, int] = {}
        for timer in scheduled:
            armed = self._armed.get(id(timer))
            if armed is not None and not timer.cancelled() and timer.when() <= to:
                for instant, number in self._no_later(armed.reading):
                    before[instant] = max(number, before.get(instant, 0))
        self._before = before
        self._instant += 1
        scheduled_now = {id(timer) for timer in scheduled}
        self._armed = {key: each for key, each in self._armed.items() if key in scheduled_now}

    def _no_later(self, reading: _Reading | None) -> Iterable[tuple[int, int]]:
        """What the readings after a timer have to follow; all that there were if it is not told."""
        if reading is None:
            return ((instant, self._number) for instant in range(self._instant + 1))
        return (*reading.before.items(), (reading.instant, reading.number))

    def turns(self, scheduled: list[asyncio.TimerHandle]) -> list[Turn]:
        """All that may happen, but that all fire together in their order."""
        moments = _moments(scheduled)
        turns = []
        for count in range(1, len(moments)):
            first = [timer for moment in moments[:count] for timer in moment]
            turns.append(Turn(f"{_words(first)}, and later the others", first, together=False))
        for at in range(1, len(moments)):
            if self._may_lead(moments[at], moments[:at]):
                words = _words(moments[at])
                turns.append(Turn(f"{words} first, and later the others", moments[at], False))
                turns.append(Turn(f"{words} first, before the others", moments[at], True))
        return turns

    def _may_lead(
        self, moment: list[asyncio.TimerHandle], others: list[list[asyncio.TimerHandle]]
    ) -> bool:
        mine = self._readings([moment])
        theirs = self._readings(others)
        return all(
            reading is not None and other is not None and not reading.must_follow(other)
            for reading in mine
            for other in theirs
        )

    def _readings(self, moments: list[list[asyncio.TimerHandle]]) -> list[_Reading | None]:
        armed = [self._armed.get(id(timer)) for moment in moments for timer in moment]
        return [None if each is None else each.reading for each in armed]


def take(turn: Turn, scheduled: list[asyncio.TimerHandle]) -> None:
    """The timers that are not first are due later, in the same order."""
    moments = _moments(scheduled)
    later = max(timer.when() for timer in turn.first) + 2 * SAME_S
    if turn.together:
        later = moments[-1][-1].when()
    for moment in moments:
        others = [timer for timer in moment if timer not in turn.first]
        later += READING_S
        for timer in others:
            timer._when = later  # type: ignore[attr-defined]
    heapq.heapify(scheduled)


def _words(timers: list[asyncio.TimerHandle]) -> str:
    names = list(dict.fromkeys(map(name_of_timer, timers)))
    return " and ".join(names[:3]) + " and more" * (len(names) > 3)


def name_of_timer(timer: asyncio.TimerHandle) -> str:
    """Whose timer it is, as far as that is easily told."""
    callback: Any = timer._callback  # type: ignore[attr-defined]
    args: Any = timer._args or ()
    owner = owner_of(callback)
    task = attribute_of(owner, "_task")
    for waits in args[0]._callbacks or () if args and is_a(args[0], asyncio.Future) else ():
        task = owner_of(waits[0])
    if isinstance(task, asyncio.Task):
        return f"the timer of {task.get_name()}"
    return f"the timer of {name_of(callback)}"
