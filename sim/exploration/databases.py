"""Connections to databases that were made before the executions, and are the same in each.

One of SQLite has what the last execution left in it, waits for others in real time, and its
functions may read a clock: who has given one to `create_function` asks C code, and the collector
does not know of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sim.kernel.isolation.bound_names import modules_behind
from sim.kernel.isolation.where_held import Holding, where_held
from sim.kernel.living import classes_below, objects_of
from sim.kernel.threads.sqlite import is_of_execution


def connections_held(sources: Iterable[object]) -> list[Holding]:
    """Where these objects' modules hold some."""
    library = sys.modules.get("sqlite3")
    if library is None:
        return []
    kinds = classes_below(library.Connection)
    connections = objects_of(each for each in kinds if not is_of_execution(each))
    if not connections:
        return []
    names = {module.__name__ for module in modules_behind(sources)}
    return [each for each in where_held(connections) if each.module in names]
