"""The loop and the clock of a process: a SimLoop that lets others go on where it would sleep.

What a poll of its finds, and in which order, is decided as in any SimLoop, by the same scheduler.
Where the ready queue is empty it waits for its turn; the hub moves the clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import replace
from typing import Any, NoReturn, Protocol

import greenlet

from sim.kernel.entropy import Entropy
from sim.kernel.environment import READING_S, Arrival, Environment
from sim.kernel.faults import Faults
from sim.kernel.hosts.clock import HostClock
from sim.kernel.hosts.ownership import NO_SHARED
from sim.kernel.hosts.run import Run, Stands
from sim.kernel.loop import SimLoop
from sim.kernel.network.network import Network
from sim.kernel.origin import forwards
from sim.kernel.schedule import Named
from sim.kernel.violation import Kind


class HubOfLoops(Protocol):
    """What a process's loop asks of the hub."""

    main: SimLoop
    is_over: bool

    @property
    def is_ending(self) -> bool: ...

    def before_iteration(self, run: Run) -> None: ...

    def may_fail(self, run: Run, stands: Stands, before: str = "") -> None: ...

    def has_instants_beside(self, run: Run) -> bool: ...

    def go_on(self, is_so: Callable[[], bool], until: float) -> bool: ...

    def go_on_beside_a_spin(self) -> bool: ...

    def next_wake(self) -> float: ...

    def after(self, seconds: float, call: Callable[[], None]) -> None: ...

    def kill(self, pid: int, sig: int) -> bool: ...

    def choose(self, kind: str, options: Sequence[Named], costs: Any) -> int: ...


class ProcessEnvironment(Environment):
    """Its clock is its host's, and is read where the process runs, as long as it runs."""

    clock: HostClock
    world: Environment
    of_run: Run

    def belong_to(self, run: Run, world: Environment) -> None:
        self.of_run, self.clock, self.world = run, run.clock, world
        self._now = run.clock.shown(world.now)
        self.begun_s = world.begun_s

    def catch_up(self) -> None:
        """The process has its turn again, or somebody else announces something to it."""
        self.polls = max(self.polls, self.world.polls)
        shown = self.clock.shown(self.world.now)
        if shown > self._now:
            self.advance(shown)

    @property
    def world_now(self) -> float:
        return self.clock.world(self._now)

    def canonical_state(self) -> Sequence[object]:
        """What it will show when the process has its turn again."""
        _, *others = super().canonical_state()
        return max(self._now, self.clock.shown(self.world.now)), *others

    def announce(
        self,
        name: str,
        earliest_s: float = 0.0,
        latest_s: float = math.inf,
        is_awaited: Callable[[], bool] = lambda: True,
    ) -> Arrival:
        """Its window is counted by the clock of the host."""
        self.catch_up()
        self.of_run.is_woken = True
        return super().announce(name, earliest_s, latest_s, is_awaited)

    def announce_in_world(self, name: str, earliest_s: float, latest_s: float) -> Arrival:
        rate = self.clock.rate
        arrival = self.announce(name, earliest_s * rate, latest_s * rate)
        arrival.world_s = self.world.now + earliest_s
        return arrival

    def world_s_to(self, at: float) -> float:
        return max(0.0, self.clock.world(at) - self.world.now)

    def was_thawed(self) -> None:
        """What was on its way while its clock stood may have come meanwhile."""
        for arrival in self.pending:
            if arrival.world_s is not None:
                window_s = arrival.latest - arrival.earliest
                arrival.earliest = self.clock.shown(arrival.world_s)
                arrival.latest = arrival.earliest + window_s
        self.of_run.is_woken = True


class ProcessEntropy(Entropy):
    """A clock of its own; what is drawn comes from the one generator of the interpreter."""

    __slots__ = ("_drawn",)

    def __init__(self, environment: Environment, drawn: Entropy) -> None:
        super().__init__(environment, None, drawn.epoch_s)
        self._drawn = drawn
        self.changed, self.shown = drawn.changed, drawn.shown
        self.seed = drawn.seed

    def seed_module(self) -> None:
        self._drawn.seed_module()

    @forwards
    def bytes(self, size: int) -> bytes:
        return self._drawn.bytes(size)


class ProcessLoop(SimLoop):
    run: Run
    hub: HubOfLoops

    def belong_to(self, run: Run, hub: HubOfLoops) -> None:
        """To be called before it runs."""
        self.run, self.hub = run, hub
        environment, main = self.environment, hub.main
        assert isinstance(environment, ProcessEnvironment)
        environment.belong_to(run, main.environment)
        self._cancels_offered_to = main._cancels_offered_to
        if self._cancels_offered_to is not None:
            self.watch_steps()
        if main.threads.declared:
            self.threads.declare(main.threads.declared, in_loop=main.threads.traces_loop)
        self.threads.hub = run.greenlet
        self.bounds_hit = hub.main.bounds_hit

    WITHOUT_INFLUENCE = SimLoop.WITHOUT_INFLUENCE | {"run", "hub"}

    # -- its polls

    def select(self, timeout: float | None) -> Sequence[object]:
        if self.hub.is_over and greenlet.getcurrent() is self.run.greenlet:
            # Its run was ended in the middle of a step, whose task took that for its own end.
            raise greenlet.GreenletExit
        if self._ready and not self.hub.is_ending:
            self.hub.before_iteration(self.run)
        found = super().select(timeout)
        if not self._stopping:
            self.hub.may_fail(self.run, Stands.AFTER_POLL)
        return found

    def _wait(self) -> None:
        self.hub.may_fail(self.run, Stands.BEFORE_SLEEP)
        super()._wait()

    def others_come(self, is_so: Callable[[], bool], until: float) -> bool:
        """Waits for its turn; the hub moves the clock."""
        stands = Stands.ASLEEP if is_so == self._has_work else Stands.IN_STEP
        return not self.hub.is_over and self.run.wait(stands, until, is_so)

    def others_have_instants(self) -> bool:
        return not self.hub.is_over and self.hub.has_instants_beside(self.run)

    def sleep(self, seconds: float) -> None:
        """It does not give its loop back; others go on."""
        env = self.environment
        until = env.now + seconds
        while not self.hub.is_over and env.now < until - READING_S:
            self.run.wait(Stands.IN_STEP, until, None)
        env.advance(until)

    def _spin_on(self) -> None:
        """Others go first, or the clock moves on; it is a livelock where nothing else happens."""
        if self.hub.is_over or not self._let_others_go_first():
            super()._spin_on()
        else:
            self.bounds_hit.add("spin_max")
            self.environment.spins = 0

    def end_where_it_stands(self) -> None:
        """Its process has ended; its loop may run once more, for the clean-up."""
        env = self.environment
        self.threads.hub = self.hub.main.threads.hub
        self.bounds = replace(
            self.bounds,
            horizon_s=env.now - env.begun_s + self.hub.main.bounds.horizon_s,
        )

    def _let_others_go_first(self) -> bool:
        run = self.run
        if not self.others_have_instants():
            return False
        until = min([self._note_wait_for_clock() or math.inf, *self._instants()])
        run.spins = True
        run.wait(Stands.IN_STEP, until, lambda: not run.spins)
        return True

    @property
    def faults(self) -> Faults:
        return self.hub.main.faults

    def misuse(self, what: str) -> NoReturn:
        self.hub.main.misuse(what)

    @property
    def processes(self) -> HubOfLoops:
        return self.hub

    @property
    def network(self) -> Network:
        """All processes of an execution share one; what is its own ends with it."""
        if self._network is None:
            self._network = network = self.hub.main.network
            self.run.at_end.append(lambda: network.close_all_of(self))
        return self._network

    @property
    def is_over(self) -> bool:  # type: ignore[override]
        return self.run.is_over

    def may_fail(self, before: str) -> None:
        self.hub.may_fail(self.run, Stands.IN_STEP, before)

    @property
    def host_name(self) -> str:  # type: ignore[override]
        return self.run.host_name

    @property
    def pid(self) -> int | None:  # type: ignore[override]
        return self.run.pid

    @property
    def lane(self) -> str:  # type: ignore[override]
        return f"{self.run.name}: "

    # -- what concerns the execution, and not the process alone

    @property
    def on_poll(self) -> Callable[[], None] | None:
        return self.hub.main.on_poll

    @on_poll.setter
    def on_poll(self, asked: Callable[[], None] | None) -> None:
        self.hub.main.on_poll = asked

    @property
    def cancels_withheld(self) -> frozenset[str]:
        return self.hub.main.cancels_withheld

    @cancels_withheld.setter
    def cancels_withheld(self, names: frozenset[str]) -> None:
        self.hub.main.cancels_withheld = names

    def end_execution(self) -> None:
        self.end_run()
        self.hub.main.end_run()

    def get_stuck(self, kind: Kind, seen: str) -> None:
        if self.hub.is_over:
            super().get_stuck(kind, seen)
            return
        self.end_run()
        self.hub.main.get_stuck(kind, f"{seen}, in {self.run.name}")

    def leaves_behind(self, what: str) -> None:
        self.hub.main.leaves_behind(f"{self.run.name}: {what}")

    def refuse(self, what: str, instead: str) -> NoReturn:
        self.refused = None
        try:
            super().refuse(what, instead)
        finally:
            main = self.hub.main
            main.refused = main.refused or self.refused

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if asyncio._get_running_loop() not in (self, None):
            self.refuse(
                f"a call from outside of the process {self.run.name} into its loop", NO_SHARED
            )
        return super().call_soon(callback, *args, context=context)
