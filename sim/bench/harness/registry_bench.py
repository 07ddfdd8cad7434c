"""The bench: drives a registry as a chat server would, and reports to its judges what it sees.

The request handler creates the stream's task behind a gate, awaits register, and opens the gate;
the task's last act is `await pop`. If register raises or is cancelled, the handler cancels and
awaits the task, then pops. A registry with `stream()` is driven through that as well. What is
asked of which registry stands in `sim/bench/harness/registry_judgements.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import InitVar, dataclass, field
from typing import Any

from registry.protocol import GRACE_S, State, Strategy, StreamView
from registry.stop_signal import StopSignals
from registry.stream import Stream
from registry.wording import TIMEOUT_ON_CANCEL
from sim.bench.harness.judgement import Judgements, Judges, Moment
from sim.bench.harness.log_capture import LogLine
from sim.bench.harness.state_words import words_of_streams
from sim.kernel.violation import Kind
from sim.kernel.world import World

Work = Callable[["Request"], Awaitable[None]]

BY_REGISTER = "register and pop"
BY_STREAM = "stream()"

# The reason of a cancel by name.
PRESSED = "user_pressed_stop"

L4 = {
    Kind.DEADLOCK: "L4 no_deadlock: nothing waits for what can no longer come",
    Kind.LIVELOCK: "L4 no_deadlock: nothing spins while virtual time stands still",
    Kind.ENDLESS_STEP: "L4 no_deadlock: each step gives the loop back",
}
"""The invariants' sentences for the kinds of violations that no program may have."""


def phrase_invariants(world: World) -> None:
    for kind, words in L4.items():
        world.phrase(kind, words)


@dataclass(eq=False, slots=True)
class Request:
    """One prompt, as the bench's driver sees it. Times are virtual seconds."""

    bench: Bench
    name: str
    session_id: str | None
    # What it does where its session is busy; None for a registry without a choice.
    strategy: Strategy | None = None
    asked_at: float = 0.0
    # How many registers of the session were unanswered at once while this one was.
    rivals: int = 1
    was_free: bool = False
    answer: str | None = None
    # From the call of register to its answer.
    waited_s: float | None = None
    popped: bool = False
    # Whether there is a reason to cancel its task: it was stopped, overtaken, or left; and how many
    # cancels by its name are not answered, which are reasons unless they answer false.
    may_be_cancelled: bool = False
    cancels_unanswered: int = 0
    # When a cancel by its name should have stopped it; None if it was not active then.
    stop_due_at: float | None = None
    # Whether a cancel by its name answered true before its register was answered.
    was_called_off: bool = False
    # Whether its caller has gone away, and whether its register was repeated and is not answered.
    has_left: bool = False
    is_repeated: bool = False
    # What its register raised, where it was refused, and what its stream's work did.
    refusal: Exception | None = None
    failure: Exception | None = None
    works_upstream: bool = False
    # What its task still does after pop.
    after_pop: Work | None = None
    task: asyncio.Task[None] | None = None
    handler: asyncio.Task[None] | None = None
    stream: Stream | None = None

    def canonical_state(self) -> object:
        """All of it that decides what happens next; of what is over only what scenarios read."""
        asked_us = round(self.asked_at * 1e6)
        how = self.strategy and self.strategy.value
        asked = (asked_us, self.rivals, self.was_free, how) if self.answer is None else None
        always = self.name, self.session_id, self.answer, asked, self.failure is not None
        if self._is_over():
            # A task that it has left behind can still reach the stream's gate.
            return *always, self.stream, self.handler
        may = self.popped, self.may_be_cancelled, self.works_upstream, self.after_pop
        stops = self.cancels_unanswered, self.stop_due_at, self.was_called_off, self.has_left
        repeated = self.is_repeated
        return *always, *may, *stops, repeated, self.stream, self.task, self.handler

    def _is_over(self) -> bool:
        """Whether its task is over, and S8 has nothing to find about it."""
        task = self.task
        return task is not None and task.done() and (self.has_reason or not task.cancelling())

    @property
    def has_reason(self) -> bool:
        """Whether its task may be cancelled, or its register refused."""
        return self.may_be_cancelled or self.cancels_unanswered > 0

    @property
    def is_unanswered(self) -> bool:
        return self.answer is None or self.is_repeated

    @property
    def is_gone(self) -> bool:
        """Whether its task is over, and the registry has had its turn to notice."""
        return all(each is not None and each.done() for each in (self.task, self.handler))

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
        self.bench.judges.ask(Moment.EMITS, self, content)

    async def hold_on(
        self,
        seconds: float,
        doing: str = "lets go at last",
        *,
        parts_s: float = math.inf,
        meanwhile: Work | None = None,
    ) -> None:
        """Continues regardless, however often it is cancelled.

        meanwhile: what it does after each part of that time.
        """
        until = self.bench.world.now + seconds
        while (left := until - self.bench.world.now) > 0:
            with suppress(asyncio.CancelledError):
                await self.outside(doing, min(left, parts_s), min(left, parts_s))
            if meanwhile is not None:
                await meanwhile(self)


@dataclass(eq=False)
class Bench:
    """One execution's registry under check, with the requests made of it."""

    world: World
    registry: Any
    judgements: InitVar[Judgements]
    # Whether the registry has snapshots with the states of its streams.
    shows_states: bool = True
    stop_signals: StopSignals = field(default_factory=StopSignals)
    grace_s: float = GRACE_S
    requests: list[Request] = field(default_factory=list)
    logged: list[LogLine] = field(default_factory=list)
    # Those that a cancel by name should stop.
    to_be_stopped: list[Request] = field(default_factory=list)
    is_closed: bool = False

    def __post_init__(self, judgements: Judgements) -> None:
        phrase_invariants(self.world)
        self.judges = Judges(self.world, self, judgements)
        self.world.shows(self.holding, self.values if self.shows_states else None)
        # A register is answered some iterations after its deadline, and each may be late.
        self.slack_s = 5 * self.world.lateness_s

    def canonical_state(self) -> object:
        """Requests in any order; of what was logged, only what judgements look for."""
        requests = sorted(self.requests, key=lambda request: request.name)
        timeouts = {line.text for line in self.logged if line.says(TIMEOUT_ON_CANCEL)}
        return self.registry, requests, sorted(timeouts)

    def holding(self) -> dict[str, str]:
        return {each.name: "is active" for each in self.requests if each.is_active}

    def values(self) -> dict[str, str]:
        return words_of_streams(
            self.registry.snapshot(), {each.name: each.name for each in self.requests}
        )

    def hear(self, line: LogLine) -> None:
        """A line of the log; by this method, since a list of its own would count as a state."""
        self.logged.append(line)

    # -- what scenarios do

    def request(
        self,
        name: str,
        session_id: str | None,
        work: Work,
        *,
        by: str = BY_REGISTER,
        strategy: Strategy | None = None,
    ) -> Request:
        """A prompt arrives now; its handler runs in a task of its own."""
        request = Request(self, name, session_id, strategy)
        self.requests.append(request)
        by_stream = by == BY_STREAM and hasattr(self.registry, "stream")
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
        **asked: Any,
    ) -> Request:
        """As `request`, when the outside world says so."""
        await self.world.outside(f"{name} arrives", earliest=earliest, latest=latest)
        return self.request(name, session_id, work, **asked)

    async def cancel(self, name: str) -> bool:
        """Stops a stream by its name, which need not be known."""
        named = [each for each in self.requests if each.name == name and not each.is_gone]
        for request in named:
            request.cancels_unanswered += 1
            # A registry need not know a stream that has no session, nor one that waits.
            if request.is_active and request.session_id:
                self._stop_is_due(request)
        self.world.record(f"cancel({name})")
        try:
            with self._judged(f"cancel({name})"):
                answer = await self.registry.cancel(name, PRESSED)
        finally:
            for request in named:
                request.cancels_unanswered -= 1
        for request in named:
            # None is no answer.
            if answer is None or answer:
                request.may_be_cancelled = True
            if answer and request.answer is None:
                request.was_called_off = True
            elif answer and request.is_active:
                self._stop_is_due(request)
        self.judges.ask(Moment.CANCELLED, name, named, answer)
        return bool(answer)

    def _stop_is_due(self, request: Request) -> None:
        if request.stop_due_at is None:
            request.stop_due_at = self.world.now + self.slack_s
            self.to_be_stopped.append(request)

    def leave(self, request: Request) -> None:
        """The caller goes away: its handler is cancelled."""
        assert request.handler is not None
        request.may_be_cancelled = request.has_left = True
        self.world.record(f"{request.name}'s caller leaves")
        request.handler.cancel()

    async def pop(self, name: str) -> None:
        """The end of a stream is reported, maybe once more."""
        with self._judged(f"pop({name})"):
            await self.registry.pop(name)

    async def register_again(self, request: Request) -> None:
        """A stream that is registered already, by the same entry: a call that is repeated.

        What the registry makes of it is its own affair, as far as this session goes. It answers,
        and leaves nothing behind.
        """
        assert request.task is not None
        rivals = [each for each in self.of_session(request) if each.is_unanswered]
        for other in self.of_session(request):
            other.may_be_cancelled = True
        for rival in rivals:
            rival.rivals += 1
        request.is_repeated = request.may_be_cancelled = True
        begun = self.world.now
        self.world.record("registers again", actor=request.name)
        entry = {"trace_id": request.name, "session_id": request.session_id, "task": request.task}
        cancels = _cancels()
        try:
            await self.registry.register(entry)
        except asyncio.CancelledError:
            if _cancels() <= cancels and not self._is_stopped(request, begun):
                self.judges.ask(Moment.REPEATED_LEFT, request)
            raise
        except Exception as exc:
            if self.world.is_own_fault(exc):
                raise
            self.world.record(f"registers again: {type(exc).__name__}", actor=request.name)
        finally:
            request.is_repeated = False
        self.judges.ask(Moment.REPEATED, request, self.world.now - begun)
        if request.task.done():
            await self.pop(request.name)

    @contextmanager
    def _judged(self, what: str) -> Iterator[None]:
        """Of a call that has to return."""
        cancels = _cancels()
        try:
            yield
        except asyncio.CancelledError as exc:
            # Unless somebody has cancelled its caller meanwhile.
            if _cancels() <= cancels:
                self.judges.ask(Moment.RAISED, what, exc)
            raise
        except Exception as exc:
            if not self.world.is_own_fault(exc):
                self.judges.ask(Moment.RAISED, what, exc)
            raise

    def judge_call(self, call: asyncio.Task[None]) -> None:
        """One in a task of its own, which is over: nobody has a reason to cancel that task."""
        exc = asyncio.CancelledError() if call.cancelled() else call.exception()
        if exc is not None and not self.world.is_own_fault(exc):
            self.judges.ask(Moment.RAISED, call.get_name(), exc)

    def _is_stopped(self, request: Request, since: float) -> bool:
        """Whether its stream was stopped, or may be by one that came since then."""
        others = [each for each in self.of_session(request) if each is not request]
        is_overtaken = any(each.is_unanswered or each.asked_at >= since for each in others)
        is_told = request.task is not None and (request.task.done() or request.task.cancelling())
        return bool(is_told or is_overtaken or request.cancels_unanswered or self.is_closed)

    async def close(self) -> None:
        """Closes the registry, which is judged by how long that takes."""
        for request in self.requests:
            request.may_be_cancelled = True
        self.is_closed = True
        begun = self.world.now
        with self._judged("close()"):
            await self.registry.close()
        self.judges.ask(Moment.CLOSED, self.world.now - begun)

    def entry_point(self) -> str:
        """Which interface is used; ours has two, and both are explored."""
        if not hasattr(self.registry, "stream"):
            return BY_REGISTER
        return self.world.choose("entry point", (BY_REGISTER, BY_STREAM))

    async def quiet(self) -> None:
        """Waits until every request and every stream is over; what remains then is judged."""
        requests = sorted(self.requests, key=lambda request: request.name)
        # One by one, and by name: in which order they came is over.
        for request in requests:
            for task in (request.handler, request.task):
                if task is not None and not task.done():
                    await asyncio.wait({task})
        # What is done about an end is done by callbacks, which are two steps behind.
        for _ in range(3):
            await asyncio.sleep(0)
        self.judges.ask(Moment.QUIET)

    # -- the handlers

    async def _handle_by_entry(self, request: Request, work: Work) -> None:
        gate = asyncio.Event()

        async def body() -> None:
            try:
                await gate.wait()
                await self._work(request, work)
            finally:
                await self.pop(request.name)
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
            self.judges.ask(Moment.LEFT, request)
            await self._abandon(request, task)
            raise
        except Exception as exc:
            if self.world.is_own_fault(exc):
                raise
            self._refused(request, exc)
            await self._abandon(request, task)
            return
        self._answered(request, "admitted")
        gate.set()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await self._abandon(request, task)
            raise
        if not request.popped:
            # It was cancelled before its first step, so that nothing of it has run.
            await self._pop_once_more(request)

    async def _abandon(self, request: Request, task: asyncio.Task[None]) -> None:
        request.may_be_cancelled = True
        task.cancel()
        await asyncio.wait({task})
        await self._pop_once_more(request)

    async def _pop_once_more(self, request: Request) -> None:
        await self.pop(request.name)
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
                self.judges.ask(Moment.LEFT, request)
            raise
        except Exception as exc:
            if self.world.is_own_fault(exc):
                raise
            if request.answer is None:
                self._refused(request, exc)
            else:
                self.world.record(f"ends with {type(exc).__name__}", actor=request.name)

    async def _work(self, request: Request, work: Work) -> None:
        self.judges.ask(Moment.BEGINS, request)
        request.works_upstream = True
        try:
            await work(request)
        except Exception as exc:
            request.failure = exc
            raise
        finally:
            request.works_upstream = False

    # -- what the driver sees

    def _asked(self, request: Request) -> None:
        self.world.record("registers", actor=request.name)
        request.asked_at = self.world.now
        others = [other for other in self.of_session(request) if other is not request]
        unanswered = [other for other in others if other.is_unanswered]
        request.was_free = not any(self._holds(other) for other in others)
        for other in others if request.interrupts else ():
            # May be stopped or overtaken from now on.
            other.may_be_cancelled = True
        for other in (*unanswered, request):
            other.rivals = max(other.rivals, len(unanswered) + 1)
        if unanswered:
            self.world.reached("registers raced")

    def _holds(self, request: Request) -> bool:
        if request.answer is None:
            return True
        if self.shows_states:
            return self.state_of(request) in (State.ACTIVE, State.STOPPING)
        return request.task is not None and not request.task.done()

    def _refused(self, request: Request, exc: Exception) -> None:
        request.refusal = exc
        self._answered(request, f"refused: {type(exc).__name__}")

    def _answered(self, request: Request, answer: str) -> None:
        request.answer = answer
        self.world.record(f"register: {answer}", actor=request.name)
        request.waited_s = waited_s = self.world.now - request.asked_at
        if answer != "left":
            self.judges.ask(Moment.ANSWERED, request, waited_s)
        if answer == "admitted":
            if request.was_called_off:
                self._stop_is_due(request)
            if waited_s > self.grace_s / 2:
                self.world.reached("admitted after a wait")
            self.judges.ask(Moment.ADMITTED, request)

    def of_session(self, request: Request) -> Iterator[Request]:
        if request.session_id:
            for other in self.requests:
                if other.session_id == request.session_id and other.handler is not None:
                    yield other

    def streams(self) -> tuple[StreamView, ...]:
        """As the registry's snapshot shows them; none for a registry without one."""
        return self.registry.snapshot().streams if self.shows_states else ()

    def state_of(self, request: Request) -> State | None:
        views = (view for view in self.streams() if view.trace_id == request.name)
        return next((State(view.state) for view in views), None)

    def has_logged_timeout_of(self, request: Request) -> bool:
        return any(line.says(TIMEOUT_ON_CANCEL, trace=request.name) for line in self.logged)


def _cancels() -> int:
    """How often the calling task was cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _strategy_of(request: Request) -> dict[str, Any]:
    return {} if request.strategy is None else {"strategy": request.strategy}


# How long an enqueued stream may wait in the bench.
QUEUE_S = 20.0
# Few streams may be DETACHED, or enqueued, so that the limits are within its reach.
LIMITS: dict[str, float] = {
    "grace_s": GRACE_S,
    "detached_per_session_max": 1,
    "detached_max": 2,
    "queue_max": 2,
    "queue_s": QUEUE_S,
}
