"""How an execution is drained: what a program left behind is cancelled, and run to its end. (6)"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sim.kernel import endings, timers_of_no_number
from sim.kernel.between_callbacks import Costs
from sim.kernel.current import Execution
from sim.kernel.diagnosis import who_waits
from sim.kernel.endings import close, keep
from sim.kernel.errors import StepBrokenOff
from sim.kernel.hosts.hub import Hub
from sim.kernel.interrupts import is_interrupt
from sim.kernel.loop import SimLoop
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Named
from sim.kernel.violation import Kind

_ROUNDS_MAX = 10
_RUNS_MAX = 100
# What lands again and again at one instant is no livelock, and no deadline ends a draining.
_POLLS_MAX = 20_000


def drained(execution: Execution, loop: SimLoop, outcome: Outcome, hub: Hub | None) -> None:
    """What of it does not end is broken off, too."""
    if hub is None and loop.has_nothing_left():
        return
    execution.is_watched = True
    execution.broken_off = loop.stuck = None
    execution.is_violated = outcome.violation is not None
    with suppress(StepBrokenOff), loop.resources_unwarned():
        if hub is not None:
            # What ends with its process may also outlive that: nobody waits for it.
            hub.drain(_drain_process)
        _drain(loop, outcome)
        loop.forget_network()
    loop.stuck = None
    execution.is_watched = False
    if outcome.violation is not None and outcome.recording is not None:
        # It decides nothing, and a real clock whether it is broken off: no part of what is the same
        # in each run.
        outcome.recording.forget_draining()
    if execution.broken_off is not None:
        _judge_endless_end(execution, loop, outcome)


def _judge_endless_end(execution: Execution, loop: SimLoop, outcome: Outcome) -> None:
    """What was broken off as it was cancelled; a violation that was found before is kept."""
    for task in loop.tasks:
        if not task.done():
            keep(task)
    if outcome.violation is not None:
        endings.remember(loop.threads.program)
        execution.spent = None
    elif outcome.error is None and execution.spent is None:
        outcome.error = (
            f"{execution.seen or 'a task'}, as it is cancelled at the program's end; let it end "
            f"when it is cancelled"
        )


def _drain_process(loop: SimLoop) -> None:
    _drain(loop, Outcome())
    loop.forget_network()


def _drain(loop: SimLoop, outcome: Outcome) -> None:
    """Cancels the remaining tasks, and runs them to their end in natural order. (6)"""
    loop.choose = _choose_natural
    loop.on_poll = _ends_after(_POLLS_MAX, loop)
    timers_of_no_number.forget(loop)
    loop.threads.drain()
    if outcome.violation is not None and endings.never_ends(loop.threads.program):
        for task in loop.tasks:
            keep(task)
        return
    for _ in range(_ROUNDS_MAX):
        tasks = [task for task in loop.tasks if not task.done()]
        if not tasks:
            break
        _run_until_done(loop, [task for task in tasks if _is_cancelled(task, loop)])
    else:
        is_violated = outcome.violation is not None
        outcome.error = outcome.error or _outlived(loop, tasks, is_violated=is_violated)
    if loop._asyncgens:
        _run_until_done(loop, [loop.create_task(loop.shutdown_asyncgens())])


def _ends_after(polls_max: int, loop: SimLoop) -> Callable[[], None]:
    last = loop.environment.polls + polls_max

    def look() -> None:
        if loop.environment.polls >= last:
            loop.get_stuck(Kind.NO_END, "its draining polls on and on")

    return look


def _outlived(loop: SimLoop, tasks: list[asyncio.Task[Any]], *, is_violated: bool) -> str | None:
    """Why what comes after this execution would not be independent of it.

    Nothing is said where nothing can wake one of them: in debug mode asyncio refuses a thread's
    `set_result` after the future is done, and before it has called what waits for it. Nor where the
    execution is violated: mostly for that very task, and nothing is proved any more.
    """
    is_ended = any(_is_never_woken(task) for task in tasks)
    seen = "; ".join(who_waits(tasks))
    for task in tasks:
        if is_ended:
            close(task, loop)
        else:
            keep(task)
    if is_ended or is_violated:
        return None
    names = ", ".join(sorted(task.get_name() for task in tasks))
    return (
        f"{names} outlived {_ROUNDS_MAX} cancels after the program's end, so what comes "
        f"after would not be independent of it ({seen}); let the task end when it is cancelled: "
        f"`except:` and `except BaseException:` swallow that, `except Exception:` does not"
    )


def _is_never_woken(task: asyncio.Task[Any]) -> bool:
    awaited = task._fut_waiter  # type: ignore[attr-defined]
    return awaited is not None and awaited.done()


def _choose_natural(kind: str, options: Sequence[Named], costs: Costs) -> int:
    return 0


def _is_cancelled(task: asyncio.Task[Any], loop: SimLoop) -> bool:
    """False for tasks that await each other in a circle: those are closed, not cancelled."""
    try:
        task.cancel()
    except RecursionError:
        close(task, loop)
        return False
    return True


def _run_until_done(loop: SimLoop, tasks: list[asyncio.Task[Any]]) -> None:
    left = len(tasks)

    def one_done(task: asyncio.Task[Any]) -> None:
        nonlocal left
        left -= 1
        if not task.cancelled():
            task.exception()
        if left == 0:
            loop.end_run()

    for task in tasks:
        task.add_done_callback(one_done)
    loop.stuck = None
    for _ in range(_RUNS_MAX):
        with _exits_suppressed():
            loop.run_forever()
        # Others stop the loop, too: a check that fails now, or a task of the previous round.
        if left == 0 or loop.stuck is not None:
            break
    for task in tasks:
        task.remove_done_callback(one_done)


@contextmanager
def _exits_suppressed() -> Iterator[None]:
    """What is left behind may end the loop as it is cleaned up, which is no part of the execution.

    The next run of the loop goes on with the others.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as exc:
        if is_interrupt(exc):
            raise
