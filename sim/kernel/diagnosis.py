"""Diagnosis: which tasks wait for what in a deadlock, and which spin in a livelock."""

from __future__ import annotations

import asyncio
import linecache
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from sim.kernel.isolation.as_it_is import attribute_of, is_a
from sim.kernel.origin import forwards, is_installed, is_of_kernel, is_programs

NAMED_MAX = 8
AWAITED_MAX = 3
SPINNING_MAX = 3
STEPS_SPUN_MAX = 5000
LINE_MAX = 48
# Below this frame stands who runs the loop, which is not the program.
RUNS_CALLBACKS: CodeType = vars(asyncio.BaseEventLoop)["_run_once"].__code__
# Files whose frames say less than the program's own.
_INNER = (str(Path(asyncio.__file__).parent), __file__)


@contextmanager
def lock_holders() -> Iterator[None]:
    """Within the block, an asyncio.Lock remembers which task holds it."""
    acquire = asyncio.Lock.acquire

    @forwards
    async def acquire_and_record(lock: asyncio.Lock) -> bool:
        acquired = await acquire(lock)
        lock._sim_holder = asyncio.current_task()  # type: ignore[attr-defined]
        return acquired

    asyncio.Lock.acquire = acquire_and_record  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        asyncio.Lock.acquire = acquire  # type: ignore[method-assign]


def who_waits(tasks: Sequence[asyncio.Task[Any]]) -> list[str]:
    """A circle of tasks if there is one, and a sentence for each place where tasks wait.

    Those that are in the circle come first.
    """
    pending = [task for task in tasks if not task.done()]
    circle = _circle(pending)
    waiting: dict[str, list[str]] = {}
    for task in [*circle[:-1], *(task for task in pending if task not in circle)]:
        waiting.setdefault(where_it_waits(task), []).append(task.get_name())
    sentences = [
        f"{_listed(names)} wait{'s' * (len(names) == 1)} {where}"
        for where, names in list(waiting.items())[:NAMED_MAX]
    ]
    left_out = sum(map(len, list(waiting.values())[NAMED_MAX:]))
    if left_out:
        sentences.append(f"{left_out} more wait")
    if circle:
        names = [task.get_name() for task in circle]
        sentences.insert(0, f"they wait in a circle: {' → '.join(names)}")
    return sentences


def _listed(names: list[str]) -> str:
    if len(names) > AWAITED_MAX + 1:
        names = [*names[:AWAITED_MAX], f"{len(names) - AWAITED_MAX} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def who_spins(steps: Sequence[str], tasks: Sequence[asyncio.Task[Any]]) -> list[str]:
    """A sentence for each actor that ran most at the last instant.

    steps: those of a traced execution.
    """
    if not steps:
        return []
    # Thousands of readings, a nanosecond each, may lie within the instant at which they spin.
    now = float(steps[-1].split(" ", 1)[0])
    last = [step.split(" ", 1) for step in steps[-STEPS_SPUN_MAX:]]
    spun = Counter(_who(what) for at, what in last if now - float(at) < 1e-5)
    most = max(spun.values())
    coroutines = {f"task {task.get_name()}": task.get_coro() for task in tasks}
    return [
        f"{who} spins: it ran {times} times" + _own_place(coroutines.get(who))
        for who, times in spun.most_common(SPINNING_MAX)
        if 4 * times >= most
    ]


def _who(step: str) -> str:
    """Of a step without its time: the task, or the callback of the loop's own."""
    actor, _, callback = step.rpartition(" ")
    return f"callback {callback}" if actor == "loop" else f"task {actor}"


def _own_place(coroutine: Any) -> str:
    frames = frames_of(coroutine)
    return f", in {place_of_frame(_own(frames))}" if frames else ""


def _own(frames: list[FrameType]) -> FrameType:
    """The innermost frame that is the program's own."""
    own = (each for each in reversed(frames) if not each.f_code.co_filename.startswith(_INNER))
    return next(own, frames[-1])


def where_it_waits(task: asyncio.Task[Any]) -> str:
    """As of `the task waits in …`, and for what."""
    frames = frames_of(task.get_coro())
    if not frames:
        return "for its first step"
    return f"in {place_of_frame(_own(frames))}{waits_for(task, frames)}"


def waits_for(task: asyncio.Task[Any], frames: list[FrameType]) -> str:
    """What it waits for, as far as that can be read."""
    others = awaited_tasks(task, frames)
    what = _listed([other.get_name() for other in others]) if others else ""
    if what:
        has_lock = is_a(frames[-1].f_locals.get("self"), asyncio.Lock)
        return f" for the Lock that {what} has" if has_lock else f" for {what}"
    inner = frames[frames.index(_own(frames)) + 1 :]
    if not inner:
        return ""
    # The function that the program called, and not what that calls in turn.
    called = next((each for each in inner if not each.f_code.co_name.startswith("_")), inner[-1])
    name = called.f_code.co_name
    owner = called.f_locals.get("self")
    return f" ({type(owner).__name__}.{name})" if owner is not None else f" ({name})"


def awaited_tasks(task: asyncio.Task[Any], frames: list[FrameType]) -> list[asyncio.Task[Any]]:
    """The tasks that it waits for, directly or for a lock that one of them holds."""
    awaited = task._fut_waiter  # type: ignore[attr-defined]
    if is_a(awaited, asyncio.Task):
        return [awaited]
    innermost = frames[-1].f_locals if frames else {}
    owner: Any = innermost.get("self")
    among: Any = getattr(awaited, "_children", None)  # of gather
    if is_a(owner, asyncio.Lock):
        among = [getattr(owner, "_sim_holder", None)]
    elif is_a(owner, asyncio.TaskGroup):
        among = owner._tasks
    elif among is None:
        among = innermost.get("fs", [innermost.get("fut")])  # of wait and wait_for
    if not is_a(among, (list, tuple, set, frozenset)):
        return []
    found = [each for each in among if is_a(each, asyncio.Task) and not each.done()]
    # The order of a group's set differs between versions of Python.
    return sorted(found, key=asyncio.Task.get_name) if is_a(among, set) else found


def _circle(pending: list[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Each waits for the next, and the last is the first; empty if there is none."""
    for first in pending:
        path = [first]
        while True:
            others = awaited_tasks(path[-1], frames_of(path[-1].get_coro()))
            if len(others) != 1:
                break
            if others[0] in path:
                return [*path[path.index(others[0]) :], others[0]]
            path.append(others[0])
    return []


def frames_of(coroutine: Any) -> list[FrameType]:
    """Outermost first; `Task.get_stack` shows only that one of a suspended coroutine."""
    frames = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames.append(frame)
        coroutine = coroutine.cr_await
    return frames


def place_of_frame(frame: FrameType) -> str:
    """A place in the source, with its text: `work (sim/bench/demo.py:12 `await done`)`."""
    return place_of_line(frame.f_code, frame.f_globals, frame.f_lineno)


def place_in_program(frame: FrameType | None) -> str:
    """Of a running frame: where the program's own code stands, below all that it has called.

    Where only an installed package is on the stack, as in a task of its own, its place.
    """
    own = programs_frame(frame, below_loop=True) or frame
    assert own is not None
    return place_of_frame(own)


def blocking_call(frame: FrameType | None, lowest: str, *, has_text: bool = True) -> str:
    """What the program called and does not return, and where: `Queue.get in work (demo.py:12)`.

    lowest: how that is called where the program calls it itself.
    """
    called = None
    own = programs_frame(frame)
    while frame is not None and frame is not own:
        if not is_of_kernel(frame.f_code.co_filename):
            called = frame
        frame = frame.f_back
    name = lowest if called is None else called.f_code.co_qualname
    if own is None:
        return name
    return f"{name} in " + (
        place_of_frame(own) if has_text else short_place(own.f_code, own.f_lineno)
    )


def programs_frame(frame: FrameType | None, *, below_loop: bool = False) -> FrameType | None:
    """The innermost frame of the program's own, or of an installed package's, from this one on.

    below_loop: also where the loop itself has called what runs: who runs the loop.
    """
    theirs = []
    while frame is not None and (below_loop or frame.f_code is not RUNS_CALLBACKS):
        if is_programs(frame):
            if not is_installed(frame.f_code.co_filename):
                return frame
            theirs.append(frame)
        frame = frame.f_back
    return theirs[0] if theirs else None


def place_of_predicate(predicate: Any) -> str:
    """Where a function begins; empty for what is not a function."""
    while is_a(predicate, partial):
        predicate = predicate.func
    function = attribute_of(predicate, "__func__", predicate)
    if not is_a(function, FunctionType):
        return ""
    return place_of_line(function.__code__, function.__globals__, function.__code__.co_firstlineno)


def short_place(code: CodeType, line: int) -> str:
    """For rows of a chart: `work (demo.py:12)`."""
    return f"{code.co_name} ({code.co_filename.rpartition('/')[2]}:{line})"


def place_of_line(
    code: CodeType, module: dict[str, Any], line: int, *, has_text: bool = True
) -> str:
    text = linecache.getline(code.co_filename, line).strip() if has_text else ""
    if len(text) > LINE_MAX:
        text = text[: LINE_MAX - 1] + "…"
    if text.endswith("(") or text.startswith(("def ", "@")):
        # The first line of a call over several lines, or of a function, says nothing.
        text = ""
    # From the package's folder on: what is above it differs between machines.
    package = (module.get("__package__") or "").split(".")
    depth = len(package) + 1 if package != [""] else 1
    path = "/".join(code.co_filename.split("/")[-depth:])
    return f"{code.co_name} ({path}:{line}" + (f" `{text}`)" if text else ")")
