"""A loop and an environment that report to an observer what happens in them.

An execution without an observer has the plain ones, and no overhead.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import simpy

from sim.kernel.between_callbacks import Choose
from sim.kernel.diagnosis import place_of_frame, programs_frame
from sim.kernel.environment import Arrival, Environment
from sim.kernel.hosts.process_loop import ProcessEnvironment, ProcessLoop
from sim.kernel.loop import SimLoop
from sim.kernel.notices import Special
from sim.kernel.observer import Observer
from sim.kernel.origin import forwards
from sim.kernel.schedule import Bounds
from sim.kernel.threads.workers import Threads, Worker
from sim.kernel.timers_of_no_number import is_number


class ObservedEnvironment(Environment):
    def __init__(self, observer: Observer, begun_s: float = 0.0) -> None:
        super().__init__(begun_s)
        self.observer = self._observer = observer

    def advance(self, to: float) -> None:
        self._observer.advances(to)
        super().advance(to)

    def announce(
        self,
        name: str,
        earliest_s: float = 0.0,
        latest_s: float = math.inf,
        is_awaited: Callable[[], bool] = lambda: True,
    ) -> Arrival:
        arrival = super().announce(name, earliest_s, latest_s, is_awaited)
        self._observer.announced(arrival)
        return arrival

    def land(self, arrival: Arrival) -> None:
        self._observer.lands(arrival)
        super().land(arrival)

    def schedule(self, event: simpy.Event, *args: Any, **options: Any) -> None:
        if not isinstance(event, Arrival):
            self.observer.meets(Special.SIMPY_PROCESSES)
        super().schedule(event, *args, **options)


class ObservedThreads(Threads):
    loop: ObservedLoop

    def step(self, worker: Worker) -> None:
        observer = self.loop._observer
        observer.thread_goes_on(worker)
        super().step(worker)
        observer.thread_stands(worker)

    def must_go_on(self, worker: Worker) -> bool:
        """Each step is observed."""
        return False


class ObservedLoop(SimLoop):
    def __init__(self, observer: Observer, choose: Choose, bounds: Bounds) -> None:
        self._observer = observer
        super().__init__(self._new_environment(observer, bounds), choose, bounds)
        self.threads = ObservedThreads(self)

    def _new_environment(self, observer: Observer, bounds: Bounds) -> Environment:
        return ObservedEnvironment(observer, bounds.clock_s)

    def select(self, timeout: float | None) -> Sequence[object]:
        self._observer.poll_begins()
        found = super().select(timeout)
        self._observer.poll_ends()
        return found

    @forwards
    def _call_soon(self, callback: Any, args: Any, context: Any) -> asyncio.Handle:
        """What CPython's `call_soon` and `call_soon_threadsafe` end in."""
        self._observer.scheduled(callback)
        self._note_thread()
        handle: asyncio.Handle = super()._call_soon(callback, args, context)  # type: ignore[misc]
        return handle

    def _add_callback(self, handle: asyncio.Handle) -> None:
        """What CPython calls for a descriptor that is ready."""
        self._observer.scheduled(handle._callback)  # type: ignore[attr-defined]
        super()._add_callback(handle)  # type: ignore[misc]

    @forwards
    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        if is_number(when):
            self._observer.armed(timer)
        self._note_thread()
        return timer

    def _note_thread(self) -> None:
        if self.threads.current is not None:
            frame = programs_frame(sys._getframe(2))
            self.touched_in = None if frame is None else place_of_frame(frame)

    def create_future(self) -> asyncio.Future[Any]:
        return self._observer.new_future(self)

    @forwards
    def new_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        return self._observer.new_task(self, coro, **options)

    def let_go(self) -> None:
        self._observer = self.environment.observer = Observer()
        super().let_go()

    def about_to_run(self, handle: asyncio.Handle) -> None:
        super().about_to_run(handle)
        if not handle.cancelled():
            self._observer.runs(handle)


class ObservedProcessEnvironment(ProcessEnvironment, ObservedEnvironment):
    """That of a process."""


class ObservedProcessLoop(ProcessLoop, ObservedLoop):
    def _new_environment(self, observer: Observer, bounds: Bounds) -> Environment:
        return ObservedProcessEnvironment(observer)
