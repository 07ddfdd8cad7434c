"""Other orders in which sets of tasks and futures may iterate.

On stock Python that order hangs on addresses. Within a search it is one and the same, so that its
executions can be repeated; before it says "proved", some executions in other orders find what
depends on it, as on which task of `asyncio.wait`'s done set comes first (`beside.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds

ORDERS = 16


def are_hashed(natural: Outcome | None) -> bool:
    """Whether that traced execution put tasks or futures into sets or dictionaries of its own."""
    recording = None if natural is None else natural.recording
    return recording is not None and (recording.hashes_tasks or recording.hashes_futures)


def in_other_orders(bounds: Bounds) -> Iterator[Bounds]:
    return (replace(bounds, set_order=order) for order in range(1, ORDERS + 1))
