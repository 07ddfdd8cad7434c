"""Run by a plain interpreter: runs exported files, and reports the result of each.

`python -I stock_driver.py FOLDER` prints a line of JSON for each file of the folder. Besides the
output of the files it records each callback as it joins the ready queue, by watching asyncio's own
classes: the exported files don't.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from asyncio.base_events import BaseEventLoop
from asyncio.selector_events import BaseSelectorEventLoop
from pathlib import Path
from typing import Any

# Of each callback: when it joined the ready queue, whose it is, and what it is called.
steps: list[tuple[float, object, str]] = []


def note(loop: Any, callback: Any) -> None:
    name = getattr(callback, "__qualname__", type(callback).__qualname__)
    steps.append((loop.time.now, getattr(callback, "__self__", None), name))


def line(step: tuple[float, object, str]) -> str:
    """As the simulator has it. A task gets its name after its first step has joined the queue."""
    at, owner, name = step
    return f"{at:.9f} {owner.get_name() if isinstance(owner, asyncio.Task) else 'loop'} {name}"


def watch() -> None:
    call_soon, add_callback = BaseEventLoop._call_soon, BaseSelectorEventLoop._add_callback  # type: ignore[attr-defined]

    def _call_soon(self: Any, callback: Any, args: Any, context: Any) -> Any:
        note(self, callback)
        return call_soon(self, callback, args, context)

    def _add_callback(self: Any, handle: Any) -> None:
        note(self, handle._callback)
        add_callback(self, handle)

    if sys.version_info >= (3, 14):
        # It has a kind of handle of its own since, and goes past `_call_soon`.
        threadsafe = BaseEventLoop.call_soon_threadsafe

        def call_soon_threadsafe(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
            note(self, callback)
            return threadsafe(self, callback, *args, context=context)

        BaseEventLoop.call_soon_threadsafe = call_soon_threadsafe  # type: ignore[method-assign,assignment]
    BaseEventLoop._call_soon = _call_soon  # type: ignore[attr-defined]
    BaseSelectorEventLoop._add_callback = _add_callback  # type: ignore[attr-defined]


def forced(file: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    counts: list[int] = []
    drain = module._drain
    module._drain = lambda world: (counts.append(len(steps)), drain(world))
    steps.clear()
    try:
        world = module.force(module.SCRIPT, module.SOURCES, module.PROGRAM)
    except module.DoesNotFit as exc:
        return {"misfit": str(exc), "steps": [line(each) for each in steps[: counts[0]]]}
    violation = world.violation
    return {
        "steps": [line(each) for each in steps[: counts[0]]],
        "trace": [[line.at, line.actor, line.text] for line in world.trace],
        "violation": violation and [violation.property, violation.at],
        "labels": sorted(world.labels),
    }


if __name__ == "__main__":
    assert "sim" not in sys.modules
    assert importlib.util.find_spec("sim") is None
    watch()
    for each in sorted(Path(sys.argv[1]).glob("*.py")):
        print(json.dumps([each.stem, forced(each)]), flush=True)
