"""A worker ends with its supervisor, however that ends: orphans would serve on, and nobody knows.

A supervisor that is killed can tell its workers nothing. But it holds one end of a pipe that
`multiprocessing` made for each of them, and the system closes that with it, wherever it runs.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

import uvicorn

from server.lines import line
from server.startup import workers_of

_logger = logging.getLogger("onestream.server")

_INTERRUPTS = (signal.SIGINT,)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """A worker that is started meanwhile takes a Ctrl-C once it can end by it: `take_interrupts`.

    A terminal sends it to the workers as well, and one that imports would print a traceback.
    """
    # It would let them through when the first worker starts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        yield
    finally:
        # One that has come meanwhile comes now.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_interrupts(server: uvicorn.Server | None) -> None:
    """In a worker, whose `server` has its handlers."""
    if server is not None and multiprocessing.parent_process() and workers_of(server) > 1:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)


@contextmanager
def ending_with_supervisor(server: uvicorn.Server | None) -> Iterator[None]:
    """While the block runs, the supervisor's end is to this process what SIGTERM is."""
    parent = multiprocessing.parent_process()
    if parent is None or server is None or workers_of(server) == 1:
        yield
        return
    loop = asyncio.get_running_loop()
    is_over = False

    def end() -> None:
        if not is_over:
            _logger.error(line("supervisor_gone", "this worker ends as by SIGTERM", pid=parent.pid))
            signal.raise_signal(signal.SIGTERM)

    def watch() -> None:
        # There is no way to wait for it in every kind of loop; the thread ends with the process.
        wait([parent.sentinel])
        if not loop.is_closed():
            loop.call_soon_threadsafe(end)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()
    try:
        yield
    finally:
        is_over = True
