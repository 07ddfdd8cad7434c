"""Tasks and futures of a loop, with the same hashes and the same names in every run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import Context
from typing import Any
from weakref import ref

from sim.kernel.environment import Environment
from sim.kernel.hashing import SimFuture, SimTask
from sim.kernel.notices import Special
from sim.kernel.origin import forwards

# Since 3.12.
_EAGER = getattr(asyncio, "eager_task_factory", object())
# 3.13 calls it "None" where neither the caller nor its factory has named it.
_IS_NAMED_IN_ANY_CASE = sys.version_info[:2] == (3, 13)


def _is_counted(name: object) -> bool:
    return isinstance(name, str) and name.removeprefix("Task-").isdecimal()


class LoopOfTasks(asyncio.BaseEventLoop):
    """The part of a loop that makes tasks and futures."""

    environment: Environment
    # Weak, as in asyncio: what the program holds no more is freed, and heard of, as on stock.
    _tasks: list[ref[asyncio.Task[Any]]]
    # BaseEventLoop's own, which the type stubs leave out.
    _task_factory: object

    # How many tasks were made without a name. asyncio counts those of the process.
    unnamed_tasks = 0

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    @forwards
    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        is_named = name is not None
        name = name if name is not None else self.next_task_name()
        if self._task_factory is None or self._task_factory is _EAGER:
            if self._task_factory is _EAGER:
                options["eager_start"] = True
            return self.make_task(coro, name=name, context=context, **options)
        before = len(self._tasks)
        task = self._made_by_factory(coro, name, is_named, context, options)
        # What called `asyncio.Task(…)` had it from `make_task`.
        if not any(each() is task for each in self._tasks[before:]):
            self._keep(task)
        return task

    @forwards
    def make_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Without the program's own factory: what `asyncio.Task(…)` does."""
        name = name if name is not None else self.next_task_name()
        task: asyncio.Task[Any]
        if options.get("eager_start"):
            # As asyncio's own, but that it hashes the same in every run.
            self.environment.observer.meets(Special.EAGER_TASKS)
            task = SimTask(coro, loop=self, name=name, context=context, **options)
        else:
            task = self.new_task(coro, name=name, context=context, **options)
        self._keep(task)
        return task

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks of the execution, oldest first; asyncio's own set holds those of all loops."""
        return [task for each in self._tasks if (task := each()) is not None]

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(ref(task))

    def forget_tasks(self) -> None:
        """asyncio as well: its set of all tasks is the process's."""
        for task in self.tasks:
            asyncio._unregister_task(task)
        self._tasks.clear()

    def next_task_name(self) -> str:
        self.unnamed_tasks += 1
        return f"Task-{self.unnamed_tasks}"

    @forwards
    def _made_by_factory(
        self, coro: Any, name: str, is_named: bool, context: Any, options: dict[str, Any]
    ) -> asyncio.Task[Any]:
        """A task of the program's own factory, to which only what the caller gave is passed.

        name: instead of the one that asyncio counts; the factory may give it one of its own.
        """
        if context is not None:
            options["context"] = context
        if is_named or _IS_NAMED_IN_ANY_CASE:
            return super().create_task(coro, name=name, **options)
        task = super().create_task(coro, **options)
        if isinstance(task, asyncio.Task) and _is_counted(task.get_name()):
            task.set_name(name)
        return task

    def set_task_factory(self, factory: Any) -> None:
        self.environment.observer.meets(Special.TASK_FACTORY)
        super().set_task_factory(factory)

    @forwards
    def new_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        return SimTask(coro, loop=self, **options)
