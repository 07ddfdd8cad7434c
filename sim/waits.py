"""Who waits for what, where an execution cannot go on, and who spins where it goes on for ever."""

from __future__ import annotations

import asyncio
import linecache
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

NAMED_MAX = 8
LINE_MAX = 48
# Whose frames say less than the program's own.
_INNER = (str(Path(asyncio.__file__).parent), __file__)


@contextmanager
def lock_holders() -> Iterator[None]:
    """Within the block, an asyncio.Lock remembers which task has it."""
    acquire = asyncio.Lock.acquire

    async def acquire_and_tell(lock: asyncio.Lock) -> bool:
        acquired = await acquire(lock)
        lock._sim_holder = asyncio.current_task()  # type: ignore[attr-defined]
        return acquired

    asyncio.Lock.acquire = acquire_and_tell  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        asyncio.Lock.acquire = acquire  # type: ignore[method-assign]


def who_waits(tasks: Sequence[asyncio.Task[Any]]) -> str:
    """A sentence for each task that is not done, and a circle of them if there is one."""
    pending = [task for task in tasks if not task.done()]
    sentences = [_waits(task) for task in pending[:NAMED_MAX]]
    if len(pending) > NAMED_MAX:
        sentences.append(f"{len(pending) - NAMED_MAX} more wait")
    circle = _circle(pending)
    if circle:
        sentences.append("in a circle: " + " → ".join(circle))
    return "; ".join(sentences)


def who_spins(steps: Sequence[str]) -> str:
    """Of the callbacks that joined the ready queue at the last instant: whose they were."""
    if not steps:
        return ""
    # A clock reading is a nanosecond, and spinning is a thousand of them: a microsecond is still.
    now = float(steps[-1].split(" ", 1)[0])
    last = [step for step in steps if now - float(step.split(" ", 1)[0]) < 1e-5]
    spun = Counter(step.split(" ", 1)[1].rpartition(" ")[0] for step in last)
    return ", ".join(f"{who} ran {times} times" for who, times in spun.most_common(3))


def _waits(task: asyncio.Task[Any]) -> str:
    frames = _frames(task)
    if not frames:
        return f"{task.get_name()} waits for its first step"
    own = next(
        (f for f in reversed(frames) if not f.f_code.co_filename.startswith(_INNER)), frames[-1]
    )
    return f"{task.get_name()} waits in {_place(own)}{_for(task, frames)}"


def _for(task: asyncio.Task[Any], frames: list[FrameType]) -> str:
    """For what, as far as that can be seen."""
    others = _awaited_tasks(task, frames)
    if others:
        return " for " + " and ".join(other.get_name() for other in others[:3])
    innermost = frames[-1]
    if innermost.f_code.co_filename.startswith(_INNER):
        owner = innermost.f_locals.get("self") or innermost.f_locals.get("lock")
        name = innermost.f_code.co_name
        return f" ({type(owner).__name__}.{name})" if owner is not None else f" ({name})"
    return ""


def _awaited_tasks(task: asyncio.Task[Any], frames: list[FrameType]) -> list[asyncio.Task[Any]]:
    awaited = task._fut_waiter  # type: ignore[attr-defined]
    if isinstance(awaited, asyncio.Task):
        return [awaited]
    children = getattr(awaited, "_children", None)
    if children is not None:
        return [each for each in children if isinstance(each, asyncio.Task) and not each.done()]
    owner = frames[-1].f_locals.get("self") if frames else None
    holder = getattr(owner, "_sim_holder", None) if isinstance(owner, asyncio.Lock) else None
    return [holder] if isinstance(holder, asyncio.Task) else []


def _circle(pending: list[asyncio.Task[Any]]) -> list[str]:
    for first in pending:
        path = [first]
        while True:
            others = _awaited_tasks(path[-1], _frames(path[-1]))
            if len(others) != 1 or others[0].done():
                break
            if others[0] in path:
                circle = path[path.index(others[0]) :]
                return [each.get_name() for each in (*circle, circle[0])]
            path.append(others[0])
    return []


def _frames(task: asyncio.Task[Any]) -> list[FrameType]:
    """Outermost first; `Task.get_stack` shows only that one of a suspended coroutine."""
    awaited: Any = task.get_coro()
    frames = []
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append(frame)
        awaited = awaited.cr_await
    return frames


def _place(frame: FrameType) -> str:
    return place_of(frame.f_code, frame.f_lineno)


def place_of(code: CodeType, line: int) -> str:
    """A place in the source, with its text."""
    text = linecache.getline(code.co_filename, line).strip()
    if len(text) > LINE_MAX:
        text = text[: LINE_MAX - 1] + "…"
    name = code.co_filename.rpartition("/")[2]
    return f"{code.co_name} ({name}:{line}" + (f" `{text}`)" if text else ")")
