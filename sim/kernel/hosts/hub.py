"""The hub gives the processes of an execution their turns, and moves the clock between them.

It is the program's own loop where that would sleep. A process whose turn it is runs until its
ready queue is empty; then the one has its turn that has waited longest. The scheduler may choose
otherwise, wherever two could run.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import simpy

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.environment import SAME_S, Environment
from sim.kernel.equal_readings import EqualReadings
from sim.kernel.errors import Opaque
from sim.kernel.faults import Faults
from sim.kernel.hosts.process_loop import (
    HubOfLoops,
    ProcessEntropy,
    ProcessEnvironment,
    ProcessLoop,
)
from sim.kernel.hosts.run import Exit, Run, Stands
from sim.kernel.loop import SimLoop
from sim.kernel.origin import modelled
from sim.kernel.schedule import FAULT, FAULT_IN_STEP, HAS_TURN, Named, Option, one_natural
from sim.kernel.violation import Kind

FIRST_PID = 1000


class WorldOfProcesses(Protocol):
    """What the hub uses of the execution's world."""

    loop: SimLoop
    environment: Environment

    @property
    def faults(self) -> Faults: ...

    def fail_as(self, kind: Kind, detail: str, *, raised: BaseException | None = None) -> None: ...

    def is_own_fault(self, raised: BaseException) -> bool: ...


MakeLoop = Callable[[Run, "Hub"], ProcessLoop]
"""Makes the loop of a run, which belongs to it."""


class Hub:
    """runs: those that have not ended, in the order of their turns. made: all of them."""

    def __init__(self, world: WorldOfProcesses, make_loop: MakeLoop) -> None:
        self.world = world
        self.main = world.loop
        self.greenlet = self.main.threads.hub
        self.is_over = False
        self.runs: list[Run] = []
        self.host_names: list[str] = []
        self.made: list[Run] = []
        self.current: Run | None = None
        self._make_loop = make_loop
        execution = execution_of_this_thread()
        assert execution is not None
        self._execution: Execution = execution
        self._entropy = execution.entropy
        # What is told of the end of a run, and of signals for it.
        self._on_end: dict[Run, Callable[[Exit], None]] = {}
        self._on_signal: dict[Run, Callable[[int], object]] = {}
        # Who has its turn next, whoever has waited.
        self._next: Run | None = None
        # Where a fault finds the one that has its turn; else it is in a step. And what it was about
        # to do, in words.
        self._failing = Stands.IN_STEP
        self.failing_before = ""
        # Whether the program's own loop has its turn, or sleeps; else it is in a step of its own.
        self._is_in_step = False
        # Up to which reading of the clock what waits for a new one has been told.
        self._noted_s = 0.0

    @property
    def is_ending(self) -> bool:
        """The execution is over, or ends with this turn."""
        return self.is_over or self.main._stopping

    # -- the clock

    def now(self) -> float:
        """World time, also while a process runs."""
        self._sync()
        return self.main.environment.now

    def _sync(self) -> None:
        env, run = self.main.environment, self.current
        if run is not None:
            env._now = max(env._now, run.environment.world_now)
            env.polls = max(env.polls, run.environment.polls)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """In so much world time, between two turns."""
        self._sync()
        timer = simpy.Timeout(self.main.environment, seconds)
        assert timer.callbacks is not None
        timer.callbacks.append(lambda _: call())

    @property
    def faults_taken(self) -> int:
        return self.world.faults.taken

    # -- runs

    def start(
        self, run: Run, on_end: Callable[[Exit], None], on_signal: Callable[[int], object]
    ) -> None:
        self._sync()
        run.loop = self._make_loop(run, self)
        run.environment = run.loop.environment
        run.entropy = ProcessEntropy(run.environment, self._entropy)
        run.entropy.equal = EqualReadings(run.loop)
        self.runs.append(run)
        self.made.append(run)
        self._on_end[run], self._on_signal[run] = on_end, on_signal

    def kill(self, pid: int, sig: int) -> bool:
        """Sends a signal to the process with this number; False where none ever had it."""
        run = next((each for each in self.made if each.pid == pid), None)
        if run is None:
            return False
        if run.is_over:
            raise modelled(ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)))
        if sig:
            self._on_signal[run](sig)
        return True

    def next_pid(self) -> int:
        return FIRST_PID + len(self.made)

    def ended(self, run: Run, end: Exit) -> None:
        """Nothing of it runs any more. In the run's own turn the caller has to leave."""
        run.is_over = True
        self.runs.remove(run)
        for each in run.at_end:
            each()
        del self._on_signal[run]
        self._on_end.pop(run)(end)

    def leave_if_current(self, run: Run) -> None:
        """In the turn of a run that has ended: the turn ends here."""
        if self.current is run:
            run.leave()

    def stand_if_current(self, run: Run) -> None:
        """In the turn of a run that has been paused: it goes on here, later."""
        if self.current is run:
            run.wait(self._failing, -math.inf, None)

    # -- turns, in the greenlet of the program's own loop

    def go_on(self, is_so: Callable[[], bool], until: float) -> bool:
        """Whether, before the clock shows that, there is something to do for the program's loop."""
        env = self.main.environment
        self._is_in_step = is_so != self.main._has_work
        while True:
            self._take_in_for_paused()
            if self.main._stopping or is_so():
                return True
            if env.now > self._noted_s + SAME_S:
                self._note_instant()
            runnable = [run for run in self.runs if run.is_runnable(env.now)]
            if runnable:
                self._step(self._whose_turn(runnable))
                continue
            at = self._next_instant()
            is_last = math.isinf(at) or self._are_beyond_horizon(at, until)
            if is_last and self._is_last_chance():
                if any(arrival.earliest <= env.now for arrival in env.pending):
                    return True
                continue
            if at >= until - SAME_S:
                return False
            if self._are_beyond_horizon(at):
                self.main.get_stuck(
                    Kind.NO_END, f"not within horizon_s={self.main.bounds.horizon_s:g}"
                )
                return True
            env.advance(at)
            if any(arrival.earliest <= env.now for arrival in env.pending):
                return True

    def _take_in_for_paused(self) -> None:
        """The system of a process that is paused goes on: it takes connections and data."""
        for run in self.runs if self.main.has_network else ():
            if run.is_paused and not run.clock.stands:
                shown = run.clock.shown(self.main.environment.now)
                self.main.network.take_in(run.loop, shown)

    def go_on_beside_a_spin(self) -> bool:
        """While the program's own loop spins: whether anything has happened."""
        env = self.main.environment
        begun = env.now, len(self.made), env.polls
        self.go_on(lambda: False, math.nextafter(env.now, math.inf))
        at = min(self.next_wake(), env.peek(), *self.main._instants(), math.inf)
        if at < math.inf:
            env.advance(at)
        return (env.now, len(self.made), env.polls) != begun

    def _are_beyond_horizon(self, *instants: float) -> bool:
        """Nobody waits for them who waits for what may come: the verdict says so."""
        if min(instants) <= self.main.environment.begun_s + self.main.bounds.horizon_s:
            return False
        self.main.bounds_hit.add("horizon_s")
        return True

    def next_wake(self) -> float:
        return min((run.next_wake() for run in self.runs), default=math.inf)

    def _next_instant(self) -> float:
        """Those that only readings of the clock separate count as one: the last of them."""
        peek = self.main.environment.peek()
        instants = [peek, *(run.next_wake() for run in self.runs)]
        first = min(instants)
        return max(at for at in instants if at <= first + SAME_S)

    def _is_last_chance(self) -> bool:
        """No instant is to come, within the horizon: whether anybody has waited for one.

        Then what was kept waiting has to land, and who spins does so for ever.
        """
        env = self.main.environment
        has_waited = any(arrival.earliest <= env.now for arrival in env.pending)
        for run in self.runs:
            if run.spins or self._wake_for_arrivals(run):
                run.spins, has_waited = False, True
        return has_waited

    def _wake_for_arrivals(self, run: Run) -> bool:
        """Whether there is one that may land, and the run may be woken for it."""
        shown = run.clock.shown(self.main.environment.now)
        if not any(arrival.earliest <= shown for arrival in run.environment.pending):
            return False
        run.is_woken = True
        return not run.is_paused and not run.clock.stands

    def _note_instant(self) -> None:
        """The clock has moved: what is kept waiting may land now."""
        self._noted_s = self.main.environment.now
        for run in self.runs:
            run.spins = False
            self._wake_for_arrivals(run)

    def _whose_turn(self, runnable: list[Run]) -> Run:
        if self._next in runnable:
            chosen, self._next = self._next, None
            assert chosen is not None
            return chosen
        if len(runnable) == 1:
            return runnable[0]
        options = [Option(run.name + HAS_TURN) for run in runnable]
        return runnable[self.main.choose("turn", options, one_natural)]

    def _step(self, run: Run) -> None:
        """The run goes on, to its next sleep or its end."""
        self.runs.remove(run)
        self.runs.append(run)
        environment = run.environment
        assert isinstance(environment, ProcessEnvironment)
        environment.catch_up()
        if environment.now < run.wakes_at < environment.now + 2 * SAME_S * run.clock.rate:
            environment.advance(run.wakes_at)
        self.current = run
        self._failing, self.failing_before = Stands.IN_STEP, ""
        self._stands_for(run.loop)
        try:
            run.go_on(self._execution, run.greenlet.switch)
        finally:
            self._sync()
            self.current = None
            self._stands_for(self.main)

    def _stands_for(self, loop: SimLoop) -> None:
        """From now on what the program calls on its world concerns that loop."""
        self.world.loop, self.world.environment = loop, loop.environment
        self.main.environment.observer.turns_to(loop)

    # -- what a process's loop asks, in its greenlet

    def choose(self, kind: str, options: Sequence[Named], costs: Any) -> int:
        self._sync()
        return self.main.choose(kind, options, costs)

    def has_instants_beside(self, run: Run) -> bool:
        """As in `others_have_instants`."""
        others = (other.next_wake() for other in self.runs if other is not run and not other.spins)
        at = min((*others, self.main.next_instant()))
        return at < math.inf and not self._are_beyond_horizon(at)

    def before_iteration(self, run: Run) -> None:
        """It has more callbacks to run: others of its host may see first what it has written, or
        change what it has read.

        What goes by the network lands when the scheduler says, and needs no turn in between.
        """
        if not run.has_used_disk:
            return
        run.has_used_disk = False
        self._sync()
        now = self.main.environment.now
        others = [
            each
            for each in self.runs
            if each is not run and each.clock is run.clock and each.is_runnable(now)
        ]
        if not others:
            return
        options = [Option(each.name + HAS_TURN) for each in (run, *others)]
        option = self.choose("turn", options, one_natural)
        if option:
            self._next = others[option - 1]
            self.runs.remove(run)
            self.runs.insert(0, run)
            run.wait(Stands.BEFORE_POLL, -math.inf, None)

    def may_fail(self, run: Run, stands: Stands, before: str = "") -> None:
        """A fault may happen to it here, by the scheduler's choice. before: what it does next."""
        faults = run.faults()
        if not faults or self.is_over or not self.world.faults.may_happen():
            return
        suffix = f" before it {before}" if before else ""
        names = [f"{run.name} goes on", *(f"{each.name}{suffix}" for each in faults)]
        kind = FAULT_IN_STEP if stands is Stands.IN_STEP else FAULT
        option = self.choose(kind, [Option(name) for name in names], one_natural)
        if option:
            self.world.faults.taken += 1
            self._failing, self.failing_before = stands, suffix
            faults[option - 1].happen()

    # -- its state

    def loops(self) -> list[ProcessLoop]:
        """Of those that have not ended, in the order of their turns."""
        return [run.loop for run in self.runs if isinstance(run.loop, ProcessLoop)]

    def canonical_state(self) -> list[object]:
        """All of the processes that decides what happens next. Raises Opaque."""
        if self._is_in_step or any(self._is_opaque(run) for run in self.runs):
            raise Opaque(
                "a process in the middle of a callback", "let it wait by an await instead of a call"
            )
        state: list[object] = [
            self.current.name if self.current is not None else None,
            self._next.name if self._next is not None else None,
            self.world.faults.canonical_state(),
            self._entropy.canonical_state(),
            len(self.made),
            self._noted_s < self.main.environment.now - SAME_S,
        ]
        for run in self.runs:
            state += run.canonical_state()
            state += run.environment.canonical_state()
            state += run.loop.canonical_state()
            state.append(run.entropy.canonical_state())
        return state

    def _is_opaque(self, run: Run) -> bool:
        in_step = run.stands is Stands.IN_STEP and run is not self.current
        return in_step or bool(run.loop.threads.workers)

    # -- its end

    def drain(self, drain_loop: Callable[[SimLoop], None]) -> None:
        """What its runs have left behind is closed; nothing of it counts any more."""
        self.is_over = True
        for run in self.made:
            self._stands_for(run.loop)
            self.current = run
            run.go_on(self._execution, partial(_end, run))
            assert isinstance(run.loop, ProcessLoop)
            run.loop.end_where_it_stands()
            if not run.loop.is_closed():
                run.go_on(self._execution, partial(drain_loop, run.loop))
            else:
                # Those that no executor's shut-down has ended, as daemons.
                run.go_on(self._execution, run.loop.threads.drain)
            self.current = None
        self._stands_for(self.main)

    def let_go(self) -> None:
        """Breaks reference cycles."""
        for run in self.made:
            run.let_go()
        self.runs.clear()
        self.made.clear()
        self._on_end.clear()
        self._on_signal.clear()


def _end(run: Run) -> None:
    """Its greenlet ends; what stands on its stack beside the loop is the program's."""
    for _ in range(ENDS_MAX):
        if run.greenlet.dead:
            return
        try:
            run.greenlet.throw()
        except Exception:
            continue


ENDS_MAX = 10


if TYPE_CHECKING:
    _: type[HubOfLoops] = Hub
