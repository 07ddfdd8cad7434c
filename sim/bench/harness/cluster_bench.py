"""Several workers that share a store, each a process on a host of its own, and what lies between.

The worker's side is production's (`server/stores/lease.py`); the store is production's lease table
in memory. Between them go messages that take a time, and that the scheduler may lose, delay or cut
off where a scenario says so. What becomes of a process or its host is the kernel's: it crashes, is
paused, frozen, started anew, before any of its steps.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from registry.lease_invariants import LeaseStep
from registry.lease_records import (
    Answer,
    Cancel,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Message,
    Register,
    Reply,
)
from registry.lease_table import LeaseTable
from registry.states import Strategy
from server.stores.lease import End, Lease, NotLetIn
from server.stores.store import StoreUnreachable, worker_of
from sim.bench.harness.judgement import Judgements, Judges, Moment
from sim.bench.harness.registry_bench import phrase_invariants
from sim.kernel.hosts.host import Host, Process
from sim.kernel.loop import SimLoop
from sim.kernel.origin import modelled
from sim.kernel.world import World

# Shorter than production's, in the same order: each renewal is a step of every execution.
LIMITS = LeaseLimits(lease_ms=3_000, margin_ms=300, grace_ms=2_000)
RENEW_S = 1.0
POLL_S = 0.5
CALL_S = 0.5
# From a worker to the store, or back.
TRIP_S = 0.001
# How many of the last writes the replica that takes over may lack.
LACKS_MAX = 3


class Trouble(enum.Enum):
    """What may become of a message between a worker and the store, or of the store."""

    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"
    REPLY_SLOW = "reply slow"
    MESSAGE_LOST = "message lost"
    PARTITION = "partition"
    FAIL_OVER = "fail-over"
    SPLIT_BRAIN = "split brain"
    # What the promise rests on that it does not happen: A2 and A5.
    CLOCK_STEPS = "the store's clock is set forward"
    EVICTION = "the store drops a record"


LOSSES = (Trouble.REQUEST_LOST, Trouble.REPLY_LOST, Trouble.MESSAGE_LOST)


_FOR_LONG = {Trouble.PARTITION, Trouble.SPLIT_BRAIN, Trouble.CLOCK_STEPS, Trouble.EVICTION}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a client asks of a worker. Times are seconds, by the worker's clock where it runs.

    life_s: how long its stream goes on if nobody stops it. cleanup_s: how long it takes to stop.
    leaves_s: how long its client waits to be let in; for ever if None.
    """

    name: str
    session: str = "s"
    earliest_s: float = 0.5
    latest_s: float = 0.5
    strategy: Strategy = Strategy.INTERRUPT
    life_s: float = 1.0
    cleanup_s: float = 0.1
    leaves_s: float | None = None


@dataclass(frozen=True, slots=True)
class Press:
    """A stop by name, at a worker, between two readings of its clock."""

    stream: str
    earliest_s: float
    latest_s: float
    session: str = "s"


class Stream:
    """One prompt's stream, as the bench sees it."""

    def __init__(self, worker: Worker, run: Any, prompt: Prompt, name: str) -> None:
        self.worker, self.run, self.prompt, self.name = worker, run, prompt, name
        self.lease: Lease
        self.task: asyncio.Task[None]
        # When it was asked for, by the world's clock.
        self.asked_s = worker.bench.world.now
        self.answer = ""
        # Set where it is to end, whoever says so.
        self.stopped = asyncio.Event()
        # From its grant until its clean-up is over, it has a call to Ollama.
        self.works_upstream = False
        self.is_over = False

    def canonical_state(self) -> object:
        """All of it that decides what happens next."""
        asked_us = 0 if self.answer else round(self.asked_s * 1e6)
        if self.is_gone:
            return self.name, self.answer
        return self.name, self.prompt, asked_us, self.answer, self.works_upstream, self.lease

    @property
    def is_gone(self) -> bool:
        """It is over, or its process is."""
        return self.is_over or bool(self.run.is_over)

    @property
    def is_open(self) -> bool:
        return not self.is_gone and self.lease.is_open


class ClusterBench:
    """The store, the network and the workers of one execution.

    troubles: what may happen, by the scheduler's choice and within the execution's faults.
    """

    def __init__(
        self,
        world: World,
        judgements: Judgements,
        *,
        limits: LeaseLimits = LIMITS,
        troubles: Iterable[Trouble] = (),
        cut_off: str = "v",
        heals_s: float | None = None,
        lag_s: float = 0.0,
        steps_s: float = 4.0,
    ) -> None:
        """cut_off: the worker that a partition cuts off, or that an old primary goes on answering.

        heals_s: how long a partition lasts; for ever if None. lag_s: how long an old primary goes
        on answering. steps_s: by how much the store's clock is set forward.
        """
        self.world, self.limits = world, limits
        self.troubles = frozenset(troubles)
        self.cut_off, self.heals_s = cut_off, heals_s
        self.lag_s, self.steps_s = lag_s, steps_s
        self.stepped_s = 0.0
        self.table = LeaseTable(limits, generation="first")
        self.generation = "first"
        self.store = world.host("store")
        self.workers: dict[str, Worker] = {}
        self.streams: list[Stream] = []
        # What a replica has that lacks the last writes; the table that does not know yet that it
        # was replaced, and whom it answers.
        self.older: tuple[LeaseSnapshot, ...] = ()
        self.old_primary: LeaseTable | None = None
        self.is_cut = False
        # The streams that were let in, in order, with ticket and fencing token.
        self.let_in: tuple[tuple[str, str, int, int], ...] = ()
        # Of whom a taker has logged that it did not end in time; who was cancelled by name.
        self.timeouts: tuple[str, ...] = ()
        self.cancelled: tuple[str, ...] = ()
        # Whether something befalls a worker for so long that its lease may end.
        self.may_lose_leases = bool(self.troubles & _FOR_LONG)
        phrase_invariants(world)
        self.judges = Judges(world, self, judgements)

    def canonical_state(self) -> object:
        """All of it that decides what happens next."""
        now = self.table.snapshot(), self.generation, self.older, self.is_cut, self.stepped_s
        primary = self.old_primary and self.old_primary.snapshot()
        streams = sorted(self.streams, key=lambda each: each.name)
        return now, primary, streams, self.let_in, self.timeouts, self.cancelled, self.workers

    # -- what scenarios do

    def worker(
        self, name: str, *prompts: Prompt, rate: float = 1.0, offset_s: float = 0.0
    ) -> Worker:
        """A worker on a host of its own, with the prompts that come to it."""
        host = self.world.host(name, clock_rate=rate, clock_offset_s=offset_s)
        worker = Worker(self, name, host, prompts)
        self.workers[name] = worker
        worker.process = host.run(worker.main)
        return worker

    def may_pause(self, worker: Worker, for_s: float) -> None:
        """It may stand still before any of its steps, and its clock goes on."""
        worker.process.may_pause(for_s)
        worker.stands_s = for_s
        self.may_lose_leases = True

    def may_freeze(self, worker: Worker, for_s: float) -> None:
        """The same, and its clock stands as well."""
        worker.host.may_freeze(for_s)
        worker.stands_s = for_s
        self.may_lose_leases = True

    async def over(self, *workers: Worker) -> None:
        """Waits until these have no more to do, and until what others have left behind is dead."""
        for worker in workers:
            await worker.process.returned()
        self.world.reached("all is over")
        await asyncio.sleep((2 * self.limits.quarantine_ms) / 1000)
        for session in sorted({each.prompt.session for each in self.streams}):
            newcomer = f"newcomer/{session}"
            word = self.apply(Register(session, newcomer)).reply.word
            self.judges.ask(Moment.PROBED, session, word)
            self.apply(Leave(session, newcomer))
        self.judges.ask(Moment.QUIET)

    # -- the store

    def store_ms(self) -> int:
        shown_s = self.store.clock.shown(self.world.now) + self.stepped_s
        return int(shown_s * 1e6) // 1000

    def apply(self, operation: LeaseOperation) -> Answer:
        """The store runs an operation, whole."""
        if {Trouble.FAIL_OVER, Trouble.SPLIT_BRAIN} & self.troubles:
            self.older = (*self.older, self.table.snapshot())[-LACKS_MAX:]
        before, now_ms = self.table.snapshot(), self.store_ms()
        answer = self.table.apply(operation, now_ms, self.generation)
        after = self.table.snapshot()
        step = LeaseStep(before, operation, now_ms, self.generation, answer, after, self.limits)
        self.judges.ask(Moment.APPLIED, step)
        new = step.let_in
        if new is not None and new.stream not in {name for _, name, _, _ in self.let_in}:
            entry = operation.session, new.stream, new.ticket, new.fencing_token
            self.judges.ask(Moment.LET_IN, entry)
            self.let_in = (*self.let_in, entry)
        return answer

    def fail_over(self) -> None:
        """A replica takes over, which lacks some of the last writes."""
        lacks = range(1, len(self.older) + 1)
        if lacks:
            lost = self.world.choose("the replica lacks the last writes", list(lacks))
            self.table.restore(self.older[-lost])
        self.generation = "second"

    def split(self) -> None:
        """The same, and the old primary goes on answering one worker for a while."""
        self.old_primary = LeaseTable(self.limits)
        self.old_primary.restore(self.table.snapshot())
        self.fail_over()
        self.after(self.lag_s, self._old_primary_ends)

    def _old_primary_ends(self) -> None:
        self.old_primary, self.is_cut = None, True

    # -- the network

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        hub = self.world.hub
        assert hub is not None
        hub.after(seconds, call)

    def happens(self, trouble: Trouble, where: str) -> bool:
        """Whether it does, here: the scheduler's choice, within the faults of the execution."""
        faults = self.world.faults
        if trouble not in self.troubles or not faults.may_happen():
            return False
        if self.world.choose(f"{where}: {trouble.value}", (False, True)):
            faults.taken += 1
            self.world.reached(trouble.value)
            return True
        return False

    def request(self, link: Link, number: int, operation: LeaseOperation) -> None:
        """A worker sends its request."""
        self.after(TRIP_S, partial(self._request_arrives, link, number, operation))

    def _request_arrives(self, link: Link, number: int, operation: LeaseOperation) -> None:
        where = f"{type(operation).__name__} of {operation.stream}"
        self._befalls(link, where)
        if self._is_cut_off(link) or self.happens(Trouble.REQUEST_LOST, where):
            return
        if self.old_primary is not None and link.worker.name == self.cut_off:
            answer = self.old_primary.apply(operation, self.store_ms(), "first")
        else:
            answer = self.apply(operation)
        for message in answer.messages:
            self._tell(message)
        if self.happens(Trouble.REPLY_LOST, where):
            return
        slow = self.happens(Trouble.REPLY_SLOW, where)
        trip_s = CALL_S - 5 * TRIP_S if slow else TRIP_S
        self.after(trip_s, partial(self._arrives, link, link.answered, number, answer.reply))

    def _befalls(self, link: Link, where: str) -> None:
        """What becomes of the store, or of the way to it, right before this request arrives."""
        if self.happens(Trouble.FAIL_OVER, where):
            self.fail_over()
        elif self.happens(Trouble.SPLIT_BRAIN, where):
            self.split()
        elif self.happens(Trouble.CLOCK_STEPS, where):
            self.stepped_s = self.steps_s
        elif self.happens(Trouble.EVICTION, where):
            self.table.sessions.clear()
        elif link.worker.name == self.cut_off and self.happens(Trouble.PARTITION, where):
            self.is_cut = True
            if self.heals_s is not None:
                self.after(self.heals_s, self._heal)

    def _heal(self) -> None:
        self.is_cut = False

    def is_reached(self, worker: Worker) -> bool:
        """Whether the store reaches it, as far as the network and old primaries go."""
        is_apart = self.is_cut or self.old_primary is not None
        return not (is_apart and worker.name == self.cut_off)

    def _is_cut_off(self, link: Link) -> bool:
        return self.is_cut and link.worker.name == self.cut_off

    def _tell(self, message: Message) -> None:
        """A message of the store, to the worker of a stream."""
        link = self._link_of(message.stream)
        if link is not None and not self.happens(Trouble.MESSAGE_LOST, f"to {message.stream}"):
            self.after(TRIP_S, partial(self._arrives, link, link.told, message))

    def _link_of(self, stream: str) -> Link | None:
        runs = [each.link for each in self.workers.values() if each.link is not None]
        return next((each for each in runs if each.name == worker_of(stream)), None)

    def _arrives(self, link: Link, callback: Callable[..., None], *args: object) -> None:
        if not link.run.is_over and not self._is_cut_off(link):
            link.loop.call_from_thread(callback, args, None)


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
        self.leases: dict[str, Lease] = {}
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = 0

    @property
    def limits(self) -> LeaseLimits:
        return self.worker.bench.limits

    async def ask(self, operation: LeaseOperation) -> Reply:
        number, self._numbers = self._numbers, self._numbers + 1
        self._waiting[number] = future = self.loop.create_future()
        self.worker.bench.request(self, number, operation)
        try:
            async with asyncio.timeout(CALL_S):
                reply: Reply = await future
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
        lease = self.leases.get(message.stream)
        if lease is not None:
            lease.hear(message.told)

    # What production's interface has besides.

    async def start(self) -> None:
        raise NotImplementedError

    def messages(self) -> AsyncIterator[Message]:
        raise NotImplementedError

    async def snapshot(self) -> LeaseSnapshot:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@dataclass(eq=False)
class Worker:
    """A process that serves prompts, on a host of its own."""

    bench: ClusterBench
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
    # Streams that are cancelled at it by name, in its turn; and when it is told to end, between two
    # readings of its clock.
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
        todo = [each for each in self.prompts if each.name not in self.begun]
        tasks = [asyncio.create_task(self._serve(link, each), name=each.name) for each in todo]
        others = [asyncio.create_task(self._press(link, each)) for each in self.presses]
        if self.ends_s is not None:
            others.append(asyncio.create_task(self._end(tasks, *self.ends_s), name="end"))
        if tasks or others:
            await self._all_of(*tasks, *others)

    async def _all_of(self, *tasks: asyncio.Task[None]) -> None:
        """Those that are cancelled as the worker ends are over, too."""
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not (
                self.is_ending and isinstance(result, asyncio.CancelledError)
            ):
                raise result

    async def _press(self, link: Link, press: Press) -> None:
        """Somebody presses stop, at this worker, for a stream of any."""
        what = f"stop of {press.stream} is pressed"
        await self.bench.world.outside(what, earliest=press.earliest_s, latest=press.latest_s)
        self.bench.cancelled = (*self.bench.cancelled, press.stream)
        with suppress(StoreUnreachable):
            reply = await link.ask(Cancel(press.session, press.stream))
            self.bench.world.reached(f"stop: {reply.word.value}")

    async def _end(self, tasks: list[asyncio.Task[None]], earliest: float, latest: float) -> None:
        """It is told to end: who waits is refused, who streams is stopped, nobody is taken on."""
        await self.bench.world.outside(f"{self.name} is to end", earliest=earliest, latest=latest)
        self.is_ending = True
        own = [each for each in self.bench.streams if each.worker is self and not each.is_gone]
        for stream in own:
            stream.stopped.set()
            if not stream.answer:
                stream.task.cancel()
        begun = {each.task for each in own}
        for task in tasks:
            if task not in begun:
                task.cancel()
        await self._all_of(*tasks)
        self.bench.world.reached("a worker has ended")

    async def _serve(self, link: Link, prompt: Prompt) -> None:
        if prompt.latest_s > 0:
            arrival = f"prompt {prompt.name}"
            await self.bench.world.outside(
                arrival, earliest=prompt.earliest_s, latest=prompt.latest_s
            )
        self.begun = (*self.begun, prompt.name)
        await self._stream(link, prompt)

    async def _stream(self, link: Link, prompt: Prompt) -> None:
        bench = self.bench
        stream = Stream(self, link.run, prompt, f"{link.name}/{prompt.name}")
        task = asyncio.current_task()
        assert task is not None
        stream.task = task
        stream.lease = lease = Lease(
            link,
            prompt.session,
            stream.name,
            strategy=prompt.strategy,
            clock=self.clock,
            on_closed=partial(self._closed, stream),
            renew_s=RENEW_S,
            poll_s=POLL_S,
        )
        bench.streams.append(stream)
        link.leases[stream.name] = lease
        is_in = await self._let_in(stream)
        if is_in:
            keeper = asyncio.create_task(lease.keep(), name=f"keeper of {prompt.name}")
            with suppress(TimeoutError):
                async with asyncio.timeout(prompt.life_s):
                    await stream.stopped.wait()
            if prompt.cleanup_s:
                await asyncio.sleep(prompt.cleanup_s)
            stream.works_upstream = False
        await lease.leave()
        if is_in:
            await keeper
        stream.is_over = True
        del link.leases[stream.name]

    async def _let_in(self, stream: Stream) -> bool:
        """Whether it was; else why not was noted."""
        bench, prompt = self.bench, stream.prompt
        try:
            async with asyncio.timeout(prompt.leaves_s):
                grant = await stream.lease.acquire()
        except TimeoutError:
            self._answered(stream, "left while waiting")
        except asyncio.CancelledError:
            if not self.is_ending:
                raise
            stream.task.uncancel()
            self._answered(stream, "refused: the worker ends")
        except NotLetIn as exc:
            self._answered(stream, f"not let in: {exc.word.value}")
        except StoreUnreachable:
            self._answered(stream, "store unreachable")
        else:
            self._answered(stream, "let in")
            if grant.previous and not grant.finished:
                bench.world.record(f"prev_stream_timeout_on_cancel trace={grant.previous}")
                bench.timeouts = (*bench.timeouts, grant.previous)
                bench.world.reached("took over")
            stream.works_upstream = True
            bench.judges.ask(Moment.BEGINS, stream)
            return True
        return False

    def _answered(self, stream: Stream, answer: str) -> None:
        bench = self.bench
        stream.answer = answer
        bench.world.record(answer, actor=stream.name)
        bench.world.reached(answer)
        bench.judges.ask(Moment.ANSWERED, stream, bench.world.now - stream.asked_s)

    def _closed(self, stream: Stream, end: End) -> None:
        self.bench.world.record(f"its gate shuts: {end.value}", actor=stream.name)
        self.bench.world.reached(end.name.lower())
        stream.stopped.set()
        self.bench.judges.ask(Moment.STOPPED, stream, end)
