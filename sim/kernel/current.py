"""The executions that run in this process: in each of its threads, one within the other."""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn, Protocol
from weakref import WeakMethod

from sim.kernel.entropy import Entropy
from sim.kernel.environment import Environment
from sim.kernel.schedule import Bounds
from sim.kernel.violation import Kind


class ProcessesByPid(Protocol):
    """The processes of the execution's hosts, if it has any."""

    def kill(self, pid: int, sig: int) -> bool: ...


class RunningLoop(Protocol):
    """What those ask of the loop who find it here.

    `threads` is a Threads, which asks as well, and `network` a Network.
    """

    environment: Environment
    threads: Any
    bounds: Bounds
    refused: str | None
    has_spinning_thread: bool
    bounds_hit: set[str]
    stuck: tuple[Kind, str] | None

    @property
    def network(self) -> Any: ...

    @property
    def has_network(self) -> bool: ...

    def refuse(self, what: str, instead: str) -> NoReturn: ...

    @property
    def pid(self) -> int | None: ...

    @property
    def processes(self) -> ProcessesByPid | None: ...

    def end_execution(self) -> None: ...

    def get_stuck(self, kind: Kind, seen: str) -> None: ...

    def leaves_behind(self, what: str) -> None: ...


class Counter(Protocol):
    """As LineCounter of step_lines.py."""

    is_counting: bool

    def end(self) -> None: ...


@dataclass(eq=False, slots=True)
class Execution:
    """The parts of a running execution, for code that they are not passed to.

    entropy: its clocks and draws. is_watched: whether a step that never ends is broken off.
    is_alone: it is a loop's that stands alone, of a suite's: there what is real may happen, unless
    it waits for the world outside. is_violated: and over, so that its draining decides nothing.
    collects: what `gc.isenabled` says in it; the collector runs between executions alone.
    The rest is the watchdog's. counter: of the lines of its step. broken_off: at which poll, and
    when, it was broken off last. endless: whose step was, by its count; seen: where. spent: what
    ran when the budget was.
    """

    loop: RunningLoop
    entropy: Entropy
    is_watched: bool = True
    is_alone: bool = False
    is_violated: bool = False
    collects: bool = True
    serial: int = field(default_factory=count().__next__)
    # In which thread of the operating system it runs.
    os_thread: int = field(default_factory=_thread.get_ident)
    counter: Counter | None = None
    broken_off: tuple[tuple[int, int], float] | None = None
    endless: str | None = None
    seen: str | None = None
    spent: str | None = None

    def canonical_state(self) -> Sequence[object]:
        """What decides what happens next, but for its loop and its entropy."""
        return (self.collects,)

    def __enter__(self) -> None:
        """In the block it runs in this thread."""
        executions.append(self)

    def __exit__(self, *_: object) -> None:
        # Another thread's may have begun later.
        executions.remove(self)


executions: list[Execution] = []
"""Of every thread of the operating system, innermost last. Empty outside of executions."""

# Bound here: within executions another function stands there.
os_thread = _thread.get_ident


guards_by_thread: dict[int, int] = {}
"""How many blocks of `sim.kernel.guards.guarded` a thread of the system is in, if in any.

What is replaced is replaced for the process; to all other threads it is what it was.
"""


GoesOn = Callable[[], AbstractContextManager[object]]

at_rest: dict[int, WeakMethod[GoesOn]] = {}
"""By thread of the system: of the loop that ran there last, stands still and has threads left.

Within the block these go on, though the loop itself does not.
"""


def loop_at_rest() -> GoesOn | None:
    """That of this thread."""
    goes_on = at_rest.get(os_thread())
    return None if goes_on is None else goes_on()


def execution_of_this_thread() -> Execution | None:
    """The innermost one that runs in this thread of the operating system."""
    if executions:
        this = os_thread()
        for execution in reversed(executions):
            if execution.os_thread == this:
                return execution
    return None


@contextmanager
def none_runs() -> Iterator[None]:
    """Within the block this thread of the system is in no execution: what is real happens."""
    this = os_thread()
    aside = [each for each in executions if each.os_thread == this]
    executions[:] = [each for each in executions if each.os_thread != this]
    try:
        yield
    finally:
        executions.extend(aside)
