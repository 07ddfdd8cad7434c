"""Limits on what somebody else does, or another task: what this loop was late by does not count.

A timer that fires late has waited for our own process as well, which stood still: stopped, on a
closed laptop, or busy. Somebody else may have owed nothing meanwhile, as a connection that was made
had not been asked anything; and a task of our own that cleans up has had no turn. So a late timer
is given once more what it was late by, as far as its limit. One that is late again belongs to a
loop that is always late. What it waits for may have come and not been looked at: sockets are asked
for data only between two iterations, and a task goes on only in the next. So it lets the loop turn
a few times before it judges.

No such limit are those that hold for others by their clocks: a lease, and how long a session of
workers cleans up, which the store counts.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

# A loop that has nothing else to do is late by less.
LATE_S = 0.1
# Iterations until what has come is seen, and some more: of a connect the socket, its transport, and
# the task that waits for both. A loop that is always late judges as well, since it turns.
TURNS = 8


class PatientTimer:
    """Calls `on_over` when somebody else has used up a limit; a cancel takes it back.

    at: when that is by the loop's clock, where it is known; else the limit begins now.
    """

    def __init__(
        self,
        limit_s: float,
        on_over: Callable[..., object],
        *arguments: Any,
        at: float | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._at = self._loop.time() + limit_s if at is None else at
        self._was_given_more = False
        self._on_over = on_over
        self._arguments = arguments
        self._turns_left = TURNS
        self._handle: asyncio.Handle = self._loop.call_at(self._at, self._look)

    @property
    def left_s(self) -> float:
        return self._at - self._loop.time()

    # As asyncio.TimerHandle has them.

    def when(self) -> float:
        return self._at

    def cancelled(self) -> bool:
        return self._handle.cancelled()

    def cancel(self) -> None:
        self._handle.cancel()

    def _look(self) -> None:
        late_s = self._loop.time() - self._at
        if late_s > LATE_S and not self._was_given_more:
            self._was_given_more = True
            self._at = self._loop.time() + min(late_s, self._limit_s)
            self._handle = self._loop.call_at(self._at, self._look)
        elif late_s > LATE_S and self._turns_left:
            self._turns_left -= 1
            self._handle = self._loop.call_soon(self._look)
        else:
            self._on_over(*self._arguments)


class PatientTimeout:
    """As `asyncio.timeout`, of a wait for somebody else; `async with` it, once."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._timer: PatientTimer | None = None
        # From `end` on.
        self._ending: asyncio.Handle | None = None
        self._has_cancelled = False

    @property
    def left_s(self) -> float | None:
        """None where there is no limit."""
        return None if self._timer is None else self._timer.left_s

    def end(self) -> None:
        """The limit is over now, if it was not before."""
        if self._ending is None:
            # Not at once: what is waited for may have come, and the task be about to go on.
            self._ending = asyncio.get_running_loop().call_soon(self._cancel)

    def shorten(self, limit_s: float) -> None:
        """From now on, unless less is left."""
        if self._timer is not None:
            left_s = self._timer.left_s
            self._timer.cancel()
            self._timer = PatientTimer(min(limit_s, left_s), self.end)

    def _cancel(self) -> None:
        self._has_cancelled = True
        self._task.cancel()

    async def __aenter__(self) -> PatientTimeout:
        task = asyncio.current_task()
        assert task is not None, "a limit needs a task that it can cancel"
        self._task = task
        self._cancels_before = task.cancelling()
        if self._limit_s is not None:
            self._timer = PatientTimer(self._limit_s, self.end)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in (self._timer, self._ending):
            if handle is not None:
                handle.cancel()
        if not self._has_cancelled:
            return
        is_from_elsewhere = self._task.uncancel() > self._cancels_before
        if not is_from_elsewhere and kind is asyncio.CancelledError:
            raise TimeoutError from error


async def within(limit: Callable[[], AbstractAsyncContextManager[object]], work: Awaitable[T]) -> T:
    """Awaits the work within a limit, which is made only where something is waited for.

    Nearly every send, and every read of a request that came whole, is over in its first step: a
    timer that is made and cancelled takes longer than they do.
    """
    steps = work.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as over:
        result: T = over.value
        return result
    async with limit():
        return await _to_the_end(steps, waits_for)


@types.coroutine
def _to_the_end(steps: Generator[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """The rest of what was begun, and waits now; what is thrown in, a cancel, reaches it."""
    while True:
        try:
            try:
                yield waits_for
            except BaseException as thrown:
                waits_for = steps.throw(thrown)
            else:
                waits_for = next(steps)
        except StopIteration as over:
            result: T = over.value
            return result


async def over_within(task: asyncio.Task[Any], limit_s: float | None) -> bool:
    """Whether the task is over, once it is or has used up the limit. A cancel is not passed on."""
    if task.done():
        return True
    waiter = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = None if limit_s is None else PatientTimer(limit_s, wake)
    task.add_done_callback(wake)
    try:
        await waiter
    finally:
        task.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()
    return task.done()


def late_by(due: float) -> float:
    """By how many seconds a wait until `due` has ended too late; 0.0 for few."""
    late_s = asyncio.get_running_loop().time() - due
    return late_s if late_s > LATE_S else 0.0


async def caught_up() -> None:
    """Returns once what has come while the process stood still is seen."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
