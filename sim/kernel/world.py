"""World: what a program under exploration sees of the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from inspect import iscoroutinefunction
from types import BuiltinMethodType, CoroutineType, FrameType, FunctionType, MethodType
from typing import Any, NoReturn, TypeVar

from sim.kernel.arguments import is_number, misused, wrong_with
from sim.kernel.diagnosis import place_of_frame, place_of_predicate
from sim.kernel.errors import CheckFailed
from sim.kernel.faults import Faults
from sim.kernel.hosts.host import BY_THE_SYSTEM, Host, Process
from sim.kernel.hosts.hub import Hub, MakeLoop
from sim.kernel.hosts.ownership import Ownership
from sim.kernel.loop import SimLoop
from sim.kernel.network.network import Network
from sim.kernel.notices import Notices, Special
from sim.kernel.origin import fault_of_simulator, forwards
from sim.kernel.raised import (
    bound_to,
    headline_of_exception,
    place_of_exception,
    words_of_exception,
)
from sim.kernel.schedule import Option, one_natural
from sim.kernel.signals import name_of
from sim.kernel.threads.pools import QUEUE_MAX, THREADS_MAX, SimExecutor
from sim.kernel.violation import Kind, Violation, property_of

T = TypeVar("T")

VIOLATED = "VIOLATED"
"""The last line of the trace of an execution that violates a property."""


@dataclass(frozen=True, slots=True)
class TraceLine:
    """What an actor did, at a virtual time in seconds.

    is_chatter: of how a connection is made and ended, which is left out where there is no room.
    """

    at: float
    actor: str
    text: str
    is_chatter: bool = False


# Bound here: within executions another class stands there.
_Future = asyncio.Future


class World:
    """Handed to the program; everything in it belongs to one execution."""

    # The program's sentences for the kinds of violations that it does not check itself.
    _phrases: Mapping[Kind, str] = {}

    # Made with the first host: most executions have none.
    _hub: Hub | None = None
    _ownership: Ownership | None = None
    _hosts: Mapping[str, Host] = {}
    # Who has what, and what stands where, for pages.
    _holding: Callable[[], Mapping[str, str]] | None = None
    _values: Callable[[], Mapping[str, str]] | None = None
    # Of an execution in which the garbage collector runs.
    _at_polls: Callable[[], None] | None = None

    def __init__(self, loop: SimLoop, make_loop: MakeLoop | None = None) -> None:
        # In the turn of a process these two are the process's.
        self.loop = loop
        self.environment = loop.environment
        self.labels: set[str] = set()
        self.violation: Violation | None = None
        # An error of the simulator itself, so that there is no verdict on the program.
        self.fault: str | None = None
        # Recorded only when the execution is traced.
        self.trace: list[TraceLine] | None = None
        self._always: list[tuple[str, Callable[[], bool], Callable[[], str] | None]] = []
        # What makes the loop of a process.
        self._make_loop = make_loop

    WITHOUT_INFLUENCE = frozenset(
        {"loop", "environment", "labels", "violation", "trace", "fault", "_phrases"}
        # Read with the hub.
        | {"_hub", "_hosts", "_make_loop", "_ownership"}
        # Asked only where an execution is traced.
        | {"_holding", "_values"}
        # No search by states collects.
        | {"_at_polls"}
    )
    """Fields that do not decide what happens next, for the state reader; a test checks all."""

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, at a poll."""
        return (self._always, self._hosts)

    @property
    def now(self) -> float:
        """Virtual seconds since the execution began, whatever a host's clock shows."""
        return self.environment.lasted_s

    @property
    def lateness_s(self) -> float:
        """How late the loop may be, in seconds."""
        return self.loop.bounds.lateness_s

    @property
    def loops(self) -> list[SimLoop]:
        """The program's own first, then those of its processes."""
        if self._hub is None:
            return [self.loop]
        return [self._hub.main, *(run.loop for run in self._hub.made)]

    @property
    def faults(self) -> Faults:
        """The one budget of faults, of hosts and network, and what was taken of it."""
        return self.loop.faults

    @property
    def network(self) -> Network:
        """Between the program's sockets: its latency, its faults, other machines."""
        return self.loop.network

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """The loop's, without those that are cancelled."""
        return [each for each in self.loop._scheduled if not each.cancelled()]

    def host(self, name: str, *, clock_offset_s: float = 0.0, clock_rate: float = 1.0) -> Host:
        """A machine by that name: always the same one; the first call says how its clock goes.

        Its clocks show world time × rate + offset.
        """
        self._require_text("world.host", name)
        wrong = wrong_with({"clock_offset_s": clock_offset_s, "clock_rate": clock_rate})
        if wrong is not None:
            self._misuse(f"world.host({name!r}): {wrong}")
        hub = self._hub or self._first_hub()
        host = self._hosts.get(name)
        if host is None:
            rates = {"clock_offset_s": clock_offset_s, "clock_rate": clock_rate}
            host = Host(self, hub, name, **rates)
            self._hosts = {**self._hosts, name: host}
        elif (clock_offset_s, clock_rate) != (0.0, 1.0):
            self._misuse(
                f"the host {name!r} is there already, and its clock goes as its first call says"
            )
        return host

    def _first_hub(self) -> Hub:
        if self._make_loop is None or self.loop.threads.current is not None:
            self._misuse("world.host(…) is to be called in an exploration, and in no thread")
        self._hub = Hub(self, self._make_loop)
        self._ownership = Ownership(self._hub)
        self.loop.hosts = self._hub
        self.environment.observer.meets(Special.PROCESSES)
        return self._hub

    @property
    def hub(self) -> Hub | None:
        """Of the execution's processes, if it has hosts."""
        return self._hub

    def end_ownership(self) -> None:
        """asyncio's classes are what they were: before anything that was in place already goes."""
        if self._ownership is not None:
            self._ownership.end()

    def let_go(self) -> None:
        """After the execution: breaks reference cycles."""
        if self._hub is not None:
            self.end_ownership()
            self._hub.let_go()
            self._hub.main.hosts = None
            self._hub, self._hosts = None, {}

    async def outside(
        self,
        name: str,
        *args: Any,
        call: Callable[..., object] | None = None,
        earliest: float = 0.0,
        latest: float | None = None,
    ) -> None:
        """Waits for an outside event, which lands when the scheduler says.

        earliest, latest: its window, in seconds from now. Without `latest` the event is passed
        over at `passes_max` quiescent instants at most. A cancel withdraws the event.
        call: called with `args` in the iteration of the poll that finds the event, as a callback of
        `loop.add_reader` or a protocol's `connection_lost` is. A coroutine that waits goes on one
        iteration later, so that what acts directly in production has to act so here.
        """
        self._require_window("outside", name, earliest, latest)
        if args and call is None:
            self._misuse(f"outside event {name!r} has arguments {args!r} and nothing to call")
        if call is not None and (not callable(call) or iscoroutinefunction(call)):
            self._misuse(
                f"world.outside({name!r}, call={call!r}) needs a plain function, which runs in the "
                f"iteration of the poll; what awaits goes below `await world.outside(…)`"
            )
        # Only the arrival and this task use it, so its uses are not accesses, and it is never
        # hashed: CPython awaits a future of its own type faster.
        waiter: asyncio.Future[None] = _Future(loop=self.loop)
        arrival = self.environment.announce(
            name, earliest, math.inf if latest is None else latest, lambda: not waiter.done()
        )

        def landed(_: object) -> None:
            # As with a socket: the poll puts a callback into the ready queue, and that callback
            # wakes the task.
            self.record(name, actor="outside")
            if call is None:
                self.loop.call_soon(_settle, waiter)
            else:
                self.loop.call_soon(call_and_settle, waiter, call, args)

        assert arrival.callbacks is not None
        arrival.callbacks.append(landed)
        await waiter

    def signal(
        self,
        sig: int,
        *,
        to: Process | None = None,
        earliest: float = 0.0,
        latest: float | None = None,
    ) -> asyncio.Future[None]:
        """A signal is sent to the process, or to that one, and lands when the scheduler says.

        Its handler, of `loop.add_signal_handler`, runs as asyncio has it, and one of
        `signal.signal` in the poll's own iteration, or between two lines of the program's module.
        Without a handler the process would end, which is a violation. earliest, latest: as in
        `outside`. The future is done once the signal has landed; it need not be awaited, and to
        cancel it withdraws the signal.
        """
        if not isinstance(sig, int) or sig not in signal.valid_signals():
            self._misuse(f"world.signal({sig!r}) needs a signal, as signal.SIGTERM")
        name = name_of(sig)
        self._require_window("signal", name, earliest, latest)
        self.environment.observer.meets(Special.SIGNAL)
        if to is not None:
            return self._signal_process(name, sig, to, earliest, latest)
        landed = self.loop.create_future()
        arrival = self.environment.announce(
            name, earliest, math.inf if latest is None else latest, lambda: not landed.done()
        )

        def deliver(_: object) -> None:
            self.record(name, actor="outside")
            if self.loop.runs_at_once(sig) and self.loop.threads.own_file is not None:
                self.loop.bounds_hit.add("signal_lines")
            if not self.loop.deliver_signal(sig):
                self.fail_as(Kind.SIGNAL, f"{name} would end the process")
            self.loop.call_soon(_settle, landed)

        assert arrival.callbacks is not None
        arrival.callbacks.append(deliver)
        self.loop.signals_under_way = [*(self.loop.signals_under_way or ()), (sig, arrival)]
        if self.loop.bounds.signal_lines:
            self.loop.threads.may_be_interrupted()
        return landed

    def _signal_process(
        self, name: str, sig: int, to: Process, earliest: float, latest: float | None
    ) -> asyncio.Future[None]:
        """Where the process has no handler, the signal ends it, as by default."""
        sender = self.loop
        landed = sender.create_future()
        run = to.run
        if run is None:
            landed.set_result(None)
            return landed

        def deliver(_: object) -> None:
            self.record(f"{name} for {to.name}", actor="outside")
            sender.call_from_thread(_settle, (landed,), None)
            if sig in BY_THE_SYSTEM or not run.loop.deliver_signal(sig):
                to.kill(sig)

        last = math.inf if latest is None else latest
        named = f"{name} for {to.name}"
        environment = run.environment
        if sig == signal.SIGCONT:
            # It has to land while nothing of the process runs.
            environment = self.environment
        arrival = environment.announce(named, earliest, last, lambda: not landed.done())
        assert arrival.callbacks is not None
        arrival.callbacks.append(deliver)
        return landed

    def choose(self, name: str, options: Sequence[T]) -> T:
        """One of the options, by the scheduler's choice; the first is the natural one."""
        if not isinstance(name, str) or not _is_sequence(options):
            self._misuse(
                f"world.choose({name!r}, {options!r}) needs a name and a list of options, in an "
                f"order of its own"
            )
        if len(options) == 1:
            return options[0]
        if not options:
            self._misuse(f"world.choose({name!r}, {options!r}) has no option; it needs one")
        named = [Option(f"{name}: {option}") for option in options]
        return options[self.loop.choose("program", named, one_natural)]

    def shared(self, name: str) -> Shared:
        """Something that several actors share: the program has to report each use of it.

        The strategy `reduced` executes two orders of steps only where one of them writes what the
        other uses, and relies on these reports.
        """
        self._require_text("world.shared", name)
        return Shared(name, self.environment.observer)

    def executor(self, *, threads_max: int = THREADS_MAX, queue_max: int = QUEUE_MAX) -> Executor:
        """A pool of simulated threads, for code that takes its executor as a parameter."""
        wrong = wrong_with({"threads_max": threads_max, "queue_max": queue_max})
        if wrong is not None:
            self._misuse(f"world.executor: {wrong}")
        return SimExecutor(self.loop.threads, threads_max=threads_max, queue_max=queue_max)

    def declare(self, *files: str, in_loop: bool = False) -> None:
        """Every line of these files is a point at which a thread may be overtaken.

        Without it, threads switch at locks, blocking calls and `call_soon_threadsafe` alone. With
        `in_loop` the loop's thread may be overtaken at them, too (slow). To be called before the
        first thread begins.
        """
        for file in files:
            if not isinstance(file, str) or not _is_file(file):
                self._misuse(f"world.declare({file!r}) needs the path of a file, as __file__")
        for loop in self.loops:
            loop.threads.declare(files, in_loop=in_loop)

    def offer_cancels(self, to: Callable[[asyncio.Task[Any]], bool] = lambda task: True) -> None:
        """From now on each of these tasks may be cancelled right before each of its steps.

        The strategy `cancel everywhere` takes each of these offers once.
        """
        if not callable(to):
            self._misuse(f"world.offer_cancels({to!r}) needs a function: which tasks?")
        own = self.loops[0].tasks[0]
        for loop in self.loops:
            loop.offer_cancels(lambda task: task is not own and to(task))

    def check(
        self,
        condition: object,
        sentence: str,
        detail: str = "",
        *,
        judge: Callable[..., object] | None = None,
    ) -> None:
        """Refutes the program if the condition is false, and ends the execution.

        sentence: what must hold, in words; violations with the same sentence are the same.
        judge: the function that found out, where that is not the caller.
        """
        if not isinstance(sentence, str) or isinstance(condition, _NEVER_FALSE):
            if isinstance(condition, CoroutineType):
                condition.close()
            self._misuse(
                f"world.check({condition!r}, {sentence!r}) needs a condition, which is no "
                f"coroutine and no function, and then a sentence"
            )
        if not condition:
            where = "" if self.trace is None else place_of_predicate(judge) if judge else _caller()
            self._violate(sentence, str(detail), where)
            raise CheckFailed(f"{sentence} ({detail})" if detail else sentence)

    def _misuse(self, what: str) -> NoReturn:
        """An error, whether or not the program catches what is raised here."""
        raised = misused(what)
        self.fault = self.fault or str(raised)
        raise raised

    def _require_text(self, what: str, text: object) -> None:
        if not isinstance(text, str):
            self._misuse(f"{what}({text!r}) needs a text")

    def _require_window(self, method: str, name: object, earliest: Any, latest: Any) -> None:
        """Of an outside event: in seconds from now."""
        until = math.inf if latest is None else latest
        # Each execution asks this often, and mostly it is so.
        is_plain = type(earliest) in _NUMBERS and type(until) in _NUMBERS and isinstance(name, str)
        if is_plain and 0 <= earliest <= until and earliest < math.inf:
            return
        if not isinstance(name, str):
            self._misuse(f"world.{method}({name!r}) needs a name, which is a text")
        if not (is_number(earliest) and is_number(until)):
            self._misuse(
                f"world.{method}({name!r}, earliest={earliest!r}, latest={latest!r}) needs numbers "
                f"of seconds, or latest=None"
            )
        if not (0 <= earliest <= until and earliest < math.inf):
            self._misuse(
                f"outside event {name!r} has the window [{earliest}, {until}] s; "
                f"it needs 0 <= earliest <= latest, both counted from the call"
            )

    def fail(self, sentence: str, detail: str = "", *, raised: BaseException | None = None) -> None:
        """As a check that is false, for callers that must not raise.

        raised: the exception that is the violation, unless it arose in the simulator.
        """
        if raised is not None and self.is_own_fault(raised):
            return
        where = ""
        if self.trace is not None:
            where = place_of_exception(raised) if raised is not None else _caller()
        self._violate(str(sentence), str(detail), where)

    def fail_as(self, kind: Kind, detail: str, *, raised: BaseException | None = None) -> None:
        """A violation of what every program has to keep, in the program's words or the kind's."""
        if raised is None or not self.is_own_fault(raised):
            words = headline_of_exception(raised) if raised is not None else ""
            self._violate(self._phrases.get(kind, kind.value), detail, "", kind, words)
            if raised is not None and self.violation is not None and self._is_inherited(raised):
                self.violation = replace(self.violation, is_inherited=True)

    def _is_inherited(self, raised: BaseException) -> bool:
        loop = bound_to(raised)
        return isinstance(loop, SimLoop) and loop not in self.loops

    def judge_end(self, raised: BaseException, who: str = "") -> None:
        """It ended the program, or a process of it, by whose name it is reported."""
        if self.violation is not None:
            return
        if isinstance(raised, AssertionError) and raised.args:
            self.fail(str(raised.args[0]).splitlines()[0], raised=raised)
        elif isinstance(raised, asyncio.CancelledError):
            self.fail_as(Kind.EXCEPTION, f"{who or 'it'} was cancelled")
        else:
            words = words_of_exception(raised)
            self.fail_as(
                Kind.EXCEPTION, f"{who} ends with {words}" if who else words, raised=raised
            )

    def phrase(self, kind: Kind, sentence: str) -> None:
        """From now on violations of this kind are reported with this sentence."""
        self._phrases = {**self._phrases, kind: sentence}

    def is_own_fault(self, raised: BaseException) -> bool:
        """Whether the exception arose in the simulator; if so the execution ends in an error."""
        fault = fault_of_simulator(raised)
        if fault is None:
            return False
        self.fault = self.fault or fault
        self.loop.end_execution()
        return True

    def _violate(
        self,
        sentence: str,
        detail: str,
        where: str,
        kind: Kind = Kind.PROPERTY,
        raised: str = "",
    ) -> None:
        if self.violation is None:
            said = property_of(sentence), detail, self.now, where, kind
            self.violation = Violation(*said, raised=raised)
            self.record(VIOLATED)
            # What the rest of this iteration does comes too late to explain the violation.
            self.trace = None
        self.loop.end_execution()

    def always(
        self,
        sentence: str,
        predicate: Callable[[], bool],
        *,
        seen: Callable[[], str] | None = None,
    ) -> None:
        """The predicate is asked at every poll from now on, and must be true each time.

        seen: asked where it is not: what is observed, in words.
        """
        if not isinstance(sentence, str) or not callable(predicate):
            self._misuse(
                f"world.always({sentence!r}, {predicate!r}) needs a sentence, and then a function "
                f"without parameters"
            )
        if seen is not None and not callable(seen):
            self._misuse(
                f"world.always({sentence!r}, …, seen={seen!r}) needs a function without parameters "
                f"that returns text"
            )
        if iscoroutinefunction(predicate):
            self._misuse(_not_awaited(sentence, predicate))
        self._always.append((sentence, predicate, seen))
        self.loop.on_poll = self.ask_always

    def at_polls(self, call: Callable[[], None]) -> None:
        """It is called at each from now on, before anything is asked or lands."""
        self._at_polls = call
        self.loop.on_poll = self.ask_always

    def ask_always(self) -> None:
        if self._at_polls is not None:
            self._at_polls()
        threads = self.loop.threads
        threads.is_one_instant = True
        for sentence, predicate, seen in self._always:
            try:
                self._ask(sentence, predicate, seen)
            except CheckFailed:
                # It is recorded already.
                continue
            except Exception as exc:
                self.fail_as(
                    Kind.EXCEPTION, f"{exc!r}, in what is asked for «{sentence}»", raised=exc
                )
        # What breaks the execution off leaves it so.
        threads.is_one_instant = False

    def _ask(
        self, sentence: str, predicate: Callable[[], bool], seen: Callable[[], str] | None
    ) -> None:
        holds: object = predicate()
        if type(holds) is CoroutineType:
            holds.close()
            self._end_misused(_not_awaited(sentence, predicate))
        elif not holds:
            is_traced = self.trace is not None
            observed: object = "" if seen is None else seen()
            if isinstance(observed, str):
                where = place_of_predicate(predicate) if is_traced else ""
                self._violate(sentence, observed, where)
            else:
                if type(observed) is CoroutineType:
                    observed.close()
                self._end_misused(_no_text(sentence, seen, observed))

    def _end_misused(self, fault: str) -> None:
        self.fault = self.fault or fault
        self.loop.stop()

    def reached(self, label: str) -> None:
        """Marks a label as reached. A proof requires that some execution reaches each label."""
        self._require_text("world.reached", label)
        # A member of an enum goes with its class, which other processes may not find.
        self.labels.add(label if type(label) is str else str.__str__(label))

    def shows(
        self,
        holding: Callable[[], Mapping[str, str]],
        values: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """`holding()` says who has what now, as `{"p1": "its gate is open"}`: on a page there is a
        thick line in the column of that actor. `values()` says what stands where, as
        `{"p1": "STOPPING"}`, in place of the program's variables. Asked only where an execution is
        traced."""
        if self.trace is not None:
            self._holding, self._values = holding, values

    @property
    def held(self) -> Mapping[str, str]:
        """Who has what now, as `shows` would have it."""
        return {} if self._holding is None else self._holding()

    @property
    def values(self) -> Mapping[str, str] | None:
        """What stands where now, as `shows` would have it; None if the program does not say."""
        return None if self._values is None else self._values()

    @property
    def values_are_variables(self) -> bool:
        """Whether the program shows none of its own."""
        return self._values is None

    def record(self, text: str, *, actor: str | None = None, is_chatter: bool = False) -> None:
        """A line of the trace, in the column of `actor` or else of the current task."""
        if self.trace is None:
            return
        if actor is None and self._hub is not None and self._hub.current is not None:
            actor = self._hub.current.name
        if actor is None:
            with contextlib.suppress(RuntimeError):
                task = asyncio.current_task(self.loop)
                actor = task.get_name() if task is not None else None
        self.trace.append(TraceLine(self.now, actor or "loop", text, is_chatter))


def _not_awaited(sentence: str, predicate: Callable[..., object]) -> str:
    where = place_of_predicate(predicate)
    return (
        f"what world.always asks for «{sentence}» is a coroutine, which nobody awaits: it needs a "
        f"plain function that returns whether it holds{f', not {where}' if where else ''}"
    )


def _no_text(sentence: str, seen: object, observed: object) -> str:
    where = place_of_predicate(seen)
    return (
        f"what is seen of «{sentence}» (seen= of world.always) has to be text, and is "
        f"{type(observed).__name__} {observed!r:.60}{f', of {where}' if where else ''}: "
        f'return f"…" of it'
    )


def _is_sequence(options: object) -> bool:
    return isinstance(options, _SEQUENCES)


# The plain ones first, which need no question of an ABC's.
_SEQUENCES = (list, tuple, Sequence)
_NUMBERS = (float, int)
_is_file = cache(os.path.isfile)
# True, whatever they would return.
_NEVER_FALSE = (CoroutineType, FunctionType, MethodType, BuiltinMethodType)


def _caller() -> str:
    """The place in the source from which this file was called."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return place_of_frame(frame) if frame is not None else ""


class Shared:
    """A name for what several actors share."""

    def __init__(self, name: str, observer: Notices) -> None:
        self._name = "shared", name
        self._observer = observer

    def read(self) -> None:
        """The current step depends on what others have written."""
        self._observer.uses(self._name, is_write=False)

    def write(self) -> None:
        """The current step changes what others read or write."""
        self._observer.uses(self._name, is_write=True)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


@forwards
def call_and_settle(
    waiter: asyncio.Future[None], call: Callable[..., object], args: tuple[Any, ...]
) -> None:
    try:
        call(*args)
    finally:
        _settle(waiter)
