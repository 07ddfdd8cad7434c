"""An unmodified `asyncio.SelectorEventLoop`, with a scripted selector, clock and outside world.

`onestream export` copies this file into each test that it writes, so it needs nothing but the
standard library. The loop finds in each poll what the script says: as if sockets became readable
at these moments and at no other. Whatever does not fit what the loop or the program asks for at
that poll is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import selectors
import signal
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar

T = TypeVar("T")
READING_S = 1e-9  # how much later each reading of the clock is than the last
SAME_S = 1e-6  # instants that are nearer are one
HAPPENINGS_MAX = 10_000  # how often what lands begins the count of spin_max anew
FD_0 = 1_000_000  # from here on, no descriptors of the system's, but names of outside events
BLOCKED_TICKS = 3  # after so many seconds of real time without any work a step is blocked
CARRIED = " in this file"  # the end of the file names of the modules that the file carries
STILL_CPU_S = 0.05  # in one of them, and not for the timer's own work
_cpu_s = time.process_time  # bound here: the program reads other clocks
# The sentences where the program has none of its own (World.phrase), by sim.Kind's names.
SENTENCES = {
    "DEADLOCK": "no deadlock: nothing waits for what can no longer come",
    "LIVELOCK": "no livelock: nothing spins while virtual time stands still",
    "NO_END": "the execution ends",
    "EXCEPTION": "the program ends without an exception",
    "CALLBACK": "no callback raises",
}


class CheckFailed(AssertionError):
    """A property does not hold. Raised by `World.check`."""


class DoesNotFit(Exception):
    """The program does not reach what the script expects: it took another path."""


Found = Sequence[float | tuple[int, str] | None]


@dataclass(frozen=True)
class Script:
    """What the polls find, in order, by their number: a float is a reading to which the clock
    jumps, (3, "a") the third outside event that was announced, named a, None the horizon. After
    the last poll everything is natural. `choices` are the answers of World.choose: option, index.
    `python` is the version of CPython that it was recorded with, `hash_seed` its PYTHONHASHSEED.
    """

    polls: Mapping[int, Found]
    last_poll: int
    choices: Sequence[tuple[str, int]] = ()
    python: str = ""
    hash_seed: str = "random"
    was_violated: bool = True
    lateness_s: float = 0.010
    spin_max: int = 200
    horizon_s: float = 600.0
    hashes_futures: bool = False
    entropy_seed: int = 0
    set_order: int = 0
    clock_s: float = 0.0
    wall_s: float = 1_577_836_800.0


class Clock:
    """In place of `loop.time`: between two polls it moves only by READING_S at each reading.

    begun_s: what it shows at the beginning. epoch_s: what the wall clock shows where it shows 0.
    """

    def __init__(self, begun_s: float, epoch_s: float) -> None:
        self.now = self.begun_s = begun_s
        self.epoch_s = epoch_s

    def __call__(self) -> float:
        self.now += READING_S
        return self.now


class ScriptedSelector(selectors.BaseSelector):
    """Finds readable what the world says, and sleeps in virtual time."""

    def __init__(self) -> None:
        self.keys: dict[Any, selectors.SelectorKey] = {}
        self.poll: Callable[[float | None], list[int]] = lambda timeout: []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.keys.setdefault(fileobj, selectors.SelectorKey(fileobj, fileobj, events, data))

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self.keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self.keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return [(self.keys[fd], selectors.EVENT_READ) for fd in self.poll(timeout)]


class Serial:
    """Hashes by a counter of the run, so that sets iterate in one order."""

    serials = itertools.count(1)
    order = 0

    def __hash__(self) -> int:
        try:
            return self._serial
        except AttributeError:
            self._serial: int = in_set_order(next(Serial.serials))
            return self._serial


def in_set_order(number: int) -> int:
    none_below_0 = (1 << 60) - 1
    if Serial.order < 2:
        return ~number & none_below_0 if Serial.order else number
    return hash((Serial.order, hash((Serial.order, number)))) & none_below_0


class StockTask(asyncio.Task[Any]):
    """Hashes by its name, so that sets (TaskGroup has one) iterate in one order."""

    hashed: int | None = None

    def __hash__(self) -> int:
        if self.hashed is None:
            name = self.get_name()
            number = name.removeprefix("Task-")
            hashed = int(number) if number.isdecimal() else zlib.crc32(name.encode())
            self.hashed = in_set_order(hashed)
        return self.hashed


class StockFuture(Serial, asyncio.Future[Any]):
    pass


@dataclass(frozen=True)
class TraceLine:
    at: float
    actor: str
    text: str


@dataclass(frozen=True)
class Violation:
    property: str
    detail: str
    at: float


@dataclass(frozen=True)
class _Arrival:
    name: str
    earliest: float
    latest: float
    waiter: asyncio.Future[None]


class Intent(Protocol):
    """Decides in place of a script that does not fit: see `shim_intent.py`."""

    def poll(self, world: World) -> list[int]: ...

    def choose(self, options: Sequence[str]) -> int: ...


class World:
    """What the program sees of the outside world, as `sim.World` is; and what each poll finds."""

    def __init__(self, loop: asyncio.SelectorEventLoop, clock: Clock, script: Script) -> None:
        self.loop, self.clock, self.script = loop, clock, script
        self.lateness_s = script.lateness_s
        self.trace: list[TraceLine] = []
        self.labels: set[str] = set()
        self.violation: Violation | None = None
        self.misfit: DoesNotFit | None = None
        self.stuck: tuple[str, str] | None = None
        self.is_over = self.is_judged = False
        self.polls = self.spins = self.spin_rounds = 0
        # Until when the loop would sleep in this poll.
        self.until = 0.0
        # Where the program took another path than the script's.
        self.intent: Intent | None = None
        # The outside events that have landed, by name.
        self.landed: list[str] = []
        self._always: list[tuple[str, Callable[[], bool], Callable[[], str] | None]] = []
        self._choices = iter(script.choices)
        self.sentences = dict(SENTENCES)
        # Announced and not landed, by the number that stands for a file descriptor.
        self._announced: dict[int, _Arrival] = {}
        self._fds = itertools.count(FD_0 + 1)

    @property
    def now(self) -> float:
        return self.clock.now - self.clock.begun_s

    async def outside(
        self,
        name: str,
        *args: Any,
        call: Callable[..., object] | None = None,
        earliest: float = 0.0,
        latest: float | None = None,
    ) -> None:
        waiter = self.loop.create_future()
        until = math.inf if latest is None else latest
        if not 0 <= earliest <= until:
            raise ValueError(f"outside event {name!r} has the window [{earliest}, {until}] s")
        fd = next(self._fds)
        self._announced[fd] = _Arrival(
            name, self.clock.now + earliest, self.clock.now + until, waiter
        )
        act = (_settle, waiter) if call is None else (_call_and_settle, waiter, call, args)
        self.loop.add_reader(fd, *act)
        try:
            await waiter
        finally:
            self._announced.pop(fd, None)
            self.loop.remove_reader(fd)

    def choose(self, name: str, options: Sequence[T]) -> T:
        if len(options) == 1:
            return options[0]
        if self.intent is not None:
            return options[self.intent.choose([f"{name}: {each}" for each in options])]
        chosen, index = next(self._choices, (f"{name}: {options[0]}", 0))
        if index >= len(options) or f"{name}: {options[index]}" != chosen:
            raise self._misfit(f"chooses {name} among {options}, where the script has {chosen}")
        return options[index]

    def check(
        self, condition: object, sentence: str, detail: str = "", *, judge: object = None
    ) -> None:
        if not condition:
            self.fail(sentence, detail)
            raise CheckFailed(f"{sentence} ({detail})" if detail else sentence)

    def fail(self, sentence: str, detail: str = "") -> None:
        if self.violation is None and not self.is_judged:
            self.record("VIOLATED")
            self.violation = Violation(sentence, detail, self.now)
        self.end()

    def fail_as(self, kind: str, detail: str) -> None:
        self.fail(self.sentences[kind], detail)

    def phrase(self, kind: Any, sentence: str) -> None:
        self.sentences[kind.name] = sentence

    def is_own_fault(self, raised: BaseException) -> bool:
        """No simulator is here that could have one."""
        return False

    def end(self) -> None:
        self.is_over = True
        if self.loop.is_running():
            self.loop.stop()

    def always(
        self,
        sentence: str,
        predicate: Callable[[], bool],
        *,
        seen: Callable[[], str] | None = None,
    ) -> None:
        self._always.append((sentence, predicate, seen))

    def shows(
        self,
        holding: Callable[[], Mapping[str, str]],
        values: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """For a page alone."""

    def reached(self, label: str) -> None:
        if not self.is_judged:
            self.labels.add(label)

    def offer_cancels(self, to: object = None) -> None:
        """No offer was taken, or this file would not have been written."""

    def shared(self, name: str) -> World:
        """Uses matter only to a search, and this is one schedule."""
        return self

    def read(self) -> None:
        """Of what is shared."""

    write = read

    def declare(self, *files: str, in_loop: bool = False) -> None:
        """Lines matter to worker threads, and there are none."""

    def without_threads(self, *_: object) -> NoReturn:
        raise self._misfit("runs a worker thread, of which no selector knows")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._misfit(f"asks for world.{name}, which only the simulator has")

    def record(self, text: str, *, actor: str | None = None) -> None:
        # What the rest of the iteration does after a violation comes too late to explain it.
        if self.violation is None and not self.is_judged:
            self.trace.append(TraceLine(self.now, actor or self._actor(), text))

    def _actor(self) -> str:
        with contextlib.suppress(RuntimeError):
            if (task := asyncio.current_task(self.loop)) is not None:
                return task.get_name()
        return "loop"

    # -- the poll

    def poll(self, timeout: float | None) -> list[int]:
        """The file descriptors that are readable; the clock stands as it does on return."""
        self.polls += 1
        self._ask_always()
        if self.is_over:
            return []
        self.spins = self.spins + 1 if timeout == 0 else 0
        if self.spins == 0:
            self.spin_rounds = 0
        self.until = math.inf if timeout is None else self.clock.now + timeout
        if self.until == math.inf and not self.pending():
            return self._get_stuck("DEADLOCK", "no timer is armed, no outside event announced")
        if self.spins > self.script.spin_max:
            return self._spin_on()
        if self.intent is not None and not self.is_judged:
            return self.intent.poll(self)
        if self.polls <= self.script.last_poll and not self.is_judged:
            return self._scripted()
        return self.natural()

    def _ask_always(self) -> None:
        for sentence, predicate, seen in self._always:
            if self.is_judged:
                return
            try:
                if not predicate():
                    self.fail(sentence, "" if seen is None else seen())
            except Exception as exc:
                self.fail_as("EXCEPTION", f"{exc!r}, in what is asked for «{sentence}»")

    def pending(self) -> dict[int, _Arrival]:
        return {fd: each for fd, each in self._announced.items() if not each.waiter.done()}

    def due(self) -> set[int]:
        return {fd for fd, each in self.pending().items() if each.earliest <= self.clock.now}

    def _scripted(self) -> list[int]:
        """What the script has for this poll, if a loop that sleeps until then could find it."""
        found = self._play()
        if self.is_over:
            return found
        if not found and self.clock.now < self.until - 2 * READING_S:
            raise self._misfit(
                f"sleeps until {self.until:.9f}, where the script wakes it for nothing"
            )
        # It may oversleep, and be late once more when something lands.
        if self.clock.now > self.until + 2 * self.script.lateness_s:
            raise self._misfit(f"sleeps until {self.until:.9f}, where the script lets it oversleep")
        return found

    def _play(self) -> list[int]:
        found = []
        for each in self.script.polls.get(self.polls, ()):
            if each is None:
                return self._never_end()
            if isinstance(each, float):
                self._jump(each)
            else:
                found.append(self.land(FD_0 + each[0], each[1]))
        return found

    def _never_end(self) -> list[int]:
        latest = min([self.until, *(each.latest for each in self.pending().values())])
        if latest <= self.clock.begun_s + self.script.horizon_s:
            raise self._misfit(f"has {latest:.9f} to wait for, where the script has nothing more")
        return self._get_stuck("NO_END", f"not within {self.script.horizon_s:g} s")

    def _jump(self, to: float) -> None:
        late = [each.name for each in self.pending().values() if each.latest < to - SAME_S]
        if late or to < self.clock.now:
            raise self._misfit(f"is at {self.clock.now:.9f} and waits for {late}, not for {to:.9f}")
        self.clock.now = to

    def land(self, fd: int, name: str) -> int:
        arrival = self.pending().get(fd)
        if arrival is None or arrival.name != name or arrival.earliest > self.clock.now:
            raise self._misfit(f"does not wait for {name!r}, which the script has to land")
        del self._announced[fd]
        self.landed.append(name)
        self._let_spin()
        self.record(name, actor="outside")
        return fd

    def natural(self, held: Collection[str] = ()) -> list[int]:
        """What is due lands, the oldest first; else the clock moves on.

        held: names of events that are to land later, which they do at the end of their windows.
        """
        while True:
            pending = self.pending()
            due = sorted(
                (each.earliest if each.name not in held else each.latest, fd)
                for fd, each in pending.items()
            )
            found = [self.land(fd, pending[fd].name) for at, fd in due if at <= self.clock.now]
            if found or self.clock.now >= self.until - 2 * READING_S:
                return found
            instants = [self.until, *(at for at, _ in due), *self.deadlines()]
            first = min(self.until, *(at for at, _ in due)) if due else self.until
            if first == math.inf and held:
                return []
            to = max(at for at in instants if at <= first + SAME_S)
            if to > self.clock.begun_s + self.script.horizon_s:
                return self._get_stuck("NO_END", f"not within {self.script.horizon_s:g} s")
            self.clock.now = to

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        timers = self.loop._scheduled  # type: ignore[attr-defined]
        return [timer for timer in timers if not timer.cancelled()]

    def deadlines(self) -> list[float]:
        return [timer.when() for timer in self.timers]

    def _spin_on(self) -> list[int]:
        """The ready queue was not empty for `spin_max` polls: the world goes on regardless."""
        deadlines = self.deadlines()
        if not deadlines and not self.pending():
            return self._get_stuck("LIVELOCK", "no timer is armed, no outside event announced")
        self.spins = 0
        self.spin_rounds += 1
        is_scripted = self.intent is None and self.polls <= self.script.last_poll
        if is_scripted and not self.is_judged:
            return self._play()
        self.until = self.clock.now
        found = self.natural()
        later = [*deadlines, *(each.earliest for each in self.pending().values())]
        self.clock.now = max(self.clock.now, min(later, default=0.0))
        return found

    def _let_spin(self) -> None:
        if self.spins and self.spin_rounds < HAPPENINGS_MAX:
            self.spin_rounds += 1
            self.spins = 0

    def _get_stuck(self, sentence: str, seen: str) -> list[int]:
        self.stuck = sentence, seen
        self.end()
        return []

    def _misfit(self, seen: str) -> DoesNotFit:
        where = f"poll {self.polls} of {self.script.last_poll}"
        self.misfit = self.misfit or DoesNotFit(f"in {where} the program {seen}")
        self.end()
        return self.misfit


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _call_and_settle(
    waiter: asyncio.Future[None], call: Callable[..., object], args: tuple[Any, ...]
) -> None:
    try:
        call(*args)
    finally:
        _settle(waiter)


class Blocked(BaseException):
    """The loop's thread waits for what only it could bring about; raised where it waits."""


@contextlib.contextmanager
def interrupted_where_blocked(world: World) -> Iterator[None]:
    """Raises Blocked into a step that neither ends nor computes for BLOCKED_TICKS seconds.

    Nothing outside of the process is waited for here, so it would wait for ever. Where there is no
    such timer, and beside the main thread, it does.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "setitimer"):
        yield
        return
    seen, ticks = (world.polls, _cpu_s()), 0

    def tick(number: int, frame: FrameType | None) -> None:
        nonlocal seen, ticks
        polls, cpu_s = now = world.polls, _cpu_s()
        is_still = polls == seen[0] and cpu_s - seen[1] < STILL_CPU_S
        seen, ticks = now, ticks + 1 if is_still else 0
        if ticks >= BLOCKED_TICKS:
            world.fail_as("DEADLOCK", f"the loop's thread blocks for ever{_own_place(frame)}")
            raise Blocked

    before = signal.signal(signal.SIGALRM, tick)
    timer = signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Drops one that is on its way; by default it would end the process.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _own_place(frame: FrameType | None) -> str:
    """Of the program's, which calls what does not return."""
    while frame is not None and not frame.f_code.co_filename.endswith(CARRIED):
        frame = frame.f_back
    return "" if frame is None else f" in {frame.f_code.co_name} (line {frame.f_lineno})"


@contextlib.contextmanager
def stock_loop(script: Script) -> Iterator[World]:
    """The world of a loop that is unmodified except for its clock and the names of tasks."""
    selector, clock = ScriptedSelector(), Clock(script.clock_s, script.wall_s - script.clock_s)
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = clock  # type: ignore[method-assign]
    loop.set_debug(False)
    Serial.serials, Serial.order = itertools.count(1), script.set_order
    unnamed = itertools.count(1)
    create_task = loop.create_task
    given: list[str] = []

    def create_named(coro: Any, *, name: str | None = None, **options: Any) -> asyncio.Task[Any]:
        # asyncio's own names count the tasks of the process; ours those of the execution.
        name = name if name is not None else f"Task-{next(unnamed)}"
        # asyncio names a task after its factory made it, and hashes it before.
        given[:] = [name]
        return create_task(coro, name=name, **options)

    def new_task(loop: Any, coro: Any, **options: Any) -> StockTask:
        options["name"] = given.pop()
        return StockTask(coro, loop=loop, **options)

    # The trace shows this name where it is a callback, for asynchronous generators that are closed.
    create_named.__qualname__ = "create_task"
    loop.create_task = create_named  # type: ignore[assignment,method-assign]
    loop.set_task_factory(new_task)
    if script.hashes_futures:
        loop.create_future = lambda: StockFuture(loop=loop)  # type: ignore[method-assign]
    world = World(loop, clock, script)
    loop.run_in_executor = world.without_threads  # type: ignore[method-assign,assignment]
    selector.poll = world.poll
    try:
        yield world
    finally:
        loop.close()
