"""How the application learns that its process is to end, before the server around it acts on it.

uvicorn runs the lifespan's shut-down only after all connections have closed, which an open
stream never does: so the streams have to be stopped at the signal itself. The lifespan's start-up
puts a handler in front of the one that uvicorn has installed, which is then called as well.
"""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn

TERMINATING = (signal.SIGTERM, signal.SIGINT)
# Not on Windows.
HANGING_UP = tuple(number for number in signal.Signals if number.name == "SIGHUP")


@contextmanager
def hearing(signals: Sequence[signal.Signals], on_signal: Callable[[], None]) -> Iterator[None]:
    """While the block runs, `on_signal` is called in the running loop when a signal comes.

    Signals can only be handled in the main thread; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    undo: list[Callable[[], None]] = []
    for number in signals:
        # A process that was started to outlive its terminal (nohup) ignores SIGHUP.
        if signal.getsignal(number) is not signal.SIG_IGN:
            undo.append(_hear(number, loop, on_signal))
    try:
        yield
    finally:
        for step in undo:
            step()


def _hear(
    number: signal.Signals, loop: asyncio.AbstractEventLoop, on_signal: Callable[[], None]
) -> Callable[[], None]:
    previous = signal.getsignal(number)

    def hear(received: int, frame: FrameType | None) -> None:
        # Thousands of streams end at once, and each end makes objects: the collector would go
        # through all that is there again and again, which took as long as the ends themselves. It
        # is not undone: at the end of the process the last round alone took as long once more.
        gc.freeze()
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_signal)
        if callable(previous):
            previous(received, frame)
        elif previous is signal.SIG_DFL and received in HANGING_UP:
            # By default it would end the process at once; SIGTERM ends it with a clean-up.
            signal.raise_signal(signal.SIGTERM)
        else:
            # As if this handler had never been there.
            signal.signal(received, signal.SIG_DFL)
            signal.raise_signal(received)

    def undo() -> None:
        # A handler that was installed later stays.
        if signal.getsignal(number) is hear:
            signal.signal(number, previous)

    signal.signal(number, hear)
    return undo


def uvicorn_around() -> uvicorn.Server | None:
    """The uvicorn server that runs the application, if it is one, found by its signal handler."""
    for number in (signal.SIGTERM, signal.SIGINT):
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, uvicorn.Server):
            return owner
    return None


def listening_host(server: uvicorn.Server) -> str | None:
    """The host on which it will listen; None for a Unix socket or a descriptor."""
    if server.config.uds is not None or server.config.fd is not None:
        return None
    return server.config.host


def bound_exit(server: uvicorn.Server, grace_s: float) -> None:
    """Limits uvicorn's wait for connections, which has no limit by default.

    A client that doesn't read keeps its connection open after the last stream has ended.
    """
    if server.config.timeout_graceful_shutdown is None:
        server.config.timeout_graceful_shutdown = exit_limit_s(grace_s)


def exit_limit_s(grace_s: float) -> int:
    """uvicorn's limit counts whole seconds; it must be over within the grace and one more."""
    return max(math.ceil(grace_s), 1)
