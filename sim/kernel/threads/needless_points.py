"""Switch points within a library's own code that show nothing: a thread goes on there.

A thread may be overtaken before it takes a lock. `threading.Condition` takes more than the program
asks for: `wait` asks whether its lock is held, which for a plain Lock is a try to take it, makes a
lock to sleep on and takes that, and takes its own again; `notify` asks as well. In the methods
below no line of the program's runs between such a point and one that stays, so whatever another
actor does at the one it can do at the other, and all ends are the same (movers: Lipton 1975):

- *Before a wait* (`_WAIT`) it does so once the thread sleeps. Up to there that one touches its new
  lock, the list of those who wait, and lets go of the condition's lock, without which nobody
  touches that list.
- *After a wait* it does so before the thread wakes, which has only taken the lock it slept on. Not
  where the wait has a limit: it may be notified between the end of its time and its lock.
- *In what a future tells to who waits for several* (`_TELL`), and where the queue of a thread of
  anyio's notifies, it does so before the thread took the first lock. Since then that one has
  touched what is touched under this lock alone. So `Event.set` is not among them, whose flag is
  read without, nor are queues and semaphores of the program, which may read `unfinished_tasks`,
  `queue` or a semaphore's `repr` without the lock, and put what it likes in place of the deque.
- *Before the result of a future* that is not there yet it does so once the thread sleeps, which is
  woken by whatever would have been found: a future that is over stays so.
- *As several futures are waited for* it does so before the lock of the first of them is taken; and
  around the list of those that are over since, which `as_completed` takes and empties under a lock
  of its own, before it wakes, or before it looks at the next future's list: up to there it has run
  no line of the program's.
- *Before the event of these*, while it is not set, it does so once who waits sleeps: the futures
  set it, and nobody but who waits clears it.
- *As a pool's thread begins its job* it does so before the thread takes that, or at the point at
  which the thread stands where another could take a later one (`pools.py`).
- *In anyio's worker threads* it does so before the thread began, which until it asks its queue
  knows only itself; and once it sleeps for its next job, between whose two ends it tells the queue
  that the last is done, which nobody joins, and of which it alone takes. Until then it holds the
  last job, and what came of it. So this point stays where their end may show, to who has a weak
  reference or by a `__del__`: only what `_ends_in_silence` knows has none.

Of a condition that the program itself holds all but the second kind stay: it may ask whether a lock
is held, `acquire(blocking=False)`, and so see what lies between. That nobody asks this of the lock
within a queue, an event, a semaphore, a barrier or a future, nobody reads a future's `_state`
without that lock before the future is over and its callbacks run (as asyncio does since 3.15), and
nobody has weak references to a function that is a job, is what the reduction rests on. That CPython
does none of it is read in its source by a test.
"""

from __future__ import annotations

import concurrent.futures._base as futures
import decimal
import functools
import gc
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

_Condition: Any = threading.Condition
_Barrier: Any = threading.Barrier


def _codes(*functions: Callable[..., Any]) -> frozenset[CodeType]:
    return frozenset(each.__code__ for each in functions)


def _methods(*classes: type) -> Iterator[Callable[..., Any]]:
    for cls in classes:
        yield from (each for name, each in vars(cls).items() if name[:2] != "__")


_ENTER = _codes(_Condition.__enter__)
_ASK = _codes(_Condition._is_owned)
_SLEEP = _codes(_Condition.wait)
_SLEEPING = _SLEEP | _codes(_Condition.wait_for)
_TELLING = _codes(_Condition.notify, _Condition.notify_all)
_SET = _codes(threading.Event.set)
_RESULT = _codes(futures.Future.result, futures.Future.exception)

_WAIT = _codes(
    *(queue.Queue.get, queue.Queue.put, queue.Queue.join),
    *(threading.Event.wait, threading.Semaphore.acquire, _Barrier._wait, _Barrier._enter),
    *(futures.Future.result, futures.Future.exception),
)
_NOTIFY_OF_QUEUE = _codes(queue.Queue.get, queue.Queue.put, queue.Queue.task_done)
_PUT = _codes(queue.Queue.put, queue.Queue.put_nowait)
_TELL = _codes(
    *_methods(futures._Waiter, futures._AsCompletedWaiter),
    *_methods(futures._FirstCompletedWaiter, futures._AllCompletedWaiter),
)
_ACQUIRE_ALL = _codes(futures._AcquireFutures.__enter__)
_AS_COMPLETED = _codes(futures.as_completed)
_CLEAR = _codes(threading.Event.clear)
_WAIT_FOR_EVENT = _codes(threading.Event.wait)
_WAIT_FOR_FUTURES = _AS_COMPLETED | _codes(futures.wait)
_BEGIN_JOB = _codes(futures.Future.set_running_or_notify_cancel)
_WORK_OF_POOL = "SimExecutor._sim_work"
_GET = _codes(queue.Queue.get)
_DONE = _codes(queue.Queue.task_done)

# What `anyio.to_thread` runs in each thread, as far as is known of it: a version in which it calls
# something else keeps all its switch points.
_WORKER_OF_ANYIO = "WorkerThread.run"
_GIVERS_OF_ANYIO = {"AsyncIOBackend.run_sync_in_worker_thread", "WorkerThread.stop"}
_CALLS_OF_ANYIO = {
    *("claim_worker_thread", "AsyncIOBackend", "loop", "queue", "get", "cancelled", "threadlocals"),
    *("current_cancel_scope", "run", "BaseException", "call_soon_threadsafe", "_report_result"),
    *("RuntimeError", "is_closed", "task_done"),
}


def is_needless(taker: FrameType, where: str | None, *, waits: bool) -> bool:
    """Whether nothing shows at the switch point before a lock is taken.

    taker: the frame that takes it. where: the last switch point of a worker; None for the loop's
    thread. waits: whether it would wait for the lock, and for ever.
    """
    code = taker.f_code
    if code in _ASK:
        return _asks_needlessly(taker.f_back)
    if code in _SLEEP:
        return waits and _caller(taker, _SLEEPING).f_code in _WAIT
    if code in _AS_COMPLETED:
        return True
    if code in _ACQUIRE_ALL:
        return _is_a_later_one(taker)
    frame = _caller(taker, _ENTER)
    if _is_of_futures(frame):
        return True
    if frame.f_code in _RESULT:
        return where is not None and _is_to_sleep(frame)
    if frame.f_code in _TELL or (frame.f_code in _SET and _caller(frame, _SET).f_code in _TELL):
        return True
    return where is not None and _is_between_jobs(frame, where)


def _caller(frame: FrameType, codes: frozenset[CodeType]) -> FrameType:
    """The first frame that runs none of them; there is one, that of a thread or of the program."""
    while frame.f_code in codes and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _asks_needlessly(frame: FrameType | None) -> bool:
    """Whether it is one of these that asks if the condition's lock is held."""
    if frame is None:
        return False
    if frame.f_code in _SLEEPING:
        return _caller(frame, _SLEEPING).f_code in _WAIT
    frame = _caller(frame, _TELLING)
    if frame.f_code in _SET:
        return _caller(frame, _SET).f_code in _TELL
    return frame.f_code in _NOTIFY_OF_QUEUE and _is_queue_of_anyio(frame)


def _is_queue_of_anyio(frame: FrameType) -> bool:
    """Whether the queue whose method runs there is that of a worker of anyio."""
    if frame.f_code in _PUT:
        code = _caller(frame, _PUT).f_code
        return code.co_qualname in _GIVERS_OF_ANYIO and "anyio" in code.co_filename
    return _is_worker_of_anyio(frame.f_back)


def _is_to_sleep(frame: FrameType) -> bool:
    """Whether the future whose result is asked for has none, and will be waited for."""
    names: Any = frame.f_locals
    future, timeout = names["self"], names["timeout"]
    _forget(names)
    return timeout is None and future._state in (futures.PENDING, futures.RUNNING)


def _is_a_later_one(frame: FrameType) -> bool:
    """Of several futures whose locks are taken: whether it is not the first."""
    names: Any = frame.f_locals
    first, now = names["self"].futures[0], names["future"]
    _forget(names)
    return now is not first


def _is_of_futures(frame: FrameType) -> bool:
    """Whether who waits for several does this, or a thread of a pool that begins one."""
    by = frame.f_back
    if by is None:
        return False
    if frame.f_code in _CLEAR:
        return by.f_code in _AS_COMPLETED
    if frame.f_code in _BEGIN_JOB:
        return by.f_code.co_qualname == _WORK_OF_POOL
    if frame.f_code not in _WAIT_FOR_EVENT or by.f_code not in _WAIT_FOR_FUTURES:
        return False
    names: Any = frame.f_locals
    event, timeout = names["self"], names["timeout"]
    _forget(names)
    return timeout is None and not event._flag


def _is_between_jobs(frame: FrameType, where: str) -> bool:
    """Of a worker of anyio: whether it begins, is done with a job, or is to wait for the next."""
    is_done = frame.f_code in _DONE
    if not (is_done or frame.f_code in _GET) or not _is_worker_of_anyio(frame.f_back):
        return False
    if is_done:
        return frame.f_back is not None and _holds_nothing_that_shows(frame.f_back)
    return where == "start" or not _self_of(frame).queue


def _holds_nothing_that_shows(frame: FrameType) -> bool:
    """Of a worker of anyio that has told the loop what came of its job."""
    names: Any = frame.f_locals
    context, func, args, future = (names[each] for each in ("context", "func", "args", "future"))
    ready = names["self"].loop._ready
    _forget(names)
    told = (each._args for each in reversed(ready) if each._args and each._args[0] is future)
    came_of_it = next(told, None)
    if came_of_it is None:
        return False
    return _ends_in_silence([func, args, *context.values(), *came_of_it[1:]])


# A decimal context is a value of each `contextvars.Context` in which it was asked for.
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type, ModuleType, decimal.Context)
_MADE_OF_PARTS = (tuple, list, dict, CellType, MethodType, BuiltinFunctionType, functools.partial)
_PARTS_MAX = 200


def _ends_in_silence(parts: list[Any]) -> bool:
    """Whether nothing of the program's runs, or can be seen, when these are no longer held."""
    seen = set[int]()
    while parts:
        part = parts.pop()
        kind = type(part)
        if id(part) in seen or kind in _SIMPLE or kind.__module__.startswith("sim."):
            continue
        seen.add(id(part))
        if kind is FunctionType:
            parts += (part.__closure__, part.__defaults__, part.__kwdefaults__, part.__dict__)
        elif kind in _MADE_OF_PARTS:
            parts += gc.get_referents(part)
        else:
            return False
        if len(seen) > _PARTS_MAX:
            return False
    return True


def _is_worker_of_anyio(frame: FrameType | None) -> bool:
    if frame is None:
        return False
    code = frame.f_code
    is_its = code.co_qualname == _WORKER_OF_ANYIO and "anyio" in code.co_filename
    return is_its and _CALLS_OF_ANYIO.issuperset(code.co_names)


def _self_of(frame: FrameType) -> Any:
    """Whose method runs there."""
    names: Any = frame.f_locals
    owner = names["self"]
    _forget(names)
    return owner


def _forget(names: Any) -> None:
    """Before 3.13 the frame keeps them in a dict, which must keep nothing alive."""
    if sys.version_info < (3, 13):
        names.clear()
