"""The executions that run in this process, each within the one before."""

from __future__ import annotations

import _thread
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn, Protocol

from sim.kernel.entropy import Entropy
from sim.kernel.environment import Environment
from sim.kernel.violation import Kind

_serials = count()


class RunningLoop(Protocol):
    """What those ask of the loop who find it here. `threads` is a Threads, which asks as well."""

    environment: Environment
    threads: Any
    refused: str | None

    def refuse(self, what: str, instead: str) -> NoReturn: ...

    def stop(self) -> None: ...

    def get_stuck(self, kind: Kind, seen: str) -> None: ...


@dataclass(eq=False, slots=True)
class Execution:
    """The parts of a running execution, for code that they are not passed to.

    entropy: its clocks and draws. is_watched: whether a step that never ends is broken off.
    """

    loop: RunningLoop
    entropy: Entropy
    is_watched: bool = True
    serial: int = field(default_factory=lambda: next(_serials))
    # In which thread of the operating system it runs.
    os_thread: int = field(default_factory=_thread.get_ident)


executions: list[Execution] = []
"""Innermost last. Empty outside of executions."""

_os_thread = _thread.get_ident


def execution_of_this_thread() -> Execution | None:
    """The one that runs in this thread of the operating system."""
    if executions and executions[-1].os_thread == _os_thread():
        return executions[-1]
    return None


@contextmanager
def running(execution: Execution) -> Iterator[None]:
    executions.append(execution)
    try:
        yield
    finally:
        executions.pop()
