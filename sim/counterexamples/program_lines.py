"""Which lines of the program's own code ran in an execution, whose steps they were, and in which
call; and which exceptions came up in them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import CodeType, FrameType
from typing import Any

from sim.counterexamples.accesses import Access, Accesses, accesses_of
from sim.counterexamples.line_values import LineValues
from sim.counterexamples.ran import Ran, Touched, What
from sim.kernel.current import os_thread
from sim.kernel.diagnosis import RUNS_CALLBACKS, awaited_tasks, frames_of
from sim.kernel.loop import SimLoop
from sim.kernel.origin import is_of_kernel, is_of_simulator, is_own_code
from sim.kernel.threads.line_tracing import MONITORS, count_beside

# An execution of more lines is not compared line by line.
LINES_MAX = 200_000
# That of profilers, as none of the free ones is left. CPython asks the highest first: a line is
# noted after it was a switch point, once those who overtake a thread before it have run.
_TOOL = 2
_SUSPENDS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_monitoring: Any = getattr(sys, "monitoring", None)


@dataclass(frozen=True, slots=True)
class Stands:
    """Where an actor is at the violation: frames of the program's own, the innermost first."""

    actor: str
    frames: tuple[tuple[CodeType, int], ...]
    is_thread: bool = False


@dataclass(eq=False)
class ProgramLines:
    """ran: in their order, up to the violation. stands: who stood where then. violator: whose step
    it was, empty if nobody's. is_cut: there were more lines than `lines_max`.
    overtaken: the steps with which a thread went on that others had overtaken, and that had waited
    for nothing. values: what the lines read and changed had, where somebody wants to know."""

    ran: list[Ran] = field(default_factory=list)
    stands: list[Stands] = field(default_factory=list)
    violator: str = ""
    is_cut: bool = False
    lines_max: int = LINES_MAX
    overtaken: set[int] = field(default_factory=set)
    values: LineValues | None = None
    _is_over: bool = False
    # The loops that are at a poll. Within that of one, the process of another goes on, maybe in the
    # middle of a step.
    _paused: set[SimLoop] = field(default_factory=set)

    @contextmanager
    def traced(self, now: Callable[[], tuple[SimLoop, float, int]]) -> Iterator[None]:
        """Within the block they are noted. now: the loop that runs, its time, and which step."""
        self._now = now
        # On 3.12 and later the lines of all threads of the system are told.
        self._thread = os_thread()
        self._calls: dict[int, int] = {}
        self._calls_count = 0
        # Of each call, which line it has run last.
        self._last_of: dict[int, int] = {}
        # How often each function was called, by its file and its name.
        self._begun: Counter[tuple[str, str]] = Counter()
        self._own: dict[CodeType, Accesses | None] = {}
        # The frames of calls that are no part of the program's own doing, by their identity.
        self._asked: set[int] = set()
        # What is known by its identity must not make room for another meanwhile.
        self._kept: dict[int, object] = {}
        begin, end = (self._monitor, self._end) if MONITORS else (self._trace, self._untrace)
        begin()
        try:
            yield
        finally:
            end()
            del self._now
            self._kept.clear()
            if self.values is not None:
                self.values.end()

    def violated(self, loops: list[SimLoop]) -> None:
        """Now: who stands where, and nothing that comes after it counts."""
        if self._is_over:
            return
        loop, _, _ = self._now()
        if not self._is_no_step(loop):
            self.violator = actor_of(loop)
        for each in loops:
            for task in each.tasks:
                if not task.done():
                    frames = _own_frames(task)
                    if frames:
                        self.stands.append(Stands(each.lane + task.get_name(), frames))
            for worker in each.threads.workers:
                frames = _own_frames_from(worker.greenlet.gr_frame)
                if frames:
                    name = each.lane + worker.identity.shown
                    self.stands.append(Stands(name, frames, is_thread=True))
        self._take_back_what_waits()
        self._is_over = True

    @cached_property
    def turns(self) -> set[int]:
        """The steps in which a line ran; to be asked once all is over."""
        return {each.step for each in self.ran if each.what is What.LINE}

    def pauses(self, loop: SimLoop, is_paused: bool) -> bool:
        """At a poll the simulator asks what it checks: that is no step of anybody's. Threads go on
        there, too. Returns whether it was paused before."""
        was_paused = loop in self._paused
        (self._paused.add if is_paused else self._paused.discard)(loop)
        return was_paused

    def _is_no_step(self, loop: SimLoop) -> bool:
        return loop in self._paused and loop.threads.current is None

    # -- noting

    def _accesses(self, code: CodeType) -> Accesses | None:
        """None for what is not the program's own."""
        try:
            return self._own[code]
        except KeyError:
            is_own = is_own_code(code.co_filename) and not code.co_filename.startswith("<")
            found = self._own[code] = accesses_of(code.co_filename) if is_own else None
            return found

    def _note(self, what: What, frame: FrameType, raised: str = "") -> None:
        if self._is_over or os_thread() != self._thread:
            return
        loop, at, step = self._now()
        if id(frame) in self._asked or self._is_no_step(loop):
            return
        if len(self.ran) >= self.lines_max:
            self.is_cut = self._is_over = True
            if MONITORS:
                _monitoring.set_events(_TOOL, 0)
            return
        accesses = self._accesses(frame.f_code)
        assert accesses is not None
        line = frame.f_lineno
        is_resumed = what is What.RESUMES
        reads, writes = accesses.of_line(line, frame.f_code.co_name, is_resumed=is_resumed)
        if loop.threads.current is not None and line in accesses.calling:
            # When it changes that is not known.
            writes = []
        is_of_cancel = False
        if what is What.RAISES:
            reads, writes = [], []
            task = asyncio.current_task(loop)
            is_told = task is not None and task.cancelling() > 0
            is_of_cancel = raised == "CancelledError" and is_told
        written = self._touched(writes, frame)
        call = self._calls.get(id(frame), 0)
        if is_resumed:
            self._take_back(call, frame)
        self._last_of[call] = len(self.ran)
        ran = Ran(
            what,
            at,
            actor_of(loop),
            step,
            call,
            frame.f_code,
            line,
            self._touched(reads, frame),
            written,
            _awaited_by(loop) if written else frozenset(),
            raised,
            is_of_cancel,
        )
        if self.values is not None:
            self.values.note(len(self.ran), ran, frame, self._kept)
        self.ran.append(ran)

    def _take_back(self, call: int, frame: FrameType) -> None:
        """What the line writes it has not written yet where it went on before: it waits again."""
        last = self._last_of.get(call)
        if last is not None:
            before = self.ran[last]
            if before.what is What.RESUMES and before.line == frame.f_lineno:
                self.ran[last] = replace(before, writes=())

    def _take_back_what_waits(self) -> None:
        stand = {(each.actor, *place) for each in self.stands for place in each.frames}
        for at in self._last_of.values():
            ran = self.ran[at]
            if ran.what is What.RESUMES and (ran.actor, ran.code, ran.line) in stand:
                self.ran[at] = replace(ran, writes=())

    def _is_one(self, name: str, code: CodeType) -> bool:
        """Whether the variable is no function's that was called more than once, which has more."""
        makers = code.co_qualname.split(".<locals>.")
        if name in code.co_freevars:
            makers.pop()
        elif name not in code.co_cellvars:
            return name not in code.co_varnames
        names = (".<locals>.".join(makers[: at + 1]) for at in range(len(makers)))
        return all(self._begun[code.co_filename, each] <= 1 for each in names)

    def _touched(self, accesses: list[Access], frame: FrameType) -> tuple[Touched, ...]:
        touched = []
        for each in accesses:
            variables = frame.f_locals
            key = None if each.key is None else _value_of(each.key, variables)
            owner = variables.get(each.owner)
            if owner is None and not each.name:
                owner = frame.f_globals.get(each.owner)
            if owner is not None:
                self._kept[id(owner)] = owner
                text = f"{each.owner}.{each.name}" if each.name else each.owner
                touched.append(Touched(id(owner), each.name, key, text))
            elif not each.owner and self._is_one(each.name, frame.f_code):
                touched.append(Touched(frame.f_code.co_filename, each.name, key, each.name))
        return tuple(touched)

    def _begin_call(self, frame: FrameType) -> None:
        if self._is_asked(frame):
            self._asked.add(id(frame))
            return
        self._asked.discard(id(frame))
        self._calls_count += 1
        self._calls[id(frame)] = self._calls_count
        self._begun[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    def _is_asked(self, frame: FrameType) -> bool:
        """Whether who drives the program looks at it: calls a plain function of it, as a bench that
        asks for a snapshot; or whether it runs below such a call."""
        is_plain = not frame.f_code.co_flags & _SUSPENDS
        above = frame.f_back
        # What only wraps a method of the program's has its name.
        while above is not None and above.f_code.co_name == frame.f_code.co_name:
            above = above.f_back
        if is_plain and above is not None and _is_drivers(above.f_code):
            return True
        is_driven = False
        while above is not None and above.f_code is not RUNS_CALLBACKS:
            if self._accesses(above.f_code) is not None:
                return id(above) in self._asked
            is_driven = is_driven or _is_drivers(above.f_code)
            above = above.f_back
        return is_driven and is_plain

    # -- on 3.11: sys.settrace

    def _trace(self) -> None:
        self._before = sys.gettrace()
        # One object: another of the same method would count as another function, beside it.
        on_call = self._on_call
        count_beside(on_call, comes_last=True)
        sys.settrace(on_call)

    def _untrace(self) -> None:
        count_beside(None)
        sys.settrace(self._before)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self._is_over or self._accesses(frame.f_code) is None:
            return None
        if _is_resumed(frame):
            self._note(What.RESUMES, frame)
        else:
            self._begin_call(frame)
        return None if id(frame) in self._asked else self._on_event

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> None:
        """It returns nothing, so that the frame keeps who traces it: the watchdog may take it over
        from a signal that comes meanwhile."""
        if self._is_over:
            if frame.f_trace == self._on_event:
                frame.f_trace = None
        elif event == "line":
            self._note(What.LINE, frame)
        elif event == "exception":
            self._raises(frame, arg[0])
        elif event == "return" and self.values is not None:
            self.values.settle(frame, self._kept)

    def _raises(self, frame: FrameType, raised: type[BaseException]) -> None:
        if issubclass(raised, (StopIteration, StopAsyncIteration, GeneratorExit)):
            return
        last = self.ran[-1] if self.ran else None
        again = (What.RAISES, self._calls.get(id(frame), 0), frame.f_lineno, raised.__name__)
        # Since 3.12 what is thrown into a call is told twice.
        if last is None or (last.what, last.call, last.line, last.raised) != again:
            self._note(What.RAISES, frame, raised.__name__)

    # -- since 3.12: sys.monitoring

    def _monitor(self) -> None:
        events = _monitoring.events
        self._is_monitoring = _monitoring.get_tool(_TOOL) is None
        if not self._is_monitoring:
            self._is_over = True
            return
        _monitoring.use_tool_id(_TOOL, "onestream's lines")
        on = {
            events.PY_START: self._on_start,
            events.PY_RESUME: self._on_resume,
            events.LINE: self._on_line,
            events.RAISE: self._on_raise,
            # Into a coroutine that waits.
            events.PY_THROW: self._on_raise,
        }
        if self.values is not None:
            on[events.PY_RETURN] = self._on_return
        for event, call in on.items():
            _monitoring.register_callback(_TOOL, event, call)
        _monitoring.restart_events()
        _monitoring.set_events(_TOOL, sum(on))

    def _end(self) -> None:
        if self._is_monitoring:
            _monitoring.set_events(_TOOL, 0)
            _monitoring.free_tool_id(_TOOL)

    def _on_start(self, code: CodeType, offset: int) -> Any:
        if self._accesses(code) is None:
            return _monitoring.DISABLE
        self._begin_call(sys._getframe(1))
        return None

    def _on_resume(self, code: CodeType, offset: int) -> Any:
        if self._accesses(code) is None:
            return _monitoring.DISABLE
        self._note(What.RESUMES, sys._getframe(1))
        return None

    def _on_line(self, code: CodeType, line: int) -> Any:
        if self._accesses(code) is None:
            return _monitoring.DISABLE
        self._note(What.LINE, sys._getframe(1))
        return None

    def _on_return(self, code: CodeType, offset: int, returned: object) -> Any:
        if self._accesses(code) is None:
            return _monitoring.DISABLE
        if self.values is not None and not self._is_over and os_thread() == self._thread:
            self.values.settle(sys._getframe(1), self._kept)
        return None

    def _on_raise(self, code: CodeType, offset: int, raised: BaseException) -> None:
        if self._accesses(code) is not None:
            self._raises(sys._getframe(1), type(raised))


def _awaited_by(loop: SimLoop) -> frozenset[str]:
    """Who waits for the end of the task that runs."""
    running = asyncio.current_task(loop)
    return frozenset(
        loop.lane + task.get_name()
        for task in loop.tasks
        if not task.done()
        and task is not running
        and any(each is running for each in awaited_tasks(task, frames_of(task.get_coro())))
    )


def _is_drivers(code: CodeType) -> bool:
    """Whether it is the simulator's, but not of what runs the program."""
    return is_of_simulator(code.co_filename) and not is_of_kernel(code.co_filename)


def actor_of(loop: SimLoop) -> str:
    """Who runs in it: a thread, a task, or the loop itself."""
    worker = loop.threads.current
    if worker is not None:
        return f"{loop.lane}{worker.identity.shown}"
    task = asyncio.current_task(loop)
    return f"{loop.lane}{task.get_name()}" if task is not None else f"{loop.lane}loop"


def _is_resumed(frame: FrameType) -> bool:
    """Whether it goes on after it had given the loop back. A call begins at RESUME 0."""
    if not frame.f_code.co_flags & _SUSPENDS:
        return False
    return bool(frame.f_code.co_code[frame.f_lasti + 1] & 3)


def _own_frames(task: asyncio.Task[Any]) -> tuple[tuple[CodeType, int], ...]:
    """Of a task that waits: the frames of its coroutine; of the one that runs: those that run."""
    coroutine: Any = task.get_coro()
    if getattr(coroutine, "cr_running", False):
        return _own_frames_from(sys._getframe(1))
    return _own_of(reversed(frames_of(coroutine)))


def _own_frames_from(frame: FrameType | None) -> tuple[tuple[CodeType, int], ...]:
    """From this one on outwards, down to the loop."""
    frames = []
    while frame is not None and frame.f_code is not RUNS_CALLBACKS:
        frames.append(frame)
        frame = frame.f_back
    return _own_of(frames)


def _own_of(frames: Iterable[FrameType]) -> tuple[tuple[CodeType, int], ...]:
    return tuple(
        (each.f_code, each.f_lineno) for each in frames if is_own_code(each.f_code.co_filename)
    )


def _value_of(key: ast.expr, variables: Mapping[str, Any]) -> str | None:
    """As text, where it can be told without running any code of the program's."""
    found = _found(key, variables)
    is_plain = type(found) in (str, int, bytes, bool)
    return repr(found) if is_plain else None


def _found(node: ast.expr, variables: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return variables.get(node.id)
    if isinstance(node, ast.Subscript):
        owner, key = _found(node.value, variables), _found(node.slice, variables)
        return owner.get(key) if type(owner) is dict and type(key) is str else None
    if isinstance(node, ast.Attribute):
        owner = _found(node.value, variables)
        own = object.__getattribute__(owner, "__dict__") if _has_dict(owner) else {}
        return own.get(node.attr)
    return None


def _has_dict(owner: object) -> bool:
    return type(owner).__dictoffset__ != 0
