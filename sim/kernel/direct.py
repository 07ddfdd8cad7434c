"""`asyncio.Task(…)` and `asyncio.Future()`: made by their classes, not by a method of the loop.

aiohttp makes tasks so that start eagerly, from Python 3.12 on. asyncio would number such a task
among those of the process, and hash it by its address, so that no two executions were alike: within
an execution its loop makes it, as it makes the others.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sim.kernel.hashing import SimFuture, SimTask
from sim.kernel.origin import forwards
from sim.kernel.tasks import LoopOfTasks

_REAL: dict[type, type] = {}


class _InPlaceOf(type):
    """Of a class that stands in asyncio's place: whatever is one of asyncio's is one of these.

    What a program derives from it is a class like any other.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        real = _REAL.get(cls)
        return type.__instancecheck__(cls, instance) if real is None else isinstance(instance, real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = _REAL.get(cls)
        return type.__subclasscheck__(cls, subclass) if real is None else issubclass(subclass, real)


class _TasksMadeByLoop(_InPlaceOf):
    @forwards
    def __call__(cls, *args: Any, **options: Any) -> Any:
        if cls not in _REAL:
            return super().__call__(*args, **options)
        loop = _simulated(options.get("loop"))
        if loop is None or len(args) != 1:
            return _REAL[cls](*args, **options)
        options.pop("loop", None)
        return loop.make_task(*args, **options)


class _FuturesMadeByLoop(_InPlaceOf):
    @forwards
    def __call__(cls, *args: Any, **options: Any) -> Any:
        if cls not in _REAL:
            return super().__call__(*args, **options)
        loop = _simulated(options.get("loop"))
        if loop is None or args or options.keys() - {"loop"}:
            return _REAL[cls](*args, **options)
        return loop.create_future()


def _simulated(loop: object) -> LoopOfTasks | None:
    """The loop of an execution for which this one stands; None: the one that runs."""
    loop = asyncio._get_running_loop() if loop is None else loop
    return loop if isinstance(loop, LoopOfTasks) else None


class _DirectTask(SimTask, metaclass=_TasksMadeByLoop):
    pass


class _DirectFuture(SimFuture, metaclass=_FuturesMadeByLoop):
    pass


for _stand_in, _real in ((_DirectTask, asyncio.Task), (_DirectFuture, asyncio.Future)):
    _REAL[_stand_in] = _real
    _stand_in.__name__ = _stand_in.__qualname__ = _real.__name__
    _stand_in.__module__, _stand_in.__doc__ = _real.__module__, _real.__doc__


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of asyncio's classes within an exploration."""
    return [
        (asyncio, "Task", _DirectTask),
        (asyncio.tasks, "Task", _DirectTask),
        (asyncio, "Future", _DirectFuture),
        (asyncio.futures, "Future", _DirectFuture),
    ]
