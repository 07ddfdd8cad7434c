"""What an outside event calls acts in its poll's own iteration, as an I/O callback does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sim import World, explore


class Lock:
    """Takes the lock, then lets others run: a cancel in between, and it is never given back."""

    def __init__(self) -> None:
        self.is_taken = False

    async def __aenter__(self) -> None:
        self.is_taken = True
        await asyncio.sleep(0)

    async def __aexit__(self, *exc: object) -> None:
        self.is_taken = False


async def handler(lock: Lock, rest: Callable[[], Awaitable[object]]) -> None:
    async with lock:
        await rest()


async def client_leaves(world: World) -> None:
    """The connection is lost while the handler runs, which its server cancels directly."""
    lock = Lock()
    answer = lambda: world.outside("the answer comes", latest=1)  # noqa: E731
    task = asyncio.create_task(handler(lock, answer), name="handler")
    await world.outside("the client leaves", call=task.cancel, latest=1)
    await asyncio.wait([task])
    world.check(not lock.is_taken, "the lock is free")


async def on_stock_asyncio() -> bool:
    """The same with a pipe that is readable; whether the lock is free afterwards."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    lock = Lock()
    task = asyncio.create_task(handler(lock, lambda: asyncio.sleep(1)))
    loop.add_reader(reading, task.cancel)
    os.write(writing, b"x")
    await asyncio.wait([task])
    loop.remove_reader(reading)
    os.close(reading)
    os.close(writing)
    return not lock.is_taken


@pytest.mark.socket
def test_what_stock_asyncio_loses_is_lost() -> None:
    """A lock that yields once after it is taken: stock loses it each time, and explore finds it."""
    assert asyncio.run(on_stock_asyncio()) is False
    report = explore(client_leaves)
    assert report.verdict == "refuted"


def test_a_coroutine_that_waits_acts_an_iteration_later() -> None:
    """What is called comes before the waiter goes on, and before what it schedules itself."""

    async def program(world: World) -> None:
        said: list[str] = []

        def callback(word: str) -> None:
            said.append(word)
            world.loop.call_soon(said.append, "scheduled")

        await world.outside("it comes", "called", call=callback)
        said.append("goes on")
        world.check(said == ["called", "scheduled", "goes on"], "in this order", f"{said}")

    assert explore(program).verdict == "proved"


def test_an_exception_of_the_callback_is_the_programs() -> None:
    """It refutes as that of any callback does, and the waiter goes on all the same."""

    async def program(world: World) -> None:
        await world.outside("it comes", call=lambda: 1 / 0)

    report = explore(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "no callback raises"


def test_arguments_need_something_to_call() -> None:
    """They would be dropped in silence."""

    async def program(world: World) -> None:
        await world.outside("it comes", 1)

    assert "nothing to call" in explore(program).reason or explore(program).verdict == "refuted"


@pytest.mark.socket
def test_the_exported_file_calls_as_well(tmp_path: Path) -> None:
    """On stock asyncio the callback is the reader's, and the lock is lost there, too."""
    counterexample = explore(client_leaves).counterexample
    assert counterexample is not None
    file = tmp_path / "test_lock.py"
    file.write_text(counterexample.export(client_leaves))
    found = subprocess.run(
        [sys.executable, "-I", file], capture_output=True, text=True, check=False
    )
    assert (found.returncode, "the lock is free" in found.stdout) == (1, True), found.stdout
