"""The state of an execution at a poll, in a canonical form: equal forms, equal futures.

Between two callbacks nothing of a program runs: all that it will ever do is decided by memory and
by the choices to come. So the state is read where CPython keeps it: from the ready queue, the
timers and the outside events through callbacks, tasks, frames of coroutines (locals and value
stack, as the garbage collector sees them), closures and objects, each numbered in the order in
which it is first reached. That is heap canonicalization (Iosif, "Symmetry reductions for model
checking of concurrent dynamic software", STTT 2004), as in Java PathFinder and CMC.

Left out: modules, classes, functions and their globals count as constants, and the trace is not
read. Times count to the microsecond, since each reading of the clock is a nanosecond later than the
last. What the wall clock has shown counts by the microsecond of its reading, and by its order among
all that is held, since each reading puts that clock ahead; the order in which the loop keeps its
timers and events counts in full. Which fields of the kernel count is said next to them, in
`canonical_state`. An object of an unknown type makes the state unique: it never matches one that
was visited.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
from contextvars import copy_context
from typing import Any

from sim.kernel.current import executions
from sim.kernel.environment import SAME_S
from sim.kernel.errors import Opaque
from sim.kernel.hosts.hub import Hub
from sim.kernel.living import address_of
from sim.kernel.loop import SimLoop
from sim.kernel.observer import Observer
from sim.kernel.schedule import ChoicePoint
from sim.kernel.spinning import TURNS_BESIDE_SPIN_MAX
from sim.kernel.world import World
from sim.schedulers.states.object_readers import (
    READERS,
    VALUES,
    Constants,
    is_constant,
    of_made_class,
    reader_for,
)
from sim.schedulers.states.thread_stacks import frame_that_asks, stacks_known

DIGITS = 6
"""Decimal places kept of floats: the loop counts instants that are nearer as one (`SAME_S`)."""

STAMPS_S = 1e7
"""So much earlier and later than at the beginning is what the wall clock may have shown."""

_OF_TYPE = "let its metaclass have the hash of type, or take strategy='depth-first'"

# Plain data for `marshal`.
Form = list[Any]


class StateReader(Observer):
    """Reads the states of one execution."""

    follows = False

    def begin(self, loop: SimLoop, world: World) -> None:
        self._loop = loop
        self._world = world
        # These are referred to from everywhere, and `_roots` reads what counts of them.
        bench = (loop, world, loop.environment, loop.threads, loop.bounds, world.labels)
        # Context variables that were set before are the same in each execution.
        known = (*bench, *copy_context().values())
        self._numbers = {address_of(each): -number for number, each in enumerate(known, 1)}

    @property
    def labels(self) -> set[str]:
        return self._world.labels

    @property
    def spins_are_many(self) -> bool:
        """Whether there ever were half of `spin_max` polls, or more, without an empty queue.

        Or half as many turns of threads within one poll as may be.
        """
        turns_seen = max(loop.threads.turns_seen for loop in self._world.loops)
        are_many = turns_seen >= TURNS_BESIDE_SPIN_MAX // 2
        return are_many or any(loop.environment.has_spun for loop in self._world.loops)

    def digest(
        self,
        point: ChoicePoint,
        constants: Constants,
        *,
        with_labels: bool,
        with_spins: bool,
        with_kept: bool,
    ) -> bytes:
        """16 bytes for the state at a choice point of a poll. Raises Opaque.

        Two states differ also: with_labels, if other labels were reached; with_spins, if another
        number of polls has passed since the ready queue was empty; with_kept, if other events are
        kept waiting, which may land without another departure.
        """
        is_in_turn = point.kind == "thread" or self._loop.stands_still
        if is_in_turn and self._world.hub is not None:
            raise Opaque("threads beside processes", "prove less, or without processes")
        asks = frame_that_asks(sys._getframe()) if is_in_turn else None
        form: Form = [point.kind, *(option.name for option in point.options)]
        if with_labels:
            form.append(sorted(self._world.labels))
        if with_spins:
            form.append([loop.environment.spins for loop in self._loops])
            form.append(
                [(each.threads.turns, each.environment.spin_rounds) for each in self._loops]
            )
        if with_kept:
            for loop in self._loops:
                pending = sorted(loop.environment.pending, key=lambda each: each.earliest)
                form.append([each.was_kept for each in pending])
                form.append([each.was_kept for each in loop.threads.workers])
        known = self._numbers | constants.descriptions
        if self._world.hub is not None:
            known |= self._known_of_processes(self._world.hub)
        if self._loop.has_network:
            known |= {address_of(self._loop.network): _NETWORK}
        # Those of processes share it.
        shown = executions[-1].entropy.shown
        traversal = _Traversal(form, known, constants, shown, self._loop.bounds.wall_s)
        try:
            with stacks_known(self._loop.threads, asks):
                traversal.run([*self._roots(), *self._within_poll(), asks])
        except Opaque:
            constants.note_unread()
            raise
        constants.note_descriptions(traversal.met)
        return hashlib.blake2b(marshal.dumps(form, 2), digest_size=16).digest()

    def stop(self) -> None:
        """What follows was explored already: the execution ends with the current iteration."""
        self._world.loop.end_execution()

    @property
    def _loops(self) -> list[SimLoop]:
        hub = self._world.hub
        return [self._loop] if hub is None else [self._loop, *hub.loops()]

    def _known_of_processes(self, hub: Hub) -> dict[int, int]:
        """As `_numbers`: of each process by its number, whether it lives or not."""
        numbers = {address_of(hub): _PROCESSES_FROM}
        for at, run in enumerate(hub.made, 1):
            parts = (run.loop, run.environment, run.loop.threads, run.loop.bounds)
            first = _PROCESSES_FROM - at * (len(parts) + 1)
            numbers |= {address_of(each): first - number for number, each in enumerate(parts)}
        return numbers

    def _within_poll(self) -> list[object]:
        """What of this iteration decides what comes next in it."""
        loop, env = self._loop, self._loop.environment
        if not loop.threads.workers:
            return []
        polls, since = loop._stood_still
        is_blocked = not loop._ready or not loop._has_work()
        return [
            since if polls == env.polls else None,
            is_blocked and env.now - env.blocked_from < SAME_S,
        ]

    def _roots(self) -> list[object]:
        kernel = (self._loop, self._loop.environment, self._world, executions[-1])
        roots = [part for each in kernel for part in each.canonical_state()]
        if self._loop.has_network:
            roots += self._loop.network.canonical_state()
        if self._world.hub is not None:
            return [*roots, *self._world.hub.canonical_state()]
        return [*roots, executions[-1].entropy.canonical_state()]


# Less than any number of a description.
_NETWORK = -9_000_000
_PROCESSES_FROM = -10_000_000


class _Traversal:
    """Breadth first, from the roots; objects are numbered in the order of the first visit."""

    def __init__(
        self,
        form: Form,
        known: dict[int, int],
        constants: Constants,
        shown: dict[int, int],
        wall_s: float,
    ) -> None:
        self._form = form
        self._constants = constants
        self._numbers = known
        # What the wall clock has shown (see Entropy); of what may be of it, its nanoseconds and
        # where in the form it stands.
        self._shown = shown
        self._begins_s, self._ends_s = wall_s - STAMPS_S, wall_s + STAMPS_S
        self._begins_ns, self._ends_ns = int(self._begins_s * 1e9), int(self._ends_s * 1e9)
        self._stamps: list[tuple[int, int]] = []
        # Also keeps alive what is made meanwhile, so that no address is used twice.
        self.met: list[object] = []

    def run(self, roots: list[object]) -> None:
        self._add(roots)
        form, add, address = self._form, self._add, self._constants.address
        for each in self.met:
            cls = type(each)
            # The length shows where the next object begins.
            key = address(cls)
            form.append((key or 0, 0, 0))
            if key is None:
                add(cls)
            reader = READERS.get(cls)
            if reader is None:
                reader = of_made_class if issubclass(cls, type) else reader_for(cls)
                if key is not None and reader is not of_made_class:
                    READERS[cls] = reader
            for part in reader(each):
                add(part)
        self._rank_stamps()

    def _add(self, part: Any) -> None:
        cls = type(part)
        try:
            is_value = cls in VALUES
        except Exception as exc:
            # Its metaclass has a hash of its own, or none.
            name = type.__getattribute__(cls, "__qualname__")
            raise Opaque(f"{name}, whose class has no hash", _OF_TYPE) from exc
        if is_value:
            if cls is float:
                if self._begins_s < part < self._ends_s:
                    self._stamps.append((round(part * 1e6) * 1000, len(self._form)))
                part = round(part, DIGITS)
            elif cls is int and self._begins_ns < part < self._ends_ns:
                # Of `time.time_ns()`.
                self._stamps.append((part, len(self._form)))
            self._form.append(part)
            return
        if cls not in READERS and is_constant(cls):
            address = self._constants.address(part)
            if address is not None:
                self._form.append((address,))
                return
        number = self._numbers.get(address_of(part))
        if number is None:
            number = self._numbers[address_of(part)] = len(self.met)
            self.met.append(part)
        self._form.append((number, 0))

    def _rank_stamps(self) -> None:
        """Of what the wall clock has shown it counts when, and which comes first of all that is so.

        By how many microseconds it was ahead hangs on how often it was read before, which decides
        nothing more; milliseconds count, as they may where it was read a thousand times.
        What it has not shown, as a deadline or a number of that size, stays as it is.
        """
        ranks = {ns: rank for rank, ns in enumerate(sorted({ns for ns, _ in self._stamps}))}
        for ns, at in self._stamps:
            made_us = self._shown.get(ns)
            if made_us is not None:
                ahead_ms = (ns // 1000 - made_us) // 1000
                self._form[at] = made_us, ahead_ms, ranks[ns], type(self._form[at]).__name__
