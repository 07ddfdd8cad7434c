"""The most general client of a registry: any operation, on any name ever seen, at any moment.

The other scenarios each lead to one situation, and `sized.py` to all those of prompts, stops and
callers that leave. This one does whatever the interface allows: it stops and ends what is over or
was never there, registers what is registered, gives no session, closes the registry; its streams
end in any way. The scheduler chooses each operation as it comes, and each end as it happens.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

from registry import Strategy
from sim.bench.harness.registry_bench import BY_REGISTER, Bench, Request
from sim.bench.scenarios.base import GRACE, program_of
from sim.bench.scenarios.sized import Comings
from sim.kernel.execution import Program
from sim.kernel.origin import modelled
from sim.kernel.world import World
from sim.schedulers import DepartureBounded, DepthFirst, RandomFirst, Scheduler

STREAM_S = 0.5
CLEAN_UP_S = 0.1
"""How long a stream lasts, and how long one that was stopped cleans up, in seconds."""

UNKNOWN = "no such stream"

WHOLE_MAX = 2
"""Up to how many operations `check` visits every schedule; of more, those with few departures."""

DEPARTURES = 2
RANDOM_EXECUTIONS = 100

_NAME = re.compile(r"client-(\d+)o(\d+)s(\d+)t")


Operation = tuple[str, Callable[[], None]]
"""By its name."""


class StreamFailed(Exception):
    """What a stream raises by itself; no registry knows it."""


@dataclass(frozen=True, slots=True, order=True)
class ClientSize:
    """How much happens.

    operations: how many there are, besides those that end what was begun.
    sessions: how many have a name; prompts without a session come on top.
    troubles: how many streams end otherwise than by their own end or by a cancel that they obey.
    """

    operations: int = 2
    sessions: int = 1
    troubles: int = 1

    @property
    def name(self) -> str:
        return f"client-{self.operations}o{self.sessions}s{self.troubles}t"

    @classmethod
    def parse(cls, name: str) -> ClientSize | None:
        """The size of a scenario of this name; None for another name."""
        found = _NAME.fullmatch(name)
        return cls(*map(int, found.groups())) if found is not None else None

    def __str__(self) -> str:
        counts = zip(astuple(self), ("operation", "session", "stream"), strict=True)
        words = [f"{count} {word}{'s' * (count != 1)}" for count, word in counts]
        return ", ".join(words) + " that may fail or ignore its cancel"


@dataclass(frozen=True, slots=True)
class ClientScenario:
    """The client within a size. It needs the note's three methods, and uses what else is there."""

    size: ClientSize
    reads_states: bool = True
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.size.name

    @property
    def description(self) -> str:
        return f"any operation on any name at any poll: {self.size}"

    @property
    def strategy(self) -> Scheduler:
        """A new one, for `check`: random executions find most flaws, and beyond the bounds."""
        search = DepthFirst() if self.size.operations <= WHOLE_MAX else DepartureBounded(DEPARTURES)
        return RandomFirst(search, random_executions=RANDOM_EXECUTIONS)

    @property
    def is_possible(self) -> bool:
        size = self.size
        return size.operations >= 1 and 1 <= size.sessions <= size.operations

    def applies_to(self, cls: type[Any]) -> bool:
        return True

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        """What can happen in a scenario of this size, with any registry."""
        labels = ["a prompt without a session"]
        if self.size.operations >= 2:
            labels += [
                "a stop of a stream",
                "a stop of a name that is over",
                "a caller left",
                "a stream was registered again",
            ]
        if self.size.operations >= 3:
            labels += ["a second stop of a stream"]
        if self.size.operations >= 2 and self.size.troubles:
            labels += [_reached_by(end) for end in _TROUBLES]
        return tuple(labels)

    def program_for(self, cls: type[Any]) -> Program:
        """The program that plays it on a fresh registry of this class."""
        return program_of(cls, lambda bench: _Client(bench, self.size).play())


# How a stream may end that was stopped, and by itself; the first is the natural way.
CLEANS_UP = "cleans up"
RETURNS = "returns as if it had not been cancelled"
FAILS = "fails in its clean-up"
HANGS = "goes on for longer than the grace"
_TROUBLES = (RETURNS, FAILS, HANGS)
_WHEN_STOPPED = (CLEANS_UP, *_TROUBLES)
_BY_ITSELF = ("ends", "fails")


def _reached_by(end: str) -> str:
    return f"a stream that was stopped {end}"


class _Client:
    def __init__(self, bench: Bench, size: ClientSize) -> None:
        self._bench = bench
        self._world = bench.world
        self._size = size
        self._troubles_left = size.troubles
        self._sessions = 0
        # By name: those that were stopped, and those that were registered again.
        self._stopped: set[str] = set()
        self._again: set[str] = set()
        # What was asked of the registry beside the prompts.
        self._calls: list[asyncio.Task[Any]] = []

    async def play(self) -> None:
        self._by = self._bench.entry_point()
        # The first comes at once: nothing was there before it.
        self._choose_of(self._prompts())
        others = self._size.operations - 1
        await Comings(self._world, latest_s=math.inf).of(("operation", others, self._operate))
        await self._quiet()
        await self._goes_on_afterwards()

    def _operate(self, count: int) -> None:
        self._choose_of(self._possible())

    def _choose_of(self, operations: Iterator[Operation]) -> None:
        by_name = dict(operations)
        by_name[self._world.choose("operation", list(by_name))]()

    def _possible(self) -> Iterator[Operation]:
        yield from self._prompts()
        for request in self._bench.requests:
            yield from self._of(request)
        if hasattr(self._bench.registry, "close") and not self._bench.is_closed:
            yield "close", partial(self._call, self._bench.close)

    def _prompts(self) -> Iterator[Operation]:
        offered = getattr(self._bench.registry, "strategies", (None,))
        sessions: list[int | None] = [*range(1, min(self._sessions + 1, self._size.sessions) + 1)]
        for session in (*sessions, None):
            for strategy in offered if session else offered[:1]:
                how = f", {strategy.value}" if strategy else ""
                where = f"s{session}" if session else "no session"
                yield f"a prompt in {where}{how}", partial(self._prompt, session, strategy)

    def _of(self, request: Request) -> Iterator[Operation]:
        name = request.name
        if request.is_gone:
            yield f"{name}, which is over, is stopped and ended", partial(self._name_over, name)
            return
        yield f"{name} is stopped", partial(self._stop, request)
        if not request.has_left and request.handler is not None and not request.handler.done():
            yield f"{name}'s caller leaves", partial(self._leave, request)
        if request.is_active and self._by == BY_REGISTER and name not in self._again:
            yield f"{name} is registered again", partial(self._register_again, request)

    # -- the operations

    def _prompt(self, session: int | None, strategy: Strategy | None) -> None:
        if session is None:
            self._world.reached("a prompt without a session")
        self._sessions = max(self._sessions, session or 0)
        name = f"p{len(self._bench.requests) + 1}"
        session_id = f"s{session}" if session else None
        self._bench.request(name, session_id, self._streams, by=self._by, strategy=strategy)

    def _stop(self, request: Request) -> None:
        if request.is_active:
            self._world.reached("a stop of a stream")
        if request.name in self._stopped:
            self._world.reached("a second stop of a stream")
        self._stopped.add(request.name)
        self._call(self._bench.cancel, request.name)

    def _name_over(self, name: str) -> None:
        """By who has not noticed: a button that is still there, a `finally` that comes late."""
        self._world.reached("a stop of a name that is over")
        self._call(self._bench.cancel, name)
        self._call(self._bench.pop, name)

    def _leave(self, request: Request) -> None:
        self._world.reached("a caller left")
        self._bench.leave(request)

    def _register_again(self, request: Request) -> None:
        self._world.reached("a stream was registered again")
        self._again.add(request.name)
        self._call(self._bench.register_again, request)

    def _call(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        async def call() -> None:
            await function(*args)

        name = f"call {len(self._calls) + 1}"
        self._calls.append(self._world.loop.create_task(call(), name=name))

    # -- the streams

    async def _streams(self, request: Request) -> None:
        try:
            await self._chunks(request)
        except asyncio.CancelledError:
            # Chosen only now, since until then one that will fail is as any other.
            end = self._end("when stopped", _WHEN_STOPPED)
            self._world.reached(_reached_by(end))
            if end is HANGS:
                await _hang(self._world, GRACE + 1)
            else:
                await asyncio.sleep(CLEAN_UP_S)
            if end is FAILS:
                raise modelled(StreamFailed(f"the clean-up of {request.name}")) from None
            if end is not RETURNS:
                raise
        else:
            if self._end("by itself", _BY_ITSELF) != _BY_ITSELF[0]:
                raise modelled(StreamFailed(request.name))

    async def _chunks(self, request: Request) -> None:
        await request.emit("chunk 1")
        await asyncio.sleep(STREAM_S)
        await request.emit("chunk 2")

    def _end(self, when: str, ends: tuple[str, ...]) -> str:
        end = self._world.choose(when, ends if self._troubles_left else ends[:1])
        self._troubles_left -= end != ends[0]
        return end

    # -- afterwards

    async def _quiet(self) -> None:
        for call in self._calls:
            if not call.done():
                await asyncio.wait({call})
            self._bench.judge_call(call)
        await self._bench.quiet()

    async def _goes_on_afterwards(self) -> None:
        """Nothing is left that hinders anybody: each session takes a prompt, and then a newer.

        Meanwhile all that is over is stopped and ended once more, and so is what was never there.
        A registry that is closed may refuse prompts, but answers them, and is closed once more.
        """
        over = [request.name for request in self._bench.requests]
        for session in range(1, self._sessions + 1):
            first = self._prompt_afterwards(session, "first")
            await asyncio.sleep(CLEAN_UP_S)
            sentence = "a session in which all is over takes the next prompt"
            may_refuse = self._bench.is_closed
            self._world.check(may_refuse or first.answer == "admitted", sentence)
            for name in (*over, UNKNOWN):
                await self._bench.cancel(name)
                await self._bench.pop(name)
            self._prompt_afterwards(session, "second")
            await asyncio.sleep(CLEAN_UP_S)
        if self._bench.is_closed:
            await self._bench.close()

    def _prompt_afterwards(self, session: int, which: str) -> Request:
        name = f"s{session}'s {which} afterwards"
        return self._bench.request(name, f"s{session}", self._chunks, by=self._by)


async def _hang(world: World, seconds: float) -> None:
    """However often it is cancelled."""
    until = world.now + seconds
    while (left := until - world.now) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


CLIENT_SCENARIOS = (
    ClientScenario(ClientSize(operations=2)),
    ClientScenario(ClientSize(operations=3, sessions=2)),
)
"""Those of `check`; larger ones are for `deepen`."""
