"""A parametrised scenario: n sessions, registers, cancels, leavers and hangs, in any order.

The other scenarios each lead to one situation. This one does not: prompts arrive, stop is pressed,
callers leave, all at any poll within a window, for any request; one stream after another hangs or
does not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import astuple, dataclass
from typing import Any

from registry import Strategy, StreamRegistry, wording
from sim.bench.harness.log_capture import LogLine
from sim.bench.harness.registry_bench import Bench, Request
from sim.bench.scenarios.base import GRACE, program_of
from sim.kernel.execution import Program
from sim.kernel.world import World

WINDOW_S = 0.3
"""How long after the previous event of its kind one comes at the latest, in seconds."""

ALL_HUNG = "as many streams hung as may"

_MAY_HANG = ("cleans up", "hangs")

_NAME = re.compile(r"size-(\d+)s(\d+)r(\d+)c(\d+)l(\d+)h(?:(\d+)e(\d+)x)?")

_WORDS = ("session", "register", "cancel", "leaver", "hang")


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """How much happens. hangs: how many streams swallow their cancel for longer than the grace.

    enqueues, rejects: how many of the registers may do that, and not interrupt.
    """

    sessions: int = 1
    registers: int = 1
    cancels: int = 0
    leaves: int = 0
    hangs: int = 0
    enqueues: int = 0
    rejects: int = 0

    @property
    def name(self) -> str:
        letters = zip(astuple(self), "srclhex" if self.has_strategies else "srclh", strict=False)
        return "size-" + "".join(f"{count}{letter}" for count, letter in letters)

    @property
    def has_strategies(self) -> bool:
        """Whether not every register interrupts."""
        return bool(self.enqueues or self.rejects)

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the protocol's table for registers that do not interrupt."""
        rows = []
        if self.enqueues:
            rows.append("row register: enqueues, queue has room")
        if self.rejects:
            rows.append("row register: rejects, session busy")
        return tuple(rows)

    @classmethod
    def parse(cls, name: str) -> Size | None:
        """The size of a scenario of this name; None for another name."""
        found = _NAME.fullmatch(name)
        return cls(*(int(each or 0) for each in found.groups())) if found is not None else None

    def __str__(self) -> str:
        counts = zip(astuple(self), _WORDS, strict=False)
        words = [f"{count} {word}{'s' * (count != 1)}" for count, word in counts]
        if self.has_strategies:
            words.append(f"of the registers {self.enqueues} may enqueue and {self.rejects} reject")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class SizedScenario:
    """A scenario of a size. It needs only the note's three methods."""

    size: Size
    strategy: str | None = "states"
    reads_states: bool = True

    @property
    def name(self) -> str:
        return self.size.name

    @property
    def description(self) -> str:
        return f"{self.size}, at any poll"

    @property
    def is_possible(self) -> bool:
        """Whether all of it can happen: each hang needs a session, which it holds to the end, and
        something that stops its stream."""
        size = self.size
        stops = size.registers - size.hangs + size.cancels + size.leaves
        others = size.enqueues + size.rejects
        if others and others >= size.registers:
            return False
        return 1 <= size.sessions <= size.registers and size.hangs <= min(size.sessions, stops)

    def applies_to(self, cls: type[Any]) -> bool:
        return not self.size.has_strategies or hasattr(cls, "strategies")

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        """What can happen in a scenario of this size."""
        labels = []
        size = self.size
        if size.registers > 1:
            labels.append("a stream was stopped by a newer one")
        if size.cancels:
            labels.append("a stream was cancelled")
        if size.leaves:
            labels.append("a caller left")
        if size.hangs:
            labels.append(ALL_HUNG)
        if size.hangs and (size.registers > 1 or size.cancels) and issubclass(cls, StreamRegistry):
            labels.append("a stream was detached")
        return (*labels, *size.rows)

    def program_for(self, cls: type[Any]) -> Program:
        """The program that plays it on a fresh registry of this class."""
        return program_of(cls, lambda bench: _Story(bench, self.size).play(), _reach)


def _reach(world: World, line: LogLine) -> None:
    if line.says(wording.STREAM_CANCELLED, reason=wording.NEW_STREAM_REGISTERED):
        world.reached("a stream was stopped by a newer one")
    if line.says(wording.TIMEOUT_ON_CANCEL):
        world.reached("a stream was detached")


def begin(world: World, coro: Coroutine[Any, Any, Any], name: str) -> None:
    """A task that the loop keeps; `asyncio.create_task` of 3.11 names one after it is hashed."""
    world.loop.create_task(coro, name=name)


class Comings:
    """Events of several kinds, each of which may come at any poll."""

    def __init__(self, world: World, latest_s: float = WINDOW_S) -> None:
        self._world = world
        self._latest_s = latest_s
        self._to_come = 0
        self._all_came = asyncio.get_running_loop().create_future()

    async def of(self, *kinds: tuple[str, int, Callable[[int], None]]) -> None:
        """kinds: name, number of events, what happens then. Returns once all have come."""
        self._to_come = sum(count for _, count, _ in kinds)
        for kind, count, happens in kinds:
            self._announce(kind, happens, count)
        if self._to_come:
            await self._all_came

    def _announce(
        self, kind: str, happens: Callable[[int], None], left: int, count: int = 1
    ) -> None:
        """Events of a kind are interchangeable: they are numbered as they come.

        The next is announced as one lands, so that both may come in one poll.
        """
        if not left:
            return
        loop, world = asyncio.get_running_loop(), self._world
        name = f"{kind} {count}"
        arrival = world.environment.announce(name, 0.0, self._latest_s)

        def landed(_: object) -> None:
            world.record(name, actor="outside")
            loop.call_soon(self._comes, happens, count)
            self._announce(kind, happens, left - 1, count + 1)

        assert arrival.callbacks is not None
        arrival.callbacks.append(landed)

    def _comes(self, happens: Callable[[int], None], count: int) -> None:
        happens(count)
        self._to_come -= 1
        if not self._to_come:
            self._all_came.set_result(None)


class Strategies:
    """The strategy of each register for a busy session; None where all of them interrupt."""

    def __init__(self, world: World, size: Size) -> None:
        self._world = world
        self._has_any = size.has_strategies
        self._left = {Strategy.ENQUEUE: size.enqueues, Strategy.REJECT: size.rejects}

    def choose(self) -> Strategy | None:
        if not self._has_any:
            return None
        able = [Strategy.INTERRUPT, *(each for each, left in self._left.items() if left)]
        if len(able) == 1:
            return Strategy.INTERRUPT
        names = [each.value for each in able]
        chosen = Strategy(self._world.choose("strategy", names))
        if chosen in self._left:
            self._left[chosen] -= 1
        return chosen


class _Story:
    def __init__(self, bench: Bench, size: Size) -> None:
        self._bench = bench
        self._size = size
        self._hangs_left = size.hangs
        self._strategies = Strategies(bench.world, size)

    async def play(self) -> None:
        # One for all: each mixture of both would multiply the number of schedules.
        self._by = self._bench.entry_point()
        await Comings(self._bench.world).of(
            ("prompt", self._size.registers, self._prompt),
            ("stop", self._size.cancels, self._stop),
            ("leave", self._size.leaves, self._leave),
        )

    def _prompt(self, count: int) -> None:
        session = self._bench.world.choose("session", range(1, min(count, self._size.sessions) + 1))
        strategy = self._strategies.choose()
        self._bench.request(
            f"p{count}", f"s{session}", self._streams, by=self._by, strategy=strategy
        )

    async def _streams(self, request: Request) -> None:
        """A chunk, half a second, another; once stopped, it cleans up for a moment, or hangs."""
        try:
            await request.emit("chunk 1")
            await request.outside("chunk 2", 0.5, 0.5)
            await request.emit("chunk 2")
        except asyncio.CancelledError:
            # Chosen only now, since until then one that will hang is as any other.
            works = self._bench.world.choose(
                "told to stop", _MAY_HANG[: 1 + bool(self._hangs_left)]
            )
            if works == "hangs":
                self._hangs_left -= 1
                if not self._hangs_left:
                    self._bench.world.reached(ALL_HUNG)
                # It ignores every cancel, for longer than the grace.
                await request.hold_on(GRACE + 1)
            raise
        finally:
            await asyncio.sleep(0.1)

    def _stop(self, count: int) -> None:
        if (request := self._anyone()) is not None:
            if request.task is not None and not request.task.done():
                self._bench.world.reached("a stream was cancelled")
            begin(self._bench.world, self._bench.cancel(request.name), f"stop {count}")

    def _leave(self, count: int) -> None:
        if (request := self._anyone()) is not None:
            self._bench.world.reached("a caller left")
            self._bench.leave(request)

    def _anyone(self) -> Request | None:
        """A request that has come and is not over, if there is one."""
        there = [each for each in self._bench.requests if each.handler and not each.handler.done()]
        if not there:
            return None
        names = [each.name for each in there]
        return there[names.index(self._bench.world.choose("whom", names))]
