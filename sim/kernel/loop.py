"""SimLoop: CPython's own event loop, with SimPy where the selector and the clock stand.

`BaseEventLoop._run_once` (CPython, Lib/asyncio/base_events.py) asks its selector for what
happened outside and how long that took, and its clock for the time. Here `select` answers the
one and `time` the other; the ready queue, its order, the timers' heap and everything else are
the interpreter's. The scheduler decides what is free in a poll: see "The arrival model" in
ARCHITECTURE.md, whose numbers the docstrings have. Its other parts are classes of their own: a
queue that does not become empty (`spinning.py`), which thread goes on and which task is cancelled
between two callbacks (`between_callbacks.py`), and what others ask of it.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from operator import attrgetter
from typing import Any

from sim.kernel import timers_of_no_number
from sim.kernel.among_hosts import AmongHosts
from sim.kernel.asked_by_threads import AskedByThreads
from sim.kernel.between_callbacks import THREAD_TURNS_MAX, Choose
from sim.kernel.diagnosis import (
    place_of_frame,
    programs_frame,
)
from sim.kernel.environment import READING_S, SAME_S, Arrival, Environment, apart
from sim.kernel.hashing import stable_name
from sim.kernel.lacking import refuse_lacking
from sim.kernel.notices import Special
from sim.kernel.origin import forwards, modelled
from sim.kernel.refusing import NO_PROCESSES, STOCK
from sim.kernel.schedule import (
    NO_MORE,
    ON_TIME,
    TOGETHER,
    Bounds,
    Named,
    Option,
    one_natural,
)
from sim.kernel.spinning import Spinning
from sim.kernel.tasks import LoopOfTasks
from sim.kernel.threads.workers import Threads, Worker
from sim.kernel.time_limits import LearnsOfTimers, Limits, is_programs
from sim.kernel.timers_apart import TimersApart, are_near, meet, name_of_timer, take
from sim.kernel.violation import Kind

_EARLIEST = attrgetter("earliest")


class SimLoop(AskedByThreads, AmongHosts, Spinning, LoopOfTasks):
    """One execution's loop. `choose(kind, options, costs)` answers its choice points.

    costs: how many departures each option is, computed if a scheduler asks.
    """

    # BaseEventLoop's own, which the type stubs leave out.
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _asyncgens: set[AsyncGenerator[Any, Any]]
    _exception_handler: object
    _debug: bool
    _executor_shutdown_called: bool
    _asyncgens_shutdown_called: bool

    # What most executions never set stands in the class: CPython makes objects with up to 30
    # attributes of their own faster, and reads them faster. A test counts them.

    # Why the execution cannot go on, and what was seen; None while it can.
    stuck: tuple[Kind, str] | None = None
    # Whether that is a thread which goes on and on in one step.
    has_spinning_thread = False
    # Its main task is over, and the others are cancelled, as `asyncio.run` does.
    is_shutting_down = False
    # Called at every poll, before anything lands.
    on_poll: Callable[[], None] | None = None
    # Exceptions that nobody retrieved and coroutines that nobody awaited, freed so far, in words.
    left_behind: tuple[str, ...] = ()
    # Of an execution in which timers of one instant may come apart.
    _timers_apart: TimersApart | None = None
    # Of an execution in which time limits of the program's end, or are learned.
    limits: Limits | None = None
    # Of a traced execution: whether another than asyncio has read the loop's clock.
    is_read = False

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
        | {"_timers_apart", "limits", "is_read"}
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
            if (to := self._meanwhile(instants)) is not None:
                env.advance(to)
                env.withdraw_unawaited()
                continue
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

    def _meanwhile(self, instants: list[float]) -> float | None:
        """The instant, before the next of its own, at which what is kept waiting may land."""
        if self.limits is None or self._untold is not None:
            return None
        return self.limits.next_instant(instants)

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
        if self.limits is not None and self.limits.has_waited():
            return False
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
        if self.limits is not None:
            instants += self.limits.instants(instants[0] if instants else math.inf)
            instants.sort()
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
        deadlines = apart(at for at in ends if now < at <= min(late, limit))
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

    @forwards
    def _call_at_noted(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = type(self).call_at(self, when, callback, *args, context=context)
        assert self._timers_apart is not None
        if timers_of_no_number.is_number(when):
            self._timers_apart.armed(timer, sys._getframe(1))
        return timer

    def _time_noted(self) -> float:
        reading = self.environment.read_clock()
        assert self._timers_apart is not None
        self._timers_apart.reads(reading, sys._getframe(1))
        return reading

    def watch_readings(self) -> None:
        """Notes who reads its clock but asyncio, and tells the limits of it."""
        self.time = self._time_watched  # type: ignore[method-assign]

    def learn_of_timers(self, learner: LearnsOfTimers) -> None:
        """Tells it how long they take."""

        @forwards
        def call_at(
            when: float, callback: Any, *args: Any, context: Any = None
        ) -> asyncio.TimerHandle:
            if timers_of_no_number.is_number(when):
                when = learner.armed(when)
            return type(self).call_at(self, when, callback, *args, context=context)

        self.call_at = call_at  # type: ignore[method-assign, assignment]

    def _time_watched(self) -> float:
        if not is_programs(sys._getframe(1)):
            return self.environment.read_clock()
        self.is_read = True
        if self.limits is None:
            return self.environment.read_clock()
        self.limits.reads()
        reading: float = self.limits.shown(self.environment.read_clock(), 1.0)
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

    # -- instants

    def next_instant(self) -> float:
        """When there is next something to do for this loop; infinite if never."""
        if self._ready:
            return self.environment.now
        return min(self._instants(), default=math.inf)

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

    def _next_deadline(self) -> float:
        """When the next timer is due; infinite without one. CPython keeps the head uncancelled."""
        scheduled = self._scheduled
        if self._untold is not None:
            return self._untold.until
        if not scheduled:
            return math.inf
        when = timers_of_no_number.as_float(scheduled[0].when())
        # What is neither earlier nor later than anything is due, as `_run_once` has it.
        return self.environment.now if math.isnan(when) else when

    def _deadlines(self) -> list[float]:
        deadlines = [
            timers_of_no_number.as_float(handle.when())
            for handle in self._scheduled
            if not handle.cancelled()
        ]
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
        return apart(at for at in instants if now < at < math.inf)

    def end_execution(self) -> None:
        """As `end_run`, also in a process: nothing of the execution goes on."""
        self.end_run()

    def get_stuck(self, kind: Kind, seen: str) -> None:
        if kind is Kind.NO_END and self.bounds.time_limits:
            # What was kept waiting until then may be why it is not over.
            self.bounds_hit.add("horizon_s")
        else:
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
        except TypeError as exc:
            told = timers_of_no_number.as_on_stock(self, exc)
            if told is exc:
                raise
            raise told from None
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
        self.main_task = self.limits = None
        del self.choose, self._selector, self.time, self.threads.loop
        # In the instance where the lines after a poll are counted.
        vars(self).pop("select", None)
        vars(self).pop("call_at", None)
        self.on_poll = None
        self.set_exception_handler(_say_nothing)


refuse_lacking(SimLoop, dir(STOCK), lambda loop, name: loop.refuse(f"loop.{name}", NO_PROCESSES))


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exceptions that were never retrieved are found when memory is freed: after the execution."""


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
