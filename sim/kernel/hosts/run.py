"""One run of a process, from its start to its end: an actor with a loop of its own.

It is a greenlet, and is switched away where its loop would sleep in its selector. So between two
turns nothing of it is on a stack but CPython's loop: all that it will do is in its loop, as with a
program that has no processes.
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from asyncio import runners
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import greenlet

from sim.kernel.current import Execution
from sim.kernel.entropy import Entropy
from sim.kernel.environment import SAME_S
from sim.kernel.interrupts import is_interrupt
from sim.kernel.loop import SimLoop
from sim.kernel.origin import forwards, is_modelled
from sim.kernel.threads.identity import ThreadIdentity
from sim.kernel.threads.line_tracing import set_trace
from sim.kernel.threads.local_values import here
from sim.kernel.threads.workers import swap_running, switch_to

if TYPE_CHECKING:
    from sim.kernel.environment import Environment
    from sim.kernel.hosts.clock import HostClock


class How(Enum):
    RETURNED = "it returned"
    RAISED = "it raised"
    CRASHED = "it crashed"
    KILLED = "a signal ended it"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended. value: what its main returned; raised: what it raised."""

    how: How
    value: Any = None
    raised: BaseException | None = None


@dataclass(frozen=True, slots=True)
class FaultOfHost:
    """What may happen to a process, or to its host. name: in words."""

    name: str
    happen: Callable[[], None]


By = str | int
BY_PROGRAM = "the program"
"""Who has frozen a host, or paused a process: the program, or the fault of that number. Each ends
its own alone.
"""


class Stands(Enum):
    """Where a run stands while others go on. In a step, its state is on its stack, too."""

    NOT_BEGUN = "it has not begun"
    BEFORE_POLL = "it has callbacks, and another goes first"
    AFTER_POLL = "it has callbacks, and is to run them"
    BEFORE_SLEEP = "it has no callbacks, and is to sleep"
    ASLEEP = "its loop sleeps"
    IN_STEP = "it is in the middle of a callback, or spins"


class Hub(Protocol):
    """Who gives the turns: see hub.py."""

    greenlet: greenlet.greenlet

    @property
    def is_ending(self) -> bool: ...

    def ended(self, run: Run, end: Exit) -> None: ...


class Run:
    """wakes_at: by its own clock, when it goes on of itself; before all times while it only let
    others go first. is_woken: something has come for it. spins: it is not to be run before
    something else has happened.
    """

    def __init__(
        self,
        hub: Hub,
        name: str,
        pid: int,
        clock: HostClock,
        begin: Callable[[], Coroutine[Any, Any, object]],
    ) -> None:
        self.hub, self.name, self.pid, self.clock = hub, name, pid, clock
        self._begin = begin
        # By which the network finds its machine.
        self.host_name = ""
        self.loop: SimLoop
        self.environment: Environment
        self.entropy: Entropy
        self.is_over = False
        # Who has paused it; it stands still while anybody has.
        self.paused_by: set[By] = set()
        self.wakes_at = -math.inf
        self.waits_for: Callable[[], bool] | None = None
        self.is_woken = self.spins = False
        self.stands = Stands.NOT_BEGUN
        # It has changed its host's disk in this turn: another process of that host may see it.
        self.has_used_disk = False
        # What may happen to it now.
        self.faults: Callable[[], Sequence[FaultOfHost]] = tuple
        # What is called when it ends, in whatever way: its sockets are reset.
        self.at_end: list[Callable[[], None]] = []
        self.greenlet = greenlet.greenlet(self._live, parent=hub.greenlet)
        self.greenlet.gr_context = Context()
        self._inner: tuple[Any, Any] = (None, None)
        self._asyncgen_hooks: Any = (None, None)
        # Which of its threads its turn ended in, another than its main one where a fault has met
        # that; and by what its lines are followed.
        self._thread: ThreadIdentity | None = None
        self._trace: Any = None

    @property
    def is_paused(self) -> bool:
        return bool(self.paused_by)

    def is_runnable(self, world_s: float) -> bool:
        if self.is_paused or self.clock.stands or self.spins:
            return False
        if self.is_woken or (self.waits_for is not None and self.waits_for()):
            return True
        # Instants that are nearer count as one.
        return self.clock.world(self.wakes_at) <= world_s + SAME_S

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, but for its loop and its clock."""
        if self.is_over:
            return self.name, self.pid
        return (
            (self.name, self.pid, self.stands, self.is_woken, self.spins),
            sorted(map(str, self.paused_by)),
            (self.has_used_disk, self.wakes_at, self.at_end),
        )

    def next_wake(self) -> float:
        """When it goes on of itself, in world time."""
        if self.is_paused or self.clock.stands:
            return math.inf
        return self.clock.world(self.wakes_at)

    def go_on(self, execution: Execution, go_on: Callable[[], object]) -> None:
        """Calls it while what belongs to a process of the system is this one's."""
        outer = execution.loop, execution.entropy
        outer_hooks = sys.get_asyncgen_hooks()
        outer_running = swap_running(self._inner)
        outer_thread, outer_trace = here.identity, sys.gettrace()
        execution.loop, execution.entropy = self.loop, self.entropy
        sys.set_asyncgen_hooks(*self._asyncgen_hooks)
        if self._thread is not outer_thread:
            switch_to(self._thread)
        set_trace(self._trace or outer_trace)
        try:
            go_on()
        finally:
            own_trace = sys.gettrace()
            self._trace = own_trace if own_trace is not outer_trace else None
            set_trace(outer_trace)
            self._thread = here.identity
            if self._thread is not outer_thread:
                switch_to(outer_thread)
            execution.loop, execution.entropy = outer
            self._inner = swap_running(outer_running)
            self._asyncgen_hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(*outer_hooks)

    def let_go(self) -> None:
        """After the execution: breaks reference cycles."""
        del self.greenlet, self.loop, self.environment, self.entropy
        self.at_end.clear()
        self.faults = tuple

    # -- in its own greenlet

    def wait(self, stands: Stands, until: float, waits_for: Callable[[], bool] | None) -> bool:
        """Others go on, until its clock shows that (False), or something has come for it."""
        self.stands = stands
        self.wakes_at, self.waits_for, self.is_woken = until, waits_for, False
        self.hub.greenlet.switch()
        has_come = self.is_woken or (waits_for is not None and waits_for())
        self.wakes_at, self.waits_for = -math.inf, None
        return has_come

    def leave(self) -> NoReturn:
        """It never goes on."""
        while True:
            self.hub.greenlet.switch()

    def _live(self) -> None:
        end = self._run_main()
        if self.is_over or self.hub.is_ending:
            self.leave()
        self.hub.ended(self, end)

    @forwards
    def _run_main(self) -> Exit:
        """What `asyncio.run` does."""
        loop = self.loop
        try:
            coroutine = self._begin()
        except Exception as exc:
            return self._raised(exc)
        task = loop.main_task = loop.create_task(coroutine, name="main")
        task.add_done_callback(_stop_loop)
        end = self._run_until_stopped(task)
        if self.hub.is_ending:
            return end
        loop.is_shutting_down = True
        try:
            runners._cancel_all_tasks(loop)  # type: ignore[attr-defined]
            # Not where they have nothing to do: each poll is one at which the process may crash.
            if loop._asyncgens:
                loop.run_until_complete(loop.shutdown_asyncgens())
            if loop._default_executor is not None:
                loop.run_until_complete(loop.shutdown_default_executor())
        except RuntimeError:
            # The execution ends meanwhile, so that its loop was stopped.
            if not self.hub.is_ending:
                raise
            return end
        loop.close()
        # What it leaves open its system closes.
        loop.forget_network()
        return end

    def _raised(self, raised: BaseException) -> Exit:
        self.loop.close()
        return Exit(How.RAISED, raised=raised)

    def _run_until_stopped(self, task: asyncio.Task[Any]) -> Exit:
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as exc:
            if is_interrupt(exc):
                raise
            if exc is self.loop.raised_by_handler and self.loop.interrupts:
                return Exit(How.KILLED, signal.SIGINT)
            is_well = isinstance(exc, SystemExit) and exc.code in (None, 0)
            return Exit(How.RETURNED) if is_well else Exit(How.RAISED, raised=exc)
        except Exception as exc:
            if is_modelled(exc):
                return Exit(How.RAISED, raised=exc)
            raise
        if not task.done():
            return Exit(How.RAISED, raised=RuntimeError(_STOPPED))
        if task.cancelled() and self.loop.ends_by_interrupt():
            return Exit(How.KILLED, signal.SIGINT)
        if task.cancelled():
            return Exit(How.RAISED, raised=asyncio.CancelledError())
        raised = task.exception()
        if raised is not None:
            return Exit(How.RAISED, raised=raised)
        return Exit(How.RETURNED, task.result())


def _stop_loop(main: asyncio.Task[Any]) -> None:
    """What asyncio's `run_until_complete` does once its task is done."""
    ended_loop = not main.cancelled() and isinstance(
        main.exception(), SystemExit | KeyboardInterrupt
    )
    if not ended_loop:
        loop: Any = main.get_loop()
        loop.end_run()


_STOPPED = "Event loop stopped before Future completed."
