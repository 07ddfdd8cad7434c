"""SimLoop: CPython's own event loop, with SimPy where the selector and the clock stand.

`BaseEventLoop._run_once` (CPython, Lib/asyncio/base_events.py) asks its selector for what
happened outside and how long that took, and its clock for the time. Here `select` answers the
one and `time` the other; the ready queue, its order, the timers' heap and everything else are
the interpreter's. The scheduler decides what is free in a poll: see "The arrival model" in
ARCHITECTURE.md, whose numbers the docstrings have; and which thread goes on, and which task is
cancelled, between two callbacks: see `between_callbacks.py`.
"""

from __future__ import annotations

import asyncio
import functools
import math
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from operator import attrgetter
from types import FrameType
from typing import Any, NoReturn

import simpy

from sim.kernel.arguments import misused
from sim.kernel.between_callbacks import THREAD_TURNS_MAX, BetweenCallbacks, Choose, HubOfHosts
from sim.kernel.current import execution_of_this_thread
from sim.kernel.diagnosis import (
    place_in_program,
    place_of_frame,
    place_of_line,
    programs_frame,
    where_it_waits,
)
from sim.kernel.environment import READING_S, SAME_S, Arrival, Environment
from sim.kernel.errors import NotSimulated
from sim.kernel.faults import Faults
from sim.kernel.hashing import stable_name
from sim.kernel.lacking import refuse_lacking
from sim.kernel.notices import Special
from sim.kernel.origin import forwards, modelled
from sim.kernel.schedule import (
    NO_MORE,
    ON_TIME,
    TOGETHER,
    Bounds,
    Named,
    Option,
    one_natural,
)
from sim.kernel.tasks import LoopOfTasks
from sim.kernel.threads.pools import SimExecutor, submit_of_loop
from sim.kernel.threads.workers import Threads, Worker
from sim.kernel.timers_apart import TimersApart, are_near, meet, name_of_timer, take
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

_EARLIEST = attrgetter("earliest")


class SimLoop(BetweenCallbacks, LoopOfTasks):
    """One execution's loop. `choose(kind, options, costs)` answers its choice points.

    costs: how many departures each option is, computed if a scheduler asks.
    """

    # BaseEventLoop's own, which the type stubs leave out.
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _asyncgens: set[AsyncGenerator[Any, Any]]
    _default_executor: Executor | None
    _check_default_executor: Callable[[], None]
    _exception_handler: object
    _debug: bool
    _executor_shutdown_called: bool
    _asyncgens_shutdown_called: bool

    # What most executions never set stands in the class: CPython makes objects with up to 30
    # attributes of their own faster, and reads them faster. A test counts them.

    # Why the execution cannot go on, and what was seen; None while it can.
    stuck: tuple[Kind, str] | None = None
    # What the program asked for that is not simulated, with what to use instead.
    refused: str | None = None
    # Whether that is a thread which goes on and on in one step.
    has_spinning_thread = False
    # Made where the program first asks for it.
    _faults: Faults | None = None
    # In a process of the execution's hosts: which one it is.
    pid: int | None = None
    # Its main task is over, and the others are cancelled, as `asyncio.run` does.
    is_shutting_down = False
    # Called at every poll, before anything lands.
    on_poll: Callable[[], None] | None = None
    # Exceptions that nobody retrieved and coroutines that nobody awaited, freed so far, in words.
    left_behind: tuple[str, ...] = ()
    # The clock, and the number of the poll, from which on the readings of a spinning program count;
    # when it began to wait for the clock, and what it was last told.
    _spun_from: tuple[float, int] = (0.0, 0)
    _waits_from = 0.0
    _waits_to = -1.0
    # Of an execution in which timers of one instant may come apart.
    _timers_apart: TimersApart | None = None

    def __init__(self, environment: Environment, choose: Choose, bounds: Bounds) -> None:
        super().__init__()
        self.environment = environment
        self.bounds = bounds
        # Which bounds limited what was explored; a verdict names them.
        self.bounds_hit: set[str] = set()
        self.choose = choose
        self._selector = self
        self._clock_resolution = READING_S
        if bounds.timers_apart:
            self._timers_apart = TimersApart()
            self.call_at = self._call_at_noted  # type: ignore[method-assign, assignment]
            self.time = self._time_noted  # type: ignore[method-assign]
        else:
            # Saves a call in the method that is called most.
            self.time = environment.read_clock  # type: ignore[method-assign]
        self._spins_noted = max(1, bounds.spin_max // 2)
        # Worker threads; the default executor is made when it is first asked for.
        self.threads = Threads(self)
        self._tasks = []

    WITHOUT_INFLUENCE = frozenset(
        # The same in each execution, or read only where it ends.
        {"bounds", "choose", "time", "on_poll", "environment", "_tasks", "stuck", "refused"}
        | {"main_task", "has_spinning_thread", "call_at"}
        # Those under way are pending arrivals.
        | {"raised_by_handler", "is_shutting_down", "signals_under_way"}
        # Compared only where they may reach their limits: see `state_reader`.
        | {"bounds_hit", "cancels_withheld"}
        # No search by states lets timers come apart.
        | {"_timers_apart"}
        | {"_spins_noted", "_spun_from", "_waits_from", "_waits_to"}
        # Of a poll with threads: read where they are, by the state reader.
        | {"_is_told", "is_woken", "_never_found", "touched_in", "stopped_in", "_stood_still"}
        # CPython's: how it sleeps and wakes, what it says in debug mode, how it is closed.
        | {
            "_network",
            "_transports",
            "_selector",
            "_clock_resolution",
            "_internal_fds",
            "_thread_id",
            "_current_handle",
        }
        | {"_coroutine_origin_tracking_enabled", "_coroutine_origin_tracking_saved_depth"}
        | {"slow_callback_duration", "_closed", "_stopping", "_old_agen_hooks"}
        # How many of the timers are cancelled; generators are read where they are held.
        | {"_timer_cancelled_count", "_asyncgens"}
        # Read with the hub.
        | {"hosts", "pid", "_faults"}
    )
    """Fields that do not decide what happens next, for the state reader; a test checks all."""

    @property
    def has_network(self) -> bool:
        """Whether the program has used sockets."""
        return self._network is not None

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, at a poll."""
        timers = [each for each in self._scheduled if not each.cancelled()]
        timers.sort(key=asyncio.TimerHandle.when)
        live = [task for task in self.tasks if not task.done()]
        live.sort(key=lambda task: stable_name(task.get_name()))
        return (
            list(self._ready),
            [(each.when(), each) for each in timers],
            self._default_executor,
            self._cancels_offered_to,
            self._signal_handlers,
            (self.python_handlers, self.interrupts),
            (self._task_factory, self._exception_handler, self._debug),
            (self._executor_shutdown_called, self._asyncgens_shutdown_called),
            self.threads.canonical_state(),
            self._untold,
            live,
            # Whose paths are unlinked; most loops have none.
            vars(self).get("_unix_server_sockets"),
            # The next task's name, by which it will hash.
            self.unnamed_tasks,
            # Nothing that lives holds these, but they decide the verdict.
            (self.left_behind, self._failed_names()) if self.bounds.unretrieved_fails else (),
        )

    def _failed_names(self) -> list[str]:
        return [task.get_name() for task in self.tasks if task.done() and task._exception]

    # -- what _run_once asks of a selector and a clock

    def select(self, timeout: float | None) -> Sequence[object]:  # noqa: C901 - called most
        """The poll. What lands is appended to the ready queue, behind what is still in it."""
        if self.on_poll is not None:
            self.on_poll()
        env = self.environment
        env.polls += 1
        if env.events:
            env.run_due()
        if env.pending:
            env.withdraw_unawaited()
        if self._stopping:
            return ()
        if self._network is not None:
            self._network.begin_poll(self)
        if not self._ready:
            if timeout is not None and math.isnan(timeout):
                # From 3.13 on, for a timer of no number; `_run_once` has none of it before.
                raise modelled(ValueError("cannot convert float NaN to integer"))
            env.spins = env.spin_rounds = 0
            self._wait()
        elif (spins := env.spins + 1) < self._spins_noted or self._may_spin(spins):
            env.spins = spins
            workers = self.threads.workers
            if env.pending or workers:
                self._land(env, quiescent=False)
            if self._scheduled or workers:
                self._be_late()
        else:
            self._spin_on()
        if self._network is not None:
            self._network.end_poll(self)
        return ()

    def _write_to_self(self) -> None:
        """What ends a poll that is blocked: see `_step_while_blocked`."""
        self._is_told = True

    def _may_spin(self, spins: int) -> bool:
        """Whether as many polls may find the queue not empty. At half of `spin_max` it is noted."""
        if spins > self.bounds.spin_max:
            return False
        env = self.environment
        if spins == self._spins_noted and not env.has_spun:
            env.has_spun = True
            self._spun_from = env.now, env.polls
        return True

    # -- one poll

    def _wait(self) -> None:
        """The ready queue is empty: the clock moves until something lands or is due. (3)"""
        env = self.environment
        env.blocked_from = env.now
        while True:
            self._land(env, quiescent=True)
            has_work = self._ready and self._has_work()
            if has_work or self._next_deadline() < env.now + 2 * READING_S:
                if self._untold is not None:
                    self._untold = None
                # Where it has slept until a timer, how late it is was asked already.
                if has_work or env.now - env.blocked_from < SAME_S:
                    self._be_late()
                return
            instants = self._instants()
            if self.others_come(self._has_work, instants[0] if instants else math.inf):
                if self._stopping:
                    return
                continue
            if not instants:
                seen = f"{self._leave_untold()}no timer is armed and no outside event announced"
                spinning = self.threads.spinning()
                kind = Kind.LIVELOCK if spinning else Kind.DEADLOCK
                self.get_stuck(kind, spinning + seen)
                return
            to = self._wake_up(instants)
            if to > env.begun_s + self.bounds.horizon_s:
                self.get_stuck(Kind.NO_END, self._leave_untold() + self._beyond_horizon(to))
                return
            env.advance(to)
            env.withdraw_unawaited()

    def _beyond_horizon(self, to: float) -> str:
        """What would come next, at this instant."""
        seen = f"not within horizon_s={self.bounds.horizon_s:g}"
        at, begun_s = self._next_deadline(), self.environment.begun_s
        if at <= to + 2 * self.bounds.lateness_s and self._untold is None:
            return f"{seen}: next is {name_of_timer(self._scheduled[0])}, at {at - begun_s:g} s"
        return f"{seen}: nothing comes before {to - begun_s:g} s"

    def _land(self, env: Environment, *, quiescent: bool) -> None:
        """Lands the enabled arrivals that are chosen, one at a time. (2)"""
        self.threads.turns = 0
        while enabled := self._enabled():
            options: list[Named] = [*enabled]
            if not quiescent or self._may_pass(enabled):
                options.append(NO_MORE)
            option = 0
            if len(options) > 1:
                option = self.choose("landing", options, _landing_costs)
            if option == len(enabled):
                for each in enabled:
                    each.was_kept = True
                    each.passes += quiescent
                return
            chosen = enabled[option]
            if isinstance(chosen, Worker):
                self.threads.turns += 1
                self.threads.turns_seen = max(self.threads.turns_seen, self.threads.turns)
                if self.threads.turns > (
                    THREAD_TURNS_MAX if quiescent else self._turns_beside_spin()
                ):
                    self.bounds_hit.add("spin_max")
                    return
                self._go_on(chosen, quiescent)
                if self._network is not None:
                    # It may have read, or closed.
                    self._network.thread_went_on(self)
            else:
                env.land(chosen)
            if not quiescent:
                self._let_spin()
            # What has landed makes the poll one that finds something.
            quiescent = quiescent and not (self._ready and self._has_work())

    def _turns_beside_spin(self) -> int:
        return TURNS_BESIDE_SPIN_MAX if self.environment.spin_rounds < HAPPENINGS_MAX else 1

    def _go_on(self, worker: Worker, quiescent: bool) -> None:
        if quiescent:
            self._step_while_blocked(worker)
        else:
            self.threads.step(worker)
        self.environment.run_due()

    def _enabled(self) -> list[Arrival | Worker]:
        """What could happen now: arrivals, oldest first, then workers that could go on."""
        env = self.environment
        now = env.now
        enabled: list[Arrival | Worker] = [a for a in env.pending if a.earliest <= now]
        if len(enabled) > 1:
            # The sort is stable: equals stay in the order of their announcement.
            enabled.sort(key=_EARLIEST)
        if self.threads.workers:
            enabled += self.threads.runnable()
        return enabled

    def _may_pass(self, enabled: list[Arrival | Worker]) -> bool:
        """Whether the clock may move on while these are enabled. (4)"""
        arrivals = [each for each in enabled if isinstance(each, Arrival)]
        if any(arrival.latest <= self.environment.now for arrival in arrivals):
            return False
        if any(a.passes >= self.bounds.passes_max for a in arrivals if math.isinf(a.latest)):
            self.bounds_hit.add("passes_max")
            return False
        if len(arrivals) < len(enabled):
            # The system keeps a thread that could go on waiting for `lateness_s` at most.
            following = min(self._next_deadline(), self.threads.next_wake_up())
            return following <= self.environment.now + self.bounds.lateness_s
        deadline_is_due = self._next_deadline() < self.environment.now + 2 * READING_S
        return deadline_is_due or self._has_instant_within_horizon() or self.others_have_instants()

    def _has_instant_within_horizon(self) -> bool:
        """Who waits for what is enabled does not wait for a timer beyond the horizon. (4)"""
        instants = self._instants()
        if instants and instants[0] > self.environment.begun_s + self.bounds.horizon_s:
            self.bounds_hit.add("horizon_s")
            return False
        return bool(instants)

    def _be_late(self) -> None:
        """A busy loop may find that up to `lateness_s` have passed, and deadlines with them. (3)"""
        now = self.environment.now
        late = now + self.bounds.lateness_s
        if self._next_deadline() > late and self.threads.next_wake_up() > late:
            return
        limit = min((a.latest for a in self.environment.pending), default=math.inf)
        ends = (*self._deadlines(), *self.threads.wake_ups())
        deadlines = _apart(at for at in ends if now < at <= min(late, limit))
        if deadlines:
            options = [ON_TIME, *(Option(f"late, past {at:.3f} s") for at in deadlines)]
            option = self.choose("clock", options, one_natural)
            if option:
                self.environment.advance(deadlines[option - 1])

    def _wake_up(self, instants: list[float]) -> float:
        """The instant at which the empty loop wakes: the next, or a later one within lateness."""
        to = instants[0]
        if self._next_deadline() <= to:
            # The loop sleeps until the deadline, and more may be due when it wakes.
            if are_near(self._scheduled) and self._come_apart():
                to = self._instants()[0]
            else:
                to = self._on_time_or_late(instants)
        if self._timers_apart is not None:
            self._timers_apart.wakes(self._scheduled, to)
        return to

    def _come_apart(self) -> bool:
        """Whether, of the timers that are due in this instant, some fire and others later. (8)"""
        apart = self._timers_apart
        if self._untold is not None or not meet(self._scheduled):
            return False
        self.bounds_hit.add("timers_apart")
        if apart is None:
            return False
        turns = apart.turns(self._scheduled)
        options = [TOGETHER, *(Option(turn.name) for turn in turns)]
        option = self.choose("timers", options, one_natural)
        if option:
            self.environment.observer.meets(Special.TIMERS_APART)
            take(turns[option - 1], self._scheduled)
        return option > 0

    def _call_at_noted(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = type(self).call_at(self, when, callback, *args, context=context)
        assert self._timers_apart is not None
        self._timers_apart.armed(timer, sys._getframe(1))
        return timer

    def _time_noted(self) -> float:
        reading = self.environment.read_clock()
        assert self._timers_apart is not None
        self._timers_apart.reads(reading, sys._getframe(1))
        return reading

    def _on_time_or_late(self, instants: list[float]) -> float:
        first = instants[0]
        late = first + self.bounds.lateness_s
        limit = min((a.latest for a in self.environment.pending), default=math.inf)
        later = [at for at in instants[1:] if at <= min(late, limit)]
        if not later:
            return first
        options = [ON_TIME, *(Option(f"late, at {at:.3f} s") for at in later)]
        return instants[self.choose("clock", options, one_natural)]

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

    def _let_spin(self) -> None:
        """Something has happened for which the program may spin: it has as many polls once more."""
        if self.environment.spin_rounds < HAPPENINGS_MAX:
            self.environment.spin_rounds += 1
            self.environment.spins = 0

    # -- pools, and processes

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if executor is None:
            # Kept where CPython keeps it, so that its own shutdown_default_executor finds it.
            self._check_default_executor()
            if self._default_executor is None:
                self._default_executor = SimExecutor.of_asyncio(self.threads)
            executor = self._default_executor
        # A pool of the program's own may do its jobs in any thread that it starts here.
        future = submit_of_loop(executor, func, args)
        if self.threads.current is None and self.threads.workers:
            # The job may be over before the caller's next line.
            self.threads.let_others_go_on()
        return asyncio.wrap_future(future, loop=self)

    @property
    def jobs_waiting_for_threads(self) -> str:
        """Those of asyncio's default pool, in words; empty without any."""
        pool = self._default_executor
        return pool.sim_jobs_waiting if isinstance(pool, SimExecutor) else ""

    def set_default_executor(self, executor: Executor) -> None:
        """A ThreadPoolExecutor, as asyncio demands, or one of `World.executor`."""
        if not isinstance(executor, (SimExecutor, ThreadPoolExecutor)):
            raise modelled(TypeError("executor must be ThreadPoolExecutor instance"))
        self._default_executor = executor

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

    def next_instant(self) -> float:
        """When there is next something to do for this loop; infinite if never."""
        if self._ready:
            return self.environment.now
        return min(self._instants(), default=math.inf)

    def sleep(self, seconds: float) -> None:
        """The loop's thread sleeps, and the loop with it."""
        until = self.environment.now + seconds
        while self.hosts is not None and self.hosts.go_on(lambda: False, until):
            if self._stopping:
                return
        self.environment.advance(until)

    def lands_while_blocked(self, until: float) -> bool:
        """The loop's own thread blocks: of what is on its way in the network, the next lands."""
        return self._network is not None and self._network.lands_next(until)

    def _has_work(self) -> bool:
        """Whether something is in the queue that ends a poll."""
        if self.is_woken:
            # What another process has sent may land.
            self.is_woken = False
            return True
        return len(self._ready) > (0 if self._untold is None else self._untold.callbacks)

    # -- instants

    def _next_deadline(self) -> float:
        """When the next timer is due; infinite without one. CPython keeps the head uncancelled."""
        scheduled = self._scheduled
        if self._untold is not None:
            return self._untold.until
        if not scheduled:
            return math.inf
        when = scheduled[0].when()
        # What is neither earlier nor later than anything is due, as `_run_once` has it.
        return self.environment.now if math.isnan(when) else when

    def _deadlines(self) -> list[float]:
        deadlines = [handle.when() for handle in self._scheduled if not handle.cancelled()]
        if self._untold is None:
            return deadlines
        until = self._untold.until
        return [until, *(at for at in deadlines if at > until)]

    def _instants(self) -> list[float]:
        """When something may next happen: bounds of windows, deadlines, and just before those."""
        env = self.environment
        now = env.now
        instants = [env.peek()]
        may_land = False
        for arrival in env.pending:
            if arrival.earliest > now:
                instants.append(arrival.earliest)
            else:
                may_land = True
                instants.append(arrival.latest)
        if self._scheduled:
            deadlines = self._deadlines()
            instants += deadlines
            if may_land and deadlines:
                instants.append(min(deadlines) - self.bounds.lateness_s)
        return _apart(at for at in instants if now < at < math.inf)

    def end_execution(self) -> None:
        """As `end_run`, also in a process: nothing of the execution goes on."""
        self.end_run()

    def get_stuck(self, kind: Kind, seen: str) -> None:
        self.stuck = kind, seen
        self.end_run()

    def end_run(self) -> None:
        """What `run_forever` does is over with this iteration."""
        super().stop()

    def stop(self) -> None:
        """As asyncio's; called by the program, whose end `run_until_complete` then misses."""
        own = programs_frame(sys._getframe(1))
        self.stopped_in = "a callback" if own is None else place_of_frame(own)
        super().stop()

    def run_forever(self) -> None:
        try:
            super().run_forever()
        finally:
            if self._never_found:
                self._ready.extend(self._never_found)
                self._never_found = ()

    def leaves_behind(self, what: str) -> None:
        self.left_behind += (what,)

    def deadlock(self, seen: str) -> None:
        self.get_stuck(Kind.DEADLOCK, seen)

    def has_nothing_left(self) -> bool:
        """Whether nothing of the program would go on, and nothing of it is to be closed."""
        threads = self.threads
        if threads.workers or threads.has_had_identities or self._asyncgens or self.has_network:
            return False
        return all([task.done() for task in self.tasks])

    def let_go(self) -> None:
        """After its end: breaks reference cycles, so that its memory is reused at once."""
        self.main_task = None
        del self.choose, self._selector, self.time, self.threads.loop
        # In the instance where the lines after a poll are counted.
        vars(self).pop("select", None)
        vars(self).pop("call_at", None)
        self.on_poll = None
        self.set_exception_handler(_say_nothing)

    # -- what is not simulated

    def misuse(self, what: str) -> NoReturn:
        """A call that makes no sense: an error, also where the program catches what is raised."""
        raised = misused(what)
        self.refused = self.refused or str(raised)
        raise raised

    def refuse(self, what: str, instead: str) -> NoReturn:
        """Also recorded, so that a program that swallows the error gets no verdict."""
        where = self._place_in_program(sys._getframe(1))
        refused = f"{what} in {where} is not simulated: {instead}"
        # What comes after the first may follow from it.
        self.refused = self.refused or refused
        raise NotSimulated(refused)

    def _place_in_program(self, frame: FrameType) -> str:
        """A worker may have been given a function of the library's: then where that was."""
        worker = self.threads.current
        started_at = None if worker is None else worker.started_at
        if worker is None or programs_frame(frame) is not None:
            return place_in_program(frame)
        if started_at is not None:
            return f"a thread of {place_of_line(*started_at)}"
        main = self.main_task
        # As of create_task(asyncio.to_thread(os.read, …)): no line of the program's has begun it.
        if main is None or main.done():
            return "a thread"
        return f"a thread, while {main.get_name()} waits {where_it_waits(main)}"

    @forwards
    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.threads.current is not None:
            self.threads.pause("call_soon_threadsafe")
        elif asyncio._get_running_loop() is not self:
            self.refuse("call_soon_threadsafe from a foreign thread", NO_FOREIGN_THREADS)
        if self.is_closed():
            raise modelled(RuntimeError("Event loop is closed"))
        return self.call_from_thread(callback, args, context)

    @forwards
    def call_from_thread(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        """What CPython's `call_soon_threadsafe` does, which asks nobody for the thread.

        But for the lock in each handle that it has since 3.14: no two threads touch one at once.
        """
        loop: Any = self
        if self._debug:
            loop._check_callback(callback, "call_soon_threadsafe")
        handle: asyncio.Handle = loop._call_soon(callback, args, context)
        self._write_to_self()
        return handle


_STOCK = asyncio.SelectorEventLoop
NO_PROCESSES = (
    "it reaches another process; put what stands behind it into the program as a coroutine that "
    "awaits world.outside(…) (world is the program's argument, and in a marked test the fixture)"
)
NO_FOREIGN_THREADS = (
    "threads of the operating system run in no order that could be replayed; use "
    "loop.run_in_executor(None, …), asyncio.to_thread or world.executor(), which are simulated"
)

_REFUSED = (
    "connect_read_pipe",
    "connect_write_pipe",
    "subprocess_exec",
    "subprocess_shell",
)


def _refusal(what: str) -> Callable[..., NoReturn]:
    # With the signature of what it replaces.
    @functools.wraps(getattr(_STOCK, what))
    def refuse(self: SimLoop, *args: object, **kwargs: object) -> NoReturn:
        self.refuse(f"loop.{what}", NO_PROCESSES)

    return refuse


for _what in _REFUSED:
    setattr(SimLoop, _what, _refusal(_what))
refuse_lacking(SimLoop, dir(_STOCK), lambda loop, name: loop.refuse(f"loop.{name}", NO_PROCESSES))


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exceptions that were never retrieved are found when memory is freed: after the execution."""


def _apart(times: Iterable[float]) -> list[float]:
    """Sorted; of those that only readings of the clock separate, the last. (8)"""
    apart: list[float] = []
    for at in sorted(times):
        if apart and at - apart[-1] <= SAME_S:
            apart[-1] = at
        else:
            apart.append(at)
    return apart


def _landing_costs(options: Sequence[Arrival | Worker | Option]) -> list[int]:
    """The costs of landing each, and of "no more".

    Free are: what was kept waiting lands, or goes on waiting; the oldest of the others lands.
    """
    costs = []
    others = 0
    for each in options:
        if isinstance(each, Option):
            costs.append(1 if others else 0)
        else:
            costs.append(0 if each.was_kept or others == 0 else 1)
            others += not each.was_kept
    return costs
