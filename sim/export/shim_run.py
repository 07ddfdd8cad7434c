"""Runs the program that a test contains on the stock loop, once, and reports the result.

`onestream export` copies this file into each test, below `sim/export/shim.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.abc
import importlib.util
import sys
import time
import traceback
import types
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, NoReturn

from sim.export.shim import (
    CARRIED,
    READING_S,
    Blocked,
    CheckFailed,
    DoesNotFit,
    Script,
    Serial,
    World,
    interrupted_where_blocked,
    stock_loop,
)
from sim.export.shim_intent import InOrder
from sim.export.shim_numbers import dates_replaced, drawing, numbers_replaced


class NotSimulated(RuntimeError):
    """For programs that import it; nothing is simulated here."""


class _Explored(BaseException):
    """A module under test calls explore(): its import ends there, with the program defined."""


def explore(*_: object, **__: object) -> NoReturn:
    raise _Explored


class _Replaced(types.ModuleType):
    """A module of the simulator that this file replaces; other names are taken for types."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return globals().get(name, Any)


class Sources(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports the modules that the file contains, whatever else is installed."""

    def __init__(self, sources: Mapping[str, str], replaced: tuple[str, ...]) -> None:
        self._sources, self._replaced = sources, replaced
        self._names = {*sources, *replaced}
        for name in (*sources, *replaced):
            # A package that is not carried itself is an empty one.
            parts = name.split(".")
            self._names |= {".".join(parts[:count]) for count in range(1, len(parts))}

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name not in self._names:
            return None
        is_package = any(other.startswith(f"{name}.") for other in self._names)
        return importlib.util.spec_from_loader(name, self, is_package=is_package)

    def create_module(self, spec: Any) -> types.ModuleType | None:
        return _Replaced(spec.name) if spec.name in self._replaced else None

    def get_filename(self, fullname: str) -> str:
        return f"{fullname}{CARRIED}"

    def get_source(self, fullname: str) -> str:
        return self._sources.get(fullname, "")

    def exec_module(self, module: types.ModuleType) -> None:
        with contextlib.suppress(_Explored):
            super().exec_module(module)

    def imported(self) -> list[types.ModuleType]:
        return [sys.modules[name] for name in self._sources if name in sys.modules]

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        before = {name: sys.modules.pop(name) for name in self._names if name in sys.modules}
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            for name in self._names:
                sys.modules.pop(name, None)
            sys.modules.update(before)


def force(
    script: Script, sources: Sources, program_name: str, in_order: InOrder | None = None
) -> World:
    """One run of `module:function` under the script, or its events in order. Raises DoesNotFit."""
    if time.get_clock_info("monotonic").resolution > READING_S:
        raise DoesNotFit("the clock of this system is too coarse: asyncio reckons with 1 ns here")
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with sources.installed(), numbers_replaced(), stock_loop(script) as world:
            world.intent = in_order
            module_name, _, path = program_name.partition(":")
            program: Any = importlib.import_module(module_name)
            for name in path.split("."):
                program = getattr(program, name)
            _hash_anyio_scopes()
            dates_replaced(sources.imported())
            with drawing(world.clock, script.entropy_seed):
                _run(program, world)
                _drain(world)
    finally:
        if was_enabled:
            gc.enable()
    if world.misfit is not None:
        raise world.misfit
    return world


def _hash_anyio_scopes() -> None:
    """They stand in sets as tasks do; for programs that import anyio."""
    if "anyio" in sys.modules:
        backend: Any = importlib.import_module("anyio._backends._asyncio")
        if not issubclass(backend.CancelScope, Serial):
            backend.CancelScope = type("StockScope", (Serial, backend.CancelScope), {})


def _run(program: Any, world: World) -> None:
    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context and not isinstance(context.get("exception"), CheckFailed):
            world.fail_as("CALLBACK", f"{context.get('exception')!r}")

    world.loop.set_exception_handler(on_exception)
    task = world.loop.create_task(_main(program, world), name="program")
    task.add_done_callback(lambda _: world.end())
    try:
        with interrupted_where_blocked(world):
            world.loop.run_forever()
    except (DoesNotFit, Blocked):
        # Both are noted.
        pass
    except (SystemExit, KeyboardInterrupt) as exc:
        # The loop lets these end it, from whichever task or callback.
        world.fail_as("EXCEPTION", f"{exc!r} in {_place_of(exc)}")
    if world.misfit is not None:
        return
    if world.stuck is not None:
        tasks = sorted(each.get_name() for each in asyncio.all_tasks(world.loop))
        world.fail_as(world.stuck[0], f"{', '.join(tasks)} wait; {world.stuck[1]}")
    if world.violation is None and task.done():
        _judge_end(task, world)
    elif world.violation is None and not world.is_over:
        world.fail_as("EXCEPTION", "the program stops the loop, and has not ended")


async def _main(program: Any, world: World) -> None:
    await program(world)


def _judge_end(task: asyncio.Task[None], world: World) -> None:
    if task.cancelled():
        world.fail_as("EXCEPTION", "it was cancelled")
    elif isinstance(exc := task.exception(), AssertionError) and exc.args:
        world.fail(str(exc.args[0]).splitlines()[0])
    elif exc is not None:
        world.fail_as("EXCEPTION", f"{exc!r} in {_place_of(exc)}")


def _place_of(exc: BaseException) -> str:
    """Of what raised it; what this file itself does says nothing to a reader."""
    frames = traceback.extract_tb(exc.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__]
    if not theirs and exc.__cause__ is not None:
        return _place_of(exc.__cause__)
    where = (theirs or frames)[-1]
    return f"{where.name} ({where.filename}:{where.lineno})"


def _drain(world: World) -> None:
    """Cancels the remaining tasks, so that they do nothing after the judgement."""
    world.is_judged = True
    for _ in range(10):
        if not (left := asyncio.all_tasks(world.loop)):
            break
        for task in left:
            task.cancel()
        _run_on(world, asyncio.wait(left))
    # A generator without any reference asks the loop for a task that closes it.
    _run_on(world, asyncio.sleep(0))
    _run_on(world, world.loop.shutdown_asyncgens())


def _run_on(world: World, coroutine: Coroutine[Any, Any, object]) -> None:
    world.is_over = False
    # Others stop the loop, too: a check that fails now, or what is cleaned up and exits.
    ended = RuntimeError, SystemExit, KeyboardInterrupt, Blocked
    with contextlib.suppress(*ended), interrupted_where_blocked(world):
        world.loop.run_until_complete(coroutine)


def describe(world: World) -> str:
    """The trace, and what was violated."""
    width = max((len(line.actor) for line in world.trace), default=0)
    lines = [f"{line.at:14.9f}  {line.actor:<{width}}  {line.text}" for line in world.trace]
    if world.violation is None:
        return "\n".join([*lines, "no violation: on this Python every property holds"])
    lines.append(f"VIOLATED: {world.violation.property}")
    return "\n".join(
        [*lines, *([f"  seen: {world.violation.detail}"] * bool(world.violation.detail))]
    )
