"""`concurrent.futures.ThreadPoolExecutor` in an execution: its jobs run in simulated threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sim.threads import SimExecutor, under_way

_TWIN = "_onestream_twin"


def _twin_of(pool: ThreadPoolExecutor) -> SimExecutor | None:
    """The simulated pool that does the jobs of this one in the execution under way, if one is."""
    if not under_way:
        return None
    threads = under_way[-1]
    known: tuple[object, SimExecutor] | None = getattr(pool, _TWIN, None)
    if known is not None and known[0] is threads:
        return known[1]
    if pool._initializer is not None:
        threads.loop.refuse(
            "ThreadPoolExecutor(initializer=…)", "do in the job what the initializer does"
        )
    # As asyncio's: so many threads, and a queue without a bound.
    twin = SimExecutor(threads, threads_max=pool._max_workers, queue_max=sys.maxsize)
    setattr(pool, _TWIN, (threads, twin))
    return twin


@contextmanager
def pools_simulated() -> Iterator[None]:
    """Within the block, pools of an execution start no thread of the system."""
    submit, shutdown = ThreadPoolExecutor.submit, ThreadPoolExecutor.shutdown

    def simulated_submit(
        pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        twin = _twin_of(pool)
        if twin is None:
            return submit(pool, fn, *args, **kwargs)
        if pool._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return twin.submit(fn, *args, **kwargs)

    def simulated_shutdown(
        pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        twin = _twin_of(pool)
        shutdown(pool, wait and twin is None, cancel_futures=cancel_futures)
        if twin is not None:
            twin.shutdown(wait, cancel_futures=cancel_futures)

    ThreadPoolExecutor.submit = simulated_submit  # type: ignore[method-assign,assignment]
    ThreadPoolExecutor.shutdown = simulated_shutdown  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
        ThreadPoolExecutor.shutdown = shutdown  # type: ignore[method-assign]
