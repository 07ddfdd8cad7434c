"""A worker of a cluster: a process that serves prompts, with production's registry and leases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from registry import StopSignals, Strategy, Stream, StreamError
from registry.attempts import Attempt
from registry.lease_records import LeaseLimits, LeaseOperation, LeaseSnapshot, Message, Reply
from server.stores.lease import End, Lease
from server.stores.leased_registry import LeasedRegistry
from server.stores.store import StoreUnreachable
from sim.bench.harness.judgement import Judges, Moment
from sim.bench.harness.store_trips import Trips
from sim.kernel.hosts.host import Host, Process
from sim.kernel.loop import SimLoop
from sim.kernel.origin import modelled
from sim.kernel.world import World

# Shorter than production's, in the same order: each renewal is a step of every execution.
RENEW_S = 1.0
POLL_S = 0.5
CALL_S = 0.5
QUEUE_S = 60.0
LET_IN = "let in"


class Surroundings(Protocol):
    """What a worker uses of its bench."""

    world: World
    limits: LeaseLimits
    judges: Judges
    served: list[Served]
    cancelled: tuple[str, ...]
    trips: Trips

    def request(self, link: Link, number: int, operation: LeaseOperation) -> None: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a client asks of a worker. Times are seconds, by the worker's clock where it runs.

    name: also the trace id. life_s: how long its stream goes on if nobody stops it. cleanup_s: how
    long it takes to stop. leaves_s: how long its client waits to be let in; for ever if None.
    """

    name: str
    session: str = "s"
    earliest_s: float = 0.5
    latest_s: float = 0.5
    strategy: Strategy = Strategy.INTERRUPT
    life_s: float = 1.0
    cleanup_s: float = 0.1
    leaves_s: float | None = None
    # What it asks, where the store is to know it again; and whether a library sends it again.
    asks: str = ""
    is_repetition: bool = False


@dataclass(frozen=True, slots=True)
class Press:
    """A stop by name, at a worker, for a stream of another: WORKER and TRACE_ID."""

    worker: str
    trace_id: str
    earliest_s: float
    latest_s: float
    session: str = "s"


class Served:
    """One prompt at one worker, as the bench sees it."""

    def __init__(self, worker: Worker, link: Link, prompt: Prompt) -> None:
        self.worker, self.run, self.prompt = worker, link.run, prompt
        self.name = f"{link.name}/{prompt.name}"
        # Made with the register.
        self.lease: Lease | None = None
        # When it was asked for, by the world's clock.
        self.asked_s = worker.bench.world.now
        self.answer = ""
        # From its admission until its clean-up is over, it has a call to Ollama.
        self.works_upstream = False
        self.is_over = False

    def canonical_state(self) -> object:
        """All of it that decides what happens next."""
        asked_us = 0 if self.answer else round(self.asked_s * 1e6)
        if self.is_gone:
            return self.name, self.answer
        return self.name, self.prompt, asked_us, self.answer, self.works_upstream, self.lease

    @property
    def keeper(self) -> str:
        """The task that keeps its lease, as traces call it."""
        return f"{self.run.loop.lane}acquire-{self.prompt.name}"

    @property
    def is_gone(self) -> bool:
        """It is over, or its process is."""
        return self.is_over or bool(self.run.is_over)

    @property
    def is_open(self) -> bool:
        return not self.is_gone and self.lease is not None and self.lease.is_open


class Link:
    """A run of a worker, and its way to the store: production's interface `SessionStore`."""

    def __init__(self, worker: Worker, name: str) -> None:
        self.worker, self.name = worker, name
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        self.loop = loop
        run = worker.process.run
        assert run is not None
        self.run = run
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = 0
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.registry = LeasedRegistry(
            self,
            name,
            clock=worker.clock,
            queue_s=QUEUE_S,
            stop_signals=StopSignals(),
            renew_s=RENEW_S,
            poll_s=POLL_S,
            lease_class=cast("type[Lease]", self._make_lease),
        )

    @property
    def limits(self) -> LeaseLimits:
        return self.worker.bench.limits

    async def start(self) -> None:
        """What production's stores check is real here by construction."""

    async def ask(self, operation: LeaseOperation) -> Reply:
        number, self._numbers = self._numbers, self._numbers + 1
        self._waiting[number] = future = self.loop.create_future()
        self.worker.bench.request(self, number, operation)
        try:
            async with asyncio.timeout(CALL_S):
                reply: Reply = await future
                self.worker.bench.trips.is_read(self.name, number, self.worker.host.clock)
                return reply
        except TimeoutError:
            raise modelled(StoreUnreachable("no answer")) from None
        finally:
            del self._waiting[number]

    def answered(self, number: int, reply: Reply) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(reply)

    def told(self, message: Message) -> None:
        self._inbox.put_nowait(message)

    async def messages(self) -> AsyncIterator[Message]:
        while True:
            yield await self._inbox.get()

    async def queue(self, session: str) -> tuple[str, ...]:
        raise NotImplementedError

    async def snapshot(self) -> LeaseSnapshot:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def _make_lease(
        self, store: Any, session: str, stream: str, *, on_closed: Callable[[End], None], **how: Any
    ) -> Lease:
        """Production's; the bench sees when its gate shuts."""
        served = next(each for each in self.worker.bench.served if each.name == stream)

        def closed(end: End) -> None:
            self.worker.gate_shut(served, end)
            on_closed(end)

        served.lease = Lease(store, session, stream, on_closed=closed, **how)
        return served.lease


@dataclass(eq=False)
class Worker:
    """A process that serves prompts, on a host of its own."""

    bench: Surroundings
    name: str
    host: Host
    prompts: tuple[Prompt, ...]
    process: Process = field(init=False)
    link: Link | None = None
    # How often it was started, and which prompts have come to it.
    starts: int = 0
    begun: tuple[str, ...] = ()
    # For how long it may stand still.
    stands_s: float = 0.0
    # Stops by name that are pressed at it; and between which two readings of its clock it is told
    # to end.
    presses: tuple[Press, ...] = ()
    ends_s: tuple[float, float] | None = None
    is_ending: bool = False

    def clock(self) -> float:
        """The host's own, read without an effect, as the judges ask as well."""
        return self.host.clock.shown(self.bench.world.now)

    async def main(self) -> None:
        """The process: after a crash the prompts that are still to come come to its next run."""
        self.starts += 1
        name = self.name if self.starts == 1 else f"{self.name}{self.starts}"
        if self.starts > 1:
            self.bench.world.reached("started anew")
        self.link = link = Link(self, name)
        await link.registry.start()
        todo = [each for each in self.prompts if each.name not in self.begun]
        tasks = [asyncio.create_task(self._serve(link, each), name=each.name) for each in todo]
        tasks += [asyncio.create_task(self._press(link, each)) for each in self.presses]
        if self.ends_s is not None:
            tasks.append(asyncio.create_task(self._end(link, *self.ends_s), name="end"))
        if tasks:
            await asyncio.gather(*tasks)
        await link.registry.close()
        await link.registry.end()

    async def _press(self, link: Link, press: Press) -> None:
        what = f"stop of {press.trace_id} is pressed"
        await self.bench.world.outside(what, earliest=press.earliest_s, latest=press.latest_s)
        self.bench.cancelled = (*self.bench.cancelled, f"{press.worker}/{press.trace_id}")
        with suppress(StoreUnreachable):
            names = press.session, press.worker, press.trace_id
            is_stopped = await link.registry.cancel_elsewhere(*names)
            self.bench.world.reached("a stop took effect" if is_stopped else "a stop came too late")

    async def _end(self, link: Link, earliest: float, latest: float) -> None:
        """It is told to end: production's close, and nobody is taken on any more."""
        await self.bench.world.outside(f"{self.name} is to end", earliest=earliest, latest=latest)
        self.is_ending = True
        begun = self.bench.world.now
        await link.registry.close()
        self.bench.judges.ask(Moment.CLOSED, self.bench.world.now - begun)
        self.bench.world.reached("a worker has ended")

    # -- a prompt, as production's request handler treats it

    async def _serve(self, link: Link, prompt: Prompt) -> None:
        if prompt.latest_s > 0:
            arrival = f"prompt {prompt.name}"
            await self.bench.world.outside(
                arrival, earliest=prompt.earliest_s, latest=prompt.latest_s
            )
        self.begun = (*self.begun, prompt.name)
        served = Served(self, link, prompt)
        self.bench.served.append(served)
        gate: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        work = asyncio.create_task(self._work(link, served, gate), name=f"stream {prompt.name}")
        entry = {
            "trace_id": prompt.name,
            "session_id": prompt.session,
            "strategy": prompt.strategy,
            "attempt": Attempt(prompt.asks) if prompt.asks else None,
            "task": work,
        }
        try:
            async with asyncio.timeout(prompt.leaves_s):
                stream = await link.registry.register(entry)
        except TimeoutError:
            self._answered(served, "left while waiting")
        except StreamError as exc:
            self._answered(served, f"refused: {type(exc).__name__}")
        else:
            self._answered(served, LET_IN)
            gate.set_result(stream)
        if served.answer != LET_IN:
            work.cancel()
        await asyncio.wait({work})
        served.is_over = True

    async def _work(self, link: Link, served: Served, gate: asyncio.Future[Stream]) -> None:
        """The stream's task: it emits as it begins and as it ends, and cleans up once stopped."""
        prompt, stream = served.prompt, await gate
        try:
            stream.raise_if_stopped()
            served.works_upstream = True
            self.bench.judges.ask(Moment.BEGINS, served)
            await stream.emit(partial(self._send, served), "first")
            await asyncio.sleep(prompt.life_s)
            await stream.emit(partial(self._send, served), "last")
        except (StreamError, asyncio.CancelledError):
            self.bench.world.record("is stopped", actor=served.name)
        try:
            await asyncio.sleep(prompt.cleanup_s)
        finally:
            # Also where it is stopped only now.
            served.works_upstream = False
        await link.registry.pop(prompt.name)

    async def _send(self, served: Served, content: str) -> None:
        self.bench.judges.ask(Moment.SENDS, served)

    def _answered(self, served: Served, answer: str) -> None:
        world = self.bench.world
        served.answer = answer
        world.record(answer, actor=served.name)
        world.reached(answer)
        self.bench.judges.ask(Moment.ANSWERED, served, world.now - served.asked_s)

    def gate_shut(self, served: Served, end: End) -> None:
        self.bench.world.record(f"its gate shuts: {end.value}", actor=served.name)
        self.bench.world.reached(end.name.lower())
        self.bench.judges.ask(Moment.STOPPED, served, end)
