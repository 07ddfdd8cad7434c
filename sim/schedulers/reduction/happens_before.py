"""What happened before what in one execution, and what its actors shared.

A *chain* is everything that follows from one outside event: the callbacks that its landing puts
into the ready queue, those that these put there, and so on, until the queue is empty. Chains
share what `world.shared` declares, asyncio's locks, events, conditions, semaphores and queues,
futures, and tasks; each use of these is an *access*. Two accesses to one object conflict if
either is a write. Chain a *happens before* chain b if it announced b's outside event, if it made
an access that b conflicts with later, or if a chain between the two says so. The ready queue is
no shared object: its order is what the outside decides (Event-DPOR, Abdulla et al., ATVA 2023).

Two executions whose chains are ordered alike wherever they conflict are of one *class*
(Mazurkiewicz 1977), and have the same result.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from asyncio.tasks import _GatheringFuture  # type: ignore[attr-defined]
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sim.kernel.environment import Arrival
from sim.kernel.hashing import SimFuture, SimTask
from sim.kernel.isolation.as_it_is import name_of, owner_of
from sim.kernel.notices import Special
from sim.kernel.observer import Observer
from sim.kernel.origin import forwards

if TYPE_CHECKING:
    from sim.kernel.loop import SimLoop
    from sim.kernel.world import World

# What an object is called: where it comes from, so that it is called the same in each execution.
Object = tuple[object, ...]
Footprint = dict[Object, bool]


@dataclass(slots=True)
class Chain:
    """One outside event and what followed from it; chain 0 is the program's beginning.

    Where a task goes on after a group of others (gather, TaskGroup), a chain of its own begins,
    after all of theirs: which of them ended last makes no difference.

    event: stands for the outside event and everything that happened before its announcement.
    caused_by: the chains that led to its beginning, each with the callback after which it could
    begin; infinite if that is the last.
    before: the chains that happened before this one, a bit for each.
    footprint: each object with whether it was written. steps: in which of its callbacks.
    """

    name: str
    event: int
    caused_by: dict[int, float]
    before: int = 0
    is_joint: bool = False
    footprint: Footprint = field(default_factory=dict)
    steps: dict[Object, set[int]] = field(default_factory=dict)
    # Stands for the chain and everything that happened before its last access.
    past: int = 0


def conflict(one: Footprint, other: Footprint) -> bool:
    """Whether the two share an object that either writes."""
    if len(one) > len(other):
        one, other = other, one
    return any(other.get(each) is not None and (w or other[each]) for each, w in one.items())


class History(Observer):
    """The chains of one execution, oldest first."""

    def __init__(self, on_landing: Callable[[Arrival], None] = lambda arrival: None) -> None:
        self.chains: list[Chain] = []
        # Why chains are too coarse for this program; None while they are not.
        self.unsupported_reason: str | None = None
        self._on_landing = on_landing
        self._loop: SimLoop | None = None
        self._step = 0
        self._serial = 0
        self._is_over = False
        # Of task groups: the tasks that have ended; and those of the group whose callback runs.
        self._joins: dict[int, list[Object]] = {}
        self._joining: list[Object] = []
        # Of each object, the last chain that wrote it, and those that have read it since.
        self._written: dict[Object, int] = {}
        self._read: dict[Object, list[int]] = {}

    # -- what the loop and the world report

    def begin(self, loop: SimLoop, world: World) -> None:
        self._loop = loop
        self.chains.append(Chain("the beginning", event=0, caused_by={}))
        loop.watch_steps()

    def patched(self) -> AbstractContextManager[None]:
        return tracked_primitives(self)

    def end(self) -> None:
        """The draining is not part of the execution."""
        self._is_over = True

    def announced(self, arrival: Arrival) -> None:
        chain = self.chains[-1]
        arrival.event = hash((chain.past, self._next_serial(), arrival.name))
        arrival.announced_by = len(self.chains) - 1
        arrival.announced_at = self._step

    def lands(self, arrival: Arrival) -> None:
        self._on_landing(arrival)
        by = arrival.announced_by
        self._begin_chain(
            Chain(
                arrival.name,
                arrival.event,
                caused_by={**self.chains[by].caused_by, by: arrival.announced_at},
                before=self.chains[by].before | 1 << by,
            )
        )

    def advances(self, to: float) -> None:
        if self._loop is not None and self._loop.environment.pending:
            self.unsupported("outside events and the clock decide together")

    def meets(self, special: Special) -> None:
        if special in _UNSUPPORTED:
            self.unsupported(_UNSUPPORTED[special])

    def new_future(self, loop: SimLoop) -> TrackedFuture:
        future = TrackedFuture(loop=loop)
        future.history, future.tracked_as = self, self.new_object("future")
        return future

    @forwards
    def new_task(
        self, loop: SimLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> TrackedTask:
        task = TrackedTask(coro, loop=loop, **options)
        task.history, task.tracked_as = self, self.new_object("task")
        return task

    def runs(self, handle: asyncio.Handle) -> None:
        """The loop runs another callback; a task's step counts as a use of the task."""
        if self._is_over:
            return
        self._step += 1
        callback: Any = handle._callback  # type: ignore[attr-defined]
        owner = owner_of(callback)
        if isinstance(owner, TrackedTask):
            awaited = next(iter(handle._args), None)
            if isinstance(awaited, _GatheringFuture):
                self._join(owner, awaited, [child.tracked_as for child in awaited._children])
            elif isinstance(awaited, TrackedFuture) and awaited.joins:
                self._join(owner, awaited, awaited.joins)
            self.uses(owner.tracked_as, is_write=True)
        elif isinstance(owner, asyncio.TaskGroup):
            (child,) = handle._args
            self._joins.setdefault(id(owner), []).append(child.tracked_as)
            self._joining = self._joins[id(owner)]
            return
        elif name_of(callback).startswith("_wait."):
            self.unsupported("asyncio.wait waits for several ends")
        self._joining = []

    def joining(self) -> list[Object]:
        """The tasks that have ended, of the group whose callback runs now."""
        return self._joining

    def _join(
        self, task: TrackedTask, awaited: asyncio.Future[Any], ended: Sequence[Object]
    ) -> None:
        """A task goes on after several others: its chain comes after theirs, not after one."""
        if awaited.cancelled() or awaited.exception() is not None or not self.is_quiet:
            self.unsupported("a group of tasks ends while others go on, or with an exception")
        by = {self._written[each] for each in ended if each in self._written}
        event = hash((task.tracked_as, *sorted(self.chains[each].past for each in by)))
        joint = Chain("the end of a group", event, caused_by={}, is_joint=True)
        for each in by:
            chain = self.chains[each]
            joint.before |= chain.before | 1 << each
            joint.caused_by |= dict.fromkeys((each, *chain.caused_by), math.inf)
        self._begin_chain(joint)

    def _begin_chain(self, chain: Chain) -> None:
        self._serial = 0
        chain.past = chain.event
        self.chains.append(chain)

    def uses(self, what: Object, *, is_write: bool) -> None:
        if self._is_over:
            return
        index = len(self.chains) - 1
        chain = self.chains[index]
        chain.steps.setdefault(what, set()).add(self._step)
        if chain.footprint.get(what) in (True, is_write):
            return
        chain.footprint[what] = is_write
        earlier = [self._written[what]] if what in self._written else []
        if is_write:
            earlier += self._read.pop(what, [])
            self._written[what] = index
        else:
            self._read.setdefault(what, []).append(index)
        pasts = []
        for each in earlier:
            if each != index:
                chain.before |= self.chains[each].before | 1 << each
                pasts.append(self.chains[each].past)
        chain.past = hash((chain.past, what, is_write, tuple(sorted(pasts))))

    def new_object(self, kind: str) -> Object:
        """A name for an object that is made now."""
        return kind, self.chains[-1].past, self._next_serial()

    def unsupported(self, reason: str) -> None:
        """Chains are too coarse for this program."""
        if not self._is_over:
            self.unsupported_reason = self.unsupported_reason or reason

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    # -- what a scheduler asks

    @property
    def is_quiet(self) -> bool:
        """Whether the last chain is over."""
        return self._loop is None or not self._loop._ready

    def stop(self) -> None:
        """Ends the execution."""
        assert self._loop is not None
        self._loop.end_run()

    def races(self) -> Iterator[tuple[int, int]]:
        """Pairs of chains in conflict, with nothing in between, whose order could be reversed."""
        for later, chain in enumerate(self.chains):
            for earlier in self._conflicts_of(later):
                could_be_first = not any(self._is_before(earlier, each) for each in chain.caused_by)
                between = self.chains[earlier + 1 : later]
                is_direct = not any(
                    each.before >> earlier & 1 and chain.before >> number & 1
                    for number, each in enumerate(between, earlier + 1)
                )
                if earlier and could_be_first and is_direct:
                    yield earlier, later

    def without(self, earlier: int, later: int) -> list[int]:
        """The chains after `earlier` that it did not happen before, up to `later`, and that one."""
        between = range(earlier + 1, later)
        return [*(k for k in between if not self.chains[k].before >> earlier & 1), later]

    def two_steps(self) -> str | None:
        """Which chain others could see in the middle of; None if there is none.

        If each chain meets the others in one callback at most, then to let chains overlap leads to
        no further class: they can be executed one after the other, in the order of these callbacks.
        """
        for number, chain in enumerate(self.chains):
            steps: set[int] = set()
            for other in range(len(self.chains)):
                since = self._overlap_since(number, other)
                if since is not None:
                    met = self._steps_that_meet(number, other, since)
                    if met and since >= 0:
                        return f"«{chain.name}» goes on with what «{self.chains[other].name}» uses"
                    steps |= met
            if len(steps) > 1:
                return f"«{chain.name}» uses what others use in {len(steps)} of its steps"
        return None

    def _overlap_since(self, number: int, other: int) -> float | None:
        """After which callback of `number` `other` could run; None if only before it."""
        if number == other or other in self.chains[number].caused_by:
            return None
        return self.chains[other].caused_by.get(number, -1)

    def _steps_that_meet(self, number: int, other: int, since: float) -> set[int]:
        mine, theirs = self.chains[number], self.chains[other].footprint
        steps: set[int] = set()
        for what, is_write in mine.footprint.items():
            if what in theirs and (is_write or theirs[what]):
                steps |= {step for step in mine.steps[what] if step > since}
        return steps

    def class_of(self) -> tuple[int, ...]:
        """The same for two executions of one class."""
        return tuple(sorted(chain.past for chain in self.chains))

    def _conflicts_of(self, later: int) -> list[int]:
        mine = self.chains[later].footprint
        return [k for k in range(later) if conflict(mine, self.chains[k].footprint)]

    def _is_before(self, one: int, other: int) -> bool:
        return one == other or bool(self.chains[other].before >> one & 1)


_UNSUPPORTED = {
    Special.SIGNAL: "a signal finds the handler of the moment",
    Special.PROCESSES: "processes talk by their sockets and disks",
    Special.EAGER_TASKS: "tasks begin before their first turn",
    Special.SOCKETS: "sockets join what their two ends do",
}


# ---- objects whose uses are accesses -----------------------------------------------------------


class TrackedFuture(SimFuture):
    """A future whose uses are accesses."""

    tracked_as: Object
    history: History
    # Of which tasks this is the common end; empty for other futures.
    joins: Sequence[Object] = ()

    def _uses(self, *, is_write: bool) -> None:
        # A task group sets its future in the chain of the task that ends last, which may be any of
        # them; the joint chain comes after all of them.
        if not self.history.joining():
            self.history.uses(self.tracked_as, is_write=is_write)

    @forwards
    def set_result(self, result: Any, /) -> None:
        self._uses(is_write=True)
        self.joins = self.history.joining()
        super().set_result(result)

    @forwards
    def set_exception(self, exception: Any, /) -> None:
        self._uses(is_write=True)
        super().set_exception(exception)

    @forwards
    def cancel(self, msg: Any = None) -> bool:
        self._uses(is_write=True)
        return super().cancel(msg)

    def done(self) -> bool:
        self._uses(is_write=False)
        return super().done()

    @forwards
    def add_done_callback(self, fn: Any, *, context: Any = None) -> None:
        self._uses(is_write=False)
        super().add_done_callback(fn, context=context)

    def __await__(self) -> Generator[Any, None, Any]:
        self._uses(is_write=False)
        return super().__await__()

    __iter__ = __await__


class TrackedTask(SimTask):
    """A task whose steps, cancels and awaits are accesses."""

    tracked_as: Object
    history: History

    @forwards
    def cancel(self, msg: Any = None) -> bool:
        self.history.uses(self.tracked_as, is_write=True)
        return super().cancel(msg)

    def done(self) -> bool:
        self.history.uses(self.tracked_as, is_write=False)
        return super().done()

    @forwards
    def add_done_callback(self, fn: Any, *, context: Any = None) -> None:
        self.history.uses(self.tracked_as, is_write=False)
        super().add_done_callback(fn, context=context)

    def __await__(self) -> Generator[Any, None, Any]:
        self.history.uses(self.tracked_as, is_write=False)
        return super().__await__()

    __iter__ = __await__


_USES = {
    asyncio.Lock: ("acquire", "release", "locked"),
    asyncio.Event: ("set", "clear", "wait", "is_set"),
    asyncio.Condition: ("wait", "wait_for", "notify", "notify_all"),
    asyncio.Semaphore: ("acquire", "release", "locked"),
    asyncio.Barrier: ("wait", "reset", "abort"),
    asyncio.Queue: (
        *("put", "put_nowait", "get", "get_nowait", "join", "task_done"),
        *("qsize", "empty", "full", "shutdown"),
    ),
}


# As SimTask and SimFuture are: the program sees asyncio's name, whatever follows it.
TrackedTask.__name__, TrackedFuture.__name__ = "Task", "Future"


@contextmanager
def tracked_primitives(history: History) -> Iterator[None]:
    """In the block each use of asyncio's locks, queues and so on is a write."""
    before: list[tuple[type[Any], str, Any]] = []
    for cls, names in _USES.items():
        for name in ("__init__", *names):
            method = cls.__dict__.get(name)
            if method is not None:
                before.append((cls, name, method))
                wrap = _naming if name == "__init__" else _using
                setattr(cls, name, wrap(method, history))
    try:
        yield
    finally:
        for cls, name, method in before:
            setattr(cls, name, method)


def _naming(init: Callable[..., None], history: History) -> Callable[..., None]:
    @functools.wraps(init)
    @forwards
    def named(self: Any, *args: Any, **kwargs: Any) -> None:
        self._tracked_as = history, history.new_object(type(self).__name__)
        init(self, *args, **kwargs)

    return named


def _using(method: Callable[..., Any], history: History) -> Callable[..., Any]:
    def uses(primitive: Any) -> None:
        of, name = getattr(primitive, "_tracked_as", (None, ()))
        if of is history:
            history.uses(name, is_write=True)
        else:
            history.unsupported(f"a {type(primitive).__name__} was made before the execution")

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        @forwards
        async def used_twice(self: Any, *args: Any, **kwargs: Any) -> Any:
            uses(self)
            try:
                return await method(self, *args, **kwargs)
            finally:
                uses(self)

        return used_twice

    @functools.wraps(method)
    @forwards
    def used(self: Any, *args: Any, **kwargs: Any) -> Any:
        uses(self)
        return method(self, *args, **kwargs)

    return used


__all__ = ["Chain", "Footprint", "History", "Object", "conflict", "tracked_primitives"]
