"""A loop whose jobs are done by simulated threads, and which these call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from typing import Any

from sim.kernel.origin import forwards, modelled
from sim.kernel.refusing import NO_FOREIGN_THREADS, Refusing
from sim.kernel.threads.pools import SimExecutor, submit_of_loop


class AskedByThreads(Refusing):
    """The part of a loop that has pools, and is called from threads."""

    # BaseEventLoop's own, which the type stubs leave out.
    _default_executor: Executor | None
    _check_default_executor: Callable[[], None]
    _debug: bool
    _write_to_self: Callable[[], None]

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if executor is None:
            # Kept where CPython keeps it, so that its own shutdown_default_executor finds it.
            self._check_default_executor()
            if self._default_executor is None:
                self._default_executor = SimExecutor.of_asyncio(self.threads)
            executor = self._default_executor
        # A pool of the program's own may do its jobs in any thread that it starts here.
        future = submit_of_loop(executor, func, args)
        if self.threads.current is None and self.threads.workers:
            # The job may be over before the caller's next line.
            self.threads.let_others_go_on()
        return asyncio.wrap_future(future, loop=self)

    @property
    def jobs_waiting_for_threads(self) -> str:
        """Those of asyncio's default pool, in words; empty without any."""
        pool = self._default_executor
        return pool.sim_jobs_waiting if isinstance(pool, SimExecutor) else ""

    def set_default_executor(self, executor: Executor) -> None:
        """A ThreadPoolExecutor, as asyncio demands, or one of `World.executor`."""
        if not isinstance(executor, (SimExecutor, ThreadPoolExecutor)):
            raise modelled(TypeError("executor must be ThreadPoolExecutor instance"))
        self._default_executor = executor

    @forwards
    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.threads.current is not None:
            self.threads.pause("call_soon_threadsafe")
        elif asyncio._get_running_loop() is not self:
            self.refuse("call_soon_threadsafe from a foreign thread", NO_FOREIGN_THREADS)
        if self.is_closed():
            raise modelled(RuntimeError("Event loop is closed"))
        return self.call_from_thread(callback, args, context)

    @forwards
    def call_from_thread(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        """What CPython's `call_soon_threadsafe` does, which asks nobody for the thread.

        But for the lock in each handle that it has since 3.14: no two threads touch one at once.
        """
        loop: Any = self
        if self._debug:
            loop._check_callback(callback, "call_soon_threadsafe")
        handle: asyncio.Handle = loop._call_soon(callback, args, context)
        self._write_to_self()
        return handle
