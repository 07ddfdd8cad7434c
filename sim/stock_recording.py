"""What has to be known of a traced execution to force it on stock asyncio: its polls.

An execution is determined by what each poll of the loop finds and by how late it is when it
returns, and by the answers of `World.choose`; the rest is CPython's own code, there as here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from sim.determinism import SimFuture
from sim.environment import Arrival, Environment
from sim.schedule import Named

Found = float | tuple[int, str] | None
"""The clock jumps to a reading; the n-th announced outside event, of this name, lands; or, None,
nothing more comes before the horizon."""


@dataclass(slots=True)
class Recording:
    """polls: what the polls found, in order, by the number of the poll from 1 on, where they found
    anything. polls_count: how many there were. choices: the answers of `World.choose`, as option
    and its index. steps_count: how many callbacks had joined the ready queue when it was over.
    obstacles: why it cannot be forced on a stock loop.
    """

    polls: dict[int, list[Found]] = field(default_factory=dict)
    polls_count: int = 0
    choices: list[tuple[str, int]] = field(default_factory=list)
    steps_count: int = 0
    hashes_futures: bool = False
    obstacles: list[str] = field(default_factory=list)
    is_polling: bool = False
    # What comes after the end, the draining, is no part of it.
    is_over: bool = False

    def begin_poll(self) -> None:
        if not self.is_over:
            self.polls_count += 1
            self.is_polling = True

    def end_poll(self) -> None:
        self.is_polling = False

    def find(self, found: Found) -> None:
        if not self.is_polling:
            self.obstruct("the loop's own thread sleeps between two polls")
        elif not self.is_over:
            self.polls.setdefault(self.polls_count, []).append(found)

    def choose(self, kind: str, options: Sequence[Named], option: int) -> None:
        if self.is_over:
            return
        if kind == "program":
            self.choices.append((options[option].name, option))
        elif kind == "cancel" and option:
            self.obstruct("a task is cancelled between two callbacks, by offer_cancels")

    def obstruct(self, obstacle: str) -> None:
        if not self.is_over and obstacle not in self.obstacles:
            self.obstacles.append(obstacle)

    def end(self, steps_count: int) -> None:
        self.steps_count = steps_count
        self.is_over = True


class RecordedEnvironment(Environment):
    """Writes down what lands, and each jump of the clock."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording
        self._serials: dict[Arrival, int] = {}

    def obstruct(self, obstacle: str) -> None:
        self._recording.obstruct(obstacle)

    def announce(
        self,
        name: str,
        earliest_s: float = 0.0,
        latest_s: float = math.inf,
        is_awaited: Callable[[], bool] = lambda: True,
    ) -> Arrival:
        arrival = super().announce(name, earliest_s, latest_s, is_awaited)
        self._serials[arrival] = len(self._serials) + 1
        return arrival

    def land(self, arrival: Arrival) -> None:
        self._recording.find((self._serials[arrival], arrival.name))
        super().land(arrival)

    def advance(self, to: float) -> None:
        if to > self.now:
            self._recording.find(to)
        super().advance(to)

    def schedule(self, event: simpy.Event, *args: Any, **kwargs: Any) -> None:
        if not isinstance(event, Arrival):
            self._recording.obstruct("it has SimPy processes of its own, which land without a poll")
        super().schedule(event, *args, **kwargs)


class RecordedFuture(SimFuture):
    """Tells whether it was ever hashed: whether the order of a set hangs on it."""

    recording: Recording

    def __hash__(self) -> int:
        self.recording.hashes_futures = True
        return super().__hash__()
