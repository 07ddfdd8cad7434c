"""Signals are outside events, and their handlers run as asyncio has it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from sim import World, explore, new_event_loop
from sim.export.sources import NotExportable


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
