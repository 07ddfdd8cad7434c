"""A fault of the simulator is an error, and never a violation of the program's."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import datetime
import json
import os
import queue
import random
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from sim import World, explore
from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.bench.subjects.original import StreamRegistry
from sim.kernel.origin import fault_of_simulator, is_programs, is_simulators
from sim.kernel.threads.locks import SimLock
from sim.kernel.world import TraceLine

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


def started() -> threading.Thread:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    return thread


def settled() -> asyncio.Future[int]:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(1)
    return future


def shut() -> concurrent.futures.ThreadPoolExecutor:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    return pool


def closed() -> socket.socket:
    one = socket.socket()
    one.close()
    return one


# What is made, of it the function that is called, and with what; all of them raise.
RAISING: dict[str, Callable[[], tuple[Callable[..., object], *tuple[Any, ...]]]] = {
    "a future twice": lambda: (settled().set_result, 2),
    "a free lock": lambda: (threading.Lock().release,),
    "a free lock of asyncio": lambda: (asyncio.Lock().release,),
    "a full semaphore": lambda: (threading.BoundedSemaphore(1).release,),
    "a condition not held": lambda: (threading.Condition().notify,),
    "an empty queue": lambda: (queue.SimpleQueue().get_nowait,),
    "a thread twice": lambda: (started().start,),
    "a pool that was shut": lambda: (shut().submit, print),
    "a sleep backwards": lambda: (time.sleep, -1),
    "a closed socket": lambda: (closed().send, b"x"),
    "an address of no kind": lambda: (socket.socket().bind, "x"),
    "a choice of nothing": lambda: (random.choice, []),
    "fewer bytes than none": lambda: (os.urandom, -1),
    "bytes of no number": lambda: (os.urandom, "x"),
    "a zone of no kind": lambda: (datetime.datetime.now, 5),
    "a form of no kind": lambda: (time.strftime, 5),
    "a file that is not there": lambda: (open, "/no/such/file"),
}


def as_a_callback(call: str) -> Program:
    async def program(world: World) -> None:
        asyncio.get_running_loop().call_soon(*RAISING[call]())
        await asyncio.sleep(1)

    return program


def in_a_thread(call: str) -> Program:
    async def program(world: World) -> None:
        await asyncio.to_thread(*RAISING[call]())

    return program


def as_a_callback_of_a_process(call: str) -> Program:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(*RAISING[call]())
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        await world.host("a").run(main).ended()

    return program


@pytest.mark.parametrize("where", [as_a_callback, in_a_thread, as_a_callback_of_a_process])
@pytest.mark.parametrize("call", RAISING)
def test_a_call_with_no_frame_of_the_programs_is_its_own(
    call: str, where: Callable[[str], Program]
) -> None:
    """The loop, or a thread, calls what the program handed over: what it raises is no error."""
    report = explore(where(call), strategy="depth-first", max_executions=50)
    assert report.verdict == "refuted", report.text


def test_a_callback_that_raises_is_told_by_the_programs_name_for_it() -> None:
    """Also where a stand-in looks first who calls."""
    report = explore(as_a_callback_of_a_process("a future twice"))
    assert "Future.set_result raises" in report.text


def test_an_exception_that_was_never_raised_is_the_programs() -> None:
    """Without a traceback there is nothing to walk."""
    assert fault_of_simulator(ValueError("made, and not raised")) is None


def _frames_of(make: Callable[[str], object]) -> list[FrameType]:
    """Those of the code without a file that runs as something is made of a text."""
    seen: list[FrameType] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_filename == "<string>":
            seen.append(frame)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        make("held")
    finally:
        sys.setprofile(before)
    return seen


@dataclasses.dataclass
class OfAProgram:
    held: object


Pair = collections.namedtuple("Pair", "held")


def test_what_is_made_for_a_class_is_its_modules() -> None:
    """`__init__` of a dataclass has no file: the simulator's is not broken off as a program's."""
    (ours, *_), (theirs, *_) = (
        _frames_of(lambda held: TraceLine(0.0, "loop", held, False)),
        _frames_of(OfAProgram),
    )
    assert is_simulators(ours) and not is_programs(ours)
    assert is_programs(theirs) and not is_simulators(theirs)
    (of_nobody, *_) = _frames_of(Pair)
    assert not is_programs(of_nobody) and not is_simulators(of_nobody)
