"""A stand-alone simulated loop, for programs and suites that bring their own `asyncio.run`.

    asyncio.run(main(), loop_factory=new_event_loop)        # CPython 3.12 and later
    asyncio.set_event_loop_policy(EventLoopPolicy())        # any, deprecated by asyncio since 3.14

Time is virtual and natural order is kept, or, with a seed, a random order that CPython could have
produced. While the loop runs, the guards of an execution are on; before and after it, the process
is as it was. Randomness is left to the caller, whose suite may have seeded it.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import warnings
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any
from weakref import WeakValueDictionary

import greenlet

from sim.kernel.current import Execution, execution_of_this_thread, running
from sim.kernel.entropy import Entropy
from sim.kernel.environment import Environment
from sim.kernel.errors import Stuck
from sim.kernel.execution import guarded, why_stuck
from sim.kernel.hashing import restart_serials, use_deterministic_scopes
from sim.kernel.isolation.entropy import wall_clock
from sim.kernel.loop import NO_FOREIGN_THREADS, Costs, SimLoop
from sim.kernel.origin import forwards, modelled
from sim.kernel.schedule import Bounds, ChoicePoint, Named
from sim.schedulers import NaturalOrder, RandomWalk, Scheduler

HORIZON_S = 86_400.0
"""After this many virtual seconds a stand-alone loop counts as one that never ends."""

LIVELOCK_ROUNDS = 5000
"""After this many times `spin_max` iterations in a row, with nothing else to come, it is stuck."""


def new_event_loop(*, seed: int | None = None, horizon_s: float = HORIZON_S) -> StandaloneLoop:
    """A loop in virtual time, without outside events: only timers, tasks and worker threads run.

    seed: of a random order; natural order without one. horizon_s: see HORIZON_S.
    The loop's `run_forever` and `run_until_complete` raise Stuck where a loop in real time would
    hang for ever, and NotSimulated where the program asks for a socket, a process or a thread.
    """
    scheduler: Scheduler = NaturalOrder() if seed is None else RandomWalk(seed)
    scheduler.next_execution()
    return StandaloneLoop(scheduler, Bounds(horizon_s=horizon_s))


class StandaloneLoop(SimLoop):
    """A SimLoop that its owner runs, as often as it likes, and closes."""

    def __init__(self, scheduler: Scheduler, bounds: Bounds) -> None:
        self._scheduler = scheduler
        self._points = itertools.count()
        self._serials = itertools.count(1)
        # Weak, as in asyncio: this loop may run for as long as the process, and must not keep tasks
        # alive that the program has dropped.
        self._weak_tasks: WeakValueDictionary[int, asyncio.Task[Any]] = WeakValueDictionary()
        self._tasks_made = itertools.count()
        self._spin_rounds = 0
        self._home = threading.get_ident()
        # So that times that were read before the run are earlier than those read in it.
        self._epoch_s = wall_clock()
        restart_serials()
        use_deterministic_scopes()
        super().__init__(Environment(), self._answer, bounds)

    def _answer(self, kind: str, options: Sequence[Named], costs: Costs) -> int:
        now = self.environment.now
        return self._scheduler.choose(ChoicePoint(next(self._points), kind, options, now, costs))

    def _wait(self) -> None:
        self._spin_rounds = 0
        super()._wait()

    def _spin_on(self) -> None:
        # An execution is short, and spins because something went wrong. A suite may have a test
        # that takes ten thousand steps at one instant.
        self._spin_rounds += 1
        if self._spin_rounds > LIVELOCK_ROUNDS or self._scheduled or self.environment.pending:
            super()._spin_on()
        else:
            self.spins = 0

    # -- its life

    def run_forever(self) -> None:
        """Runs until `stop`. Raises Stuck if nothing can happen any more."""
        # It may be another thread, or greenlet, than the one that made the loop.
        self._home = threading.get_ident()
        self.threads.hub = greenlet.getcurrent()
        with guarded(), self._as_current():
            super().run_forever()
        stuck, self.stuck = self.stuck, None
        if stuck is not None:
            raise modelled(Stuck(f"{stuck[0].value}: {why_stuck(self, stuck)}"))

    def close(self) -> None:
        if not self.is_closed() and not self.is_running():
            with self._as_current():
                self.threads.drain()
        super().close()

    def _as_current(self) -> AbstractContextManager[None]:
        # A suite may have long steps, and its own seed.
        entropy = Entropy(self.environment, None, self._epoch_s)
        return running(Execution(self, entropy, is_watched=False))

    # -- where asyncio checks more than an execution needs

    def next_task_name(self) -> str:
        return f"Task-{next(self._serials)}"

    @forwards
    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        if self.is_closed():
            raise modelled(RuntimeError("Event loop is closed"))
        return super().create_task(coro, name=name, context=context, **options)

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        return list(self._weak_tasks.values())

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._weak_tasks[next(self._tasks_made)] = task

    @forwards
    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.threads.current is not None:
            self.threads.pause("call_soon_threadsafe")
        elif threading.get_ident() != self._home:
            self.refuse("call_soon_threadsafe from a foreign thread", NO_FOREIGN_THREADS)
        if self.is_closed():
            raise modelled(RuntimeError("Event loop is closed"))
        return self.call_from_thread(callback, args, context)


def _default_policy() -> Any:
    """asyncio's own. Only setting a policy may warn, since 3.14, and not that this file has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return asyncio.DefaultEventLoopPolicy


class EventLoopPolicy(_default_policy()):  # type: ignore[misc]
    """asyncio's own policy, whose loops are simulated.

    Since 3.14 asyncio deprecates policies: `new_event_loop` as a loop factory serves as well.

    With a seed, the n-th loop has the seed `seed + n`, so that a suite of many tests sees many
    orders and the same ones in each run.
    """

    def __init__(self, *, seed: int | None = None, horizon_s: float = HORIZON_S) -> None:
        super().__init__()
        self._seed = seed
        self._horizon_s = horizon_s
        self._loops = itertools.count()

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        execution = execution_of_this_thread()
        if execution is not None and execution.loop.threads.current is not None:
            # In a worker of a loop of ours, whose time it is to share: see threads/second_loops.py.
            return asyncio.SelectorEventLoop()
        number = next(self._loops)
        seed = None if self._seed is None else self._seed + number
        return new_event_loop(seed=seed, horizon_s=self._horizon_s)
