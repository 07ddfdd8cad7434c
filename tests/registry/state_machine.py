"""A state machine of Hypothesis's drives the registry; Hypothesis chooses the schedule as well.

A command of the outside world joins the loop's ready queue, as an outside event does. Between two
commands Hypothesis says how many iterations the loop runs, and how much time passes, and how late
the loop is when it finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry import StreamError, StreamRegistry
from registry.protocol import GRACE_S, Strategy
from sim.bench.harness.log_capture import log_captured
from sim.bench.harness.registry_bench import BY_REGISTER, BY_STREAM, Request
from sim.bench.harness.registry_judgements import make_bench
from sim.kernel.current import Execution
from sim.kernel.draining import _drain
from sim.kernel.entropy import Entropy
from sim.kernel.environment import Environment
from sim.kernel.hashing import restart_serials
from sim.kernel.loop import SimLoop
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds
from sim.kernel.world import World

SPIN_MAX = 500
ITERATIONS = st.sampled_from([3, 0, 0, 1, 2, 5])
WHICH = st.integers(0, 3)


class Work:
    """What one stream does: emits and ends on command; if it hangs, it swallows its cancels."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.released = False
        self.commands: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, request: Request) -> None:
        while True:
            try:
                command = await self.commands.get()
            except asyncio.CancelledError:
                if self.hangs and not self.released:
                    continue
                raise
            if command == "finish":
                return
            # A stream that goes on after its stop keeps trying to emit.
            with suppress(StreamError):
                await request.emit("chunk")


class Machine(RuleBasedStateMachine):
    registry_class: type[Any] = StreamRegistry
    # Mostly of prompts that interrupt: the limits need many of these. Where none does, queues grow
    # and are served.
    stories = ("interrupt", "interrupt", "all", "enqueue")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        restart_serials()
        self.loop = SimLoop(Environment(), lambda kind, options, costs: 0, Bounds())
        self.world = World(self.loop)
        self.loop.on_poll = self.world.ask_always
        self.loop.set_exception_handler(self.on_exception)
        entropy = Entropy(self.loop.environment, seed=None)
        self.stack.enter_context(Execution(self.loop, entropy, is_watched=False))
        self.bench = make_bench(self.world, self.registry_class)
        self.stack.enter_context(log_captured(self.bench.logged.append))
        self.works: dict[str, Work] = {}
        self.was_late = False

    def on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:
            self.world.fail("no callback raises", repr(context.get("exception")))

    @initialize(strategies=st.runner().flatmap(lambda machine: st.sampled_from(machine.stories)))
    def choose_strategies(self, strategies: str) -> None:
        self.strategies = strategies

    # -- what the outside world does; `then` iterations run before anything else happens

    @rule(
        session_id=st.sampled_from(["s", "s", "s", "s", "t", None]),
        by=st.sampled_from([BY_REGISTER, BY_STREAM]),
        hangs=st.sampled_from([True, True, False]),
        strategy=st.sampled_from(["interrupt", "interrupt", "enqueue", "enqueue", "reject"]),
        then=ITERATIONS,
    )
    def register(
        self, session_id: str | None, by: str, hangs: bool, strategy: str, then: int
    ) -> None:
        name = f"p{len(self.works) + 1}"
        work = self.works[name] = Work(hangs=hangs)

        def arrive() -> None:
            known = hasattr(self.registry_class, "strategies")
            named = strategy if self.strategies == "all" else self.strategies
            chosen = Strategy(named) if known else None
            self.bench.request(name, session_id, work, by=by, strategy=chosen)

        self.loop.call_soon(arrive)
        self.iterate(then)

    @rule(which=WHICH, command=st.sampled_from(["emit", "finish", "release"]), then=ITERATIONS)
    @precondition(lambda self: self.works)
    def tell(self, which: int, command: str, then: int) -> None:
        """A stream emits, or ends, or obeys the cancel that it has swallowed."""

        def say(request: Request) -> None:
            work = self.works[request.name]
            work.released |= command == "release"
            work.commands.put_nowait("emit" if command == "emit" else "finish")

        self.loop.call_soon(self.to_one, which, say)
        self.iterate(then)

    @rule(which=WHICH, then=ITERATIONS)
    @precondition(lambda self: self.works)
    def cancel(self, which: int, then: int) -> None:
        def press_stop(request: Request) -> None:
            self.loop.create_task(self.bench.cancel(request.name))

        self.loop.call_soon(self.to_one, which, press_stop)
        self.iterate(then)

    @rule(which=WHICH, then=ITERATIONS)
    @precondition(lambda self: self.works)
    def leave(self, which: int, then: int) -> None:
        self.loop.call_soon(self.to_one, which, self.bench.leave)
        self.iterate(then)

    @rule(how_rarely=st.integers(0, 15), then=ITERATIONS)
    @precondition(lambda self: hasattr(self.bench.registry, "close") and self.works)
    def close(self, how_rarely: int, then: int) -> None:
        if how_rarely == 15:
            self.loop.create_task(self.bench.close())
        self.iterate(then)

    # -- how time passes

    @rule(late_s=st.sampled_from([0.0, 0.0, 0.004, 0.01]), deadlines=st.integers(1, 3))
    def deadlines_pass(self, late_s: float, deadlines: int) -> None:
        """The loop sleeps until the next deadlines, and wakes late."""
        for _ in range(deadlines):
            self.until_idle()
            self.loop.environment.advance(min(self.loop._next_deadline(), 1e6) + late_s)
            self.iterate()

    @rule(seconds=st.sampled_from([0.1, GRACE_S / 2, GRACE_S - 0.02]))
    def time_passes(self, seconds: float) -> None:
        """The loop sleeps, unless a deadline comes first."""
        self.until_idle()
        now = self.loop.environment.now
        self.loop.environment.advance(min(now + seconds, self.loop._next_deadline()))

    @rule()
    @precondition(lambda self: not self.was_late)
    def loop_is_late(self) -> None:
        """Time passes while callbacks are still to run, but once until the loop has slept."""
        self.was_late = True
        self.loop.environment.advance(self.loop.environment.now + self.loop.bounds.lateness_s)

    # -- what must hold

    @invariant()
    def nothing_is_violated(self) -> None:
        self.world.ask_always()
        violation = self.world.violation
        assert violation is None, f"{violation.property} ({violation.detail})"

    def teardown(self) -> None:
        with self.stack:
            try:
                if self.world.violation is None:
                    self.end_in_peace()
            finally:
                for work in self.works.values():
                    work.released = True
                _drain(self.loop, Outcome())
                self.loop.close()

    def end_in_peace(self) -> None:
        """Everything is released; then every register is answered, and nothing is left."""
        for work in self.works.values():
            work.released = True
            for _ in range(2):
                self.loop.call_soon(work.commands.put_nowait, "finish")
        quiet = self.loop.create_task(self.bench.quiet(), name="quiet")
        while not quiet.done():
            self.until_idle()
            deadline = self.loop._next_deadline()
            if deadline > 1e6:
                break
            self.loop.environment.advance(deadline)
            self.iterate()
        self.nothing_is_violated()
        pending = [task.get_name() for task in self.loop.tasks if not task.done()]
        assert quiet.done(), f"L4 no_deadlock: {pending} wait for what can no longer come"
        quiet.result()

    # -- the loop

    def to_one(self, which: int, what: Callable[[Request], None]) -> None:
        """Does it to one of the requests that are not over, the youngest first."""
        requests = [
            each for each in self.bench.requests if each.handler and not each.handler.done()
        ]
        if requests:
            what(requests[-1 - which % len(requests)])

    def iterate(self, times: int = 1) -> None:
        """Exactly `count` iterations of the loop; the clock moves only when a rule says so."""
        for _ in range(times):
            self.loop.end_run()
            self.loop.run_forever()

    def until_idle(self) -> None:
        for _ in range(SPIN_MAX):
            if not self.loop._ready:
                self.was_late = False
                return
            self.iterate()
        raise AssertionError("L4 no_deadlock: the loop spins while time stands still")
