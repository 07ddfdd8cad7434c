"""The garbage collector's switches are the execution's own: what they do would outlive it.

It runs between executions, and within one where `Bounds.collections` says so. `gc.enable` in one
would have it close generators at moments of its own from then on, and `gc.freeze` kept all that an
execution had made while the process lived.
What it asks a collector of its own to do (`gc.collect`) is real, and put back as it was afterwards.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.origin import forwards

_threshold, _set_threshold = gc.get_threshold, gc.set_threshold
_debug, _set_debug = gc.get_debug, gc.set_debug
_callbacks, _garbage = gc.callbacks, gc.garbage


class Kept:
    """What the block changes of how the collector works is as before behind it."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _threshold(), _debug(), [*_callbacks], len(_garbage)

    def __exit__(self, *_: object) -> None:
        threshold, debug, callbacks, found = self._before
        _set_threshold(*threshold)
        _set_debug(debug)
        _callbacks[:] = callbacks
        del _garbage[found:]


def _execution() -> Execution | None:
    """Whose switches these are; a loop that stands alone has the process's."""
    execution = execution_of_this_thread()
    return None if execution is None or execution.is_alone else execution


def _switching(real: Callable[[], None], *, collects: bool | None) -> Callable[[], None]:
    @functools.wraps(real)
    @forwards
    def switch() -> None:
        execution = _execution()
        if execution is None:
            real()
        elif collects is not None:
            execution.collects = collects

    return switch


_real_isenabled = gc.isenabled


@functools.wraps(_real_isenabled)
@forwards
def _isenabled() -> bool:
    execution = _execution()
    return _real_isenabled() if execution is None else execution.collects


_REPLACEMENTS = [
    (gc, "enable", _switching(gc.enable, collects=True)),
    (gc, "disable", _switching(gc.disable, collects=False)),
    (gc, "isenabled", _isenabled),
    # Nothing is collected meanwhile, so that nothing is to be kept from it.
    (gc, "freeze", _switching(gc.freeze, collects=None)),
    (gc, "unfreeze", _switching(gc.unfreeze, collects=None)),
]


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of functions within an exploration."""
    return [*_REPLACEMENTS]
