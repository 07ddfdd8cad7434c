"""A fault of the simulator is an error, and never a violation of the program's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sim import World, explore
from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.bench.subjects.original import StreamRegistry
from sim.kernel.origin import fault_of_simulator
from sim.kernel.threads.locks import SimLock

Program = Callable[[World], Awaitable[object]]


async def leaves_the_program(world: World) -> None:
    with threading.Lock():
        await asyncio.sleep(1)


async def is_in_a_task_that_nobody_awaits(world: World) -> None:
    async def locks() -> None:
        threading.Lock().acquire()

    task = asyncio.create_task(locks())
    await asyncio.wait({task})


async def is_in_a_callback(world: World) -> None:
    asyncio.get_running_loop().call_soon(threading.Lock().acquire)
    await asyncio.sleep(1)


async def is_in_a_thread(world: World) -> None:
    await asyncio.to_thread(lambda: threading.Lock().acquire())


async def is_wrapped(world: World) -> None:
    try:
        threading.Lock().acquire()
    except Exception as exc:
        raise AssertionError("the program's own sentence") from exc


async def is_in_a_group(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leaves_the_program(world))


async def is_below_the_standard_library(world: World) -> None:
    queue.Queue[int]().put(1)


@pytest.fixture
def faulty_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock whose own code has a mistake: what it asks for is not there."""

    def acquire(self: Any, blocking: bool = True, timeout: float = -1) -> bool:
        return bool(self._sim_locked.no_such_thing)

    # As if it stood where the lock's own code stands.
    code = acquire.__code__.replace(co_filename=SimLock.release.__code__.co_filename)
    acquire.__code__ = code
    monkeypatch.setattr(SimLock, "acquire", acquire)
    monkeypatch.setattr(SimLock, "__enter__", acquire)


@pytest.mark.usefixtures("faulty_lock")
@pytest.mark.parametrize(
    "program",
    [
        leaves_the_program,
        is_in_a_task_that_nobody_awaits,
        is_in_a_callback,
        is_in_a_thread,
        is_wrapped,
        is_in_a_group,
        is_below_the_standard_library,
    ],
    ids=lambda program: program.__name__,
)
def test_a_fault_of_a_stand_in_is_an_error(program: Program) -> None:
    """Wherever it comes to light, the verdict is an error that names the place of the fault."""
    report = explore(program, max_executions=5)
    assert report.verdict == "error", report.text
    assert "no_such_thing" in report.reason
    assert "at sim/kernel/threads/locks.py:" in report.reason


@pytest.mark.usefixtures("faulty_lock")
def test_a_registry_is_not_refuted_by_a_fault_of_a_stand_in() -> None:
    """The bench takes an exception of register for a refusal, but not one of the simulator's."""

    class Locks(StreamRegistry):
        async def register(self, entry: Any) -> None:
            with threading.Lock():
                await super().register(entry)

    (scenario,) = [each for each in REGISTRY_SCENARIOS if each.name == "racing_registers"]
    report = explore(scenario.program_for(Locks), max_executions=5)
    assert report.verdict == "error", report.text


async def releases_a_free_lock(world: World) -> None:
    threading.Lock().release()


async def submits_after_shutdown(world: World) -> None:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    pool.submit(print)


async def asks_for_what_no_lock_has(world: World) -> None:
    threading.Lock().no_such_name  # type: ignore[attr-defined]  # noqa: B018


async def gives_a_thread_bad_json(world: World) -> None:
    await asyncio.to_thread(json.loads, "{")


async def gives_a_callback_bad_json(world: World) -> None:
    asyncio.get_running_loop().call_soon(json.loads, "{")
    await asyncio.sleep(1)


async def makes_a_task_of_a_number(world: World) -> None:
    asyncio.get_running_loop().create_task(3)  # type: ignore[arg-type]


async def recurses(world: World) -> None:
    def deeper() -> float:
        return world.now + deeper()

    deeper()


async def settles_a_future_twice(world: World) -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    future.set_result(2)


@pytest.mark.parametrize("strategy", ["depth-first", "reduced"])
@pytest.mark.parametrize(
    "program",
    [
        releases_a_free_lock,
        submits_after_shutdown,
        asks_for_what_no_lock_has,
        gives_a_thread_bad_json,
        gives_a_callback_bad_json,
        makes_a_task_of_a_number,
        recurses,
        settles_a_future_twice,
    ],
    ids=lambda program: program.__name__,
)
def test_what_cpython_would_answer_refutes(program: Program, strategy: str) -> None:
    """An error that a stand-in models, or hands on, is the program's."""
    report = explore(program, strategy=strategy, max_executions=50)
    assert report.verdict == "refuted", report.text


def test_an_exception_that_was_never_raised_is_the_programs() -> None:
    """Without a traceback there is nothing to walk."""
    assert fault_of_simulator(ValueError("made, and not raised")) is None
