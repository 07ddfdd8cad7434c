"""Workers that share a store, under faults: what a session's streams see of each other.

The worker's side is production's (`server/stores/lease.py`), the store is the lease table in memory
with a network in between that loses and delays. All workers share one loop; what only hosts have,
a crash and a pause, is played by a worker that is cut off, or whose requests hang.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from registry.lease_invariants import LeaseStep, violated
from registry.lease_records import (
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Message,
    Reply,
)
from registry.lease_table import LeaseTable
from server.stores.lease import Lease, NotLetIn
from server.stores.store import StoreUnreachable, worker_of
from sim import World

LIMITS = LeaseLimits(lease_ms=3_000, margin_ms=300, grace_ms=2_000)
# On the way to the store, and back.
TRIP_S = 0.001
CALL_S = 0.5
# A third of the lease, and few questions of who waits: each is a step of every execution.
RENEW_S = 1.0
POLL_S = 0.5
Program = Callable[[World], Awaitable[None]]


@dataclass
class Cluster:
    """The store and the network. faults: which kinds there are, one of them at most."""

    world: World
    limits: LeaseLimits
    faults: frozenset[str]
    faults_left: int = 1
    generation: str = "first"
    lag_s: float = 0.0
    table: LeaseTable = field(init=False)
    leases: dict[str, Lease] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    # What a replica has that lacks the last writes.
    older: list[LeaseSnapshot] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table = LeaseTable(self.limits, generation=self.generation)
        self.world.always("S1 a session has at most one stream with an open gate", self.one_open)

    def one_open(self) -> bool:
        return sum(lease.is_open for lease in self.leases.values()) <= 1

    def now_ms(self) -> int:
        return round(self.world.now * 1e6) // 1000

    def happens(self, kind: str, where: str) -> bool:
        """Whether this fault happens now: a choice, and the only one of its execution."""
        if kind not in self.faults or self.faults_left == 0:
            return False
        if self.world.choose(f"{where}: {kind}", ["no", "yes"]) == "no":
            return False
        self.faults_left -= 1
        self.world.reached(kind)
        return True

    def apply(self, operation: LeaseOperation) -> Reply:
        if "fail-over" in self.faults:
            self.older = [*self.older, self.table.snapshot()][-3:]
        before, now_ms = self.table.snapshot(), self.now_ms()
        answer = self.table.apply(operation, now_ms, self.generation)
        after = self.table.snapshot()
        step = LeaseStep(before, operation, now_ms, self.generation, answer, after, self.limits)
        broken = violated(step)
        self.world.check(broken is None, f"the table's property {broken}", str(operation))
        for message in answer.messages:
            self.send(message)
        return answer.reply

    def send(self, message: Message) -> None:
        if self.happens("message lost", message.stream):
            return
        worker = self.workers[worker_of(message.stream)]
        lease = self.leases.get(message.stream)
        if lease is not None and not worker.is_cut_off:
            self.world.loop.call_later(TRIP_S, worker.hear, lease, message)

    def fail_over(self) -> None:
        """A replica takes over that lacks up to three writes."""
        if self.older:
            lacks = self.world.choose("lacks", [str(n + 1) for n in range(len(self.older))])
            self.table.restore(self.older[-int(lacks)])
        self.generation = "second"


class Worker:
    """A store of production's interface, over the cluster's network, and a clock."""

    def __init__(self, cluster: Cluster, name: str, *, rate: float = 1.0) -> None:
        self._cluster, self.name, self._rate = cluster, name, rate
        cluster.workers[name] = self
        # Its requests are lost, and messages to it.
        self.is_cut_off = False
        # It has crashed: of its streams nothing runs any more.
        self.is_gone = False
        # Its requests hang, as if its loop stood still, and its clock goes on.
        self.is_stalled = False
        # Another table than the cluster's: the old primary, which does not know that it is.
        self.old_primary: LeaseTable | None = None

    @property
    def limits(self) -> LeaseLimits:
        return self._cluster.limits

    def clock(self) -> float:
        return self._cluster.world.now * self._rate

    def hear(self, lease: Lease, message: Message) -> None:
        if not self.is_cut_off and not self.is_stalled:
            lease.hear(message.told)

    async def ask(self, operation: LeaseOperation) -> Reply:
        cluster, where = self._cluster, f"{type(operation).__name__} of {operation.stream}"
        await asyncio.sleep(TRIP_S)
        if self.is_stalled:
            await asyncio.sleep(cluster.limits.quarantine_ms / 1000 + 1)
            raise StoreUnreachable("no answer")
        if self.is_cut_off or cluster.happens("request lost", where):
            await asyncio.sleep(CALL_S)
            raise StoreUnreachable("no answer")
        if self.old_primary is not None:
            reply = self.old_primary.apply(operation, cluster.now_ms(), "first").reply
        else:
            reply = cluster.apply(operation)
        if cluster.happens("reply lost", where):
            await asyncio.sleep(CALL_S)
            raise StoreUnreachable("no answer")
        slow = cluster.happens("slow reply", where)
        await asyncio.sleep(CALL_S - 0.05 if slow else TRIP_S)
        return reply

    # What production's interface has besides.

    async def start(self) -> None:
        raise NotImplementedError

    def messages(self) -> AsyncIterator[Message]:
        raise NotImplementedError

    async def snapshot(self) -> LeaseSnapshot:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Scenario:
    """What happens to the worker that streams first, while another one gets newer prompts."""

    faults: frozenset[str] = frozenset()
    # Of the first worker, at any of some moments.
    trouble: str = ""
    cleanup_s: float = 0.1
    prompts: int = 2
    rate: float = 1.0
    lease: type[Lease] = Lease
    limits: LeaseLimits = LIMITS

    @property
    def bound_s(self) -> float:
        """Within which a register is answered: L1."""
        limits = self.limits
        quarantine_s = limits.quarantine_ms / 1000 if self.trouble in FAIL_OVERS else 0.0
        return limits.wait_max_ms / 1000 + quarantine_s + 1.5


FAIL_OVERS = ("fail-over", "split brain")


def program_of(scenario: Scenario) -> Program:
    async def program(world: World) -> None:
        faults = scenario.faults | ({"fail-over"} if scenario.trouble in FAIL_OVERS else set())
        cluster = Cluster(world, scenario.limits, frozenset(faults))
        first = Worker(cluster, "v", rate=scenario.rate)
        second = Worker(cluster, "w")
        tasks = [
            asyncio.create_task(_stream(cluster, first, "v/1", scenario), name="v/1"),
            asyncio.create_task(_trouble(cluster, first, scenario), name="trouble"),
        ]
        for number in range(2, scenario.prompts + 1):
            later = _later_prompt(cluster, second, f"w/{number}", scenario)
            tasks.append(asyncio.create_task(later, name=f"w/{number}"))
        await asyncio.gather(*tasks)
        world.reached("all over")

    return program


async def _later_prompt(cluster: Cluster, worker: Worker, stream: str, scenario: Scenario) -> None:
    latest = 0.5 if stream == "w/2" else 1.0
    await cluster.world.outside(f"prompt {stream}", earliest=0.5, latest=latest)
    await _stream(cluster, worker, stream, scenario, life_s=1.0)


async def _stream(
    cluster: Cluster,
    worker: Worker,
    name: str,
    scenario: Scenario,
    *,
    life_s: float = 60.0,
) -> None:
    world = cluster.world
    closed = asyncio.Event()
    lease = scenario.lease(
        worker,
        "s",
        name,
        clock=worker.clock,
        on_closed=lambda end: closed.set(),
        renew_s=RENEW_S,
        poll_s=POLL_S,
    )
    cluster.leases[name] = lease
    begun = world.now
    try:
        grant = await lease.acquire()
    except (NotLetIn, StoreUnreachable) as exc:
        _answered(cluster, name, type(exc).__name__, world.now - begun, scenario)
        await lease.leave()
        return
    _answered(cluster, name, "granted", world.now - begun, scenario)
    in_order = not cluster.tokens or grant.fencing_token > cluster.tokens[-1]
    world.check(in_order, "S5 fencing tokens increase", f"{cluster.tokens}, {grant}")
    cluster.tokens.append(grant.fencing_token)
    keeper = asyncio.create_task(lease.keep(), name=f"keeper of {name}")
    with suppress(TimeoutError):
        async with asyncio.timeout(life_s):
            await closed.wait()
    if lease.end is not None:
        world.reached(lease.end.name)
    if not worker.is_gone:
        await asyncio.sleep(scenario.cleanup_s)
        await lease.leave()
        await keeper
    else:
        keeper.cancel()
    del cluster.leases[name]


def _answered(cluster: Cluster, name: str, how: str, after_s: float, scenario: Scenario) -> None:
    cluster.world.reached(how)
    sentence = "L1 a register is answered within the grace or the lease, and the quarantine"
    cluster.world.check(after_s <= scenario.bound_s, sentence, f"{name} after {after_s:.3f} s")


async def _trouble(cluster: Cluster, worker: Worker, scenario: Scenario) -> None:
    if not scenario.trouble:
        return
    world = cluster.world
    await world.outside(scenario.trouble, earliest=0.1, latest=4.0)
    world.reached(scenario.trouble)
    match scenario.trouble:
        case "partition":
            worker.is_cut_off = True
        case "crash":
            worker.is_cut_off = worker.is_gone = True
        case "stall":
            worker.is_stalled = True
            await asyncio.sleep(1)
            worker.is_stalled = False
        case "fail-over":
            cluster.fail_over()
        case "split brain":
            # The old primary goes on answering this worker, until it has missed its replica.
            worker.old_primary = copy.deepcopy(cluster.table)
            cluster.fail_over()
            await asyncio.sleep(1.0)
            worker.is_cut_off = True
