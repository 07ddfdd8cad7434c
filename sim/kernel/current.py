"""The executions that run in this process, each within the one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.kernel.isolation.entropy import Entropy
    from sim.kernel.loop import SimLoop

_serials = count()


@dataclass(eq=False, slots=True)
class Execution:
    """The parts of a running execution, for code that they are not passed to.

    entropy: its clocks and draws. is_watched: whether a step that never ends is broken off.
    """

    loop: SimLoop
    entropy: Entropy
    is_watched: bool = True
    serial: int = field(default_factory=lambda: next(_serials))


executions: list[Execution] = []
"""Innermost last. Empty outside of executions."""


@contextmanager
def running(execution: Execution) -> Iterator[None]:
    executions.append(execution)
    try:
        yield
    finally:
        executions.pop()
