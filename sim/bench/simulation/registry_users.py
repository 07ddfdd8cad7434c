"""A plan at registry level: requests of a registry alone, with nothing around it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from registry import Strategy, wording
from registry.errors import StreamError
from sim.bench.harness.judgement import Judges, Moment
from sim.bench.harness.log_capture import LogLine
from sim.bench.harness.registry_bench import BY_REGISTER, BY_STREAM, PRESSED, Bench, Request, Work
from sim.bench.simulation import script
from sim.bench.simulation.judgements import REGISTRY, REGISTRY_OVER_S, Turn, sessions_of
from sim.bench.simulation.plan import Action, Plan
from sim.bench.simulation.profiles import CLEANS_UP, SWALLOWS
from sim.bench.simulation.statistics import Statistics

CHUNKS, CHUNK_S = 4, 0.25

_REFUSALS = {
    "refused: StreamRefused": "refused",
    "refused: RegistryClosed": "refused",
    "refused: QueueFull": "queue full",
    "refused: QueueTimeout": "queue timeout",
    "refused: SessionBusy": "session busy",
}


class RegistryUsers:
    """All callers of the registry, in one execution."""

    def __init__(self, bench: Bench, plan: Plan, happened: Statistics) -> None:
        self._bench = bench
        self._judges = Judges(bench.world, bench, REGISTRY)
        self._world = bench.world
        self._plan = plan
        self._happened = happened
        self._closing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._has_strategies = hasattr(bench.registry, "strategies")
        self._superseded: set[str] = set()

    async def play(self, bench: Bench) -> None:
        await script.play(self._world, self._plan, self._act)
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._closing is None:
            self._world.record("all faults are healed", actor="outside")
            await self._until_over()
            await self._prompt_again()
        for together in sessions_of(self._turns()):
            self._judges.ask(Moment.TURNS, together, 0.0)

    def _turns(self) -> Iterator[Turn]:
        """Handlers begin in the order of their requests, so that this is the one of registers."""
        for request in self._bench.requests:
            admitted_at = math.inf
            if request.answer == "admitted" and request.waited_s is not None:
                admitted_at = request.asked_at + request.waited_s
            yield Turn(
                request.name,
                request.session_id or request.name,
                request.strategy or Strategy.INTERRUPT,
                request.asked_at,
                admitted_at,
                request.name in self._superseded,
            )

    def logged(self, line: LogLine) -> None:
        counts = self._happened.counts
        counts["detached"] += line.says(wording.TIMEOUT_ON_CANCEL)
        counts["stopped"] += line.says(wording.STREAM_CANCELLED, reason=PRESSED)
        if line.says(wording.STREAM_CANCELLED, reason=wording.NEW_STREAM_REGISTERED):
            counts["superseded"] += 1
            self._superseded.add(line.fields["trace"])

    def _act(self, action: Action) -> None:
        loop = self._world.loop
        match action.kind:
            case "prompt":
                self._happened.counts["prompts"] += 1
                by = BY_STREAM if action.stream else BY_REGISTER
                session = f"{action.key}/{action.session}"
                work = self._work(action)
                self._bench.request(
                    action.name, session, work, by=by, strategy=self._strategy_of(action)
                )
            case "leave" | "stop":
                request = next((r for r in self._bench.requests if r.name == action.name), None)
                if request is None or request.handler is None or request.handler.done():
                    return
                if action.kind == "leave":
                    self._happened.counts["left"] += 1
                    self._bench.leave(request)
                else:
                    self._tasks.append(loop.create_task(self._bench.cancel(action.name)))
            case "SIGTERM" if hasattr(self._bench.registry, "close"):
                self._happened.counts["SIGTERM mid-stream"] += any(
                    request.is_active for request in self._bench.requests
                )
                self._closing = loop.create_task(self._bench.close(), name="close")
                self._tasks.append(self._closing)

    def _strategy_of(self, action: Action) -> Strategy | None:
        return action.strategy if self._has_strategies else None

    def _work(self, action: Action) -> Work:
        async def work(request: Request) -> None:
            try:
                for serial in range(CHUNKS):
                    await request.outside(f"chunk {serial}", CHUNK_S, CHUNK_S)
                    await request.emit(f"chunk {serial}")
                self._happened.counts["answered whole"] += 1
            except asyncio.CancelledError:
                if action.how == CLEANS_UP:
                    self._happened.faults[CLEANS_UP] += 1
                    await request.outside("has cleaned up", action.seconds, action.seconds)
                if action.how == SWALLOWS:
                    self._happened.faults[SWALLOWS] += 1
                    await request.hold_on(
                        action.seconds, "chunk too many", parts_s=CHUNK_S, meanwhile=_emit_too_many
                    )
                raise

        return work

    async def _until_over(self) -> None:
        handlers = [r.handler for r in self._bench.requests if r.handler is not None]
        tasks = [r.task for r in self._bench.requests if r.task is not None]
        pending = [task for task in (*handlers, *tasks) if not task.done()]
        if pending:
            await asyncio.wait(pending, timeout=REGISTRY_OVER_S)
        late = [task.get_name() for task in pending if not task.done()]
        self._judges.ask(Moment.LATE, late)

    async def _prompt_again(self) -> None:
        async def instant(request: Request) -> None:
            await request.emit("chunk 1")

        last = [
            self._bench.request(f"last of {key}/{session}", f"{key}/{session}", instant)
            for key, session in self._plan.users
        ]
        self._happened.counts["prompts"] += len(last)
        if not last:
            return
        await asyncio.wait([r.handler for r in last if r.handler is not None])
        for request in last:
            self._judges.ask(Moment.HEALED, request)
        self._happened.counts["healed, and answered"] += len(last)

    def summarise(self) -> None:
        for request in self._bench.requests:
            if request.answer == "admitted" and request.waited_s is not None:
                enqueued = request.strategy is Strategy.ENQUEUE
                self._happened.admitted(request.waited_s, enqueued=enqueued)
            elif (counted := _REFUSALS.get(request.answer or "")) is not None:
                self._happened.counts[counted] += 1
        overdue = "row graceexpired: stopping, at the limit of detached streams"
        self._happened.counts["overdue"] += overdue in self._world.labels


async def _emit_too_many(request: Request) -> None:
    # The gate, if the registry has one, raises; this stream ignores it.
    with suppress(StreamError):
        await request.emit("chunk too many")
