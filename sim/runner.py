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
import os
import selectors
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from types import FrameType
from typing import Any, NoReturn
from weakref import WeakMethod, WeakValueDictionary

import greenlet

from sim.kernel.arguments import require
from sim.kernel.between_callbacks import Costs
from sim.kernel.current import (
    Execution,
    RunningLoop,
    at_rest,
    execution_of_this_thread,
    loop_at_rest,
    os_thread,
)
from sim.kernel.entropy import Entropy
from sim.kernel.environment import SAME_S, Environment
from sim.kernel.errors import NotSimulated, Opaque, StepBrokenOff, Stuck
from sim.kernel.execution import why_stuck
from sim.kernel.guards import guarded
from sim.kernel.hashing import restart_serials, use_deterministic_scopes
from sim.kernel.isolation.audit_events import Refused
from sim.kernel.isolation.entropy import wall_clock
from sim.kernel.isolation.machine import real_cpus
from sim.kernel.loop import SimLoop
from sim.kernel.network.conditions import NOBODYS
from sim.kernel.network.network import Network
from sim.kernel.origin import forwards, modelled
from sim.kernel.refusing import NO_PROCESSES
from sim.kernel.schedule import Bounds, ChoicePoint, Named
from sim.kernel.threads.foreign import Bell, wait_while_others_work
from sim.kernel.threads.second_loops import WAITS_OUTSIDE
from sim.schedulers import NaturalOrder, RandomWalk, Scheduler
from sim.shared_network import SharedNetwork, baton, begins_run, network_of_process

HORIZON_S = 86_400.0
"""After this many virtual seconds a stand-alone loop counts as one that never ends."""

LIVELOCK_ROUNDS = 5000
"""After this many times `spin_max` iterations in a row, with nothing else to come, it is stuck."""


# Bound here: what stands there while a loop runs is another.
_pipe, _read, _close = os.pipe, os.read, os.close
_SIGNALS_MAX = 4096

_ON_STOCK = "or leave what needs it to asyncio's own loop"
_REAL_TIME_ALONE = (
    f"it waits for the world outside, where time is real, and holds up the loop; await in its "
    f"place what asyncio has for it, {_ON_STOCK}"
)
_SENTENCES_ALONE = {
    NO_PROCESSES: f"call a function in its place, {_ON_STOCK}",
    NOBODYS: (
        "no machine of the simulated network has it, and the real one is not asked; let the "
        f"suite start on 127.0.0.1 what answers there, {_ON_STOCK}"
    ),
    Refused.REAL_TIME.value: _REAL_TIME_ALONE,
    WAITS_OUTSIDE: _REAL_TIME_ALONE,
    Refused.PROCESS.value: f"a process lives in real time; patch what asks for it, {_ON_STOCK}",
    Refused.PERSON.value: f"nobody answers while the loop runs; patch it, {_ON_STOCK}",
}
"""What to use instead, for who has a loop factory or a policy and no world."""


def new_event_loop(*, seed: int | None = None, horizon_s: float = HORIZON_S) -> StandaloneLoop:
    """A loop in virtual time, without outside events: only timers, tasks and worker threads run.

    seed: of a random order; natural order without one. horizon_s: after this many virtual seconds,
    a day of them unless it is given, the loop counts as one that never ends.
    The loop's `run_forever` and `run_until_complete` raise Stuck where a loop in real time would
    hang for ever, and NotSimulated where the program asks for a socket, a process or a thread.
    """
    _require_seed(seed)
    require(horizon_s=horizon_s)
    scheduler: Scheduler = NaturalOrder() if seed is None else RandomWalk(seed)
    scheduler.next_execution()
    return StandaloneLoop(scheduler, Bounds(horizon_s=horizon_s, cpus=real_cpus()))


class _SignalPipe:
    """As asyncio has it: C writes each signal's number into it, whichever handler Python has."""

    def __init__(self) -> None:
        self._reading, self._writing = _pipe()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)

    def hear(self) -> None:
        signal.set_wakeup_fd(self._writing)

    def found(self) -> bytes:
        """The numbers of those that have come."""
        try:
            return _read(self._reading, _SIGNALS_MAX)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for end in (self._reading, self._writing):
            _close(end)


def _require_seed(seed: int | None) -> None:
    if seed is not None:
        require(seed=seed)


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
        # Polls in which nothing was done, and no time passed.
        self._polls_unwaited = 0
        # The thread of the system in which it runs, or ran last, and what wakes it there.
        self._home: int | None = None
        self._bell = Bell()
        # Once signals are waited for.
        self._signal_pipe: _SignalPipe | None = None
        # What threads that are not simulated have called; the next poll finds it.
        self._called: deque[asyncio.Handle] = deque()
        # Another loop has sent something to a socket of this one.
        self._heard = False
        # While it runs in a worker of another loop of ours, that loop: time and threads are its.
        self._host: RunningLoop | None = None
        restart_serials()
        use_deterministic_scopes()
        super().__init__(Environment(), self._answer, bounds)
        # A suite has its own seed.
        self._entropy = Entropy(self.environment, None, wall_clock())

    def _answer(self, kind: str, options: Sequence[Named], costs: Costs) -> int:
        now = self.environment.now
        return self._scheduler.choose(ChoicePoint(next(self._points), kind, options, now, costs))

    def _wait(self) -> None:
        self._spin_rounds = self._polls_unwaited = 0
        super()._wait()

    def _spin_on(self) -> None:
        # An execution is short, and spins because something went wrong. A suite may have a test
        # that takes ten thousand steps at one instant.
        self._spin_rounds += 1
        is_more_to_come = self._scheduled or self.environment.pending or self._note_wait_for_clock()
        if self._spin_rounds > LIVELOCK_ROUNDS or is_more_to_come:
            super()._spin_on()
        else:
            self.environment.spins = 0

    # BaseEventLoop's own, which the type stubs leave out.
    _check_closed: Callable[[], None]
    _check_callback: Callable[[object, str], None]

    # -- its life

    def run_forever(self) -> None:
        """Runs until `stop`. Raises Stuck if nothing can happen any more."""
        # It may be another thread, or greenlet, than the one that made the loop.
        self._home = os_thread()
        execution = execution_of_this_thread()
        if execution is not None and execution.loop.threads.current is not None:
            with self._as_guest_of(execution.loop):
                super().run_forever()
            return
        with baton.held():
            self._run_here()
        self._raise_stuck()

    def _run_here(self) -> None:
        self._home = home = os_thread()
        self.threads.hub = greenlet.getcurrent()
        # Times that were read before the run are earlier than those read in it.
        self._entropy.keep_up_with(wall_clock())
        at_rest.pop(home, None)
        with guarded(beside_others=True), self._as_current(), self._on_shared_network():
            super().run_forever()
            if self.stuck is None and self.threads.workers:
                self.threads.go_on_without_loop()
        if self.threads.workers:
            at_rest[home] = WeakMethod(self._going_on)

    # -- sockets

    @property
    def network(self) -> Network:
        """One for all loops of the process that stand alone."""
        if self._network is None:
            is_guest = self._host is not None
            self._network = Network(self) if is_guest else network_of_process(self)
        return self._network

    @contextmanager
    def _on_shared_network(self) -> Iterator[None]:
        self._network = begins_run(self) or self._network
        try:
            yield
        finally:
            if isinstance(self._network, SharedNetwork):
                self._network.ends_run(self)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        # It may have been made while another loop ran.
        self.network.open_by_fd[key.fd].loop = self
        return key

    def hears(self) -> None:
        """Something was sent to it, in another thread."""
        self._heard = True
        self._bell.ring()

    def _write_to_self(self) -> None:
        super()._write_to_self()
        self._bell.ring()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Within the block its threads go on, and it does not: its thread waits for one of them."""
        with suppress(StepBrokenOff), guarded(beside_others=True), self._as_current():
            yield
        self._stopping = False
        self._raise_stuck()

    def _raise_stuck(self) -> None:
        stuck, self.stuck = self.stuck, None
        if stuck is not None:
            raise modelled(Stuck(f"{stuck[0].value}: {why_stuck(self, stuck)}"))

    @forwards
    def run_until_complete(self, future: Any) -> Any:
        """As asyncio's. Raises NotSimulated if something was refused meanwhile.

        The program may have caught that, and ended otherwise than it does on asyncio's own loop.
        """
        try:
            result = super().run_until_complete(future)
        except NotSimulated:
            self.refused = None
            raise
        except Exception as exc:
            self._raise_refused(exc)
            raise
        self._raise_refused(None)
        return result

    def _raise_refused(self, ended_with: Exception | None) -> None:
        refused, self.refused = self.refused, None
        if refused is not None:
            raise NotSimulated(refused) from ended_with

    def stop(self) -> None:
        """As asyncio's, which calls it at the end of each `run_until_complete`."""
        self.end_run()

    def close(self) -> None:
        for sig in [*(self._signal_handlers or ())]:
            self.remove_signal_handler(sig)
        # Its workers can be ended by no other thread than that which they are greenlets of.
        if not self.is_closed() and not self.is_running() and self._home in (None, os_thread()):
            with self._as_current():
                self.threads.drain()
            if loop_at_rest() == self._going_on:
                del at_rest[os_thread()]
        if isinstance(self._network, SharedNetwork) and not self.is_closed():
            self._network.loop_closes(self)
        super().close()
        self.is_over = True

    def canonical_state(self) -> NoReturn:
        """Of a loop within another's execution: what others have called, say, lies outside."""
        raise Opaque("a loop of its own in a thread", "let the thread do without one")

    def _as_current(self) -> Execution:
        # A suite may have long steps.
        return Execution(self, self._entropy, is_watched=False, is_alone=True)

    # -- in a worker of another loop

    @contextmanager
    def _as_guest_of(self, host: RunningLoop) -> Iterator[None]:
        own = self.environment, self.threads
        self._host = host
        self._live_in(host.environment)
        self.threads = host.threads
        try:
            yield
        finally:
            own[0].advance(host.environment.now)
            self._live_in(own[0])
            self.threads, self._host = own[1], None

    def _live_in(self, environment: Environment) -> None:
        """From now on its clock is that one, and its timers are due as much later as before."""
        shift = environment.now - self.environment.now
        for timer in self._scheduled:
            timer._when += shift  # type: ignore[attr-defined]
        self.environment = environment
        self.time = environment.read_clock  # type: ignore[method-assign]

    def select(self, timeout: float | None) -> Sequence[object]:
        self._find_signals()
        while self._called:
            self._ready.append(self._called.popleft())
        if self._host is None:
            baton.pass_on()
            return () if self._is_told_not_to_wait(timeout) else super().select(timeout)
        if not self._ready and (timeout is None or timeout > 0):
            self._is_told = False
            self.threads.block_until("select", self._is_woken, timeout)
        else:
            self.threads.pause("select")
        return ()

    def _is_woken(self) -> bool:
        self._find_signals()
        return self._is_told or bool(self._called)

    def _is_told_not_to_wait(self, timeout: float | None) -> bool:
        """By a wrapper of the selector's, which has a clock of its own, and moves that."""
        if timeout != 0 or self._ready or self._stopping or not self._scheduled:
            return False
        if self._next_deadline() - self.environment.now < SAME_S:
            return False
        self._polls_unwaited += 1
        return self._polls_unwaited < LIVELOCK_ROUNDS

    def refuse(self, what: str, instead: str) -> NoReturn:
        if self._host is not None:
            # It is the host's execution that goes another way.
            self._host.refuse(what, instead)
        super().refuse(what, _SENTENCES_ALONE.get(instead, instead))

    # -- signals of the system, which may come from anywhere: a suite's thread, a shell

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        super().add_signal_handler(sig, callback, *args)
        if self._signal_pipe is None:
            self._signal_pipe = _SignalPipe()
        self._signal_pipe.hear()
        signal.signal(sig, self._on_signal)

    def remove_signal_handler(self, sig: int) -> bool:
        was_there = super().remove_signal_handler(sig)
        if was_there and not sys.is_finalizing():
            # As asyncio does.
            is_interrupt = sig == signal.SIGINT
            signal.signal(sig, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
        if self._signal_pipe is not None and not self._signal_handlers:
            self._signal_pipe.close()
            self._signal_pipe = None
        return was_there

    def _is_in_other_thread(self) -> bool:
        return super()._is_in_other_thread() or os_thread() != threading.main_thread().ident

    def _on_signal(self, sig: int, frame: FrameType | None) -> None:
        """In the midst of whatever the main thread runs: what waits looks into the pipe."""
        self._bell.ring()

    def _find_signals(self) -> None:
        if self._signal_pipe is not None:
            for sig in self._signal_pipe.found():
                self._called.append(asyncio.Handle(self._handle_signal, (sig,), self, None))

    # -- threads of the system, which are not simulated

    def others_come(self, is_so: Callable[[], bool], until: float) -> bool:
        def have_come() -> bool:
            self._find_signals()
            runnable = self.threads.runnable()
            return (
                bool(self._called)
                or self._heard
                or is_so()
                or any(not each.was_kept for each in runnable)
            )

        environment = self.environment
        with baton.given_away():
            waited_s = wait_while_others_work(self._bell, have_come, until - environment.now)
        if waited_s:
            environment.advance(min(until, environment.now + waited_s))
        come, self._heard = have_come(), False
        while self._called:
            self._ready.append(self._called.popleft())
        return come

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
        self._check_closed()
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
        is_foreign = os_thread() != self._home
        if not is_foreign and self.threads.current is not None:
            self.threads.pause("call_soon_threadsafe")
        self._check_closed()
        if not is_foreign:
            return self.call_from_thread(callback, args, context)
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        # What it read of its clock is earlier than what the loop reads from now on.
        self._entropy.keep_up_with(wall_clock())
        handle = asyncio.Handle(callback, args, self, context)
        self._called.append(handle)
        self._bell.ring()
        return handle


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
        _require_seed(seed)
        require(horizon_s=horizon_s)
        self._seed = seed
        self._horizon_s = horizon_s
        self._loops = itertools.count()

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        number = next(self._loops)
        seed = None if self._seed is None else self._seed + number
        return new_event_loop(seed=seed, horizon_s=self._horizon_s)
