"""Other threads of the operating system, which are not simulated, beside a loop that is.

A suite's main thread calls, through anyio's portal, a loop that runs in a thread of its own. To the
loop that call comes from outside, when the caller gets to it. So its clock jumps to the next timer
only while every other thread is seen to wait for ever; until then time passes as it does for them.

Seen is the innermost Python function of each thread, and what it waits for. What is not known to
wait counts as at work: that is never wrong, only slow.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import thread as pools
from types import CodeType, FrameType, TracebackType
from typing import Any, ClassVar

from sim.kernel.current import execution_of_this_thread, loop_at_rest, os_thread
from sim.kernel.threads.tools import is_a_tool

# Bound here, before an exploration replaces them.
real_lock = threading.Lock
_real_sleep = time.sleep
# Of the type, since a suite may have it forbidden in loops: this is where one waits for its events.
_acquire = type(real_lock()).acquire
_real_monotonic = time.monotonic  # noqa: TID251 - others live in real time
_start = threading.Thread.start.__code__

LOOK_S = 0.0005, 0.01
"""How often, in real seconds, others are looked at: at first, and after some time."""


class Bell:
    """Wakes who waits for it in real time, from any thread."""

    def __init__(self) -> None:
        self._lock = real_lock()
        self._lock.acquire()

    def ring(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            """It has been rung already."""

    def wait(self, timeout_s: float) -> None:
        _acquire(self._lock, True, timeout_s)


def wait_while_others_work(bell: Bell, is_so: Callable[[], bool], until_s: float) -> float:
    """Waits in real time until it is so; at most `until_s`, if that is finite.

    Returns before if no other thread can make it so, with the real seconds that have passed.
    """
    if not _others():
        return 0.0
    begun, waited_s = _real_monotonic(), 0.0
    look_s, seen_idle = LOOK_S[0], False
    with _Waiting(is_so, has_timer=until_s < float("inf")):
        while not is_so() and waited_s < until_s:
            if others_at_work():
                seen_idle = False
            elif seen_idle:
                break
            else:
                # Once more: it may have been between two waits, and not have got its turn.
                seen_idle, look_s = True, LOOK_S[0]
            bell.wait(min(look_s, until_s - waited_s))
            look_s = min(2 * look_s, LOOK_S[1])
            waited_s = _real_monotonic() - begun
    return waited_s


def wait_for(is_so: Callable[[], bool], timeout: float) -> bool:
    """Where no loop of ours runs, for what one of another thread has to do; whether it has.

    Or for what threads of one that stands still here have to do. A negative timeout is none.
    """
    goes_on = loop_at_rest()
    if goes_on is not None:
        with goes_on():
            execution = execution_of_this_thread()
            assert execution is not None
            execution.loop.threads.block_until("wait", is_so, None if timeout < 0 else timeout)
            return is_so()
    begun = _real_monotonic()
    with _Waiting(is_so, has_timer=timeout >= 0):
        while not is_so():
            if 0 <= timeout <= _real_monotonic() - begun:
                return False
            _real_sleep(LOOK_S[0])
    return True


# ---- who is at work --------------------------------------------------------------------------


class _Waiting:
    """A thread that waits in one of the functions above."""

    by_thread: ClassVar[dict[int, _Waiting]] = {}

    def __init__(self, is_so: Callable[[], bool], *, has_timer: bool) -> None:
        self._is_so = is_so
        self._has_timer = has_timer

    @property
    def is_at_work(self) -> bool:
        return self._has_timer or self._is_so()

    def __enter__(self) -> None:
        self._before = self.by_thread.get(os_thread())
        self.by_thread[os_thread()] = self

    def __exit__(
        self, kind: type[BaseException] | None, raised: object, at: TracebackType | None
    ) -> None:
        if self._before is None:
            del self.by_thread[os_thread()]
        else:
            self.by_thread[os_thread()] = self._before


def others_at_work() -> bool:
    """Whether any other thread may go on without our doing."""
    others = _others()
    return any(_is_at_work(thread, frame) for thread, frame in others.items())


def _others() -> dict[int, FrameType]:
    """What each other thread runs."""
    frames = sys._current_frames()
    this = os_thread()
    return {each: frames[each] for each in frames if each != this and not is_a_tool(each)}


def _is_at_work(thread: int, frame: FrameType) -> bool:
    waiting = _Waiting.by_thread.get(thread)
    if waiting is not None:
        return waiting.is_at_work
    waits = _WAITS.get(frame.f_code)
    if waits is None:
        return True
    try:
        return not waits(frame, frame.f_locals)
    except KeyError:
        # The function has returned since it was seen.
        return True


Waits = Callable[[FrameType, dict[str, Any]], bool]


def _for_notice(frame: FrameType, values: dict[str, Any]) -> bool:
    """Condition.wait, and so Event, Semaphore, Queue.get and a Future's result."""
    waiter = values["waiter"]
    if values["timeout"] is not None or _starts_thread(frame):
        return False
    # Who is noticed is taken from the list.
    return waiter.locked() and waiter in values["self"]._waiters


def _starts_thread(frame: FrameType) -> bool:
    """Thread.start waits for the thread's own notice: one that is not among the others yet."""
    outer = frame.f_back and frame.f_back.f_back
    return outer is not None and outer.f_code is _start


def _for_end(_: FrameType, values: dict[str, Any]) -> bool:
    """Thread.join."""
    return values["timeout"] in (None, -1) and values["self"].ident in sys._current_frames()


def _for_job(_: FrameType, values: dict[str, Any]) -> bool:
    """A pool's thread that has none."""
    return values.get("work_item") is None and bool(values["work_queue"].empty())


def _at_exit(_: FrameType, __: dict[str, Any]) -> bool:
    """The process ends, when its threads have ended."""
    return True


def _codes() -> dict[CodeType, Waits]:
    # `join` does not wait itself before 3.13.
    join: Any = getattr(threading.Thread, "_wait_for_tstate_lock", threading.Thread.join)
    worker: Any = pools._worker
    at_exit: Any = threading._shutdown  # type: ignore[attr-defined]
    return {
        threading.Condition.wait.__code__: _for_notice,
        join.__code__: _for_end,
        worker.__code__: _for_job,
        at_exit.__code__: _at_exit,
    }


_WAITS = _codes()
