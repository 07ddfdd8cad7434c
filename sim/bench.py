"""The bench: drives a registry as a chat server would, and judges what it sees.

The request handler creates the stream's task behind a gate, awaits register, and opens the gate;
the task's last act is `await pop`. If register raises or is cancelled, the handler cancels and
awaits the task, then pops. A registry with `stream()` is driven through that as well, and one
with `snapshot()` is judged by its states.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from registry import StreamRegistry
from registry.invariants import SENTENCES, STATE_INVARIANTS, StateInvariant
from registry.protocol import GRACE_S, State, Strategy, _Stream
from registry.stop_signal import StopSignals
from registry.stream import Stream
from sim.left_out import leave_out
from sim.observed_protocol import ObservedProtocol
from sim.violation import Kind
from sim.world import World

Work = Callable[["Request"], Awaitable[None]]

DOOR_ENTRY = "register and pop"
DOOR_STREAM = "stream()"


L4 = {
    Kind.DEADLOCK: "L4 no_deadlock: nothing waits for what can no longer come",
    Kind.LIVELOCK: "L4 no_deadlock: nothing spins while virtual time stands still",
    Kind.ENDLESS_STEP: "L4 no_deadlock: each step gives the loop back",
}
"""What the invariants call that which no program may do."""


def phrase_invariants(world: World) -> None:
    for kind, words in L4.items():
        world.phrase(kind, words)


def sentence(name: str) -> str:
    return f"{name}: {SENTENCES[name]}"


@dataclass(eq=False, slots=True)
class Request:
    """One prompt, as the bench's driver sees it. Times are virtual seconds."""

    bench: Bench
    name: str
    session_id: str | None
    # What it does where its session is busy; None for a registry that has but one way.
    strategy: Strategy | None = None
    asked_at: float = 0.0
    # How many registers of the session were unanswered at once while this one was.
    rivals: int = 1
    was_free: bool = False
    answer: str | None = None
    # From the call of register to its answer.
    waited_s: float | None = None
    popped: bool = False
    # Whether anybody has a reason to cancel its task: it was stopped, overtaken, or left.
    may_be_cancelled: bool = False
    works_upstream: bool = False
    # What its task still does after pop.
    after_pop: Work | None = None
    task: asyncio.Task[None] | None = None
    handler: asyncio.Task[None] | None = None
    stream: Stream | None = None

    def canonical_state(self) -> object:
        """What of it decides about the future; of what is over only what a story asks for."""
        asked_us = round(self.asked_at * 1e6)
        how = self.strategy and self.strategy.value
        asked = (asked_us, self.rivals, self.was_free, how) if self.answer is None else None
        told = self.name, self.session_id, self.answer, asked
        if self._is_over():
            # What it has left behind can still come to the stream's gate.
            return *told, self.stream, self.handler
        may = self.popped, self.may_be_cancelled, self.works_upstream, self.after_pop
        return *told, *may, self.stream, self.task, self.handler

    def _is_over(self) -> bool:
        """Whether its task is over, and S8 has nothing to find about it."""
        task = self.task
        return task is not None and task.done() and (self.may_be_cancelled or not task.cancelling())

    @property
    def interrupts(self) -> bool:
        return self.strategy in (None, Strategy.INTERRUPT)

    @property
    def is_active(self) -> bool:
        """Register has returned normally, and neither has pop returned nor is the task done."""
        return (
            self.answer == "admitted"
            and not self.popped
            and self.task is not None
            and not self.task.done()
        )

    async def outside(self, what: str, earliest: float = 0.0, latest: float | None = None) -> None:
        await self.bench.world.outside(f"{self.name} {what}", earliest=earliest, latest=latest)

    async def emit(self, content: str) -> None:
        """Through the gate where the registry has one."""
        if self.stream is not None:
            await self.stream.emit(self._send, content)
        else:
            await self._send(content)

    async def _send(self, content: str) -> None:
        self.bench.judge_emission(self, content)


@dataclass(eq=False)
class Bench:
    """One execution's registry under check, with the requests made of it."""

    world: World
    registry: Any
    # Whether the registry shows its states, and is judged by them.
    has_states: bool
    # Whether it is ours, so that all that we promise is judged.
    is_production: bool
    stop_signals: StopSignals
    grace_s: float = GRACE_S
    requests: list[Request] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def canonical_state(self) -> object:
        """Requests in any order; of what was logged, only what judgements look for."""
        requests = sorted(self.requests, key=lambda request: request.name)
        return self.registry, requests, sorted(set(filter(_is_of_timeout, self.logged)))

    # -- what scenarios do

    def request(
        self,
        name: str,
        session_id: str | None,
        work: Work,
        *,
        door: str = DOOR_ENTRY,
        strategy: Strategy | None = None,
    ) -> Request:
        """A prompt arrives now; its handler runs in a task of its own."""
        request = Request(self, name, session_id, strategy)
        self.requests.append(request)
        by_stream = door == DOOR_STREAM and hasattr(self.registry, "stream")
        handle = self._handle_by_stream if by_stream else self._handle_by_entry
        request.handler = asyncio.get_running_loop().create_task(
            handle(request, work), name=f"{name} handler"
        )
        return request

    async def arrives(
        self,
        name: str,
        session_id: str | None,
        work: Work,
        *,
        earliest: float = 0.0,
        latest: float | None = None,
        door: str = DOOR_ENTRY,
        strategy: Strategy | None = None,
    ) -> Request:
        """As `request`, when the outside world says so."""
        await self.world.outside(f"{name} arrives", earliest=earliest, latest=latest)
        return self.request(name, session_id, work, door=door, strategy=strategy)

    async def cancel(self, name: str) -> bool:
        for request in self.requests:
            if request.name == name:
                request.may_be_cancelled = True
        self.world.record(f"cancel({name})")
        return bool(await self.registry.cancel(name, "user_pressed_stop"))

    def leave(self, request: Request) -> None:
        """The caller goes away: its handler is cancelled."""
        assert request.handler is not None
        request.may_be_cancelled = True
        self.world.record(f"{request.name}'s caller leaves")
        request.handler.cancel()

    async def close(self) -> None:
        """Closes the registry, and judges how long that took (L5)."""
        for request in self.requests:
            request.may_be_cancelled = True
        begun = self.world.now
        await self.registry.close()
        lasted_s = self.world.now - begun
        in_time = lasted_s <= self.grace_s + self._slack_s()
        self.world.check(in_time, sentence("L5 shutdown"), f"close took {lasted_s:.3f} s")

    def door(self) -> str:
        """Which interface is used; ours has two, and both are explored."""
        if not hasattr(self.registry, "stream"):
            return DOOR_ENTRY
        return self.world.choose("door", (DOOR_ENTRY, DOOR_STREAM))

    async def quiet(self) -> None:
        """Waits until every request and every stream is over, then asks what is left (L3)."""
        requests = sorted(self.requests, key=lambda request: request.name)
        # One by one, and by name: in which order they came is over.
        for request in requests:
            for task in (request.handler, request.task):
                if task is not None and not task.done():
                    await asyncio.wait({task})
        # What is done about an end is done by callbacks, which are two steps behind.
        for _ in range(3):
            await asyncio.sleep(0)
        self._judge_leaks()

    # -- the handlers

    async def _handle_by_entry(self, request: Request, work: Work) -> None:
        gate = asyncio.Event()

        async def body() -> None:
            try:
                await gate.wait()
                await self._work(request, work)
            finally:
                await self.registry.pop(request.name)
                request.popped = True
                if request.after_pop is not None:
                    await self._work(request, request.after_pop)

        loop = asyncio.get_running_loop()
        request.task = task = loop.create_task(body(), name=request.name)
        entry = {"trace_id": request.name, "session_id": request.session_id, "task": task}
        entry |= _strategy_of(request)
        self._asked(request)
        try:
            request.stream = await self.registry.register(entry)
        except asyncio.CancelledError:
            self._answered(request, "left")
            self._judge_left(request)
            await self._abandon(request, task)
            raise
        except Exception as exc:
            if self.world.is_own_fault(exc):
                raise
            self._answered(request, f"refused: {type(exc).__name__}")
            await self._abandon(request, task)
            return
        self._answered(request, "admitted")
        gate.set()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await self._abandon(request, task)
            raise

    async def _abandon(self, request: Request, task: asyncio.Task[None]) -> None:
        request.may_be_cancelled = True
        task.cancel()
        await asyncio.wait({task})
        await self.registry.pop(request.name)
        request.popped = True

    async def _handle_by_stream(self, request: Request, work: Work) -> None:
        request.task = asyncio.current_task()
        self._asked(request)
        try:
            async with self.registry.stream(
                request.session_id, trace_id=request.name, **_strategy_of(request)
            ) as request.stream:
                self._answered(request, "admitted")
                await self._work(request, work)
        except asyncio.CancelledError:
            if request.answer is None:
                self._answered(request, "left")
            raise
        except Exception as exc:
            if self.world.is_own_fault(exc):
                raise
            if request.answer is None:
                self._answered(request, f"refused: {type(exc).__name__}")
            else:
                self.world.record(f"ends with {type(exc).__name__}", actor=request.name)

    async def _work(self, request: Request, work: Work) -> None:
        self._judge_upstream(request)
        request.works_upstream = True
        try:
            await work(request)
        finally:
            request.works_upstream = False

    # -- what the driver sees

    def _asked(self, request: Request) -> None:
        self.world.record("registers", actor=request.name)
        request.asked_at = self.world.now
        others = [other for other in self._of_session(request) if other is not request]
        unanswered = [other for other in others if other.answer is None]
        request.was_free = not any(self._holds(other) for other in others)
        for other in others if request.interrupts else ():
            # Ours to stop or to overtake from now on.
            other.may_be_cancelled = True
        for other in (*unanswered, request):
            other.rivals = max(other.rivals, len(unanswered) + 1)
        if unanswered:
            self.world.reached("registers raced")

    def _holds(self, request: Request) -> bool:
        if request.answer is None:
            return True
        if self.has_states:
            return self.state_of(request) in (State.ACTIVE, State.STOPPING)
        return request.task is not None and not request.task.done()

    def _answered(self, request: Request, answer: str) -> None:
        request.answer = answer
        self.world.record(f"register: {answer}", actor=request.name)
        request.waited_s = waited_s = self.world.now - request.asked_at
        if answer != "left":
            self._judge_wait(request, waited_s)
        if answer == "admitted":
            if waited_s > self.grace_s / 2:
                self.world.reached("admitted after a wait")
            self._judge_one_active(request)

    def _of_session(self, request: Request) -> Iterator[Request]:
        if request.session_id:
            for other in self.requests:
                if other.session_id == request.session_id and other.handler is not None:
                    yield other

    def state_of(self, request: Request) -> State | None:
        for view in self.registry.snapshot().streams:
            if view.trace_id == request.name:
                return State(view.state)
        return None

    # -- judgements

    def watch(self) -> None:
        """What is asked at every poll."""
        self.world.always(sentence("L1 admission"), self._none_waits_too_long)
        self.world.always(sentence("S8 identity"), self._cancels_have_reasons)
        if self.is_production:
            self.world.always(sentence("L1 admission"), self._no_grace_is_overrun)
        elif self.has_states:
            for invariant in STATE_INVARIANTS:
                self.world.always(sentence(invariant.name), partial(self._state_holds, invariant))

    def _state_holds(self, invariant: StateInvariant) -> bool:
        return invariant.holds(self.registry.snapshot())

    def _slack_s(self) -> float:
        # A register is answered some iterations after its deadline, and each may be late.
        return 5 * self.world.lateness_s

    def _wait_max_s(self, request: Request) -> float:
        if request.strategy is Strategy.REJECT:
            return 1e-6
        if request.strategy is Strategy.ENQUEUE:
            return QUEUE_S + self._slack_s()
        rivals = 1 if self.is_production else request.rivals
        return self.grace_s * rivals + self._slack_s()

    def _none_waits_too_long(self) -> bool:
        now = self.world.now
        return all(
            now - request.asked_at <= self._wait_max_s(request)
            for request in self.requests
            if request.answer is None and request.task is not None
        )

    def _no_grace_is_overrun(self) -> bool:
        """Who stops is detached or overdue when its grace is over, also if nobody waits."""
        latest = self.world.now - self._slack_s()
        return all(
            stream.overdue or stream.grace_deadline is None or stream.grace_deadline >= latest
            for stream in self.registry.snapshot().in_state(State.STOPPING)
        )

    def _judge_wait(self, request: Request, waited_s: float) -> None:
        seen = f"{request.name} waited {waited_s:.3f} s"
        self.world.check(waited_s <= self._wait_max_s(request), sentence("L1 admission"), seen)
        if request.was_free:
            instant = waited_s <= (1e-6 if self.is_production else self._slack_s())
            self.world.check(instant, sentence("S6 isolation"), f"{seen} for a free session")

    def _judge_one_active(self, request: Request) -> None:
        if self.has_states:
            return
        active = [other.name for other in self._of_session(request) if other.is_active]
        self.world.check(
            len(active) <= 1, sentence("S1 one_active"), f"{' and '.join(active)} are active"
        )

    def _judge_left(self, request: Request) -> None:
        """Who has left the register neither waits any more nor holds the session."""
        if not self.is_production:
            return
        state = self.state_of(request)
        gone = state not in (State.WAITING, State.ACTIVE)
        self.world.check(gone, sentence("L3 no_leak"), f"{request.name} has left, and is {state}")

    def _judge_upstream(self, request: Request) -> None:
        """S3, for streams that work upstream from their admission until their task is over."""
        if not self.has_states:
            return
        for other in self._of_session(request):
            if other is request or not other.works_upstream:
                continue
            logged = any(
                _is_of_timeout(line) and line.endswith(f"trace={other.name}")
                for line in self.logged
            )
            fenced_off = self.state_of(other) is State.DETACHED
            self.world.check(
                fenced_off and (logged or not self.is_production),
                sentence("S3 no_silent_overlap"),
                f"{other.name} is {self.state_of(other)} while {request.name} begins",
            )
            self.world.reached("upstream overlap, fenced off")

    def judge_emission(self, request: Request, content: str) -> None:
        if not self.has_states:
            return
        state = self.state_of(request)
        self.world.check(
            state is State.ACTIVE,
            sentence("S2 only_active_emits"),
            f"{request.name} emitted {content!r} in state {state}",
        )

    def _cancels_have_reasons(self) -> bool:
        return all(
            request.may_be_cancelled
            for request in self.requests
            if request.task is not None and request.task.cancelling()
        )

    def _judge_leaks(self) -> None:
        leaked = [
            request.name for request in self.requests if _reaches(self.registry, request.task)
        ]
        self.world.check(not leaked, sentence("L3 no_leak"), f"entries of {', '.join(leaked)}")
        if self.has_states:
            left = self.registry.snapshot().streams
            self.world.check(not left, sentence("L3 no_leak"), f"{left}")
        if self.is_production:
            timers = [handle for handle in self.world.loop._scheduled if not handle.cancelled()]
            self.world.check(not timers, sentence("L3 no_leak"), f"timers {timers}")
            flags = len(self.stop_signals)
            self.world.check(not flags, sentence("L3 no_leak"), f"{flags} stop signals")


# When a stream became ACTIVE is told by a log line, and decides nothing.
leave_out(_Stream, "started_at")


def _strategy_of(request: Request) -> dict[str, Any]:
    return {} if request.strategy is None else {"strategy": request.strategy}


def _is_of_timeout(line: str) -> bool:
    return line.startswith("prev_stream_timeout_on_cancel")


def make_bench(world: World, cls: type[Any]) -> Bench:
    """The registry of a class under check, made afresh, with its bench."""
    is_production = issubclass(cls, StreamRegistry)
    stop_signals = StopSignals()
    registry = (
        cls(protocol=ObservedProtocol(world, **LIMITS), stop_signals=stop_signals)
        if is_production
        else cls()
    )
    has_states = hasattr(registry, "snapshot") and hasattr(registry, "stream")
    bench = Bench(
        world,
        registry,
        has_states=has_states,
        is_production=is_production,
        stop_signals=stop_signals,
    )
    phrase_invariants(world)
    bench.watch()
    return bench


# How long an enqueued stream may wait on the bench.
QUEUE_S = 20.0
# Few streams may be DETACHED, or enqueued, so that the limits are within its reach.
LIMITS: dict[str, float] = {
    "grace_s": GRACE_S,
    "detached_per_session_max": 1,
    "detached_max": 2,
    "queue_max": 2,
    "queue_s": QUEUE_S,
}


def _reaches(registry: object, task: object) -> bool:
    """Whether the task, and so the entry that holds it, is reachable from the registry."""
    if task is None:
        return False
    seen = {id(registry)}
    todo = [registry]
    while todo:
        for each in gc.get_referents(todo.pop()):
            if each is task:
                return True
            if id(each) in seen or isinstance(each, _NOT_FOLLOWED):
                continue
            seen.add(id(each))
            todo.append(each)
    return False


# The world and the loop know every task; what a registry keeps, it keeps in its own objects.
_NOT_FOLLOWED = (
    type,
    ModuleType,
    FunctionType,
    MethodType,
    str,
    int,
    float,
    asyncio.AbstractEventLoop,
    World,
    logging.Logger,
)
