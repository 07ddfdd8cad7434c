"""CPython's tests of sockets, with the whole test on a simulated network.

Such a test makes its sockets and its threads before and between the runs of its loop. So what a run
replaces is replaced from the first loop of a test to its end: its sockets are simulated, and a
thread that serves it is a simulated one, on blocking simulated sockets.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from sim.kernel.guards import guarded
from sim.runner import StandaloneLoop

MODULES = (
    "test_buffered_proto",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_sslproto",
    "test_streams",
)

# By module, what is left out, and why.
LEFT_OUT = {
    "test_sock_lowlevel": {
        "test_sendto_blocking": "not simulated: ancillary data, of which a mock asks the name",
    },
    "test_streams": {
        "test_read_all_from_pipe_reader": "not simulated: a pipe of the system",
    },
}


LATE_MAX_S = 0.01
"""Their time limits, of seconds, are for a network that answers."""


class OneTest:
    """What one test has, from its first loop to its end."""

    def __init__(self) -> None:
        self._until_its_end = ExitStack()
        self._first: StandaloneLoop | None = None

    def starts(self) -> None:
        self._until_its_end, self._first = ExitStack(), None

    def has_loop(self, loop: StandaloneLoop) -> None:
        if self._first is not None:
            return
        self._first = loop
        loop.network.late_max_s = LATE_MAX_S
        self._until_its_end.enter_context(guarded(beside_others=True))
        self._until_its_end.enter_context(loop._as_current())

    def ends(self) -> None:
        self._until_its_end.close()


def prepare(name: str, new_loop: Callable[[], StandaloneLoop]) -> Any:
    """The module, whose loops are simulated."""
    # They make their loop from it, on whatever selector.
    asyncio.SelectorEventLoop = lambda selector=None: new_loop()  # type: ignore
    return importlib.import_module(f"test.test_asyncio.{name}")


def leave_out(name: str, module: Any) -> None:
    for test in LEFT_OUT.get(name, {}):
        for holder in vars(module).values():
            if isinstance(holder, type) and test in vars(holder):
                delattr(holder, test)
