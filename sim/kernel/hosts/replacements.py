"""What a process is told of itself."""

from __future__ import annotations

import functools
import os
from typing import Any

from sim.kernel.current import execution_of_this_thread

_real_getpid = os.getpid


@functools.wraps(_real_getpid)
def getpid() -> int:
    execution = execution_of_this_thread()
    pid = None if execution is None else execution.loop.pid
    return _real_getpid() if pid is None else pid


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, within executions."""
    return [(os, "getpid", getpid)]
