"""Signals are outside events, and their handlers run as asyncio has it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore, new_event_loop
from sim.export.sources import NotExportable
from tests.limits import HANGS_S


def test_a_signal_lands_when_the_scheduler_says() -> None:
    """A handler runs before, between and after the steps of a program, under some schedule."""

    async def program(world: World) -> None:
        stop = asyncio.Event()
        world.loop.add_signal_handler(signal.SIGTERM, stop.set)
        world.signal(signal.SIGTERM, latest=2.0)
        steps = 0
        while not stop.is_set() and steps < 3:
            await asyncio.sleep(0.6)
            steps += 1
        world.reached(f"stopped after {steps}")
        await stop.wait()

    labels = [f"stopped after {steps}" for steps in (1, 2, 3)]
    report = explore(program, labels=labels)
    assert report.verdict == "proved", report.text


def test_a_handler_runs_two_steps_after_its_signal() -> None:
    """As in asyncio, where a reader of the loop's pipe puts the handler into the queue."""

    def order(loop: asyncio.AbstractEventLoop, send: Callable[[], object]) -> list[str]:
        seen: list[str] = []

        async def main() -> None:
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "handler")
            send()
            await asyncio.sleep(0)
            for step in range(4):
                seen.append(f"step {step}")
                await asyncio.sleep(0)
            loop.remove_signal_handler(signal.SIGUSR1)

        loop.run_until_complete(main())
        loop.close()
        return seen

    def send() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    # On asyncio's own loop the pipe is found readable at the next poll, after the step that is
    # ready already.
    stock = order(asyncio.SelectorEventLoop(), send)
    assert order(new_event_loop(), send) == stock


Factory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: list[Factory] = [asyncio.SelectorEventLoop, new_event_loop]


async def is_signalled_by_a_thread() -> bool:
    """A worker signals the process, and so the loop of its main thread."""
    handled = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, handled.set)
    await asyncio.to_thread(os.kill, os.getpid(), signal.SIGUSR1)
    async with asyncio.timeout(HANGS_S):
        return await handled.wait()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_thread_signals_the_process_that_it_is_in(new_loop: Factory) -> None:
    """What a worker sends to its own process, the loop's handler gets; explored, too."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(is_signalled_by_a_thread())

    async def program(world: World) -> None:
        world.check(await is_signalled_by_a_thread(), "the handler runs")

    report = explore(program)
    assert report.verdict == "proved", report.text


@pytest.mark.socket  # A real thread.
@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_signal_of_the_system_finds_a_handler(new_loop: Factory) -> None:
    """A signal that the process gets from outside ends it no more than on asyncio's own loop."""
    begins = threading.Event()

    def sends() -> None:
        begins.wait(HANGS_S)
        os.kill(os.getpid(), signal.SIGUSR1)

    async def main() -> bool:
        handled = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, handled.set)
        begins.set()
        return await handled.wait()

    # Begun before the loop, it is a thread of the system.
    sender = threading.Thread(target=sends)
    sender.start()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main())
    sender.join()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


@pytest.mark.parametrize("new_loop", LOOPS)
def test_only_the_main_thread_handles_signals(new_loop: Factory) -> None:
    """A loop in another thread refuses handlers, in asyncio's words."""

    def adds() -> None:
        loop = new_loop()
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        finally:
            loop.close()

    only = pytest.raises(RuntimeError, match="only works in main thread")
    with asyncio.Runner(loop_factory=new_loop) as runner, only:
        runner.run(asyncio.to_thread(adds))


def test_a_signal_that_would_end_the_process_is_refused() -> None:
    """Sent by the program to itself, without a handler, it does not end the exploration."""

    async def program(world: World) -> None:
        await asyncio.to_thread(os.kill, os.getpid(), signal.SIGTERM)

    report = explore(program)
    assert report.verdict == "error", report.text
    assert "SIGTERM to the own process in" in report.reason


def test_a_signal_without_a_handler_is_a_violation() -> None:
    """It would end the process; after remove_signal_handler, too. SIGCHLD would not."""

    async def unhandled(world: World) -> None:
        world.signal(signal.SIGTERM, latest=1.0)
        await asyncio.sleep(2)

    async def removed(world: World) -> None:
        world.loop.add_signal_handler(signal.SIGTERM, print)
        world.signal(signal.SIGTERM, earliest=0.5, latest=1.5)
        await asyncio.sleep(1)
        world.loop.remove_signal_handler(signal.SIGTERM)
        await asyncio.sleep(1)

    async def ignored(world: World) -> None:
        await world.signal(signal.SIGCHLD, latest=1.0)

    for program in (unhandled, removed):
        report = explore(program)
        assert report.verdict == "refuted", report.text
        assert report.counterexample is not None
        assert "SIGTERM would end the process" in report.counterexample.text
    assert explore(ignored).verdict == "proved"


def test_a_signal_can_be_withdrawn() -> None:
    """Cancelling what world.signal returned takes the signal back."""

    async def program(world: World) -> None:
        world.signal(signal.SIGTERM, earliest=0.5, latest=5.0).cancel()
        await asyncio.sleep(10)

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert report.executions == 1


@pytest.mark.parametrize(
    ("sig", "callback", "error"),
    [
        (signal.SIGKILL, print, RuntimeError),
        (9999, print, ValueError),
        ("SIGTERM", print, TypeError),
        (signal.SIGTERM, asyncio.sleep, TypeError),
    ],
    ids=["uncatchable", "no signal", "no number", "a coroutine function"],
)
def test_handlers_that_asyncio_refuses_are_refused(
    sig: int, callback: Callable[..., object], error: type[Exception]
) -> None:
    """The same types of error as asyncio's own loop raises."""
    loops = [new_event_loop(), asyncio.SelectorEventLoop()]
    for loop in loops:
        with pytest.raises(error):
            loop.add_signal_handler(sig, callback)
        loop.close()


def test_what_a_stock_loop_cannot_be_given_is_not_exported() -> None:
    """A counterexample with a signal is refused by `export`, with the reason."""

    async def program(world: World) -> None:
        world.signal(signal.SIGTERM, latest=1.0)
        await asyncio.sleep(2)

    report = explore(program)
    assert report.counterexample is not None, report.text
    with pytest.raises(NotExportable, match=r"world\.signal"):
        report.counterexample.export(program)


async def handles_with_both(send: Callable[[int], object]) -> list[str]:
    """What runs when the signal comes, in order: a handler of Python's, asyncio's, and neither."""
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("python's"))
    try:
        send(signal.SIGUSR1)
        seen.append("after the kill")
        loop.add_signal_handler(signal.SIGUSR1, seen.append, "asyncio's")
        seen.append(type(signal.getsignal(signal.SIGUSR1)).__name__)
        send(signal.SIGUSR1)
        await asyncio.sleep(0.1)
        signal.signal(signal.SIGUSR1, lambda *_: seen.append("python's, later"))
        send(signal.SIGUSR1)
        await asyncio.sleep(0.1)
        seen.append(str(loop.remove_signal_handler(signal.SIGUSR1)))
        seen.append(str(signal.getsignal(signal.SIGUSR1)))
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        send(signal.SIGUSR1)
        await asyncio.sleep(0.1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    return seen


def test_handlers_of_python_and_of_asyncio_run_as_on_stock() -> None:
    """`signal.signal` and `add_signal_handler` replace and accompany each other as on stock."""

    def send(sig: int) -> None:
        os.kill(os.getpid(), sig)

    stock = asyncio.run(handles_with_both(send))

    async def program(world: World) -> None:
        seen = await handles_with_both(send)
        world.check(seen == stock, "as on stock", f"{seen} {stock}")

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_signal_finds_a_handler_of_python() -> None:
    """It runs in the iteration of the poll, and each execution begins without it."""

    async def program(world: World) -> None:
        world.check(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "there is none before")
        ended = asyncio.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        await world.signal(signal.SIGTERM, latest=1.0)
        world.check(ended.is_set(), "it has run")

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_python_may_raise() -> None:
    """What it raises comes out of the program, as of `asyncio.run`."""

    class Leaves(Exception):
        pass

    def leave(*_: object) -> None:
        raise Leaves

    async def program(world: World) -> None:
        signal.signal(signal.SIGTERM, leave)
        await asyncio.to_thread(os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.sleep(1)

    report = explore(program)
    assert report.verdict == "refuted" and "Leaves" in report.text


def of_a_lock(kind: str) -> Any:
    """A handler of `signal.signal` that takes the lock which a step of the program takes, too."""

    async def program(world: World) -> None:
        # Asked for here: within an execution it is simulated.
        lock = getattr(threading, kind)()

        def handle(*_: object) -> None:
            with lock:
                world.reached("handled")

        signal.signal(signal.SIGTERM, handle)
        landed = world.signal(signal.SIGTERM)
        await asyncio.sleep(0)
        with lock:
            pass
        await landed

    return program


def test_a_handler_that_takes_a_lock_which_the_step_holds_is_a_deadlock() -> None:
    """Python runs it between two instructions of the main thread, also of those in the lock."""
    report = explore(of_a_lock("Lock"))
    assert report.verdict == "refuted", report.text
    assert "blocks the loop for ever" in report.text
    assert "SIGTERM lands while a lock is held" in " ".join(report.text.split())


def test_a_handler_that_takes_a_lock_again_that_lets_it_is_proved() -> None:
    """The control: an RLock."""
    report = explore(of_a_lock("RLock"), labels=["handled"])
    assert report.verdict == "proved", report.text
