"""The executions under way in this process, each within the one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.entropy import Entropy
    from sim.loop import SimLoop

_serials = count()


@dataclass(eq=False, slots=True)
class Execution:
    """What is asked of the one under way, by whoever stands where its parts are not in reach.

    entropy: its clocks and draws. is_watched: whether a step of it that never ends is broken off.
    """

    loop: SimLoop
    entropy: Entropy
    is_watched: bool = True
    serial: int = field(default_factory=lambda: next(_serials))


executions: list[Execution] = []
"""Innermost last. Empty outside of executions."""


@contextmanager
def under_way(execution: Execution) -> Iterator[None]:
    executions.append(execution)
    try:
        yield
    finally:
        executions.pop()
