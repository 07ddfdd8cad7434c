"""Several workers that share a store, each a process on a host of its own, and what lies between.

The worker's side is production's (`server/stores/leased_registry.py` and `lease.py`); the store is
production's lease table in memory. Between them go messages that take a time, and that the
scheduler may lose, delay or cut off where a scenario says so. What becomes of a process or its host
is the kernel's: it crashes, is paused, frozen, started anew, before any of its steps.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from registry.lease_invariants import LeaseStep
from registry.lease_records import (
    Answer,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Message,
    Register,
)
from registry.lease_table import LeaseTable
from registry.wording import TIMEOUT_ON_CANCEL
from server.stores.store import worker_of
from sim.bench.harness.cluster_worker import CALL_S, Link, Prompt, Served, Worker
from sim.bench.harness.judgement import Judgements, Judges, Moment
from sim.bench.harness.log_capture import LogLine
from sim.bench.harness.registry_bench import phrase_invariants
from sim.bench.harness.state_words import words_of_leases
from sim.bench.harness.store_trips import Trips
from sim.kernel.errors import CheckFailed
from sim.kernel.world import World

# Shorter than production's, in the same order.
LIMITS = LeaseLimits(lease_ms=3_000, margin_ms=300, grace_ms=2_000)
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
        self.served: list[Served] = []
        # What a replica has that lacks the last writes; the table that does not know yet that it
        # was replaced, and whom it answers.
        self.older: tuple[LeaseSnapshot, ...] = ()
        self.old_primary: LeaseTable | None = None
        self.is_cut = False
        # The streams that were let in, in order, with ticket and fencing token.
        self.let_in: tuple[tuple[str, str, int, int], ...] = ()
        # Of whom it was logged that it did not end in time; who was cancelled by name.
        self.timeouts: frozenset[str] = frozenset()
        self.cancelled: tuple[str, ...] = ()
        # Whether something befalls a worker for so long that its lease may end.
        self.may_lose_leases = bool(self.troubles & _FOR_LONG)
        phrase_invariants(world)
        self.judges = Judges(world, self, judgements)
        self.trips = Trips(world, limits)
        world.shows(self.holding, self.values)

    def canonical_state(self) -> object:
        """All of it that decides what happens next."""
        now = self.table.snapshot(), self.generation, self.older, self.is_cut, self.stepped_s
        primary = self.old_primary and self.old_primary.snapshot()
        served = sorted(self.served, key=lambda each: each.name)
        return (
            now,
            primary,
            served,
            self.let_in,
            sorted(self.timeouts),
            self.cancelled,
            self.workers,
        )

    def holding(self) -> dict[str, str]:
        return {each.name: "its gate is open" for each in self.served if each.is_open}

    def values(self) -> dict[str, str]:
        ahead_s = self.store_ms() / 1000 - self.world.now
        counted_s = self.trips.counted_s
        return words_of_leases(self.table.snapshot(), self.served, ahead_s, counted_s)

    def hear(self, line: LogLine) -> None:
        """A line of the workers' logs."""
        if line.says(TIMEOUT_ON_CANCEL):
            self.timeouts |= {line.fields["trace"]}
            self.world.reached("took over")

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
        for session in sorted({each.prompt.session for each in self.served}):
            newcomer = f"newcomer/{session}"
            word = self.apply(Register(session, newcomer)).reply.word
            self.judges.ask(Moment.PROBED, session, word)
            self.apply(Leave(session, newcomer, logged=True))
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
        hub.after(seconds, partial(_judged, call))

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
        self.trips.asks(link.name, number, operation, link.worker.host.clock)
        self.after(TRIP_S, partial(self._request_arrives, link, number, operation))

    def _request_arrives(self, link: Link, number: int, operation: LeaseOperation) -> None:
        where = f"{type(operation).__name__} of {operation.stream}"
        self._befalls(link, where)
        if self._is_cut_off(link) or self.happens(Trouble.REQUEST_LOST, where):
            return
        self.trips.arrives(self.table, operation, self.store_ms() / 1000 - self.world.now)
        if self.old_primary is not None and link.worker.name == self.cut_off:
            answer = self.old_primary.apply(operation, self.store_ms(), "first")
        else:
            answer = self.apply(operation)
        self.trips.is_answered(link.name, number, answer.reply)
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


def _judged(call: Callable[[], None]) -> None:
    """What a judge finds there ends the execution; no task is there to be told."""
    with suppress(CheckFailed):
        call()
